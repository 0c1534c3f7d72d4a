"""Make the model goldens: tiny random models and what PyTorch computes from them.

    pip install -r tests/goldens/requirements.txt
    python tests/goldens/make_goldens.py            # rewrites tests/goldens/<model>/

Each folder is a model as transformers saves it (config.json, model.safetensors) plus golden.safetensors. All
golden tensors are f32 except token ids and labels (i64). Everything is computed in f32 on one thread with eager
attention, one sequence at a time (no padding), except the `constrained.*` and `kl.*` sets, which are computed in
true f64 (see `f64_llama`) and rounded to f32 when stored.

The batch (N = 0, 1): two ragged sequences.
    seqN.input_ids [T]       19 and 11 tokens
    seqN.labels    [T]       the token to predict FROM position t (already shifted), -100 where masked. The first
                             labels are masked (the prompt); seq1's last label is masked too; no hole in between.
Forward:
    seqN.logits [T, V]       after the final softcap where the model has one
    seqN.embeds [T, H]       what enters the first layer (for Gemma: after the scaling by sqrt(H))
    seqN.layerI [T, H]       residual stream leaving layer I
    seqN.normed [T, H]       after the final norm, what the unembedding reads
    seqN.greedy [24] i64     greedy continuation of the whole seqN.input_ids (KV cache, never stopped by an EOS)
    loss []                  sum of cross-entropy over the unmasked labels of both sequences / their count
Backward, of that loss:
    grad.<parameter>         names as in model.safetensors; tied embeddings have the one sum of both uses under
                             model.embed_tokens.weight
    seqN.grad.inputs_embeds  [T, H] with respect to the rows of the embedding table AS LOOKED UP, that is before
                             Gemma's scaling by sqrt(H). (transformers scales inside `embed_tokens`, so its own
                             `inputs_embeds` are the scaled rows: their gradient is the one here / sqrt(H).) The
                             unembedding's use of a tied table is not in it.
Three AdamW steps on the same batch (lr 1e-3, betas 0.9 0.999, eps 1e-8, weight decay 0.01 except for norms and
biases, as transformers' Trainer groups them; gradients clipped to global norm 1 by clip_grad_norm_):
    step3.<parameter>        parameters after the third step
    stepN.loss, stepN.grad_norm (N = 1, 2, 3)   loss before step N; norm of its gradients before clipping
llama alone also has
    adamw.stepN.grad.<parameter>    gradients fed to step N, unclipped
    adamw.stepN.param.<parameter>   parameters after step N
and, with the model in llama_perturbed/ as the second model (f64; L labels: seq0's then seq1's):
    constrained.ref_logprobs [L]    log p of each label token under llama_perturbed (the "aligned" model)
    constrained.logprobs     [L]    and under llama
    constrained.beta         [L]    schedule `paper` by response position: 0.5, then 2.0 at 2..5, then 0.1
    constrained.weights      [L]    w_t = 2 sigmoid(beta_t (ref_logprob - logprob))
    constrained.per_token    [L]    -(2 / beta_t) log sigmoid(beta_t (logprob - ref_logprob)) - 2 ln 2 / beta_t
    constrained.loss         []     mean of per_token
    constrained.grad.<parameter>    its gradient
    kl.forward [L], kl.reverse [L]  KL(llama || llama_perturbed) and KL(llama_perturbed || llama) at label positions
    kl.seqN    [T]                  KL(llama || llama_perturbed) at every position
    kl.entropy [L]                  entropy of llama at label positions (nats)

llama_sharded is llama in three shards (no golden of its own: its numbers are llama's). llama_bf16 and llama_f16 hold
llama's weights rounded; their goldens are computed in f32 from the rounded weights and have no optimizer part.
llama3, mistral, qwen2 and gemma have their config.json in the style of published checkpoints (rope_theta and
rope_scaling at top level, torch_dtype); the others as transformers 5 writes it (rope_parameters, dtype).
"""

import argparse
import contextlib
import json
import math
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama import modeling_llama

HERE = Path(__file__).resolve().parent
VOCAB = 61
LENGTHS = (19, 11)  # tokens in each sequence
PROMPTS = (6, 3)  # masked labels at the start of each
GREEDY = 24
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
WEIGHT_DECAY = 0.01
CLIP = 1.0

COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,  # else nn.Embedding drops that row's gradient
)

