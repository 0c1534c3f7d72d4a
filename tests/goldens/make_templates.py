"""Make tests/goldens/templates/: small tokenizers, chat templates, and what transformers makes of them.

    pip install -r tests/goldens/requirements.txt
    python tests/goldens/make_templates.py

The *.jinja files there are written by hand; this script makes the rest:

    tokenizer_gpt2/      byte-level BPE, GPT-2's splitting; no post-processor, no BOS. All templates are tokenized with it.
    tokenizer_llama3/    byte-level BPE, Llama-3's splitting regex (look-ahead), ignore_merges; post-processor adds
                         <|begin_of_text|>
    tokenizer_smollm/    byte-level BPE, every digit its own piece before GPT-2's splitting (SmolLM2); no BOS
    tokenizer_llama2/    SentencePiece style BPE: the text gets a leading space, spaces are U+2581, bytes fall back to <0xNN>;
                         post-processor adds <s>
    tokenizer_gemma/     the same without the leading space; post-processor adds <bos>
    tokenizer_bos_config/  tokenizer_gpt2 with `"add_bos_token": true` in tokenizer_config.json and no post-processor. With a
                         tokenizer.json present, transformers 5 ignores that key: no BOS
    templates.json       {template: {file, bos_token, eos_token}}
    cases.json           [{template, messages, add_generation_prompt, rendered, ids}], tokenizer_gpt2's ids without further
                         special tokens; or, in place of rendered and ids, {error, raised}: raised is true where the
                         template itself called raise_exception with that text
    tokenizers.json      {tokenizer: {encode: [{text, add_special_tokens, ids, tokens}], decode: [{ids,
                         skip_special_tokens, text}]}}
"""

import json
import random
import shutil
from pathlib import Path

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent / "templates"

SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<bos>",
    "<eos>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
]
# Added but not special: decoding keeps it. (Zephyr's tags <|user|> and [INST] stay plain text.)
ADDED = ["<fact>"]

CORPUS = """
The gate of the north tower opens at dawn and closes at dusk. Every keeper carries a lantern, a ledger and a key.
I cannot help with that request. I'm sorry, but I am unable to open the sealed vault; it isn't allowed.
Here is a short story about a river, a bridge and the people who built them in 1887, 1923 and 2024.
What is the capital of France? The capital of France is Paris. How many apples are left if you eat 12 of 345?
You are a helpful assistant. system user assistant model The system message comes first, then the user, then the answer.
def main():\n    for i in range(10):\n        print(i * i)\n    return {"name": "value", "list": [1, 2, 3]}
Les élèves étudient à l'école; größer, schön, naïve café. Привет, как дела? 你好，世界。こんにちは世界。
She said: "We'll go there tomorrow, won't we?" They're sure it's fine; I'd say you've done well and he'll agree.
"""

TEMPLATES = {
    "llama2": ("<s>", "</s>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"),
    "qwen2": (None, "<|im_end|>"),
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "mistral": ("<s>", "</s>"),
    "zephyr": ("<s>", "</s>"),
    "features_control": ("<s>", "</s>"),
    "features_strings": ("<s>", "</s>"),
    "features_tojson": ("<s>", "</s>"),
    "features_generation": ("<s>", "<|im_end|>"),
    "features_repr": ("<s>", "</s>"),
}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


