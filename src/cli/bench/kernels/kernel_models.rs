//! What each kernel should do: the FLOPs and bytes that the head of its `kernels/*.cu` states, for the sizes of a case. The
//! emulator's counts are held against them, and a GPU's times will be.

use super::attention::DECODED;
use super::counts::Dimensions;

/// What one case makes of a kernel, all its launches together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Model {
    /// Of products, whole tiles counted; of small kernels about so many.
    pub flop: f64,
    /// Bytes that the kernel asks of memory, most of which the caches may answer.
    pub asked: f64,
    /// Bytes that memory must move at least: each operand once.
    pub moved: f64,
}

/// Rows and columns of `product_mma.cuh`'s tile with MT = 4, and its rows with MT = 2.
const TILE: usize = 128;
const KL_ROWS: usize = 64;
/// Its step along k.
const STEP: usize = 32;
/// Columns of `product_sm90.cuh`'s tile of 128 rows, and its step along k.
const HOPPER_COLUMNS: usize = 256;
const HOPPER_STEP: usize = 64;
/// `VOCABULARY_SPLIT` of unembed.cuh.
const SPLIT: usize = 1024;
/// `SPLIT` of attention.cuh: keys of a split.
const KEYS: usize = 512;
/// Rows and columns of a piece of dz (`linear_ce/cuda.rs`).
const PIECE: usize = 4096;
/// Groups whose sums one thread makes (`rmsnorm/cuda.rs`).
const PART: usize = 64;

/// Threads of a block of `rope.cu`, and heads that one of them treats (`rope/cuda.rs`).
const THREADS: usize = 256;
const HEADS_A_THREAD: usize = 4;

impl Model {
    fn new(flop: usize, asked: usize, moved: usize) -> Self {
        Self { flop: flop as f64, asked: asked as f64, moved: moved as f64 }
    }

    /// Of `count` elements, each with so many FLOPs and bytes asked and moved.
    fn each(count: usize, flop: usize, asked: usize, moved: usize) -> Self {
        Self::new(count * flop, count * asked, count * moved)
    }

    /// The model of a kernel, where it has one here.
    pub fn of(kernel: &str, op: &str, sizes: &Dimensions<'_>) -> Option<Self> {
        attention(kernel, sizes).or_else(|| vocabulary(kernel, sizes)).or_else(|| small(kernel, op, sizes))
    }
}

/// The dimensions that an attention kernel is compiled for.
fn depth(kernel: &str) -> Option<usize> {
    kernel.rsplit('_').next()?.parse().ok()
}

fn attention(kernel: &str, sizes: &Dimensions<'_>) -> Option<Model> {
    let Dimensions { tokens: t, branch: e, .. } = *sizes;
    let (heads, shared, d) = (sizes.shapes.heads, sizes.shapes.kv_heads, sizes.shapes.head_dim);
    let (group, q, kv) = (heads / shared, t * heads * d, t * shared * d);
    if kernel.starts_with("attention_delta") {
        // out and dout in, a number a row and head out.
        return Some(Model::new(2 * q, 2 * q * e + 4 * t * heads, 2 * q * e + 4 * t * heads));
    }
    // A row's and head's maximum, total and sums for each split.
    let parts = DECODED * heads * t.div_ceil(KEYS) * (4 * d + 8);
    if kernel.starts_with("attention_merge") {
        let bytes = parts + DECODED * heads * d * e;
        return Some(Model::new(3 * DECODED * heads * t.div_ceil(KEYS) * d, bytes, bytes));
    }
    let depth = depth(kernel).filter(|_| kernel.starts_with("attention_"))?;
    let mma = kernel.contains("bf16");
    let split = kernel.starts_with("attention_split");
    if split || kernel.starts_with("attention_paged") {
        let rows = if mma { 64 } else { 32 };
        let blocks = DECODED * shared * t.div_ceil(rows);
        // The queries and what becomes of them, beside keys and values.
        let ends = if split { DECODED * heads * d * e + parts } else { 2 * DECODED * heads * d * e };
        let bytes = 2 * DECODED * t * shared * d * e + ends;
        return Some(Model::new(4 * rows * rows * depth * blocks, bytes, bytes));
    }
    let backward = kernel.starts_with("attention_backward");
    let rows = match (mma, backward) {
        (true, _) => 64,
        (false, true) if depth == 256 => 16,
        (false, _) => 32,
    };
    // Pairs of (position, head) that share keys, a tile of them a block, over all keys that one of them sees.
    let pairs = t * group;
    if kernel.starts_with("attention_backward_keys") {
        let (mut steps, mut walked) = (0, 0);
        for key in (0..t).step_by(rows) {
            steps += (pairs - key * group).div_ceil(rows);
            walked += pairs - key * group;
        }
        // At 256 on tensor cores one block has scores, dp and dk, another the scores once more and dv.
        let (products, passes) = if mma && depth == 256 { (5, 2) } else { (4, 1) };
        let asked = shared * passes * walked * (2 * d * e + 8) + (passes + 1) * kv * e + 2 * kv * e;
        return Some(Model::new(
            shared * steps * products * 2 * rows * rows * depth,
            asked,
            (2 * q + 4 * kv) * e + 8 * t * heads,
        ));
    }
    let (mut steps, mut walked) = (0, 0);
    for first in (0..pairs).step_by(rows) {
        let last = ((first + rows).min(pairs) - 1) / group;
        steps += last / rows + 1;
        // Whole blocks of keys, as far as there are keys.
        walked += ((last / rows + 1) * rows).min(t);
    }
    let keys = 2 * shared * walked * d * e;
    Some(if backward {
        // q, dout, lse and delta in, dq out.
        Model::new(
            shared * steps * 6 * rows * rows * depth,
            keys + 3 * q * e + 8 * t * heads,
            (3 * q + 2 * kv) * e + 8 * t * heads,
        )
    } else {
        // q in, out and lse out.
        Model::new(
            shared * steps * 4 * rows * rows * depth,
            keys + 2 * q * e + 4 * t * heads,
            (2 * q + 2 * kv) * e + 4 * t * heads,
        )
    })
}

