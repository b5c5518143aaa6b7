//! Progress on the screen: a bar on a terminal, lines elsewhere.
//!
//! Owns how often something is said and how it looks. Must not know how training works: it is told by the observer.

use std::path::Path;
use std::time::{Duration, Instant};

use colac_compiler::view::text;
use colac_runtime::data::{PrepareProgress, PrepareSummary};
use colac_runtime::train::error::CheckpointError;
use colac_runtime::train::evaluate::EvaluationReport;
use colac_runtime::train::non_finite::NonFiniteUpdate;
use colac_runtime::train::observer::{Begin, Observer, Progress};
use colac_runtime::train::spikes::{Quantity, Spike};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::shared::console;

/// Off a terminal a line appears at most this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

fn style(template: &str) -> ProgressStyle {
    let template = match console::has_colors() {
        true => template.replace("{bar:24}", "{bar:24.cyan/blue}"),
        false => template.to_owned(),
    };
    ProgressStyle::with_template(&template).expect("the template is right").progress_chars("━━─")
}

/// Counts up to a number: a bar on a terminal, nothing elsewhere.
pub(crate) struct Count(Option<ProgressBar>);

/// A count of things that `words` name.
pub(crate) fn count(words: &'static str) -> Count {
    let bar = console::draws_progress().then(|| {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        bar.set_style(style("{bar:24} {pos}/{len}  {msg}"));
        bar.with_message(words)
    });
    Count(bar)
}

