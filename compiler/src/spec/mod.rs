//! The user's spec: TOML text in, a checked [`Spec`] with places out.
//!
//! Owns the keys of a spec, their types, ranges and defaults ([`schema`]), the rules between them, `--set`, and the
//! specs carried in the binary ([`shipped`]). Must not know the layer language's grammar, graphs or plans: rank,
//! activation and selectors are parsed by [`crate::language`], and whether a setting of `[model]` exists is decided
//! there, against the architecture.

pub mod codes;
pub mod json_schema;
pub mod schema;
pub mod shipped;

mod check;
mod cola;
mod compiler;
mod data;
mod decode;
mod inherit;
mod input;
mod names;
mod outline;
mod recipe;
mod recompute;
mod resolved;
mod settings;
mod size;
mod spanned;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use colac_plan::recipe::Recipe;

use crate::diagnostics::{Diagnostics, SourceId, Sources, Span};
use crate::language::expression::Value;
use crate::toml_tree::Tree;

pub use cola::{Cola, Override, Rank, RankSource};
pub use compiler::{Compiler, FuseRule};
pub use input::SpecInput;
pub use outline::{ArchitectureName, BatchSize, ModelSection, Outline, Refused};
pub use recipe::Horizon;
pub use recompute::{Budget, Recompute, RecomputeOverride, RecomputePolicy};
pub use resolved::{Origin, Resolution};
pub use size::parse_bytes;
pub use spanned::Spanned;

/// A spec whose own keys are right; what only the architecture can judge is still open.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The run's name; a legal name of a folder.
    pub name: Spanned<String>,
    /// A shipped architecture's bare name, or a path ([`shipped::is_path`]) relative to [`Spec::folder`].
    pub architecture: Spanned<String>,
    /// The settings of `[model]` in the order written, values of `--set` included.
    pub model: Vec<ModelSetting>,
    /// The header of `[model]`: where a missing setting is reported. The start of the spec when there is none.
    pub model_section: Span,
    /// How linears become low-rank; `None` for the dense form, because there is no `[cola]` or by `--full-rank`.
    pub cola: Option<Cola>,
    /// Which passes run.
    pub compiler: Compiler,
    /// Whether `--full-rank` was asked for.
    pub full_rank: bool,
    /// What lives from the forward to the backward pass.
    pub recompute: Recompute,
    /// Which numbers the plan computes with.
    pub precision: Spanned<Precision>,
    /// How long the run is.
    pub horizon: Horizon,
    /// Everything the training loop reads. Where the horizon depends on the model, its steps are 0 until
    /// [`Spec::settle_steps`] has been told the model's size.
    pub recipe: Recipe,
    /// The spec's own source.
    pub source: SourceId,
    /// The spec as the user wrote it, comments included; behind it those it extends.
    pub text: Arc<str>,
    /// The same spec as TOML after `extends`, `--set` and `--full-rank`, every default written out, keys in the order of
    /// [`schema`]: equal settings give equal text, and loading it gives this spec again.
    pub resolved: String,
    /// The values of [`Spec::resolved`] with their origins.
    pub resolution: Resolution,
    /// The folder that `architecture` starts from: that of the file in which it is written; `None` for a shipped spec
    /// and for text from memory.
    pub folder: Option<PathBuf>,
    /// The text of the architecture where it is known already, as for the spec of a plan: then no file is read for it.
    pub architecture_text: Option<Arc<str>>,
    places: BTreeMap<String, Span>,
    phases: recipe::Phases,
}

/// One setting of `[model]`, checked later against the architecture's configuration.
#[derive(Clone, Debug)]
pub struct ModelSetting {
    /// Name of the setting, as in a Hugging Face `config.json`.
    pub key: Spanned<String>,
    /// The value; its span covers the whole value, quotes included.
    pub value: Spanned<Value>,
    /// For [`Value::Text`] the bytes of the text without quotes, for other values the value's span: an expression in
    /// the string is parsed with this span's source and start. Lies in a source of its own if the string has escapes.
    pub text_span: Span,
}

/// How a plan's numbers are stored; arithmetic is f32 throughout. The table is in `passes::precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Everything f32.
    F32,
    /// bf16 storage with f32 master parameters, gradients and moments: 18 bytes of state a parameter.
    Bf16,
    /// bf16 everywhere, as the published code trains: 8 bytes of state a parameter.
    Bf16Pure,
}

