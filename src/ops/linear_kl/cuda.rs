//! Two-model KL on a GPU: the launches of `linear_kl.cu` and `linear_kl_mma.cu`.

use super::{KlGradient, KlNormalizers, KlOutput, KlSide, LinearKl};
use crate::device::cuda::{Cuda, Shape, by_dtype};
use crate::device::{DType, Tensor};
use crate::ops::linear_ce::cuda::{FMA, Path, STAGES, Tile, VOCABULARY_SPLIT, element, multiply_gradient, row};
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

/// The kernel for the elements of both unembeddings.
macro_rules! by_dtypes {
    ($kernel:literal, $p:expr, $q:expr) => {
        match $p.w.dtype() {
            DType::F32 => by_dtypes!(row $kernel, "_f32", $q),
            DType::BF16 => by_dtypes!(row $kernel, "_bf16", $q),
            DType::F16 => by_dtypes!(row $kernel, "_f16", $q),
        }
    };
    (row $kernel:literal, $name:literal, $q:expr) => {
        by_dtype(
            $q.w.dtype(),
            [concat!($kernel, $name, "_f32"), concat!($kernel, $name, "_bf16"), concat!($kernel, $name, "_f16")],
        )
    };
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
        let (tile, partial) = match path {
            Path::Fma => (FMA, by_dtypes!("linear_kl_partial", p, q)),
            Path::TensorCores => (LOGITS, "linear_kl_partial_mma"),
        };
        self.launch(
            partial,
            tile.split(tokens, vocab),
            args![
                tokens,
                vocab,
                p.w.cols(),
                p.softcap.unwrap_or(0.0),
                converted[0].as_ref().unwrap_or(p.hidden),
                p.w,
                q.w.cols(),
                q.softcap.unwrap_or(0.0),
                converted[1].as_ref().unwrap_or(q.hidden),
                q.w,
                partials
            ],
        )?;
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
                    by_dtypes!("linear_kl_gradient", p, q),
                    FMA.cover(count, width),
                    args![
                        count,
                        start,
                        width,
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
