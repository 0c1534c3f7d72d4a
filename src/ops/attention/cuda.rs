//! Attention on a GPU: the launches of `attention.cu`, `attention_backward.cu`, `attention_paged.cu` and `attention_split.cu`.

use super::{Attention, AttentionParams, PAGE, Paged, Ragged};
use crate::device::cuda::{Cuda, Shape, by_dtype};
use crate::device::{DType, Tensor};
use crate::{Error, Result, args};

/// Threads of a block.
const THREADS: usize = 128;
/// Threads of a block that merges splits.
const MERGE_THREADS: usize = 64;

/// Keys after which a row's softmax is closed and merged into that of the keys before (`attention.cuh`): a part of them can
/// be a block's own.
const SPLIT: usize = 512;

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
            65..=128 => Ok(Self::D128),
            129..=256 => Ok(Self::D256),
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

    /// What kernels are compiled for.
    fn dimensions(self) -> usize {
        self.pick([64, 128, 256])
    }
}

/// How scores and sums are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// f32 tensors, in f32 (`attention_fma.cuh`).
    Fma,
    /// bf16 tensors (`attention_mma.cuh`).
    TensorCores,
}

impl Path {
    /// By the dtype of the tensors, which is one.
    fn of<const N: usize>(params: &AttentionParams, tensors: [&Tensor<Cuda>; N]) -> Result<Self> {
        let dtype = tensors[0].dtype();
        assert!(tensors.iter().all(|tensor| tensor.dtype() == dtype), "attention takes tensors of one dtype");
        match dtype {
            DType::F32 => Ok(Self::Fma),
            DType::BF16 if params.head_dim.is_multiple_of(8) => Ok(Self::TensorCores),
            _ => Err(Error::Device(format!(
                "attention on {} heads of {} dimensions has no GPU kernel: use f32",
                dtype.name(),
                params.head_dim
            ))),
        }
    }

    /// Rows of a tile of the forward pass.
    fn rows(self) -> usize {
        match self {
            Self::Fma => 32,
            Self::TensorCores => 64,
        }
    }

    /// Rows of a tile of the backward pass: its four tiles of rows must fit.
    fn backward_rows(self, depth: Depth) -> usize {
        match self {
            Self::Fma => depth.pick([32, 32, 16]),
            Self::TensorCores => 64,
        }
    }

    /// Bytes of `tiles` tiles of `rows` rows, and in f32 of `weights` tiles of `rows` x `rows`, with their padding.
    fn shared(self, depth: Depth, rows: usize, tiles: usize, weights: usize) -> usize {
        match self {
            Self::Fma => size_of::<f32>() * rows * (tiles * (depth.dimensions() + 4) + weights * (rows + 4)),
            Self::TensorCores => size_of::<u16>() * rows * tiles * (depth.dimensions() + 8),
        }
    }

    /// The kernel for this path and depth.
    fn pick(self, depth: Depth, fma: [&'static str; 3], tensor_cores: [&'static str; 3]) -> &'static str {
        depth.pick(match self {
            Self::Fma => fma,
            Self::TensorCores => tensor_cores,
        })
    }
}

/// The forward pass keeps queries and one block of keys or values (f32) or of both (bf16), and weights (f32).
fn forward_shape(path: Path, depth: Depth, params: &AttentionParams, rows: usize, sequences: usize) -> Shape {
    let group = params.num_heads / params.num_key_value_heads;
    let (tile, kept) = (path.rows(), if path == Path::Fma { 2 } else { 3 });
    tiles(rows, group, tile, sequences, params.num_key_value_heads).shared(path.shared(depth, tile, kept, 1))
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

impl Cuda {
    /// [`Attention::attention_paged`] with a block for each split of a row's keys, as `shape` has one for all of them.
    fn attention_split(
        &self,
        params: &AttentionParams,
        batch: &Paged<Self>,
        shape: Shape,
        [q, cache_k, cache_v]: [&Tensor<Self>; 3],
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        let (depth, path) = (Depth::of(params)?, Path::of(params, [q, cache_k, cache_v, out])?);
        let splits = splits(batch);
        let ends = q.rows() * params.num_heads * splits;
        // Maximum and total of each, and its sums.
        let states = Tensor::<Self>::empty(self, DType::F32, ends, 2)?;
        let parts = Tensor::<Self>::empty(self, DType::F32, ends, params.head_dim)?;
        self.launch(
            path.pick(
                depth,
                ["attention_split_f32_64", "attention_split_f32_128", "attention_split_f32_256"],
                ["attention_split_bf16_64", "attention_split_bf16_128", "attention_split_bf16_256"],
            ),
            Shape { grid: [shape.grid[0], shape.grid[1], splits as u32], ..shape },
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
                states,
                parts
            ],
        )?;
        self.launch(
            if path == Path::Fma { "attention_merge_f32" } else { "attention_merge_bf16" },
            Shape::grid([q.rows() + batch.count, params.num_heads, 1], MERGE_THREADS),
            layer_args![params, batch.count, batch.offsets, batch.starts, splits, states, parts, out],
        )
    }
}

