//! What a race has shown so far.
//!
//! Owns the results of each contender and their comparison. Must not know how they were come by.

use serde::{Deserialize, Serialize};

use crate::race::length::{Rule, Step};
use crate::race::statistics::{self, PairedDifference, Verdict};

/// One contender with one seed, at its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    /// Seed of start values and data order.
    pub seed: u64,
    /// Mean loss over the validation labels, in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Loss in bits for each byte of text, where the bytes are known.
    pub bits_per_byte: Option<f64>,
    /// Validation labels.
    pub evaluated_tokens: u64,
    /// Positions with a label that were trained on.
    pub tokens: u64,
    /// Time of all updates, without evaluations and checkpoints.
    pub training_seconds: f64,
    /// The run's folder.
    pub run: String,
}

/// A model in the race.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contender {
    /// As in tables and folders.
    pub name: String,
    /// `cola` or `full-rank`.
    pub form: &'static str,
    /// Trained numbers.
    pub parameters: u64,
    /// Updates it trains for.
    pub steps: u64,
    /// What one update takes.
    pub step: Step,
    /// FLOPs of the whole training.
    pub flops: u128,
    /// Its runs that have ended, in the order of seeds.
    pub finishes: Vec<Finish>,
    /// Mean of their losses.
    pub mean_loss: Option<f64>,
    /// `exp` of the mean loss.
    pub perplexity: Option<f64>,
    /// Standard deviation of the losses over seeds.
    pub loss_deviation: Option<f64>,
}

impl Contender {
    /// A contender of which no run has ended.
    pub fn new(
        name: String,
        form: &'static str,
        parameters: u64,
        steps: u64,
        step: Step,
    ) -> Contender {
        let flops = u128::from(step.flops) * u128::from(steps);
        let finishes = Vec::new();
        let (mean_loss, perplexity, loss_deviation) = (None, None, None);
        Contender {
            name,
            form,
            parameters,
            steps,
            step,
            flops,
            finishes,
            mean_loss,
            perplexity,
            loss_deviation,
        }
    }

    /// Adds a run that has ended.
    pub fn add(&mut self, finish: Finish) {
        self.finishes.push(finish);
        self.finishes.sort_by_key(|finish| finish.seed);
        let losses: Vec<f64> = self.finishes.iter().map(|finish| finish.loss).collect();
        self.mean_loss = statistics::mean(&losses);
        self.perplexity = self.mean_loss.map(f64::exp);
        self.loss_deviation = statistics::standard_deviation(&losses);
    }

    /// Mean time of the updates of a run.
    pub fn training_seconds(&self) -> Option<f64> {
        let seconds: Vec<f64> = self.finishes.iter().map(|f| f.training_seconds).collect();
        statistics::mean(&seconds)
    }
}

/// A contender against the reference, seed by seed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Name of the contender.
    pub contender: String,
    /// Its loss minus the reference's, in nats: below 0 the contender is better.
    #[serde(flatten)]
    pub loss: PairedDifference,
    /// What may be claimed of it.
    pub verdict: Verdict,
}

/// The result of a race, or of as much of it as is done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standings {
    /// Name of the spec that the race is about.
    pub name: String,
    /// Where all stop.
    pub equal: Rule,
    /// The seeds that are asked for.
    pub seeds: Vec<u64>,
    /// All contenders, in the order in which they are listed.
    pub contenders: Vec<Contender>,
    /// Name of the contender that the others are compared with.
    pub reference: String,
    /// The others against the reference, over the seeds with which both have ended.
    pub differences: Vec<Difference>,
    /// Whether every run has ended.
    pub complete: bool,
    /// Confidence of the intervals.
    pub confidence: f64,
}