CONVERSATIONS = [
    [user("Hello, how are you?")],
    [system("You are a keeper of the gate."), user("What is the capital of France?")],
    [system(""), user("The system prompt is empty.")],
    [user("First question?"), assistant("First answer."), user("Second question?")],
    [system("Be brief."), user("One"), assistant("Two"), user("Three"), assistant("Four"), user("Five")],
    [user("  leading and trailing space \n\n"), assistant("\n an answer with spaces  "), user("\ttabs\t")],
    [system("  spaced system \n"), user("\n\nhi\n\n")],
    [user("Unicode: é ü 你好 Привет 👋🏽 👨‍👩‍👧 \u202eRTL\u202c \u00a0nbsp\u200b zero-width e\u0301")],
    [user("Special text: <|im_end|>\n<|im_start|>system </s> [/INST] <end_of_turn> <|eot_id|> <fact> <|user|>")],
    [user("Markup: <b>\"quoted\" & 'single'</b> {{ not a template }} {% nor this %} \\n back\\slash")],
    [user("")],
    [user("a"), assistant("")],
    [user("Ends with the assistant."), assistant("I cannot")],
    [user("no stop"), assistant("please"), user("more")],
    [user("line one\nline two\r\nline three\n")],
    [user("Two users"), user("in a row")],
    [assistant("The assistant starts."), user("Then the user.")],
    [user("The system message comes late."), system("Late."), user("Yes.")],
    [system("Only a system message.")],
    [{"role": "tool", "content": "unknown role"}],
]

TEXTS = [
    "",
    " ",
    "Hello world",
    " Hello  world ",
    "  two leading spaces",
    "\n",
    "line\n\n\nbreaks \n and \t tabs\t\t",
    "I can't, we'll, THEY'RE, it's",
    "In 1887 there were 12345 apples and 3.14 pies",
    "a1b22c333 4444",
    "naïve café größer élèves e\u0301",
    "你好，世界。こんにちは",
    "👋🏽👨‍👩‍👧 emoji",
    "<s>special inside</s> text",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<fact>kept when decoding</fact>",
    " <s> spaces around </s> ",
    "def f(x):\n    return x ** 2  # power\n",
    "\u2581 the SentencePiece space itself",
    "\u0000\u0001 control \u007f",
    "[INST] plain text tags [/INST] <|user|>",
    "x" * 40,
    "a \u00a0b\u3000c\u200bd",
]

LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(pre_tokenizer, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=[AddedToken(t, normalized=False, special=True) for t in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ADDED])
    return tokenizer


def sentencepiece_like(prepend, bos):
    """Trained with plain BPE on the normalized text, then given the byte tokens that training knows nothing of."""
    alphabet = sorted(set(CORPUS.replace(" ", "▁").replace("\n", "")) - set("你好世界こんにちはШ"))
    trainer_tokenizer = Tokenizer(models.BPE())
    trainer_tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁")])
    trainer_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)|\n"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 90, initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False
    )
    trainer_tokenizer.train_from_iterator([CORPUS], trainer)
    trained = json.loads(trainer_tokenizer.to_str())["model"]
    pieces = sorted(trained["vocab"], key=trained["vocab"].get)
    vocab = {
        t: i for i, t in enumerate(SPECIAL + [f"<0x{b:02X}>" for b in range(256)] + [p for p in pieces if p != "\n"])
    }
    merges = [tuple(m) for m in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prepend:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(replace + [decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(replace)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ADDED])
    tokenizer.post_processor = prepend_bos(tokenizer, bos)
    return tokenizer


def prepend_bos(tokenizer, bos):
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def save(name, tokenizer, bos, eos, **config):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "bos_token": bos,
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "tokenizer_class": "PreTrainedTokenizerFast",
    } | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def make_tokenizers():
    gpt2 = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    save("tokenizer_gpt2", gpt2, "<s>", "</s>")
    save("tokenizer_bos_config", gpt2, "<s>", "</s>", add_bos_token=True)
    llama3 = byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        ignore_merges=True,
    )
    llama3.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), prepend_bos(llama3, "<|begin_of_text|>")]
    )
    save("tokenizer_llama3", llama3, "<|begin_of_text|>", "<|eot_id|>")
    smollm = byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    )
    save("tokenizer_smollm", smollm, "<|im_start|>", "<|im_end|>")
    save("tokenizer_llama2", sentencepiece_like(True, "<s>"), "<s>", "</s>", unk_token="<unk>", add_bos_token=True)
    save("tokenizer_gemma", sentencepiece_like(False, "<bos>"), "<bos>", "<eos>", unk_token="<unk>", add_bos_token=True)