# Per architecture: config class and what differs from COMMON.
ARCHITECTURES = {
    "llama": (
        transformers.LlamaConfig,
        dict(tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    ),
    # Wavelengths 6.3, 19.9, 62.8, 199: one is kept (< 10), one interpolated, two divided by the factor (> 40).
    "llama3": (
        transformers.LlamaConfig,
        dict(
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=100.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=40,
            ),
        ),
    ),
    # A window of 5 sees the token itself and 4 before it. head_dim is not hidden / heads.
    "mistral": (
        transformers.MistralConfig,
        dict(
            head_dim=16,
            sliding_window=5,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=1000.0),
        ),
    ),
    # use_sliding_window is off, so its sliding_window (see LEGACY) must have no effect.
    "qwen2": (
        transformers.Qwen2Config,
        dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
    ),
    "qwen3": (
        transformers.Qwen3Config,
        dict(head_dim=16, tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
    ),
    "gemma": (
        transformers.GemmaConfig,
        dict(head_dim=16, num_key_value_heads=1, rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    ),
    "gemma2": (
        transformers.Gemma2Config,
        dict(
            head_dim=16,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=3.0,
            query_pre_attn_scalar=24,
            sliding_window=6,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0),
        ),
    ),
}

# Keys of published checkpoints that replace transformers 5's `rope_parameters` and `dtype`.
LEGACY = {
    "llama3": dict(
        rope_theta=100.0,
        rope_scaling=dict(
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=40,
            rope_type="llama3",
        ),
    ),
    "mistral": dict(rope_theta=1000.0),
    "qwen2": dict(rope_theta=1000000.0, use_sliding_window=False, sliding_window=4, max_window_layers=1),
    "gemma": dict(rope_theta=10000.0, rope_scaling=None, hidden_act="gelu", hidden_activation=None),
}


def batch(seed):
    """The two sequences: (input_ids, labels) pairs."""
    g = torch.Generator().manual_seed(seed)
    pairs = []
    for n, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS)):
        tokens = torch.randint(3, VOCAB, (length + 1,), generator=g)
        tokens[0] = 1  # BOS
        labels = tokens[1:].clone()
        labels[:prompt] = -100
        if n == 1:
            labels[-1] = -100
        pairs.append((tokens[:-1].clone(), labels))
    return pairs


