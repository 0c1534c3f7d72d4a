//! What a device replays is what the step would have done: on a GPU, from a recorded graph.

use super::measure::bits;
use super::values::Random;
use super::{Law, TestDevice, Trial};
use crate::device::{Backend, Cuda, DType, Tensor};
use crate::{Error, Result};
use std::cell::Cell;

pub fn laws<D: TestDevice>() -> Vec<Law<D>> {
    law_table!("replay": a_replay_is_the_step, memory_that_goes_is_not_used, steps_that_cannot_be_recorded_run)
}

const ROWS: usize = 5;
const COLS: usize = 24;

/// A step of several operations with memory of its own and an upload, as a forward pass has: rows of `x`, scaled, times `w`,
/// and cosines of positions.
fn step<D: TestDevice>(device: &D, x: &Tensor<D>, rows: &D::Indices, w: &Tensor<D>) -> Result<Tensor<D>> {
    let mut picked = Tensor::empty(device, DType::F32, ROWS, COLS)?;
    device.gather_rows(x, rows, &mut picked)?;
    let mut cos = Tensor::empty(device, DType::F32, ROWS, COLS)?;
    let mut sin = Tensor::empty(device, DType::F32, ROWS, COLS)?;
    let frequencies: Vec<f32> = (0..COLS).map(|i| 0.5_f32.powi(i as i32)).collect();
    device.rope_table(rows, &frequencies, &mut cos, &mut sin)?;
    let mut product = Tensor::empty(device, DType::F32, ROWS, COLS)?;
    device.linear(&picked, w, None, &mut product)?;
    drop(picked);
    let mut sum = Tensor::zeros(device, DType::F32, ROWS, COLS)?;
    device.add(&product, &mut sum)?;
    device.add(&cos, &mut sum)?;
    Ok(sum)
}

fn tensor<D: TestDevice>(device: &D, random: &mut Random) -> Tensor<D> {
    Tensor::from_slice(device, DType::F32, COLS, COLS, &random.values(COLS * COLS, 1.0)).unwrap()
}

fn a_replay_is_the_step<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        let random = &mut Random(3);
        let (mut x, w) = (tensor(device, random), tensor(device, random));
        let mut rows = device.indices(&[0; ROWS]).unwrap();
        let (mut replay, calls) = (D::Replay::default(), Cell::new(0));
        for i in 0..12 {
            // A key of its own, now and then, has its own work.
            let key = [usize::from(i == 5), 7];
            device.write(&mut x.buffer, &random.values(COLS * COLS, 1.0)).unwrap();
            let picked: Vec<u32> = (0..ROWS).map(|_| random.below(COLS) as u32).collect();
            device.write_indices(&mut rows, &picked).unwrap();
            let work = || {
                calls.set(calls.get() + 1);
                step(device, &x, &rows, &w)
            };
            let got = device.replay(&mut replay, key, work).unwrap().to_vec(device).unwrap();
            let want = step(device, &x, &rows, &w).unwrap().to_vec(device).unwrap();
            assert!(bits(&got) == bits(&want), "step {i}");
        }
        // By itself and recorded, before the other key; that; the same again after it.
        let expected = if D::NAME == Cuda::NAME { 5 } else { 12 };
        assert_eq!(calls.get(), expected, "calls of the step (with SAFEDEPTH_CUDA_GRAPHS=0 there would be 12)");
    }
}

/// Tensors that take the place of others under the same key: what was recorded with the old ones is not done again.
fn memory_that_goes_is_not_used<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        let random = &mut Random(4);
        let (mut x, mut w) = (tensor(device, random), tensor(device, random));
        let mut rows = device.indices(&(0..ROWS as u32).collect::<Vec<_>>()).unwrap();
        let mut replay = D::Replay::default();
        for i in 0..16 {
            match i {
                4 => x = tensor(device, random),
                8 => w = tensor(device, random),
                12 => rows = device.indices(&(2..2 + ROWS as u32).collect::<Vec<_>>()).unwrap(),
                _ => {}
            }
            let got = device.replay(&mut replay, [0; 2], || step(device, &x, &rows, &w)).unwrap();
            let got = got.to_vec(device).unwrap();
            let want = step(device, &x, &rows, &w).unwrap().to_vec(device).unwrap();
            assert!(bits(&got) == bits(&want), "step {i}");
        }
    }
}

/// One that reads what it made, one that uploads into older memory, one that fails now and then.
fn steps_that_cannot_be_recorded_run<D: TestDevice>(trial: &Trial<D>) {
    for device in &trial.devices {
        let random = &mut Random(5);
        let (x, w) = (tensor(device, random), tensor(device, random));
        let mut rows = device.indices(&(0..ROWS as u32).collect::<Vec<_>>()).unwrap();
        let want = bits(&step(device, &x, &rows, &w).unwrap().to_vec(device).unwrap());
        let mut replay = D::Replay::default();
        for _ in 0..4 {
            let read = device.replay(&mut replay, [1; 2], || step(device, &x, &rows, &w)?.to_vec(device)).unwrap();
            assert!(bits(read) == want, "reads");
        }
        let mut replay = D::Replay::default();
        for _ in 0..4 {
            let written = device.replay(&mut replay, [2; 2], || {
                device.write_indices(&mut rows, &(0..ROWS as u32).collect::<Vec<_>>())?;
                step(device, &x, &rows, &w)
            });
            assert!(bits(&written.unwrap().to_vec(device).unwrap()) == want, "uploads");
        }
        let (mut replay, calls) = (D::Replay::<Tensor<D>>::default(), Cell::new(0));
        for _ in 0..4 {
            let failed = device.replay(&mut replay, [3; 2], || {
                calls.set(calls.get() + 1);
                Err(Error::Device("no".into()))
            });
            assert!(failed.is_err_and(|error| error.to_string().contains("no")));
        }
        assert!(calls.get() >= 4, "a step that fails is tried each time");
    }
}
