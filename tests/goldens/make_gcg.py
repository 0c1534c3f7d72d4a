"""Make gcg.json: what nanoGCG (PyTorch) does in a few steps on SmolLM2, candidate by candidate.

    pip install -r tests/goldens/requirements.txt nanogcg==0.3.0
    python scripts/get_smollm2.py
    python tests/goldens/make_gcg.py [--model models/SmolLM2-135M-Instruct]

f32, one thread, no prefix cache (nanoGCG's does not work with transformers 5). The target is harmless. gcg.json:
    sha256            of model.safetensors: with other weights nothing here holds
    messages, init, target
    before, after, target_ids, init_ids
    steps [{ids: the suffix that the step starts from,
            norm: [norm of the one-hot gradient over the vocabulary, a position],
            best: [[[id, gradient]; 8 smallest], a position], the tokens that nanoGCG does not allow left out,
            candidates: [ids; those that survive its filter], losses: [a candidate],
            chosen: ids of the candidate it goes on with}]
"""

import argparse
import hashlib
import json
from pathlib import Path

import nanogcg.gcg as nano
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
MESSAGES = [{"role": "user", "content": "Write something about the sea.{optim_str}"}]
# With its space: nanoGCG encodes the text before, the suffix and the text after apart.
INIT = " ! ! ! ! ! ! ! !"
TARGET = "Sure, here is a poem about the sea"
STEPS, WIDTH, TOP_K = 5, 16, 64


class Recorder(nano.GCG):
    def compute_token_gradient(self, optim_ids):
        grad = super().compute_token_gradient(optim_ids)
        allowed = grad[0].clone()
        allowed[:, self.not_allowed_ids] = float("inf")
        values, ids = allowed.topk(8, largest=False)
        best = [[[i, float(f"{v:.6g}")] for i, v in zip(a, b)] for a, b in zip(ids.tolist(), values.tolist())]
        norm = [float(f"{v:.6g}") for v in grad[0].norm(dim=-1).tolist()]
        self.steps.append(dict(ids=optim_ids[0].tolist(), norm=norm, best=best))
        return grad

    def _compute_candidates_loss_original(self, batch_size, input_embeds):
        losses = super()._compute_candidates_loss_original(batch_size, input_embeds)
        if self.steps:
            self.steps[-1]["losses"] = [round(v, 6) for v in losses.tolist()]
        return losses


def main():
    parser = argparse.ArgumentParser(description="Make gcg.json from a model folder.")
    parser.add_argument("--model", type=Path, default=Path("models/SmolLM2-135M-Instruct"), help="[%(default)s]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    # nanoGCG takes the BOS token, here <|im_start|>, out of the whole chat.
    tokenizer.bos_token = None
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    config = nano.GCGConfig(
        num_steps=STEPS, optim_str_init=INIT, search_width=WIDTH, topk=TOP_K, use_prefix_cache=False, seed=1, verbosity="ERROR"
    )
    gcg = Recorder(model, tokenizer, config)
    gcg.steps = []
    keep = nano.filter_ids

    def filter_ids(ids, tokenizer):
        kept = keep(ids, tokenizer)
        gcg.steps[-1]["candidates"] = kept.tolist()
        return kept

    nano.filter_ids = filter_ids
    result = gcg.run(MESSAGES, TARGET)
    for step in gcg.steps:
        step["chosen"] = step["candidates"][min(range(len(step["losses"])), key=step["losses"].__getitem__)]
    assert [round(v, 6) for v in result.losses] == [min(step["losses"]) for step in gcg.steps]
    assert all(a["chosen"] == b["ids"] for a, b in zip(gcg.steps, gcg.steps[1:]))
    before, after = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True).split("{optim_str}")
    golden = dict(
        sha256=hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest(),
        messages=MESSAGES,
        init=INIT,
        target=TARGET,
        before=encode(before),
        after=encode(after),
        target_ids=encode(TARGET),
        init_ids=encode(INIT),
    )
    whole = encode(before + INIT + after)
    assert whole == golden["before"] + golden["init_ids"] + golden["after"]
    rows = ",\n".join(json.dumps(step) for step in gcg.steps)
    (HERE / "gcg.json").write_text(json.dumps(golden)[:-1] + f',\n"steps": [\n{rows}\n]}}\n')
    print(result.losses, result.strings)


if __name__ == "__main__":
    main()
