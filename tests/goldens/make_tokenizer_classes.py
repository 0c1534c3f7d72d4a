"""Make tests/goldens/templates/tokenizer_classes.json: what AutoTokenizer makes of the same tokenizer.json under the
tokenizer_class and model_type that folders of the supported architectures have.

    pip install -r tests/goldens/requirements.txt
    python tests/goldens/make_tokenizer_classes.py        after make_templates.py
"""

import json
import shutil
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent / "templates"

# tokenizer, model_type, tokenizer_class, further keys of tokenizer_config.json
FOLDERS = [
    ("tokenizer_llama2", "llama", "LlamaTokenizer", {"legacy": False}),
    ("tokenizer_llama2", "llama", "LlamaTokenizerFast", {"legacy": True}),
    ("tokenizer_llama2", "llama", "LlamaTokenizer", {"add_prefix_space": False}),
    ("tokenizer_llama2", "llama", "LlamaTokenizer", {}),
    ("tokenizer_llama2", "llama", "PreTrainedTokenizerFast", {}),
    ("tokenizer_llama2", "llama", None, {}),
    ("tokenizer_llama2", "mistral", "LlamaTokenizer", {}),
    ("tokenizer_llama2", "gemma", "LlamaTokenizer", {}),
    ("tokenizer_llama3", "llama", "LlamaTokenizer", {}),
    ("tokenizer_llama3", "llama", "PreTrainedTokenizerFast", {}),
    ("tokenizer_smollm", "llama", "GPT2Tokenizer", {}),
    ("tokenizer_smollm", "llama", "GPT2TokenizerFast", {"add_prefix_space": True}),
    ("tokenizer_smollm", "llama", "TokenizersBackend", {}),
    ("tokenizer_gpt2", "qwen2", "Qwen2Tokenizer", {}),
    ("tokenizer_gpt2", "qwen2", "PreTrainedTokenizerFast", {}),
    ("tokenizer_gpt2", "qwen2", None, {}),
    ("tokenizer_gpt2", "qwen3", "Qwen2TokenizerFast", {}),
    ("tokenizer_gpt2", "qwen3", "PreTrainedTokenizerFast", {}),
    ("tokenizer_gemma", "gemma", "GemmaTokenizer", {}),
    ("tokenizer_gemma", "gemma2", "GemmaTokenizerFast", {}),
    ("tokenizer_gemma", "gemma2", None, {}),
    ("tokenizer_gemma", "gemma", "PreTrainedTokenizerFast", {}),
]

TEXTS = [
    "Hello world",
    " Hello  world ",
    "<s>[INST] Hello </s> there",
    "In 1887 there were 12345 apples and 3.14 pies",
    "na\u00efve cafe\u0301 \u4f60\u597d\uff0c\U0001f44b\U0001f3fd",
    "  two\n\n x <fact> y\t\t",
    "I can't, we'll, THEY'RE\n",
    "<|im_start|>user\nhi<|im_end|>\n <bos> a",
]


def main():
    rows = []
    for tokenizer, model_type, tokenizer_class, keys in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            shutil.copy(HERE / tokenizer / "tokenizer.json", folder)
            config = json.loads((HERE / tokenizer / "tokenizer_config.json").read_text()) | keys
            config.pop("tokenizer_class")
            if tokenizer_class:
                config["tokenizer_class"] = tokenizer_class
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
            hf = AutoTokenizer.from_pretrained(folder)
        cases = []
        for text in TEXTS:
            ids = hf.encode(text)
            cases.append(
                {
                    "text": text,
                    "ids": ids,
                    "plain_ids": hf.encode(text, add_special_tokens=False),
                    "decoded": hf.decode(ids),
                }
            )
        about = {"tokenizer": tokenizer, "model_type": model_type, "tokenizer_class": tokenizer_class, "keys": keys}
        rows.append(about | {"cases": cases})
        print(about, type(hf).__name__)
    text = "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
    (HERE / "tokenizer_classes.json").write_text(text)


if __name__ == "__main__":
    main()
