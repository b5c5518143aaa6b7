//! Text from a trained model.
//!
//! Owns the loop from prompt to text ([`generate`]) and the choice of a token ([`sample`]). Must not know checkpoints
//! or how text is shown: weights are in the executor, text goes to a callback as soon as its characters are complete.
//!
//! The `logits` program sees one row of fixed length. Shorter contexts are filled up on the right, which a causal model
//! does not notice; longer ones are cut on the left, so that the window slides over the text.

pub mod sample;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};

use colac_plan::ProgramKind;

use crate::data::error::DataError;
use crate::data::tokenizer::Tokenizer;
use crate::executor::Executor;
use crate::generate::sample::{Sampler, Sampling};

/// How text is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How a token is chosen.
    pub sampling: Sampling,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text.
    EndOfText,
    /// [`Options::max_tokens`] are generated.
    MaxTokens,
    /// The stop flag was set.
    Interrupted,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The text after the prompt.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end-of-text token not counted.
    pub tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// An error of generating text.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The tokenizer failed on the prompt or on what the model said.
    #[error(transparent)]
    Tokenizer(#[from] DataError),

    /// The prompt has no tokens and the tokenizer none that could stand for the beginning of a text.
    #[error(
        "the prompt is empty, and the tokenizer has no end-of-text token to begin with: give a prompt"
    )]
    EmptyPrompt,

    /// The tokenizer has ids for which the model has no embedding.
    #[error(
        "the prompt contains token id {id}, and the model's vocabulary has {vocab_size} entries: use the model's own tokenizer"
    )]
    IdOutOfVocabulary {
        /// The id.
        id: u32,
        /// The model's vocabulary size.
        vocab_size: u64,
    },

    /// A setting has no meaning.
    #[error("{setting} is {value}, and must be {bounds}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What was given.
        value: f64,
        /// What would do.
        bounds: &'static str,
    },

    /// The model's output is not a number.
    #[error(
        "the model's logits are not finite at token {position}: its weights are damaged or its training diverged"
    )]
    NotFinite {
        /// Tokens in the text so far.
        position: usize,
    },
}

/// Continues a prompt with the weights in the executor.
///
/// An empty prompt stands for the beginning of a text: the end-of-text token is put before it. Text goes to `on_text` in
/// pieces of whole characters; together they are [`Generation::text`]. Equal weights, prompt and options give equal
/// text.
///
/// # Errors
///
/// If a setting has no meaning, prompt and model do not fit together, or the logits are not finite.
pub fn generate(
    executor: &mut dyn Executor,
    tokenizer: &Tokenizer,
    prompt: &str,
    options: &Options,
    stop: &AtomicBool,
    on_text: &mut dyn FnMut(&str),
) -> Result<Generation, GenerateError> {
    let plan = executor.plan();
    let (vocab_size, window) = (plan.vocab_size, plan.recipe.sequence_length as usize);
    let (input, output) = (plan.roles.logits_tokens, plan.roles.logits);
    let mut sampler = Sampler::new(&options.sampling, vocab_size as usize)?;

    let mut context = tokenizer.encode(prompt)?;
    if context.is_empty() {
        context.push(tokenizer.end_of_text().ok_or(GenerateError::EmptyPrompt)?);
    }
    if let Some(&id) = context.iter().find(|&&id| u64::from(id) >= vocab_size) {
        return Err(GenerateError::IdOutOfVocabulary { id, vocab_size });
    }
    let prompt_tokens = context.len();

    // A model may have more rows in its head than the tokenizer has tokens; those ids mean nothing.
    let named = (vocab_size as usize).min(tokenizer.vocab_size());
    let mut row = vec![0; window];
    let mut logits = vec![0.0; window * vocab_size as usize];
    // The decoder sees the prompt too: what a token stands for may depend on whether it begins a text.
    let mut decoder = tokenizer.streaming_decoder();
    for &id in &context {
        decoder.push(id)?;
    }
    let (mut text, mut finish) = (String::new(), Finish::MaxTokens);
    while context.len() - prompt_tokens < options.max_tokens {
        if stop.load(Ordering::Relaxed) {
            finish = Finish::Interrupted;
            break;
        }
        let visible = &context[context.len().saturating_sub(window)..];
        row.fill(0);
        for (slot, &id) in row.iter_mut().zip(visible) {
            *slot = id as i32;
        }
        executor.write_i32(input, &row);
        executor.run(ProgramKind::Logits, true);
        executor.read_f32(output, &mut logits);
        let last = &logits[(visible.len() - 1) * vocab_size as usize..][..named];
        let number = (context.len() - prompt_tokens) as u64;
        let id = sampler
            .choose(last, number)
            .ok_or(GenerateError::NotFinite { position: context.len() })?;
        if Some(id) == tokenizer.end_of_text() {
            finish = Finish::EndOfText;
            break;
        }
        context.push(id);
        let piece = decoder.push(id)?;
        if !piece.is_empty() {
            on_text(&piece);
            text += &piece;
        }
    }
    let rest = decoder.finish()?;
    if !rest.is_empty() {
        on_text(&rest);
        text += &rest;
    }
    Ok(Generation { text, prompt_tokens, tokens: context.len() - prompt_tokens, finish })
}
