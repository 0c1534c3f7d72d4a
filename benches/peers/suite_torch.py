"""E1, E2 and E3 on a pair of models, ours and PyTorch's, one after the other on the same prompts.

    python benches/peers/suite_torch.py --aligned DIR --base DIR --data pairs.jsonl --safedepth target/release/safedepth

PyTorch's side does what the reference implementation does: for each model, prefix and depth a batch of left-padded prompts
through transformers' `generate` (greedy, KV cache, SDPA), every setting from its prompt anew, and KL from both models' full
logits. Rows that have ended are taken out of its batch as soon as all of its batch has; it is given the largest batch that
helps it. Ours is `safedepth suite --experiments e1,e2,e3`, greedy too. Both stop a row at its end token.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DEPTHS = [0, 5, 10, 20, 40]


def left_padded(rows, pad):
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.inference_mode()
def generate(model, tokenizer, rows, new_tokens, batch_size):
    """Greedy continuations; returns the tokens written, end tokens included."""
    written = 0
    for start in range(0, len(rows), batch_size):
        ids, mask = left_padded(rows[start : start + batch_size], tokenizer.pad_token_id)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        for row in output[:, ids.shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            written += end
    return written


@torch.inference_mode()
def token_kl(aligned, base, prompts, answers):
    for prompt, answer in zip(prompts, answers):
        ids = torch.tensor([prompt + answer])
        p, q = (model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1) for model in (aligned, base))
        (p.exp() * (p - q)).sum(-1)


def peer(args, pairs, prefixes):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    tokenizer = AutoTokenizer.from_pretrained(args.aligned)
    tokenizer.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    aligned, base = (AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval() for path in (args.aligned, args.base))
    chat = lambda prompt: tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    prompts = [chat(pair["prompt"]) for pair in pairs]
    answers = [tokenizer(pair["response"], add_special_tokens=False)["input_ids"] for pair in pairs]
    written = 0
    start = time.perf_counter()
    for model in (base, aligned):
        for prefix in [""] + prefixes:
            head = tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
            written += generate(model, tokenizer, [prompt + head for prompt in prompts], args.max_new_tokens, args.batch_size)
        for k in DEPTHS:
            rows = [p + a[:k] for p, a in zip(prompts, answers) if len(a) >= k * 3 // 2]
            written += generate(model, tokenizer, rows, args.max_new_tokens, args.batch_size)
    token_kl(aligned, base, prompts, answers)
    return time.perf_counter() - start, written


def ours(args, data):
    with tempfile.TemporaryDirectory() as folder:
        command = [args.safedepth, "suite", "--aligned", args.aligned, "--base", args.base, "--data", data]
        command += ["--temperature", "0", "--max-new-tokens", args.max_new_tokens, "--dtype", args.dtype]
        command += ["--threads", args.threads, "--output", folder, "--shown", 0, "--quiet"]
        start = time.perf_counter()
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        rows = csv.DictReader(open(Path(folder) / "results.csv"))
        return seconds, int(sum(float(row["value"]) for row in rows if row["metric"] == "new_tokens"))


def main():
    parser = argparse.ArgumentParser(description="E1-E3 side by side with PyTorch.")
    parser.add_argument("--aligned", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", type=Path, required=True, help='JSONL of {"prompt", "response"}')
    parser.add_argument("--safedepth", default="target/release/safedepth", help="[%(default)s]")
    parser.add_argument("--prompts", type=int, default=100, help="[%(default)s]")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="[%(default)s]")
    parser.add_argument("--batch-size", type=int, default=32, help="of PyTorch's generate [%(default)s]")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="[%(default)s]")
    parser.add_argument("--threads", type=int, default=2, help="[%(default)s]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pairs = [json.loads(line) for line in args.data.read_text().splitlines()][: args.prompts]
    prefixes = [line.strip() for line in (Path(__file__).parents[2] / "data/refusal_prefixes.txt").read_text().splitlines()]
    prefixes = [line for line in prefixes if line and not line.startswith("#")]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as data:
        data.write("".join(json.dumps(pair) + "\n" for pair in pairs))
        data.flush()
        mine, mine_tokens = ours(args, data.name)
    print(f"safedepth: {mine:.1f} s, {mine_tokens} new tokens", file=sys.stderr)
    theirs, their_tokens = peer(args, pairs, prefixes)
    print("impl,dtype,threads,prompts,max_new_tokens,seconds,new_tokens,ratio")
    print(f"safedepth,{args.dtype},{args.threads},{len(pairs)},{args.max_new_tokens},{mine:.1f},{mine_tokens},{theirs / mine:.2f}")
    print(f"torch-{torch.__version__},{args.dtype},{args.threads},{len(pairs)},{args.max_new_tokens},{theirs:.1f},{their_tokens},1.00")


if __name__ == "__main__":
    main()
