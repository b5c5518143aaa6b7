//! Jumps of the loss and of the gradient norm.
//!
//! Owns the statistics of the last updates and what counts as a jump. Must not know what is done about one. The
//! statistics are part of a checkpoint, so that a resumed run finds the same jumps.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Updates over which the mean and the deviation are taken: each weighs 1/100 less than the one after it.
const WINDOW: u64 = 100;
/// Updates that must have been seen before anything counts as a jump.
const WARMUP: u64 = 50;
/// Standard deviations above the mean from which a value is a jump.
const THRESHOLD: f64 = 6.0;

/// What jumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// The mean loss of the global batch.
    Loss,
    /// The norm of the gradient before clipping.
    GradientNorm,
}

impl Quantity {
    /// As the log names it: the field of a training record.
    pub fn field(self) -> &'static str {
        match self {
            Quantity::Loss => "loss",
            Quantity::GradientNorm => "grad_norm",
        }
    }
}

/// A value far above those of the updates before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// What jumped.
    pub quantity: Quantity,
    /// To what.
    pub value: f64,
    /// Mean of about the last hundred updates before it.
    pub mean: f64,
    /// Their standard deviation.
    pub standard_deviation: f64,
    /// `(value - mean) / standard_deviation`.
    pub z_score: f64,
}

/// Statistics of one quantity over about the last hundred updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statistics {
    /// Updates seen, up to the length of the window.
    count: u64,
    #[serde(serialize_with = "to_bits", deserialize_with = "from_bits")]
    mean: f64,
    #[serde(serialize_with = "to_bits", deserialize_with = "from_bits")]
    variance: f64,
    /// Whether the last value was a jump.
    inside: bool,
}

/// As bits, because the text of a number is not read back by everyone to the last one.
fn to_bits<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:016x}", value.to_bits()))
}

fn from_bits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let digits = String::deserialize(deserializer)?;
    u64::from_str_radix(&digits, 16).map(f64::from_bits).map_err(serde::de::Error::custom)
}

impl Statistics {
    /// Adds a value. Returns it as a jump if it is one and the value before was none: a jump that lasts is told once.
    fn add(&mut self, quantity: Quantity, value: f64) -> Option<Spike> {
        let standard_deviation = self.variance.sqrt();
        let distance = value - self.mean;
        // Numbers that hardly differ at all have a deviation of rounding errors.
        let measurable = standard_deviation > 1e-9 * self.mean.abs();
        let jumped =
            self.count >= WARMUP && measurable && distance > THRESHOLD * standard_deviation;
        let entered = jumped && !self.inside;
        let spike = entered.then(|| Spike {
            quantity,
            value,
            mean: self.mean,
            standard_deviation,
            z_score: distance / standard_deviation,
        });
        self.inside = jumped;
        // A jump counts as the largest value that is none: it should not hide the next one, but a new level is learnt.
        let distance = if jumped { THRESHOLD * standard_deviation } else { distance };
        self.count = (self.count + 1).min(WINDOW);
        let weight = 1.0 / self.count as f64;
        self.mean += weight * distance;
        self.variance = (1.0 - weight) * (self.variance + weight * distance * distance);
        spike
    }
}

/// Watches the loss and the gradient norm of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpikeDetector {
    loss: Statistics,
    gradient_norm: Statistics,
}

impl SpikeDetector {
    /// Adds an update; returns what jumped in it.
    pub fn add(
        &mut self,
        loss: Option<f64>,
        gradient_norm: Option<f32>,
    ) -> impl Iterator<Item = Spike> + use<> {
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        let norm = finite(gradient_norm.map(f64::from));
        let found = [
            finite(loss).and_then(|loss| self.loss.add(Quantity::Loss, loss)),
            norm.and_then(|norm| self.gradient_norm.add(Quantity::GradientNorm, norm)),
        ];
        found.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between -1 and 1, the same every time.
    fn noise(index: u64) -> f64 {
        let hash = blake3::hash(&index.to_le_bytes());
        f64::from(hash.as_bytes()[0]) / 127.5 - 1.0
    }

    fn spikes(values: impl IntoIterator<Item = f64>) -> Vec<(usize, Spike)> {
        let mut detector = SpikeDetector::default();
        let mut found = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            found.extend(detector.add(Some(value), None).map(|spike| (index, spike)));
        }
        found
    }

    #[test]
    fn a_jump_is_found_with_its_distance() {
        let values = (0..200).map(|i| if i == 150 { 9.0 } else { 3.0 + 0.1 * noise(i) });
        let found = spikes(values);
        assert_eq!(found.len(), 1);
        let (index, spike) = found[0];
        assert_eq!((index, spike.quantity, spike.value), (150, Quantity::Loss, 9.0));
        // The noise is uniform: its deviation is 0.1/√3.
        assert!((spike.mean - 3.0).abs() < 0.02, "{spike:?}");
        assert!((spike.standard_deviation - 0.0577).abs() < 0.01, "{spike:?}");
        assert!((spike.z_score - 6.0 / spike.standard_deviation).abs() < 1.0, "{spike:?}");
    }

    #[test]
    fn learning_noise_and_rest_are_no_jumps() {
        assert_eq!(spikes((0..500).map(|i| 9.0 / (1.0 + i as f64).sqrt() + 0.05 * noise(i))), []);
        assert_eq!(spikes((0..500).map(|_| 2.5)), []);
        // A fall is no jump, nor is one before there is anything to compare with.
        assert_eq!(spikes((0..200).map(|i| if i == 150 { -9.0 } else { noise(i) })), []);
        assert_eq!(spikes((0..100).map(|i| if i == 20 { 90.0 } else { noise(i) })), []);
    }

    #[test]
    fn a_jump_that_lasts_is_told_once_and_becomes_the_rule() {
        let level = |i: u64| if i < 150 { 3.0 } else { 5.0 };
        let found = spikes((0..600).map(|i| level(i) + 0.1 * noise(i)));
        assert_eq!(found.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [150]);
        // Two jumps with ordinary values between them are two.
        let values = (0..300).map(|i| if i % 100 == 99 { 9.0 } else { 3.0 + 0.1 * noise(i) });
        let found = spikes(values);
        assert_eq!(found.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [99, 199, 299]);
    }

    #[test]
    fn statistics_survive_their_file() {
        let mut detector = SpikeDetector::default();
        for i in 0..70 {
            let _ = detector.add(Some(noise(i) / 3.0), Some(noise(i + 99) as f32 / 7.0)).count();
        }
        // A number that is not finite says nothing.
        let before = detector;
        assert_eq!(detector.add(Some(f64::NAN), Some(f32::INFINITY)).count(), 0);
        assert_eq!(detector, before);
        let text = serde_json::to_string(&detector).unwrap();
        assert_eq!(serde_json::from_str::<SpikeDetector>(&text).unwrap(), detector);
    }
}
