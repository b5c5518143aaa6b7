//! Checkpoints of the small model: what is in them, what a crash leaves, what damage does.

use std::collections::BTreeMap;
use std::fs;

use colac_plan::{DType, Plan};
use safetensors::SafeTensors;

use super::evaluations::Evaluations;
use super::retain::{Retention, discard_after, retain};
use super::save::Position;
use super::tensor_file::{Entry, TensorWriter};
use super::*;
use crate::executor::Executor;
use crate::train::testing::{Bigram, TestRows, VOCAB, joined_plan, plan};
use crate::train::trainer::Trainer;

/// An executor after a few updates: weights, moments and count all have something in them.
fn trained(plan: Plan) -> Bigram {
    let mut executor = Bigram::initialized(plan);
    train(&mut executor);
    executor
}

fn train(executor: &mut Bigram) {
    let mut trainer = Trainer::new(executor.plan()).unwrap();
    for update in 0..6 {
        trainer.step(executor, &mut TestRows::default(), update).unwrap();
    }
}

fn position(step: u64) -> Position {
    Position { step, tokens: 10 * step, data: "rows".to_owned(), ..Position::default() }
}

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = entries(directory).unwrap().into_iter();
    names
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect()
}

fn one_line(error: &CheckpointError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_checkpoint_restores_every_bit() {
    let directory = tempfile::tempdir().unwrap();
    let mut executor = trained(plan());
    let path = save(&executor, directory.path(), &position(6), Some("{}")).unwrap();
    assert_eq!(path, directory.path().join("checkpoints/step-000006"));
    assert_eq!(latest(directory.path()).unwrap(), path);

    let mut restored = Bigram::initialized(plan());
    assert_ne!(restored.state(), executor.state());
    let state = resume(&mut restored, &path).unwrap();
    assert_eq!((state.step, state.tokens, state.data.as_str(), state.seed), (6, 60, "rows", 11));
    assert_eq!(restored.state(), executor.state());

    let again = tempfile::tempdir().unwrap();
    let other = save(&restored, again.path(), &position(6), Some("{}")).unwrap();
    assert_eq!(contents(&other), contents(&path));

    // And both go on alike.
    let mut trainer = Trainer::new(executor.plan()).unwrap();
    for executor in [&mut executor, &mut restored] {
        trainer.step(executor, &mut TestRows::default(), 6).unwrap();
    }
    assert_eq!(restored.state(), executor.state());
}

/// What a GPU chose goes along, is checked like every other file, and returns to a folder that has lost it, never over
/// what is there.
#[test]
fn choices_of_a_device_go_along() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(CHOICES_FILE);
    let mut executor = trained(plan());
    save(&executor, directory.path(), &position(1), None).unwrap();
    restore_choices(directory.path()).unwrap();
    assert!(!own.exists(), "nothing was chosen");

    executor.choices = Some("{\"a product\": [1]}".to_owned());
    let path = save(&executor, directory.path(), &position(6), None).unwrap();
    restore_choices(directory.path()).unwrap();
    assert_eq!(fs::read_to_string(&own).unwrap(), executor.choices.clone().unwrap());
    fs::write(&own, "others").unwrap();
    restore_choices(directory.path()).unwrap();
    assert_eq!(fs::read_to_string(&own).unwrap(), "others");

    let mut restored = Bigram::initialized(plan());
    resume(&mut restored, &path).unwrap();
    fs::write(path.join(CHOICES_FILE), "{}").unwrap();
    let error = resume(&mut restored, &path).unwrap_err();
    assert!(one_line(&error).contains(CHOICES_FILE), "{error}");
}

