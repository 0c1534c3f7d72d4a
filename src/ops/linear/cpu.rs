//! Linear layers on the CPU: the products of `device::cpu::gemm`, and biases.

use super::Linear;
use crate::Result;
use crate::device::cpu::gemm::{gemm_nn, gemm_nt, gemm_tn};
use crate::device::cpu::parallel::{Shared, for_each_task};
use crate::device::{Cpu, Tensor};
use rayon::prelude::*;

/// Columns a task of the bias gradient sums; each visits all rows in order.
const COLUMNS: usize = 256;

impl Linear for Cpu {
    fn linear(
        &self,
        x: &Tensor<Self>,
        w: &Tensor<Self>,
        bias: Option<&Tensor<Self>>,
        y: &mut Tensor<Self>,
    ) -> Result<()> {
        let (t, k, n) = (x.rows(), x.cols(), w.rows());
        assert!(w.cols() == k && y.shape() == [t, n], "linear: [T, K] x [N, K] gives [T, N]");
        let y = y.buffer.f32_mut();
        gemm_nt(self.isa(), t, n, k, x.buffer.f32(), k, w.buffer.view(), k, y, n, false);
        if let Some(bias) = bias {
            let bias = bias.buffer.f32();
            y.par_chunks_exact_mut(n).with_min_len(8).for_each(|row| {
                for (y, b) in row.iter_mut().zip(bias) {
                    *y += b;
                }
            });
        }
        Ok(())
    }

    fn linear_backward_input(
        &self,
        dy: &Tensor<Self>,
        w: &Tensor<Self>,
        dx: &mut Tensor<Self>,
        accumulate: bool,
    ) -> Result<()> {
        let (t, n, k) = (dy.rows(), dy.cols(), w.cols());
        assert!(w.rows() == n && dx.shape() == [t, k], "linear_backward_input: [T, N] x [N, K] gives [T, K]");
        let dx = dx.buffer.f32_mut();
        gemm_nn(self.isa(), t, k, n, dy.buffer.f32(), n, w.buffer.view(), k, dx, k, accumulate);
        Ok(())
    }

    fn linear_backward_weight(
        &self,
        dy: &Tensor<Self>,
        x: &Tensor<Self>,
        dw: &mut Tensor<Self>,
        dbias: Option<&mut Tensor<Self>>,
        accumulate: bool,
    ) -> Result<()> {
        let (t, n, k) = (dy.rows(), dy.cols(), x.cols());
        assert!(x.rows() == t && dw.shape() == [n, k], "linear_backward_weight: [T, N]' x [T, K] gives [N, K]");
        let dy = dy.buffer.f32();
        gemm_tn(self.isa(), n, k, t, dy, n, x.buffer.f32(), k, dw.buffer.f32_mut(), k, accumulate);
        if let Some(dbias) = dbias {
            let dbias = Shared::new(dbias.buffer.f32_mut());
            for_each_task(n.div_ceil(COLUMNS), |task| {
                let columns = task * COLUMNS..n.min((task + 1) * COLUMNS);
                // SAFETY: tasks own disjoint columns.
                let sums = unsafe { dbias.range(columns.clone()) };
                if !accumulate {
                    sums.fill(0.0);
                }
                for row in dy.chunks_exact(n) {
                    for (sum, dy) in sums.iter_mut().zip(&row[columns.clone()]) {
                        *sum += dy;
                    }
                }
            });
        }
        Ok(())
    }
}
