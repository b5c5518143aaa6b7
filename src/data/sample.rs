//! `colac data sample`: the rows that training sees.

use clap::Args;
use colac_runtime::data::Tokenizer;
use colac_runtime::train::rows::IGNORED_LABEL;
use serde::Serialize;

use crate::shared::failure::Failure;
use crate::shared::machine::ThreadOptions;
use crate::shared::run_folder::TRAINING_TOKENS;
use crate::shared::target::{SpecOptions, Target};
use crate::shared::{console, corpus};

/// Show rows as training sees them
///
/// The rows are those of a step, in their order, made by the code that fills the batches of training: cut, shuffled and
/// mixed. Text is tokenized first, as by training.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac data sample llama-nano --rows 3
  colac data sample runs/llama-nano-1 --step 500 --rows 1 --json")]
pub(crate) struct Arguments {
    /// A spec, a plan or a run folder
    #[arg(value_name = "PLAN|SPEC|RUN")]
    target: String,

    /// How many rows
    #[arg(long, value_name = "N", default_value_t = 3)]
    rows: u64,

    /// Rows of this step, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    step: u64,

    /// Print ids and labels as JSON, one row a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: ThreadOptions,

    #[command(flatten)]
    options: SpecOptions,
}

/// A row, for machines.
#[derive(Serialize)]
struct Row<'a> {
    position: u64,
    source: &'a str,
    epoch: u64,
    row: u64,
    tokens: &'a [i32],
    labels: &'a [i32],
    counted_labels: usize,
    text: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let target = Target::from_argument(&arguments.target)?;
    let plan = target.plan(&arguments.options, &[])?;
    let kept = target.run_dir().map(|run_dir| run_dir.join(TRAINING_TOKENS));
    let kept = kept.as_deref().and_then(std::path::Path::parent);
    let data = corpus::look(&plan, kept, arguments.machine.threads())?;
    let length = plan.recipe.sequence_length as usize;
    let first = arguments.step.saturating_mul(plan.recipe.global_batch.into());
    let (mut tokens, mut labels) = (vec![0; length], vec![0; length]);
    for position in first..first.saturating_add(arguments.rows) {
        data.training.fill(position, &mut tokens, &mut labels);
        let origin = data.training.origin(position);
        let counted_labels = labels.iter().filter(|&&label| label != IGNORED_LABEL).count();
        let row = Row {
            position,
            source: origin.source,
            epoch: origin.epoch,
            row: origin.row,
            tokens: &tokens,
            labels: &labels,
            counted_labels,
            text: data
                .tokenizer
                .as_ref()
                .map(|tokenizer| decoded(tokenizer, &tokens))
                .transpose()?,
        };
        if arguments.json {
            let line = serde_json::to_string(&row).expect("a row has a JSON form");
            console::out(format_args!("{line}\n"))?;
        } else {
            console::out(shown(&row, data.tokenizer.as_ref())?)?;
        }
    }
    Ok(())
}

fn decoded(tokenizer: &Tokenizer, ids: &[i32]) -> Result<String, Failure> {
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    Ok(tokenizer.decode(&ids)?)
}

fn shown(row: &Row<'_>, tokenizer: Option<&Tokenizer>) -> Result<String, Failure> {
    let source = match row.source {
        "" => String::new(),
        source => format!("{source}, "),
    };
    let length = row.tokens.len();
    let mut lines = format!(
        "row {} ({source}epoch {}, row {} of the text): {length} tokens, {} labels count\n",
        row.position, row.epoch, row.row, row.counted_labels
    );
    // Places without a label are at the end of a row; what is shown there is only filled in.
    let used = row.labels.iter().rposition(|&label| label != IGNORED_LABEL).map_or(0, |at| at + 1);
    let (read, predicted) = (&row.tokens[..used], &row.labels[..used]);
    match tokenizer {
        Some(tokenizer) => {
            let line = |ids: &[i32]| -> Result<String, Failure> {
                Ok(console::printable(&decoded(tokenizer, ids)?).replace('\n', "\\n"))
            };
            lines += &format!("  reads     {}\n", line(read)?);
            lines += &format!("  predicts  {}\n", line(predicted)?);
        }
        None => lines += &format!("  reads     {read:?}\n  predicts  {predicted:?}\n"),
    }
    if used < length {
        lines += &format!("  masked    {} places at the end\n", length - used);
    }
    Ok(lines)
}