#[test]
fn files_are_as_other_programs_expect_them() {
    let directory = tempfile::tempdir().unwrap();
    let executor = trained(plan());
    let path = save(&executor, directory.path(), &position(6), None).unwrap();
    let names = ["config.json", "model.safetensors", "optimizer.safetensors", "state.json"];
    assert_eq!(contents(&path).keys().collect::<Vec<_>>(), names);
    assert_eq!(fs::read_to_string(path.join("config.json")).unwrap(), "{\"vocab_size\": 7}\n");

    let bytes = fs::read(path.join(MODEL_FILE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut found = tensors.names();
    found.sort_unstable();
    assert_eq!(found, ["model.bias", "model.table.weight"]);
    let floats = |name: &str, tensors: &SafeTensors<'_>| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let exchanged = |values: &[f32]| -> Vec<f32> {
        (0..VOCAB * VOCAB).map(|i| values[i % VOCAB * VOCAB + i / VOCAB]).collect()
    };
    let [table, bias] =
        [0, 1].map(|index| executor.reals(executor.plan().parameters[index].tensor));
    assert_eq!(floats("model.table.weight", &tensors), exchanged(&table));
    assert_eq!(floats("model.bias", &tensors), bias);

    let bytes = fs::read(path.join(OPTIMIZER_FILE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 5);
    assert_eq!(tensors.tensor("step").unwrap().data(), 6i32.to_le_bytes());
    // Rows of the table are eight elements apart, the bias begins at element 64.
    let flat = executor.reals(executor.plan().roles.second_moment);
    let packed: Vec<f32> = flat[..56].chunks(8).flat_map(|row| row[..7].to_vec()).collect();
    assert!(packed.iter().any(|&moment| moment > 0.0));
    assert_eq!(floats("second_moment.model.table.weight", &tensors), exchanged(&packed));
    assert_eq!(floats("second_moment.model.bias", &tensors), flat[64..]);
}

/// Parameters in one tensor leave the bytes that one parameter of all of them leaves, and come back from them.
#[test]
fn joined_parameters_are_one_tensor() {
    let directory = tempfile::tempdir().unwrap();
    let mut whole = Bigram::initialized(plan());
    let path = save(&whole, &directory.path().join("whole"), &position(0), None).unwrap();

    let mut parts = Bigram::initialized(joined_plan());
    load_weights(&mut parts, &path).unwrap();
    let reals =
        |executor: &Bigram, index: usize| executor.reals(executor.plan().parameters[index].tensor);
    let joined = [reals(&parts, 0), reals(&parts, 1)].concat();
    assert_eq!((reals(&parts, 0).len(), joined), (3 * VOCAB, reals(&whole, 0)));

    train(&mut whole);
    train(&mut parts);
    let path = save(&whole, &directory.path().join("whole"), &position(6), None).unwrap();
    let parts_path = save(&parts, &directory.path().join("parts"), &position(6), None).unwrap();
    for file in [MODEL_FILE, OPTIMIZER_FILE] {
        assert!(
            fs::read(path.join(file)).unwrap() == fs::read(parts_path.join(file)).unwrap(),
            "{file}"
        );
    }
    let mut resumed = Bigram::initialized(joined_plan());
    assert_ne!(resumed.state(), parts.state());
    resume(&mut resumed, &parts_path).unwrap();
    assert_eq!(resumed.state(), parts.state());

    // The same names and shapes, divided otherwise: not the run's plan, but its weights fit.
    let mut resumed = Bigram::initialized(plan());
    let error = one_line(&resume(&mut resumed, &parts_path).unwrap_err());
    assert!(error.contains("in another order or orientation"), "{error}");
    load_weights(&mut resumed, &parts_path).unwrap();
}

#[test]
fn weights_load_without_their_run() {
    let directory = tempfile::tempdir().unwrap();
    let executor = trained(plan());
    let path = save(&executor, directory.path(), &position(6), None).unwrap();
    let weights = |executor: &Bigram| executor.reals(executor.plan().parameters[0].tensor);
    let load = |from: &Path| {
        // A plan with another recipe: the weights fit all the same.
        let mut other = plan();
        other.recipe.schedule.learning_rate = 1.0;
        let mut loaded = Bigram::initialized(other);
        load_weights(&mut loaded, from).map(|()| weights(&loaded))
    };
    assert_eq!(load(&path).unwrap(), weights(&executor));
    assert_eq!(load(&path.join(MODEL_FILE)).unwrap(), weights(&executor));
    // As another program would leave it.
    fs::remove_file(path.join(STATE_FILE)).unwrap();
    assert_eq!(load(&path).unwrap(), weights(&executor));
    fs::remove_file(path.join(MODEL_FILE)).unwrap();
    assert!(one_line(&load(&path).unwrap_err()).contains("model.safetensors"));
}

/// A program that knows of no shared weights writes one for each use; other tensors are another model's.
#[test]
fn copies_of_weights_are_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights");
    let v = VOCAB;
    let table: Vec<f32> = (0..v * v).map(|i| i as f32).collect();
    let mut changed = table.clone();
    changed[v * v - 1] += 1.0;
    for (copy, accepted) in [(&table, true), (&changed, false)] {
        let entry = |name: &str, extents: &[usize]| Entry {
            name: name.to_owned(),
            dtype: DType::F32,
            extents: extents.to_vec(),
        };
        let entries = [
            entry("a.copy", &[v, v]),
            entry("model.bias", &[v]),
            entry("model.table.weight", &[v, v]),
        ];
        let mut file = TensorWriter::create(&Disk, &path, &entries).unwrap();
        for values in [copy.as_slice(), &table[..v], &table] {
            file.reals(DType::F32, values, None).unwrap();
        }
        file.finish().unwrap();
        let loaded = load_weights(&mut Bigram::initialized(plan()), &path);
        if accepted {
            loaded.unwrap();
        } else {
            let error = one_line(&loaded.unwrap_err());
            assert!(error.ends_with("it has 1 tensor that the plan has not: a.copy"), "{error}");
        }
        fs::remove_file(&path).unwrap();
    }
}

/// Weights in bf16 are widened for a plan in f32; integers are not weights.
#[test]
fn weights_of_another_format() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights");
    let v = VOCAB;
    for (dtype, accepted) in [(DType::Bf16, true), (DType::I32, false)] {
        let entry = |name: &str, extents: &[usize]| Entry {
            name: name.to_owned(),
            dtype,
            extents: extents.to_vec(),
        };
        let mut file = TensorWriter::create(
            &Disk,
            &path,
            &[entry("model.table.weight", &[v, v]), entry("model.bias", &[v])],
        )
        .unwrap();
        for count in [v * v, v] {
            match dtype {
                DType::I32 => file.integers(&vec![3; count]).unwrap(),
                _ => file.reals(dtype, &vec![-1.5; count], None).unwrap(),
            }
        }
        file.finish().unwrap();
        let mut executor = Bigram::initialized(plan());
        let loaded = load_weights(&mut executor, &path);
        if accepted {
            loaded.unwrap();
            assert_eq!(executor.reals(executor.plan().parameters[1].tensor), [-1.5; VOCAB]);
        } else {
            assert!(
                one_line(&loaded.unwrap_err())
                    .contains("stored as I32, and only F32 and BF16 can be read")
            );
        }
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn other_models_are_refused_with_what_differs() {
    let directory = tempfile::tempdir().unwrap();
    let path = save(&trained(plan()), directory.path(), &position(6), None).unwrap();
    let check = |change: &dyn Fn(&mut Plan), difference: &str| {
        let mut other = plan();
        change(&mut other);
        for resuming in [false, true] {
            let mut executor = Bigram::initialized(other.clone());
            let before = executor.state();
            let result = if resuming {
                resume(&mut executor, &path).map(|_| ())
            } else {
                load_weights(&mut executor, &path)
            };
            let text = one_line(&result.unwrap_err());
            assert!(text.contains(difference) && text.contains("step-000006"), "{text}");
            assert_eq!(executor.state(), before);
        }
    };
    check(
        &|plan| plan.parameters[1].checkpoint.name = "model.shift".into(),
        "it lacks 1 tensor of the plan: model.shift, and it has 1 tensor that the plan has not: model.bias",
    );
    let fewer = |plan: &mut Plan| plan.parameters.truncate(1);
    check(&fewer, "it has 1 tensor that the plan has not: model.bias");
    let narrower = |plan: &mut Plan| {
        let bias = plan.parameters[1].tensor;
        plan.tensors[bias.index()].ty.shape.0[0].extent = 5;
    };
    check(&narrower, "model.bias has shape [7], the plan's [5]");
}

#[test]
fn other_runs_are_refused_for_resuming_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = save(&trained(plan()), directory.path(), &position(6), None).unwrap();
    let mut other = plan();
    other.recipe.schedule.learning_rate = 1.0;
    let mut executor = Bigram::initialized(other);
    let error = resume(&mut executor, &path).unwrap_err();
    assert!(matches!(error, CheckpointError::DifferentNumerics { .. }));
    assert!(one_line(&error).contains("another recipe"), "{error}");
    load_weights(&mut executor, &path).unwrap();
    // How often a run is evaluated and saved does not touch its numbers.
    let mut same = plan();
    same.recipe.checkpoint.every = 3;
    same.recipe.evaluation.every = 0;
    resume(&mut Bigram::initialized(same), &path).unwrap();
}

/// Every file cut at many places and changed at many bytes: always an error with one line, and the executor untouched.
#[test]
fn damage_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = save(&trained(plan()), directory.path(), &position(6), Some("{\"a\": 1}")).unwrap();
    for (name, bytes) in contents(&path) {
        let mut executor = Bigram::initialized(plan());
        let before = executor.state();
        let file = path.join(&name);
        let mut damaged = Vec::new();
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 60) {
            damaged.push(bytes[..at].to_vec());
            for bit in [1, 4, 128] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                damaged.push(changed);
            }
        }
        damaged.push([bytes.as_slice(), b"\n"].concat());
        for content in damaged {
            fs::write(&file, &content).unwrap();
            match resume(&mut executor, &path) {
                Err(error) => assert!(one_line(&error).contains(path.to_str().unwrap()), "{error}"),
                // White space around the state's fields means nothing.
                Ok(_) => assert_eq!(
                    serde_json::from_slice::<serde_json::Value>(&content).unwrap(),
                    serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
                ),
            }
            if name != STATE_FILE {
                assert_eq!(executor.state(), before);
            }
        }
        fs::remove_file(&file).unwrap();
        assert!(one_line(&resume(&mut executor, &path).unwrap_err()).contains(&name));
        fs::write(&file, &bytes).unwrap();
        resume(&mut executor, &path).unwrap();
    }
}

