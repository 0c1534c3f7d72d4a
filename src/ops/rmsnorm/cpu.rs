//! RMSNorm on the CPU: groups in parallel.

use super::RmsNorm;
use crate::Result;
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Backend, Cpu, DType, Tensor};
use rayon::prelude::*;

/// Elements a task handles, about.
const TASK: usize = 16 * 1024;

/// Groups whose weight gradients are summed together before the sums are added up in order: part of the result's bits.
const BLOCK: usize = 64;

/// `sum_i a_i b_i`, lane by lane, then over the lanes.
#[inline(always)]
unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: whole registers, then one partial, within slices of equal length.
    unsafe {
        let (mut sums, mut i) = ([S::zero(); 4], 0);
        while i + 4 * S::LANES <= a.len() {
            for (part, sum) in sums.iter_mut().enumerate() {
                let at = i + part * S::LANES;
                *sum = S::fma(S::load(a.as_ptr().add(at)), S::load(b.as_ptr().add(at)), *sum);
            }
            i += 4 * S::LANES;
        }
        while i < a.len() {
            let count = S::LANES.min(a.len() - i);
            let load = |x: &[f32]| {
                if count == S::LANES { S::load(x.as_ptr().add(i)) } else { S::load_partial(x.as_ptr().add(i), count) }
            };
            sums[0] = S::fma(load(a), load(b), sums[0]);
            i += count;
        }
        S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
    }
}

/// `1 / sqrt(mean x^2 + eps)`.
#[inline(always)]
unsafe fn inverse_rms<S: Simd>(x: &[f32], eps: f32) -> f32 {
    // SAFETY: allowed inside a kernel.
    1.0 / (unsafe { dot::<S>(x, x) } / x.len() as f32 + eps).sqrt()
}

/// One group's `x_i r (offset + w_i)`.
#[inline(always)]
unsafe fn norm<S: Simd>(x: &[f32], weight: &[f32], offset: f32, eps: f32, y: &mut [f32]) {
    // SAFETY: allowed inside a kernel.
    let r = unsafe { inverse_rms::<S>(x, eps) };
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * r * (offset + w);
    }
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    offset: f32,
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { x, weight, offset, eps, y } = self;
        for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
            // SAFETY: inside a kernel.
            unsafe { norm::<S>(x, weight, offset, eps, y) };
        }
    }
}

/// [`Forward`] of what `sum` becomes when `x` is added to it, while it is in the cache.
struct AddForward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    offset: f32,
    eps: f32,
    sum: &'a mut [f32],
    y: &'a mut [f32],
}

impl Kernel for AddForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { x, weight, offset, eps, sum, y } = self;
        let n = weight.len();
        for ((x, sum), y) in x.chunks_exact(n).zip(sum.chunks_exact_mut(n)).zip(y.chunks_exact_mut(n)) {
            for (sum, x) in sum.iter_mut().zip(x) {
                *sum += x;
            }
            // SAFETY: inside a kernel.
            unsafe { norm::<S>(sum, weight, offset, eps, y) };
        }
    }
}

/// Gradients of up to [`BLOCK`] groups.
struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    offset: f32,
    eps: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
    accumulate: bool,
    /// The block's share of dweight (overwritten); empty if it is not wanted.
    dweight: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { x, weight, offset, eps, dy, dx, accumulate, dweight } = self;
        let n = weight.len();
        dweight.fill(0.0);
        for ((x, dy), dx) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            // SAFETY: inside a kernel.
            let r = unsafe { inverse_rms::<S>(x, eps) };
            for ((dweight, dy), x) in dweight.iter_mut().zip(dy).zip(x) {
                *dweight += dy * x * r;
            }
            // SAFETY: inside a kernel; slices of length n.
            let projection = unsafe { scaled_dot::<S>(dy, x, weight, offset) } / n as f32;
            let factor = r * r * r * projection;
            let gradients = dx.iter_mut().zip(dy).zip(x).zip(weight);
            if accumulate {
                gradients.for_each(|(((dx, dy), x), w)| *dx += r * (dy * (offset + w)) - factor * x);
            } else {
                gradients.for_each(|(((dx, dy), x), w)| *dx = r * (dy * (offset + w)) - factor * x);
            }
        }
    }
}