/// The paths of bf16 unembeddings; hidden states are rounded to bf16 before.
fn vocabulary(kernel: &str, sizes: &Dimensions<'_>) -> Option<Model> {
    const BF16: usize = 2;
    let t = sizes.tokens;
    let (h, v) = (sizes.shapes.hidden, sizes.shapes.vocab);
    let deep = h.next_multiple_of(STEP);
    let splits = v.div_ceil(SPLIT);
    // A product of tiles of `rows` tokens x 128 entries: what it makes and reads.
    let logits = |rows: usize| {
        let (down, across) = (t.div_ceil(rows), v.div_ceil(TILE));
        (2 * rows * TILE * deep * down * across, (across * t + down * v) * h * BF16)
    };
    let inputs = (t + v) * h * BF16;
    // A product of [rows, depth] and [depth, columns], of dz and a matrix, in pieces; f32 results.
    let product = |rows: usize, columns: usize, depth: usize| {
        let (down, across) = (rows.div_ceil(TILE), columns.div_ceil(TILE));
        let flop = 2 * TILE * TILE * depth.next_multiple_of(STEP) * down * across;
        (flop, (across * rows + down * columns) * depth * BF16)
    };
    Some(match kernel {
        "linear_ce_label_mma" => {
            let tiles = t.div_ceil(TILE);
            // A token's row, and that of its label; a logit out.
            Model::new(2 * TILE * TILE * deep * tiles, 2 * t * h * BF16, 2 * t * h * BF16)
        }
        "linear_ce_partial_mma" => {
            let ((flop, read), written) = (logits(TILE), 16 * t * splits);
            Model::new(flop, read + written, inputs + written)
        }
        "linear_ce_label_sm90" => {
            let (tiles, deep) = (t.div_ceil(TILE), h.next_multiple_of(HOPPER_STEP));
            Model::new(2 * TILE * HOPPER_COLUMNS * deep * tiles, 2 * t * h * BF16, 2 * t * h * BF16)
        }
        "linear_ce_partial_sm90" => {
            let (down, across, deep) = (t.div_ceil(TILE), v.div_ceil(HOPPER_COLUMNS), h.next_multiple_of(HOPPER_STEP));
            let written = 16 * t * splits;
            let read = (across * t + down * v) * h * BF16;
            Model::new(2 * TILE * HOPPER_COLUMNS * deep * down * across, read + written, inputs + written)
        }
        "linear_ce_combine" => Model::each(t * splits, 8, 16, 16),
        "linear_ce_gradient_mma" => {
            let ((flop, read), written) = (logits(TILE), t * v * BF16);
            Model::new(flop, read + written, inputs + written)
        }
        "linear_kl_partial_mma" => {
            let ((flop, read), written) = (logits(KL_ROWS), 36 * t * splits);
            Model::new(2 * flop, 2 * read + written, 2 * inputs + written)
        }
        "linear_kl_combine" => Model::each(t * splits, 20, 36, 36),
        "unembed_times_w_mma" | "unembed_times_hidden_mma" => {
            let (mut model, over_w) = (Model::new(0, 0, 0), kernel == "unembed_times_w_mma");
            for rows in (0..t).step_by(PIECE).map(|at| PIECE.min(t - at)) {
                for start in (0..v).step_by(PIECE) {
                    let width = PIECE.min(v - start);
                    // dhidden is written by the first piece and added to by the others; dw is added to.
                    let (results, added, (flop, read)) = if over_w {
                        (rows * h, start > 0, product(rows, h, width))
                    } else {
                        (width * h, true, product(width, h, rows))
                    };
                    let outputs = results * if added { 8 } else { 4 };
                    let once = (rows * width + if over_w { width * h } else { rows * h }) * BF16;
                    let piece = Model::new(flop, read + outputs, once + outputs);
                    model.flop += piece.flop;
                    model.asked += piece.asked;
                    model.moved += piece.moved;
                }
            }
            model
        }
        _ => return None,
    })
}

