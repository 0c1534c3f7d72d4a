#!/usr/bin/env bash
# Writes the .ptx beside each .cu again. Needs nvcc 13.0 in NVCC or PATH (pip's nvidia-cuda-nvcc will do).
set -euo pipefail
cd "$(dirname "$0")"
for source in "${@:-*.cu}"; do
    for file in $source; do
        # Names without a folder keep machine paths out of the committed files.
        "${NVCC:-nvcc}" -ptx -lineinfo -arch=compute_80 -std=c++17 -o "${file%.cu}.ptx" "$file"
        sed -i -E 's|^(\s*\.file\s+[0-9]+ ").*/([^/"]+")|\1\2|' "${file%.cu}.ptx"
    done
done
