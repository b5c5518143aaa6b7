//! TensorBoard event files beside the log.
//!
//! Owns which scalars a run shows there, the files' names, and what of them a resumed run keeps. Must not know when
//! something is logged.
//!
//! A process that works in a run folder writes one file, `events.out.tfevents.SECONDS.HOST.PROCESS.NUMBER`. Whoever
//! resumes cuts the events of later updates off the files that are there and begins a new one, so no update appears
//! twice. The new file opens with a session that starts after the checkpoint's update, by which a TensorBoard that is
//! already running forgets what it has read of the updates that were cut off.

pub mod record;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::train::error::TrainError;
use crate::train::evaluate::EvaluationReport;
use crate::train::trainer::StepReport;
use record::{Event, Reader, encode};

/// How the names of event files begin.
pub const EVENTS_PREFIX: &str = "events.out.tfevents.";

/// What every file opens with.
const FILE_VERSION: &str = "brain.Event:2";

/// The scalars of an update: loss in nats per token, learning rate, gradient norm before clipping, tokens per second.
pub const TRAIN_TAGS: [&str; 4] =
    ["train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_second"];

/// The scalars of an evaluation: loss in nats per token, its exponential, bits per byte of text.
pub const VALIDATION_TAGS: [&str; 3] =
    ["validation/loss", "validation/perplexity", "validation/bits_per_byte"];

/// Appends events to the file of a process.
#[derive(Debug)]
pub(crate) struct EventLog {
    file: File,
    path: PathBuf,
    run_dir: PathBuf,
    bytes: Vec<u8>,
}

impl EventLog {
    /// Begins the events of a run that has none.
    pub(crate) fn create(run_dir: &Path) -> Result<EventLog, TrainError> {
        // What a run left that ended before its first checkpoint.
        for path in files(run_dir)? {
            fs::remove_file(&path).map_err(TrainError::io("remove", &path))?;
        }
        EventLog::begin(run_dir, 0)
    }

    /// Goes on after `step` updates with a file of its own.
    pub(crate) fn resume(run_dir: &Path, step: u64) -> Result<EventLog, TrainError> {
        for path in files(run_dir)? {
            cut_after(&path, step)?;
        }
        EventLog::begin(run_dir, step)
    }

    /// As [`EventLog::resume`], when the run itself turns back.
    pub(crate) fn turn_back(&mut self, step: u64) -> Result<(), TrainError> {
        *self = EventLog::resume(&self.run_dir, step)?;
        Ok(())
    }

    fn begin(run_dir: &Path, step: u64) -> Result<EventLog, TrainError> {
        let path = free_name(run_dir)?;
        let file = File::create_new(&path).map_err(TrainError::io("create", &path))?;
        let mut log =
            EventLog { file, path, run_dir: run_dir.to_owned(), bytes: Vec::with_capacity(512) };
        log.bytes.clear();
        encode(&mut log.bytes, now(), 0, &Event::Version(FILE_VERSION.to_owned()));
        encode(&mut log.bytes, now(), step + 1, &Event::SessionStart);
        log.write()?;
        Ok(log)
    }

    /// Shows an update.
    pub(crate) fn train(
        &mut self,
        report: &StepReport,
        tokens_per_second: f64,
    ) -> Result<(), TrainError> {
        let values = [
            report.loss,
            Some(report.learning_rate),
            report.gradient_norm.map(f64::from),
            Some(tokens_per_second),
        ];
        self.scalars(report.step, &TRAIN_TAGS, &values)
    }

    /// Shows an evaluation after `step` updates.
    pub(crate) fn evaluation(
        &mut self,
        step: u64,
        report: &EvaluationReport,
    ) -> Result<(), TrainError> {
        let values = [Some(report.loss), Some(report.perplexity), report.bits_per_byte];
        self.scalars(step, &VALIDATION_TAGS, &values)
    }

    fn scalars(
        &mut self,
        step: u64,
        tags: &[&str],
        values: &[Option<f64>],
    ) -> Result<(), TrainError> {
        self.bytes.clear();
        record::encode_scalars(
            &mut self.bytes,
            now(),
            step,
            tags.iter().zip(values).filter_map(|(tag, value)| Some((*tag, (*value)? as f32))),
        );
        self.write()
    }

    /// Brings the events to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(TrainError::io("sync", &self.path))
    }

    fn write(&mut self) -> Result<(), TrainError> {
        self.file.write_all(&self.bytes).map_err(TrainError::io("write", &self.path))
    }
}

