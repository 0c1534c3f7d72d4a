//! Matrix products on the CPU whose rows do not depend on the batch.
//!
//! Placeholder for the micro-kernels under development on a branch; plain loops until they land.

use super::{Isa, View};

/// `y[m, n] (+)= sum_k x[m, k] w[n, k]`: a linear layer's forward pass. Row strides are in elements.
/// A row of `y` depends on its row of `x` and on `w` only, never on `m` or the thread count.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nt(
    _isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    x: &[f32],
    x_stride: usize,
    w: View<'_>,
    w_stride: usize,
    y: &mut [f32],
    y_stride: usize,
    accumulate: bool,
) {
    let mut row = vec![0.0; k];
    for j in 0..n {
        w.slice(j * w_stride..j * w_stride + k).widen(&mut row);
        for i in 0..m {
            let dot: f32 = x[i * x_stride..i * x_stride + k].iter().zip(&row).map(|(a, b)| a * b).sum();
            let y = &mut y[i * y_stride + j];
            *y = if accumulate { *y + dot } else { dot };
        }
    }
}

/// `c[m, n] (+)= sum_k a[m, k] b[k, n]`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nn(
    _isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_stride: usize,
    b: View<'_>,
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    let mut row = vec![0.0; n];
    for i in 0..m {
        if !accumulate {
            c[i * c_stride..i * c_stride + n].fill(0.0);
        }
    }
    for l in 0..k {
        b.slice(l * b_stride..l * b_stride + n).widen(&mut row);
        for i in 0..m {
            for j in 0..n {
                c[i * c_stride + j] += a[i * a_stride + l] * row[j];
            }
        }
    }
}

/// `c[m, n] (+)= sum_k a[k, m] b[k, n]`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_tn(
    _isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    accumulate: bool,
) {
    for i in 0..m {
        if !accumulate {
            c[i * c_stride..i * c_stride + n].fill(0.0);
        }
    }
    for l in 0..k {
        for i in 0..m {
            for j in 0..n {
                c[i * c_stride + j] += a[l * a_stride + i] * b[l * b_stride + j];
            }
        }
    }
}
