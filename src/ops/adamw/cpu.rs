//! AdamW on the CPU: one pass over parameter, gradient and moments.

use super::{AdamW, AdamWStep, round_stochastically};
use crate::Result;
use crate::device::cpu::parallel::{Shared, for_each_task};
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Cpu, DType, Tensor};
use crate::ops::elementwise::CHUNK;
use half::bf16;
use rayon::prelude::*;

/// A step's scalars, in f64 as Python has them until they meet the tensors.
struct Scalars {
    grad_scale: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    step_size: f32,
    root: f32,
    eps: f32,
    decay: f32,
}

impl Scalars {
    fn new(hyper: &AdamWStep) -> Self {
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(hyper.step as i32);
        Self {
            grad_scale: hyper.grad_scale,
            rest1: 1.0 - hyper.beta1,
            beta2: hyper.beta2,
            rest2: 1.0 - hyper.beta2,
            step_size: (f64::from(hyper.lr) / correction(hyper.beta1)) as f32,
            root: correction(hyper.beta2).sqrt() as f32,
            eps: hyper.eps,
            decay: (1.0 - f64::from(hyper.lr) * f64::from(hyper.weight_decay)) as f32,
        }
    }

    /// The new parameter, m and v.
    #[inline(always)]
    fn update(&self, grad: f32, [param, m, v]: [f32; 3]) -> [f32; 3] {
        let g = self.grad_scale * grad;
        let m = m + self.rest1 * (g - m);
        let v = self.beta2 * v + self.rest2 * g * g;
        [self.decay * param - self.step_size * m / (v.sqrt() / self.root + self.eps), m, v]
    }
}

/// A piece of four tensors, and the number of its first element.
struct Update<'a, T> {
    hyper: &'a AdamWStep,
    first: usize,
    grad: &'a [f32],
    param: &'a mut [T],
    m: &'a mut [T],
    v: &'a mut [T],
}

impl Kernel for Update<'_, f32> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let scalars = Scalars::new(self.hyper);
        for (((grad, param), m), v) in self.grad.iter().zip(self.param).zip(self.m).zip(self.v) {
            [*param, *m, *v] = scalars.update(*grad, [*param, *m, *v]);
        }
    }
}

impl Kernel for Update<'_, bf16> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { hyper, first, grad, param, m, v } = self;
        let scalars = Scalars::new(hyper);
        let pieces = grad.chunks(TOGETHER).zip(param.chunks_mut(TOGETHER));
        let pieces = pieces.zip(m.chunks_mut(TOGETHER)).zip(v.chunks_mut(TOGETHER));
        for (piece, (((grad, param), m), v)) in pieces.enumerate() {
            let noise = hyper.noise::<TOGETHER>((first + piece * TOGETHER) as u64);
            match (grad.as_array(), param.as_mut_array(), m.as_mut_array(), v.as_mut_array()) {
                (Some(grad), Some(param), Some(m), Some(v)) => update_together(&scalars, &noise, grad, [param, m, v]),
                _ => {
                    for i in 0..grad.len() {
                        let noise = [noise[0][i], noise[1][i], noise[2][i]];
                        update_rounded(&scalars, noise, grad[i], [&mut param[i], &mut m[i], &mut v[i]]);
                    }
                }
            }
        }
    }
}

/// One element of bf16 tensors.
#[inline(always)]
fn update_rounded(scalars: &Scalars, noise: [u32; 3], grad: f32, [param, m, v]: [&mut bf16; 3]) {
    let new = scalars.update(grad, [param.to_f32(), m.to_f32(), v.to_f32()]);
    *param = round_stochastically(new[0], noise[0] as u16);
    *m = round_stochastically(new[1], noise[1] as u16);
    *v = round_stochastically(new[2], noise[2] as u16);
}

/// As many elements as their length says, which vectors are made of.
#[inline(always)]
fn update_together(
    scalars: &Scalars,
    noise: &[[u32; TOGETHER]; 3],
    grad: &[f32; TOGETHER],
    [param, m, v]: [&mut [bf16; TOGETHER]; 3],
) {
    for i in 0..TOGETHER {
        let noise = [noise[0][i], noise[1][i], noise[2][i]];
        update_rounded(scalars, noise, grad[i], [&mut param[i], &mut m[i], &mut v[i]]);
    }
}

/// Elements whose random numbers are made together.
const TOGETHER: usize = 16;

/// The update of whole tensors, in pieces that threads share.
fn update<T: Send>(device: &Cpu, hyper: &AdamWStep, grad: &[f32], [param, m, v]: [&mut [T]; 3])
where
    for<'a> Update<'a, T>: Kernel<Output = ()>,
{
    let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
    let values = grad.par_chunks(CHUNK).zip(param.par_chunks_mut(CHUNK));
    values.zip(moments).enumerate().for_each(|(piece, ((grad, param), (m, v)))| {
        device.isa().run(Update { hyper, first: piece * CHUNK, grad, param, m, v });
    });
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
        let grad = grad.buffer.f32();
        let tensors = [param, m, v];
        match tensors[0].dtype() {
            DType::BF16 => update(self, hyper, grad, tensors.map(|tensor| tensor.buffer.bf16_mut())),
            _ => update(self, hyper, grad, tensors.map(|tensor| tensor.buffer.f32_mut())),
        }
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