/// The event files of a run folder, in the order of their names.
///
/// # Errors
///
/// If the folder cannot be read.
pub fn files(run_dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = fs::read_dir(run_dir).map_err(TrainError::io("read", run_dir))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(TrainError::io("read", run_dir))?;
        if entry.file_name().to_string_lossy().starts_with(EVENTS_PREFIX) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Cuts a file before the first event of an update after `step`, or before what is no whole record.
fn cut_after(path: &Path, step: u64) -> Result<(), TrainError> {
    let bytes = fs::read(path).map_err(TrainError::io("read", path))?;
    let mut reader = Reader::new(&bytes);
    let mut kept = 0;
    while let Some(stamped) = reader.next() {
        if matches!(stamped.event, Event::Scalars(_)) && stamped.step > step {
            break;
        }
        kept = reader.position();
    }
    if kept == bytes.len() {
        return Ok(());
    }
    let file = File::options().write(true).open(path).map_err(TrainError::io("open", path))?;
    file.set_len(kept as u64).map_err(TrainError::io("write", path))
}

/// A name that sorts behind those that are there: readers take the files of a run by name.
fn free_name(run_dir: &Path) -> Result<PathBuf, TrainError> {
    let newest = files(run_dir)?
        .iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix(EVENTS_PREFIX)?.split('.').next()?.parse::<u64>().ok()
        })
        .max();
    let seconds = now() as u64;
    let seconds = newest.map_or(seconds, |newest| seconds.max(newest.saturating_add(1)));
    let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .unwrap_or_default();
    let host: String =
        host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    let process = std::process::id();
    Ok(run_dir.join(format!("{EVENTS_PREFIX}{seconds:010}.{host}.{process}.0")))
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64) -> StepReport {
        StepReport {
            step,
            loss: (step != 3).then_some(4.0 / step as f64),
            gradient_norm: (step != 3).then_some(0.5),
            learning_rate: 1e-3,
            tokens: 7,
        }
    }

    /// Steps and losses of all files, in order.
    fn losses(run_dir: &Path) -> Vec<(u64, f32)> {
        let mut found = Vec::new();
        for path in files(run_dir).unwrap() {
            let bytes = fs::read(path).unwrap();
            for stamped in Reader::new(&bytes) {
                if let Event::Scalars(scalars) = stamped.event {
                    let loss = scalars.iter().find(|(tag, _)| tag == TRAIN_TAGS[0]);
                    found.extend(loss.map(|(_, loss)| (stamped.step, *loss)));
                }
            }
        }
        found
    }

    #[test]
    fn files_open_with_version_and_session() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = EventLog::create(directory.path()).unwrap();
        log.train(&report(1), 100.0).unwrap();
        log.train(&report(3), 100.0).unwrap();
        log.sync().unwrap();
        let paths = files(directory.path()).unwrap();
        let bytes = fs::read(&paths[0]).unwrap();
        let mut reader = Reader::new(&bytes);
        let events: Vec<_> = reader.by_ref().map(|stamped| (stamped.step, stamped.event)).collect();
        assert_eq!(reader.position(), bytes.len());
        assert_eq!(events[0], (0, Event::Version("brain.Event:2".to_owned())));
        assert_eq!(events[1], (1, Event::SessionStart));
        let scalar = |index: usize, value| (TRAIN_TAGS[index].to_owned(), value);
        let all = vec![scalar(0, 4.0), scalar(1, 1e-3), scalar(2, 0.5), scalar(3, 100.0)];
        assert_eq!(events[2], (1, Event::Scalars(all)));
        // What an update has no number for is left out.
        assert_eq!(events[3], (3, Event::Scalars(vec![scalar(1, 1e-3), scalar(3, 100.0)])));
    }

    #[test]
    fn a_resumed_run_shows_no_update_twice() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path();
        let mut log = EventLog::create(run_dir).unwrap();
        for step in [1, 2, 4, 5, 6] {
            log.train(&report(step), 1.0).unwrap();
        }
        // Killed in the middle of a record.
        let path = files(run_dir).unwrap().remove(0);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        let mut log = EventLog::resume(run_dir, 4).unwrap();
        assert_eq!(losses(run_dir), [(1, 4.0), (2, 2.0), (4, 1.0)]);
        for step in [5, 6] {
            log.train(&report(step), 1.0).unwrap();
        }
        log.turn_back(5).unwrap();
        log.train(&report(8), 1.0).unwrap();
        assert_eq!(losses(run_dir), [(1, 4.0), (2, 2.0), (4, 1.0), (5, 0.8), (8, 0.5)]);
        let names = files(run_dir).unwrap();
        assert_eq!(names.len(), 3);

        // A run begun anew shows nothing of the one before.
        EventLog::create(run_dir).unwrap();
        assert_eq!((losses(run_dir), files(run_dir).unwrap().len()), (vec![], 1));
    }
}
