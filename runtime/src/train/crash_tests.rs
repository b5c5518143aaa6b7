//! Runs whose machine stops, or whose disk fills up, at every single operation that changes the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::train::checkpoint::{self, CHECKPOINTS};
use crate::train::crash_disk::{CrashDisk, Fault, Ignored, Survival};
use crate::train::error::TrainError;
use crate::train::file_system::FileSystem;
use crate::train::metrics::METRICS_FILE;
use crate::train::observer::Observer;
use crate::train::options::{Options, Rows, Start, Summary};
use crate::train::run::train_on;
use crate::train::testing::{Bigram, TestRows, plan};

/// The last update of the runs.
const LAST: u64 = 6;

/// Remembers the newest checkpoint that was reported.
#[derive(Default)]
struct Reported(Option<u64>);

impl Observer for Reported {
    fn saved(&mut self, step: u64, _checkpoint: &Path) {
        self.0 = Some(step);
    }
}

/// A run that saves and evaluates at every other update, and keeps the newest checkpoint and the best.
fn run(
    disk: &dyn FileSystem,
    run_dir: &Path,
    start: Start,
    reported: &mut Reported,
) -> Result<Summary, TrainError> {
    let mut plan = plan();
    (plan.recipe.checkpoint.every, plan.recipe.evaluation.every) = (2, 2);
    (plan.recipe.checkpoint.keep, plan.recipe.checkpoint.keep_best) = (1, 1);
    // The second evaluation is worse than the first.
    plan.recipe.schedule.learning_rate = 0.4;
    let mut executor = Bigram::initialized(plan);
    let mut training = TestRows { name: "rows".to_owned(), ..TestRows::default() };
    let mut validation = TestRows { count: 4, ..TestRows::default() };
    let rows = Rows { training: &mut training, validation: Some(&mut validation) };
    let options = Options {
        run_dir: run_dir.to_owned(),
        start,
        stop_at: Some(LAST),
        deadline: None,
        tensorboard: false,
        tokenizer_json: Some("{}".to_owned()),
    };
    train_on(disk, &mut executor, rows, &options, &AtomicBool::new(false), reported)
}

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into(), fs::read(entry.path()).unwrap())).collect()
}

/// A hash of the names and bytes of the checkpoints in a run folder.
fn tree(run_dir: &Path) -> String {
    fn add(hasher: &mut blake3::Hasher, path: &Path) {
        hasher.update(path.file_name().unwrap().as_encoded_bytes()).update(b"/");
        if path.is_file() {
            let bytes = fs::read(path).unwrap();
            hasher.update(&bytes.len().to_le_bytes()).update(&bytes);
            return;
        }
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| add(hasher, entry));
        hasher.update(b"..");
    }
    let mut hasher = blake3::Hasher::new();
    let checkpoints = run_dir.join(CHECKPOINTS);
    if checkpoints.exists() {
        add(&mut hasher, &checkpoints);
    }
    hasher.finalize().to_string()
}

/// A disk that works.
fn sound(run_dir: &Path) -> CrashDisk {
    CrashDisk::new(run_dir, None, Ignored::default())
}

/// Whether every folder that has a checkpoint's name is a whole checkpoint, and the newest is as new as was reported.
fn check(run_dir: &Path, reported: &Reported) -> Result<Option<u64>, String> {
    let mut newest = None;
    for (step, path) in checkpoint::list(run_dir).map_err(|error| error.to_string())? {
        let mut executor = Bigram::initialized(plan_of_the_run());
        let state = checkpoint::resume(&mut executor, &path).map_err(|error| error.to_string())?;
        if state.step != step {
            return Err(format!("{} holds update {}", path.display(), state.step));
        }
        newest = Some(step);
    }
    match newest < reported.0 {
        true => Err(format!("{:?} was saved, and the newest is {newest:?}", reported.0)),
        false => Ok(newest),
    }
}

/// What a checkpoint is compared with; cadence does not count.
fn plan_of_the_run() -> colac_plan::Plan {
    let mut plan = plan();
    plan.recipe.schedule.learning_rate = 0.4;
    plan
}

const SURVIVALS: [Survival; 7] = [
    Survival::Nothing,
    Survival::Names,
    Survival::Everything,
    Survival::Some(1),
    Survival::Some(2),
    Survival::Some(3),
    Survival::Some(4),
];