def randomise(model, seed):
    """Weights large enough that every part shows: matrices N(0, 0.2), the unembedding N(0, 0.3), embeddings
    N(0, 0.5), biases N(0, 0.3); norm weights N(the architecture's neutral value, 0.2). Multiples of 2^-12.
    """
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=g)
        if name.endswith("norm.weight") or name.endswith("layernorm.weight"):
            mean = 0.0 if model.config.model_type.startswith("gemma") else 1.0
            value = mean + 0.2 * draw
        elif name.endswith("bias"):
            value = 0.3 * draw
        elif "embed_tokens" in name:
            value = 0.5 * draw
        elif "lm_head" in name:
            value = 0.3 * draw
        else:
            value = 0.2 * draw
        p.data.copy_((value * 4096).round() / 4096)


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def rewrite_config(folder, legacy):
    """Turn a transformers 5 config.json into the style of published checkpoints."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters")
    config.pop("layer_types", None)
    config["torch_dtype"] = config.pop("dtype")
    config.update(legacy)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def cross_entropy(model, pairs, embeds=None):
    """Sum over unmasked labels / their count. `embeds`: inputs_embeds a sequence, in place of the token ids."""
    total, count = 0.0, 0
    for n, (ids, labels) in enumerate(pairs):
        inputs = dict(input_ids=ids[None]) if embeds is None else dict(inputs_embeds=embeds[n][None])
        logits = model(**inputs, use_cache=False).logits[0]
        total = total + F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        count += int((labels != -100).sum())
    return total / count


def parameters(model, prefix, what):
    return {f"{prefix}{name}": what(p).detach().clone() for name, p in model.named_parameters()}


def forward_golden(model, pairs):
    out = {}
    for n, (ids, labels) in enumerate(pairs):
        seen, handles = {}, []
        handles.append(
            model.model.layers[0].register_forward_pre_hook(
                lambda m, args, kw: seen.update(embeds=args[0] if args else kw["hidden_states"]), with_kwargs=True
            )
        )
        for i, layer in enumerate(model.model.layers):
            handles.append(
                layer.register_forward_hook(
                    lambda m, args, o, i=i: seen.update({f"layer{i}": o[0] if isinstance(o, tuple) else o})
                )
            )
        handles.append(model.model.norm.register_forward_hook(lambda m, args, o: seen.update(normed=o)))
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        out[f"seq{n}.input_ids"] = ids
        out[f"seq{n}.labels"] = labels
        out[f"seq{n}.logits"] = logits
        for name, value in seen.items():
            assert value.dim() == 3, (name, value.shape)
            out[f"seq{n}.{name}"] = value[0].detach()
        out[f"seq{n}.greedy"] = greedy(model, ids)
    return out


def greedy(model, ids):
    """With a KV cache; checked against recomputation without one, and must have no near tie."""
    with torch.no_grad():
        out = model.generate(
            ids[None],
            attention_mask=torch.ones_like(ids[None]),
            max_new_tokens=GREEDY,
            do_sample=False,
            eos_token_id=VOCAB,  # no token: never stop
            pad_token_id=0,
        )[0]
        for t in range(len(ids), len(out)):
            top = model(input_ids=out[None, :t], use_cache=False).logits[0, -1].topk(2)
            assert top.indices[0] == out[t], "cache and recomputation disagree"
            assert top.values[0] - top.values[1] > 1e-4, "near tie: choose another seed"
    return out[len(ids) :].clone()


def backward_golden(model, pairs):
    model.zero_grad()
    loss = cross_entropy(model, pairs)
    loss.backward()
    out = {"loss": loss.detach()}
    out |= parameters(model, "grad.", lambda p: p.grad)

    # The same loss from the looked-up rows, to take their gradient.
    table = model.model.embed_tokens
    scale = getattr(table, "embed_scale", None)
    rows = [F.embedding(ids, table.weight.detach()).requires_grad_() for ids, _ in pairs]
    scaled = rows if scale is None else [r * scale.to(r.dtype) for r in rows]
    again = cross_entropy(model, pairs, scaled)
    grads = torch.autograd.grad(again, rows)
    assert torch.equal(again.detach(), loss.detach())
    for n, g in enumerate(grads):
        out[f"seq{n}.grad.inputs_embeds"] = g
    # Scattered to the table they are its gradient (the lookup's share of it where the table is tied).
    scattered = torch.zeros_like(table.weight)
    for (ids, _), g in zip(pairs, grads):
        scattered.index_add_(0, ids, g)
    if not model.config.tie_word_embeddings:
        torch.testing.assert_close(scattered, out["grad.model.embed_tokens.weight"], rtol=1e-5, atol=1e-7)

    # Second way: a padded batch with an attention mask, and -log p gathered from a log-softmax.
    width = max(len(ids) for ids, _ in pairs)
    ids = torch.stack([F.pad(i, (0, width - len(i))) for i, _ in pairs])
    mask = torch.stack([F.pad(torch.ones_like(i), (0, width - len(i))) for i, _ in pairs])
    labels = torch.stack([F.pad(l, (0, width - len(l)), value=-100) for _, l in pairs])
    with torch.no_grad():
        logp = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
    keep = labels != -100
    manual = -logp[keep].gather(1, labels[keep][:, None]).mean()
    torch.testing.assert_close(manual, loss.detach(), rtol=1e-5, atol=1e-6)
    return out


def decays(name):
    """Which parameters transformers' Trainer decays: all but norms and biases."""
    return not (name.endswith("bias") or "norm" in name.split(".")[-2])


def adamw_golden(model, pairs, full):
    """`model` is changed."""
    from transformers.trainer import Trainer

    named = {n for n, _ in model.named_parameters()}
    expected = named & set(Trainer.get_decay_parameter_names(None, model))  # it also lists a tied lm_head
    assert expected == {n for n in named if decays(n)}
    groups = [
        dict(params=[p for n, p in model.named_parameters() if decays(n)], weight_decay=WEIGHT_DECAY),
        dict(params=[p for n, p in model.named_parameters() if not decays(n)], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, **ADAMW, foreach=False, fused=False)
    out = {}
    for step in (1, 2, 3):
        optimizer.zero_grad()
        loss = cross_entropy(model, pairs)
        loss.backward()
        if full:
            out |= parameters(model, f"adamw.step{step}.grad.", lambda p: p.grad)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP, foreach=False)
        assert norm > CLIP, "the clipping must matter"
        optimizer.step()
        if full:
            out |= parameters(model, f"adamw.step{step}.param.", lambda p: p)
        out |= {f"step{step}.loss": loss.detach(), f"step{step}.grad_norm": norm.detach()}
    return out | parameters(model, "step3.", lambda p: p)


