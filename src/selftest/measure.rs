//! Measures of error.

/// `|got - want| / |want|` in the 2-norm; infinite where `got` has a NaN. 0 where both are all zero.
pub fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: f64 = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum();
    let norm: f64 = want.iter().map(|w| w * w).sum();
    if difference == 0.0 {
        0.0
    } else if difference.is_nan() {
        f64::INFINITY
    } else {
        (difference / norm).sqrt()
    }
}

/// The 2-norm.
pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// `|got - want|` in the 2-norm; infinite where `got` has a NaN.
pub fn distance(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let squares: f64 = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum();
    if squares.is_nan() { f64::INFINITY } else { squares.sqrt() }
}

/// The bits, for comparisons that must be exact.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// A sum, and the sum of its terms' absolute values: where terms cancel, an error is a share of these.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    pub value: f64,
    pub absolute: f64,
}

impl Sum {
    pub fn of(terms: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = Self::default();
        terms.into_iter().for_each(|term| sum.add(term));
        sum
    }

    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.absolute += term.abs();
    }

    pub fn times(self, factor: f64) -> Self {
        Self { value: self.value * factor, absolute: self.absolute * factor.abs() }
    }
}
