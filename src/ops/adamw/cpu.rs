//! AdamW on the CPU: one pass over parameter, gradient and moments.

use super::{AdamW, AdamWStep};
use crate::Result;
use crate::device::cpu::parallel::{Shared, for_each_task};
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Cpu, Tensor};
use crate::ops::elementwise::CHUNK;
use rayon::prelude::*;

struct Update<'a> {
    hyper: &'a AdamWStep,
    grad: &'a [f32],
    param: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { hyper, grad, param, m, v } = self;
        // Scalars in f64, as Python has them.
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(hyper.step as i32);
        let step_size = (f64::from(hyper.lr) / correction(hyper.beta1)) as f32;
        let root = correction(hyper.beta2).sqrt() as f32;
        let decay = (1.0 - f64::from(hyper.lr) * f64::from(hyper.weight_decay)) as f32;
        let (rest1, rest2) = (1.0 - hyper.beta1, 1.0 - hyper.beta2);
        for (((grad, param), m), v) in grad.iter().zip(param).zip(m).zip(v) {
            let g = hyper.grad_scale * grad;
            *m += rest1 * (g - *m);
            *v = hyper.beta2 * *v + rest2 * g * g;
            *param = decay * *param - step_size * *m / (v.sqrt() / root + hyper.eps);
        }
    }
}

/// `sum x^2` in f64 over a part: eight chains, then their sum.
struct SumSquares<'a>(&'a [f32]);

impl Kernel for SumSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self) -> f64 {
        let mut chains = [0.0_f64; 8];
        let chunks = self.0.chunks_exact(8);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (chain, &x) in chains.iter_mut().zip(chunk) {
                *chain += f64::from(x) * f64::from(x);
            }
        }
        for (chain, &x) in chains.iter_mut().zip(rest) {
            *chain += f64::from(x) * f64::from(x);
        }
        chains.iter().sum()
    }
}

/// Parts whose sums of squares are added up in order, at most.
const PARTS: usize = 256;

impl AdamW for Cpu {
    fn adamw(
        &self,
        hyper: &AdamWStep,
        grad: &Tensor<Self>,
        param: &mut Tensor<Self>,
        m: &mut Tensor<Self>,
        v: &mut Tensor<Self>,
    ) -> Result<()> {
        assert!([&*param, m, v].iter().all(|tensor| tensor.shape() == grad.shape()), "all are like the gradient");
        let moments = m.buffer.f32_mut().par_chunks_mut(CHUNK).zip(v.buffer.f32_mut().par_chunks_mut(CHUNK));
        let values = grad.buffer.f32().par_chunks(CHUNK).zip(param.buffer.f32_mut().par_chunks_mut(CHUNK));
        values.zip(moments).for_each(|((grad, param), (m, v))| self.isa().run(Update { hyper, grad, param, m, v }));
        Ok(())
    }

    fn sum_squares(&self, x: &Tensor<Self>) -> Result<f64> {
        let x = x.buffer.f32();
        // The cut depends on the length alone.
        let part = x.len().div_ceil(PARTS).max(CHUNK);
        let count = x.len().div_ceil(part);
        let mut sums = [0.0; PARTS];
        let shared = Shared::new(&mut sums);
        for_each_task(count, |task| {
            let sum = self.isa().run(SumSquares(&x[task * part..x.len().min((task + 1) * part)]));
            // SAFETY: each task writes its own element.
            let own = unsafe { shared.range(task..task + 1) };
            own[0] = sum;
        });
        Ok(sums[..count].iter().sum())
    }
}
