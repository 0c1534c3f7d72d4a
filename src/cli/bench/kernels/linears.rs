//! Linear layers and their gradients.

use super::operands::random;
use super::shapes::Shapes;
use super::timer::{Case, Timer};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::ops::Ops;

pub(super) fn time<D: Ops>(timer: &mut Timer<'_, D>, shapes: &Shapes) -> Result<()> {
    let (device, dtype, branch) = (timer.device, timer.dtype, timer.branch(shapes));
    let q = shapes.heads * shapes.head_dim;
    for (what, n, k) in [
        ("q_proj", q, shapes.hidden),
        ("gate_proj", shapes.intermediate, shapes.hidden),
        ("down_proj", shapes.hidden, shapes.intermediate),
    ] {
        for t in [1, 16, timer.tokens] {
            let case = |op, bytes: usize| Case {
                op,
                shapes,
                shape: format!("{what} {t}x{n}x{k}"),
                flop: 2.0 * (t * n * k) as f64,
                bytes: bytes as f64,
            };
            let (weights, activations) = (n * k * dtype.size(), (t * k + t * n) * branch.size());
            let activation = |cols: usize, seed| random(device, branch, t, cols, seed);
            timer.time(
                case("linear", weights + activations),
                |seed| {
                    Ok((
                        activation(k, seed)?,
                        random(device, dtype, n, k, seed + 1)?,
                        Tensor::empty(device, branch, t, n)?,
                    ))
                },
                |(x, w, y)| device.linear(x, w, None, y),
            )?;
            if t <= 16 {
                continue;
            }
            timer.time(
                case("linear_backward_input", weights + activations),
                |seed| {
                    Ok((
                        activation(n, seed)?,
                        random(device, dtype, n, k, seed + 1)?,
                        Tensor::empty(device, branch, t, k)?,
                    ))
                },
                |(dy, w, dx)| device.linear_backward_input(dy, w, dx, false),
            )?;
            timer.time(
                // The gradient is added to: read and written, in f32.
                case("linear_backward_weight", activations + 2 * n * k * size_of::<f32>()),
                |seed| Ok((activation(n, seed)?, activation(k, seed + 1)?, Tensor::zeros(device, DType::F32, n, k)?)),
                |(dy, x, dw)| device.linear_backward_weight(dy, x, dw, None, true),
            )?;
        }
    }
    Ok(())
}
