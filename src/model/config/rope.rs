//! Rotary frequencies with a checkpoint's scaling, in the f32 steps `transformers` computes them in.

use crate::Result;
use crate::model::json::Keys;
use std::f64::consts::PI;

/// `transformers`' base where no key names one.
const DEFAULT_THETA: f64 = 10_000.0;

/// The `head_dim / 2` inverse frequencies that `config.json` asks for.
///
/// Keys: `rope_scaling` (older files, beside a top-level `rope_theta`) before `rope_parameters` (transformers 5), as
/// `transformers` itself prefers them.
pub(super) fn inverse_frequencies(keys: Keys, head_dim: usize, max_positions: usize) -> Result<Vec<f32>> {
    let mut name = "rope_scaling";
    let mut scaling = keys.object(name)?.filter(|scaling| !scaling.map.is_empty());
    if scaling.is_none() {
        name = "rope_parameters";
        scaling = keys.object(name)?;
    }
    let theta = match scaling.map(|scaling| scaling.positive("rope_theta")).transpose()?.flatten() {
        Some(theta) => theta,
        None => keys.positive("rope_theta")?.unwrap_or(DEFAULT_THETA),
    };
    for owner in [Some(keys), scaling].into_iter().flatten() {
        if owner.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(owner.error("partial_rotary_factor", "is not 1, and partly rotated heads are not supported"));
        }
    }
    // inv_freq_i = theta^(-2i / head_dim); the exponent is rounded to f32, the power computed from that.
    let mut frequencies: Vec<f32> =
        (0..head_dim).step_by(2).map(|i| 1.0 / (theta.powf(f64::from(i as f32 / head_dim as f32)) as f32)).collect();
    if !frequencies.iter().all(|frequency| frequency.is_normal()) {
        return Err(keys.error("rope_theta", format_args!("is {theta}, which gives no usable frequencies")));
    }
    let Some(scaling) = scaling else { return Ok(frequencies) };
    let kind = match scaling.text("rope_type")? {
        Some(kind) => kind,
        None => scaling.text("type")?.unwrap_or("default"),
    };
    let required = |key: &str| {
        scaling.positive(key)?.ok_or_else(|| keys.error(name, format_args!("has rope_type `{kind}` but no `{key}`")))
    };
    match kind {
        "default" => {
            if let Some(nested) = scaling.map.keys().find(|key| key.ends_with("_attention")) {
                return Err(keys.error(
                    name,
                    format_args!("has an entry `{nested}`, and rotary settings by layer type are not supported"),
                ));
            }
        }
        "linear" => {
            let factor = required("factor")? as f32;
            frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
        }
        "llama3" => {
            let (factor, low, high) =
                (required("factor")?, required("low_freq_factor")?, required("high_freq_factor")?);
            let trained = match keys.positive("original_max_position_embeddings")? {
                Some(positions) => positions,
                None => scaling.positive("original_max_position_embeddings")?.unwrap_or(max_positions as f64),
            };
            if low >= high {
                return Err(keys.error(name, "needs a low_freq_factor below its high_freq_factor"));
            }
            let slowest = (trained / low) as f32;
            let fastest = (trained / high) as f32;
            for frequency in &mut frequencies {
                let wavelength = (2.0 * PI) as f32 / *frequency;
                if wavelength > slowest {
                    *frequency /= factor as f32;
                } else if wavelength >= fastest {
                    let smooth = (trained as f32 / wavelength - low as f32) / (high - low) as f32;
                    *frequency = (1.0 - smooth) * *frequency / factor as f32 + smooth * *frequency;
                }
            }
        }
        other => {
            return Err(
                keys.error(name, format_args!("has rope_type `{other}`; supported are default, linear and llama3"))
            );
        }
    }
    if !frequencies.iter().all(|frequency| frequency.is_finite()) {
        return Err(keys.error(name, "gives no usable frequencies"));
    }
    Ok(frequencies)
}
