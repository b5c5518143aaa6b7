//! Calls inside bodies: of operations, blocks and functions, with what may stand in their arguments.
//!
//! Owns what a call must give. Must not know where calls may stand: that is the rest of [`super`].

use crate::diagnostics::{Diagnostic, Span, did_you_mean};
use crate::language::activation;
use crate::language::check::{Checker, DISTRIBUTION_NAMES};
use crate::language::codes;
use crate::language::expression::{CONSTANT_FUNCTIONS, Value, unknown_name};
use crate::language::operations::{
    ArgumentKind, DISTRIBUTIONS, Operation, OperationKind, bind, operation,
};
use crate::language::syntax::{Argument, Call, Expr, ExprKind, Name};

impl<'a> Checker<'a> {
    pub(super) fn call(&mut self, call: &'a Call, span: Span) {
        let name = call.name.text.as_str();
        if let Some(operation) = operation(name) {
            self.operation(operation, call, span);
        } else if let Some(block) =
            self.architecture.body.blocks.iter().find(|block| block.name.text == name)
        {
            self.called.insert(&block.name.text);
            let parameters: Vec<(&str, bool)> =
                block.parameters.iter().map(|name| (name.text.as_str(), true)).collect();
            if let Err(wrong) = bind(call, span, &parameters) {
                self.push(wrong);
            }
            call.arguments.iter().for_each(|argument| self.expression(&argument.value));
        } else if let Some(arity) = function_arity(name) {
            let names = ["x", "y", "z"];
            let parameters: Vec<(&str, bool)> =
                names[..arity.min(3)].iter().map(|name| (*name, true)).collect();
            let many = matches!(name, "max" | "min") && call.arguments.len() > 2;
            if !many && let Err(wrong) = bind(call, span, &parameters) {
                self.push(wrong);
            }
            call.arguments.iter().for_each(|argument| self.expression(&argument.value));
        } else {
            let mut known: Vec<&str> = callable_names().collect();
            known
                .extend(self.architecture.body.blocks.iter().map(|block| block.name.text.as_str()));
            self.push(crate::language::expression::unknown_function(call, known));
            call.arguments.iter().for_each(|argument| self.expression(&argument.value));
        }
    }

    fn operation(&mut self, operation: &'static Operation, call: &'a Call, span: Span) {
        let parameters: Vec<(&str, bool)> =
            operation.parameters.iter().map(|p| (p.name, p.required)).collect();
        let bound = match bind(call, span, &parameters) {
            Ok(bound) => bound,
            Err(wrong) => return self.push(wrong),
        };
        if operation.needs_label && call.label.is_none() && has_parameters(operation, &bound) {
            self.push(
                Diagnostic::error(
                    codes::LABEL,
                    format!("`{}` has parameters, so it needs a label", operation.name),
                )
                .at(call.name.span, "no label")
                .help(format!(
                    "write `label: {}(…)`; the label names its parameters",
                    operation.name
                )),
            );
        }
        self.void_start(operation, &bound);
        for (parameter, argument) in operation.parameters.iter().zip(bound) {
            let Some(argument) = argument else { continue };
            let value = &argument.value;
            match parameter.kind {
                ArgumentKind::Value
                | ArgumentKind::Extent
                | ArgumentKind::Number
                | ArgumentKind::Boolean
                | ArgumentKind::Mask => self.expression(value),
                ArgumentKind::Activation => match &value.kind {
                    ExprKind::Literal(Value::Text(text)) => {
                        if let Err(wrong) = activation::formula_of(text, value.span) {
                            self.push(wrong);
                        }
                    }
                    _ => self.expression(value),
                },
                ArgumentKind::Never => {
                    self.chosen(value, &mut |checker, value| match &value.kind {
                        ExprKind::Name(path) if path.text == "never" => {}
                        _ => checker.push(
                            Diagnostic::error(codes::ARGUMENTS, "`cola` can only be `never`")
                                .at(value.span, "something else")
                                .help("write `cola = never`, or leave it out and let specs decide"),
                        ),
                    })
                }
                ArgumentKind::Label => {
                    self.chosen(value, &mut |checker, value| checker.label(value))
                }
                ArgumentKind::Distribution => {
                    self.chosen(value, &mut |checker, value| checker.distribution(value))
                }
            }
        }
    }

    /// A start value of a gain that the same call switches off.
    fn void_start(&mut self, operation: &Operation, bound: &[Option<&'a Argument>]) {
        let given = |name: &str| argument(operation, bound, name);
        if is_off(operation, bound, "gain")
            && let (Some(gain), Some(init)) = (given("gain"), given("init"))
        {
            self.push(
                Diagnostic::error(
                    codes::INITIALIZATION,
                    format!(
                        "`init` says how the gain of `{}` starts, but it has none",
                        operation.name
                    ),
                )
                .at(init.span(), "changes nothing")
                .at(gain.span(), "no gain")
                .help("take one of them away"),
            );
        }
    }

    /// Goes through the branches of a conditional and looks at what they give.
    fn chosen(&mut self, value: &'a Expr, look: &mut dyn FnMut(&mut Self, &'a Expr)) {
        match &value.kind {
            ExprKind::Conditional { value, condition, otherwise } => {
                self.expression(condition);
                self.chosen(value, look);
                if let Some(otherwise) = otherwise {
                    self.chosen(otherwise, look);
                }
            }
            _ => look(self, value),
        }
    }

