//! The CPU's matrix products: the laws of `safedepth::selftest`.

mod support;

use safedepth::device::Cpu;

#[test]
fn products_agree_with_f64() {
    support::device::hold::<Cpu>("gemm", "products_agree_with_f64");
}

#[test]
fn bits_depend_on_row_and_column_alone() {
    support::device::hold::<Cpu>("gemm", "bits_depend_on_row_and_column_alone");
}
