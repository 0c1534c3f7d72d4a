//! Learning-rate schedules with the Hugging Face Trainer's arithmetic.

use std::str::FromStr;

/// The shape of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Falls to 0 at the last step (`get_linear_schedule_with_warmup`).
    Linear,
    /// Stays (`get_constant_schedule_with_warmup`).
    Constant,
    /// Falls along half a cosine to a tenth of the peak.
    Cosine,
}

impl Schedule {
    /// Factor on the peak rate at 0-based `step` of `total`. With warm-up the first step's factor is 0, as in the Trainer.
    pub fn factor(self, step: usize, warmup: usize, total: usize) -> f32 {
        if step < warmup {
            return step as f32 / warmup as f32;
        }
        let done = (step - warmup) as f32 / total.saturating_sub(warmup).max(1) as f32;
        match self {
            Self::Linear => (1.0 - done).max(0.0),
            Self::Constant => 1.0,
            Self::Cosine => 0.1 + 0.9 * 0.5 * (1.0 + (std::f32::consts::PI * done.min(1.0)).cos()),
        }
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "linear" => Ok(Self::Linear),
            "constant" => Ok(Self::Constant),
            "cosine" => Ok(Self::Cosine),
            _ => Err(format!("unknown schedule \"{name}\": use linear, constant or cosine")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn linear_equals_transformers() {
        // get_linear_schedule_with_warmup(num_warmup_steps=4, num_training_steps=12), lr lambda at steps 0..=12.
        let expected = [0.0, 0.25, 0.5, 0.75, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0];
        for (step, expected) in expected.into_iter().enumerate() {
            assert_eq!(Schedule::Linear.factor(step, 4, 12), expected, "step {step}");
        }
        assert_eq!(Schedule::Linear.factor(0, 0, 10), 1.0);
        assert_eq!(Schedule::Constant.factor(9, 3, 10), 1.0);
        assert_eq!(Schedule::Constant.factor(1, 2, 10), 0.5);
    }
}