    fn label(&mut self, value: &'a Expr) {
        match &value.kind {
            ExprKind::Name(path) if self.labels.contains(path.text.as_str()) => {}
            ExprKind::Name(path) => {
                let labels = || self.labels.iter().copied();
                let help = did_you_mean(&path.text, labels(), || {
                    format!("labels are {}", labels().collect::<Vec<_>>().join(", "))
                });
                let message = format!("there is no label `{}`", path.text);
                self.push(
                    Diagnostic::error(codes::UNKNOWN_LABEL, message)
                        .at(path.span, "unknown label")
                        .help(help),
                );
            }
            _ => self.push(
                Diagnostic::error(codes::ARGUMENTS, "a label is needed here")
                    .at(value.span, "not a label")
                    .help("write the label of the operation whose weight is used"),
            ),
        }
    }

    pub(super) fn distribution(&mut self, value: &'a Expr) {
        let (name, arguments) = match &value.kind {
            ExprKind::Name(path) => {
                (Name { text: path.text.clone(), span: path.span }, [].as_slice())
            }
            ExprKind::Call(call) if call.label.is_none() => {
                (call.name.clone(), call.arguments.as_slice())
            }
            _ => return self.push(not_a_distribution(value.span)),
        };
        let inits = &self.architecture.body.inits;
        let declared = inits.iter().find(|init| init.name.text == name.text);
        let known =
            DISTRIBUTIONS.iter().find(|(known, _)| *known == name.text).map(|(_, arity)| *arity);
        if let Some(declared) = declared {
            self.distributions.insert(&declared.name.text);
        }
        let Some(arity) = known.or(declared.map(|_| 0)) else {
            let names: Vec<&str> = DISTRIBUTIONS
                .iter()
                .map(|(name, _)| *name)
                .chain(inits.iter().map(|i| i.name.text.as_str()))
                .collect();
            let help = did_you_mean(&name.text, names.iter().copied(), || {
                format!("distributions are {}", names.join(", "))
            });
            let message = format!("there is no distribution `{}`", name.text);
            return self.push(
                Diagnostic::error(codes::INITIALIZATION, message)
                    .at(name.span, "unknown")
                    .help(help),
            );
        };
        if arguments.len() != arity || arguments.iter().any(|argument| argument.name.is_some()) {
            let message = format!("`{}` takes {arity} values without names", name.text);
            self.push(
                Diagnostic::error(codes::ARGUMENTS, message)
                    .at(value.span, "called here")
                    .help("write normal(0, std), uniform(bound), zeros or ones"),
            );
        }
        let known = || self.architecture.config_names().chain(DISTRIBUTION_NAMES);
        for argument in arguments {
            for path in crate::language::expression::names(&argument.value) {
                if self.architecture.entry(&path.text).is_some() {
                    self.read.insert(&path.text);
                } else if !DISTRIBUTION_NAMES.contains(&path.text.as_str()) {
                    let unknown = unknown_name(&path.text, path.span, known());
                    self.diagnostics.push(unknown);
                }
            }
        }
    }
}

pub(crate) fn not_a_distribution(span: Span) -> Diagnostic {
    Diagnostic::error(codes::INITIALIZATION, "a distribution is needed here")
        .at(span, "not a distribution")
        .help("write normal(0, std), uniform(bound), zeros or ones")
}

/// What a call gives for a parameter.
fn argument<'a>(
    operation: &Operation,
    bound: &[Option<&'a Argument>],
    name: &str,
) -> Option<&'a Argument> {
    bound[operation.parameters.iter().position(|parameter| parameter.name == name)?]
}

/// Whether a call says `name = false` in so many words.
fn is_off(operation: &Operation, bound: &[Option<&Argument>], name: &str) -> bool {
    argument(operation, bound, name)
        .is_some_and(|argument| argument.value.kind == ExprKind::Literal(Value::Boolean(false)))
}

/// Whether a call makes parameters: all that can do, except a norm that is told to have none.
fn has_parameters(operation: &Operation, bound: &[Option<&Argument>]) -> bool {
    match operation.kind {
        OperationKind::RmsNorm => !is_off(operation, bound, "gain"),
        OperationKind::LayerNorm => {
            !(is_off(operation, bound, "gain") && is_off(operation, bound, "bias"))
        }
        _ => true,
    }
}

/// How many values a function of a body takes, be they tensors or numbers.
pub(crate) fn function_arity(name: &str) -> Option<usize> {
    match name {
        "window" => Some(1),
        "round_up" => Some(2),
        _ if activation::takes(name).is_some() => {
            activation::takes(name).map(|takes| *takes.start())
        }
        _ if activation::is_named(name) => Some(1),
        _ => CONSTANT_FUNCTIONS.iter().any(|(known, _)| *known == name).then_some(1),
    }
}

/// Everything a body may call besides its own blocks.
fn callable_names() -> impl Iterator<Item = &'static str> {
    let operations = crate::language::operations::OPERATIONS.iter().map(|operation| operation.name);
    let constant = CONSTANT_FUNCTIONS.iter().map(|(name, _)| *name);
    operations.chain(activation::names()).chain(constant).chain(["window"])
}