impl Precision {
    /// How the spec spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Bf16Pure => "bf16-pure",
        }
    }

    /// The precision of that name.
    pub fn named(name: &str) -> Option<Precision> {
        let all = [Precision::F32, Precision::Bf16, Precision::Bf16Pure];
        all.into_iter().find(|precision| precision.name() == name)
    }

    /// Whether the optimizer keeps parameters apart from the copies that operations read.
    pub const fn has_master(self) -> bool {
        matches!(self, Precision::Bf16)
    }
}

impl Spec {
    /// Reads, overrides and checks a spec.
    ///
    /// `settings` are the arguments of `--set`, each `section.key=value`, applied in order. `full_rank` drops `[cola]`
    /// after it was checked. The second result holds warnings only.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in one collection: the file, TOML syntax, unknown, missing, contradictory keys, wrong
    /// types and ranges. Texts are registered in `sources` either way, so that the diagnostics can be rendered.
    pub fn load(
        input: SpecInput,
        settings: &[String],
        full_rank: bool,
        sources: &mut Sources,
    ) -> Result<(Spec, Diagnostics), Diagnostics> {
        Spec::load_or_outline(input, settings, full_rank, sources)
            .map_err(|refused| refused.diagnostics)
    }

    /// As [`Spec::load`], and where the spec is refused, with what is right of it.
    ///
    /// # Errors
    ///
    /// As [`Spec::load`].
    pub fn load_or_outline(
        input: SpecInput,
        settings: &[String],
        full_rank: bool,
        sources: &mut Sources,
    ) -> Result<(Spec, Diagnostics), Box<Refused>> {
        let inherit::Inherited { mut root, files, text } = inherit::Inherited::read(input, sources)
            .map_err(|diagnostics| {
                Box::new(Refused { diagnostics, outline: Outline::default() })
            })?;
        let mut diagnostics = Diagnostics::default();
        for setting in settings {
            if let Err(error) = settings::apply(setting, &mut root, sources) {
                diagnostics.push(error);
            }
        }
        // What a setting that cannot be read was to change is not known: any part of the spec may be meant otherwise.
        let all_applied = !diagnostics.has_errors();
        let file = decode::File { files, text, full_rank };
        let (spec, outline) = decode::spec(&root, file, sources, &mut diagnostics);
        match spec {
            Some(spec) if !diagnostics.has_errors() => Ok((spec, diagnostics)),
            _ => {
                let outline = if all_applied { outline } else { Outline::default() };
                Err(Box::new(Refused { diagnostics, outline }))
            }
        }
    }

    /// Settles how many updates the run has, now that the model is known. `parameters` are those of the full-rank
    /// model, in both forms: a low-rank model and its baseline then see the same tokens.
    ///
    /// Where the spec gives `train.steps` there is nothing to do. Where it gives `train.tokens_per_parameter`, the steps
    /// are `ceil(tokens_per_parameter · parameters / (global_batch · sequence_length))`.
    ///
    /// Steps out of range, and a warm-up or decay longer than the run, are reported.
    pub fn settle_steps(&mut self, parameters: u64, diagnostics: &mut Diagnostics) {
        let Horizon::TokensPerParameter(ratio) = self.horizon else { return };
        let settled = recipe::steps_for(ratio, parameters, &self.recipe)
            .and_then(|steps| self.phases.check(steps, ratio.span).map(|warning| (steps, warning)));
        let (steps, warning) = match settled {
            Ok(settled) => settled,
            Err(error) => return diagnostics.push(error),
        };
        diagnostics.extend(warning.into_iter().collect());
        self.recipe.schedule.steps = steps;
        let origin =
            format!("{} tokens for each of {parameters} full-rank parameters", ratio.value);
        self.resolution.forget("train", "tokens_per_parameter");
        let value = Tree::Integer(steps as i64);
        self.resolution.set("train", None, "steps", &value, Origin::Computed(origin.into()));
        self.resolved = self.resolution.to_string();
    }

    /// Where a key such as `train.sequence_length` was written, in the spec or in a `--set`; `None` if its default
    /// holds.
    pub fn place(&self, key: &str) -> Option<Span> {
        self.places.get(key).copied()
    }
}
