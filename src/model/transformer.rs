//! The whole decoder-only transformer, forward and backward, written out layer by layer.
//!
//! Rows are tokens: a ragged batch of sequences laid end to end, `[tokens, hidden_size]`, without padding.

use super::Config;
pub use super::batch::Batch;
use super::parameters::{Layer, Parameters, Projection};
use crate::Result;
use crate::device::cuda::nvtx;
use crate::device::{Backend, DType, Tensor};
use crate::ops::Ops;
use crate::ops::attention::{AttentionParams, PAGE, Paged, Ragged};

/// A model on a device.
pub struct Transformer<D: Ops> {
    pub device: D,
    pub config: Config,
    pub parameters: Parameters<Tensor<D>>,
}

/// Keys and values of every layer, in pages of [`PAGE`] positions.
pub struct KvCache<D: Backend> {
    /// One `[num_pages, num_key_value_heads * PAGE * head_dim]` tensor a layer.
    keys: Vec<Tensor<D>>,
    values: Vec<Tensor<D>>,
    num_pages: usize,
}

impl<D: Ops> KvCache<D> {
    pub fn new(model: &Transformer<D>, num_pages: usize) -> Result<Self> {
        let (config, dtype) = (&model.config, model.branch_dtype());
        let cols = config.num_key_value_heads * PAGE * config.head_dim;
        let pools = || -> Result<Vec<Tensor<D>>> {
            (0..config.num_hidden_layers).map(|_| Tensor::zeros(&model.device, dtype, num_pages, cols)).collect()
        };
        Ok(Self { keys: pools()?, values: pools()?, num_pages })
    }

    pub fn num_pages(&self) -> usize {
        self.num_pages
    }

    /// Makes room for `num_pages` pages; those there keep their numbers and contents.
    pub fn grow(&mut self, device: &D, num_pages: usize) -> Result<()> {
        for cache in self.keys.iter_mut().chain(&mut self.values) {
            *cache = device.cache_grow(cache, num_pages)?;
        }
        self.num_pages = num_pages;
        Ok(())
    }

    /// Copies page `from` to page `to` in every layer.
    pub fn copy_page(&mut self, device: &D, from: usize, to: usize) -> Result<()> {
        self.keys.iter_mut().chain(&mut self.values).try_for_each(|cache| device.cache_copy_page(cache, from, to))
    }
}

/// What the backward pass needs of the forward pass. Empty by default and after the backward pass, but for its memory.
pub struct Activations<D: Backend> {
    /// cos and sin of the batch's positions.
    angles: Option<[Tensor<D>; 2]>,
    /// Every layer's input, and the rest unless it is to be recomputed.
    layers: Vec<(Tensor<D>, Option<LayerActivations<D>>)>,
}

impl<D: Backend> Default for Activations<D> {
    fn default() -> Self {
        Self { angles: None, layers: Vec::new() }
    }
}

impl<D: Backend> Activations<D> {
    /// The residual stream before each layer, `[tokens, hidden_size]`; nothing was kept of it by [`Keep::Nothing`].
    pub fn layer_inputs(&self) -> impl Iterator<Item = &Tensor<D>> {
        self.layers.iter().map(|(input, _)| input)
    }
}

/// What a layer computed on its way, as far as the backward pass cannot cheaply recompute it.
struct LayerActivations<D: Backend> {
    /// q and k before the QK norm, where there is one.
    unnormed: Option<(Tensor<D>, Tensor<D>)>,
    /// After RoPE.
    q: Tensor<D>,
    k: Tensor<D>,
    v: Tensor<D>,
    attended: Tensor<D>,
    lse: Tensor<D>,
    /// Before Gemma 2's post-attention norm.
    attention_output: Option<Tensor<D>>,
    /// The residual stream between attention and MLP.
    middle: Tensor<D>,
    gate: Tensor<D>,
    up: Tensor<D>,
    /// Before Gemma 2's post-feedforward norm.
    mlp_output: Option<Tensor<D>>,
}

