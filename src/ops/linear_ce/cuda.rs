//! Cross-entropy on a GPU: the launches of `linear_ce.cu`.

use super::{CeOutput, LinearCe};
use crate::device::cuda::{Cuda, Indices, Shape, by_dtype};
use crate::device::{DType, Tensor};
use crate::{Result, args};
use std::ops::Range;

/// Threads of a block that makes a tile, and the tile's rows and columns (`product.cuh`).
const THREADS: usize = 256;
const TILE: usize = 64;

/// Vocabulary entries of a block's partial results (`VOCABULARY_SPLIT` in `unembed.cuh`).
pub(in crate::ops) const VOCABULARY_SPLIT: usize = 1024;

/// The piece of tokens x vocabulary whose dz lies in memory at a time: at most 2 MiB of f32.
const TOKENS: usize = 512;
const ENTRIES: usize = 1024;

/// Blocks of a product's tiles.
pub(in crate::ops) fn tiles(rows: usize, columns: usize) -> Shape {
    Shape::grid([rows.div_ceil(TILE), columns.div_ceil(TILE), 1], THREADS)
}

/// A block for each tile of tokens and split of the vocabulary.
pub(in crate::ops) fn partial_tiles(tokens: usize, vocab: usize) -> Shape {
    Shape::grid([tokens.div_ceil(TILE), vocab.div_ceil(VOCABULARY_SPLIT), 1], THREADS)
}

/// The backward pass's pieces of tokens x vocabulary, in the order in which gradients are summed.
pub(in crate::ops) fn pieces(tokens: usize, vocab: usize) -> impl Iterator<Item = [Range<usize>; 2]> {
    let cut = |len: usize, step: usize| (0..len).step_by(step).map(move |at| at..len.min(at + step));
    cut(tokens, TOKENS).flat_map(move |rows| cut(vocab, ENTRIES).map(move |entries| [rows.clone(), entries]))
}

/// Room for one piece's dz.
pub(in crate::ops) fn piece_workspace(device: &Cuda, tokens: usize, vocab: usize) -> Result<Tensor<Cuda>> {
    Tensor::empty(device, DType::F32, tokens.min(TOKENS), vocab.min(ENTRIES))
}

/// Address of a matrix's row.
pub(in crate::ops) fn row(matrix: &Tensor<Cuda>, row: usize) -> u64 {
    matrix.buffer.address() + (row * matrix.cols() * matrix.dtype().size()) as u64
}

/// What gradients get from a piece's `dz`: `dhidden (+)= dz W`, where the first entries overwrite, and `dw += dz^T hidden`.
pub(in crate::ops) fn multiply_gradient(
    device: &Cuda,
    [rows, entries]: [Range<usize>; 2],
    dz: &Tensor<Cuda>,
    [hidden, w]: [&Tensor<Cuda>; 2],
    dhidden: &mut Tensor<Cuda>,
    dw: Option<&mut Tensor<Cuda>>,
) -> Result<()> {
    let (tokens, width, size) = (rows.len(), entries.len(), w.cols());
    device.launch(
        by_dtype(w.dtype(), ["unembed_times_w_f32", "unembed_times_w_bf16", "unembed_times_w_f16"]),
        tiles(tokens, size),
        args![tokens, size, width, dz, row(w, entries.start), row(dhidden, rows.start), entries.start > 0],
    )?;
    let Some(dw) = dw else { return Ok(()) };
    device.launch(
        "unembed_times_hidden_f32",
        tiles(width, size),
        args![tokens, size, width, dz, row(hidden, rows.start), row(dw, entries.start)],
    )
}

/// Address of a token's element of a vector.
pub(in crate::ops) fn element(vector: &Tensor<Cuda>, token: usize) -> u64 {
    vector.buffer.address() + (token * size_of::<f32>()) as u64
}

impl LinearCe for Cuda {
    fn linear_ce(
        &self,
        hidden: &Tensor<Self>,
        w: &Tensor<Self>,
        softcap: Option<f32>,
        labels: &Indices,
        output: CeOutput<'_, Self>,
    ) -> Result<()> {
        let (tokens, size, vocab) = (hidden.rows(), hidden.cols(), w.rows());
        assert_eq!(w.cols(), size, "hidden size of the unembedding");
        assert_eq!(labels.len(), tokens, "one label a token");
        assert_eq!(hidden.dtype(), DType::F32, "hidden states are f32");
        let softcap = softcap.unwrap_or(0.0);
        let splits = vocab.div_ceil(VOCABULARY_SPLIT);
        let label_logit = Tensor::<Self>::empty(self, DType::F32, 1, tokens)?;
        let partials = Tensor::<Self>::empty(self, DType::F32, splits * tokens, 4)?;
        self.launch(
            by_dtype(w.dtype(), ["linear_ce_label_f32", "linear_ce_label_bf16", "linear_ce_label_f16"]),
            tiles(tokens, 1),
            args![tokens, size, softcap, hidden, w, labels, label_logit],
        )?;
        self.launch(
            by_dtype(w.dtype(), ["linear_ce_partial_f32", "linear_ce_partial_bf16", "linear_ce_partial_f16"]),
            partial_tiles(tokens, vocab),
            args![tokens, size, vocab, softcap, hidden, w, label_logit, partials],
        )?;
        let CeOutput { lse, logprob, entropy, rank } = output;
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
        dhidden: &mut Tensor<Self>,
        mut dw: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        let (tokens, size, vocab) = (hidden.rows(), hidden.cols(), w.rows());
        assert_eq!(hidden.shape(), dhidden.shape(), "dhidden is like hidden");
        assert_eq!(hidden.dtype(), DType::F32, "hidden states are f32");
        let softcap = softcap.unwrap_or(0.0);
        let kernel =
            by_dtype(w.dtype(), ["linear_ce_gradient_f32", "linear_ce_gradient_bf16", "linear_ce_gradient_f16"]);
        let dz = piece_workspace(self, tokens, vocab)?;
        for piece in pieces(tokens, vocab) {
            let [rows, entries] = piece.clone();
            let first = rows.start;
            self.launch(
                kernel,
                tiles(rows.len(), entries.len()),
                args![
                    rows.len(),
                    size,
                    entries.start,
                    entries.len(),
                    softcap,
                    row(hidden, first),
                    w,
                    labels.address() + (first * size_of::<u32>()) as u64,
                    element(lse, first),
                    element(coefficient, first),
                    dz
                ],
            )?;
            multiply_gradient(self, piece, &dz, [hidden, w], dhidden, dw.as_deref_mut())?;
        }
        Ok(())
    }
}
