//! Means of paired differences and how far they can be trusted.
//!
//! Owns Student's t quantile and the interval made of it. Must not know what was measured.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

use serde::Serialize;

/// Confidence of the intervals that a race reports.
pub const CONFIDENCE: f64 = 0.95;

/// The probability that a t-distributed number with `degrees` degrees of freedom lies within `±tan(θ) · √degrees`, by
/// the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.
fn probability_within(angle: f64, degrees: u32) -> f64 {
    let (sine, cosine) = (libm::sin(angle), libm::cos(angle));
    let square = cosine * cosine;
    let odd = degrees % 2 == 1;
    // Each term has two more factors of the cosine and one more of the ratio of odd and even numbers.
    let (mut term, mut sum) = if odd { (cosine, 0.0) } else { (1.0, 0.0) };
    let mut numerator = if odd { 2.0 } else { 1.0 };
    for _ in 0..degrees / 2 {
        sum += term;
        term *= square * numerator / (numerator + 1.0);
        numerator += 2.0;
    }
    if odd { FRAC_2_PI * (angle + sine * sum) } else { sine * sum }
}

/// The number that the magnitude of a t-distributed number stays below with probability `confidence`: the two-sided
/// quantile, `t_quantile(0.95, 2)` = 4.303.
///
/// Returns infinity where no number is large enough: without degrees of freedom, or at a confidence of 1 and more.
pub fn t_quantile(confidence: f64, degrees: u32) -> f64 {
    if degrees == 0 || confidence.is_nan() || confidence >= 1.0 {
        return f64::INFINITY;
    }
    // The probability grows with the angle. Sixty halvings of the interval use up the digits of a double.
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        match probability_within(middle, degrees) < confidence {
            true => low = middle,
            false => high = middle,
        }
    }
    libm::tan(0.5 * (low + high)) * f64::from(degrees).sqrt()
}

/// The mean of some numbers; `None` without any.
pub fn mean(values: &[f64]) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.iter().sum::<f64>() / count as f64)
}

/// Their standard deviation, with the divisor for a sample; `None` for fewer than two.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - centre) * (value - centre)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// A range that holds the true value with the stated confidence, if the differences are independent and about normally
/// distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether a value lies in it, its ends included.
    pub fn covers(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The difference of two things that were measured in pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairedDifference {
    /// Number of pairs.
    pub pairs: usize,
    /// Mean of first minus second.
    pub mean: f64,
    /// Of the differences; `None` for one pair.
    pub standard_deviation: Option<f64>,
    /// Where the true mean lies with the confidence of [`CONFIDENCE`]; `None` for one pair, of which nothing can be said.
    pub interval: Option<Interval>,
}

/// What a difference allows to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// There is one pair only, so chance and difference cannot be told apart.
    OnePair,
    /// The interval covers 0: no difference is shown, which is not to say that there is none.
    NotShown,
    /// The first is lower: the whole interval lies below 0.
    Lower,
    /// The first is higher: the whole interval lies above 0.
    Higher,
}

impl PairedDifference {
    /// The difference `first - second`, pair by pair; `None` without pairs, or if their numbers differ.
    pub fn new(first: &[f64], second: &[f64]) -> Option<PairedDifference> {
        if first.len() != second.len() {
            return None;
        }
        let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
        let (pairs, mean) = (differences.len(), mean(&differences)?);
        let standard_deviation = standard_deviation(&differences);
        let interval = standard_deviation.map(|deviation| {
            let reach =
                t_quantile(CONFIDENCE, pairs as u32 - 1) * deviation / (pairs as f64).sqrt();
            Interval { low: mean - reach, high: mean + reach }
        });
        Some(PairedDifference { pairs, mean, standard_deviation, interval })
    }

    /// What may be claimed.
    pub fn verdict(&self) -> Verdict {
        match self.interval {
            None => Verdict::OnePair,
            Some(interval) if interval.high < 0.0 => Verdict::Lower,
            Some(interval) if interval.low > 0.0 => Verdict::Higher,
            Some(_) => Verdict::NotShown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
    }

    /// Two-sided quantiles as printed in tables, to ten digits.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (confidence, degrees, expected) in [
            (0.95, 1, 12.706_204_736),
            (0.95, 2, 4.302_652_730),
            (0.95, 3, 3.182_446_305),
            (0.95, 4, 2.776_445_105),
            (0.95, 5, 2.570_581_836),
            (0.95, 9, 2.262_157_163),
            (0.95, 10, 2.228_138_852),
            (0.95, 29, 2.045_229_642),
            (0.95, 30, 2.042_272_456),
            (0.95, 100, 1.983_971_519),
            (0.99, 1, 63.656_741_162),
            (0.99, 2, 9.924_843_201),
            (0.99, 7, 3.499_483_297),
            (0.90, 4, 2.131_846_786),
            (0.50, 6, 0.717_558_196),
        ] {
            assert_close(t_quantile(confidence, degrees), expected, 2e-9 * expected);
        }
    }

    /// With many degrees of freedom the distribution becomes the normal one.
    #[test]
    fn quantiles_approach_the_normal_distribution() {
        assert_close(t_quantile(0.95, 100_000), 1.959_963_985, 3e-5);
        assert_close(t_quantile(0.95, 100_001), 1.959_963_985, 3e-5);
    }

    #[test]
    fn quantiles_without_a_finite_value_are_infinite() {
        for (confidence, degrees) in [(0.95, 0), (1.0, 3), (2.0, 3), (f64::NAN, 3)] {
            assert_eq!(t_quantile(confidence, degrees), f64::INFINITY);
        }
        assert_close(t_quantile(0.0, 3), 0.0, 1e-12);
    }

    /// Student's own example of 1908: hours of sleep that ten patients gained by two drugs. The interval is that of R's
    /// `t.test(extra ~ group, data = sleep, paired = TRUE)`.
    #[test]
    fn students_own_example() {
        let one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let two = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let difference = PairedDifference::new(&one, &two).unwrap();
        assert_eq!(difference.pairs, 10);
        assert_close(difference.mean, -1.58, 1e-12);
        assert_close(difference.standard_deviation.unwrap(), 1.229_995, 1e-6);
        let interval = difference.interval.unwrap();
        assert_close(interval.low, -2.459_886, 1e-6);
        assert_close(interval.high, -0.700_114, 1e-6);
        assert_eq!(difference.verdict(), Verdict::Lower);
        let other = PairedDifference::new(&two, &one).unwrap();
        assert_eq!(other.verdict(), Verdict::Higher);
        assert_close(other.mean, 1.58, 1e-12);
    }

    #[test]
    fn one_pair_allows_no_claim() {
        let difference = PairedDifference::new(&[4.0], &[5.0]).unwrap();
        assert_eq!((difference.mean, difference.interval), (-1.0, None));
        assert_eq!(difference.verdict(), Verdict::OnePair);
        assert_eq!(PairedDifference::new(&[], &[]), None);
        assert_eq!(PairedDifference::new(&[1.0], &[]), None);
    }

    #[test]
    fn an_interval_that_covers_zero_shows_nothing() {
        let difference = PairedDifference::new(&[4.52, 4.48, 4.50], &[4.50, 4.49, 4.49]).unwrap();
        assert!(difference.interval.unwrap().covers(0.0));
        assert_eq!(difference.verdict(), Verdict::NotShown);
        // Pairs that always differ by the same leave no doubt.
        let sure = PairedDifference::new(&[2.0, 3.0], &[1.0, 2.0]).unwrap();
        assert_eq!(sure.verdict(), Verdict::Higher);
        assert_eq!(sure.standard_deviation, Some(0.0));
    }
}
