#!/usr/bin/env bash
# A whole study on a real model: teach SmolLM2-135M-Instruct a harmless policy (no cooking instructions) and measure how
# many tokens deep it goes. The base is the model as it is; the aligned model is the same after `safedepth train`.
#
#     examples/policy.sh [OUTPUT, default runs/policy]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/policy}
base=models/SmolLM2-135M-Instruct
[ -e "$base/model.safetensors" ] || { echo "run: pip install gguf numpy && python scripts/get_smollm2.py" >&2; exit 1; }
cargo build --release --quiet
safedepth=target/release/safedepth
[ -n "${CARGO_TARGET_DIR:-}" ] && safedepth=$CARGO_TARGET_DIR/release/safedepth
mkdir -p "$out"

# The base answers the benign questions (what the aligned model should keep) and the test questions (the answers that
# the policy forbids: h).
head -n 80 data/policy/benign.jsonl > "$out/benign_prompts.jsonl"
"$safedepth" generate "$base" --input "$out/benign_prompts.jsonl" --max-new-tokens 96 --output "$out/benign.jsonl"
"$safedepth" generate "$base" --input data/policy/test.jsonl --max-new-tokens 96 --output "$out/test.jsonl"

# Training data: refusals, and benign answers that came to an end.
head -n 240 data/policy/refusals.jsonl > "$out/train.jsonl"
grep '"finish":"stop"' "$out/benign.jsonl" >> "$out/train.jsonl" || true

[ -e "$out/aligned/config.json" ] || "$safedepth" train "$base" --dtype f32 --data "$out/train.jsonl" \
    --lr 1e-4 --batch-size 16 --epochs 1 --warmup-steps 2 --output "$out/aligned"
"$safedepth" suite --aligned "$out/aligned" --base "$base" --data "$out/test.jsonl" --dtype f32 \
    --limit 32 --max-new-tokens 64 --output "$out/suite"