/// What treats each element alike. A conversion before an operation is of the f32 hidden states.
fn small(kernel: &str, op: &str, sizes: &Dimensions<'_>) -> Option<Model> {
    let Dimensions { tokens: t, branch: e, weights: w, shapes } = *sizes;
    let (stream, parameters) = (t * shapes.hidden, shapes.intermediate * shapes.hidden);
    let gates = t * shapes.intermediate;
    Some(match kernel {
        // x twice (the second time from L1), the weight, y.
        "rms_norm_f32_f32" | "rms_norm_f32_bf16" => Model::each(stream, 4, 12 + e, 4 + e),
        // x, dy and the weight twice; dx.
        "rms_norm_backward_f32_f32" => Model::each(stream, 10, 28, 12),
        // The stream and what is added to it, the weight; the sum, y.
        "add_rms_norm_f32" | "add_rms_norm_bf16" => Model::each(stream, 5, 16 + e, 12 + e),
        // Beside what the other reads, dx in, and out in two types.
        "add_rms_norm_backward" => {
            let rounded = if e == 4 { 0 } else { e };
            Model::each(stream, 11, 32 + rounded, 16 + rounded)
        }
        // x, dy and each group's 1 / rms.
        "rms_norm_backward_weight_f32" => Model::each(stream, 3, 12, 8),
        // The parts, and the total in and out.
        "add_up_rows_f32" => {
            let (parts, bytes) = (t.div_ceil(PART), 4 * (t.div_ceil(PART) + 2) * shapes.hidden);
            Model::new(parts * shapes.hidden, bytes, bytes)
        }
        "add" => Model::each(stream, 1, 12, 12),
        "gather_rows" => Model::each(stream, 0, 8, 8),
        "rope_f32" | "rope_bf16" | "rope_to_cache_f32" | "rope_to_cache_bf16" => rope(kernel, sizes),
        "glu_silu_f32" | "glu_silu_bf16" | "glu_gelu_f32" | "glu_gelu_bf16" => Model::each(gates, 20, 3 * e, 3 * e),
        "glu_backward_silu_f32" | "glu_backward_silu_bf16" | "glu_backward_gelu_f32" | "glu_backward_gelu_bf16" => {
            Model::each(gates, 50, 5 * e, 5 * e)
        }
        "adamw_f32" => Model::each(parameters, 15, 28, 28),
        "adamw_bf16" => Model::each(parameters, 15, 16, 16),
        "sum_squares" => Model::each(parameters, 2, 4, 4),
        "embedding_f32" | "embedding_bf16" => Model::each(stream, 1, w + 4, w + 4),
        "convert_f32_bf16" => {
            let matrices = if op == "linear_kl" { 2 } else { 1 };
            Model::each(matrices * stream, 0, 6, 6)
        }
        _ => return None,
    })
}

/// Both values of a pair in and out; a sine and a cosine a thread, which it has for several heads.
fn rope(kernel: &str, sizes: &Dimensions<'_>) -> Model {
    let Dimensions { tokens: t, branch: e, shapes, .. } = *sizes;
    let (half, rotated) = (shapes.head_dim / 2, shapes.heads + shapes.kv_heads);
    let cached = kernel.contains("cache");
    let heads = if cached { rotated + shapes.kv_heads } else { rotated };
    // Threads that share a head's pair, over a row's blocks.
    let across = (THREADS / half.min(THREADS)).min(heads);
    let lanes = across * heads.div_ceil(across * HEADS_A_THREAD);
    // Into a cache, each thread asks as well which sequence, position and page its row has.
    let each_thread = if cached { 8 + 16 } else { 8 };
    let moved = t * heads * half * 4 * e;
    Model::new(t * rotated * half * 6, moved + t * lanes * half * each_thread, moved)
}
