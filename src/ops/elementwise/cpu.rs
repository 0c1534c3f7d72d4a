//! Elementwise operations on the CPU: plain loops, vectorised for the instruction set in use.

use super::Elementwise;
use crate::Result;
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::cpu::tanh::Softcap;
use crate::device::{Cpu, Tensor};
use rayon::prelude::*;

/// Elements a task handles; what an element becomes does not depend on it.
pub(in crate::ops) const CHUNK: usize = 16 * 1024;

struct Add<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (y, x) in self.1.iter_mut().zip(self.0) {
            *y += x;
        }
    }
}

struct Scale<'a>(f32, &'a mut [f32]);

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for y in self.1 {
            *y *= self.0;
        }
    }
}

impl Elementwise for Cpu {
    fn add(&self, x: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()> {
        assert_eq!(x.shape(), y.shape(), "x is like y");
        let chunks = y.buffer.f32_mut().par_chunks_mut(CHUNK).zip(x.buffer.f32().par_chunks(CHUNK));
        chunks.for_each(|(y, x)| self.isa().run(Add(x, y)));
        Ok(())
    }

    fn scale(&self, factor: f32, y: &mut Tensor<Self>) -> Result<()> {
        y.buffer.f32_mut().par_chunks_mut(CHUNK).for_each(|y| self.isa().run(Scale(factor, y)));
        Ok(())
    }

    fn softcap(&self, cap: f32, y: &mut Tensor<Self>) -> Result<()> {
        let chunks = y.buffer.f32_mut().par_chunks_mut(CHUNK);
        chunks.for_each(|values| self.isa().run(Softcap { values, cap }));
        Ok(())
    }
}
