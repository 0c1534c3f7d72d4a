//! The operations a transformer is made of: one folder each, with the trait and its formula in `mod.rs` and one file
//! a device. [`Ops`] is a device that has them all.

pub mod adamw;
pub mod attention;
pub mod elementwise;
pub mod embedding;
pub mod glu;
pub mod linear;
pub mod linear_ce;
pub mod linear_kl;
pub mod rmsnorm;
pub mod rope;
pub mod rows;
pub mod sampling;

use crate::device::Backend;

/// A device that has every operation: the one generic parameter of everything above this room.
pub trait Ops:
    Backend
    + adamw::AdamW
    + attention::Attention
    + elementwise::Elementwise
    + embedding::Embedding
    + glu::Glu
    + linear::Linear
    + linear_ce::LinearCe
    + linear_kl::LinearKl
    + rmsnorm::RmsNorm
    + rope::Rope
    + rows::Rows
    + sampling::Sampling
{
}

impl<D> Ops for D where
    D: Backend
        + adamw::AdamW
        + attention::Attention
        + elementwise::Elementwise
        + embedding::Embedding
        + glu::Glu
        + linear::Linear
        + linear_ce::LinearCe
        + linear_kl::LinearKl
        + rmsnorm::RmsNorm
        + rope::Rope
        + rows::Rows
        + sampling::Sampling
{
}
