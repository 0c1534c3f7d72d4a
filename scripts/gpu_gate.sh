#!/usr/bin/env bash
# The GPU gate: everything that only a GPU can say, on a machine with an NVIDIA GPU, PyTorch and no Rust, in 8 minutes at
# most.
#
#     scripts/gpu_gate.sh BINARY OUT [MODEL]
#
# BINARY is safedepth, built with nvcc; `safedepth-emulator` beside it brings the micro-kernels of each instruction. MODEL is
# a folder of SmolLM2-135M-Instruct. OUT gets gate.csv (a line a stage: ok, failed, absent or late), record.txt (date, commit,
# GPU, driver), a log a stage, the benches' CSV files and table.txt, which is printed last; docs/gpu.md says what to do with
# them. Exit code 1 where a stage failed or was late.
#
# Without a GPU, on the emulator, everything small, and PyTorch on the CPU:
#     SAFEDEPTH_GATE_SMALL=1 target/release/safedepth-emulator run scripts/gpu_gate.sh target/release/safedepth gate
set -uo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
fi
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
model=${3:+$(realpath "$3")}
root=$(realpath "$(dirname "$0")/..")
python=${PYTHON:-python3}
small=${SAFEDEPTH_GATE_SMALL:-}

# cuBLASLt 13 comes with PyTorch: pip keeps it where the loader does not look.
for folder in $("$python" -c 'import site; print(*site.getsitepackages())' 2> /dev/null); do
    if [ -e "$folder/nvidia/cu13/lib/libcublasLt.so.13" ]; then
        export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder/nvidia/cu13/lib"
    fi
done

echo "stage,verdict,seconds" > "$out/gate.csv"
bad=0
# Seconds for all stages together.
budget=470

note() { # STAGE VERDICT SECONDS
    echo "$1,$2,$3" >> "$out/gate.csv"
    printf '%-28s %-8s %4s s\n' "$1" "$2" "$3"
    case $2 in failed | late) bad=1 ;; esac
}

# stage NAME LIMIT COMMAND...: its standard output goes to NAME.log, or to $csv where that is set; LIMIT in seconds.
stage() {
    local name=$1 limit=$2 start=$SECONDS code verdict left=$((budget - SECONDS))
    shift 2
    if [ $left -lt 1 ]; then
        note "$name" late 0
        return
    fi
    [ "$limit" -lt $left ] || limit=$left
    timeout "$limit" "$@" > "${csv:-$out/$name.log}" 2> "$out/$name.err"
    code=$?
    case $code in
        0) verdict=ok ;;
        124) verdict=late ;;
        *) verdict=failed ;;
    esac
    # Some machines let no tool look at the device.
    if [ $verdict = failed ] && grep -qsi 'device not supported' "$out/$name.log" "$out/$name.err"; then verdict=absent; fi
    [ -s "$out/$name.err" ] || rm -f "$out/$name.err"
    note "$name" $verdict $((SECONDS - start))
}

# 1. Each instruction against the emulator's golden vectors; each operation against its laws.
if [ -x "$(dirname "$binary")/safedepth-emulator" ]; then
    stage instructions 30 "$(dirname "$binary")/safedepth-emulator" isa gpu
else
    note instructions absent 0
fi
if [ -n "$small" ]; then
    stage laws 300 "$binary" selftest --device cuda --op small_bf16 --cases 1
else
    stage laws 170 "$binary" selftest --device cuda
fi

# 2. Whole models against PyTorch's numbers.
goldens=()
for name in llama gemma llama_bf16; do goldens+=(--golden "$root/tests/goldens/$name"); done
[ -n "$model" ] && goldens+=(--model "$model" --continuations "$root/tests/goldens/smollm2.json")
[ -n "$small" ] && goldens=(--golden "$root/tests/goldens/llama_bf16")
stage goldens 60 "$binary" selftest --device cuda --op golden "${goldens[@]}"

# 3. NVIDIA's own checkers, on small cases; every allocation new and exact, so that they see past its end.
for tool in memcheck racecheck; do
    if command -v compute-sanitizer > /dev/null; then
        SAFEDEPTH_CUDA_POOL=0 stage $tool 60 compute-sanitizer --tool $tool --error-exitcode 9 \
            "$binary" selftest --device cuda --op small_bf16 --cases 1
        SAFEDEPTH_CUDA_POOL=0 stage $tool-attention 60 compute-sanitizer --tool $tool --error-exitcode 9 \
            "$binary" selftest --device cuda --op attention_bf16 --cases 1
    else
        note $tool absent 0
    fi
done

# 4. The benches, ours and PyTorch's.
if [ -n "$small" ]; then
    csv="$out/kernels.csv" stage kernels 120 "$binary" bench kernels --device cuda --dtype bf16 --model tiny --tokens 64 \
        --runs 1 --repeats 1 --peak-size 64
    peer=(--device cpu --small)
else
    csv="$out/kernels.csv" stage kernels 100 "$binary" bench kernels --device cuda --dtype bf16 --model llama-2-7b \
        --tokens 4096
    csv="$out/kernels-gemma.csv" stage kernels-gemma 100 "$binary" bench kernels --device cuda --dtype bf16 \
        --model gemma-7b --tokens 2048 --filter attention
    peer=(--model llama-2-7b --tokens 4096)
    if [ -n "$model" ]; then
        for workload in prefill_1x512 decode_16x64 train_4x128 kl_8x256; do
            csv="$out/$workload.csv" stage $workload 30 "$binary" bench model "$model" --device cuda --dtype bf16 \
                --workload $workload
        done
    fi
fi
if "$python" -c 'import torch' 2> /dev/null; then
    csv="$out/torch.csv" stage torch 100 "$python" "$root/benches/peers/torch_gpu.py" "${peer[@]}"
else
    note torch absent 0
fi

# What it ran on, and one table: each operation's time, its shares of the machine's peaks, PyTorch's best time, and the ratio.
{
    date -u +'date: %Y-%m-%dT%H:%M:%SZ'
    sed -n '1s/^/program: /p' "$out/laws.log"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2> /dev/null | sed 's/^/gpu: /'
    grep -h '^peaks' "$out/kernels.err" "$out/torch.err" 2> /dev/null
    "$python" -c 'import torch; print("torch:", torch.__version__)' 2> /dev/null
    [ -z "$small" ] || echo "small: a rehearsal, whose times mean nothing"
} > "$out/record.txt"
{
    cat "$out/record.txt"
    echo
    column -t -s, "$out/gate.csv" 2> /dev/null || cat "$out/gate.csv"
    echo
    touch "$out/torch.csv"
    awk -F, '
        FNR == 1 { next }
        FILENAME == ARGV[1] { key = $1 FS $2 FS $3; if (!(key in best) || $7 < best[key]) best[key] = $7; next }
        FNR == 2 { printf "%-24s %-13s %-28s %11s %6s %6s %11s %6s\n", "op", "model", "shape", "ms", "gemm", "copy", "torch ms", "ratio" }
        {
            key = $1 FS $2 FS $3
            printf "%-24s %-13s %-28s %11s %6s %6s %11s %6s\n", $1, $2, $3, $7, $10, $11,
                (key in best) ? best[key] : "", ((key in best) && $7 + 0 != 0) ? sprintf("%.2f", best[key] / $7) : ""
        }' "$out/torch.csv" "$out/kernels.csv"
} > "$out/table.txt"
cat "$out/table.txt"
exit $bad
