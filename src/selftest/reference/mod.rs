//! Plain loops in f64: what every operation must agree with.

pub mod attention;
pub mod linear_ce;
pub mod linear_kl;
pub mod sampling;

/// `c[m, n] = sum_k a(i, p) b(p, j)`.
pub fn product(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            let a = a(i, p);
            for j in 0..n {
                c[i * n + j] += a * b(p, j);
            }
        }
    }
    c
}