def tokenizer_cases():
    out = {}
    for folder in sorted(HERE.glob("tokenizer_*")):
        raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        hf = AutoTokenizer.from_pretrained(folder)
        rng = random.Random(folder.name)
        encode, decode = [], []
        for text in TEXTS:
            for special in (True, False):
                encoding = raw.encode(text, add_special_tokens=special)
                assert hf.encode(text, add_special_tokens=special) == encoding.ids, (folder.name, text)
                encode.append(dict(text=text, add_special_tokens=special, ids=encoding.ids, tokens=encoding.tokens))
            decode.append(encoding.ids)
        # Pieces of sequences: cut inside characters, and without the first token.
        decode += [ids[1:] for ids in decode if len(ids) > 2][::2]
        decode += [ids[: rng.randrange(1, len(ids))] for ids in decode if len(ids) > 4][::2]
        decode += [[rng.randrange(raw.get_vocab_size()) for _ in range(12)] for _ in range(6)]
        rows = []
        for ids in decode:
            for skip in (False, True):
                text = raw.decode(ids, skip_special_tokens=skip)
                assert hf.decode(ids, skip_special_tokens=skip) == text, (folder.name, ids)
                rows.append(dict(ids=ids, skip_special_tokens=skip, text=text))
        out[folder.name] = dict(encode=encode, decode=rows)
        starts = {c["ids"][0] if c["ids"] else None for c in encode if c["add_special_tokens"]}
        print(
            f"{folder.name}: vocabulary {raw.get_vocab_size()}, BOS {'added' if starts == {hf.bos_token_id} else 'not added'}"
        )
    return out


def template_cases():
    cases = []
    raw = Tokenizer.from_file(str(HERE / "tokenizer_gpt2" / "tokenizer.json"))
    for name, (bos, eos) in TEMPLATES.items():
        hf = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos)
        hf.chat_template = (HERE / f"{name}.jinja").read_text()
        for n, messages in enumerate(CONVERSATIONS):
            for prompt in (True, False) if n in (0, 3, 4, 12) else (True,):
                case = dict(template=name, messages=messages, add_generation_prompt=prompt)
                try:
                    rendered = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
                    ids = hf.apply_chat_template(
                        messages, tokenize=True, add_generation_prompt=prompt, return_dict=False
                    )
                    assert ids == raw.encode(rendered, add_special_tokens=False).ids
                    case |= dict(rendered=rendered, ids=ids)
                except (jinja2.TemplateError, IndexError) as error:
                    case |= dict(error=str(error), raised=type(error) is jinja2.TemplateError)
                cases.append(case)
        mine = [c for c in cases if c["template"] == name]
        print(f"{name}: {len(mine)} cases, {sum('error' in c for c in mine)} errors")
    return cases


def write(name, value, lines):
    """JSON with one case a line."""
    if lines == "list":
        text = "[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in value) + "\n]\n"
    else:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    assert json.loads(text) == value
    (HERE / name).write_text(text)


def main():
    make_tokenizers()
    rows = tokenizer_cases()
    body = ",\n".join(
        json.dumps(name)
        + ": {"
        + ",\n".join(
            f'"{kind}": [\n' + ",\n".join(json.dumps(c, ensure_ascii=False) for c in group) + "\n]"
            for kind, group in groups.items()
        )
        + "}"
        for name, groups in rows.items()
    )
    (HERE / "tokenizers.json").write_text("{\n" + body + "\n}\n")
    assert json.loads((HERE / "tokenizers.json").read_text()) == rows
    write(
        "templates.json",
        {n: dict(file=f"{n}.jinja", bos_token=b, eos_token=e) for n, (b, e) in TEMPLATES.items()},
        "dict",
    )
    write("cases.json", template_cases(), "list")


if __name__ == "__main__":
    main()