/// `sum_i dy_i (offset + w_i) x_i`.
#[inline(always)]
unsafe fn scaled_dot<S: Simd>(dy: &[f32], x: &[f32], weight: &[f32], offset: f32) -> f32 {
    // SAFETY: whole registers, then one partial, within slices of equal length.
    unsafe {
        let (mut sum, mut i) = (S::zero(), 0);
        while i < x.len() {
            let count = S::LANES.min(x.len() - i);
            let load = |x: &[f32]| {
                if count == S::LANES { S::load(x.as_ptr().add(i)) } else { S::load_partial(x.as_ptr().add(i), count) }
            };
            // In a partial register dy and x are 0 where the weight is the bare offset.
            let g = S::mul(load(dy), S::add(S::splat(offset), load(weight)));
            sum = S::fma(g, load(x), sum);
            i += count;
        }
        S::sum(sum)
    }
}

impl RmsNorm for Cpu {
    fn rms_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        y: &mut Tensor<Self>,
    ) -> Result<()> {
        let n = weight.len();
        assert!(x.shape() == y.shape() && x.len().is_multiple_of(n), "y is like x, in whole groups");
        let weight = weight.buffer.f32();
        let part = (TASK / n).max(1) * n;
        let chunks = y.buffer.f32_mut().par_chunks_mut(part).zip(x.buffer.f32().par_chunks(part));
        chunks.for_each(|(y, x)| self.isa().run(Forward { x, weight, offset, eps, y }));
        Ok(())
    }

    fn add_rms_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        sum: &mut Tensor<Self>,
        y: &mut Tensor<Self>,
    ) -> Result<()> {
        let n = weight.len();
        assert!(x.shape() == sum.shape() && x.shape() == y.shape(), "sum and y are like x");
        assert!(x.len().is_multiple_of(n), "in whole groups");
        let weight = weight.buffer.f32();
        let part = (TASK / n).max(1) * n;
        let chunks = sum.buffer.f32_mut().par_chunks_mut(part).zip(y.buffer.f32_mut().par_chunks_mut(part));
        chunks
            .zip(x.buffer.f32().par_chunks(part))
            .for_each(|((sum, y), x)| self.isa().run(AddForward { x, weight, offset, eps, sum, y }));
        Ok(())
    }

    fn rms_norm_backward(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        self.norm_gradients(x, weight, offset, eps, dy, dx, false, dweight)
    }

    fn add_rms_norm_backward(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        rounded: Option<&mut Tensor<Self>>,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        self.norm_gradients(x, weight, offset, eps, dy, dx, true, dweight)?;
        rounded.map_or(Ok(()), |rounded| self.copy(&dx.buffer, &mut rounded.buffer))
    }
}

impl Cpu {
    /// Both gradients; that of `x` is added to `dx` if `accumulate`.
    #[allow(clippy::too_many_arguments)]
    fn norm_gradients(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        offset: f32,
        eps: f32,
        dy: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        accumulate: bool,
        dweight: Option<&mut Tensor<Self>>,
    ) -> Result<()> {
        let n = weight.len();
        assert!(x.shape() == dy.shape() && x.shape() == dx.shape(), "dy and dx are like x");
        let weight = weight.buffer.f32();
        let part = BLOCK * n;
        let blocks = x.len().div_ceil(part);
        // One row of partial sums a block.
        let mut partial = self.alloc(DType::F32, if dweight.is_some() { blocks * n } else { 0 })?;
        let inputs = x.buffer.f32().par_chunks(part).zip(dy.buffer.f32().par_chunks(part));
        let outputs = dx.buffer.f32_mut().par_chunks_mut(part).zip(inputs);
        let run = |x, dy, dx, dweight| {
            self.isa().run(Backward { x, weight, offset, eps, dy, dx, accumulate, dweight });
        };
        let Some(dweight) = dweight else {
            outputs.for_each(|(dx, (x, dy))| run(x, dy, dx, &mut []));
            return Ok(());
        };
        let sums = partial.f32_mut();
        outputs.zip(sums.par_chunks_exact_mut(n)).for_each(|((dx, (x, dy)), dweight)| run(x, dy, dx, dweight));
        for sums in partial.f32().chunks_exact(n) {
            for (dweight, sum) in dweight.buffer.f32_mut().iter_mut().zip(sums) {
                *dweight += sum;
            }
        }
        Ok(())
    }
}
