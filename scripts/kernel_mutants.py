#!/usr/bin/env python3
"""Removes each barrier, wait, fence, arrival and bound of kernels/*.cu in turn, plants some faults by hand, and asks whether
the emulator's tests notice.

    python scripts/kernel_mutants.py                    # all; writes docs/kernel-mutants.md
    python scripts/kernel_mutants.py --only sampling    # those whose file or line matches; writes nothing
    python scripts/kernel_mutants.py --minutes 20       # stops in time; the table says how many were planted
    python scripts/kernel_mutants.py --list

Needs nvcc 13.0 in CUDA_HOME or PATH. The tests are built once; a mutant's PTX takes the place of the compiled kernel
(SAFEDEPTH_CUDA_KERNELS). A mutant is caught by a report of the emulator (race, uninitialised, out of bounds, a copy touched
before its wait, a barrier not reached by all) or by a law that fails.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"

# Which test binary runs a file, and which kernels of it to compile.
TESTS = {
    "attention_fma.cuh": ("ops_attention", ["attention", "attention_paged", "attention_backward"]),
    "attention.cuh": ("ops_attention", ["attention", "attention_paged", "attention_backward"]),
    "attention_backward.cu": ("ops_attention", ["attention_backward"]),
    "attention_paged.cu": ("ops_attention", ["attention_paged"]),
    "attention_split.cu": ("ops_attention_long", ["attention_split"]),
    "attention_mma.cuh": ("ops_attention_bf16", ["attention", "attention_paged", "attention_backward_mma"]),
    "attention_backward_mma.cu": ("ops_attention_bf16", ["attention_backward_mma"]),
    "product.cuh": ("ops_linear_ce", ["linear_ce"]),
    "linear_ce.cu": ("ops_linear_ce", ["linear_ce"]),
    "product_mma.cuh": ("ops_linear_ce", ["linear_ce_mma"]),
    "linear_ce_mma.cu": ("ops_linear_ce", ["linear_ce_mma"]),
    "product_sm90.cuh": ("ops_linear_ce", ["linear_ce_sm90"]),
    "linear_ce_sm90.cu": ("ops_linear_ce", ["linear_ce_sm90"]),
    "linear_kl.cu": ("ops_linear_kl", ["linear_kl"]),
    "linear_kl.cuh": ("ops_linear_kl", ["linear_kl", "linear_kl_mma"]),
    "linear_kl_mma.cu": ("ops_linear_kl", ["linear_kl_mma"]),
    "sampling.cu": ("ops_sampling", ["sampling"]),
    "embedding.cu": ("ops_small", ["embedding"]),
    "rmsnorm.cu": ("ops_small", ["rmsnorm"]),
    "rope.cu": ("ops_small", ["rope"]),
}

BARRIER = re.compile(r"__syncthreads\(\);")
WAIT = re.compile(r"(copy|wgmma)_wait<\w+( - \w+)?>\(\);|ring\.\w+\[ring\.stage\]\.wait\([^;]*\);")
FENCE = re.compile(r"(wgmma_fence|fence_for_wgmma|wgmma_commit)\(\);")
ARRIVAL = re.compile(r"arrive_warp\(ring[^;]*\);")
# A wait for the phase before the right one, or after it.
PHASE = re.compile(r"ring\.phase( \^ 1)?(?=\);)")
# A comparison with the end of something; the end is moved out of reach.
ENDS = "tokens|rows|columns|depth|vocab|end|width|pitch|pairs|length|size|vectors|count|source\\.length"
BOUND = re.compile(rf"(?<=[\w\])] )(<|>=) ({ENDS})\b(?! \*)")

# What no barrier, wait or bound is: file, text that occurs once in it, what takes its place.
PLANTED = [
    ("rmsnorm.cu", "const float s = sum[at + i] + x[at + i];", "const float s = sum[at + i];"),
    ("rmsnorm.cu", "sum[at + i] = s;", ""),
    ("rmsnorm.cu", "kept[i] = s;", ""),
    ("rmsnorm.cu", "store(y + at + i, kept[i] * r * (offset + weight[i]));", "store(y + at + i, kept[i] * r * weight[i]);"),
    ("rmsnorm.cu", "const float sum = dx[i] + d;", "const float sum = d;"),
    ("rmsnorm.cu", "if (rounded) store(rounded + i, sum);", "if (rounded) store(rounded + i, d);"),
    ("rmsnorm.cu", "r * r * r * (block_sum", "r * r * (block_sum"),
    ("rope.cu", "sign * sines[row * half + i]", "sines[row * half + i]"),
    ("rope.cu", "store(to + half, b * cosine + a * sine);", "store(to + half, b * cosine - a * sine);"),
    ("rope.cu", "head < end; head += blockDim.y", "head < end; head += 2 * blockDim.y"),
    ("rope.cu", "const uint32_t end = min(total, first + HEADS_A_THREAD * blockDim.y);", "const uint32_t end = total;"),
    ("rope.cu", "(row * shared_heads + head - heads) * 2 * half;", "(row * heads + head - heads) * 2 * half;"),
    ("rope.cu", "if (!tile.find<1>(offsets, count, 1, blockIdx.x)) return;", "tile.find<1>(offsets, count, 1, blockIdx.x);"),
    ("rope.cu", "starts[tile.sequence] + tile.row0", "tile.row0"),
    ("rope.cu", "+ position / PAGE];", "];"),
    ("rope.cu", "head -= value ? heads + shared_heads : heads;", "head -= heads;"),
    ("rope.cu", "* PAGE + slot)", "* PAGE)"),
    ("rope.cu", "cache_v[to + half] = v[from + half];", ""),
    ("rope.cu", "turn(k + from, cache_k + to, half);", "turn(v + from, cache_k + to, half);"),
]


@dataclass
class Mutant:
    file: str
    line: int
    kind: str
    start: int
    stop: int
    replacement: str
    text: str


def mutants():
    for file in sorted(TESTS):
        offset = 0
        for number, line in enumerate((KERNELS / file).read_text().splitlines(keepends=True), 1):
            code = line.split("//")[0]
            loop = re.search(r"\bfor \(", code)
            kinds = [("barrier", BARRIER), ("wait", WAIT), ("fence", FENCE), ("arrival", ARRIVAL), ("phase", PHASE), ("bound", BOUND)]
            for kind, pattern in kinds:
                for found in pattern.finditer(code):
                    # A loop that never ends says nothing.
                    if kind == "bound" and (loop or code.lstrip().startswith(("template", "constexpr", "extern"))):
                        continue
                    replacement = ";"
                    if kind == "bound":
                        replacement = f"{found[1]} 0x3fffffff"
                    elif kind == "phase":
                        replacement = "ring.phase" if found[1] else "ring.phase ^ 1"
                    yield Mutant(file, number, kind, offset + found.start(), offset + found.end(), replacement, line.strip())
            offset += len(line)
    for file, old, new in PLANTED:
        text = (KERNELS / file).read_text()
        assert text.count(old) == 1, f"{file} has {text.count(old)} times: {old}"
        start = text.index(old)
        yield Mutant(file, text.count("\n", 0, start) + 1, "planted", start, start + len(old), new, f"{old} -> {new or 'nothing'}")


def build_tests(chosen):
    """Executable of each test binary that is needed."""
    names = sorted({TESTS[mutant.file][0] for mutant in chosen})
    command = ["cargo", "test", "--release", "--no-run", "--message-format=json"]
    command += [argument for name in names for argument in ("--test", name)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    artifacts = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {a["target"]["name"]: a["executable"] for a in artifacts if a.get("executable") and a["target"]["name"] in names}


def nvcc():
    home = os.environ.get("CUDA_HOME")
    return str(Path(home) / "bin/nvcc") if home else "nvcc"


def plant(mutant, executables):
    """(caught, how)."""
    test, kernels = TESTS[mutant.file]
    with tempfile.TemporaryDirectory() as folder:
        sources, ptx = Path(folder) / "kernels", Path(folder) / "ptx"
        sources.mkdir(), ptx.mkdir()
        for path in [*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh")]:
            text = path.read_text()
            if path.name == mutant.file:
                text = text[: mutant.start] + mutant.replacement + text[mutant.stop :]
            (sources / path.name).write_text(text)
        for kernel in kernels:
            level = "90a" if kernel.endswith("_sm90") else "80"
            command = [nvcc(), "-ptx", "-lineinfo", f"-arch=compute_{level}", "-std=c++17", "-o", str(ptx / f"{kernel}.ptx"), str(sources / f"{kernel}.cu")]
            if subprocess.run(command, capture_output=True).returncode != 0:
                return True, "does not compile"
        environment = {**os.environ, "SAFEDEPTH_CUDA_KERNELS": str(ptx), "SAFEDEPTH_EMULATOR_FAULTS": "abort", "SAFEDEPTH_EMULATOR_LIMIT": "2000000000"}
        try:
            hopper = kernels[0].endswith("_sm90")
            name = "cuda_on_the_emulator_as_hopper" if hopper else "cuda::on_the_emulator"
            run = subprocess.run([executables[test], name, "--nocapture"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
        except subprocess.TimeoutExpired:
            return True, "does not end"
        if run.returncode == 0:
            return False, ""
        text = run.stdout + run.stderr
        report = re.search(r"safedepth-emulator: (.*)", text)
        if report:
            what = re.sub(r"(/\S*/)?(\w+\.cuh?:\d+)", r"\2", report[1]).split(", block")[0]
            return True, f"report: {what}"
        law = re.search(r"test (cuda::\w+) \.\.\. FAILED", text)
        return True, f"law: {law[1].removeprefix('cuda::')}" if law else "the tests fail"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="those whose file, kind or line matches this regular expression")
    parser.add_argument("--minutes", type=float, default=1e9, help="plant no more after this long")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    chosen = [m for m in mutants() if not arguments.only or re.search(arguments.only, f"{m.file} {m.kind} {m.text}")]
    # Barriers and waits before bounds, so that a run cut short has the faults that only the emulator can see.
    chosen.sort(key=lambda m: m.kind == "bound")
    if arguments.list:
        for m in chosen:
            print(f"{m.file}:{m.line} {m.kind}: {m.text}")
        return
    deadline = time.monotonic() + 60 * arguments.minutes
    executables, rows = build_tests(chosen), []
    for mutant in chosen:
        if time.monotonic() > deadline:
            break
        caught, how = plant(mutant, executables)
        rows.append((mutant, caught, how))
        print(f"{'caught' if caught else 'MISSED'}  {mutant.file}:{mutant.line} {mutant.kind}  {how}", flush=True)
    if not arguments.only:
        write(rows, len(chosen))
    sys.exit(any(not caught for _, caught, _ in rows) and bool(arguments.only))


def write(rows, total):
    caught = sum(caught for _, caught, _ in rows)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    lines = [
        "# Barriers, waits and bounds removed from the kernels, and faults planted by hand",
        "",
        f"{len(rows)} of {total} were removed (at {commit}), each alone, by `scripts/kernel_mutants.py`; {caught} were caught. A report is the",
        "emulator's, a law one of `tests/ops_*.rs`.",
        "",
        "| where | kind | line | caught by |",
        "|---|---|---|---|",
    ]
    for mutant, found, how in rows:
        text = mutant.text.replace("|", "\\|")
        lines.append(f"| {mutant.file}:{mutant.line} | {mutant.kind} | `{text[:90]}` | {how.replace('|', chr(92) + '|') if found else '**missed**'} |")
    (ROOT / "docs/kernel-mutants.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