/// Changed weights whose hash was made good again, so that the later checks are reached.
#[test]
fn damage_under_a_good_hash_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = save(&trained(plan()), directory.path(), &position(6), None).unwrap();
    let good = State::read(&path).unwrap();
    let seal = |name: &str, change: &dyn Fn(&mut State)| {
        let mut state = good.clone();
        if let Ok(bytes) = fs::read(path.join(name)) {
            state.files.insert(name.to_owned(), blake3::hash(&bytes).to_string());
        }
        change(&mut state);
        state.seal();
        fs::write(path.join(STATE_FILE), state.to_json()).unwrap();
    };
    for name in [MODEL_FILE, OPTIMIZER_FILE] {
        let bytes = fs::read(path.join(name)).unwrap();
        let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for length in (0..bytes.len()).step_by(7) {
            fs::write(path.join(name), &bytes[..length]).unwrap();
            seal(name, &|_| ());
            one_line(&resume(&mut Bigram::initialized(plan()), &path).unwrap_err());
        }
        for at in 0..header_end {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(path.join(name), &changed).unwrap();
            seal(name, &|_| ());
            if let Err(error) = resume(&mut Bigram::initialized(plan()), &path) {
                one_line(&error);
            }
        }
        fs::write(path.join(name), &bytes).unwrap();
    }
    let refused = |change: &dyn Fn(&mut State), reason: &str| {
        seal("", change);
        let text = one_line(&resume(&mut Bigram::initialized(plan()), &path).unwrap_err());
        assert!(text.contains(reason), "{text}");
    };
    refused(&|state| drop(state.files.insert("../escape".into(), String::new())), "names a file");
    refused(&|state| state.model_hash = "0".into(), "in another order or orientation");
    refused(&|state| state.format = 3, "checkpoint format 3, and this program reads format 2");
    seal("", &|state| drop(state.files.remove(MODEL_FILE)));
    assert!(load_weights(&mut Bigram::initialized(plan()), &path).is_err());
}