@contextlib.contextmanager
def f64_llama():
    """transformers casts norms, softmax and rotary angles to f32 whatever the model's dtype; here they stay f64."""

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        key = modeling_llama.repeat_kv(key, module.num_key_value_groups)
        value = modeling_llama.repeat_kv(value, module.num_key_value_groups)
        weights = (query @ key.transpose(2, 3) * scaling + attention_mask).softmax(-1)
        assert weights.dtype == torch.float64
        return (weights @ value).transpose(1, 2).contiguous(), weights

    def rotary(self, x, position_ids):
        assert self.rope_type == "default"
        c = self.config
        inv_freq = c.rope_parameters["rope_theta"] ** -(
            torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim
        )
        angles = position_ids[..., None].double() * inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    places = [
        (modeling_llama.LlamaRMSNorm, "forward", norm),
        (modeling_llama, "eager_attention_forward", attention),
        (modeling_llama.LlamaRotaryEmbedding, "forward", rotary),
    ]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)


def paper_beta(position):
    """Response positions count from 1."""
    return 0.5 if position == 1 else 2.0 if position <= 5 else 0.1


def two_model_golden(folder, reference_folder, pairs, golden):
    """constrained.* and kl.*, in f64."""
    model, reference = load(folder, torch.float64), load(reference_folder, torch.float64)
    with f64_llama():
        logits = [model(input_ids=ids[None], use_cache=False).logits[0] for ids, _ in pairs]
        with torch.no_grad():
            ref_logits = [reference(input_ids=ids[None], use_cache=False).logits[0] for ids, _ in pairs]
    for n, l in enumerate(logits):
        error = (l.detach() - golden[f"seq{n}.logits"]).norm() / l.detach().norm()
        print(f"    f32 logits of seq{n} against f64: relative error {error:.1e}")
        assert error < 1e-6

    def labels_only(per_position):
        return torch.cat([x[labels != -100] for x, (_, labels) in zip(per_position, pairs)])

    def label_logprobs(per_position_logits):
        targets = torch.cat([labels[labels != -100] for _, labels in pairs])
        return labels_only([l.log_softmax(-1) for l in per_position_logits]).gather(1, targets[:, None])[:, 0]

    logp, ref = label_logprobs(logits), label_logprobs(ref_logits)
    counts = [int((labels != -100).sum()) for _, labels in pairs]
    beta = torch.tensor([paper_beta(t) for c in counts for t in range(1, c + 1)], dtype=torch.float64)
    per_token = -(2 / beta) * F.logsigmoid(beta * (logp - ref)) - 2 * math.log(2) / beta
    loss = per_token.mean()
    named = dict(model.named_parameters())
    grads = dict(zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True)))
    # Eq. 4: the same gradient from the weights.
    weights = (2 * torch.sigmoid(beta * (ref - logp))).detach()
    by_weights = torch.autograd.grad(-(weights * logp).mean(), list(named.values()))
    for a, b in zip(grads.values(), by_weights):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert weights.min() < 0.7 and weights.max() > 1.5, "weights should differ from 1"

    with torch.no_grad():

        def kl(a, b):
            a, b = a.log_softmax(-1), b.log_softmax(-1)
            return (a.exp() * (a - b)).sum(-1)

        out = {
            "constrained.ref_logprobs": ref,
            "constrained.logprobs": logp,
            "constrained.beta": beta,
            "constrained.weights": weights,
            "constrained.per_token": per_token,
            "constrained.loss": loss,
            "kl.forward": labels_only([kl(a, b) for a, b in zip(logits, ref_logits)]),
            "kl.reverse": labels_only([kl(b, a) for a, b in zip(logits, ref_logits)]),
            "kl.entropy": labels_only([-(a.softmax(-1) * a.log_softmax(-1)).sum(-1) for a in logits]),
        }
        out |= {f"kl.seq{n}": kl(a, b) for n, (a, b) in enumerate(zip(logits, ref_logits))}
    assert out["kl.forward"].min() > 0 and out["kl.reverse"].min() > 0
    out |= {f"constrained.grad.{name}": g for name, g in grads.items()}
    return {name: value.detach().float() for name, value in out.items()}


def save_golden(folder, tensors):
    assert all(t.dtype in (torch.float32, torch.int64) for t in tensors.values())
    assert all(torch.isfinite(t).all() for t in tensors.values())
    # One metadata key: safetensors writes several in random order, and the files should be reproducible.
    made_with = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    tensors = {name: t.contiguous().clone() for name, t in sorted(tensors.items())}
    save_file(tensors, folder / "golden.safetensors", metadata={"made_with": made_with})


