//! Cross-entropy on a GPU: the launches of `linear_ce.cu`, `linear_ce_mma.cu` and `linear_ce_sm90.cu`.

use super::{CeGradient, CeOutput, LinearCe};
use crate::device::cuda::{Cuda, Indices, Shape, nvtx};
use crate::device::{Backend, DType, Tensor};
use crate::{Result, args};
use std::ops::Range;

/// Threads of a block that makes a tile.
const THREADS: usize = 256;

/// Vocabulary entries of a block's partial results (`VOCABULARY_SPLIT` in `unembed.cuh`).
pub(in crate::ops) const VOCABULARY_SPLIT: usize = 1024;

/// How products of hidden states and unembeddings are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Path {
    /// f32 arithmetic on any dtype (`product.cuh`).
    Fma,
    /// bf16 operands (`product_mma.cuh`): hidden states are rounded to bf16.
    TensorCores,
}

impl Path {
    /// Tensor cores take unembeddings in bf16 whose rows are whole vectors of 16 bytes.
    pub fn of(w: &Tensor<Cuda>) -> Self {
        if w.dtype() == DType::BF16 && w.cols().is_multiple_of(8) { Self::TensorCores } else { Self::Fma }
    }

    /// Elements of hidden states and of dz.
    fn dtype(self) -> DType {
        match self {
            Self::Fma => DType::F32,
            Self::TensorCores => DType::BF16,
        }
    }

    /// The hidden states in the dtype of this path, where they are not already.
    pub fn convert(self, device: &Cuda, hidden: &Tensor<Cuda>) -> Result<Option<Tensor<Cuda>>> {
        if hidden.dtype() == self.dtype() {
            return Ok(None);
        }
        let mut converted = Tensor::empty(device, self.dtype(), hidden.rows(), hidden.cols())?;
        device.copy(&hidden.buffer, &mut converted.buffer)?;
        Ok(Some(converted))
    }

    /// The piece of tokens x vocabulary whose dz lies in memory at a time: 2 MiB of f32 or 32 MiB of bf16, which still
    /// fits the L2 cache of an H100; a larger piece reads and writes the gradients less often.
    fn piece(self) -> [usize; 2] {
        match self {
            Self::Fma => [512, 1024],
            Self::TensorCores => [4096, 4096],
        }
    }

    /// The backward pass's pieces of tokens x vocabulary, in the order in which gradients are summed.
    pub fn pieces(self, tokens: usize, vocab: usize) -> impl Iterator<Item = [Range<usize>; 2]> {
        let [most_tokens, most_entries] = self.piece();
        let cut = |len: usize, step: usize| (0..len).step_by(step).map(move |at| at..len.min(at + step));
        cut(tokens, most_tokens)
            .flat_map(move |rows| cut(vocab, most_entries).map(move |entries| [rows.clone(), entries]))
    }

    /// Elements of a row of a piece's dz. Tensor cores read whole vectors of 8.
    pub fn pitch(self, width: usize) -> usize {
        match self {
            Self::Fma => width,
            Self::TensorCores => width.next_multiple_of(8),
        }
    }

    /// Room for one piece's dz.
    pub fn workspace(self, device: &Cuda, tokens: usize, vocab: usize) -> Result<Tensor<Cuda>> {
        let [most_tokens, most_entries] = self.piece();
        Tensor::empty(device, self.dtype(), tokens.min(most_tokens), self.pitch(vocab.min(most_entries)))
    }
}

/// A dtype as `product.cuh` numbers it.
pub(in crate::ops) fn number(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
    }
}

/// A block's tile: its rows, its columns, its threads, and its bytes of shared memory.
pub(in crate::ops) struct Tile {
    rows: usize,
    columns: usize,
    threads: usize,
    shared: usize,
}

/// `fma_product`: its shared memory is not dynamic.
pub(in crate::ops) const FMA: Tile = Tile::new(64, 64, 0);
/// Of `mma_product::Product`s: (lines of a stage) x (32 or 128 elements, and 8 of padding).
const LOGITS: Tile = Tile::new(128, 128, STAGES * (128 + 128) * 40 * 2);
const TIMES_W: Tile = Tile::new(128, 128, STAGES * (128 * 40 + 32 * 136) * 2);
const TIMES_HIDDEN: Tile = Tile::new(128, 128, STAGES * (32 + 32) * 136 * 2);
/// Of `wgmma_product::Ring`: 4 stages of 64 elements along k, their barriers, and room to align them.
const HOPPER: Tile = Tile { rows: 128, columns: 256, threads: 384, shared: 1024 + 4 * ((128 + 256) * 64 * 2 + 16) };
/// Stages of `product_mma.cuh`.
pub(in crate::ops) const STAGES: usize = 3;

