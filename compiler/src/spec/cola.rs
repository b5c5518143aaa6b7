//! The section `[cola]`: which linears become low-rank, with which rank and activation.
//!
//! Owns the section's types, its decoding and the evaluation of a rank. Must not know which linears a model has:
//! selectors are matched by lowering and the cola pass.

use super::codes;
use super::decode::{Decoder, Section};
use super::schema::{Kind, LARGEST_RANK};
use super::spanned::Spanned;
use crate::diagnostics::{Diagnostic, Span};
use crate::language::activation::Activation;
use crate::language::expression::{Expression, Value};
use crate::language::selector::Selector;

/// How linears become low-rank.
#[derive(Clone, Debug)]
pub struct Cola {
    /// Rank of every selected linear that no override changes.
    pub rank: Rank,
    /// The nonlinearity between the two factors.
    pub activation: Activation,
    /// Which linears are rewritten: those that any of these selects, and that the architecture does not keep dense.
    pub targets: Vec<Selector>,
    /// Pointwise nodes that CoLA makes redundant, replaced by their input.
    pub bypass: Vec<Selector>,
    /// Exceptions in the order written; the last one that matches a linear decides, key by key.
    pub overrides: Vec<Override>,
}

/// One `[[cola.override]]`.
#[derive(Clone, Debug)]
pub struct Override {
    /// The linears it speaks of.
    pub targets: Vec<Selector>,
    /// Their rank, if it differs.
    pub rank: Option<Rank>,
    /// Their activation, if it differs.
    pub activation: Option<Activation>,
    /// Whether they stay dense; then neither rank nor activation is given.
    pub dense: bool,
    /// Where the override stands.
    pub span: Span,
}

/// A rank as written, and where.
pub type Rank = Spanned<RankSource>;

/// A rank before it is evaluated for a linear.
#[derive(Clone, Debug)]
pub enum RankSource {
    /// The same number for every linear.
    Integer(u32),
    /// An expression over the architecture's configuration and the linear's `in_features` and `out_features`.
    Expression(Expression),
}

impl Rank {
    /// The rank for one linear: `names` gives the configuration's values, `in_features` and `out_features`.
    ///
    /// # Errors
    ///
    /// The expression's own mistakes, or `spec::bad_rank` if its value is not a whole number from 1 up.
    pub fn evaluate(&self, names: &dyn Fn(&str) -> Option<Value>) -> Result<u32, Diagnostic> {
        let expression = match &self.value {
            RankSource::Integer(rank) => return Ok(*rank),
            RankSource::Expression(expression) => expression,
        };
        let value = expression.evaluate(names)?;
        let whole = match value {
            Value::Integer(rank) => Some(rank),
            Value::Float(rank) if rank.fract() == 0.0 && rank.abs() <= LARGEST_RANK as f64 => {
                Some(rank as i64)
            }
            Value::Float(_) | Value::Boolean(_) | Value::Text(_) => None,
        };
        match whole {
            Some(rank) if (1..=LARGEST_RANK).contains(&rank) => Ok(rank as u32),
            _ => Err(Diagnostic::error(
                codes::BAD_RANK,
                format!("a rank must be {}", Kind::Integer(1, LARGEST_RANK)),
            )
            .at(self.span, format!("this is {value}"))
            .help("round it, as in `floor(…)` or `round_up(…, 8)`, or write the rank as a number")),
        }
    }
}

impl Cola {
    /// Decodes `[cola]`; `None` if a required part is missing or wrong, which was then reported.
    pub(super) fn decode<'t>(decoder: &mut Decoder<'t>, section: &Section<'t>) -> Option<Cola> {
        let rank = decoder.rank(section, "rank");
        let activation = decoder.activation(section, "activation");
        let targets = decoder.selectors(section, "targets");
        let bypass = decoder.selectors(section, "bypass");
        let mut overrides = Vec::new();
        let mut complete = true;
        for section in decoder.tables(section, "override") {
            match Override::decode(decoder, &section) {
                Some(one) => overrides.push(one),
                None => complete = false,
            }
        }
        let cola = Cola {
            rank: rank?,
            activation: activation?,
            targets: targets?,
            bypass: bypass?,
            overrides,
        };
        complete.then_some(cola)
    }
}

impl Override {
    fn decode(decoder: &mut Decoder<'_>, section: &Section<'_>) -> Option<Override> {
        let span = section.header;
        let targets = decoder.selectors(section, "targets");
        let rank = section.has("rank").then(|| decoder.rank(section, "rank"));
        let activation =
            section.has("activation").then(|| decoder.activation(section, "activation"));
        let dense = decoder.boolean(section, "dense")?;
        if dense.value {
            for key in ["rank", "activation"] {
                if let Some(written) = section.key_span(key) {
                    decoder.report(
                        Diagnostic::error(
                            codes::CONTRADICTION,
                            format!("a linear that stays dense has no {key}"),
                        )
                        .at(written, format!("this {key} can never be used"))
                        .at(dense.span, "because of this")
                        .help(format!("remove `{key}` or `dense`")),
                    );
                }
            }
        } else if rank.is_none() && activation.is_none() {
            decoder.report(
                Diagnostic::error(codes::EMPTY_OVERRIDE, "this override changes nothing")
                    .at(span, "neither `rank` nor `activation` nor `dense = true`")
                    .help("give at least one of them, or remove the override"),
            );
        }
        // A key that is present and wrong was reported: the override is then incomplete.
        let rank = match rank {
            Some(decoded) => Some(decoded?),
            None => None,
        };
        let activation = match activation {
            Some(decoded) => Some(decoded?),
            None => None,
        };
        Some(Override { targets: targets?, rank, activation, dense: dense.value, span })
    }
}
