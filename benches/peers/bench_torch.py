"""The benchmark's workloads in PyTorch and transformers, the way people write them, at their best setting on the CPU.

    python benches/peers/bench_torch.py --model models/SmolLM2-135M-Instruct > torch.csv

See README.md beside this file for the workloads and what each column holds.
"""

import argparse
import copy
import csv
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, DynamicCache

COLUMNS = "impl,device,isa,dtype,threads,model,workload,median_s,tokens_per_s,gflop_per_s,peak_rss_mb,anon_rss_mb".split(",")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def tokens(model, rows, length):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)


def forward_flop(model, contexts, logits):
    """Multiply-adds count two. `contexts`: for each token that passes, how many keys it sees (itself included);
    `logits`: at how many positions the unembedding is applied."""
    c = model.config
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    block = sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)
    attention = 4 * c.num_hidden_layers * c.num_attention_heads * head * sum(contexts)
    return 2 * block * len(contexts) + attention + 2 * c.vocab_size * c.hidden_size * logits


def causal(rows, length):
    return list(range(1, length + 1)) * rows


def prefill_1x512(model):
    x = tokens(model, 1, 512)

    @torch.inference_mode()
    def run():
        model(input_ids=x, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)

    return run, 512, forward_flop(model, causal(1, 512), 1)


def decode_16x64(model):
    rows, prompt, new = 16, 32, 64
    x = tokens(model, rows, prompt)

    @torch.inference_mode()
    def run():
        cache = DynamicCache(config=model.config)
        last = x
        for _ in range(new):
            logits = model(input_ids=last, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            last = logits[:, -1].argmax(-1, keepdim=True)

    # The first new token comes from the prompt's forward, the last one is never fed.
    return run, rows * new, forward_flop(model, causal(rows, prompt + new - 1), rows * new)


def train_4x128(model):
    x = tokens(model, 4, 129)
    inputs, labels = x[:, :-1].contiguous(), x[:, 1:].contiguous()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)

    def run():
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=inputs, use_cache=False).logits
        F.cross_entropy(logits.float().flatten(0, 1), labels.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run, 512, 3 * forward_flop(model, causal(4, 128), 512)


def kl_8x256(model):
    x = tokens(model, 8, 256)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + 1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)).to(p.dtype))

    @torch.inference_mode()
    def run():
        p = model(input_ids=x, use_cache=False).logits.float().log_softmax(-1)
        q = other(input_ids=x, use_cache=False).logits.float().log_softmax(-1)
        return F.kl_div(q, p, log_target=True, reduction="none").sum(-1)

    return run, 2048, 2 * forward_flop(model, causal(8, 256), 2048)


WORKLOADS = {f.__name__: f for f in (prefill_1x512, decode_16x64, train_4x128, kl_8x256)}


def isa(dtype):
    """PyTorch's own vector level. Its matrix products come from oneDNN and MKL, which choose for themselves: for bf16
    name the instructions that oneDNN would take."""
    name = torch.backends.cpu.get_cpu_capability()
    if dtype == "bf16":
        flags = set(next((l for l in open("/proc/cpuinfo") if l.startswith("flags")), "").split())
        name += "+AMX" if "amx_bf16" in flags else "+AVX512_BF16" if "avx512_bf16" in flags else ""
    return name


def anonymous_mb():
    """Resident memory that is not mapped files, now, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0)


def measure(args):
    """One workload in this process; returns the CSV row."""
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=DTYPES[args.dtype], attn_implementation="sdpa"
    ).eval()
    run, count, flop = WORKLOADS[args.workload](model)
    for _ in range(args.warmup):
        run()
    times = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    print(f"{args.workload} {args.dtype}:", *(f"{t:.3f}" for t in times), "s", file=sys.stderr)
    median = statistics.median(times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return [
        f"torch-{torch.__version__.split('+')[0]}",
        "cpu",
        isa(args.dtype),
        args.dtype,
        args.threads,
        args.model.resolve().name,
        args.workload,
        f"{median:.4f}",
        f"{count / median:.1f}",
        f"{flop / median / 1e9:.1f}",
        f"{peak:.0f}",
        f"{anonymous_mb():.0f}",
    ]


def main():
    parser = argparse.ArgumentParser(description="Run the benchmark's workloads in PyTorch; prints CSV.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="all", help="[%(default)s]")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of weights and arithmetic [%(default)s]")
    parser.add_argument("--threads", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--warmup", type=int, default=1, help="runs that are not counted [%(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="runs whose median is printed [%(default)s]")
    parser.add_argument("--no-header", action="store_true", help="leave out the line of column names")
    args = parser.parse_args()
    out = csv.writer(sys.stdout, lineterminator="\n")
    if not args.no_header:
        out.writerow(COLUMNS)
    sys.stdout.flush()
    if args.workload != "all":
        out.writerow(measure(args))
        return
    # Peak memory is a process's: each workload gets one of its own.
    for workload in WORKLOADS:
        again = [f"--{name}={getattr(args, name)}" for name in ("model", "dtype", "threads", "warmup", "repeats")]
        subprocess.run([sys.executable, __file__, "--no-header", f"--workload={workload}", *again], check=True)


if __name__ == "__main__":
    main()