impl Tile {
    pub const fn new(rows: usize, columns: usize, shared: usize) -> Self {
        Self { rows, columns, threads: THREADS, shared }
    }

    /// A block for each tile of a product.
    pub fn cover(&self, rows: usize, columns: usize) -> Shape {
        Shape::grid([rows.div_ceil(self.rows), columns.div_ceil(self.columns), 1], self.threads).shared(self.shared)
    }

    /// A block for each tile's rows and split of the vocabulary.
    pub fn split(&self, tokens: usize, vocab: usize) -> Shape {
        Shape::grid([tokens.div_ceil(self.rows), vocab.div_ceil(VOCABULARY_SPLIT), 1], self.threads).shared(self.shared)
    }
}

/// Address of a matrix's row.
pub(in crate::ops) fn row(matrix: &Tensor<Cuda>, row: usize) -> u64 {
    matrix.buffer.address() + (row * matrix.cols() * matrix.dtype().size()) as u64
}

/// Address of a token's element of a vector.
pub(in crate::ops) fn element(vector: &Tensor<Cuda>, token: usize) -> u64 {
    vector.buffer.address() + (token * size_of::<f32>()) as u64
}

/// What gradients get from a piece's `dz`: `dhidden (+)= dz W`, where the first entries overwrite, and `dw += dz^T hidden`.
pub(in crate::ops) fn multiply_gradient(
    device: &Cuda,
    path: Path,
    [rows, entries]: [Range<usize>; 2],
    dz: &Tensor<Cuda>,
    [hidden, w]: [&Tensor<Cuda>; 2],
    dhidden: &mut Tensor<Cuda>,
    dw: Option<&mut Tensor<Cuda>>,
) -> Result<()> {
    let (tokens, width, size) = (rows.len(), entries.len(), w.cols());
    let (pitch, add) = (path.pitch(width), entries.start > 0);
    assert_eq!(dhidden.dtype(), DType::F32, "gradients are f32");
    let (dtype, w, dhidden) = (number(w.dtype()), row(w, entries.start), row(dhidden, rows.start));
    match path {
        Path::Fma => device.launch(
            "unembed_times_w",
            FMA.cover(tokens, size),
            args![tokens, size, width, dz, w, dtype, dhidden, add],
        )?,
        Path::TensorCores => device.launch(
            "unembed_times_w_mma",
            TIMES_W.cover(tokens, size),
            args![tokens, size, width, pitch, dz, w, dhidden, add],
        )?,
    }
    let Some(dw) = dw else { return Ok(()) };
    assert_eq!(dw.dtype(), DType::F32, "gradients are f32");
    let (hidden, dw) = (row(hidden, rows.start), row(dw, entries.start));
    match path {
        Path::Fma => {
            device.launch("unembed_times_hidden", FMA.cover(width, size), args![tokens, size, width, dz, hidden, dw])
        }
        Path::TensorCores => device.launch(
            "unembed_times_hidden_mma",
            TIMES_HIDDEN.cover(width, size),
            args![tokens, size, width, pitch, dz, hidden, dw],
        ),
    }
}

impl LinearCe for Cuda {
    fn tile_bytes(&self, tokens: usize, vocab: usize, weights: DType) -> usize {
        let path = if weights == DType::BF16 { Path::TensorCores } else { Path::Fma };
        let [most_tokens, most_entries] = path.piece();
        let partials = vocab.div_ceil(VOCABULARY_SPLIT) * tokens * 4 * size_of::<f32>();
        partials.max(tokens.min(most_tokens) * path.pitch(vocab.min(most_entries)) * path.dtype().size())
    }

    fn kept_logits(&self, _tokens: usize, _vocab: usize) -> usize {
        0
    }

