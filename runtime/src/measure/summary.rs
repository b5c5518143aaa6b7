//! A few times of the same thing in three numbers.
//!
//! Owns what "about so long" means here: the median, with the quartiles as its spread. Other work on a machine only ever
//! adds time, so a mean would tell of the others.

use serde::Serialize;

/// The middle half of some measurements, in their unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Half of them are below.
    pub median: f64,
    /// A quarter of them is below.
    pub lower: f64,
    /// A quarter of them is above.
    pub upper: f64,
    /// The least.
    pub least: f64,
    /// How many there are.
    pub count: usize,
}

impl Summary {
    /// Of some numbers; zeros for none.
    pub fn of(values: &[f64]) -> Summary {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        if sorted.is_empty() {
            return Summary::default();
        }
        // Between neighbours in proportion, as usual.
        let quantile = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let below = place.floor() as usize;
            let above = (below + 1).min(sorted.len() - 1);
            sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
        };
        Summary {
            median: quantile(0.5),
            lower: quantile(0.25),
            upper: quantile(0.75),
            least: sorted[0],
            count: sorted.len(),
        }
    }

    /// The spread as a share of the median: 0.1 where the middle half lies within 10 %.
    pub fn spread(&self) -> f64 {
        if self.median > 0.0 { (self.upper - self.lower) / self.median } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_few_and_many() {
        let five = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((five.lower, five.median, five.upper, five.least), (2.0, 3.0, 4.0, 1.0));
        let two = Summary::of(&[2.0, 1.0]);
        assert_eq!((two.lower, two.median, two.upper), (1.25, 1.5, 1.75));
        assert_eq!(Summary::of(&[7.0]).spread(), 0.0);
        assert_eq!(Summary::of(&[]).count, 0);
    }
}
