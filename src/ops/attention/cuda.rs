//! Attention on a GPU: the launches of `attention.cu`, `attention_backward.cu` and `attention_paged.cu`.

use super::{Attention, AttentionParams, PAGE, Paged, Ragged};
use crate::device::cuda::{Cuda, Shape};
use crate::device::{Backend, DType, Tensor};
use crate::{Error, Result, args};

/// Threads of a block, and rows of its tile in the forward pass.
const THREADS: usize = 128;
const ROWS: usize = 32;

/// Larger windows see everything, and would overflow a kernel's `int`.
const LONGEST_WINDOW: usize = 1 << 30;

/// A layer's fields as every kernel takes them (`LAYER_PARAMETERS`), then the kernel's own arguments.
macro_rules! layer_args {
    ($params:expr, $($argument:expr),* $(,)?) => {
        args![
            $params.num_heads,
            $params.num_heads / $params.num_key_value_heads,
            $params.head_dim,
            $params.scale,
            $params.softcap.unwrap_or(0.0),
            $params.window.unwrap_or(0).min(LONGEST_WINDOW),
            $($argument),*
        ]
    };
}

/// The head sizes that kernels are compiled for; a smaller head runs in the next larger.
#[derive(Clone, Copy)]
enum Depth {
    D64,
    D128,
    D256,
}

impl Depth {
    fn of(params: &AttentionParams) -> Result<Self> {
        match params.head_dim {
            ..=64 => Ok(Self::D64),
            ..=128 => Ok(Self::D128),
            ..=256 => Ok(Self::D256),
            larger => Err(Error::Device(format!("heads of {larger} dimensions have no GPU kernel: use --device cpu"))),
        }
    }

    fn pick<T>(self, [d64, d128, d256]: [T; 3]) -> T {
        match self {
            Self::D64 => d64,
            Self::D128 => d128,
            Self::D256 => d256,
        }
    }

    /// Bytes of `tiles` tiles of `rows` rows, and of `weights` tiles of `rows` x `rows`, with the padding of
    /// `attention_fma.cuh`.
    fn shared(self, rows: usize, tiles: usize, weights: usize) -> usize {
        let depth = self.pick([64, 128, 256]);
        size_of::<f32>() * rows * (tiles * (depth + 4) + weights * (rows + 4))
    }

    /// Rows of a tile of the backward pass: four tiles must fit.
    fn backward_rows(self) -> usize {
        self.pick([32, 32, 16])
    }
}

/// A block a tile of `rows` (position, head) pairs and key/value head; `RowTile::find` says which tile.
fn tiles(rows: usize, per_position: usize, tile: usize, sequences: usize, heads: usize) -> Shape {
    Shape::grid([rows * per_position / tile + sequences, heads, 1], THREADS)
}

fn check_shapes(params: &AttentionParams, q: &Tensor<Cuda>, columns: usize) {
    assert!(params.num_heads.is_multiple_of(params.num_key_value_heads), "heads share key/value heads evenly");
    assert_eq!(q.cols(), params.num_heads * params.head_dim, "q columns");
    assert_eq!(columns, params.num_key_value_heads * params.head_dim, "k columns");
}

fn check_dtypes<const N: usize>(tensors: [&Tensor<Cuda>; N]) {
    assert!(tensors.iter().all(|tensor| tensor.dtype() == DType::F32), "attention takes f32");
}

impl Attention for Cuda {
    fn attention(
        &self,
        params: &AttentionParams,
        batch: &Ragged<Self>,
        q: &Tensor<Self>,
        k: &Tensor<Self>,
        v: &Tensor<Self>,
        out: &mut Tensor<Self>,
        lse: &mut Tensor<Self>,
    ) -> Result<()> {
        check_shapes(params, q, k.cols());
        check_dtypes([q, k, v, out, lse]);
        assert_eq!(q.shape(), out.shape(), "out is like q");
        assert_eq!(lse.shape(), [q.rows(), params.num_heads], "lse is [T, num_heads]");
        let depth = Depth::of(params)?;
        let group = params.num_heads / params.num_key_value_heads;
        self.launch(
            depth.pick(["attention_f32_64", "attention_f32_128", "attention_f32_256"]),
            tiles(q.rows(), group, ROWS, batch.count, params.num_key_value_heads).shared(depth.shared(ROWS, 2, 1)),
            layer_args![params, batch.count, batch.offsets, q, k, v, out, lse],
        )
    }

