//! The order in which samples are visited.
//!
//! Owns one pure function: (seed, epoch, index) to sample. Within an epoch it is a permutation, and nothing of it is
//! stored, so a run resumes at any step, and any number of workers or micro-batches sees the same global batches.
//! Must not know what a sample is.
//!
//! The permutation is a balanced Feistel network (Luby and Rackoff, 1988) on the smallest even number of bits that can
//! count the samples. An index that leaves the range of samples is sent through the network again until it is back
//! ("cycle walking", Black and Rogaway, 2002). The network's domain is less than four times the number of samples, so
//! the expected number of passes is below four.

/// Rounds of the Feistel network. Four make a pseudo-random permutation in theory; eight cost nothing here.
const ROUNDS: u64 = 8;

/// The visiting order of a set of samples, epoch after epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleOrder {
    sample_count: u64,
    seed: u64,
}

impl SampleOrder {
    /// An order of `sample_count` samples.
    ///
    /// # Panics
    ///
    /// If there are no samples, because then there is nothing to order.
    pub fn new(sample_count: u64, seed: u64) -> Self {
        assert!(sample_count > 0, "an order needs at least one sample");
        Self { sample_count, seed }
    }

    /// Samples in one epoch.
    pub fn sample_count(&self) -> u64 {
        self.sample_count
    }

    /// The sample at a position of the endless sequence of epochs; position `step · global_batch + slot` belongs to one
    /// slot of one step.
    pub fn sample(&self, position: u64) -> u64 {
        self.sample_in_epoch(position / self.sample_count, position % self.sample_count)
    }

    /// The sample at place `index` of an epoch. For a fixed epoch this is a bijection of `0..sample_count`.
    ///
    /// # Panics
    ///
    /// If `index` is not below the number of samples.
    pub fn sample_in_epoch(&self, epoch: u64, index: u64) -> u64 {
        assert!(index < self.sample_count, "index {index} of {} samples", self.sample_count);
        let half_bits = half_bits(self.sample_count);
        let key = mix(mix(self.seed).wrapping_add(epoch));
        let mut place = index;
        // The permutation of the larger domain has a cycle through `index`, which is a valid place: the walk comes back
        // at the latest there.
        loop {
            place = feistel(place, half_bits, key);
            if place < self.sample_count {
                return place;
            }
        }
    }
}

/// Half the bits of the smallest domain `2^(2·half)` that holds `count` values; at least one.
fn half_bits(count: u64) -> u32 {
    let bits = u64::BITS - (count - 1).leading_zeros();
    bits.div_ceil(2).max(1)
}

/// A permutation of `0..2^(2·half_bits)` chosen by `key`.
fn feistel(value: u64, half_bits: u32, key: u64) -> u64 {
    let mask = (1 << half_bits) - 1;
    let (mut left, mut right) = (value >> half_bits, value & mask);
    for round in 0..ROUNDS {
        let round_key = mix(key.wrapping_add(round));
        (left, right) = (right, left ^ (mix(right ^ round_key) & mask));
    }
    left << half_bits | right
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014) after a step of its Weyl sequence: every input bit reaches
/// every output bit.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epoch(order: &SampleOrder, epoch: u64) -> Vec<u64> {
        (0..order.sample_count()).map(|index| order.sample_in_epoch(epoch, index)).collect()
    }

    fn is_permutation(mut samples: Vec<u64>) -> bool {
        samples.sort_unstable();
        samples.iter().enumerate().all(|(place, &sample)| sample == place as u64)
    }

    #[test]
    fn every_small_size_is_a_permutation() {
        for count in 1..=300 {
            for seed in [0, 1, u64::MAX] {
                assert!(
                    is_permutation(epoch(&SampleOrder::new(count, seed), seed)),
                    "{count} samples, seed {seed}"
                );
            }
        }
    }

    #[test]
    fn the_largest_sizes_stay_in_range() {
        for count in [1 << 32, (1 << 62) + 1, (1 << 63) + 1, u64::MAX] {
            let order = SampleOrder::new(count, 7);
            let samples: Vec<u64> = (0..100).map(|index| order.sample_in_epoch(3, index)).collect();
            assert!(samples.iter().all(|&sample| sample < count));
            let mut distinct = samples.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), samples.len());
        }
    }

    #[test]
    fn seeds_and_epochs_give_other_orders() {
        let order = SampleOrder::new(1000, 1);
        assert_ne!(epoch(&order, 0), epoch(&order, 1));
        assert_ne!(epoch(&order, 0), epoch(&SampleOrder::new(1000, 2), 0));
    }

    /// The order is part of what "equal seed, equal run" means, so a change of it must be noticed. The numbers come
    /// from a second implementation, in Python, of what the module's text says.
    #[test]
    fn the_order_is_the_documented_one() {
        assert_eq!(epoch(&SampleOrder::new(10, 42), 0), [4, 2, 9, 3, 1, 6, 8, 5, 0, 7]);
    }

    /// In a good shuffle, neighbours are not neighbours any more and places are hit evenly.
    #[test]
    fn the_order_looks_shuffled() {
        let count = 4096;
        let samples = epoch(&SampleOrder::new(count, 3), 0);
        let neighbours = samples.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        // Two of 4096 per pair are expected to be neighbours by chance: two pairs in all.
        assert!(neighbours < 12, "{neighbours} neighbours stayed together");
        let (quarter, half) = (count as usize / 4, count / 2);
        for part in samples.chunks(quarter) {
            let low = part.iter().filter(|&&sample| sample < half).count();
            // Binomial with standard deviation 16 around 512.
            assert!(
                low.abs_diff(quarter / 2) < 96,
                "{low} of {quarter} samples come from the lower half"
            );
        }
    }

    proptest! {
        #[test]
        fn an_epoch_is_a_permutation(count in 1_u64..3000, seed: u64, number: u64) {
            prop_assert!(is_permutation(epoch(&SampleOrder::new(count, seed), number)));
        }

        #[test]
        fn positions_run_through_the_epochs(count in 1_u64..50, seed: u64) {
            let order = SampleOrder::new(count, seed);
            let positions: Vec<u64> = (count..2 * count).map(|position| order.sample(position)).collect();
            prop_assert_eq!(positions, epoch(&order, 1));
        }
    }
}
