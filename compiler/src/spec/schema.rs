//! Every key of a spec: its type, range, default and unit.
//!
//! The one table behind decoding, defaults, suggestions for misspelt keys, the order of the resolved spec, and the
//! tables of `docs/spec.md` (a test compares them). Must not read specs.

use std::fmt;

use super::Precision;
use super::compiler::FuseRule;

/// A key of a section.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The section it stands in, dotted; empty for the top level. `cola.override` and `data.mixture` are lists of tables.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds when it is absent.
    pub default: Default,
}

impl Key {
    /// `section.name`, as `--set` takes it.
    pub fn path(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }
}

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any text that is not empty.
    Text,
    /// One text or a list of texts, none of them empty.
    Texts,
    /// A text without a line end, which may be empty.
    Line,
    /// A whole number from the first to the second.
    Integer(i64, i64),
    /// A finite number inside an interval.
    Number(Interval),
    /// `true` or `false`.
    Boolean,
    /// A number of bytes with a unit, or `device`.
    Memory,
    /// One of these names.
    Name(&'static [&'static str]),
    /// One selector or a list of selectors.
    Selectors,
    /// One path or a list of paths.
    Paths,
    /// A whole number or an expression.
    Rank,
    /// A name of an activation or a formula in `x`.
    Activation,
    /// `true` for all of these names, `false` for none, or a list of some.
    Switches(&'static [&'static str]),
}

/// The numbers from `low` to `high`.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    /// Smallest number.
    pub low: f64,
    /// Whether `low` itself belongs to it.
    pub low_included: bool,
    /// Largest number; infinity for no limit.
    pub high: f64,
    /// Whether `high` itself belongs to it.
    pub high_included: bool,
}

impl Interval {
    /// Whether a number lies inside; false for what is not a number.
    pub fn contains(&self, number: f64) -> bool {
        let above = if self.low_included { number >= self.low } else { number > self.low };
        let below = if self.high_included { number <= self.high } else { number < self.high };
        above && below
    }
}

