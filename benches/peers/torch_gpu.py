"""The operations of `safedepth bench kernels` as PyTorch has them, on the same shapes, in the same CSV columns.

    python benches/peers/torch_gpu.py --tokens 4096 > torch.csv            # on an NVIDIA GPU, bf16
    python benches/peers/torch_gpu.py --device cpu --small                 # the dry run: every case once, tiny

`isa` is the device, PyTorch's version and which implementation ran: SDPA's flash and cuDNN kernels, cross-entropy and KL
over whole logits (what people write), a transformers training step. FLOPs and bytes are those of our formulas, whatever
PyTorch does, so that the columns compare. Times are medians of CUDA events; operands take turns so that no run finds them
in the L2 cache. What cannot run here (no such backend, out of memory) is named on standard error and left out.
"""

import argparse
import csv
import statistics
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

COLUMNS = (
    "op,model,shape,dtype,isa,threads,median_ms,gflop_per_s,gb_per_s,share_of_gemm_peak,share_of_copy_peak".split(",")
)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SAMPLE = 1e-3  # seconds of runs timed together
MOST_SETS = 64


@dataclass
class Shapes:
    """As src/cli/bench/kernels/shapes.rs has them."""

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    layers: int


MODELS = [
    Shapes("llama-2-7b", 4096, 11008, 32, 32, 128, 32000, 32),
    Shapes("gemma-7b", 3072, 24576, 16, 16, 256, 256000, 28),
    Shapes("smollm2-135m", 576, 1536, 9, 3, 64, 49152, 30),
    Shapes("tiny", 128, 256, 4, 2, 64, 512, 2),
]