    fn attention_backward(
        &self,
        params: &AttentionParams,
        batch: &Ragged<Self>,
        q: &Tensor<Self>,
        k: &Tensor<Self>,
        v: &Tensor<Self>,
        out: &Tensor<Self>,
        lse: &Tensor<Self>,
        dout: &Tensor<Self>,
        dq: &mut Tensor<Self>,
        dk: &mut Tensor<Self>,
        dv: &mut Tensor<Self>,
    ) -> Result<()> {
        check_shapes(params, q, k.cols());
        check_dtypes([q, k, v, out, lse, dout, dq, dk, dv]);
        let depth = Depth::of(params)?;
        let (rows, heads) = (depth.backward_rows(), params.num_key_value_heads);
        let group = params.num_heads / heads;
        let delta = Tensor::<Self>::empty(self, DType::F32, q.rows(), params.num_heads)?;
        let warps = THREADS / 32;
        self.launch(
            "attention_delta_f32",
            Shape::new(delta.len().div_ceil(warps), THREADS),
            args![delta.len(), params.head_dim, out, dout, delta],
        )?;
        self.launch(
            depth.pick([
                "attention_backward_queries_f32_64",
                "attention_backward_queries_f32_128",
                "attention_backward_queries_f32_256",
            ]),
            tiles(q.rows(), group, rows, batch.count, heads).shared(depth.shared(rows, 4, 1)),
            layer_args![params, batch.count, batch.offsets, q, k, v, lse, delta, dout, dq],
        )?;
        self.launch(
            depth.pick([
                "attention_backward_keys_f32_64",
                "attention_backward_keys_f32_128",
                "attention_backward_keys_f32_256",
            ]),
            tiles(q.rows(), 1, rows, batch.count, heads).shared(depth.shared(rows, 4, 2)),
            layer_args![params, batch.count, batch.offsets, q, k, v, lse, delta, dout, dk, dv],
        )
    }

    fn cache_write(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        rows: &Tensor<Self>,
        cache: &mut Tensor<Self>,
    ) -> Result<()> {
        let (heads, depth) = (params.num_key_value_heads, params.head_dim);
        assert_eq!(cache.cols(), heads * PAGE * depth, "cache page size");
        check_dtypes([rows, cache]);
        self.launch(
            "cache_write_f32",
            Shape::new(rows.rows() + batch.count, THREADS),
            args![batch.count, heads, depth, batch.offsets, batch.starts, batch.pages, batch.max_pages, rows, cache],
        )
    }

    fn cache_copy_page(&self, cache: &mut Tensor<Self>, from: usize, to: usize) -> Result<()> {
        assert!(from.max(to) < cache.rows(), "page out of range");
        let vectors = cache.cols() * cache.dtype().size() / 16;
        self.launch("cache_copy_page", Shape::covering(vectors, 256), args![vectors as u64, from as u64, to as u64, cache])
    }

    fn cache_grow(&self, cache: &Tensor<Self>, num_pages: usize) -> Result<Tensor<Self>> {
        let mut grown = Tensor::zeros(self, cache.dtype(), num_pages, cache.cols())?;
        self.copy_front(&cache.buffer, &mut grown.buffer, cache.len() * cache.dtype().size())?;
        Ok(grown)
    }

    fn attention_paged(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        q: &Tensor<Self>,
        cache_k: &Tensor<Self>,
        cache_v: &Tensor<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        check_shapes(params, q, cache_k.cols() / PAGE);
        check_dtypes([q, cache_k, cache_v, out]);
        assert_eq!(q.shape(), out.shape(), "out is like q");
        let depth = Depth::of(params)?;
        let group = params.num_heads / params.num_key_value_heads;
        self.launch(
            depth.pick(["attention_paged_f32_64", "attention_paged_f32_128", "attention_paged_f32_256"]),
            tiles(q.rows(), group, ROWS, batch.count, params.num_key_value_heads).shared(depth.shared(ROWS, 2, 1)),
            layer_args![
                params,
                batch.count,
                batch.offsets,
                batch.starts,
                batch.pages,
                batch.max_pages,
                q,
                cache_k,
                cache_v,
                out
            ],
        )
    }
}
