//! The choice of the next token from its logits.
//!
//! Owns temperature, top-k, top-p and their randomness, which is a pure function of (seed, number of the token). Must
//! not know models or texts.

use crate::generate::GenerateError;
use crate::host::random::Stream;

/// How a token is chosen from logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 always takes the largest logit.
    pub temperature: f64,
    /// Only this many of the most likely tokens may be chosen; 0 admits all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability may be chosen; 1 admits all.
    pub top_p: f64,
    /// Equal seeds give equal choices.
    pub seed: u64,
}

impl Default for Sampling {
    /// The plain distribution of the model.
    fn default() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// Chooses tokens with buffers of its own.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    stream: Stream,
    /// Candidates: id and weight, most likely first.
    candidates: Vec<(u32, f64)>,
}

impl Sampler {
    /// A sampler for logits of up to `vocab_size` tokens.
    ///
    /// # Errors
    ///
    /// If the temperature is negative or top-p is not in `0..=1`, or one of them is not a number.
    pub fn new(sampling: &Sampling, vocab_size: usize) -> Result<Sampler, GenerateError> {
        let &Sampling { temperature, top_p, seed, .. } = sampling;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            let bounds = "0 (the most likely token) or more";
            return Err(GenerateError::Setting {
                setting: "the temperature",
                value: temperature,
                bounds,
            });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(GenerateError::Setting {
                setting: "top-p",
                value: top_p,
                bounds: "above 0 and at most 1",
            });
        }
        Ok(Sampler {
            sampling: sampling.clone(),
            stream: Stream::new(seed, "generate", 0),
            candidates: Vec::with_capacity(vocab_size),
        })
    }

    /// The id chosen as generated token `number`, or `None` if a logit is not a number or none is finite.
    ///
    /// Of equal logits the smaller id counts as the more likely. The order of restrictions is temperature, top-k, top-p,
    /// as in the `transformers` library; the most likely token is never excluded.
    pub fn choose(&mut self, logits: &[f32], number: u64) -> Option<u32> {
        if logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
            return None;
        }
        let (best, &largest) = logits
            .iter()
            .enumerate()
            .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        if largest == f32::NEG_INFINITY {
            return None;
        }
        if self.sampling.temperature == 0.0 {
            return Some(best as u32);
        }
        let weight = |logit: f32| {
            libm::exp((f64::from(logit) - f64::from(largest)) / self.sampling.temperature)
        };
        self.candidates.clear();
        self.candidates.extend((0u32..).zip(logits).map(|(id, &logit)| (id, weight(logit))));
        self.restrict();

        let total: f64 = self.candidates.iter().map(|&(_, weight)| weight).sum();
        let [random, _] = self.stream.uniform_pair(number);
        let mut remaining = random * total;
        let chosen = self.candidates.iter().find(|&&(_, weight)| {
            remaining -= weight;
            remaining < 0.0
        });
        // Rounding may leave a remainder behind the last candidate; a weight of 0 is never an answer.
        let last = || self.candidates.iter().rev().find(|&&(_, weight)| weight > 0.0);
        chosen.or_else(last).map(|&(id, _)| id)
    }

    /// Drops the candidates that top-k and top-p exclude.
    fn restrict(&mut self) {
        let count = self.candidates.len();
        let top_k = if self.sampling.top_k == 0 { count } else { self.sampling.top_k.min(count) };
        if top_k == count && self.sampling.top_p == 1.0 {
            return;
        }
        self.candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        self.candidates.truncate(top_k);
        if self.sampling.top_p < 1.0 {
            let enough = self.sampling.top_p
                * self.candidates.iter().map(|&(_, weight)| weight).sum::<f64>();
            let mut reached = 0.0;
            let kept = self.candidates.iter().take_while(|&&(_, weight)| {
                let still_needed = reached < enough;
                reached += weight;
                still_needed
            });
            let kept = kept.count().max(1);
            self.candidates.truncate(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(&sampling, 8).unwrap()
    }

    /// Natural logarithms of 1/8, 4/8, 2/8, 1/8.
    fn logits() -> [f32; 4] {
        [0.125f32, 0.5, 0.25, 0.125].map(f32::ln)
    }

    fn frequencies(sampling: Sampling) -> [f64; 4] {
        let mut sampler = sampler(sampling);
        let draws = 40_000;
        let mut counts = [0.0; 4];
        for number in 0..draws {
            counts[sampler.choose(&logits(), number).unwrap() as usize] += 1.0 / draws as f64;
        }
        counts
    }

    /// Within five standard deviations (at most 0.0025 each).
    fn check(sampling: Sampling, expected: [f64; 4]) {
        let found = frequencies(sampling.clone());
        for (found, expected) in found.iter().zip(expected) {
            let close =
                if expected == 0.0 { *found == 0.0 } else { (found - expected).abs() < 0.0125 };
            assert!(close, "{sampling:?}: {found}, not {expected}");
        }
    }

    #[test]
    fn draws_follow_the_restricted_distribution() {
        check(Sampling::default(), [0.125, 0.5, 0.25, 0.125]);
        check(
            Sampling { temperature: 0.5, ..Sampling::default() },
            [1.0, 16.0, 4.0, 1.0].map(|w| w / 22.0),
        );
        check(Sampling { top_k: 2, ..Sampling::default() }, [0.0, 2.0 / 3.0, 1.0 / 3.0, 0.0]);
        // Of the two tokens with 1/8 the smaller id counts as the more likely.
        check(Sampling { top_k: 3, ..Sampling::default() }, [1.0 / 7.0, 4.0 / 7.0, 2.0 / 7.0, 0.0]);
        check(Sampling { top_p: 0.74, ..Sampling::default() }, [0.0, 2.0 / 3.0, 1.0 / 3.0, 0.0]);
        check(
            Sampling { top_p: 0.8, ..Sampling::default() },
            [1.0 / 7.0, 4.0 / 7.0, 2.0 / 7.0, 0.0],
        );
        check(Sampling { top_p: 1e-9, ..Sampling::default() }, [0.0, 1.0, 0.0, 0.0]);
        // Top-p is taken of what top-k left: 4/6 of two.
        check(Sampling { top_k: 2, top_p: 0.6, ..Sampling::default() }, [0.0, 1.0, 0.0, 0.0]);
        check(Sampling { top_k: 99, ..Sampling::default() }, [0.125, 0.5, 0.25, 0.125]);
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut greedy = sampler(Sampling { temperature: 0.0, ..Sampling::default() });
        assert_eq!(greedy.choose(&[1.0, 3.0, 3.0, 2.0], 5), Some(1));
        assert_eq!(greedy.choose(&[f32::NEG_INFINITY, -3.0], 5), Some(1));
    }

    #[test]
    fn a_choice_depends_on_seed_and_number_alone() {
        let mut a = sampler(Sampling { seed: 7, ..Sampling::default() });
        let mut b = sampler(Sampling { seed: 7, ..Sampling::default() });
        let forward: Vec<_> = (0..64).map(|number| a.choose(&logits(), number)).collect();
        let backward: Vec<_> = (0..64).rev().map(|number| b.choose(&logits(), number)).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
        let mut c = sampler(Sampling { seed: 8, ..Sampling::default() });
        assert!(
            forward.iter().zip(0..).any(|(&chosen, number)| chosen != c.choose(&logits(), number))
        );
    }

    #[test]
    fn senseless_logits_and_settings_are_refused() {
        let mut sampler = sampler(Sampling::default());
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(sampler.choose(&[0.0, bad], 0), None);
        }
        assert_eq!(sampler.choose(&[f32::NEG_INFINITY; 3], 0), None);
        assert_eq!(sampler.choose(&[], 0), None);
        assert_eq!(sampler.choose(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 0), Some(1));
        for temperature in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(Sampler::new(&Sampling { temperature, ..Sampling::default() }, 8).is_err());
        }
        for top_p in [0.0, -0.5, 1.5, f64::NAN] {
            assert!(Sampler::new(&Sampling { top_p, ..Sampling::default() }, 8).is_err());
        }
    }
}