def save_model(model, folder, **kwargs):
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **kwargs)
    (folder / "generation_config.json").unlink(missing_ok=True)


def make(name, out, seed):
    config_class, changes = ARCHITECTURES[name]
    config = config_class(**(COMMON | changes))
    folder = out / name
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    randomise(model, seed)
    save_model(model, folder)
    with torch.no_grad():
        before = model.eval()(input_ids=batch(seed)[0][0][None]).logits
    if name in LEGACY:
        rewrite_config(folder, LEGACY[name])
    model = load(folder)
    stored = set(load_file(folder / "model.safetensors"))
    assert stored == {n for n, _ in model.named_parameters()}, stored
    with torch.no_grad():
        assert torch.equal(before, model(input_ids=batch(seed)[0][0][None]).logits), "config.json does not say the same"
    pairs = batch(seed)
    golden = forward_golden(model, pairs) | backward_golden(model, pairs)
    print(
        f"{name}: loss {golden['loss']:.4f}, logits std {golden['seq0.logits'].std():.2f}, max {golden['seq0.logits'].abs().max():.2f}"
    )
    golden |= adamw_golden(load(folder), pairs, full=name == "llama")
    print(
        "    steps:",
        ", ".join(f"loss {golden[f'step{n}.loss']:.4f} norm {golden[f'step{n}.grad_norm']:.3f}" for n in (1, 2, 3)),
    )
    return model, pairs, golden


def ablate(out):
    """Each special part of each architecture must matter: change one key of its config, see the logits move."""
    changes = {
        "llama": [dict(rope_parameters=dict(rope_type="default", rope_theta=9000.0)), dict(rms_norm_eps=1e-3)],
        "llama3": [dict(rope_parameters=dict(rope_type="default", rope_theta=100.0))],
        "mistral": [dict(sliding_window=None), dict(sliding_window=4), dict(sliding_window=6)],
        "qwen2": [dict(use_sliding_window=True, sliding_window=4, max_window_layers=1, layer_types=None)],
        "gemma2": [
            dict(attn_logit_softcapping=None),
            dict(final_logit_softcapping=None),
            dict(sliding_window=5),
            dict(query_pre_attn_scalar=16),
            dict(layer_types=["full_attention", "sliding_attention"]),
        ],
    }
    for name, sets in changes.items():
        golden = load_file(out / name / "golden.safetensors")
        for change in sets:
            config = AutoConfig.from_pretrained(out / name).to_dict() | change
            config = ARCHITECTURES[name][0](**config)
            model = AutoModelForCausalLM.from_pretrained(
                out / name, config=config, dtype=torch.float32, attn_implementation="eager"
            )
            with torch.no_grad():
                logits = model(input_ids=golden["seq0.input_ids"][None]).logits[0]
            moved = (logits - golden["seq0.logits"]).norm() / golden["seq0.logits"].norm()
            print(f"  {name} with {change}: logits move by {moved:.1e}")
            assert moved > 1e-4, "this part does not show"


def main():
    parser = argparse.ArgumentParser(description="Make the tiny models and their goldens.")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the model folders [tests/goldens]")
    args = parser.parse_args()
    out = args.output
    out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    for seed, name in enumerate(ARCHITECTURES, start=1):
        model, pairs, golden = make(name, out, seed)
        if name == "llama":
            perturbed = load(out / name)
            g = torch.Generator().manual_seed(99)
            for p in perturbed.parameters():
                p.data += 0.05 * torch.randn(p.shape, generator=g)
            save_model(perturbed, out / "llama_perturbed")
            golden |= two_model_golden(out / name, out / "llama_perturbed", pairs, golden)
        save_golden(out / name, golden)

    llama = load(out / "llama")
    save_model(llama, out / "llama_sharded", max_shard_size="30KB")
    shards = sorted((out / "llama_sharded").glob("*.safetensors"))
    print("llama_sharded:", *(f"{s.name} {s.stat().st_size} B" for s in shards))
    assert len(shards) == 3
    for short, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        folder = out / f"llama_{short}"
        rounded = load(out / "llama").to(dtype)
        save_model(rounded, folder)
        assert all(t.dtype == dtype for t in load_file(folder / "model.safetensors").values())
        model = load(folder)
        pairs = batch(1)
        golden = forward_golden(model, pairs) | backward_golden(model, pairs)
        print(f"llama_{short}: loss {golden['loss']:.4f}")
        save_golden(folder, golden)
    ablate(out)


if __name__ == "__main__":
    main()
