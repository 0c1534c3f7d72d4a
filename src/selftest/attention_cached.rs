//! Attention through a paged cache, as the laws of `attention.rs` and `attention_long.rs` try it.

use super::TestDevice;
use super::attention::{Case, Inputs, garbage, offsets};
use super::values::Random;
use crate::device::{DType, Tensor};
use crate::ops::attention::{PAGE, Paged};

/// Attention of `inputs` through a paged cache: every sequence in chunks, its pages anywhere, the rest garbage.
/// Returns the outputs in the order of rows, and both caches with each sequence's pages.
pub struct Cached {
    pub out: Vec<f32>,
    pub caches: [Vec<f32>; 2],
    pub tables: Vec<Vec<u32>>,
}

pub fn paged<D: TestDevice>(device: &D, case: &Case, inputs: &Inputs, random: &mut Random) -> Cached {
    let params = &case.params;
    let (q_cols, kv_cols) = (params.num_heads * params.head_dim, params.num_key_value_heads * params.head_dim);
    let needed: usize = case.lengths.iter().map(|length| length.div_ceil(PAGE)).sum();
    let num_pages = needed + 1 + random.below(4);
    let mut free: Vec<u32> = (0..num_pages as u32).collect();
    let mut tables: Vec<Vec<u32>> = Vec::new();
    for length in &case.lengths {
        tables.push((0..length.div_ceil(PAGE)).map(|_| free.swap_remove(random.below(free.len()))).collect());
    }
    let mut caches = [(); 2].map(|()| garbage(device, num_pages, kv_cols * PAGE));
    let max_pages = tables.iter().map(Vec::len).max().unwrap_or(0) + random.below(2);
    let starts_of_rows = offsets(&case.lengths);
    let mut done = vec![0; case.lengths.len()];
    let mut out = vec![f32::NAN; case.rows() * q_cols];
    while done.iter().zip(&case.lengths).any(|(done, length)| done < length) {
        // One forward pass: some of the sequences, some rows of each.
        let mut batch = Vec::new();
        for (sequence, &done) in done.iter().enumerate() {
            let rest = case.lengths[sequence] - done;
            let rows = match random.below(4) {
                0 => rest.min(1),
                1 => rest.min(PAGE),
                2 => random.below(rest + 1),
                _ => rest,
            };
            if rows > 0 || random.below(4) == 0 {
                batch.push((sequence, rows));
            }
        }
        let rows_of = |values: &[f32], cols: usize| -> Vec<f32> {
            let rows = batch.iter().flat_map(|&(sequence, rows)| {
                let first = starts_of_rows[sequence] as usize + done[sequence];
                values[first * cols..(first + rows) * cols].iter().copied()
            });
            rows.collect()
        };
        let lengths: Vec<usize> = batch.iter().map(|&(_, rows)| rows).collect();
        let total: usize = lengths.iter().sum();
        let starts: Vec<u32> = batch.iter().map(|&(sequence, _)| done[sequence] as u32).collect();
        let mut pages = vec![0; batch.len() * max_pages];
        for (i, &(sequence, rows)) in batch.iter().enumerate() {
            // A table is only as long as the positions it has so far.
            let count = (done[sequence] + rows).div_ceil(PAGE);
            pages[i * max_pages..][..count].copy_from_slice(&tables[sequence][..count]);
        }
        let paged = Paged {
            offsets: device.indices(&offsets(&lengths)).unwrap(),
            starts: device.indices(&starts).unwrap(),
            pages: device.indices(&pages).unwrap(),
            max_pages,
            count: batch.len(),
        };
        let input =
            |values: &[f32], cols| Tensor::from_slice(device, DType::F32, total, cols, &rows_of(values, cols)).unwrap();
        let (q, k, v) = (input(&inputs.q, q_cols), input(&inputs.k, kv_cols), input(&inputs.v, kv_cols));
        device.cache_write(params, &paged, &k, &mut caches[0]).unwrap();
        device.cache_write(params, &paged, &v, &mut caches[1]).unwrap();
        let mut result = garbage(device, total, q_cols);
        device.attention_paged(params, &paged, &q, &caches[0], &caches[1], &mut result).unwrap();
        let result = result.to_vec(device).unwrap();
        let mut row = 0;
        for &(sequence, rows) in &batch {
            let first = starts_of_rows[sequence] as usize + done[sequence];
            out[first * q_cols..(first + rows) * q_cols].copy_from_slice(&result[row * q_cols..(row + rows) * q_cols]);
            row += rows;
            done[sequence] += rows;
        }
    }
    Cached { out, caches: caches.map(|cache| cache.to_vec(device).unwrap()), tables }
}
