//! Two-model KL on a GPU: the launches of `linear_kl.cu` and `linear_kl_mma.cu`.

use super::{KlGradient, KlNormalizers, KlOutput, KlSide, LinearKl};
use crate::device::cuda::{Cuda, Shape, nvtx};
use crate::device::{DType, Tensor};
use crate::ops::linear_ce::cuda::{FMA, Path, STAGES, Tile, VOCABULARY_SPLIT, element, multiply_gradient, number, row};
use crate::{Result, args};
use std::ops::Range;

/// Words of one token's partial results (`Pair` in `linear_kl.cu`).
const PAIR: usize = 9;

/// `mma_product::Product<2, true, true>`: lines of 32 elements and 8 of padding.
const LOGITS: Tile = Tile::new(64, 128, STAGES * (64 + 128) * 40 * 2);

/// Both sides take one path.
fn path(p: &KlSide<'_, Cuda>, q: &KlSide<'_, Cuda>) -> Path {
    if Path::of(p.w) == Path::of(q.w) { Path::of(p.w) } else { Path::Fma }
}

/// Tokens and vocabulary, the same on both sides.
fn shape(p: &KlSide<'_, Cuda>, q: &KlSide<'_, Cuda>) -> (usize, usize) {
    let (tokens, vocab) = (p.hidden.rows(), p.w.rows());
    assert_eq!(q.hidden.rows(), tokens, "both sides have the same tokens");
    assert_eq!(q.w.rows(), vocab, "both sides have the same vocabulary");
    for side in [p, q] {
        assert_eq!(side.w.cols(), side.hidden.cols(), "hidden size of the unembedding");
    }
    (tokens, vocab)
}

/// What a side's gradients, if they are wanted, get from a piece's `dz`.
fn add(
    device: &Cuda,
    path: Path,
    piece: &[Range<usize>; 2],
    dz: &Option<Tensor<Cuda>>,
    side: [&Tensor<Cuda>; 2],
    gradient: &mut Option<KlGradient<'_, Cuda>>,
) -> Result<()> {
    match (dz, gradient) {
        (Some(dz), Some(KlGradient { hidden, w })) => {
            multiply_gradient(device, path, piece.clone(), dz, side, hidden, w.as_deref_mut())
        }
        _ => Ok(()),
    }
}

impl LinearKl for Cuda {
    fn linear_kl_forward(
        &self,
        p: KlSide<'_, Self>,
        q: KlSide<'_, Self>,
    ) -> Result<(KlOutput<Self>, KlNormalizers<Self>)> {
        let _range = nvtx::range(c"linear_kl");
        let (tokens, vocab) = shape(&p, &q);
        let splits = vocab.div_ceil(VOCABULARY_SPLIT);
        let vector = || Tensor::empty(self, DType::F32, 1, tokens);
        let output = KlOutput {
            kl: vector()?,
            entropy_p: vector()?,
            entropy_q: vector()?,
            argmax_p: vector()?,
            argmax_q: vector()?,
        };
        let normalizers = KlNormalizers { lse_p: vector()?, lse_q: vector()? };
        let partials = Tensor::<Self>::empty(self, DType::F32, splits * tokens, PAIR)?;
        let path = path(&p, &q);
        let converted = [path.convert(self, p.hidden)?, path.convert(self, q.hidden)?];
        let (cap_p, cap_q) = (p.softcap.unwrap_or(0.0), q.softcap.unwrap_or(0.0));
        let (size_p, x_p) = (p.w.cols(), converted[0].as_ref().unwrap_or(p.hidden));
        let (size_q, x_q) = (q.w.cols(), converted[1].as_ref().unwrap_or(q.hidden));
        let (dtype_p, dtype_q) = (number(p.w.dtype()), number(q.w.dtype()));
        match path {
            Path::Fma => self.launch(
                "linear_kl_partial",
                FMA.split(tokens, vocab),
                args![tokens, vocab, size_p, cap_p, x_p, p.w, dtype_p, size_q, cap_q, x_q, q.w, dtype_q, partials],
            )?,
            Path::TensorCores => self.launch(
                "linear_kl_partial_mma",
                LOGITS.split(tokens, vocab),
                args![tokens, vocab, size_p, cap_p, x_p, p.w, size_q, cap_q, x_q, q.w, partials],
            )?,
        }
        let (KlOutput { kl, entropy_p, entropy_q, argmax_p, argmax_q }, KlNormalizers { lse_p, lse_q }) =
            (&output, &normalizers);
        self.launch(
            "linear_kl_combine",
            Shape::covering(tokens, 128),
            args![tokens, splits, partials, kl, entropy_p, entropy_q, argmax_p, argmax_q, lse_p, lse_q],
        )?;
        Ok((output, normalizers))
    }

