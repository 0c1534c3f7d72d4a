"""Ours and PyTorch's (and llama.cpp's) workloads turn by turn: one CSV of all runs, and a table of ratios.

    python benches/peers/compare.py --model models/SmolLM2-135M-Instruct --safedepth target/release/safedepth
"""

import argparse
import csv
import io
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

WORKLOADS = ["prefill_1x512", "decode_16x64", "train_4x128", "kl_8x256"]
TARGETS = {"prefill_1x512": 1.5, "decode_16x64": 4.0, "train_4x128": 1.5, "kl_8x256": 2.0}


def run(command, folder=None):
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout
    return next(csv.DictReader(io.StringIO(output)))


def main():
    parser = argparse.ArgumentParser(description="Run ours and PyTorch's workloads turn by turn.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--safedepth", type=Path, default=Path("target/release/safedepth"), help="[%(default)s]")
    parser.add_argument("--dtypes", default="f32,bf16", help="[%(default)s]")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="[%(default)s]")
    parser.add_argument("--llama-cpp", type=Path, help="folder with node_modules/node-llama-cpp and smollm2-DTYPE.gguf (README.md)")
    parser.add_argument("--threads", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each, turn by turn [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs in a process [%(default)s]")
    parser.add_argument("--output", type=Path, help="CSV of every process's row")
    args = parser.parse_args()
    torch = Path(__file__).with_name("bench_torch.py")
    llama_cpp = Path(__file__).with_name("bench_llama_cpp.mjs").resolve()
    rows = []
    for dtype in args.dtypes.split(","):
        for workload in args.workloads.split(","):
            for _ in range(args.rounds):
                common = ["--workload", workload, "--dtype", dtype, "--threads", str(args.threads)]
                common += ["--repeats", str(args.repeats)]
                rows.append(run([args.safedepth, "bench", "model", args.model, *common]))
                rows.append(run([sys.executable, torch, "--model", args.model, *common]))
                turn = 2
                if args.llama_cpp and workload.startswith(("prefill", "decode")):
                    words = ["node", llama_cpp, f"smollm2-{dtype}.gguf", workload, str(args.threads), str(args.repeats)]
                    rows.append(run(words, args.llama_cpp))
                    turn = 3
                print(*(f"{r['impl']} {r['workload']} {r['dtype']}: {r['median_s']} s" for r in rows[-turn:]), sep="; ", file=sys.stderr)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with args.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    groups = defaultdict(list)
    for row in rows:
        groups[row["dtype"], row["workload"], row["impl"].split("-")[0]].append(row)
    middle = lambda group, key: statistics.median(float(row[key]) for row in group)
    print(f"{'workload':16} {'dtype':5} {'peer':9} {'ours tok/s':>11} {'peer tok/s':>11} {'ratio':>6} {'target':>6} {'rss ratio':>9}")
    for (dtype, workload, impl), theirs in groups.items():
        if impl == "safedepth":
            continue
        ours = groups[dtype, workload, "safedepth"]
        speed, other = middle(ours, "tokens_per_s"), middle(theirs, "tokens_per_s")
        rss = middle(ours, "peak_rss_mb") / middle(theirs, "peak_rss_mb")
        target = f"{TARGETS[workload]:6.1f}" if impl == "torch" else " " * 6
        print(f"{workload:16} {dtype:5} {impl:9} {speed:11.1f} {other:11.1f} {speed / other:6.2f} {target} {rss:9.2f}")


if __name__ == "__main__":
    main()
