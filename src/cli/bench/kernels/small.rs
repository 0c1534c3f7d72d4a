//! Norms, elementwise operations, RoPE, GLU and the optimizer.

use super::attention;
use super::operands::random;
use super::shapes::Shapes;
use super::timer::{Case, Timer};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::ops::Ops;
use crate::ops::adamw::AdamWStep;
use crate::ops::attention::{PAGE, Paged};

/// Bytes of an f32.
const F32: usize = size_of::<f32>();

pub(super) fn time<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    residual_stream(timer, shapes)?;
    branches(timer, shapes)?;
    optimizer(timer, shapes)
}

/// What works on `[tokens, hidden]` in f32: the norms give a branch its rows.
fn residual_stream<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, t, hidden, branch) = (timer.device, timer.tokens, shapes.hidden, timer.branch(shapes));
    let case = |op, bytes: usize| Case {
        op,
        shapes,
        shape: format!("{t}x{hidden}"),
        flop: 0.0,
        bytes: (bytes * t * hidden) as f64,
    };
    let stream = |seed| random(device, DType::F32, t, hidden, seed);
    let weight = random(device, DType::F32, 1, hidden, 2)?;
    timer.time(
        case("rms_norm", F32 + branch.size()),
        |seed| Ok((stream(seed)?, Tensor::empty(device, branch, t, hidden)?)),
        |(x, y)| device.rms_norm(x, &weight, 0.0, 1e-5, y),
    )?;
    timer.time(
        case("rms_norm_backward", 3 * F32),
        |seed| {
            let x = stream(seed)?;
            let (dx, dweight) = (x.empty_like(device)?, Tensor::zeros(device, DType::F32, 1, hidden)?);
            Ok((x, stream(seed + 1)?, dx, dweight))
        },
        |(x, dy, dx, dweight)| device.rms_norm_backward(x, &weight, 0.0, 1e-5, dy, dx, Some(dweight)),
    )?;
    timer.time(
        case("add_rms_norm", 3 * F32 + branch.size()),
        |seed| Ok((stream(seed)?, stream(seed + 1)?, Tensor::empty(device, branch, t, hidden)?)),
        |(x, sum, y)| device.add_rms_norm(x, &weight, 0.0, 1e-5, sum, y),
    )?;
    let rounds = branch != DType::F32;
    timer.time(
        case("add_rms_norm_backward", 4 * F32 + if rounds { branch.size() } else { 0 }),
        |seed| {
            let rounded = rounds.then(|| Tensor::empty(device, branch, t, hidden)).transpose()?;
            let dweight = Tensor::zeros(device, DType::F32, 1, hidden)?;
            Ok(([stream(seed)?, stream(seed + 1)?, stream(seed + 2)?], rounded, dweight))
        },
        |([x, dy, dx], rounded, dweight)| {
            device.add_rms_norm_backward(x, &weight, 0.0, 1e-5, dy, dx, rounded.as_mut(), Some(dweight))
        },
    )?;
    timer.time(case("add", 3 * F32), |seed| Ok((stream(seed)?, stream(seed + 1)?)), |(x, y)| device.add(x, y))?;
    let rows = device.indices(&(0..t as u32).rev().collect::<Vec<_>>())?;
    timer.time(
        case("gather_rows", 2 * F32),
        |seed| Ok((stream(seed)?, Tensor::empty(device, DType::F32, t, hidden)?)),
        |(x, y)| device.gather_rows(x, &rows, y),
    )
}

/// What works on queries and gates, in a branch's dtype.
fn branches<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, t, branch) = (timer.device, timer.tokens, timer.branch(shapes));
    let half = shapes.head_dim / 2;
    let positions = device.indices(&(0..t as u32).collect::<Vec<_>>())?;
    let (mut cos, mut sin) = (Tensor::empty(device, DType::F32, t, half)?, Tensor::empty(device, DType::F32, t, half)?);
    device.rope_table(&positions, &vec![0.01; half], &mut cos, &mut sin)?;
    let case = |op, cols: usize, bytes: usize| Case {
        op,
        shapes,
        shape: format!("{t}x{cols}"),
        flop: 0.0,
        bytes: (bytes * t * cols) as f64,
    };
    let (q_cols, kv_cols) = (shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim);
    let matrix = |cols: usize, seed| random(device, branch, t, cols, seed);
    timer.time(
        case("rope", q_cols + kv_cols, 2 * branch.size()),
        |seed| Ok((matrix(q_cols, seed)?, matrix(kv_cols, seed + 1)?)),
        |(q, k)| device.rope(q, k, &cos, &sin, false),
    )?;
    let (params, pages) = (attention::params(shapes), t.div_ceil(PAGE));
    let paged = Paged {
        offsets: device.indices(&[0, t as u32])?,
        starts: device.indices(&[0])?,
        pages: device.indices(&(0..pages as u32).collect::<Vec<_>>())?,
        max_pages: pages,
        count: 1,
    };
    timer.time(
        case("rope_to_cache", q_cols + 2 * kv_cols, 2 * branch.size()),
        |seed| {
            let cache = || Tensor::empty(device, branch, pages, kv_cols * PAGE);
            Ok((matrix(q_cols, seed)?, [matrix(kv_cols, seed + 1)?, matrix(kv_cols, seed + 2)?], [cache()?, cache()?]))
        },
        |(q, [k, v], [keys, values])| device.rope_to_cache(&params, &paged, q, k, v, &cos, &sin, keys, values),
    )?;
    let cols = shapes.intermediate;
    let gate = |seed| random(device, branch, t, cols, seed);
    timer.time(
        case("glu", cols, 3 * branch.size()),
        |seed| Ok((gate(seed)?, gate(seed + 1)?, Tensor::empty(device, branch, t, cols)?)),
        |(gate, up, y)| device.glu(shapes.activation, gate, up, y),
    )?;
    timer.time(
        case("glu_backward", cols, 5 * branch.size()),
        |seed| {
            let gradients = [Tensor::empty(device, branch, t, cols)?, Tensor::empty(device, branch, t, cols)?];
            Ok(([gate(seed)?, gate(seed + 1)?, gate(seed + 2)?], gradients))
        },
        |([gate, up, dy], [dgate, dup])| device.glu_backward(shapes.activation, gate, up, dy, dgate, dup),
    )
}

/// What works on a matrix of parameters.
fn optimizer<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, rows, cols) = (timer.device, shapes.intermediate, shapes.hidden);
    let step = AdamWStep {
        lr: 1e-5,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
        stream: 0,
    };
    let case = |op, bytes: usize| Case {
        op,
        shapes,
        shape: format!("{rows}x{cols}"),
        flop: 0.0,
        bytes: (bytes * rows * cols) as f64,
    };
    let gradient = |seed| random(device, DType::F32, rows, cols, seed);
    for (op, dtype) in [("adamw", DType::F32), ("adamw_bf16", DType::BF16)] {
        timer.time(
            case(op, F32 + 6 * dtype.size()),
            |seed| {
                let moments = [Tensor::zeros(device, dtype, rows, cols)?, Tensor::zeros(device, dtype, rows, cols)?];
                Ok((gradient(seed)?, random(device, dtype, rows, cols, seed + 1)?, moments))
            },
            |(gradient, parameter, [m, v])| device.adamw(&step, gradient, parameter, m, v),
        )?;
    }
    timer.time(case("sum_squares", F32), gradient, |gradient| {
        std::hint::black_box(device.sum_squares(gradient)?);
        Ok(())
    })
}
