//! The CPU matrix products: against f64 loops, and the law that a row's bits depend on the row alone.

use super::device::{available, pool};
use super::measure::{bits, relative_error};
use super::reference;
use super::values::{Random, Stored};
use super::{Law, Trial};
use crate::device::cpu::{Isa, View, gemm};
use crate::device::{Cpu, DType};
use proptest::prelude::*;

pub fn laws() -> Vec<Law<Cpu>> {
    law_table!("gemm": products_agree_with_f64, bits_depend_on_row_and_column_alone)
}

/// Rounding of n products accumulated in f32 grows like sqrt(n) * 2^-24 relative to the norm of an output made of random
/// terms: 4e-6 at n = 4096. Absolute cancellation is excluded by comparing whole outputs.
const BOUND: f64 = 1e-5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Product {
    Nt,
    Nn,
    Tn,
}

const PRODUCTS: [Product; 3] = [Product::Nt, Product::Nn, Product::Tn];

/// `(isa, m, n, k, left, its stride, right, its stride, output, its stride, accumulate)`.
type Function = fn(Isa, usize, usize, usize, &[f32], usize, View<'_>, usize, &mut [f32], usize, bool);

impl Product {
    fn function(self, serial: bool) -> Function {
        match (self, serial) {
            (Self::Nt, false) => gemm::gemm_nt,
            (Self::Nt, true) => gemm::gemm_nt_serial,
            (Self::Nn, false) => gemm::gemm_nn,
            (Self::Nn, true) => gemm::gemm_nn_serial,
            (Self::Tn, false) => |isa, m, n, k, a, a_stride, b, b_stride, c, c_stride, accumulate| {
                gemm::gemm_tn(isa, m, n, k, a, a_stride, b.f32(), b_stride, c, c_stride, accumulate);
            },
            (Self::Tn, true) => |isa, m, n, k, a, a_stride, b, b_stride, c, c_stride, accumulate| {
                gemm::gemm_tn_serial(isa, m, n, k, a, a_stride, b.f32(), b_stride, c, c_stride, accumulate);
            },
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    product: Product,
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    /// Added to each row stride.
    extra: [usize; 3],
    accumulate: bool,
    serial: bool,
    seed: u64,
}

fn size(limit: usize) -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0..4_usize, 6 => 0..40_usize, 2 => 0..limit]
}

fn cases() -> impl Strategy<Value = Case> {
    let dtype = prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)];
    let extra = prop_oneof![3 => Just([0; 3]), 1 => prop::array::uniform3(0..9_usize)];
    (
        prop::sample::select(&PRODUCTS[..]),
        size(150),
        size(150),
        size(1400),
        dtype,
        extra,
        any::<[bool; 2]>(),
        any::<u64>(),
    )
        .prop_map(|(product, m, n, k, dtype, extra, [accumulate, serial], seed)| {
            let dtype = if product == Product::Tn { DType::F32 } else { dtype };
            Case { product, m, n, k, dtype, extra, accumulate, serial, seed }
        })
}

impl Case {
    /// (rows, columns) of the left and the right operand as stored.
    fn shapes(&self) -> [(usize, usize); 2] {
        let Self { m, n, k, .. } = *self;
        match self.product {
            Product::Nt => [(m, k), (n, k)],
            Product::Nn => [(m, k), (k, n)],
            Product::Tn => [(k, m), (k, n)],
        }
    }

