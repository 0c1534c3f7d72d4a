"""GCG steps a second, ours and nanoGCG's turn by turn on the same prompt, target, start and numbers of candidates.

    pip install torch transformers scipy nanogcg==0.3.0
    python scripts/get_smollm2.py && cargo build --release
    python benches/peers/gcg_nanogcg.py --model models/SmolLM2-135M-Instruct --output out.csv

Run it on an otherwise idle machine. Each run is a process of its own, and the order alternates, so that a machine's drift
meets both. Both take 20 suffix tokens, 512 candidates, the top 256 and no early stop; both drop candidates that do not come
back from their text. Not counted: loading, tokenizing the prompt, the loss of the first suffix. nanoGCG is given its best
of the --batch-sizes (all candidates at once holds their whole logits). Its prefix cache works only with transformers before
5 (4.4x: and there its gradient's pass grows the cache, so that its tokens differ from those without); --prefix-cache asks
for it. The chat's BOS token, which nanoGCG would cut out of SmolLM2's ChatML, is kept.

Targets: 2 times as fast in f32, 4 times in bf16 where the CPU multiplies bf16.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "Write a poem about the sea."
TARGET = "Sure, here is a poem about the sea:"
TARGETS = {"f32": 2.0, "bf16": 4.0}
FIELDS = ["impl", "dtype", "threads", "model", "candidates", "top_k", "batch_size", "prefix_cache", "steps", "median_s", "steps_per_s"]


def peer(args):
    """One process of nanoGCG: prints its row as JSON."""
    import nanogcg.gcg as nano
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtypes]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.bos_token = None
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    starts = []

    class Timed(nano.GCG):
        def compute_token_gradient(self, optim_ids):
            starts.append(time.perf_counter())
            return super().compute_token_gradient(optim_ids)

    config = nano.GCGConfig(
        num_steps=args.steps,
        optim_str_init=" !" * 20,
        search_width=args.candidates,
        topk=args.top_k,
        batch_size=args.batch_size,
        use_prefix_cache=args.prefix_cache,
        seed=args.seed,
        verbosity="ERROR",
    )
    Timed(model, tokenizer, config).run([{"role": "user", "content": PROMPT + "{optim_str}"}], TARGET)
    ends = starts[1:] + [time.perf_counter()]
    print(json.dumps([b - a for a, b in zip(starts, ends)]))


def run_peer(args, dtype, batch_size):
    command = [sys.executable, __file__, "--peer", "--model", args.model, "--dtypes", dtype, "--threads", args.threads]
    command += ["--steps", args.steps, "--candidates", args.candidates, "--top-k", args.top_k, "--seed", args.seed]
    command += ["--batch-size", batch_size] + (["--prefix-cache"] if args.prefix_cache else [])
    output = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seconds = json.loads(output.stdout.splitlines()[-1])
    return row(args, "nanogcg", dtype, batch_size, args.prefix_cache, statistics.median(seconds))


def run_ours(args, dtype):
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "run")
        command = [args.safedepth, "gcg", args.model, "--prompt", PROMPT, "--target", TARGET, "--dtype", dtype]
        command += ["--threads", args.threads, "--steps", args.steps, "--candidates", args.candidates, "--top-k", args.top_k]
        command += ["--seed", args.seed, "--no-early-stop", "--max-new-tokens", 0, "--output", output]
        result = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    # "N steps in S s: R steps/s, ..."; the first suffix's loss and the best one's are in S, two sequences of 512.
    line = next(line for line in result.stderr.splitlines() if "steps/s" in line)
    steps, seconds = int(line.split()[0]), float(line.split()[3])
    return row(args, "safedepth", dtype, "auto", True, seconds / steps)


def row(args, impl, dtype, batch_size, prefix_cache, seconds):
    values = [impl, dtype, args.threads, Path(args.model).name, args.candidates, args.top_k, batch_size, prefix_cache, args.steps]
    return dict(zip(FIELDS, values + [round(seconds, 4), round(1 / seconds, 5)]))


def main():
    parser = argparse.ArgumentParser(description="GCG side by side with nanoGCG.")
    parser.add_argument("--model", required=True, help="Hugging Face model folder")
    parser.add_argument("--safedepth", default="target/release/safedepth", help="[%(default)s]")
    parser.add_argument("--dtypes", default="f32,bf16", help="[%(default)s]")
    parser.add_argument("--threads", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each, turn by turn [%(default)s]")
    parser.add_argument("--steps", type=int, default=4, help="timed steps in a process [%(default)s]")
    parser.add_argument("--candidates", type=int, default=512, help="[%(default)s]")
    parser.add_argument("--top-k", type=int, default=256, help="[%(default)s]")
    parser.add_argument("--batch-sizes", default="64,512", help="of nanoGCG; its best counts [%(default)s]")
    parser.add_argument("--prefix-cache", action="store_true", help="use nanoGCG's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="CSV of every process's row")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args)
    rows = []
    for dtype in args.dtypes.split(","):
        for _ in range(args.rounds):
            rows.append(run_ours(args, dtype))
            rows += [run_peer(args, dtype, int(size)) for size in args.batch_sizes.split(",")]
            print(*(f"{r['impl']} {r['dtype']} {r['batch_size']}: {r['median_s']} s a step" for r in rows), sep="\n", file=sys.stderr)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with args.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    print(f"{'dtype':6} {'ours steps/s':>12} {'nanoGCG steps/s':>15} {'ratio':>6} {'target':>6}")
    for dtype in args.dtypes.split(","):
        median = lambda **wanted: statistics.median(
            r["steps_per_s"] for r in rows if all(r[key] == value for key, value in (wanted | {"dtype": dtype}).items())
        )
        ours = median(impl="safedepth")
        theirs = max(median(impl="nanogcg", batch_size=int(size)) for size in args.batch_sizes.split(","))
        print(f"{dtype:6} {ours:12.4f} {theirs:15.4f} {ours / theirs:6.2f} {TARGETS[dtype]:6.1f}")


if __name__ == "__main__":
    main()
