//! What the settings of an architecture are worth for one model.
//!
//! Owns the meeting of a spec's `[model]` with an architecture's `[config]` and `[check]`. Must not know the rest of a
//! spec, nor what the settings do.

use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Span, did_you_mean, nearest};
use crate::language::architecture::{Architecture, ConfigDefault, ConfigEntry, ConfigKind};
use crate::language::codes;
use crate::language::expression::{Expression, Value};

/// A setting that a spec gives.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where the name is written.
    pub name_span: Span,
    /// Its value; a text is an expression unless the setting takes texts.
    pub value: &'a Value,
    /// Where the value is written.
    pub value_span: Span,
    /// For a text: the source and byte where it begins behind its quotes.
    pub text_start: (SourceId, usize),
}

/// Every setting of an architecture with its value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config(Vec<ConfigValue>);

/// One setting with its value.
#[derive(Clone, Debug, PartialEq)]
struct ConfigValue {
    name: String,
    value: Value,
    /// Where the value was given, or the default declared.
    span: Span,
}

impl Config {
    /// Joins the settings of a spec with the declarations of an architecture.
    ///
    /// `section` is where a missing setting is reported.
    ///
    /// # Errors
    /// Unknown, missing, wrongly typed settings, values that are no choice, circles, failed checks: all of them.
    pub fn resolve(
        architecture: &Architecture,
        settings: &[Setting<'_>],
        section: Span,
    ) -> Result<Config, Diagnostics> {
        let mut diagnostics = Diagnostics::default();
        for setting in settings {
            if architecture.entry(setting.name).is_none() {
                diagnostics.push(unknown_setting(setting, architecture));
            }
        }
        let given = |entry: &ConfigEntry| {
            settings.iter().find(|setting| setting.name == entry.name).copied()
        };
        let missing: Vec<&ConfigEntry> = architecture
            .config
            .iter()
            .filter(|entry| entry.default.is_none() && given(entry).is_none())
            .collect();
        if !missing.is_empty() {
            let names = missing
                .iter()
                .map(|entry| format!("`{}`", entry.name))
                .collect::<Vec<_>>()
                .join(", ");
            let mut diagnostic = Diagnostic::error(
                codes::MISSING_SETTING,
                format!("the architecture needs {names}"),
            )
            .at(section, "not in this section")
            .help(format!("add {} = … under [model]", missing[0].name));
            for entry in &missing {
                diagnostic = diagnostic.at(entry.span, "required here");
            }
            diagnostics.push(diagnostic);
        }
        let mut resolver = Resolver {
            entries: &architecture.config,
            settings: architecture.config.iter().map(given).collect(),
            states: vec![State::Open; architecture.config.len()],
            diagnostics,
        };
        for index in 0..architecture.config.len() {
            resolver.resolve(index, &mut Vec::new());
        }
        let Resolver { states, mut diagnostics, settings, .. } = resolver;
        let values = architecture.config.iter().zip(states).zip(settings).filter_map(
            |((entry, state), setting)| {
                let State::Known(value) = state else { return None };
                let span =
                    setting.map_or(entry.span, |setting| setting.name_span.to(setting.value_span));
                Some(ConfigValue { name: entry.name.clone(), value, span })
            },
        );
        let config = Config(values.collect());
        for check in &architecture.checks {
            // A check over a setting that is wrong already would only repeat that.
            if check.condition.names().iter().all(|name| config.get(&name.text).is_some())
                && let Err(diagnostic) = config.check(&check.condition, &check.reason)
            {
                diagnostics.push(diagnostic);
            }
        }
        if diagnostics.has_errors() { Err(diagnostics) } else { Ok(config) }
    }

    fn check(&self, condition: &Expression, reason: &str) -> Result<(), Diagnostic> {
        let value = condition.evaluate(&|name| self.get(name).cloned())?;
        if value == Value::Boolean(true) {
            return Ok(());
        }
        let mut involved: Vec<&ConfigValue> = Vec::new();
        for name in condition.names() {
            let known = self.0.iter().find(|known| known.name == name.text);
            involved.extend(known.filter(|known| !involved.contains(known)));
        }
        // First what the user wrote, then what the architecture says.
        involved.sort_by_key(|known| known.span.source == condition.span().source);
        let mut diagnostic = Diagnostic::error(codes::CHECK_FAILED, reason);
        for known in &involved {
            diagnostic = diagnostic.at(known.span, format!("`{}` is {}", known.name, known.value));
        }
        let names = involved
            .iter()
            .map(|known| format!("`{}`", known.name))
            .collect::<Vec<_>>()
            .join(" or ");
        Err(diagnostic.at(condition.span(), "must hold").help(format!("change {names}")))
    }

    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|known| known.name == name).map(|known| &known.value)
    }

    /// Where the value of a setting was given, or its default declared.
    pub fn place(&self, name: &str) -> Option<Span> {
        self.0.iter().find(|known| known.name == name).map(|known| known.span)
    }

    /// Names and values in the order declared.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|known| (known.name.as_str(), &known.value))
    }
}

fn unknown_setting(setting: &Setting<'_>, architecture: &Architecture) -> Diagnostic {
    let message = format!("the architecture has no setting `{}`", setting.name);
    let names = architecture.config_names();
    let all = || format!("it has {}", names.clone().collect::<Vec<_>>().join(", "));
    Diagnostic::error(codes::UNKNOWN_SETTING, message)
        .at(setting.name_span, "unknown")
        .help(did_you_mean(setting.name, names.clone(), all))
}

