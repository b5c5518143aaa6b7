//! The log of a run, read for drawing.
//!
//! Owns what a picture takes from `metrics.jsonl`, and that unknown records and what a crash left at the end do no harm.
//! Must not know how anything is drawn.

use serde::Deserialize;

/// One update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Number of the update, from 1.
    pub step: u64,
    /// Positions with a label of all updates so far.
    pub tokens: u64,
    /// Time of all updates so far.
    pub seconds: f64,
    /// Mean loss in nats for each token; `None` if it was not finite or there were no labels.
    pub loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: Option<f64>,
    /// Norm of the gradient before clipping.
    pub gradient_norm: Option<f64>,
    /// Rate of this update alone.
    pub tokens_per_second: Option<f64>,
}

/// One evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Updates done before.
    pub step: u64,
    /// Positions with a label of those.
    pub tokens: u64,
    /// Time of those.
    pub seconds: f64,
    /// Mean loss in nats for each token.
    pub loss: Option<f64>,
}

/// A log in the order of updates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunLog {
    /// All updates.
    pub updates: Vec<Update>,
    /// All evaluations.
    pub evaluations: Vec<Evaluation>,
    /// Lines that are no records: more than the last one means that the file is damaged.
    pub unreadable: usize,
}

/// A line of the log. Fields that a kind of record lacks are missing; what is not asked for is ignored.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
    step: u64,
    #[serde(default)]
    tokens: u64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    tokens_per_second: Option<f64>,
}

impl RunLog {
    /// Reads the text of a log. Records of other kinds are passed over, and so is a line that is none: the last line of
    /// a run that is going on or was ended by force may be half written.
    pub fn parse(text: &[u8]) -> RunLog {
        let mut log = RunLog::default();
        let (mut tokens, mut seconds) = (0, 0.0);
        for line in text.split(|&byte| byte == b'\n') {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Ok(record) = serde_json::from_slice::<Record<'_>>(line) else {
                log.unreadable += 1;
                continue;
            };
            match &*record.kind {
                "train" => {
                    // A log that was put together by hand may go backwards; a curve must not.
                    if log.updates.last().is_some_and(|last| last.step >= record.step) {
                        log.unreadable += 1;
                        continue;
                    }
                    let rate = record.tokens_per_second.filter(|&rate| rate > 0.0);
                    let done = record.tokens.saturating_sub(tokens);
                    seconds += rate.map_or(0.0, |rate| done as f64 / rate);
                    tokens = tokens.max(record.tokens);
                    log.updates.push(Update {
                        step: record.step,
                        tokens,
                        seconds,
                        loss: record.loss,
                        learning_rate: record.learning_rate,
                        gradient_norm: record.grad_norm,
                        tokens_per_second: rate,
                    });
                }
                "evaluation" => {
                    let Record { step, loss, .. } = record;
                    log.evaluations.push(Evaluation { step, tokens, seconds, loss });
                }
                _ => {}
            }
        }
        log
    }

    /// Time of all updates.
    pub fn training_seconds(&self) -> f64 {
        self.updates.last().map_or(0.0, |last| last.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"kind":"train","step":1,"loss":2.5,"learning_rate":0.25,"grad_norm":0.5,"tokens":100,"tokens_per_second":50.0}
{"kind":"train","step":2,"loss":null,"learning_rate":0.5,"grad_norm":null,"tokens":100,"tokens_per_second":0.0}
{"kind":"started","step":2,"host":{"threads":2}}
{"kind":"train","step":3,"loss":2.0,"learning_rate":0.5,"grad_norm":1.5,"tokens":300,"tokens_per_second":100.0,"extra":[1]}
{"kind":"evaluation","step":3,"loss":2.25,"perplexity":9.0,"bits_per_byte":null,"tokens":300,"evaluated_tokens":99}
"#;

    #[test]
    fn updates_and_evaluations_are_read() {
        let log = RunLog::parse(LOG.as_bytes());
        assert_eq!(log.unreadable, 0);
        let steps: Vec<_> = log.updates.iter().map(|u| (u.step, u.tokens, u.seconds)).collect();
        assert_eq!(steps, [(1, 100, 2.0), (2, 100, 2.0), (3, 300, 4.0)]);
        assert_eq!(log.updates[1].loss, None);
        assert_eq!(log.updates[2].gradient_norm, Some(1.5));
        let evaluation = Evaluation { step: 3, tokens: 300, seconds: 4.0, loss: Some(2.25) };
        assert_eq!(log.evaluations, [evaluation]);
        assert_eq!(log.training_seconds(), 4.0);
    }

    #[test]
    fn damaged_lines_are_counted_and_passed_over() {
        let whole = RunLog::parse(LOG.as_bytes());
        for (tail, unreadable) in [
            ("{\"kind\":\"train\",\"st", 1),
            ("\n\n  \n", 0),
            ("\0\0\0\n\u{1f}\n", 2),
            ("{\"kind\":\"train\",\"step\":2,\"tokens\":9}\n", 1),
            ("{\"kind\":7,\"step\":2}\n", 1),
        ] {
            let log = RunLog::parse(format!("{LOG}{tail}").as_bytes());
            assert_eq!(log.unreadable, unreadable, "{tail:?}");
            assert_eq!((&log.updates, &log.evaluations), (&whole.updates, &whole.evaluations));
        }
        assert_eq!(RunLog::parse(b""), RunLog::default());
    }
}