    fn linear_kl_backward(
        &self,
        p: KlSide<'_, Self>,
        q: KlSide<'_, Self>,
        kl: &Tensor<Self>,
        normalizers: &KlNormalizers<Self>,
        coefficient: &Tensor<Self>,
        mut dp: Option<KlGradient<'_, Self>>,
        mut dq: Option<KlGradient<'_, Self>>,
    ) -> Result<()> {
        let _range = nvtx::range(c"linear_kl backward");
        let (tokens, vocab) = shape(&p, &q);
        assert_eq!([kl.len(), coefficient.len()], [tokens; 2], "one divergence and one coefficient a token");
        for (gradient, side) in [(&dp, &p), (&dq, &q)] {
            if let Some(gradient) = gradient {
                assert_eq!(gradient.hidden.shape(), side.hidden.shape(), "dhidden is like hidden");
            }
        }
        let path = path(&p, &q);
        let converted = [path.convert(self, p.hidden)?, path.convert(self, q.hidden)?];
        let hidden = [converted[0].as_ref().unwrap_or(p.hidden), converted[1].as_ref().unwrap_or(q.hidden)];
        let workspace = |wanted: bool| wanted.then(|| path.workspace(self, tokens, vocab)).transpose();
        let (dz_p, dz_q) = (workspace(dp.is_some())?, workspace(dq.is_some())?);
        for piece in path.pieces(tokens, vocab) {
            let [rows, entries] = piece.clone();
            let (first, count, start, width) = (rows.start, rows.len(), entries.start, entries.len());
            let (size_p, cap_p, x_p) = (p.w.cols(), p.softcap.unwrap_or(0.0), row(hidden[0], first));
            let (size_q, cap_q, x_q) = (q.w.cols(), q.softcap.unwrap_or(0.0), row(hidden[1], first));
            let (kl, coefficient) = (element(kl, first), element(coefficient, first));
            let (lse_p, lse_q) = (element(&normalizers.lse_p, first), element(&normalizers.lse_q, first));
            match path {
                Path::Fma => self.launch(
                    "linear_kl_gradient",
                    FMA.cover(count, width),
                    args![
                        count,
                        start,
                        width,
                        size_p,
                        cap_p,
                        x_p,
                        p.w,
                        number(p.w.dtype()),
                        size_q,
                        cap_q,
                        x_q,
                        q.w,
                        number(q.w.dtype()),
                        kl,
                        lse_p,
                        lse_q,
                        coefficient,
                        dz_p,
                        dz_q
                    ],
                )?,
                Path::TensorCores => self.launch(
                    "linear_kl_gradient_mma",
                    LOGITS.cover(count, width),
                    args![
                        count,
                        start,
                        width,
                        path.pitch(width),
                        size_p,
                        cap_p,
                        x_p,
                        p.w,
                        size_q,
                        cap_q,
                        x_q,
                        q.w,
                        kl,
                        lse_p,
                        lse_q,
                        coefficient,
                        dz_p,
                        dz_q
                    ],
                )?,
            }
            add(self, path, &piece, &dz_p, [hidden[0], p.w], &mut dp)?;
            add(self, path, &piece, &dz_q, [hidden[1], q.w], &mut dq)?;
        }
        Ok(())
    }
}
