//! RoPE on a GPU: kernels/rope.cu.

use super::Rope;
use crate::device::cuda::{Indices, Shape, THREADS, by_activation, narrow};
use crate::device::{Backend, Cuda, DType, Tensor};
use crate::ops::attention::{AttentionParams, PAGE, Paged};
use crate::{Result, args};

/// Heads for which a thread uses the angle that it has loaded (kernels/rope.cu).
const HEADS_A_THREAD: u32 = 4;

impl Rope for Cuda {
    fn rope_table(
        &self,
        positions: &Indices,
        inv_freq: &[f32],
        cos: &mut Tensor<Self>,
        sin: &mut Tensor<Self>,
    ) -> Result<()> {
        let half = inv_freq.len();
        assert!(cos.shape() == [positions.len(), half] && sin.shape() == cos.shape(), "a row a position");
        assert!(cos.dtype() == DType::F32 && sin.dtype() == DType::F32, "f32");
        let frequencies = self.upload(DType::F32, inv_freq)?;
        let block = block(half, positions.len());
        let shape = Shape { grid: [narrow(positions.len()).div_ceil(block[1]), 1, 1], block, shared: 0 };
        self.launch("rope_table", shape, args![positions, frequencies, cos, sin, half, positions.len()])
    }

    fn rope(
        &self,
        q: &mut Tensor<Self>,
        k: &mut Tensor<Self>,
        cos: &Tensor<Self>,
        sin: &Tensor<Self>,
        inverse: bool,
    ) -> Result<()> {
        let half = cos.cols();
        check(q, cos, sin);
        check(k, cos, sin);
        assert_eq!(q.dtype(), k.dtype(), "q and k have one dtype");
        let [heads, shared] = [&*q, &*k].map(|x| x.cols() / (2 * half));
        let sign = if inverse { -1.0_f32 } else { 1.0 };
        self.launch(
            by_activation(q.dtype(), ["rope_f32", "rope_bf16"]),
            shape(q.rows(), half, heads + shared),
            args![q, k, cos, sin, sign, heads, shared, half],
        )
    }

    fn rope_to_cache(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        q: &mut Tensor<Self>,
        k: &mut Tensor<Self>,
        v: &Tensor<Self>,
        cos: &Tensor<Self>,
        sin: &Tensor<Self>,
        cache_k: &mut Tensor<Self>,
        cache_v: &mut Tensor<Self>,
    ) -> Result<()> {
        let (heads, shared, half) = (params.num_heads, params.num_key_value_heads, cos.cols());
        check(q, cos, sin);
        check(k, cos, sin);
        assert_eq!(2 * half, params.head_dim, "an angle a pair of a head");
        assert_eq!((q.cols(), k.cols()), (heads * params.head_dim, shared * params.head_dim), "q and k columns");
        assert_eq!(k.shape(), v.shape(), "v is like k");
        assert!([&*cache_k, &*cache_v].iter().all(|cache| cache.cols() == k.cols() * PAGE), "cache page size");
        let dtype = q.dtype();
        assert!(
            [k, v, cache_k, cache_v].iter().all(|tensor| tensor.dtype() == dtype),
            "a cache holds what it is given"
        );
        self.launch(
            by_activation(dtype, ["rope_to_cache_f32", "rope_to_cache_bf16"]),
            shape(q.rows() + batch.count, half, heads + 2 * shared),
            args![
                q,
                k,
                v,
                cos,
                sin,
                cache_k,
                cache_v,
                heads,
                shared,
                half,
                batch.count,
                batch.offsets,
                batch.starts,
                batch.pages,
                batch.max_pages
            ],
        )
    }
}

fn check(x: &Tensor<Cuda>, cos: &Tensor<Cuda>, sin: &Tensor<Cuda>) {
    assert!(cos.rows() == x.rows() && sin.shape() == cos.shape(), "a row of angles a row of q and k");
    assert!(x.cols().is_multiple_of(2 * cos.cols()), "whole heads");
    assert!(cos.dtype() == DType::F32 && sin.dtype() == DType::F32, "angles are f32");
}

/// Threads along the pairs of a head and across `others`.
fn block(half: usize, others: usize) -> [u32; 3] {
    let pairs = half.clamp(1, THREADS);
    [narrow(pairs), narrow((THREADS / pairs).min(others).max(1)), 1]
}

/// A block for each of `rows` and so many of its `heads` as its threads treat.
fn shape(rows: usize, half: usize, heads: usize) -> Shape {
    let block = block(half, heads);
    Shape { grid: [narrow(rows), narrow(heads).div_ceil(block[1] * HEADS_A_THREAD), 1], block, shared: 0 }
}
