//! Which of several sources each row comes from.
//!
//! Owns one pure function: position to (source, index within the source), with nothing stored. Must not know what a
//! row is.
//!
//! The first source takes a share w₁ of all positions, as evenly spread as whole numbers allow: of the first n
//! positions it has ⌊w₁·n + ½⌋, as the pixels of a line of that slope (Bresenham, 1965). The positions that are left,
//! counted again from 0, are shared between the second source and the rest in the same way, and so on. So at every
//! position the number of rows that a source has had differs from its share by less than one per source before it and
//! one for itself, whatever the weights.

/// Bits behind the point of a share. Positions stay below 2^64, so products fit 128 bits.
const SHARE_BITS: u32 = 48;

/// Positions distributed over sources by weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixture {
    /// For each source but the last its share of the positions that the sources before it leave.
    shares: Vec<u64>,
}

impl Mixture {
    /// A mixture by weights, which are above 0 and finite; their sum counts as 1.
    ///
    /// # Panics
    ///
    /// If there is no weight.
    pub fn new(weights: &[f64]) -> Self {
        assert!(!weights.is_empty(), "a mixture has at least one source");
        let one = 2_f64.powi(SHARE_BITS as i32);
        let shares = (0..weights.len() - 1).map(|source| {
            let rest: f64 = weights[source..].iter().sum();
            (weights[source] / rest * one).round() as u64
        });
        Self { shares: shares.collect() }
    }

    /// Number of sources.
    pub fn source_count(&self) -> usize {
        self.shares.len() + 1
    }

    /// The source at a position, and how many positions before it have the same source.
    pub fn at(&self, position: u64) -> (usize, u64) {
        let mut rest = position;
        for (source, &share) in self.shares.iter().enumerate() {
            let taken = taken(share, rest);
            if taken_next(share, rest) > taken {
                return (source, taken);
            }
            rest -= taken;
        }
        (self.shares.len(), rest)
    }

    /// How many of the first `positions` positions each source has.
    pub fn counts(&self, positions: u64) -> Vec<u64> {
        let mut rest = positions;
        let mut counts = Vec::with_capacity(self.source_count());
        for &share in &self.shares {
            let taken = taken(share, rest);
            counts.push(taken);
            rest -= taken;
        }
        counts.push(rest);
        counts
    }
}

/// ⌊share·positions + ½⌋.
fn taken(share: u64, positions: u64) -> u64 {
    let half = 1_u128 << (SHARE_BITS - 1);
    ((u128::from(share) * u128::from(positions) + half) >> SHARE_BITS) as u64
}

/// The same for one position more, which `u64` may not hold.
fn taken_next(share: u64, positions: u64) -> u64 {
    let half = 1_u128 << (SHARE_BITS - 1);
    ((u128::from(share) * (u128::from(positions) + 1) + half) >> SHARE_BITS) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(weights: &[f64], count: u64) -> Vec<usize> {
        let mixture = Mixture::new(weights);
        (0..count).map(|position| mixture.at(position).0).collect()
    }

    #[test]
    fn shares_are_spread_evenly() {
        assert_eq!(sequence(&[1.0], 4), [0, 0, 0, 0]);
        assert_eq!(sequence(&[1.0, 1.0], 8), [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(sequence(&[3.0, 1.0], 8), [0, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!(sequence(&[1.0, 3.0], 8), [1, 0, 1, 1, 1, 0, 1, 1]);
        assert_eq!(sequence(&[2.0, 1.0, 1.0], 8), [0, 1, 0, 2, 0, 1, 0, 2]);
    }

    #[test]
    fn the_largest_positions_are_counted() {
        let mixture = Mixture::new(&[1.0, 1e-9, 1e9]);
        let (source, index) = mixture.at(u64::MAX);
        assert!(index <= mixture.counts(u64::MAX)[source], "{index} of source {source}");
        assert_eq!(mixture.counts(u64::MAX).iter().sum::<u64>(), u64::MAX);
    }

    proptest! {
        /// Every source's own indices run from 0 without a gap, and its count keeps to its share.
        #[test]
        fn every_position_has_its_place(
            weights in prop::collection::vec(0.01_f64..100.0, 1..6),
            first in prop_oneof![Just(0_u64), 0..u64::MAX / 2],
        ) {
            let mixture = Mixture::new(&weights);
            let sum: f64 = weights.iter().sum();
            let mut next = mixture.counts(first);
            for position in first..first + 200 {
                let (source, index) = mixture.at(position);
                prop_assert_eq!(index, next[source]);
                next[source] += 1;
                prop_assert_eq!(&mixture.counts(position + 1), &next);
            }
            if first == 0 {
                for position in 1..500 {
                    for (source, count) in mixture.counts(position).into_iter().enumerate() {
                        let share = weights[source] / sum * position as f64;
                        prop_assert!((count as f64 - share).abs() < weights.len() as f64 + 0.01);
                    }
                }
            }
        }
    }
}