/// Crashes a run at every operation, and looks at all that may be left. Calls `left` with each state that `check`
/// accepts; returns what was wrong with the others.
fn crash_everywhere(
    ignored: Ignored,
    mut left: impl FnMut(&Path, Option<u64>),
) -> (usize, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for operation in 0.. {
        let run_dir = directory.path().join(format!("run-{operation}"));
        let disk = CrashDisk::new(&run_dir, Some((operation, Fault::Crash)), ignored);
        let mut reported = Reported::default();
        let crashed = run(&disk, &run_dir, Start::Fresh, &mut reported).is_err();
        for survival in SURVIVALS {
            let survivor = directory.path().join(format!("left-{operation}-{survival:?}"));
            disk.leave(survival, &survivor);
            fs::copy(run_dir.join(METRICS_FILE), survivor.join(METRICS_FILE)).unwrap();
            // Many crashes leave the same.
            if seen.insert((reported.0, tree(&survivor))) {
                match check(&survivor, &reported) {
                    Ok(newest) => left(&survivor, newest),
                    Err(fault) => {
                        wrong.push(format!("operation {operation}, {survival:?}: {fault}"));
                    }
                }
            }
            fs::remove_dir_all(&survivor).unwrap();
        }
        if !crashed {
            return (operation, wrong);
        }
        fs::remove_dir_all(&run_dir).unwrap();
    }
    unreachable!("a run has an end")
}

#[test]
fn whatever_a_crash_leaves_is_whole_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole");
    let at_once = run(&sound(&whole), &whole, Start::Fresh, &mut Reported::default()).unwrap();
    let expected = contents(&at_once.checkpoint);
    let (mut resumed, mut begun_again) = (0, 0);
    let (operations, wrong) = crash_everywhere(Ignored::default(), |survivor, newest| {
        let start = match newest {
            Some(_) => Start::Resume,
            None => Start::Fresh,
        };
        *if newest.is_some() { &mut resumed } else { &mut begun_again } += 1;
        let goes_on = Unsynced;
        let summary = run(&goes_on, survivor, start, &mut Reported::default()).unwrap();
        assert_eq!(summary.started_at, newest.unwrap_or(0));
        assert_eq!(contents(&summary.checkpoint), expected);
        // Nothing half written stays, and the best is known again.
        let names: Vec<String> = fs::read_dir(survivor.join(CHECKPOINTS))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
            .collect();
        assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
        let best = checkpoint::best(survivor).unwrap();
        assert_eq!(best.file_name(), checkpoint::best(&whole).unwrap().file_name());
    });
    assert_eq!(wrong, Vec::<String>::new());
    // Three checkpoints of five files each, and what goes with them.
    assert!(operations > 3 * 5 * 3, "{operations}");
    assert!(resumed > begun_again && begun_again > 0, "{resumed} and {begun_again}");
}

/// The tests' own test: without the one or the other kind of sync, checkpoints are lost or damaged.
#[test]
fn syncs_are_what_makes_them_whole() {
    for ignored in [
        Ignored { file_syncs: true, ..Ignored::default() },
        Ignored { directory_syncs: true, ..Ignored::default() },
    ] {
        let (_, wrong) = crash_everywhere(ignored, |_, _| ());
        assert!(wrong.len() > 10, "{ignored:?}: {wrong:?}");
    }
}

#[test]
fn a_full_disk_is_one_line_and_costs_no_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole");
    let disk = sound(&whole);
    let at_once = run(&disk, &whole, Start::Fresh, &mut Reported::default()).unwrap();
    let expected = contents(&at_once.checkpoint);
    for operation in 0..disk.operations() {
        let run_dir = directory.path().join(format!("run-{operation}"));
        let disk = CrashDisk::new(&run_dir, Some((operation, Fault::Full)), Ignored::default());
        let mut reported = Reported::default();
        let start = match run(&disk, &run_dir, Start::Fresh, &mut reported) {
            // What was left to do needed no room: it removed and synced.
            Ok(summary) => {
                assert_eq!(contents(&summary.checkpoint), expected);
                continue;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.starts_with("there is no room to write "), "{text}");
                assert!(text.contains(run_dir.to_str().unwrap()) && !text.contains('\n'), "{text}");
                match check(&run_dir, &reported).unwrap() {
                    Some(_) => Start::Resume,
                    None => Start::Fresh,
                }
            }
        };
        if let Ok(entries) = fs::read_dir(run_dir.join(CHECKPOINTS)) {
            let hidden = |name: &str| name.starts_with('.');
            let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            assert!(!names.iter().any(|name| hidden(name.to_str().unwrap())), "{names:?}");
        }
        let summary = run(&Unsynced, &run_dir, start, &mut Reported::default()).unwrap();
        assert_eq!(contents(&summary.checkpoint), expected);
    }
}

/// The real disk without its syncs, which would take most of the time of these tests.
struct Unsynced;

impl FileSystem for Unsynced {
    fn create_directory(&self, path: &Path) -> std::io::Result<()> {
        fs::create_dir(path)
    }
    fn create_file(
        &self,
        path: &Path,
    ) -> std::io::Result<Box<dyn crate::train::file_system::Output>> {
        struct Plain(fs::File);
        impl std::io::Write for Plain {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        impl crate::train::file_system::Output for Plain {
            fn sync(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        Ok(Box::new(Plain(fs::File::create_new(path)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        fs::rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        fs::remove_file(path)
    }
    fn remove_directory(&self, path: &Path) -> std::io::Result<()> {
        fs::remove_dir(path)
    }
    fn sync_directory(&self, _path: &Path) -> std::io::Result<()> {
        Ok(())
    }
}