impl Count {
    /// So many of so many are done.
    pub(crate) fn set(&self, done: u64, of: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(of);
            bar.set_position(done);
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Shows a training run.
pub(crate) struct TrainingProgress {
    bar: Option<ProgressBar>,
    stop_at: u64,
    begun_at: u64,
    began: Instant,
    /// When a rate was last measured, and the tokens by then.
    window: (Instant, u64),
    tokens_per_second: f64,
    last_line: Option<Instant>,
}

impl TrainingProgress {
    /// Nothing is shown before the run begins.
    pub(crate) fn new() -> TrainingProgress {
        TrainingProgress {
            bar: None,
            stop_at: 0,
            begun_at: 0,
            began: Instant::now(),
            window: (Instant::now(), 0),
            tokens_per_second: 0.0,
            last_line: None,
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// A line that stays, above the bar if there is one.
    fn line(&self, line: String) {
        match &self.bar {
            Some(bar) => bar.suspend(|| console::note(line)),
            None => console::note(line),
        }
    }

    /// Tokens a second since about a second ago: single updates of small models are too short to show.
    fn measure(&mut self, progress: &Progress<'_>) {
        let (since, tokens) = self.window;
        let elapsed = since.elapsed();
        if self.tokens_per_second == 0.0 || elapsed >= Duration::from_secs(1) {
            let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
            self.tokens_per_second = progress.tokens.saturating_sub(tokens) as f64 / seconds;
            self.window = (Instant::now(), progress.tokens);
        }
    }

    fn seconds_left(&self, step: u64) -> f64 {
        let done = step.saturating_sub(self.begun_at).max(1) as f64;
        self.began.elapsed().as_secs_f64() / done * self.stop_at.saturating_sub(step) as f64
    }
}

impl Observer for TrainingProgress {
    fn begin(&mut self, begin: &Begin) {
        (self.begun_at, self.stop_at) = (begin.step, begin.stop_at);
        self.began = Instant::now();
        self.window = (self.began, begin.tokens);
        if console::draws_progress() && begin.stop_at > begin.step {
            let bar =
                ProgressBar::with_draw_target(Some(begin.stop_at), ProgressDrawTarget::stderr());
            bar.set_style(style("{bar:24} {pos}/{len}  {msg}"));
            bar.set_position(begin.step);
            self.bar = Some(bar);
        }
        let mut line = match begin.step {
            0 => format!("training {} steps", text::grouped(begin.stop_at)),
            step => format!(
                "going on after step {} to step {}",
                text::grouped(step),
                text::grouped(begin.stop_at)
            ),
        };
        if begin.stop_at < begin.horizon {
            line += &format!(" of the schedule's {}", text::grouped(begin.horizon));
        }
        self.line(line);
    }

    fn step(&mut self, progress: &Progress<'_>) {
        self.measure(progress);
        let report = progress.report;
        let loss =
            report.loss.map_or_else(|| "no labels".to_owned(), |loss| format!("loss {loss:.4}"));
        let rate = format!("{} tokens/s", text::grouped(self.tokens_per_second.round() as u64));
        let left = console::duration(self.seconds_left(report.step).round());
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{loss}  {rate}  {left} left"));
            bar.set_position(report.step);
            return;
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due || report.step == self.stop_at {
            self.last_line = Some(Instant::now());
            let norm = report
                .gradient_norm
                .map_or_else(String::new, |norm| format!("  gradient norm {norm:.3}"));
            let (step, end, learning_rate) = (report.step, self.stop_at, report.learning_rate);
            console::note(format!(
                "step {step}/{end}  {loss}{norm}  learning rate {learning_rate:.2e}  {rate}  {left} left"
            ));
        }
    }

    fn evaluating(&mut self, _step: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message("evaluating");
        }
    }

    fn evaluated(&mut self, step: u64, report: &EvaluationReport) {
        self.line(format!("step {step}: validation {}", evaluation(report)));
    }

    fn spike(&mut self, step: u64, spike: &Spike) {
        let what = match spike.quantity {
            Quantity::Loss => "loss",
            Quantity::GradientNorm => "gradient norm",
        };
        self.line(format!(
            "step {step}: the {what} jumps to {:.4}, {:.1} standard deviations above the mean {:.4} of the steps before",
            spike.value, spike.z_score, spike.mean
        ));
    }

    fn not_finite(&mut self, update: &NonFiniteUpdate, returns_to: Option<&Path>) {
        self.line(match returns_to {
            None => format!("{update}: skipped"),
            Some(checkpoint) => {
                format!("{update}: back to {}, on the rows after these", checkpoint.display())
            }
        });
    }

    fn set_aside(&mut self, damage: &CheckpointError, aside: &Path) {
        self.line(format!(
            "{damage}\nit lies in {} now; going on from the checkpoint before it",
            aside.display()
        ));
    }

    fn saved(&mut self, step: u64, checkpoint: &Path) {
        self.line(format!("step {step}: saved {}", checkpoint.display()));
    }
}

/// `perplexity 85.31 (reference-compatible 80.02), 1.853 bits per byte`.
pub(crate) fn evaluation(report: &EvaluationReport) -> String {
    let bits =
        report.bits_per_byte.map_or_else(String::new, |bits| format!(", {bits:.3} bits per byte"));
    format!(
        "perplexity {:.2} (reference-compatible {:.2}){bits}",
        report.perplexity, report.perplexity_reference_compatible
    )
}

/// Shows how far text is tokenized.
pub(crate) struct PrepareBar {
    what: String,
    bar: Option<ProgressBar>,
    began: Instant,
    last_line: Instant,
}

impl PrepareBar {
    /// `what` is done, as in `tokenizing training text`.
    pub(crate) fn new(what: String) -> PrepareBar {
        let bar = console::draws_progress().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.set_style(style(
                "{msg}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
            ));
            bar.set_message(what.clone());
            bar
        });
        PrepareBar { what, bar, began: Instant::now(), last_line: Instant::now() }
    }

    /// Shows the progress.
    pub(crate) fn show(&mut self, progress: PrepareProgress) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_done);
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                let (done, total) =
                    (text::bytes(progress.bytes_done), text::bytes(progress.bytes_total));
                let rate = progress.bytes_done as f64 / self.began.elapsed().as_secs_f64();
                let rest = progress.bytes_total.saturating_sub(progress.bytes_done) as f64;
                console::note(format!(
                    "{}: {done} of {total}, {}/s, {} left",
                    self.what,
                    text::bytes(rate as u64),
                    console::duration((rest / rate).round())
                ));
            }
            None => {}
        }
    }

    /// Takes the bar away and says what came of it.
    pub(crate) fn finish(self, summary: Option<&PrepareSummary>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(summary) = summary {
            console::note(format!(
                "{}: {} tokens of {} in {}",
                self.what,
                text::grouped(summary.tokens()),
                text::bytes(summary.text_bytes()),
                console::duration(self.began.elapsed().as_secs_f64()),
            ));
            left_out(summary);
        }
    }
}

/// Says what of the text was left out, where anything was.
pub(crate) fn left_out(summary: &PrepareSummary) {
    if summary.duplicates > 0 {
        console::note(format!("  {} copies left out", text::grouped(summary.duplicates)));
    }
    if summary.bad.count > 0 {
        console::note(format!("  {} bad records left out, the first of them:", summary.bad.count));
        for line in &summary.bad.first {
            console::note(format!("    {line}"));
        }
    }
    if let Some(unknown) = summary.unknown_tokens.filter(|&unknown| unknown > 0) {
        console::note(format!(
            "  {} tokens stand for text that the tokenizer does not know",
            text::grouped(unknown)
        ));
    }
}

/// Something is going on whose length is not known; only shown on a terminal.
pub(crate) struct Busy(Option<ProgressBar>);

impl Busy {
    /// Shows it until it is dropped.
    pub(crate) fn new(what: &str) -> Busy {
        Busy(console::draws_progress().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}  {elapsed}")
                    .expect("the template is right"),
            );
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