/// Numbers that no run could go on from are not saved, and nothing is left of the attempt.
#[test]
fn what_is_not_finite_is_not_saved() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path();
    let roles = plan().roles;
    let cases = [
        (roles.parameters, "bias has numbers"),
        (roles.first_moment, "the first_moment of bias has"),
        (roles.second_moment, "the second_moment of bias has"),
    ];
    for (tensor, piece) in cases {
        let mut executor = trained(plan());
        let mut values = executor.reals(tensor);
        values[66] = f32::NAN;
        executor.write_f32(tensor, &values);
        let error = save(&executor, run_dir, &position(6), None).unwrap_err();
        assert!(matches!(error, CheckpointError::NotFinite { .. }), "{error}");
        assert!(one_line(&error).contains(piece), "{error}");
        assert_eq!(entries(&run_dir.join(CHECKPOINTS)).unwrap(), Vec::<PathBuf>::new());
    }
}

/// Checkpoints of format 1 lack two fields, and their hash is over the others.
#[test]
fn a_checkpoint_of_the_first_format_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let executor = trained(plan());
    let path = save(&executor, directory.path(), &position(6), None).unwrap();
    let mut state = State::read(&path).unwrap();
    state.format = 1;
    state.seal();
    let text = state.to_json();
    assert!(!text.contains("recovery") && !text.contains("spikes"), "{text}");
    fs::write(path.join(STATE_FILE), text).unwrap();
    let mut restored = Bigram::initialized(plan());
    resume(&mut restored, &path).unwrap();
    assert_eq!(restored.state(), executor.state());
}

