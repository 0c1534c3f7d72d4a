//! Two-model KL on a GPU: the launches of `linear_kl.cu`.

use super::{KlGradient, KlNormalizers, KlOutput, KlSide, LinearKl};
use crate::device::cuda::{Cuda, Shape, by_dtype};
use crate::device::{DType, Tensor};
use crate::ops::linear_ce::cuda::{
    VOCABULARY_SPLIT, element, multiply_gradient, partial_tiles, piece_workspace, pieces, row, tiles,
};
use crate::{Result, args};

/// Words of one token's partial results (`Pair` in `linear_kl.cu`).
const PAIR: usize = 9;

/// Tokens and vocabulary, the same on both sides.
fn shape(p: &KlSide<'_, Cuda>, q: &KlSide<'_, Cuda>) -> (usize, usize) {
    let (tokens, vocab) = (p.hidden.rows(), p.w.rows());
    assert_eq!(q.hidden.rows(), tokens, "both sides have the same tokens");
    assert_eq!(q.w.rows(), vocab, "both sides have the same vocabulary");
    for side in [p, q] {
        assert_eq!(side.w.cols(), side.hidden.cols(), "hidden size of the unembedding");
        assert_eq!(side.hidden.dtype(), DType::F32, "hidden states are f32");
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
        self.launch(
            by_dtypes!("linear_kl_partial", p, q),
            partial_tiles(tokens, vocab),
            args![
                tokens,
                vocab,
                p.w.cols(),
                p.softcap.unwrap_or(0.0),
                p.hidden,
                p.w,
                q.w.cols(),
                q.softcap.unwrap_or(0.0),
                q.hidden,
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
        let kernel = by_dtypes!("linear_kl_gradient", p, q);
        let workspace = |wanted: bool| wanted.then(|| piece_workspace(self, tokens, vocab)).transpose();
        let (dz_p, dz_q) = (workspace(dp.is_some())?, workspace(dq.is_some())?);
        for piece in pieces(tokens, vocab) {
            let [rows, entries] = piece.clone();
            let first = rows.start;
            self.launch(
                kernel,
                tiles(rows.len(), entries.len()),
                args![
                    rows.len(),
                    entries.start,
                    entries.len(),
                    p.w.cols(),
                    p.softcap.unwrap_or(0.0),
                    row(p.hidden, first),
                    p.w,
                    q.w.cols(),
                    q.softcap.unwrap_or(0.0),
                    row(q.hidden, first),
                    q.w,
                    element(kl, first),
                    element(&normalizers.lse_p, first),
                    element(&normalizers.lse_q, first),
                    element(coefficient, first),
                    dz_p,
                    dz_q
                ],
            )?;
            for (side, dz, gradient) in [(&p, &dz_p, &mut dp), (&q, &dz_q, &mut dq)] {
                if let (Some(dz), Some(KlGradient { hidden, w })) = (dz, gradient) {
                    multiply_gradient(self, piece.clone(), dz, [side.hidden, side.w], hidden, w.as_deref_mut())?;
                }
            }
        }
        Ok(())
    }
}