#[derive(Clone, Debug)]
enum State {
    Open,
    Working,
    Known(Value),
    /// Reported already.
    Wrong,
}

struct Resolver<'a> {
    entries: &'a [ConfigEntry],
    settings: Vec<Option<Setting<'a>>>,
    states: Vec<State>,
    diagnostics: Diagnostics,
}

impl Resolver<'_> {
    /// Finds the value of a setting and, before it, of those it reads; `path` are those that wait for it.
    fn resolve(&mut self, index: usize, path: &mut Vec<usize>) {
        match &self.states[index] {
            State::Known(_) | State::Wrong => return,
            State::Working => {
                let begin = path.iter().position(|&at| at == index).unwrap_or(0);
                self.circle(&path[begin..]);
                return;
            }
            State::Open => {}
        }
        self.states[index] = State::Working;
        path.push(index);
        let result = self.value(index, path);
        path.pop();
        let state = match result {
            Ok(Some(value)) => State::Known(value),
            Ok(None) => State::Wrong,
            Err(diagnostic) => {
                self.diagnostics.push(diagnostic);
                State::Wrong
            }
        };
        // A circle has marked its members already.
        if !matches!(self.states[index], State::Wrong) {
            self.states[index] = state;
        }
    }

    fn circle(&mut self, members: &[usize]) {
        let name = |at: &usize| format!("`{}`", self.entries[*at].name);
        let path =
            members.iter().chain(members.first()).map(name).collect::<Vec<_>>().join(" from ");
        let mut diagnostic = Diagnostic::error(
            codes::CYCLE,
            format!("settings are computed from each other: {path}"),
        )
        .help("give one of them a number");
        for &at in members {
            let span =
                self.settings[at].map_or(self.entries[at].span, |setting| setting.value_span);
            diagnostic = diagnostic.at(span, "computed from another of them");
            self.states[at] = State::Wrong;
        }
        self.diagnostics.push(diagnostic);
    }

    /// `None` for what was reported already or is missing.
    fn value(&mut self, index: usize, path: &mut Vec<usize>) -> Result<Option<Value>, Diagnostic> {
        let entry = &self.entries[index];
        match self.settings[index] {
            None => match &entry.default {
                None => Ok(None),
                Some(ConfigDefault::Value(value)) => Ok(Some(value.clone())),
                Some(ConfigDefault::Expression(expression)) => {
                    let value = self.expression(expression, path)?;
                    value.map(|value| fit(value, entry, expression.span(), None)).transpose()
                }
            },
            Some(setting) => match (setting.value, &entry.kind) {
                (Value::Text(text), ConfigKind::OneOf(texts)) => {
                    if texts.contains(text) {
                        return Ok(Some(setting.value.clone()));
                    }
                    let near = nearest(text, texts.iter().map(String::as_str));
                    let message = format!("`{}` cannot be \"{text}\"", entry.name);
                    let help = near.map_or_else(
                        || format!("write {}", entry.kind.describe()),
                        |near| format!("did you mean \"{near}\"?"),
                    );
                    Err(Diagnostic::error(codes::SETTING_CHOICE, message)
                        .at(setting.value_span, "not one of its values")
                        .at(entry.span, "declared here")
                        .help(help))
                }
                (Value::Text(text), _) => {
                    let (source, offset) = setting.text_start;
                    let expression = Expression::parse(text, source, offset)?;
                    expression.check_names(self.entries.iter().map(|entry| entry.name.as_str()))?;
                    let value = self.expression(&expression, path)?;
                    value
                        .map(|value| fit(value, entry, setting.value_span, Some(entry.span)))
                        .transpose()
                }
                (value, _) => {
                    fit(value.clone(), entry, setting.value_span, Some(entry.span)).map(Some)
                }
            },
        }
    }

    fn expression(
        &mut self,
        expression: &Expression,
        path: &mut Vec<usize>,
    ) -> Result<Option<Value>, Diagnostic> {
        let position = |entries: &[ConfigEntry], name: &str| {
            entries.iter().position(|entry| entry.name == name)
        };
        for name in expression.names() {
            let Some(at) = position(self.entries, &name.text) else { return Ok(None) };
            self.resolve(at, path);
            if !matches!(self.states[at], State::Known(_)) {
                return Ok(None);
            }
        }
        let names = |name: &str| match position(self.entries, name).map(|at| &self.states[at]) {
            Some(State::Known(value)) => Some(value.clone()),
            _ => None,
        };
        expression.evaluate(&names).map(Some)
    }
}

/// The value as the kind that the setting takes.
fn fit(
    value: Value,
    entry: &ConfigEntry,
    span: Span,
    declared: Option<Span>,
) -> Result<Value, Diagnostic> {
    match (&entry.kind, &value) {
        (ConfigKind::Integer, Value::Integer(_))
        | (ConfigKind::Number, Value::Float(_))
        | (ConfigKind::Boolean, Value::Boolean(_)) => Ok(value),
        (ConfigKind::Number, Value::Integer(number)) => Ok(Value::Float(*number as f64)),
        (ConfigKind::OneOf(texts), Value::Text(text)) if texts.contains(text) => Ok(value),
        (kind, value) => {
            let wanted = kind.describe();
            let mut diagnostic = Diagnostic::error(
                codes::SETTING_TYPE,
                format!("`{}` takes {wanted}, not {value}", entry.name),
            )
            .at(span, format!("is not {wanted}"));
            if let Some(declared) = declared {
                diagnostic = diagnostic.at(declared, "declared here");
            }
            Err(diagnostic.help(format!("write {wanted}")))
        }
    }
}