/// Splits of the longest sequence that the page tables have room for.
fn splits(batch: &Paged<Cuda>) -> usize {
    (batch.max_pages * PAGE).div_ceil(SPLIT)
}

impl Attention for Cuda {
    fn branch_dtype(&self, weights: DType, head_dim: usize) -> DType {
        if weights == DType::BF16 && head_dim.is_multiple_of(8) { DType::BF16 } else { DType::F32 }
    }

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
        assert_eq!(q.shape(), out.shape(), "out is like q");
        assert_eq!(lse.shape(), [q.rows(), params.num_heads], "lse is [T, num_heads]");
        assert_eq!(lse.dtype(), DType::F32, "lse is f32");
        let (depth, path) = (Depth::of(params)?, Path::of(params, [q, k, v, out])?);
        self.launch(
            path.pick(
                depth,
                ["attention_f32_64", "attention_f32_128", "attention_f32_256"],
                ["attention_bf16_64", "attention_bf16_128", "attention_bf16_256"],
            ),
            forward_shape(path, depth, params, q.rows(), batch.count),
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
        let (depth, path) = (Depth::of(params)?, Path::of(params, [q, k, v, out, dout, dq, dk, dv])?);
        let (rows, heads) = (path.backward_rows(depth), params.num_key_value_heads);
        let group = params.num_heads / heads;
        let delta = Tensor::<Self>::empty(self, DType::F32, q.rows(), params.num_heads)?;
        let warps = THREADS / 32;
        self.launch(
            if path == Path::Fma { "attention_delta_f32" } else { "attention_delta_bf16" },
            Shape::new(delta.len().div_ceil(warps), THREADS),
            args![delta.len(), params.head_dim, out, dout, delta],
        )?;
        self.launch(
            path.pick(
                depth,
                [
                    "attention_backward_queries_f32_64",
                    "attention_backward_queries_f32_128",
                    "attention_backward_queries_f32_256",
                ],
                [
                    "attention_backward_queries_bf16_64",
                    "attention_backward_queries_bf16_128",
                    "attention_backward_queries_bf16_256",
                ],
            ),
            tiles(q.rows(), group, rows, batch.count, heads).shared(path.shared(depth, rows, 4, 1)),
            layer_args![params, batch.count, batch.offsets, q, k, v, lse, delta, dout, dq],
        )?;
        let keys = tiles(q.rows(), 1, rows, batch.count, heads);
        let parts = if path == Path::TensorCores { depth.pick([1, 1, 2]) } else { 1 };
        self.launch(
            path.pick(
                depth,
                [
                    "attention_backward_keys_f32_64",
                    "attention_backward_keys_f32_128",
                    "attention_backward_keys_f32_256",
                ],
                [
                    "attention_backward_keys_bf16_64",
                    "attention_backward_keys_bf16_128",
                    "attention_backward_keys_bf16_256",
                ],
            ),
            // On tensor cores the gradients of 256 dimensions have a block each (`attention_backward_mma.cu`).
            Shape { grid: [keys.grid[0], keys.grid[1], parts], ..keys }.shared(path.shared(depth, rows, 4, 2)),
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
        assert_eq!(rows.dtype(), cache.dtype(), "a cache holds what it is given");
        self.launch(
            by_dtype(cache.dtype(), ["cache_write_f32", "cache_write_bf16", "cache_write_f16"]),
            Shape::new(rows.rows() + batch.count, THREADS),
            args![batch.count, heads, depth, batch.offsets, batch.starts, batch.pages, batch.max_pages, rows, cache],
        )
    }

    fn cache_copy_page(&self, cache: &mut Tensor<Self>, from: usize, to: usize) -> Result<()> {
        assert!(from.max(to) < cache.rows(), "page out of range");
        let vectors = cache.cols() * cache.dtype().size() / 16;
        self.launch(
            "cache_copy_page",
            Shape::covering(vectors, 256),
            args![vectors as u64, from as u64, to as u64, cache],
        )
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
        assert_eq!(q.shape(), out.shape(), "out is like q");
        let (depth, path) = (Depth::of(params)?, Path::of(params, [q, cache_k, cache_v, out])?);
        let shape = forward_shape(path, depth, params, q.rows(), batch.count);
        // The same bits either way; worth it where tiles alone leave multiprocessors without work.
        if splits(batch) > 1 && shape.blocks() < self.multiprocessors() {
            return self.attention_split(params, batch, shape, [q, cache_k, cache_v], out);
        }
        self.launch(
            path.pick(
                depth,
                ["attention_paged_f32_64", "attention_paged_f32_128", "attention_paged_f32_256"],
                ["attention_paged_bf16_64", "attention_paged_bf16_128", "attention_paged_bf16_256"],
            ),
            shape,
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
