//! What end-to-end tests share: compiling specs, skipping with a reason, random weights and rows.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use colac_compiler::compile::{Request, compile};
use colac_compiler::diagnostics::{Rendered, Sources};
use colac_compiler::spec::SpecInput;
use colac_plan::Plan;
use colac_runtime::data::error::DataError;
use colac_runtime::train::rows::TrainingRows;

mod skip;

pub(crate) use skip::skip;

/// A path in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compiles a spec named as on the command line; panics with the rendered diagnostics where it is wrong.
pub(crate) fn plan(spec: &str, settings: &[&str], full_rank: bool) -> Arc<Plan> {
    let mut sources = Sources::default();
    let request = Request {
        input: SpecInput::from_argument(spec),
        settings: settings.iter().map(ToString::to_string).collect(),
        full_rank,
        dump: None,
    };
    match compile(request, &mut sources) {
        Ok(compiled) => Arc::new(compiled.plan),
        Err(diagnostics) => {
            let rendered: Vec<String> = diagnostics
                .iter()
                .map(|d| format!("{:?}", miette::Report::new(Rendered::new(d, &sources))))
                .collect();
            panic!("{spec} does not compile:\n{}", rendered.join("\n"));
        }
    }
}

/// Compiles a spec file of the repository.
pub(crate) fn plan_of_file(path: &str, settings: &[&str], full_rank: bool) -> Arc<Plan> {
    plan(repository(path).to_str().expect("the repository's path is UTF-8"), settings, full_rank)
}

/// Rows held in memory: row `i` of the endless order is row `i` modulo their number.
pub(crate) struct FixedRows {
    /// Tokens of all rows, one after the other.
    pub(crate) tokens: Vec<i32>,
    /// Labels of all rows.
    pub(crate) labels: Vec<i32>,
    /// Tokens in a row.
    pub(crate) sequence: usize,
}

impl FixedRows {
    /// Rows with learnable structure: each token decides most of the next. The same seed gives the same rows.
    pub(crate) fn patterned(rows: usize, sequence: usize, vocabulary: u32, seed: u64) -> FixedRows {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let mut next = move |below: u32| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as u32) % below
        };
        let mut tokens = Vec::with_capacity(rows * sequence);
        let mut labels = Vec::with_capacity(rows * sequence);
        for row in 0..rows {
            let mut token = next(vocabulary);
            for position in 0..sequence {
                tokens.push(token as i32);
                token = (token * 5 + 3 + next(2)) % vocabulary;
                let last = position + 1 == sequence;
                // Every fourth row ends early, as padded documents do.
                let padded = row % 4 == 3 && position > sequence / 2;
                labels.push(if last || padded { -100 } else { token as i32 });
            }
        }
        FixedRows { tokens, labels, sequence }
    }
}

impl TrainingRows for FixedRows {
    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        let (s, rows) = (self.sequence, self.tokens.len() / self.sequence);
        for (i, (t, l)) in tokens.chunks_exact_mut(s).zip(labels.chunks_exact_mut(s)).enumerate() {
            let row = (first as usize + i) % rows;
            t.copy_from_slice(&self.tokens[row * s..(row + 1) * s]);
            l.copy_from_slice(&self.labels[row * s..(row + 1) * s]);
        }
        Ok(())
    }

    fn identity(&self) -> String {
        format!("{} fixed rows", self.tokens.len() / self.sequence)
    }
}