/// What holds when a key is absent.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// It must be given.
    Required,
    /// It must be given unless the other key is.
    RequiredUnless(&'static str),
    /// This TOML value.
    Value(&'static str),
    /// The value of another key.
    SameAs(&'static str),
    /// Nothing; the text says what then happens.
    Absent(&'static str),
}

const POSITIVE: Interval =
    Interval { low: 0.0, low_included: false, high: f64::INFINITY, high_included: false };
const NOT_NEGATIVE: Interval = Interval { low_included: true, ..POSITIVE };
const FRACTION: Interval =
    Interval { low: 0.0, low_included: true, high: 1.0, high_included: true };
const BELOW_ONE: Interval = Interval { high_included: false, ..FRACTION };

/// Limits that keep every size computed from a spec far from overflow; no model is near them.
const MOST_TOKENS_OR_ROWS: i64 = 1 << 20;
/// Larger ranks are mistakes.
pub(super) const LARGEST_RANK: i64 = 1 << 20;
pub(super) const MOST_STEPS: i64 = 1_000_000_000_000;

/// Sections, in the order of the resolved spec; the top level is the empty name. The keys of `[model]` are the
/// architecture's, all others are in [`KEYS`].
pub const SECTIONS: &[&str] = &[
    "",
    "model",
    "cola",
    "cola.override",
    "recompute",
    "recompute.override",
    "train",
    "optimizer",
    "schedule",
    "evaluation",
    "checkpoint",
    "data",
    "data.mixture",
    "compiler",
];

/// Names of [`Precision`].
const PRECISIONS: &[&str] =
    &[Precision::F32.name(), Precision::Bf16.name(), Precision::Bf16Pure.name()];

/// What may live until the backward pass: [`super::RecomputePolicy`].
const RECOMPUTE_POLICIES: &[&str] =
    &["none", "selective", "cola-m", "cola-m-reference", "cola-m+", "block", "auto"];

/// Those of them that parts of a model may have.
const PLAIN_RECOMPUTE_POLICIES: &[&str] = RECOMPUTE_POLICIES.split_at(6).0;

/// Formats of ids in token files without a header.
const TOKEN_DTYPES: &[&str] = &["u16", "u32"];

/// Every key, section by section.
pub const KEYS: &[Key] = {
    use self::Default::{Absent, Required, RequiredUnless, SameAs, Value};
    use self::Kind::{
        Activation, Boolean, Integer, Line, Memory, Name, Number, Paths, Rank, Selectors, Switches,
        Text, Texts,
    };
    const fn key(section: &'static str, name: &'static str, kind: Kind, default: Default) -> Key {
        Key { section, name, kind, default }
    }
    &[
        key("", "extends", Text, Absent("the spec stands by itself")),
        key("", "name", Text, Required),
        key("", "architecture", Text, Required),
        key("cola", "rank", Rank, Required),
        key("cola", "activation", Activation, Value("\"silu\"")),
        key("cola", "targets", Selectors, Value("\"**\"")),
        key("cola", "bypass", Selectors, Value("[]")),
        key("cola.override", "targets", Selectors, Required),
        key("cola.override", "rank", Rank, Absent("as in `[cola]`")),
        key("cola.override", "activation", Activation, Absent("as in `[cola]`")),
        key("cola.override", "dense", Boolean, Value("false")),
        key("recompute", "policy", Name(RECOMPUTE_POLICIES), Value("\"none\"")),
        key("recompute", "memory", Memory, Absent("required by `auto`")),
        key("recompute", "choose_micro_batch", Boolean, Value("false")),
        key("recompute", "segment", Integer(1, 10_000), Absent("the policy chooses")),
        key("recompute.override", "targets", Selectors, Required),
        key("recompute.override", "policy", Name(PLAIN_RECOMPUTE_POLICIES), Required),
        key("train", "sequence_length", Integer(2, MOST_TOKENS_OR_ROWS), Required),
        key("train", "micro_batch", Integer(1, MOST_TOKENS_OR_ROWS), Required),
        key("train", "global_batch", Integer(1, MOST_TOKENS_OR_ROWS), SameAs("train.micro_batch")),
        key("train", "steps", Integer(1, MOST_STEPS), RequiredUnless("train.tokens_per_parameter")),
        key(
            "train",
            "tokens_per_parameter",
            Number(POSITIVE),
            Absent("`steps` says how long the run is"),
        ),
        key("train", "precision", Name(PRECISIONS), Value("\"f32\"")),
        key("train", "seed", Integer(0, i64::MAX), Value("42")),
        key(
            "train",
            "loss_normalization",
            Name(&["global-token", "micro-batch"]),
            Value("\"global-token\""),
        ),
        key("train", "on_non_finite", Name(&["halt", "skip", "rollback"]), Value("\"halt\"")),
        key("train", "non_finite_limit", Integer(1, 1_000_000), Value("10")),
        key("optimizer", "learning_rate", Number(POSITIVE), Required),
        key("optimizer", "beta1", Number(BELOW_ONE), Value("0.9")),
        key("optimizer", "beta2", Number(BELOW_ONE), Value("0.999")),
        key("optimizer", "epsilon", Number(POSITIVE), Value("1e-8")),
        key("optimizer", "weight_decay", Number(NOT_NEGATIVE), Value("0.01")),
        key("optimizer", "decay", Name(&["all", "matrices"]), Value("\"all\"")),
        key("optimizer", "clip_norm", Number(NOT_NEGATIVE), Value("0.5")),
        key(
            "schedule",
            "kind",
            Name(&["cosine", "linear", "constant", "warmup-stable-decay"]),
            Value("\"cosine\""),
        ),
        key("schedule", "warmup_steps", Integer(0, MOST_STEPS), Value("0")),
        key("schedule", "final_factor", Number(FRACTION), Value("0.1")),
        key(
            "schedule",
            "decay_steps",
            Integer(1, MOST_STEPS),
            Absent("required by `warmup-stable-decay`"),
        ),
        key("evaluation", "every", Integer(0, MOST_STEPS), Value("1000")),
        key("evaluation", "tokens", Integer(0, i64::MAX), Value("0")),
        key("evaluation", "batch", Integer(1, MOST_TOKENS_OR_ROWS), SameAs("train.micro_batch")),
        key(
            "evaluation",
            "reference_batch",
            Integer(1, MOST_TOKENS_OR_ROWS),
            SameAs("train.micro_batch"),
        ),
        key("checkpoint", "every", Integer(0, MOST_STEPS), Value("1000")),
        key("checkpoint", "keep", Integer(0, 1_000_000), Value("3")),
        key("checkpoint", "keep_every", Integer(0, MOST_STEPS), Value("0")),
        key("checkpoint", "keep_best", Integer(0, 1_000_000), Value("1")),
        key("data", "mode", Name(&["pack", "pad"]), Value("\"pack\"")),
        key("data", "train", Paths, Value("[]")),
        key("data", "validation", Paths, Value("[]")),
        key("data", "tokenizer", Text, Absent("no text can be read, only tokens")),
        key("data", "validation_fraction", Number(BELOW_ONE), Value("0.0")),
        key("data", "text_field", Text, Value("\"text\"")),
        key("data", "separator", Line, Absent("a text file is one document")),
        key("data", "extensions", Texts, Absent("all that are known")),
        key("data", "skip_bad", Boolean, Value("false")),
        key("data", "deduplicate", Boolean, Value("false")),
        key("data", "token_dtype", Name(TOKEN_DTYPES), Absent("token files need a header")),
        key("data", "end_of_text", Text, Absent("known by its name in the tokenizer")),
        key("data.mixture", "paths", Paths, Required),
        key("data.mixture", "weight", Number(POSITIVE), Required),
        key("data.mixture", "name", Text, Absent("the first of its paths")),
        key("compiler", "group", Boolean, Value("true")),
        key("compiler", "fuse", Switches(FuseRule::NAMES), Value("true")),
    ]
};

/// The entry of a key; `section` and `name` as in [`Key`].
pub fn key(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The keys of a section.
pub fn keys_of(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section == section)
}

impl fmt::Display for Kind {
    /// As the documentation and messages name it: `an integer from 1 to 1_048_576`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Text => f.write_str("a text"),
            Kind::Texts => f.write_str("a text or a list of texts"),
            Kind::Line => f.write_str("a text of one line"),
            Kind::Integer(low, i64::MAX) => write!(f, "an integer of {low} or more"),
            Kind::Integer(low, high) => write!(f, "an integer from {low} to {}", grouped(*high)),
            Kind::Number(interval) => write!(f, "a number {interval}"),
            Kind::Boolean => f.write_str("true or false"),
            Kind::Memory => f.write_str("a size such as \"24 GiB\", or \"device\""),
            Kind::Name(names) => {
                let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
                write!(f, "one of {}", quoted.join(", "))
            }
            Kind::Selectors => f.write_str("a selector or a list of selectors"),
            Kind::Paths => f.write_str("a path or a list of paths"),
            Kind::Rank => {
                write!(f, "an integer from 1 to {} or an expression", grouped(LARGEST_RANK))
            }
            Kind::Activation => f.write_str("the name of an activation or a formula in x"),
            Kind::Switches(names) => {
                let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
                write!(f, "true, false or a list of some of {}", quoted.join(", "))
            }
        }
    }
}

/// A number that is not negative, with `_` between groups of three digits, as TOML may write it.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interval { low, low_included, high, high_included } = self;
        match (low_included, high.is_finite()) {
            (true, true) => write!(f, "from {low}")?,
            (true, false) => write!(f, "of {low} or more")?,
            (false, _) => write!(f, "above {low}")?,
        }
        match (high.is_finite(), high_included) {
            (false, _) => Ok(()),
            (true, true) => write!(f, " to {high}"),
            (true, false) => write!(f, " to below {high}"),
        }
    }
}

impl fmt::Display for Default {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Default::Required => f.write_str("required"),
            Default::RequiredUnless(key) => write!(f, "required unless `{key}` is given"),
            Default::Value(value) => write!(f, "`{value}`"),
            Default::SameAs(key) => write!(f, "that of `{key}`"),
            Default::Absent(meaning) => write!(f, "none: {meaning}"),
        }
    }
}
