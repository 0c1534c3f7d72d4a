//! SwiGLU and GeGLU on the CPU.
//!
//! Both activations are `x sigmoid(s x')`: silu(x) = x sigmoid(x), and gelu_tanh(x) = x sigmoid(2 u) with
//! u = sqrt(2/pi) (x + 0.044715 x^3), because 1 + tanh(u) = 2 sigmoid(2 u).

use super::{Activation, Glu};
use crate::Result;
use crate::device::cpu::simd::{Kernel, Simd};
use crate::device::{Cpu, Tensor};
use crate::ops::elementwise::CHUNK;
use rayon::prelude::*;

/// 2 sqrt(2/pi).
const GELU_SLOPE: f32 = 1.595_769;
const GELU_CUBE: f32 = 0.044_715;

/// `act(x)` and `act'(x)`.
///
/// With z the sigmoid's argument, e = exp(-z), s = 1 / (1 + e): act = x s and act' = s + x s (1 - s) z', where
/// 1 - s = e s without cancellation.
#[inline(always)]
unsafe fn activate<S: Simd>(activation: Activation, x: S::V) -> (S::V, S::V) {
    // SAFETY: lane arithmetic, allowed inside a kernel.
    unsafe {
        let one = S::splat(1.0);
        let (z, slope) = match activation {
            Activation::Silu => (x, one),
            Activation::GeluTanh => {
                let square = S::mul(x, x);
                let k = S::splat(GELU_SLOPE);
                let z = S::mul(S::mul(k, x), S::fma(S::splat(GELU_CUBE), square, one));
                (z, S::mul(k, S::fma(S::splat(3.0 * GELU_CUBE), square, one)))
            }
        };
        let e = S::exp(S::sub(S::zero(), z));
        let s = S::div(one, S::add(one, e));
        let value = S::mul(x, s);
        (value, S::fma(S::mul(value, S::mul(e, s)), slope, s))
    }
}

struct Forward<'a> {
    activation: Activation,
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { activation, gate, up, y } = self;
        let mut i = 0;
        // SAFETY: whole registers, then one partial, within slices of equal length.
        unsafe {
            while i + S::LANES <= y.len() {
                let (value, _) = activate::<S>(activation, S::load(gate.as_ptr().add(i)));
                S::store(y.as_mut_ptr().add(i), S::mul(value, S::load(up.as_ptr().add(i))));
                i += S::LANES;
            }
            let rest = y.len() - i;
            if rest > 0 {
                let (value, _) = activate::<S>(activation, S::load_partial(gate.as_ptr().add(i), rest));
                let product = S::mul(value, S::load_partial(up.as_ptr().add(i), rest));
                S::store_partial(y.as_mut_ptr().add(i), product, rest);
            }
        }
    }
}

struct Backward<'a> {
    activation: Activation,
    gate: &'a [f32],
    up: &'a [f32],
    dy: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { activation, gate, up, dy, dgate, dup } = self;
        let mut i = 0;
        // SAFETY: whole registers, then one partial, within slices of equal length.
        unsafe {
            while i < dy.len() {
                let count = S::LANES.min(dy.len() - i);
                let load = |x: &[f32]| {
                    if count == S::LANES {
                        S::load(x.as_ptr().add(i))
                    } else {
                        S::load_partial(x.as_ptr().add(i), count)
                    }
                };
                let (value, slope) = activate::<S>(activation, load(gate));
                let dy = load(dy);
                let (dgate_i, dup_i) = (S::mul(S::mul(dy, load(up)), slope), S::mul(dy, value));
                if count == S::LANES {
                    S::store(dgate.as_mut_ptr().add(i), dgate_i);
                    S::store(dup.as_mut_ptr().add(i), dup_i);
                } else {
                    S::store_partial(dgate.as_mut_ptr().add(i), dgate_i, count);
                    S::store_partial(dup.as_mut_ptr().add(i), dup_i, count);
                }
                i += count;
            }
        }
    }
}

impl Glu for Cpu {
    fn glu(&self, activation: Activation, gate: &Tensor<Self>, up: &Tensor<Self>, y: &mut Tensor<Self>) -> Result<()> {
        assert!(gate.shape() == up.shape() && up.shape() == y.shape(), "gate, up and y are alike");
        let inputs = gate.buffer.f32().par_chunks(CHUNK).zip(up.buffer.f32().par_chunks(CHUNK));
        let chunks = y.buffer.f32_mut().par_chunks_mut(CHUNK).zip(inputs);
        chunks.for_each(|(y, (gate, up))| self.isa().run(Forward { activation, gate, up, y }));
        Ok(())
    }

    fn glu_backward(
        &self,
        activation: Activation,
        gate: &Tensor<Self>,
        up: &Tensor<Self>,
        dy: &Tensor<Self>,
        dgate: &mut Tensor<Self>,
        dup: &mut Tensor<Self>,
    ) -> Result<()> {
        assert!([up, dy, dgate, dup].iter().all(|tensor| tensor.shape() == gate.shape()), "all are like gate");
        let (gate, up, dy) = (gate.buffer.f32(), up.buffer.f32(), dy.buffer.f32());
        let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
        let (dgate, dup) = (dgate.buffer.f32_mut(), dup.buffer.f32_mut());
        let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
        outputs.zip(inputs).for_each(|((dgate, dup), ((gate, up), dy))| {
            self.isa().run(Backward { activation, gate, up, dy, dgate, dup });
        });
        Ok(())
    }
}