impl Standings {
    /// Compares contenders with the one named `reference`.
    pub fn new(
        name: String,
        equal: Rule,
        seeds: Vec<u64>,
        contenders: Vec<Contender>,
        reference: String,
    ) -> Standings {
        let of_reference = contenders.iter().find(|contender| contender.name == reference);
        let mut differences = Vec::new();
        for contender in contenders.iter().filter(|contender| contender.name != reference) {
            let Some(other) = of_reference else { continue };
            let pairs = contender.finishes.iter().filter_map(|ours| {
                let theirs = other.finishes.iter().find(|theirs| theirs.seed == ours.seed)?;
                Some((ours.loss, theirs.loss))
            });
            let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.unzip();
            if let Some(loss) = PairedDifference::new(&ours, &theirs) {
                let verdict = loss.verdict();
                differences.push(Difference { contender: contender.name.clone(), loss, verdict });
            }
        }
        let complete = contenders.iter().all(|c| c.finishes.len() == seeds.len());
        Standings {
            name,
            equal,
            seeds,
            contenders,
            reference,
            differences,
            complete,
            confidence: statistics::CONFIDENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(seed: u64, loss: f64) -> Finish {
        Finish {
            seed,
            loss,
            perplexity: loss.exp(),
            bits_per_byte: None,
            evaluated_tokens: 100,
            tokens: 1000,
            training_seconds: 10.0 * seed as f64,
            run: format!("run-{seed}"),
        }
    }

    fn contender(name: &str, losses: &[(u64, f64)]) -> Contender {
        let step = Step { flops: 1 << 40, tokens: 1024 };
        let mut contender = Contender::new(name.to_owned(), "cola", 10, 1 << 30, step);
        for &(seed, loss) in losses {
            contender.add(finish(seed, loss));
        }
        contender
    }

    #[test]
    fn differences_are_paired_by_seed() {
        let ours = contender("cola", &[(2, 4.1), (1, 4.0), (3, 4.4)]);
        let theirs = contender("full-rank", &[(1, 3.9), (3, 4.2), (2, 4.0)]);
        assert_eq!(ours.flops, 1 << 70);
        assert!((ours.mean_loss.unwrap() - 12.5 / 3.0).abs() < 1e-12);
        assert_eq!(ours.training_seconds(), Some(20.0));
        let seeds = vec![1, 2, 3];
        let standings =
            Standings::new("s".into(), Rule::Tokens, seeds, vec![ours, theirs], "full-rank".into());
        assert!(standings.complete);
        let [difference] = &standings.differences[..] else { panic!("{standings:?}") };
        assert_eq!((difference.contender.as_str(), difference.loss.pairs), ("cola", 3));
        assert!((difference.loss.mean - 0.4 / 3.0).abs() < 1e-12);
        // Differences of 0.1, 0.1 and 0.2: 0.1333 ± 4.303 · 0.0577 / √3.
        let interval = difference.loss.interval.unwrap();
        assert!((interval.low - -0.010_1).abs() < 1e-3, "{interval:?}");
        assert!((interval.high - 0.276_8).abs() < 1e-3, "{interval:?}");
        assert_eq!(difference.verdict, Verdict::NotShown);
    }

    /// Half a race compares what both sides have.
    #[test]
    fn unfinished_pairs_do_not_count() {
        let ours = contender("cola", &[(1, 4.0), (2, 4.1)]);
        let theirs = contender("full-rank", &[(2, 4.0)]);
        let none = contender("cola-rank-16", &[]);
        let all = vec![ours, none, theirs];
        let standings =
            Standings::new("s".into(), Rule::Flops, vec![1, 2], all, "full-rank".into());
        assert!(!standings.complete);
        let [difference] = &standings.differences[..] else { panic!("{standings:?}") };
        assert_eq!(difference.verdict, Verdict::OnePair);
        assert!((difference.loss.mean - 0.1).abs() < 1e-12);
    }

    /// Machines read the field names.
    #[test]
    fn the_result_has_the_documented_fields() {
        let all = vec![contender("a", &[(1, 2.0)]), contender("b", &[(1, 1.5)])];
        let standings = Standings::new("s".into(), Rule::Flops, vec![1], all, "b".into());
        let json = serde_json::to_string(&standings).unwrap();
        for piece in [
            r#""equal":"flops""#,
            r#""flops":1180591620717411303424"#,
            r#""step":{"flops":1099511627776,"tokens":1024}"#,
            r#""differences":[{"contender":"a","pairs":1,"mean":0.5,"standard_deviation":null,"interval":null,"verdict":"one-pair"}]"#,
            r#""confidence":0.95"#,
        ] {
            assert!(json.contains(piece), "{piece} is not in {json}");
        }
    }
}
