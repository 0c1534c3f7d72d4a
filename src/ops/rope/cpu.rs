//! RoPE on the CPU: rows in parallel.

use super::Rope;
use crate::Result;
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Cpu, Tensor};
use crate::ops::attention::{Attention, AttentionParams, Paged};
use rayon::prelude::*;

/// Rows a task rotates, at least.
const ROWS: usize = 8;

/// Rotates every head of one row.
struct Rotate<'a> {
    row: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    /// -1 for the inverse.
    sign: f32,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let half = self.cos.len();
        for head in self.row.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(self.cos).zip(self.sin) {
                let (a, b, sin) = (*low, *high, self.sign * sin);
                *low = a * cos - b * sin;
                *high = b * cos + a * sin;
            }
        }
    }
}

impl Rope for Cpu {
    fn rope_table(
        &self,
        positions: &Vec<u32>,
        inv_freq: &[f32],
        cos: &mut Tensor<Self>,
        sin: &mut Tensor<Self>,
    ) -> Result<()> {
        let half = inv_freq.len();
        assert!(cos.shape() == [positions.len(), half] && sin.shape() == cos.shape(), "a row a position");
        let rows = cos.buffer.f32_mut().par_chunks_exact_mut(half).zip(sin.buffer.f32_mut().par_chunks_exact_mut(half));
        rows.zip(positions).with_min_len(ROWS).for_each(|((cos, sin), &position)| {
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(inv_freq) {
                (*sin, *cos) = (position as f32 * frequency).sin_cos();
            }
        });
        Ok(())
    }

    fn rope(
        &self,
        q: &mut Tensor<Self>,
        k: &mut Tensor<Self>,
        cos: &Tensor<Self>,
        sin: &Tensor<Self>,
        inverse: bool,
    ) -> Result<()> {
        let half = cos.cols();
        let sign = if inverse { -1.0 } else { 1.0 };
        for x in [q, k] {
            let cols = x.cols();
            assert!(cos.rows() == x.rows() && sin.shape() == cos.shape(), "a row of angles a row of q and k");
            assert!(cols.is_multiple_of(2 * half), "whole heads");
            let angles = cos.buffer.f32().par_chunks_exact(half).zip(sin.buffer.f32().par_chunks_exact(half));
            let rows = x.buffer.f32_mut().par_chunks_exact_mut(cols).zip(angles).with_min_len(ROWS);
            rows.for_each(|(row, (cos, sin))| self.isa().run(Rotate { row, cos, sin, sign }));
        }
        Ok(())
    }

    fn rope_to_cache(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        q: &mut Tensor<Self>,
        k: &mut Tensor<Self>,
        v: &Tensor<Self>,
        cos: &Tensor<Self>,
        sin: &Tensor<Self>,
        cache_k: &mut Tensor<Self>,
        cache_v: &mut Tensor<Self>,
    ) -> Result<()> {
        self.rope(q, k, cos, sin, false)?;
        self.cache_write(params, batch, k, cache_k)?;
        self.cache_write(params, batch, v, cache_v)
    }
}