/// Which activations a forward pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None: inference.
    Nothing,
    /// All that the backward pass reads.
    Everything,
    /// Layer inputs only; the backward pass runs each layer forward again (less memory, a third more time).
    LayerInputs,
}

/// The gradient of the residual stream.
struct StreamGradient<D: Backend> {
    /// In f32, as the stream is.
    exact: Tensor<D>,
    /// The same as the products of a branch take it, rounded once for both of them; `None` where they take it as it is, or
    /// where post-norms stand between.
    rounded: Option<Tensor<D>>,
}

impl<D: Backend> StreamGradient<D> {
    /// The gradient of the output of a branch that was added to the stream.
    fn of_branch(&self) -> &Tensor<D> {
        self.rounded.as_ref().unwrap_or(&self.exact)
    }
}

/// Where a layer's attention finds its keys and values.
enum Source<'a, D: Backend> {
    /// Among the rows of this batch.
    Batch(&'a Ragged<D>),
    /// In the cache, which first receives this batch's.
    Cache { batch: &'a Paged<D>, keys: &'a mut Tensor<D>, values: &'a mut Tensor<D> },
}

impl<D: Ops> Transformer<D> {
    /// Last hidden states, before the final norm, of a batch without a cache: `[tokens, hidden_size]`.
    pub fn forward(&self, batch: &Batch<D>, keep: Keep) -> Result<(Tensor<D>, Activations<D>)> {
        let mut activations = Activations::default();
        let hidden = self.forward_into(batch, keep, &mut activations)?;
        Ok((hidden, activations))
    }

    /// [`Self::forward`] with activations that keep their memory from step to step.
    pub fn forward_into(&self, batch: &Batch<D>, keep: Keep, activations: &mut Activations<D>) -> Result<Tensor<D>> {
        let _range = nvtx::range(c"forward");
        let [cos, sin] = self.rope_table(&batch.positions, batch.tokens)?;
        let mut hidden = self.embed(&batch.ids, batch.tokens)?;
        let mut normed = None;
        let layers = &mut activations.layers;
        layers.clear();
        for index in 0..self.config.num_hidden_layers {
            let source = Source::Batch(&batch.ragged);
            let (mut output, kept) = self.layer_forward(index, &hidden, normed, &cos, &sin, source)?;
            normed = self.leave_layer(index, &kept.middle, &mut output)?;
            match keep {
                Keep::Nothing => hidden = output,
                Keep::Everything => layers.push((std::mem::replace(&mut hidden, output), Some(kept))),
                Keep::LayerInputs => layers.push((std::mem::replace(&mut hidden, output), None)),
            }
        }
        activations.angles = Some([cos, sin]);
        Ok(hidden)
    }

    /// Last hidden states, before the final norm, of new rows whose earlier positions lie in `cache`; stores the new
    /// rows' keys and values there. Row for row the same bits as [`Self::forward`].
    pub fn forward_cached(
        &self,
        ids: &D::Indices,
        positions: &D::Indices,
        tokens: usize,
        batch: &Paged<D>,
        cache: &mut KvCache<D>,
    ) -> Result<Tensor<D>> {
        let _range = nvtx::range(if tokens == batch.count { c"decode step" } else { c"prefill" });
        let [cos, sin] = self.rope_table(positions, tokens)?;
        let mut hidden = self.embed(ids, tokens)?;
        let mut normed = None;
        for index in 0..self.config.num_hidden_layers {
            let source = Source::Cache { batch, keys: &mut cache.keys[index], values: &mut cache.values[index] };
            let (mut output, kept) = self.layer_forward(index, &hidden, normed, &cos, &sin, source)?;
            normed = self.leave_layer(index, &kept.middle, &mut output)?;
            hidden = output;
        }
        Ok(hidden)
    }

    /// The final norm on some rows of the last hidden states: what the unembedding multiplies.
    pub fn final_norm(&self, hidden: &Tensor<D>, rows: &D::Indices, count: usize) -> Result<Tensor<D>> {
        let picked = self.gather(hidden, rows, count)?;
        self.norm(&picked, &self.parameters.norm, DType::F32)
    }

    /// Logits of normed rows, `[rows, vocab_size]`: for sampling only; losses never build them.
    pub fn logits(&self, normed: &Tensor<D>) -> Result<Tensor<D>> {
        let mut logits = self.empty(normed.rows(), self.config.vocab_size)?;
        self.device.linear(normed, self.parameters.unembedding(), None, &mut logits)?;
        if let Some(cap) = self.config.final_logit_softcapping {
            self.device.softcap(cap, &mut logits)?;
        }
        Ok(logits)
    }

    /// Gradient of the last hidden states from the gradient of their normed rows; adds the norm's own gradient.
    pub fn final_norm_backward(
        &self,
        hidden: &Tensor<D>,
        rows: &D::Indices,
        dnormed: &Tensor<D>,
        gradients: Option<&mut Parameters<Tensor<D>>>,
    ) -> Result<Tensor<D>> {
        let picked = self.gather(hidden, rows, dnormed.rows())?;
        let mut dpicked = picked.empty_like(&self.device)?;
        let dweight = gradients.map(|gradients| &mut gradients.norm);
        self.norm_backward(&picked, &self.parameters.norm, dnormed, &mut dpicked, dweight)?;
        let mut dhidden = hidden.empty_like(&self.device)?;
        self.device.scatter_rows(&dpicked, rows, &mut dhidden)?;
        Ok(dhidden)
    }

    /// Backward through every layer and the embedding, from `dhidden`, the gradient of [`Self::forward`]'s result.
    ///
    /// Adds to `gradients`, if given; returns the gradient of the rows looked up in the embedding table (before Gemma's
    /// scaling), `[tokens, hidden_size]`.
    pub fn backward(
        &self,
        batch: &Batch<D>,
        mut activations: Activations<D>,
        dhidden: Tensor<D>,
        gradients: Option<&mut Parameters<Tensor<D>>>,
    ) -> Result<Tensor<D>> {
        self.backward_from(batch, &mut activations, dhidden, gradients, true)
    }

    /// [`Self::backward`] that empties `activations` for the next forward pass, and overwrites the gradients of layers'
    /// matrices unless it is to `accumulate`.
    pub fn backward_from(
        &self,
        batch: &Batch<D>,
        activations: &mut Activations<D>,
        dhidden: Tensor<D>,
        mut gradients: Option<&mut Parameters<Tensor<D>>>,
        accumulate: bool,
    ) -> Result<Tensor<D>> {
        let _range = nvtx::range(c"backward");
        let mut dhidden = StreamGradient { rounded: self.round_for_branches(&dhidden)?, exact: dhidden };
        let [cos, sin] = activations.angles.take().expect("the forward pass kept its angles");
        let layers = &mut activations.layers;
        for index in (0..self.config.num_hidden_layers).rev() {
            let (input, kept) = layers.pop().expect("the forward pass kept its activations");
            let kept = match kept {
                Some(kept) => kept,
                None => self.layer_forward(index, &input, None, &cos, &sin, Source::Batch(&batch.ragged))?.1,
            };
            let layer = gradients.as_mut().map(|gradients| &mut gradients.layers[index]);
            self.layer_backward(index, batch, &input, &kept, &cos, &sin, &mut dhidden, layer, accumulate)?;
        }
        let mut dhidden = dhidden.exact;
        if let Some(gradients) = gradients {
            let scale = self.config.embedding_scale;
            self.device.embedding_backward(&batch.ids, &dhidden, scale, &mut gradients.embed_tokens)?;
        }
        if self.config.embedding_scale != 1.0 {
            self.device.scale(self.config.embedding_scale, &mut dhidden)?;
        }
        Ok(dhidden)
    }

    /// The output of the layer's MLP, which [`Self::leave_layer`] adds to the stream, and what the backward pass needs.
    /// `normed` has the rows of `input` normed, where the layer before has made them.
    fn layer_forward(
        &self,
        index: usize,
        input: &Tensor<D>,
        normed: Option<Tensor<D>>,
        cos: &Tensor<D>,
        sin: &Tensor<D>,
        source: Source<'_, D>,
    ) -> Result<(Tensor<D>, LayerActivations<D>)> {
        let layer = &self.parameters.layers[index];
        let device = &self.device;
        let params = self.attention_params(index);
        let branch = self.branch_dtype();

        let range = nvtx::range(c"attention");
        // Attention: x + [post_attention_layernorm] o_proj(attention(rope(qk_norm(q)), rope(qk_norm(k)), v))
        let normed = match normed {
            Some(normed) => normed,
            None => self.norm(input, &layer.input_layernorm, branch)?,
        };
        let mut q = self.project(&normed, &layer.q_proj, branch)?;
        let mut k = self.project(&normed, &layer.k_proj, branch)?;
        let v = self.project(&normed, &layer.v_proj, branch)?;
        drop(normed);
        let unnormed = match (&layer.q_norm, &layer.k_norm) {
            (Some(q_norm), Some(k_norm)) => {
                let (normed_q, normed_k) = (self.norm(&q, q_norm, branch)?, self.norm(&k, k_norm, branch)?);
                Some((std::mem::replace(&mut q, normed_q), std::mem::replace(&mut k, normed_k)))
            }
            _ => None,
        };
        let mut attended = q.empty_like(device)?;
        let lse = match source {
            Source::Batch(ragged) => {
                device.rope(&mut q, &mut k, cos, sin, false)?;
                let mut lse = Tensor::empty(device, DType::F32, q.rows(), params.num_heads)?;
                device.attention(&params, ragged, &q, &k, &v, &mut attended, &mut lse)?;
                lse
            }
            Source::Cache { batch, keys, values } => {
                device.rope_to_cache(&params, batch, &mut q, &mut k, &v, cos, sin, keys, values)?;
                device.attention_paged(&params, batch, &q, keys, values, &mut attended)?;
                Tensor::empty(device, DType::F32, 0, params.num_heads)?
            }
        };
        let mut middle = self.project(&attended, &layer.o_proj, DType::F32)?;
        let attention_output = if self.config.post_norms {
            let normed = self.norm(&middle, &layer.post_attention_layernorm, DType::F32)?;
            Some(std::mem::replace(&mut middle, normed))
        } else {
            None
        };
        let normed = self.add_norm(input, &mut middle, self.mlp_norm(layer))?;
        drop(range);

        let _range = nvtx::range(c"mlp");
        // MLP: x + [post_feedforward_layernorm] down_proj(act(gate_proj(x)) * up_proj(x)); that sum is for `leave_layer`.
        let gate = self.linear(&normed, &layer.gate_proj, branch)?;
        let up = self.linear(&normed, &layer.up_proj, branch)?;
        drop(normed);
        let mut activated = gate.empty_like(device)?;
        device.glu(self.config.hidden_activation, &gate, &up, &mut activated)?;
        let mut output = self.linear(&activated, &layer.down_proj, DType::F32)?;
        drop(activated);
        let mlp_output = match &layer.post_feedforward_layernorm {
            Some(weight) => {
                let normed = self.norm(&output, weight, DType::F32)?;
                Some(std::mem::replace(&mut output, normed))
            }
            None => None,
        };
        let kept =
            LayerActivations { unnormed, q, k, v, attended, lse, attention_output, middle, gate, up, mlp_output };
        Ok((output, kept))
    }

    /// Adds `middle` to the output of a layer's MLP, which becomes the next layer's input; the same normed for it.
    fn leave_layer(&self, index: usize, middle: &Tensor<D>, output: &mut Tensor<D>) -> Result<Option<Tensor<D>>> {
        match self.parameters.layers.get(index + 1) {
            Some(next) => self.add_norm(middle, output, &next.input_layernorm).map(Some),
            None => self.device.add(middle, output).map(|()| None),
        }
    }

    /// `dhidden` holds the gradient of the layer's output, and afterwards that of its input.
    #[allow(clippy::too_many_arguments)]
    fn layer_backward(
        &self,
        index: usize,
        batch: &Batch<D>,
        input: &Tensor<D>,
        kept: &LayerActivations<D>,
        cos: &Tensor<D>,
        sin: &Tensor<D>,
        dhidden: &mut StreamGradient<D>,
        mut gradients: Option<&mut Layer<Tensor<D>>>,
        accumulate: bool,
    ) -> Result<()> {
        let layer = &self.parameters.layers[index];
        let device = &self.device;
        let params = self.attention_params(index);

        let range = nvtx::range(c"mlp backward");
        // MLP, from its output back to `middle`; `dhidden` is also the residual's gradient.
        let dmlp = match (&layer.post_feedforward_layernorm, &kept.mlp_output) {
            (Some(weight), Some(output)) => {
                let dweight = gradients.as_mut().and_then(|g| g.post_feedforward_layernorm.as_mut());
                Some(self.post_norm_backward(output, weight, &dhidden.exact, dweight)?)
            }
            _ => None,
        };
        let dmlp = dmlp.as_ref().unwrap_or(dhidden.of_branch());
        let mut dactivated = kept.gate.empty_like(device)?;
        device.linear_backward_input(dmlp, &layer.down_proj, &mut dactivated, false)?;
        if let Some(gradients) = &mut gradients {
            let mut activated = kept.gate.empty_like(device)?;
            device.glu(self.config.hidden_activation, &kept.gate, &kept.up, &mut activated)?;
            device.linear_backward_weight(dmlp, &activated, &mut gradients.down_proj, None, accumulate)?;
        }
        let mut dgate = kept.gate.empty_like(device)?;
        let mut dup = kept.up.empty_like(device)?;
        device.glu_backward(self.config.hidden_activation, &kept.gate, &kept.up, &dactivated, &mut dgate, &mut dup)?;
        drop(dactivated);
        let mut dnormed = kept.middle.empty_like(device)?;
        device.linear_backward_input(&dgate, &layer.gate_proj, &mut dnormed, false)?;
        device.linear_backward_input(&dup, &layer.up_proj, &mut dnormed, true)?;
        if let Some(gradients) = &mut gradients {
            let normed = self.norm(&kept.middle, self.mlp_norm(layer), kept.gate.dtype())?;
            device.linear_backward_weight(&dgate, &normed, &mut gradients.gate_proj, None, accumulate)?;
            device.linear_backward_weight(&dup, &normed, &mut gradients.up_proj, None, accumulate)?;
        }
        drop((dgate, dup));
        let dweight = gradients.as_mut().map(|gradients| match &mut gradients.pre_feedforward_layernorm {
            Some(weight) => weight,
            None => &mut gradients.post_attention_layernorm,
        });
        self.add_norm_backward(&kept.middle, self.mlp_norm(layer), &dnormed, dhidden, dweight)?;
        drop(range);

        let _range = nvtx::range(c"attention backward");
        // Attention, from its output back to the layer's input.
        let dattention = match &kept.attention_output {
            Some(output) => {
                let dweight = gradients.as_mut().map(|gradients| &mut gradients.post_attention_layernorm);
                Some(self.post_norm_backward(output, &layer.post_attention_layernorm, &dhidden.exact, dweight)?)
            }
            None => None,
        };
        let dattention = dattention.as_ref().unwrap_or(dhidden.of_branch());
        let mut dattended = kept.attended.empty_like(device)?;
        device.linear_backward_input(dattention, &layer.o_proj.weight, &mut dattended, false)?;
        if let Some(gradients) = &mut gradients {
            let o_proj = &mut gradients.o_proj;
            device.linear_backward_weight(
                dattention,
                &kept.attended,
                &mut o_proj.weight,
                o_proj.bias.as_mut(),
                accumulate,
            )?;
        }
        let (mut dq, mut dk) = (kept.q.empty_like(device)?, kept.k.empty_like(device)?);
        let mut dv = kept.v.empty_like(device)?;
        let LayerActivations { q, k, v, attended, lse, .. } = kept;
        let ragged = &batch.ragged;
        device.attention_backward(&params, ragged, q, k, v, attended, lse, &dattended, &mut dq, &mut dk, &mut dv)?;
        drop(dattended);
        device.rope(&mut dq, &mut dk, cos, sin, true)?;
        if let (Some((q, k)), Some(q_norm), Some(k_norm)) = (&kept.unnormed, &layer.q_norm, &layer.k_norm) {
            let (mut dq_input, mut dk_input) = (q.empty_like(device)?, k.empty_like(device)?);
            let dweight = gradients.as_mut().and_then(|gradients| gradients.q_norm.as_mut());
            self.norm_backward(q, q_norm, &dq, &mut dq_input, dweight)?;
            let dweight = gradients.as_mut().and_then(|gradients| gradients.k_norm.as_mut());
            self.norm_backward(k, k_norm, &dk, &mut dk_input, dweight)?;
            (dq, dk) = (dq_input, dk_input);
        }
        device.linear_backward_input(&dq, &layer.q_proj.weight, &mut dnormed, false)?;
        device.linear_backward_input(&dk, &layer.k_proj.weight, &mut dnormed, true)?;
        device.linear_backward_input(&dv, &layer.v_proj.weight, &mut dnormed, true)?;
        if let Some(gradients) = &mut gradients {
            let normed = self.norm(input, &layer.input_layernorm, kept.q.dtype())?;
            for (dy, projection) in
                [(&dq, &mut gradients.q_proj), (&dk, &mut gradients.k_proj), (&dv, &mut gradients.v_proj)]
            {
                device.linear_backward_weight(
                    dy,
                    &normed,
                    &mut projection.weight,
                    projection.bias.as_mut(),
                    accumulate,
                )?;
            }
        }
        let dweight = gradients.map(|gradients| &mut gradients.input_layernorm);
        self.add_norm_backward(input, &layer.input_layernorm, &dnormed, dhidden, dweight)
    }

    fn attention_params(&self, layer: usize) -> AttentionParams {
        let config = &self.config;
        AttentionParams {
            num_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale,
            softcap: config.attn_logit_softcapping,
            window: config.sliding_window[layer],
        }
    }

    /// The norm before the MLP: Gemma 2 calls it by another name, because its `post_attention_layernorm` is what it says.
    fn mlp_norm<'a>(&self, layer: &'a Layer<Tensor<D>>) -> &'a Tensor<D> {
        layer.pre_feedforward_layernorm.as_ref().unwrap_or(&layer.post_attention_layernorm)
    }

    /// What a layer's branches are held in; the residual stream and its gradient are f32.
    fn branch_dtype(&self) -> DType {
        self.device.branch_dtype(self.parameters.layers[0].q_proj.weight.dtype(), self.config.head_dim)
    }

    /// The stream's gradient as [`StreamGradient::rounded`] has it.
    fn round_for_branches(&self, gradient: &Tensor<D>) -> Result<Option<Tensor<D>>> {
        let dtype = self.branch_dtype();
        if gradient.dtype() == dtype || self.config.post_norms {
            return Ok(None);
        }
        let mut rounded = Tensor::empty(&self.device, dtype, gradient.rows(), gradient.cols())?;
        self.device.copy(&gradient.buffer, &mut rounded.buffer)?;
        Ok(Some(rounded))
    }

    fn empty(&self, rows: usize, cols: usize) -> Result<Tensor<D>> {
        Tensor::empty(&self.device, DType::F32, rows, cols)
    }

    fn rope_table(&self, positions: &D::Indices, tokens: usize) -> Result<[Tensor<D>; 2]> {
        let half = self.config.head_dim / 2;
        let (mut cos, mut sin) = (self.empty(tokens, half)?, self.empty(tokens, half)?);
        self.device.rope_table(positions, &self.config.inv_freq, &mut cos, &mut sin)?;
        Ok([cos, sin])
    }

    fn embed(&self, ids: &D::Indices, tokens: usize) -> Result<Tensor<D>> {
        let mut hidden = self.empty(tokens, self.config.hidden_size)?;
        self.device.embedding(ids, &self.parameters.embed_tokens, self.config.embedding_scale, &mut hidden)?;
        Ok(hidden)
    }

    fn gather(&self, x: &Tensor<D>, rows: &D::Indices, count: usize) -> Result<Tensor<D>> {
        let mut picked = self.empty(count, x.cols())?;
        self.device.gather_rows(x, rows, &mut picked)?;
        Ok(picked)
    }

    fn norm(&self, x: &Tensor<D>, weight: &Tensor<D>, dtype: DType) -> Result<Tensor<D>> {
        let mut y = Tensor::empty(&self.device, dtype, x.rows(), x.cols())?;
        self.device.rms_norm(x, weight, self.config.norm_offset, self.config.rms_norm_eps, &mut y)?;
        Ok(y)
    }

    /// The stream after a branch, `branch += stream`; the same normed by `weight` for the next branch.
    fn add_norm(&self, stream: &Tensor<D>, branch: &mut Tensor<D>, weight: &Tensor<D>) -> Result<Tensor<D>> {
        let (offset, eps) = (self.config.norm_offset, self.config.rms_norm_eps);
        let mut normed = Tensor::empty(&self.device, self.branch_dtype(), branch.rows(), branch.cols())?;
        self.device.add_rms_norm(stream, weight, offset, eps, branch, &mut normed)?;
        Ok(normed)
    }

    fn norm_backward(
        &self,
        x: &Tensor<D>,
        weight: &Tensor<D>,
        dy: &Tensor<D>,
        dx: &mut Tensor<D>,
        dweight: Option<&mut Tensor<D>>,
    ) -> Result<()> {
        let (offset, eps) = (self.config.norm_offset, self.config.rms_norm_eps);
        self.device.rms_norm_backward(x, weight, offset, eps, dy, dx, dweight)
    }

    /// The gradient of what Gemma 2's post-norms take, a branch's output, as the branch's products take it.
    fn post_norm_backward(
        &self,
        output: &Tensor<D>,
        weight: &Tensor<D>,
        dy: &Tensor<D>,
        dweight: Option<&mut Tensor<D>>,
    ) -> Result<Tensor<D>> {
        let mut doutput = Tensor::empty(&self.device, self.branch_dtype(), output.rows(), output.cols())?;
        self.norm_backward(output, weight, dy, &mut doutput, dweight)?;
        Ok(doutput)
    }

    /// The gradient of a branch's normed rows joins that of the stream `x` which they were made of.
    fn add_norm_backward(
        &self,
        x: &Tensor<D>,
        weight: &Tensor<D>,
        dnormed: &Tensor<D>,
        dx: &mut StreamGradient<D>,
        dweight: Option<&mut Tensor<D>>,
    ) -> Result<()> {
        let (offset, eps) = (self.config.norm_offset, self.config.rms_norm_eps);
        let StreamGradient { exact, rounded } = dx;
        self.device.add_rms_norm_backward(x, weight, offset, eps, dnormed, exact, rounded.as_mut(), dweight)
    }

    fn linear(&self, x: &Tensor<D>, weight: &Tensor<D>, dtype: DType) -> Result<Tensor<D>> {
        let mut y = Tensor::empty(&self.device, dtype, x.rows(), weight.rows())?;
        self.device.linear(x, weight, None, &mut y)?;
        Ok(y)
    }

    fn project(&self, x: &Tensor<D>, projection: &Projection<Tensor<D>>, dtype: DType) -> Result<Tensor<D>> {
        let mut y = Tensor::empty(&self.device, dtype, x.rows(), projection.weight.rows())?;
        self.device.linear(x, &projection.weight, projection.bias.as_ref(), &mut y)?;
        Ok(y)
    }
}