    /// The output, dense, and what it should be. Gaps between rows hold NaN in the operands and must stay in the output.
    fn run(&self, isa: Isa) -> (Vec<f32>, Vec<f64>) {
        let Self { m, n, k, accumulate, extra, .. } = *self;
        let [(a_rows, a_cols), (b_rows, b_cols)] = self.shapes();
        let mut random = Random(self.seed);
        let mut matrix = |rows: usize, cols: usize, stride: usize| {
            let mut values = vec![f32::NAN; rows * stride];
            for row in values.chunks_mut(stride.max(1)) {
                row[..cols].copy_from_slice(&random.values(cols, 1.0));
            }
            // The last row may end where its columns end.
            values.truncate((rows * stride).saturating_sub(stride - cols));
            values
        };
        let strides = [a_cols + extra[0], b_cols + extra[1], n + extra[2]];
        let a = matrix(a_rows, a_cols, strides[0]);
        let b = Stored::new(self.dtype, &matrix(b_rows, b_cols, strides[1]));
        let mut c = matrix(m, n, strides[2]);
        let before = c.clone();
        let wide = b.f64();
        let a_at = |i: usize, p: usize| {
            f64::from(a[if self.product == Product::Tn { p * strides[0] + i } else { i * strides[0] + p }])
        };
        let b_at = |p: usize, j: usize| {
            wide[if self.product == Product::Nt { j * strides[1] + p } else { p * strides[1] + j }]
        };
        let mut want = reference::product(m, n, k, a_at, b_at);
        if accumulate {
            for i in 0..m {
                for j in 0..n {
                    want[i * n + j] += f64::from(before[i * strides[2] + j]);
                }
            }
        } else {
            // Whatever was there must be overwritten, not multiplied by zero.
            for row in c.chunks_mut(strides[2].max(1)) {
                row[..n].fill(f32::NAN);
            }
        }
        let [a_stride, b_stride, c_stride] = strides;
        let call = self.product.function(self.serial);
        call(isa, m, n, k, &a, a_stride, b.view(), b_stride, &mut c, c_stride, accumulate);
        let mut dense = Vec::new();
        for row in c.chunks(c_stride.max(1)) {
            dense.extend_from_slice(&row[..n]);
            assert!(row[n..].iter().all(|gap| gap.is_nan()), "wrote between the rows");
        }
        (dense, want)
    }
}

fn products_agree_with_f64(trial: &Trial<Cpu>) {
    proptest!(trial.config(300), |(case in cases())| {
        for isa in available() {
            let (got, want) = case.run(isa);
            let error = relative_error(&got, &want);
            prop_assert!(error <= BOUND, "{isa}: {error:e}");
        }
    });
}

/// Rows of x, columns of w and threads are added and taken away: the bits of what remains do not move.
fn bits_depend_on_row_and_column_alone(_: &Trial<Cpu>) {
    let threads = [pool(1), pool(2), pool(5)];
    let mut random = Random(7);
    let shapes = [
        (75, 64, 521),
        (192, 576, 521),
        (37, 2000, 60),
        (36, 1536, 130),
        (64, 4096, 30),
        (301, 129, 521),
        (2100, 40, 30),
        (70, 300, 2100),
    ];
    for ((n, k, most), product) in shapes.into_iter().flat_map(|shape| PRODUCTS.map(|product| (shape, product))) {
        let a = random.values(most * k, 1.0);
        let b = random.values(n * k, 1.0);
        let a_stride = if product == Product::Tn { most } else { k };
        let b_stride = if product == Product::Nt { k } else { n };
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            if product == Product::Tn && dtype != DType::F32 {
                continue;
            }
            let b = Stored::new(dtype, &b);
            for isa in available() {
                let run = |m: usize, n: usize, serial: bool| {
                    let mut c = vec![f32::NAN; m * n];
                    product.function(serial)(isa, m, n, k, &a, a_stride, b.view(), b_stride, &mut c, n, false);
                    bits(&c)
                };
                let want = threads[0].install(|| run(most, n, false));
                for m in [1, 2, 3, 4, 5, 7, 16, 24, 25, 100, 512].into_iter().filter(|&m| m < most) {
                    let name = format!("{product:?} {isa} {dtype:?} m {m} n {n} k {k}");
                    for pool in &threads[1..] {
                        assert!(pool.install(|| run(m, n, false)) == want[..m * n], "{name}");
                    }
                    assert!(run(m, n, true) == want[..m * n], "{name}, serial");
                }
                let narrow = run(most.min(30), n - 1, false);
                for (got, want) in narrow.chunks(n - 1).zip(want.chunks(n)) {
                    assert!(got == &want[..n - 1], "{product:?} {isa} {dtype:?} n {n} k {k}, one column less");
                }
            }
        }
    }
}
