//! What a spec says of its model, each part by itself.
//!
//! Owns which parts can be relied on where the spec as a whole was refused: the architecture is checked against them, so
//! that mistakes on both sides are seen at once. A part that a reported mistake may have changed is left out, since what
//! would be said of it could be gone once that mistake is mended. Must not know architectures.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Cola, ModelSetting, Spanned, Spec};
use crate::diagnostics::{Diagnostics, Span};

/// The parts of a spec that an architecture meets.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// Which architecture.
    pub architecture: Option<ArchitectureName>,
    /// Its settings.
    pub model: Option<ModelSection>,
    /// The size of its inputs.
    pub batch: Option<BatchSize>,
    /// How linears become low-rank; none for the dense form, too.
    pub cola: Option<Cola>,
    /// Keys that no spec has, where they stand. A setting of the model may have been meant by one.
    pub unknown_keys: Vec<String>,
}

/// An architecture as a spec names it.
#[derive(Clone, Debug)]
pub struct ArchitectureName {
    /// [`Spec::architecture`].
    pub name: Spanned<String>,
    /// [`Spec::folder`].
    pub folder: Option<PathBuf>,
    /// [`Spec::architecture_text`].
    pub text: Option<Arc<str>>,
}

/// The section `[model]`.
#[derive(Clone, Debug)]
pub struct ModelSection {
    /// [`Spec::model`].
    pub settings: Vec<ModelSetting>,
    /// [`Spec::model_section`].
    pub header: Span,
}

/// How many rows of how many tokens a model takes.
#[derive(Clone, Copy, Debug)]
pub struct BatchSize {
    /// `train.micro_batch`.
    pub micro_batch: u32,
    /// `train.sequence_length`.
    pub sequence_length: u32,
    /// Where the length is written.
    pub place: Option<Span>,
}

/// A spec that is wrong.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Why.
    pub diagnostics: Diagnostics,
    /// What of it is right all the same.
    pub outline: Outline,
}

impl Spec {
    /// What the spec says of its model: all parts, since nothing is wrong with it.
    pub fn outline(&self) -> Outline {
        Outline {
            architecture: Some(ArchitectureName {
                name: self.architecture.clone(),
                folder: self.folder.clone(),
                text: self.architecture_text.clone(),
            }),
            model: Some(ModelSection { settings: self.model.clone(), header: self.model_section }),
            batch: Some(BatchSize {
                micro_batch: self.recipe.micro_batch,
                sequence_length: self.recipe.sequence_length,
                place: self.place("train.sequence_length"),
            }),
            cola: self.cola.clone(),
            unknown_keys: Vec::new(),
        }
    }
}