class Clock:
    """Seconds of some work: by CUDA events, or by the host's clock where there is no GPU."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        self.cache = torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 0

    def seconds(self, work, runs):
        if not self.cuda:
            start = time.perf_counter()
            for turn in range(runs):
                work(turn)
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for turn in range(runs):
            work(turn)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e-3


class Table:
    def __init__(self, args):
        self.args, self.clock = args, Clock(args.device)
        self.dtype = DTYPES[args.dtype]
        self.out = csv.writer(sys.stdout, lineterminator="\n")
        self.out.writerow(COLUMNS)
        self.where = f"sm_{''.join(map(str, torch.cuda.get_device_capability()))}" if self.clock.cuda else "cpu"
        self.where += f" torch-{torch.__version__.split('+')[0]}"
        self.peaks = None
        self.peaks = self.measure_peaks()
        print(f"peaks: {self.peaks[0]:.1f} GFLOP/s, {self.peaks[1]:.1f} GB/s", file=sys.stderr)

    def randn(self, *shape, dtype=None, grad=False):
        values = torch.randn(*shape, device=self.args.device, dtype=torch.float32).mul_(0.05)
        return values.to(dtype or self.dtype).requires_grad_(grad)

    def median(self, make, work, size):
        sets = min(int(2 * self.clock.cache / size) + 1, MOST_SETS)
        operands = [make() for _ in range(sets)]
        run = lambda turn: work(*operands[turn % sets])
        warm = self.clock.seconds(run, sets) / sets
        warm = min(warm, self.clock.seconds(run, 1))
        runs = max(1, min(1000, int(SAMPLE / warm))) if self.clock.cuda else 1
        return statistics.median(self.clock.seconds(run, runs) / runs for _ in range(self.args.repeats))

    def measure_peaks(self):
        n, elements = (256, 1 << 20) if self.args.small else (8192, 64 << 20)
        product = self.median(lambda: (self.randn(n, n), self.randn(n, n)), lambda a, b: a @ b.T, 1 << 40)
        copy = self.median(
            lambda: (torch.ones(elements, device=self.args.device), torch.empty(elements, device=self.args.device)),
            lambda source, target: target.copy_(source),
            1 << 40,
        )
        return 2 * n**3 / product / 1e9, 8 * elements / copy / 1e9

    def time(self, op, shapes, shape, how, flop, size, make, work):
        if self.args.filter and self.args.filter not in op:
            return
        try:
            seconds = self.median(make, work, size)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            print(f"{op} {shapes.name} {how}: {str(error).splitlines()[0]}", file=sys.stderr)
            if self.clock.cuda:
                torch.cuda.empty_cache()
            return
        gflop, gb = flop / seconds / 1e9, size / seconds / 1e9
        self.out.writerow(
            [op, shapes.name, shape, self.args.dtype, f"{self.where} {how}", torch.get_num_threads()]
            + [f"{1e3 * seconds:.4f}", f"{gflop:.2f}", f"{gb:.2f}"]
            + [f"{gflop / self.peaks[0]:.3f}", f"{gb / self.peaks[1]:.3f}"]
        )
        sys.stdout.flush()


def linears(table, s, t):
    e = table.dtype.itemsize
    for what, n, k in [
        ("q_proj", s.heads * s.head_dim, s.hidden),
        ("gate_proj", s.intermediate, s.hidden),
        ("down_proj", s.hidden, s.intermediate),
    ]:
        for rows in (1, 16, t):
            table.time(
                "linear", s, f"{what} {rows}x{n}x{k}", "matmul", 2 * rows * n * k, (n * k + rows * (n + k)) * e,
                lambda: (table.randn(rows, k), table.randn(n, k)), F.linear,
            )


def attention(table, s, t):
    e, q, kv = table.dtype.itemsize, s.heads * s.head_dim, s.kv_heads * s.head_dim
    shape = f"1x{t} {s.heads}q {s.kv_heads}kv d{s.head_dim}"
    flop, size = 4 * (t * (t + 1) // 2) * q, e * t * 2 * (q + kv) + 4 * t * s.heads
    backends = [("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)]
    if not table.clock.cuda:
        backends = [("flash", SDPBackend.FLASH_ATTENTION), ("math", SDPBackend.MATH)]
    for how, backend in backends:

        def forward(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=s.heads != s.kv_heads)

        def make(grad=False):
            return tuple(table.randn(1, heads, t, s.head_dim, grad=grad) for heads in (s.heads, s.kv_heads, s.kv_heads))

        def with_output():
            q, k, v = make(grad=True)
            out = forward(q, k, v)
            return out, (q, k, v), torch.randn_like(out)

        table.time("attention", s, shape, f"sdpa-{how}", flop, size, make, torch.no_grad()(forward))
        table.time(
            "attention_backward", s, shape, f"sdpa-{how}", 2.5 * flop, 2 * size, with_output,
            lambda out, inputs, dout: torch.autograd.grad(out, inputs, dout, retain_graph=True),
        )


def vocabulary(table, s, t):
    e, shape = table.dtype.itemsize, f"{t}x{s.vocab}x{s.hidden}"
    flop, size = 2 * t * s.vocab * s.hidden, s.vocab * s.hidden * e + 4 * t * s.hidden
    labels = torch.randint(0, s.vocab, (t,), device=table.args.device)
    make = lambda grad=False: (table.randn(t, s.hidden, grad=grad), table.randn(s.vocab, s.hidden, grad=grad))

    def loss(hidden, w):
        return F.cross_entropy(F.linear(hidden, w).float(), labels)

    @torch.no_grad()
    def kl(hidden_p, w_p, hidden_q, w_q):
        p = F.linear(hidden_p, w_p).float().log_softmax(-1)
        q = F.linear(hidden_q, w_q).float().log_softmax(-1)
        return F.kl_div(q, p, log_target=True, reduction="none").sum(-1)

    def with_loss():
        inputs = make(grad=True)
        return loss(*inputs), inputs

    table.time("linear_ce", s, shape, "logits", flop, size, make, torch.no_grad()(loss))
    table.time("linear_kl", s, shape, "logits", 2 * flop, 2 * size, lambda: make() + make(), kl)
    # Ours makes the logits once more in its backward pass, so three products to PyTorch's two; both are given three.
    table.time(
        "linear_ce_backward", s, shape, "logits", 3 * flop, size + 4 * t * s.hidden + 8 * s.vocab * s.hidden, with_loss,
        lambda loss, inputs: torch.autograd.grad(loss, inputs, retain_graph=True),
    )


def train_step(table, s):
    """`safedepth bench model --workload train_4x128`, of a model with random weights; fused AdamW, clipped at 1."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rows, length = 4, 128
    config = LlamaConfig(
        vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.intermediate, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, head_dim=s.head_dim, tie_word_embeddings=True,
    )

    def make():
        torch.manual_seed(1)
        model = LlamaForCausalLM(config).to(table.args.device, table.dtype).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
        return model, optimizer, torch.randint(0, s.vocab, (rows, length + 1), device=table.args.device)

    def step(model, optimizer, ids):
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    tokens = rows * length
    block = 2 * s.hidden * s.head_dim * (s.heads + s.kv_heads) + 3 * s.hidden * s.intermediate
    forward = 2 * s.layers * block * tokens + 2 * s.vocab * s.hidden * tokens
    forward += 4 * s.layers * s.heads * s.head_dim * rows * length * (length + 1) // 2
    # One set: a step's weights and moments are past any cache. Bytes: weights, gradients and moments, each read and written.
    parameters = s.layers * block + s.vocab * s.hidden
    size = 8 * parameters * table.dtype.itemsize
    table.time("train_step", s, f"{rows}x{length}", "transformers", 3 * forward, size, make, step)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="[%(default)s]")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="[%(default)s]")
    parser.add_argument("--model", choices=[s.name for s in MODELS], help="only this model's shapes")
    parser.add_argument("--filter", metavar="TEXT", help="only operations whose name contains this")
    parser.add_argument("--tokens", type=int, default=4096, help="rows of a batch [%(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="samples whose median is printed [%(default)s]")
    parser.add_argument("--small", action="store_true", help="the tiny shapes, 64 tokens, one sample")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU that PyTorch can use: --device cpu --small is the dry run")
    if args.small:
        args.model, args.tokens, args.repeats = "tiny", 64, 1
    table = Table(args)
    for shapes in MODELS[:3] if args.model is None else [s for s in MODELS if s.name == args.model]:
        linears(table, shapes, args.tokens)
        attention(table, shapes, args.tokens)
        vocabulary(table, shapes, args.tokens)
        if shapes.name in ("smollm2-135m", "tiny"):
            train_step(table, shapes)


if __name__ == "__main__":
    main()
