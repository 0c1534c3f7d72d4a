//! How far two judges agree.

/// Cohen's kappa of two lists of verdicts: `(observed - expected) / (1 - expected)`, with `expected` the agreement of two
/// judges who give each verdict as often as these, by chance. `None` of nothing, and where both always say the same one
/// thing: chance agrees as well.
///
/// # Panics
/// If the lists differ in length.
pub fn kappa<T: PartialEq>(a: &[T], b: &[T]) -> Option<f64> {
    assert_eq!(a.len(), b.len(), "two judges of the same responses");
    let n = a.len() as f64;
    let observed = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / n;
    // Chance: over all pairs of one verdict of each.
    let chance = a.iter().map(|a| b.iter().filter(|b| a == *b).count()).sum::<usize>() as f64 / (n * n);
    (chance < 1.0).then(|| (observed - chance) / (1.0 - chance)).filter(|kappa| kappa.is_finite())
}

#[cfg(test)]
mod tests {
    use super::kappa;

    #[test]
    fn kappa_is_cohens() {
        // The textbook's table: 20 both yes, 5 only a, 10 only b, 15 both no: kappa 0.4.
        let pairs = [(20, (1, 1)), (5, (1, 0)), (10, (0, 1)), (15, (0, 0))];
        let (a, b): (Vec<u8>, Vec<u8>) = pairs.iter().flat_map(|&(n, pair)| std::iter::repeat_n(pair, n)).unzip();
        assert!((kappa(&a, &b).unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(kappa(&a, &a), Some(1.0));
        assert_eq!(kappa(&[1, 1], &[1, 1]), None);
        assert_eq!(kappa::<u8>(&[], &[]), None);
        assert!(kappa(&[0, 1, 0, 1], &[1, 0, 1, 0]).unwrap() < 0.0);
    }
}