    fn linear_ce(
        &self,
        hidden: &Tensor<Self>,
        w: &Tensor<Self>,
        softcap: Option<f32>,
        labels: &Indices,
        output: CeOutput<'_, Self>,
    ) -> Result<()> {
        let _range = nvtx::range(c"linear_ce");
        let (tokens, size, vocab) = (hidden.rows(), hidden.cols(), w.rows());
        assert_eq!(w.cols(), size, "hidden size of the unembedding");
        assert_eq!(labels.len(), tokens, "one label a token");
        let softcap = softcap.unwrap_or(0.0);
        let splits = vocab.div_ceil(VOCABULARY_SPLIT);
        let path = Path::of(w);
        let converted = path.convert(self, hidden)?;
        let hidden = converted.as_ref().unwrap_or(hidden);
        let label_logit = Tensor::<Self>::empty(self, DType::F32, 1, tokens)?;
        let partials = Tensor::<Self>::empty(self, DType::F32, splits * tokens, 4)?;
        let dtype = number(w.dtype());
        match path {
            Path::Fma => {
                let arguments = args![tokens, size, softcap, hidden, w, dtype, labels, label_logit];
                self.launch("linear_ce_label", FMA.cover(tokens, 1), arguments)?;
                let arguments = args![tokens, size, vocab, softcap, hidden, w, dtype, label_logit, partials];
                self.launch("linear_ce_partial", FMA.split(tokens, vocab), arguments)?;
            }
            Path::TensorCores => {
                // Both of one kind: a label's logit has the bits that it has among the others.
                let (label, partial, tile) = match self.has_wgmma() {
                    true => ("linear_ce_label_sm90", "linear_ce_partial_sm90", HOPPER),
                    false => ("linear_ce_label_mma", "linear_ce_partial_mma", LOGITS),
                };
                let arguments = args![tokens, size, softcap, hidden, w, labels, label_logit];
                self.launch(label, tile.cover(tokens, 1), arguments)?;
                let arguments = args![tokens, size, vocab, softcap, hidden, w, label_logit, partials];
                self.launch(partial, tile.split(tokens, vocab), arguments)?;
            }
        }
        let CeOutput { lse, logprob, entropy, rank, .. } = output;
        self.launch(
            "linear_ce_combine",
            Shape::covering(tokens, 128),
            args![tokens, splits, partials, label_logit, lse, logprob, entropy, rank],
        )
    }

    fn linear_ce_backward(
        &self,
        hidden: &Tensor<Self>,
        w: &Tensor<Self>,
        softcap: Option<f32>,
        labels: &Indices,
        lse: &Tensor<Self>,
        coefficient: &Tensor<Self>,
        _kept: Option<&mut Tensor<Self>>,
        gradient: CeGradient<'_, Self>,
    ) -> Result<()> {
        let _range = nvtx::range(c"linear_ce backward");
        let CeGradient { hidden: dhidden, w: mut dw, accumulate } = gradient;
        if let (false, Some(dw)) = (accumulate, &mut dw) {
            dw.zero(self)?;
        }
        let (tokens, size, vocab) = (hidden.rows(), hidden.cols(), w.rows());
        assert_eq!(hidden.shape(), dhidden.shape(), "dhidden is like hidden");
        let softcap = softcap.unwrap_or(0.0);
        let path = Path::of(w);
        let converted = path.convert(self, hidden)?;
        let hidden = converted.as_ref().unwrap_or(hidden);
        let dz = path.workspace(self, tokens, vocab)?;
        for piece in path.pieces(tokens, vocab) {
            let [rows, entries] = piece.clone();
            let (first, start, width) = (rows.start, entries.start, entries.len());
            let x = row(hidden, first);
            let labels = labels.address() + (first * size_of::<u32>()) as u64;
            let (lse, coefficient) = (element(lse, first), element(coefficient, first));
            match path {
                Path::Fma => self.launch(
                    "linear_ce_gradient",
                    FMA.cover(rows.len(), width),
                    args![
                        rows.len(),
                        size,
                        start,
                        width,
                        softcap,
                        x,
                        w,
                        number(w.dtype()),
                        labels,
                        lse,
                        coefficient,
                        dz
                    ],
                )?,
                Path::TensorCores => self.launch(
                    "linear_ce_gradient_mma",
                    LOGITS.cover(rows.len(), width),
                    args![
                        rows.len(),
                        size,
                        start,
                        width,
                        path.pitch(width),
                        softcap,
                        x,
                        w,
                        labels,
                        lse,
                        coefficient,
                        dz
                    ],
                )?,
            }
            multiply_gradient(self, path, piece, &dz, [hidden, w], dhidden, dw.as_deref_mut())?;
        }
        Ok(())
    }
}
