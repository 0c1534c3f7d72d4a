//! The CPU matrix products: against f64 loops, and the law that a row's bits depend on the row alone.

mod support;

use proptest::prelude::*;
use safedepth::device::DType;
use safedepth::device::cpu::{Isa, gemm};
use support::{Random, Stored, available, bits, pool, reference, relative_error};

/// Rounding of n products accumulated in f32 grows like sqrt(n) * 2^-24 relative to the norm of an output made of random
/// terms: 4e-6 at n = 4096. Absolute cancellation is excluded by comparing whole outputs.
const BOUND: f64 = 1e-5;

/// With AVX512-BF16, x is rounded to bf16 (8 bits: 2^-9 a factor) where the weights are bf16.
const BF16_BOUND: f64 = 1e-2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Product {
    Nt,
    Nn,
    Tn,
}

const PRODUCTS: [Product; 1] = [Product::Nt];

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
        match (self.product, self.serial) {
            (Product::Nt, false) => {
                gemm::gemm_nt(isa, m, n, k, &a, a_stride, b.view(), b_stride, &mut c, c_stride, accumulate)
            }
            (Product::Nt, true) => {
                gemm::gemm_nt_serial(isa, m, n, k, &a, a_stride, b.view(), b_stride, &mut c, c_stride, accumulate)
            }
            _ => unimplemented!(),
        }
        let mut dense = Vec::new();
        for row in c.chunks(c_stride.max(1)) {
            dense.extend_from_slice(&row[..n]);
            assert!(row[n..].iter().all(|gap| gap.is_nan()), "wrote between the rows");
        }
        (dense, want)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn products_agree_with_f64(case in cases()) {
        for isa in available() {
            let (got, want) = case.run(isa);
            let bound = if isa == Isa::Avx512Bf16 && case.dtype == DType::BF16 { BF16_BOUND } else { BOUND };
            let error = relative_error(&got, &want);
            prop_assert!(error <= bound, "{isa}: {error:e}");
        }
    }
}

/// Rows of x, columns of w and threads are added and taken away: the bits of what remains do not move.
#[test]
fn bits_depend_on_row_and_column_alone() {
    let threads = [pool(1), pool(2), pool(5)];
    for product in PRODUCTS {
        for (n, k) in [(75, 64), (192, 576), (37, 1000), (64, 4096), (301, 129)] {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                if product == Product::Tn && dtype != DType::F32 {
                    continue;
                }
                for isa in available() {
                    let whole = |m: usize, n: usize, serial: bool| {
                        let mut random = Random(7);
                        let a = random.values(530 * k, 1.0);
                        let b = random.values(310 * k, 1.0);
                        let (a_stride, b) = match product {
                            Product::Tn => (530, b),
                            _ => (k, b),
                        };
                        let b_stride = if product == Product::Nt { k } else { 310 };
                        let b = Stored::new(dtype, &b);
                        let mut c = vec![f32::NAN; m * n];
                        match (product, serial) {
                            (Product::Nt, false) => {
                                gemm::gemm_nt(isa, m, n, k, &a, a_stride, b.view(), b_stride, &mut c, n, false)
                            }
                            (Product::Nt, true) => {
                                gemm::gemm_nt_serial(isa, m, n, k, &a, a_stride, b.view(), b_stride, &mut c, n, false)
                            }
                            _ => unimplemented!(),
                        }
                        c
                    };
                    let want = bits(&threads[0].install(|| whole(521, n, false)));
                    for m in [1, 2, 3, 4, 5, 7, 16, 24, 25, 100, 512, 521] {
                        for pool in &threads {
                            let got = bits(&pool.install(|| whole(m, n, false)));
                            assert!(got == want[..m * n], "{product:?} {isa} {dtype:?} m {m} n {n} k {k}");
                        }
                        assert!(
                            bits(&whole(m, n, true)) == want[..m * n],
                            "{product:?} serial {isa} {dtype:?} m {m} n {n} k {k}"
                        );
                        let narrow = bits(&whole(m, n - 1, false));
                        for i in 0..m {
                            assert!(
                                narrow[i * (n - 1)..(i + 1) * (n - 1)] == want[i * n..i * n + n - 1],
                                "{product:?} {isa} narrow"
                            );
                        }
                    }
                }
            }
        }
    }
}
