#!/usr/bin/env bash
# All tests. Needs Rust, a C toolchain and Python 3; makes a virtual environment for the script that needs packages and,
# unless there is an nvcc, for CUDA's compiler: the GPU kernels' tests run on the emulator.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -e models/SmolLM2-135M-Instruct/model.safetensors ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --no-cache-dir gguf numpy
    .venv/bin/python scripts/get_smollm2.py
fi
if [ -z "${CUDA_HOME:-}" ] && ! command -v nvcc > /dev/null; then
    if [ ! -e .venv/lib/python3*/site-packages/nvidia/cu13/bin/nvcc ]; then
        python3 -m venv .venv
        .venv/bin/pip install --quiet --no-cache-dir nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
            nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
    fi
    export CUDA_HOME="$(echo "$PWD"/.venv/lib/python3*/site-packages/nvidia/cu13)"
fi
cargo test --release --workspace "$@"
