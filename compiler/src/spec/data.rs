//! The section about data.
//!
//! Owns how `[data]` becomes the recipe's [`Data`], and which of its keys exclude each other. Must not look at files:
//! whether there is any data is found out where it is read.

use colac_plan::recipe::{BatchMode, Data, MixtureSource, Reading, TokenDType};

use super::codes;
use super::decode::{Decoder, Section};
use super::recipe::unused;
use crate::diagnostics::Diagnostic;

/// Decodes `[data]`; `None` if a part is wrong, which was then reported.
pub(super) fn decode(decoder: &mut Decoder<'_>) -> Option<Data> {
    let section = decoder.section("data");
    let mode = decoder.text(&section, "mode").map(|mode| match mode.value.as_str() {
        "pad" => BatchMode::Pad,
        _ => BatchMode::Pack,
    });
    let mut train = decoder.paths(&section, "train");
    let mut validation = decoder.paths(&section, "validation");
    let tokenizer = optional_text(decoder, &section, "tokenizer");
    let mut fraction = decoder.number(&section, "validation_fraction");
    let reading = reading(decoder, &section);
    let mut mixture = mixture(decoder, &section);
    let trains = train.as_ref().is_some_and(|train| !train.is_empty());
    if trains && section.has("mixture") {
        match one_of(decoder, &section, "mixture", "train", "the data to train on stands here") {
            "mixture" => {
                decoder.forget_tables("data.mixture");
                mixture = mixture.map(|_| Vec::new());
            }
            _ => train = train.map(|_| Vec::new()),
        }
    }
    let splits = fraction.is_some_and(|fraction| fraction.value > 0.0);
    if splits && validation.as_ref().is_some_and(|validation| !validation.is_empty()) {
        let reason = "what to evaluate on is said here";
        match one_of(decoder, &section, "validation_fraction", "validation", reason) {
            "validation" => validation = validation.map(|_| Vec::new()),
            _ => fraction = fraction.map(|fraction| fraction.map(|_| 0.0)),
        }
    }
    Some(Data {
        mode: mode?,
        train: train?,
        validation: validation?,
        tokenizer: tokenizer?,
        mixture: mixture?,
        validation_fraction: fraction?.value,
        reading: reading?,
    })
}

/// The text of a key without default, if it is written; `None` if it is wrong.
fn optional_text(
    decoder: &mut Decoder<'_>,
    section: &Section<'_>,
    name: &'static str,
) -> Option<Option<String>> {
    match section.has(name) {
        true => decoder.text(section, name).map(|text| Some(text.value)),
        false => Some(None),
    }
}

fn reading(decoder: &mut Decoder<'_>, section: &Section<'_>) -> Option<Reading> {
    let text_field = decoder.text(section, "text_field");
    let separator = optional_text(decoder, section, "separator");
    let extensions = match section.has("extensions") {
        true => decoder.paths(section, "extensions"),
        false => Some(Vec::new()),
    };
    let skip_bad = decoder.boolean(section, "skip_bad");
    let deduplicate = decoder.boolean(section, "deduplicate");
    let token_dtype = optional_text(decoder, section, "token_dtype").map(|name| {
        name.map(|name| match name.as_str() {
            "u16" => TokenDType::U16,
            _ => TokenDType::U32,
        })
    });
    let end_of_text = optional_text(decoder, section, "end_of_text");
    Some(Reading {
        text_field: text_field?.value,
        separator: separator?,
        extensions: extensions?,
        skip_bad: skip_bad?.value,
        deduplicate: deduplicate?.value,
        token_dtype: token_dtype?,
        end_of_text: end_of_text?,
    })
}

fn mixture<'t>(decoder: &mut Decoder<'t>, section: &Section<'t>) -> Option<Vec<MixtureSource>> {
    let sources: Vec<Option<MixtureSource>> = decoder
        .tables(section, "mixture")
        .iter()
        .map(|table| {
            let paths = decoder.paths(table, "paths");
            let weight = decoder.number(table, "weight");
            let name = optional_text(decoder, table, "name");
            let paths = paths?;
            let name = name?.or_else(|| paths.first().cloned()).unwrap_or_default();
            Some(MixtureSource { name, paths, weight: weight?.value })
        })
        .collect();
    sources.into_iter().collect()
}

/// Of two written keys that exclude each other, the one that gives way. Within one text that is an error; otherwise the
/// one nearer to the command line holds, with a warning where the command line itself switches the other off.
fn one_of(
    decoder: &mut Decoder<'_>,
    section: &Section<'_>,
    first: &'static str,
    second: &'static str,
    reason: &str,
) -> &'static str {
    let Some((a, b)) = section.key_span(first).zip(section.key_span(second)) else { return first };
    if a.source == b.source {
        decoder.report(
            Diagnostic::error(
                codes::CONTRADICTION,
                format!("`data.{first}` and `data.{second}` exclude each other"),
            )
            .at(a, "this key")
            .at(b, reason)
            .help(format!("remove `{first}` or `{second}`")),
        );
        return first;
    }
    let (loser, winner) = match decoder.distance(a) < decoder.distance(b) {
        true => (second, a),
        false => (first, b),
    };
    unused(decoder, section, loser, Some(winner), reason);
    loser
}
