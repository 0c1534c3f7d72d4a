"""Make smollm2.json: what transformers does with the folder that scripts/get_smollm2.py makes.

    pip install -r tests/goldens/requirements.txt
    python scripts/get_smollm2.py
    python tests/goldens/make_smollm2_goldens.py [--model models/SmolLM2-135M-Instruct]

The weights are bf16, the arithmetic f32 (eager attention). smollm2.json:
    sha256     of model.safetensors: with other weights nothing here holds
    prompts    [{messages, rendered, ids: by the chat template with the generation prompt,
                 greedy: ids of the greedy continuation, 32 at most, its EOS included,
                 text: that decoded without special tokens,
                 logprobs: log-probability of each greedy token,
                 gaps: logit of each greedy token less the next best (a small one may flip with rounding),
                 top: [[id, logit]; 5] after the prompt}]
    tokenizer  [{text, ids}] encoded without chat template
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
NEW = 32

PROMPTS = [
    [("user", "What is the capital of France?")],
    [("user", "Write one sentence about the sea.")],
    [("user", "List three fruits.")],
    [("system", "You answer in rhyme."), ("user", "Tell me about the moon.")],
    [("user", "What is 12 + 30?"), ("assistant", "12 + 30 = 42."), ("user", "And if you add 8 to that?")],
    [("user", "Translate to French: Good morning, my friend.")],
    [("system", ""), ("user", "  Who wrote Romeo and Juliet?\n")],
    [("user", "Explain in simple words why the sky is blue. 你好 naïve 👋🏽 1234567")],
]

TEXTS = [
    "Hello world",
    " Hello  world\n\n",
    "In 1887 there were 12345 apples, 3.14 pies, ½ cup and x²",
    "I can't help with that, I'm sorry.",
    "def f(x):\n    return x ** 2  # power\n",
    "naïve café 你好，世界 👋🏽 Привет",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
]


def main():
    parser = argparse.ArgumentParser(description="Make smollm2.json from a model folder.")
    parser.add_argument("--model", type=Path, default=Path("models/SmolLM2-135M-Instruct"), help="[%(default)s]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    raw = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    prompts = []
    for turns in PROMPTS:
        messages = [dict(role=role, content=content) for role, content in turns]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == raw.encode(rendered, add_special_tokens=False).ids
        with torch.no_grad():
            x = torch.tensor([ids])
            out = model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=NEW, do_sample=False)[0]
            # The whole sequence at once must say the same as the KV cache did.
            logits = model(input_ids=out[None], use_cache=False).logits[0]
        greedy = out[len(ids) :].tolist()
        steps = logits[len(ids) - 1 : -1]
        assert steps.argmax(-1).tolist() == greedy
        best = steps.topk(2).values
        first = logits[len(ids) - 1].topk(5)
        prompts.append(
            dict(
                messages=messages,
                rendered=rendered,
                ids=ids,
                greedy=greedy,
                text=tokenizer.decode(greedy, skip_special_tokens=True),
                logprobs=[round(v, 5) for v in best[:, 0].sub(steps.logsumexp(-1)).tolist()],
                gaps=[round(v, 5) for v in (best[:, 0] - best[:, 1]).tolist()],
                top=[[i, round(v, 5)] for i, v in zip(first.indices.tolist(), first.values.tolist())],
            )
        )
        print(
            f"{len(ids)} tokens, {len(greedy)} new, smallest gap {min(prompts[-1]['gaps']):.4f}: {prompts[-1]['text']!r}"
        )
    texts = [dict(text=text, ids=raw.encode(text).ids) for text in TEXTS]
    digest = hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest()

    def rows(values):
        return "[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in values) + "\n]"

    text = f'{{"sha256": "{digest}",\n"prompts": {rows(prompts)},\n"tokenizer": {rows(texts)}}}\n'
    assert json.loads(text) == dict(sha256=digest, prompts=prompts, tokenizer=texts)
    (HERE / "smollm2.json").write_text(text)


if __name__ == "__main__":
    main()