#[test]
fn the_size_of_a_checkpoint_is_known_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = save(&trained(plan()), directory.path(), &position(6), None).unwrap();
    let files: u64 = [MODEL_FILE, OPTIMIZER_FILE]
        .iter()
        .map(|name| {
            let bytes = fs::read(path.join(name)).unwrap();
            bytes.len() as u64 - 8 - u64::from_le_bytes(bytes[..8].try_into().unwrap())
        })
        .sum();
    // All but the count of updates.
    assert_eq!(bytes(&plan()), files - 4);
}

#[test]
fn an_existing_checkpoint_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let executor = trained(plan());
    let path = save(&executor, directory.path(), &position(6), None).unwrap();
    let files = contents(&path);
    let error =
        save(&Bigram::initialized(plan()), directory.path(), &position(6), None).unwrap_err();
    assert!(matches!(error, CheckpointError::Exists { .. }));
    assert_eq!(contents(&path), files);
}

#[test]
fn checkpoints_are_listed_by_number_and_deleted_whole() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path();
    let executor = trained(plan());
    // Names sort by number, also where they have more digits.
    for step in [5, 999_999, 1_000_000, 20] {
        save(&executor, run_dir, &position(step), None).unwrap();
    }
    fs::write(run_dir.join("checkpoints/notes.txt"), "mine").unwrap();
    fs::create_dir(run_dir.join("checkpoints/step-best")).unwrap();
    let steps = || list(run_dir).unwrap().into_iter().map(|(step, _)| step).collect::<Vec<_>>();
    assert_eq!(steps(), [5, 20, 999_999, 1_000_000]);
    let retention = Retention { keep: 2, keep_every: 0, keep_best: 1, regular: 0 };
    let mut evaluations = Evaluations::default();
    evaluations.record(5, 1.0);
    evaluations.record(20, 2.0);
    retain(&Disk, run_dir, &retention, &evaluations).unwrap();
    assert_eq!(steps(), [5, 999_999, 1_000_000]);
    discard_after(&Disk, run_dir, 5).unwrap();
    assert_eq!(steps(), [5]);
    assert_eq!(entries(&run_dir.join(CHECKPOINTS)).unwrap().len(), 3);

    // Aside from its name it is as it was, and the next of that name has a place too.
    for number in [1, 2] {
        let aside = set_aside(&run_dir.join("checkpoints/step-000005")).unwrap();
        assert_eq!(aside, run_dir.join(format!("checkpoints/step-000005.damaged-{number}")));
        assert!(steps().is_empty() && aside.join(STATE_FILE).exists());
        save(&executor, run_dir, &position(5), None).unwrap();
    }
}

#[test]
fn a_folder_without_checkpoints() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(list(directory.path()).unwrap(), []);
    let error = latest(directory.path()).unwrap_err();
    assert!(one_line(&error).contains("no checkpoint in"), "{error}");
    clean(&directory.path().join("missing")).unwrap();
    let mut executor = Bigram::initialized(plan());
    assert!(one_line(&resume(&mut executor, directory.path()).unwrap_err()).contains("state.json"));
    assert!(
        one_line(&load_weights(&mut executor, &directory.path().join("missing")).unwrap_err())
            .contains("missing")
    );
}
