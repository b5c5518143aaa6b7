//! Counter-based randomness: every random number is a pure function of where it is used.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011).
//! A [`Stream`] is named by a seed, a path and a number (0 for start values; a step for anything drawn while training);
//! element `k` of a stream depends on nothing else. So neither the order in which tensors are filled, nor threads, nor
//! recompute policies, nor fusion can move a random number.

use std::f64::consts::TAU;

/// Multipliers of the two rounds' products, from the paper.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Increments of the key between rounds: the golden ratio and the square root of 3 less one, as fractions of 2³².
const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Rounds for which the authors report no known statistical failure, with margin.
const ROUNDS: usize = 10;

/// One block of Philox4x32-10: a bijection of the counter, chosen by the key.
pub fn philox4x32(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let (mut key, mut x) = (key, counter);
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_INCREMENTS[0]), key[1].wrapping_add(KEY_INCREMENTS[1])];
        }
        let first = u64::from(MULTIPLIERS[0]) * u64::from(x[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(x[2]);
        x = [
            (second >> 32) as u32 ^ x[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ x[3] ^ key[1],
            first as u32,
        ];
    }
    x
}

/// The key of a path under a seed: the first eight bytes of the BLAKE3 hash of the seed (eight bytes, little endian) and
/// the path.
pub fn key(seed: u64, path: &str) -> [u32; 2] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(path.as_bytes());
    let hash = hasher.finalize();
    let word = |at: usize| {
        let bytes = &hash.as_bytes()[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    };
    [word(0), word(4)]
}

/// What the dropouts of one micro-batch draw from ([`colac_plan::Op::Dropout`]), as the words of a tensor: the key of
/// `dropout` under the seed, the index of the update, the micro-batch within it.
pub fn dropout_draw(seed: u64, update: u64, micro_batch: usize) -> [i32; 4] {
    let [low, high] = key(seed, "dropout");
    [low, high, update as u32, micro_batch as u32].map(u32::cast_signed)
}

/// An endless sequence of random numbers that can be read at any place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    number: u64,
}

impl Stream {
    /// The stream of a path under a seed. `number` separates streams of the same path.
    pub fn new(seed: u64, path: &str, number: u64) -> Stream {
        Stream { key: key(seed, path), number }
    }

    /// Two independent 64-bit words: block `index` of the stream.
    fn block(&self, index: u64) -> [u64; 2] {
        let counter =
            [index as u32, (index >> 32) as u32, self.number as u32, (self.number >> 32) as u32];
        let x = philox4x32(self.key, counter);
        [u64::from(x[1]) << 32 | u64::from(x[0]), u64::from(x[3]) << 32 | u64::from(x[2])]
    }

    /// Two numbers, evenly distributed in `0..1` in steps of 2⁻⁵³: elements `2·pair` and `2·pair + 1`.
    pub fn uniform_pair(&self, pair: u64) -> [f64; 2] {
        self.block(pair).map(|word| (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64))
    }

    /// Two independent normal numbers of mean 0 and variance 1: elements `2·pair` and `2·pair + 1`. Box and Muller's
    /// transform, in f64.
    pub fn normal_pair(&self, pair: u64) -> [f64; 2] {
        let [a, b] = self.uniform_pair(pair);
        // 1 - a lies in (0, 1], so that the logarithm is finite; the subtraction is exact.
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - a));
        let (sin, cos) = libm::sincos(TAU * b);
        [radius * cos, radius * sin]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that the authors publish with their implementation (Random123, `kat_vectors`).
    #[test]
    fn known_answers() {
        assert_eq!(
            philox4x32([0; 2], [0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox4x32([0xa409_3822, 0x299f_31d0], pi), answer);
    }

    #[test]
    fn streams_differ_in_seed_path_and_number() {
        let base = Stream::new(1, "layers.0.weight", 0);
        let others = [
            Stream::new(2, "layers.0.weight", 0),
            Stream::new(1, "layers.1.weight", 0),
            Stream::new(1, "layers.0.weight", 1),
            Stream::new(1, "layers.0.weight", 1 << 32),
        ];
        for other in others {
            assert_ne!(base.block(0), other.block(0), "{other:?}");
        }
        assert_ne!(base.block(0), base.block(1));
        assert_ne!(base.block(0), base.block(1 << 32));
    }

    /// Moments and tails over many draws, within five standard deviations of what the distributions have.
    #[test]
    fn distributions_have_their_moments() {
        let stream = Stream::new(42, "moments", 0);
        let pairs = 100_000u64;
        let count = 2.0 * pairs as f64;
        let root = count.sqrt();

        let uniform: Vec<f64> = (0..pairs).flat_map(|pair| stream.uniform_pair(pair)).collect();
        assert!(uniform.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = uniform.iter().sum::<f64>() / count;
        assert!((mean - 0.5).abs() < 5.0 * (1.0f64 / 12.0).sqrt() / root, "{mean}");

        let normal: Vec<f64> = (0..pairs).flat_map(|pair| stream.normal_pair(pair)).collect();
        let moment = |power: i32| normal.iter().map(|x| x.powi(power)).sum::<f64>() / count;
        // The variance of x^p is E x^2p - (E x^p)²: 1, 2, 15, 96 for p = 1 to 4.
        for (power, expected, variance) in
            [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
        {
            let found = moment(power);
            assert!(
                (found - expected).abs() < 5.0 * variance.sqrt() / root,
                "moment {power} is {found}"
            );
        }
        let beyond = normal.iter().filter(|x| x.abs() > 3.0).count() as f64 / count;
        let expected = libm::erfc(3.0 / std::f64::consts::SQRT_2);
        assert!(
            (beyond - expected).abs() < 5.0 * expected.sqrt() / root,
            "{beyond} beyond three deviations"
        );
        // The two numbers of a pair, and neighbours across pairs, do not correlate.
        for lag in [1, 2] {
            let products = normal.windows(lag + 1).map(|w| w[0] * w[lag]).sum::<f64>() / count;
            assert!(products.abs() < 5.0 / root, "lag {lag}: {products}");
        }
    }
}
