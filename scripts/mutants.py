#!/usr/bin/env python3
"""Breaks the code on purpose, one fault at a time, and notes which test says so.

    python scripts/mutants.py                   # all faults; writes docs/mutants.md
    python scripts/mutants.py --only gemm       # those whose area, file or description matches; writes nothing
    python scripts/mutants.py --first 2         # two of each file; writes docs/mutants.md
    python scripts/mutants.py --list

Each fault replaces a piece of text that occurs once in a file, in a copy of the tree; then the tests named beside it run.
A fault is caught where they fail, run out of time or crash, and survives where they pass. The exit code is 1 if one
survived that has no reason beside it. About 25 s a fault on two idle
cores. Not part of CI.

The copy and its build are kept in `mutants/` of the target folder. `--resume` reuses the outcomes noted there for faults
that have not changed since (for when the tests have not either), and writes what is known by then.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants"
TREE = TARGET / "tree"
OUTCOMES = TARGET / "outcomes.json"
# Seconds that tests may run beyond their build; the slowest of them takes 20.
TIME_LIMIT = 240


class Fault(NamedTuple):
    area: str
    file: str
    # What is wrong with it, in a few words.
    what: str
    old: str
    new: str
    # Arguments of `cargo test --release`.
    tests: str
    # Why no test can see it, where none can.
    reason: str = ""


def ops(name, file, tests, *faults):
    return [Fault(f"ops/{name}", f"src/ops/{name}/{file}", what, old, new, tests) for what, old, new in faults]


def area(name, file, tests, *faults):
    return [Fault(name, file, what, old, new, tests) for what, old, new in faults]


FAULTS = [
    *ops("attention", "cpu.rs", "--test ops_attention",
        ("a query sees the key after it",
         "let last = (position + 1).saturating_sub(block).min(count);",
         "let last = (position + 2).saturating_sub(block).min(count);"),
        ("the window is one key wider",
         "(position + 1).saturating_sub(window).saturating_sub(block)",
         "position.saturating_sub(window).saturating_sub(block)"),
        ("sums of earlier blocks are not rescaled",
         "*total = *total * correction + S::sum(sum);",
         "*total += S::sum(sum);"),
        ("the forward softcap is not applied",
         "*score = cap * (*score / cap).tanh();",
         "*score = 1.0 * (*score / cap * cap);"),
        ("the softcap's slope is missing in the gradient",
         "*gradient = (*gradient - delta) * (1.0 - tanh * tanh) + delta;",
         "*gradient = (*gradient - delta) + delta;"),
        ("the score's scale is missing in the gradient",
         "S::mul(S::splat(params.scale), S::mul(weight, centred))",
         "S::mul(weight, centred)"),
        ("the last query that sees a block is left out of its gradient",
         "length.min(block + count + window - 1)",
         "length.min(block + count + window - 2)"),
        ("all keys come from a sequence's first page",
         "pages[j / PAGE] as usize * page_stride",
         "pages[0] as usize * page_stride"),
        ("a page is copied but for its last element",
         "copy_within(from * size..(from + 1) * size, to * size)",
         "copy_within(from * size..(from + 1) * size - 1, to * size)")),
    *ops("attention", "tile.rs", "--test ops_attention",
        ("the last, partial register of a head is left out of a score",
         "if d < depth {\n                let rest",
         "if d > depth {\n                let rest"),
        ("columns after the first whole register come from the wrong place",
         "let (v, stride) = (v.pointer.add(d), v.stride);",
         "let (v, stride) = (v.pointer, v.stride);")),
    *ops("rmsnorm", "cpu.rs", "--test ops_small",
        ("no epsilon", "x.len() as f32 + eps).sqrt()", "x.len() as f32 + 0.0 * eps).sqrt()"),
        ("the weight's offset is missing in the gradient",
         "S::add(S::splat(offset), load(weight))", "S::add(S::splat(0.0 * offset), load(weight))"),
        ("r to the second power, not the third", "let factor = r * r * r * projection;", "let factor = r * r * projection;"),
        ("the norm forgets what was added to the stream", "norm::<S>(sum, weight, offset, eps, y)", "norm::<S>(x, weight, offset, eps, y)"),
        ("the stream's own gradient is overwritten", "dy, dx, true, dweight)?;", "dy, dx, false, dweight)?;"),
        ("the weight's gradient forgets r", "*dweight += dy * x * r;", "*dweight += dy * x;"),
        ("only the last block's share of the weight's gradient counts",
         "*dweight += sum;", "*dweight = *sum;")),
    *ops("rope", "cpu.rs", "--test ops_small",
        ("the inverse rotates forward", "let sign = if inverse { -1.0 } else { 1.0 };",
         "let sign = if inverse { 1.0 } else { 1.0 };"),
        ("keys go into the cache as they were", "self.rope(q, k, cos, sin, false)?;\n        self.cache_write(params, batch, k, cache_k)?;",
         "self.cache_write(params, batch, k, cache_k)?;\n        self.rope(q, k, cos, sin, false)?;"),
        ("the second half turns the other way", "*high = b * cos + a * sin;", "*high = b * cos - a * sin;")),
    *ops("glu", "cpu.rs", "--test ops_small",
        ("a wrong digit in GELU's constant", "const GELU_CUBE: f32 = 0.044_715;", "const GELU_CUBE: f32 = 0.044_175;"),
        ("GELU's inner slope is left out of the derivative",
         "S::fma(S::mul(value, S::mul(e, s)), slope, s)", "S::fma(S::mul(value, S::mul(e, s)), one, s)"),
        ("the gradients of gate and up are exchanged",
         "(S::mul(S::mul(dy, load(up)), slope), S::mul(dy, value))",
         "(S::mul(dy, value), S::mul(S::mul(dy, load(up)), slope))"),
        ("the last, partial register is not written",
         "if rest > 0 {\n                let (value, _)", "if rest > 1 {\n                let (value, _)")),
    *ops("embedding", "cpu.rs", "--test ops_small",
        ("rows are not scaled", "if scale != 1.0 {", "if scale != scale {"),
        ("a repeated token keeps its last gradient only", "*target += scale * dy;", "*target = scale * dy;"),
        ("gradients are not scaled", "*target += scale * dy;", "*target += dy;")),
    *ops("linear", "cpu.rs", "--test ops_small",
        ("the bias is subtracted", "*y += b;", "*y -= b;"),
        ("the bias's gradient is the last row's", "*sum += dy;", "*sum = *dy;"),
        ("the input's gradient is never added to", "w.buffer.view(), k, dx, k, accumulate);",
         "w.buffer.view(), k, dx, k, accumulate && false);"),
        ("the weight's gradient is overwritten", "dw.buffer.f32_mut(), k, accumulate);", "dw.buffer.f32_mut(), k, false);")),
    *ops("elementwise", "cpu.rs", "--test ops_small",
        ("adds twice", "*y += x;", "*y += x + x;"),
        ("adds the factor", "*y *= self.0;", "*y += self.0;"),
        ("the cap is doubled", "self.isa().run(Softcap { values, cap })", "self.isa().run(Softcap { values, cap: 2.0 * cap })")),
    *ops("rows", "cpu.rs", "--test ops_small",
        ("the row before is picked", "y.copy_from_slice(&x[row as usize * cols..][..cols])",
         "y.copy_from_slice(&x[(row as usize).saturating_sub(1) * cols..][..cols])"),
        ("rows that nothing is scattered to keep what they held", "for_each(|x| x.fill(0.0))", "for_each(|_| ())")),
    *ops("linear_ce", "cpu.rs", "--test ops_linear_ce",
        ("every tile's kept logits are the first's", "let at = first * self.entries + count * start;",
         "let at = first * self.entries;"),
        ("p instead of p - 1 at the label", "(z - lse).exp_m1()", "(z - lse).exp()"),
        ("no softcap in the whole registers' gradient", "if let Some(cap) = softcap {\n                    let ratio",
         "if let Some(cap) = softcap.filter(|_| false) {\n                    let ratio"),
        ("equal logits rank before the label", "u32::from(z > label_logit)", "u32::from(z >= label_logit)"),
        ("the label's logit misses the softcap", "apply_softcap(self.isa(), logit, softcap);",
         "apply_softcap(self.isa(), logit, softcap.filter(|_| false));"),
        ("each tile of the vocabulary overwrites the hidden states' gradient",
         "w, size, dx, size, start > 0);", "w, size, dx, size, false);"),
        ("the coefficient is left out of the last logits", "*z = coefficient * (*z - lse).exp() * slope(*z);",
         "*z = (*z - lse).exp() * slope(*z);")),
    *ops("linear_ce", "tiles.rs", "--test ops_linear_ce",
        ("sums of earlier tiles are not rescaled", "sum: state.sum * correction + sum", "sum: state.sum + sum"),
        ("the last logits of a tile are not summed", "sum += e;\n", "sum += 0.0 * e;\n"),
        ("the entropy's sign", "(self.lse() - self.weighted / self.sum)", "(self.weighted / self.sum - self.lse())")),
    *ops("linear_kl", "cpu.rs", "--test ops_linear_kl",
        ("differences of earlier tiles are not rescaled", "state.difference * (before - max).exp() +",
         "state.difference +"),
        ("the last of equal logits is the argmax", "if new.max > state.max {", "if new.max >= state.max {"),
        ("q's normalizer is left out", "state.difference / state.p.sum - lse_p + lse_q", "state.difference / state.p.sum - lse_p + lse_p"),
        ("the divergence is not subtracted in p's gradient", "S::sub(S::sub(log_p, log_q), S::splat(kl))",
         "S::sub(S::sub(log_p, log_q), S::splat(0.0 * kl))"),
        ("q's gradient is q alone", "S::mul(slope(zq, softcap_q), S::sub(q, p))", "S::mul(slope(zq, softcap_q), q)"),
        ("q's gradient passes p's softcap", "slope(zq, softcap_q)", "slope(zq, softcap_p)"),
        ("each tile of the vocabulary overwrites the hidden states' gradient", "dx, size, tile.start > 0);",
         "dx, size, false);"),
        ("chunks of tokens share the first chunk's coefficients", "let scalars = scalars(first + i);",
         "let scalars = scalars(i);")),
    *ops("sampling", "filters.rs", "--test ops_sampling",
        ("the penalty works the wrong way on negative logits", "*z = if *z < 0.0 { *z * penalty } else { *z / penalty };",
         "*z /= penalty;"),
        ("a token that was said twice is penalised twice", "if *word & bit == 0 {", "if bit != 0 {"),
        ("one token more is kept", "select_nth_unstable_by(k - 1,", "select_nth_unstable_by(k,"),
        ("tokens tied with the k-th are dropped", "if *z < threshold {", "if *z <= threshold {"),
        ("top-p keeps p of the tail", "if cumulative > 1.0 - p {", "if cumulative > p {"),
        ("of equal logits the higher ids go first", ".then(a.cmp(&b))", ".then(b.cmp(&a))"),
        ("no draw at all", "let mut rest = f64::from(uniform) * total;", "let mut rest = f64::from(0.0 * uniform) * total;"),
        ("the last of equal logits is the greedy choice", "if z > logits[best] {", "if z >= logits[best] {")),
    *ops("sampling", "cpu.rs", "--test ops_sampling",
        ("every row is sampled as the first", "let row = row(i);", "let row = row(0 * i);")),
    *ops("adamw", "cpu.rs", "--test ops_small",
        ("epsilon before the bias correction", "(v.sqrt() / self.root + self.eps)", "((v.sqrt() + self.eps) / self.root)"),
        ("the gradient is not clipped", "let g = self.grad_scale * grad;", "let g = grad + 0.0 * self.grad_scale;"),
        ("the decay is not scaled by the learning rate", "(1.0 - f64::from(hyper.lr) * f64::from(hyper.weight_decay))",
         "(1.0 - f64::from(hyper.weight_decay))"),
        ("the norm misses the last elements", ".zip(rest) {", ".zip(&rest[..0]) {")),

    *area("gemm", "src/device/cpu/gemm/dot.rs", "--test ops_gemm",
        ("the last columns are never added to", "*y = if add { *y + S::sum(sums) } else { S::sum(sums) };",
         "*y = if add { S::sum(sums) } else { S::sum(sums) };"),
        ("the last columns sum in another order", "S::fma(S::load(x.add(S::LANES)), second, S::fma(S::load(x), first, sums))",
         "S::fma(S::load(x), first, S::fma(S::load(x.add(S::LANES)), second, sums))"),
        ("the last part of k is left out", "if p < k {\n                    let mut w_last = [W::ZERO; COLUMNS",
         "if p > k {\n                    let mut w_last = [W::ZERO; COLUMNS")),
    *area("gemm", "src/device/cpu/gemm/nt.rs", "--test ops_gemm",
        ("blocks of k depend on the way taken", "k: block.len().next_multiple_of(2 * S::LANES),",
         "k: block.len().next_multiple_of(2 * S::LANES) - if block.start > 0 { 2 * S::LANES } else { 0 },"),
        ("in place, every block of k is the first", "w: self.w.as_ptr().add(start * w_stride + block.start),",
         "w: self.w.as_ptr().add(start * w_stride),"),
        ("the second chunk of rows is written over the first",
         "add((self.rows.start + i) * y_stride + self.columns.start)", "add(i * y_stride + self.columns.start)")),
    *area("gemm", "src/device/cpu/gemm/panels.rs", "--test ops_gemm",
        ("each block of k overwrites the one before", "let add = accumulate || block.start > 0;", "let add = accumulate;"),
        ("the group of blocks is forgotten", "blocks(self.k, K_BLOCK, 1).skip(area.group).take(K_GROUP)",
         "blocks(self.k, K_BLOCK, 1).skip(0 * area.group).take(K_GROUP)"),
        ("the second area of columns reads the first's", "let row = p * self.product.b_stride + self.area.columns.start;",
         "let row = p * self.product.b_stride;")),
    *area("gemm", "src/device/cpu/gemm/outer.rs", "--test ops_gemm",
        ("partial tiles are never added to",
         "let sum = if self.add { S::add(S::load_partial(c, last), sums[i][j]) } else { sums[i][j] };",
         "let sum = if self.add { sums[i][j] } else { sums[i][j] };"),
        ("rows of a tile after the first few are the first again", "self.a = self.a.add(height * self.a_row);",
         "self.a = self.a.add(0 * height * self.a_row);")),
    *area("gemm", "src/device/cpu/gemm/mod.rs", "--test ops_gemm",
        ("an empty sum is added to what was there", "if !accumulate {\n        for i in 0..m", "if accumulate {\n        for i in 0..m")),
    *area("device", "src/device/cpu/memory.rs", "--lib",
        ("nothing that is freed is kept", "shelf(self).entry(vector.len()).or_default().push(vector);", "self.kept -= size;"),
        ("shorter vectors never make way", "while !fits(self)\n", "while fits(self) && !fits(self)\n")),
    *area("device", "src/device/cpu/tanh.rs", "--lib",
        ("a wrong digit in the polynomial", "2.063_909e-2", "2.036_909e-2")),

    *area("generate", "src/generate/tree.rs", "--lib",
        ("a split node keeps its end", "head.range.end = at;", "head.range.end = end;"),
        ("a split node's prompts stay with its head", "let ends = std::mem::take(&mut head.ends);", "let ends = Vec::new();"),
        ("equal prompts become two nodes", "if shared == prompt.len() {", "if shared > prompt.len() {")),
    *area("generate", "src/generate/pages.rs", "--test generation",
        ("shared pages are not counted", "self.references[page as usize] += 1;", "self.references[page as usize] += 0;"),
        ("the page where a branch splits is not copied",
         "self.cache.copy_page(&self.device, table.pages[whole] as usize, copy as usize)?;", ""),
        ("freed pages are lost", "self.free.push(page);", "let _ = page;")),
    *area("generate", "src/generate/engine.rs", "--test generation",
        ("the last of the prompts' rows is not the one that is sampled", "lists.wanted.push(lists.offsets[decoding + i + 1] - 1);",
         "lists.wanted.push(lists.offsets[decoding + i]);"),
        ("samples share their random numbers", "u32::from(self.setting) << 16 | u32::from(self.sample),",
         "u32::from(self.setting) << 16,"),
        ("a prefill does not count as response", "let position = tokens.len() - (self.prompt.len() - self.prefill);",
         "let position = tokens.len() - self.prompt.len();"),
        ("positions fall behind", "lists.positions.push(row.table.length as u32);", "lists.positions.push(row.table.length as u32 - 1);"),
        ("stop tokens are ignored", "if token.is_some_and(|token| spec.stop.contains(&token)) {",
         "if token.is_some_and(|token| spec.stop.contains(&token) && spec.stop.is_empty()) {"),
        ("a row may grow beyond the context", "tokens.len() >= self.model.config.max_position_embeddings",
         "tokens.len() > self.model.config.max_position_embeddings"),
        ("rows look up each other's pages", "lists.pages.resize((i + 1) * max_pages, 0);",
         "lists.pages.resize((i + 1) * max_pages, 0);\n            lists.pages[i * max_pages..].reverse();")),

    *area("train", "src/train/objective.rs", "--lib",
        ("beta falls one position early", "(_, 0..=5) => 2.0,", "(_, 0..=4) => 2.0,"),
        ("the loss misses its constant", "(softplus(beta * delta) - std::f64::consts::LN_2)", "softplus(beta * delta)"),
        ("w_t is half of what it is", "(loss, 2.0 * sigmoid(beta * delta))", "(loss, sigmoid(beta * delta))"),
        ("rejected answers are learned", "std::iter::repeat_n(-slope, pair[1])", "std::iter::repeat_n(slope, pair[1])")),
    *area("train", "src/train/objective.rs", "--test goldens --test training",
        ("the floor is a ceiling", "factors.push((weight as f32).max(floor));", "factors.push((weight as f32).min(floor));"),
        ("pairs are counted twice", "Self::Dpo { .. } => examples / 2,", "Self::Dpo { .. } => examples,")),
    *area("train", "src/train/schedule.rs", "--lib",
        ("warm-up is one step longer", "if step < warmup {", "if step <= warmup {"),
        ("the linear schedule counts warm-up as decay", "let done = (step - warmup) as f32", "let done = step as f32"),
        ("the cosine falls to 0", "0.1 + 0.9 * 0.5 *", "0.0 + 1.0 * 0.5 *")),
    *area("train", "src/train/trainer.rs", "--test goldens --test training",
        ("gradients pile up from step to step", "self.gradients.zero(&self.model.device)?;", ""),
        ("clipping scales up too", "(max_norm / (norm + 1e-6)).min(1.0)", "(max_norm / (norm + 1e-6))"),
        ("norms decay too", "if gradient.rows() == 1 { 0.0 } else { self.hyper.weight_decay }", "self.hyper.weight_decay"),
        ("groups are not weighted", "let factor = group.weight / denominator as f32;", "let factor = 1.0 / denominator as f32;"),
        ("micro-batches are averaged each on its own", "reference = rest;\n                let factor = group.weight / denominator as f32;",
         "reference = rest;\n                let factor = group.weight / labels.max(1) as f32 + 0.0 * denominator as f32;"),
        ("bf16 weights never follow their masters", "device.copy(&master.buffer, &mut parameter.buffer)?;\n                }\n                None => device.adamw",
         "}\n                None => device.adamw"),
        ("every step corrects its moments as the first", "step: self.step,\n                grad_scale", "step: 1,\n                grad_scale")),
    *area("train", "src/train/batch.rs", "--lib",
        ("a label is predicted from itself", "rows.push((offset + index - 1) as u32);", "rows.push((offset + index).min(offset + example.inputs().len() - 1) as u32);"),
        ("response positions count from 0", "positions.push(example.first_position + index - example.first_label);",
         "positions.push(example.first_position + index - example.first_label - 1);"),
        ("an epoch is one cycle", "order.swap(i, rng.below(i + 1));", "order.swap(i, rng.below(i));")),
    *area("train", "src/train/trainer.rs", "--test training",
        ("a step's first gradients are added to the last step's", "let accumulate = !std::mem::take(&mut self.fresh);",
         "let accumulate = !std::mem::take(&mut self.fresh) || self.step > 0;"),
        ("gradients of no labels are those of the last step", "if std::mem::take(&mut self.fresh) {",
         "if std::mem::take(&mut self.fresh) && self.step == 0 {")),
    *area("model", "src/model/passes.rs", "--lib",
        ("batches overrun the limit", "if tokens + length <= limit", "if tokens <= limit")),
    *area("train", "src/train/scoring.rs", "--test training",
        ("every example gets the first one's scores", "start += count;\n        }\n        progress", "start += 0 * count;\n        }\n        progress")),

    *area("model", "src/model/transformer.rs", "--test goldens",
        ("all layers have the first layer's window", "config.sliding_window[layer]", "config.sliding_window[0 * layer]"),
        ("the embedding's gradient is not scaled", "self.device.scale(self.config.embedding_scale, &mut dhidden)?;", ""),
        ("the MLP's gradient forgets up", "device.linear_backward_input(&dup, &layer.up_proj, &mut dnormed, true)?;", ""),
        ("v's gradient is left out", "device.linear_backward_input(&dv, &layer.v_proj.weight, &mut dnormed, true)?;", ""),
        ("queries and keys are rotated in the gradient as forward", "device.rope(&mut dq, &mut dk, cos, sin, true)?;",
         "device.rope(&mut dq, &mut dk, cos, sin, false)?;"),
        ("logits are not capped", "self.device.softcap(cap, &mut logits)?;", "let _ = cap;"),
        ("the last layer's output leaves the residual stream", "None => self.device.add(middle, output).map(|()| None),", "None => Ok(None),"),
        ("a layer's rows are normed for itself, not for the next", "self.parameters.layers.get(index + 1)", "self.parameters.layers.get(index)")),
    *area("model", "src/model/config/rope.rs", "--test model_config",
        ("linear scaling multiplies", "*frequency /= factor);", "*frequency *= factor);"),
        ("long wavelengths are not stretched", "*frequency /= factor as f32;", "*frequency /= 1.0 + 0.0 * factor as f32;"),
        ("the smooth part runs the other way", "(1.0 - smooth) * *frequency / factor as f32 + smooth * *frequency",
         "smooth * *frequency / factor as f32 + (1.0 - smooth) * *frequency"),
        ("rope_parameters comes before rope_scaling", 'let mut name = "rope_scaling";', 'let mut name = "rope_parameters";')),
    *area("model", "src/model/template.rs", "--test model_template --test model_tokenizer",
        ("blocks keep their indentation", ".lstrip_blocks(true)", ".lstrip_blocks(false)"),
        ("the end of a turn is any token", ".find(|&id| tokenizer.is_special(id))", ".next()"),
        ("alpaca has no BOS", "if self.prefixed { tokenizer.prefix() }", "if self.prefixed && self.place.is_empty() { tokenizer.prefix() }"),
        ("the first named template is the default one", 'text(entry, "name").as_deref() == Some("default")', 'text(entry, "name").is_some()')),
    *area("model", "src/model/weights/header.rs", "--test model_weights",
        ("tensors may overlap", "if begin < previous.1 {", "if begin < previous.1 && end < begin {"),
        ("gaps are allowed", "if begin > previous.1 {", "if begin > previous.1 && end < begin {"),
        ("lengths are not checked", "Some(expected) if expected != Some(bytes) =>", "Some(expected) if expected != Some(bytes) && bytes == 0 =>"),
        ("data starts one byte late", "let start = 8 + text.len();", "let start = 9 + text.len();")),
    *area("model", "src/model/weights/finite.rs", "--test model_weights",
        ("f16 is tested as bf16", "& 0x7c00 == 0x7c00", "& 0x7f80 == 0x7f80"),
        ("the place within a block is the place", "Some(number * BLOCK + within)", "Some(0 * number * BLOCK + within)")),
    *area("model", "src/model/weights/mod.rs", "--test model_weights",
        ("an index may name another file's tensor", "homes.get(&name).is_some_and(|home| home != own)", "homes.get(&name).is_some_and(|home| home == \"\" && own == \"\")"),
        ("vectors may have any shape", "[n] => shape == [1, n],", "[n] => shape[0] * shape[1] == n,")),
    *area("model", "src/model/tokenizer/class.rs", "--test model_tokenizer",
        ("every part of a text gets a leading space", '(true, false) => "first",', '(true, false) => "always",'),
        ("Llama 3 folders that name Llama 2's class get it", 'if text.contains("\\"ByteLevel\\"") => None,', 'if text.is_empty() => None,'),
        ("Qwen 2 keeps digits together", r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|", r"\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|")),
    *area("model", "src/model/tokenizer.rs", "--test model_tokenizer",
        ("a tokenizer may have one id too many", "size if size <= rows => Ok(()),", "size if size <= rows + 1 => Ok(()),"),
        ("added tokens come in any order", "by_id.sort_by_key(|(id, _)| *id);", "by_id.sort_by_key(|(id, _)| u32::MAX - *id);"),
        ("a token's text loses its leading space", "both.strip_prefix(text).map(str::to_owned)", "both.strip_prefix(text).map(|text| text.trim_start().to_owned())")),
]


def files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True)
    return [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def refresh():
    """The tree without faults; files that are alike keep their times, so that little is built again."""
    for name in files():
        source, copy = ROOT / name, TREE / name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def cargo(*arguments, limit=None):
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET / "build"), "CARGO_PROFILE_RELEASE_INCREMENTAL": "true",
                   "CARGO_PROFILE_RELEASE_DEBUG": "none", "RUST_BACKTRACE": "0"}
    return subprocess.run(["cargo", "test", "--release", "--quiet", *arguments], cwd=TREE, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit)


def run(fault):
    """`caught: TEST`, or `survived`."""
    path = TREE / fault.file
    original = path.read_text()
    path.write_text(original.replace(fault.old, fault.new))
    try:
        tests = fault.tests.split()
        built = cargo("--no-run", *tests)
        if built.returncode != 0:
            sys.exit(f"{fault.file}: {fault.what}: does not build\n{built.stdout}")
        try:
            result = cargo("--no-fail-fast", *tests, limit=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            return "caught: out of time"
        if result.returncode == 0:
            return "survived"
        failed = re.findall(r"^---- (\S+) stdout ----", result.stdout, re.M)
        return f"caught: {failed[0]}" if failed else "caught: the tests crash"
    finally:
        path.write_text(original)


def key(fault):
    return " | ".join([fault.file, fault.old, fault.new, fault.tests])


def write(noted):
    """The page, of all faults whose outcome is known."""
    known = [(fault, noted[key(fault)]) for fault in FAULTS if key(fault) in noted]
    caught = sum(outcome.startswith("caught") for _, outcome in known)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    lines = [
        "# Faults planted on purpose", "",
        f"{len(known)} of the {len(FAULTS)} faults in the table of `scripts/mutants.py` were planted (at {commit.stdout.strip()}), each alone; {caught} were",
        "caught. Beside each stands the first of the tests that failed, by name. `python scripts/mutants.py --resume` plants the",
        "others.", "",
    ]
    previous = None
    for fault, outcome in known:
        if fault.area != previous:
            blank = [""] if previous else []
            lines += [*blank, f"## {fault.area}", "", "| file | fault | outcome |", "|---|---|---|"]
            previous = fault.area
        outcome = outcome.replace("caught: ", "")
        outcome = f"`{outcome}`" if "::" in outcome or "_" in outcome else outcome
        if outcome == "survived":
            outcome = f"**survived**{': ' + fault.reason if fault.reason else ''}"
        lines.append(f"| {fault.file.removeprefix('src/')} | {fault.what} | {outcome} |")
    (ROOT / "docs/mutants.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help="faults whose area, file or description matches")
    parser.add_argument("--first", type=int, default=1 << 30, metavar="N", help="the first N faults of each file")
    parser.add_argument("--list", action="store_true", help="list the faults and check that each applies")
    parser.add_argument("--resume", action="store_true", help="reuse outcomes of earlier runs")
    options = parser.parse_args()
    place = lambda fault: [other for other in FAULTS if other.file == fault.file].index(fault)
    faults = [fault for fault in FAULTS if re.search(options.only, "\n".join(fault[:3])) and place(fault) < options.first]
    for fault in faults:
        count = (ROOT / fault.file).read_text().count(fault.old)
        if count != 1 or fault.old == fault.new:
            sys.exit(f"{fault.file}: {fault.what}: its text occurs {count} times")
        if options.list:
            print(f"{fault.area}: {fault.file}: {fault.what}")
    if options.list:
        return
    refresh()
    tests = sorted({argument for fault in faults for argument in fault.tests.split() if not argument.startswith("-")})
    integration = [flag for name in tests if (ROOT / f"tests/{name}.rs").exists() for flag in ("--test", name)]
    noted = json.loads(OUTCOMES.read_text()) if options.resume and OUTCOMES.exists() else {}
    sound = None if noted else cargo("--lib", *integration)
    if sound and sound.returncode != 0:
        sys.exit(f"the tests fail without a fault\n{sound.stdout}")
    outcomes = []
    for number, fault in enumerate(faults, 1):
        start = time.time()
        if key(fault) not in noted:
            noted[key(fault)] = run(fault)
            OUTCOMES.write_text(json.dumps(noted, indent=1))
        outcomes.append(noted[key(fault)])
        print(f"{number}/{len(faults)} {fault.file}: {fault.what}: {outcomes[-1]} ({time.time() - start:.0f} s)", flush=True)
    if options.resume or not options.only:
        write(noted)
    survivors = [fault for fault, outcome in zip(faults, outcomes) if outcome == "survived" and not fault.reason]
    sys.exit(f"{len(survivors)} survived" if survivors else 0)


if __name__ == "__main__":
    main()
