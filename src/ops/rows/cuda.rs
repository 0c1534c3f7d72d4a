//! Row gather and scatter, and sums over rows, on a GPU: kernels/rows.cu.

use super::Rows;
use crate::device::cuda::{Buffer, Indices, Shape, THREADS, by_activation};
use crate::device::{Backend, Cuda, DType, Tensor};
use crate::{Result, args};

/// Rows that one thread sums; the parts' sums are added up in order.
const PART: usize = 64;

impl Rows for Cuda {
    fn gather_rows(&self, x: &Tensor<Self>, rows: &Indices, y: &mut Tensor<Self>) -> Result<()> {
        assert_eq!(y.shape(), [rows.len(), x.cols()], "y has the picked rows");
        assert!(x.dtype() == DType::F32 && y.dtype() == DType::F32, "f32");
        self.launch("gather_rows", Shape::new(rows.len(), THREADS), args![x, rows, y, x.cols()])
    }

    fn scatter_rows(&self, y: &Tensor<Self>, rows: &Indices, x: &mut Tensor<Self>) -> Result<()> {
        assert_eq!(y.shape(), [rows.len(), x.cols()], "y has a row for each number");
        assert!(x.dtype() == DType::F32 && y.dtype() == DType::F32, "f32");
        self.fill(&mut x.buffer, 0.0)?;
        self.launch("scatter_rows", Shape::new(rows.len(), THREADS), args![y, rows, x, x.cols()])
    }
}

/// `total[c] += sum_r x[r, c]` in a fixed order, for `x [rows, total.len()]` in f32 or bf16 and `total` in f32.
pub(in crate::ops) fn add_sum_of_rows(device: &Cuda, x: &Buffer, rows: usize, total: &mut Buffer) -> Result<()> {
    let cols = total.len();
    assert!(x.len() == rows * cols && total.dtype() == DType::F32, "[rows, cols] and f32 [cols]");
    if rows <= PART {
        let kernel = by_activation(x.dtype(), ["add_up_rows_f32", "add_up_rows_bf16"]);
        return device.launch(kernel, Shape::covering(cols, THREADS), args![x, total, rows, cols]);
    }
    let parts = rows.div_ceil(PART);
    let sums = device.alloc(DType::F32, parts * cols)?;
    let shape = Shape::grid([cols.div_ceil(THREADS), parts, 1], THREADS);
    device.launch(
        by_activation(x.dtype(), ["sum_rows_f32", "sum_rows_bf16"]),
        shape,
        args![x, sums, rows, cols, PART],
    )?;
    device.launch("add_up_rows_f32", Shape::covering(cols, THREADS), args![sums, total, parts, cols])
}
