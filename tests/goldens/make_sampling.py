"""Make sampling.json: logits before and after transformers' processors.

    pip install -r tests/goldens/requirements.txt
    python tests/goldens/make_sampling.py

The order is that of `generate`: repetition penalty, temperature, top-k, top-p. As `generate` does, a processor at its
neutral value (penalty 1, temperature 1, top_k 0, top_p 1) is left out altogether. Everything is f32.

sampling.json:
    logits    {name: [V numbers]}
    previous  {name: [token ids, prompt and output together, repeats allowed]}
    cases     [{logits: name, previous: name, repetition_penalty, temperature, top_k, top_p,
                scores: [V numbers, null for -inf],
                tie_at_cut: true where equal scores fall on both sides of top-p's cut}]

Top-k keeps all that tie with the k-th. Where several scores tie at top-p's cut, how many of them stay is defined but
not which: torch.sort is unstable by default, its order among equals depends on the CPU. These goldens were made with a
stable ascending sort, so the higher token ids stay; compare `tie_at_cut` cases by count unless you do the same.
Cases whose cumulative
probability comes within 1e-5 of the cut are left out: rounding would decide them.
"""

import contextlib
import json
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

HERE = Path(__file__).resolve().parent
V = 41
MARGIN = 1e-5
NEUTRAL = dict(repetition_penalty=1.0, temperature=1.0, top_k=0, top_p=1.0)


def short(x):
    """The shortest decimal that is this f32 again."""
    return float(str(np.float32(x)))


def vectors():
    rng = np.random.default_rng(7)

    def f32(values):
        return [short(v) for v in values]

    logits = {
        "plain": f32(rng.normal(0, 2, V)),
        "peaked": f32(np.where(np.arange(V) == 17, 9.5, rng.normal(0, 1.5, V))),
        "large": f32(rng.normal(0, 40, V) + 300),
        "ties": f32(np.round(rng.normal(0, 1.2, V))),
        "two_level": f32(np.where(np.arange(V) % 3 == 0, 2.0, -1.0)),
        "equal": f32(np.full(V, 1.25)),
        "negative": f32(-np.abs(rng.normal(8, 3, V))),
        "mixed": f32(np.concatenate([rng.normal(0, 0.1, V - 4), [6.0, 6.0, 5.5, -70.0]])),
    }
    previous = {
        "none": [],
        "some": [int(i) for i in rng.integers(0, V, 12)] + [17, 17, 0, V - 1],
        "all": list(range(V)),
    }
    return logits, previous


def settings():
    """(previous, settings that differ from NEUTRAL)."""
    for penalty in (1.1, 1.3, 2.0, 0.7):
        for previous in ("some", "all"):
            yield previous, dict(repetition_penalty=penalty)
    for temperature in (0.05, 0.3, 0.6, 0.9, 1.5, 5.0):
        yield "none", dict(temperature=temperature)
    for k in (1, 2, 3, 5, 10, 20, 40, 41, 50, 500):
        yield "none", dict(top_k=k)
    for p in np.arange(1, 21):
        yield "none", dict(top_p=round(0.05 * float(p), 2))
    for p in (0.001, 0.6, 0.999):
        yield "none", dict(top_p=p)
    yield "none", dict(temperature=0.9, top_p=0.6, top_k=50)
    yield "none", dict(temperature=0.9, top_p=0.6)
    yield "none", dict(temperature=0.7, top_k=8)
    yield "none", dict(top_k=7, top_p=0.5)
    yield "none", dict(top_k=3, top_p=0.95)
    yield "some", dict(repetition_penalty=1.2, temperature=0.9, top_k=50, top_p=0.6)
    yield "some", dict(repetition_penalty=1.1, temperature=0.6, top_k=10, top_p=0.9)
    yield "all", dict(repetition_penalty=1.5, temperature=1.3, top_k=5, top_p=0.8)
    yield "some", dict(repetition_penalty=0.8, temperature=2.0, top_k=20, top_p=0.35)
    yield "some", dict(repetition_penalty=1.3, top_p=0.45)


@contextlib.contextmanager
def stable_sort():
    unstable = torch.sort
    torch.sort = lambda x, descending: unstable(x, dim=-1, descending=descending, stable=True)
    try:
        yield
    finally:
        torch.sort = unstable


def processors(s):
    out = LogitsProcessorList()
    if s["repetition_penalty"] != 1.0:
        out.append(RepetitionPenaltyLogitsProcessor(s["repetition_penalty"]))
    if s["temperature"] != 1.0:
        out.append(TemperatureLogitsWarper(s["temperature"]))
    if s["top_k"] != 0:
        out.append(TopKLogitsWarper(s["top_k"]))
    if s["top_p"] != 1.0:
        out.append(TopPLogitsWarper(s["top_p"]))
    return out


def check_order():
    """That list is what `generate` itself builds."""
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    full = dict(repetition_penalty=1.2, temperature=0.9, top_k=5, top_p=0.6)
    for s in (NEUTRAL, full):
        config, _ = model._prepare_generation_config(GenerationConfig(do_sample=True, **s))
        theirs = model._get_logits_processor(
            config, input_ids_seq_length=4, prefix_allowed_tokens_fn=None, logits_processor=LogitsProcessorList()
        )
        assert [type(p) for p in theirs] == [type(p) for p in processors(s)], (s, theirs)


def top_p_cut(before, s):
    """Margin of the cut and whether equal scores straddle it, from the scores that enter top-p."""
    x = np.sort(before.double().numpy())
    p = np.exp(x - x.max())
    p /= p.sum()
    cumulative = np.cumsum(p)
    margin = np.abs(cumulative[p > 0] - (1 - s["top_p"])).min()
    dropped = int((cumulative[:-1] <= 1 - s["top_p"]).sum())
    tie = dropped > 0 and x[dropped - 1] == x[dropped]
    return margin, bool(tie)


def main():
    torch.set_num_threads(1)
    check_order()
    logits, previous = vectors()
    cases, left_out = [], 0
    for name, values in logits.items():
        for prev, changes in settings():
            s = NEUTRAL | changes
            scores = torch.tensor([values])
            ids = torch.tensor([previous[prev]], dtype=torch.long)
            tie = False
            for processor in processors(s):
                if isinstance(processor, TopPLogitsWarper):
                    margin, tie = top_p_cut(scores[0], s)
                    if margin < MARGIN:
                        break
                before = scores
                with stable_sort():
                    scores = processor(ids, scores)
            else:
                out = [None if v == float("-inf") else short(v) for v in scores[0].tolist()]
                kept = [i for i, v in enumerate(out) if v is not None]
                assert kept
                if tie:
                    lowest = min(out[i] for i in kept)
                    tied = [i for i in range(V) if short(before[0, i].item()) == lowest]
                    assert [i for i in tied if i in kept] == tied[-sum(out[i] == lowest for i in kept) :]
                cases.append(dict(logits=name, previous=prev, **s, scores=out, tie_at_cut=tie))
                continue
            left_out += 1
    ties = sum(c["tie_at_cut"] for c in cases)
    print(f"{len(cases)} cases, {ties} with a tie at the cut; {left_out} left out as too close to call")
    lines = ",\n".join("  " + json.dumps(c) for c in cases)
    head = json.dumps(dict(logits=logits, previous=previous), indent=1)[:-2]
    (HERE / "sampling.json").write_text(f'{head},\n "cases": [\n{lines}\n ]\n}}\n')
    json.loads((HERE / "sampling.json").read_text())


if __name__ == "__main__":
    main()
