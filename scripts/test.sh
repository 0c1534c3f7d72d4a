#!/usr/bin/env bash
# All tests. Needs Rust, a C toolchain and Python 3; makes a virtual environment for the one script that needs packages.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -e models/SmolLM2-135M-Instruct/model.safetensors ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet gguf numpy
    .venv/bin/python scripts/get_smollm2.py
fi
cargo test --release --workspace "$@"
