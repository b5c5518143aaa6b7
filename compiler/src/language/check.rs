//! What can be said against an architecture before any spec is known: unknown and unused names, calls that do not fit,
//! statements out of place.
//!
//! Owns these rules. Must not know values: shapes and numbers are judged by lowering.

mod calls;

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostics::{Diagnostic, Diagnostics, Span, did_you_mean};
use crate::language::architecture::{Architecture, ConfigDefault, ConfigKind};
use crate::language::codes;
use crate::language::expression::unknown_name;
use crate::language::operations::{DISTRIBUTIONS, INITIALIZED, operation};
use crate::language::syntax::{Block, Call, Expr, ExprKind, Name, Statement};

pub(crate) use calls::{function_arity, not_a_distribution};

/// Names of masks without arguments; `window(n)` is the third.
pub(crate) const MASKS: [&str; 2] = ["causal", "full"];

/// Names that distributions may read besides the configuration: the widths of the matrix that begins so.
pub(crate) const DISTRIBUTION_NAMES: [&str; 2] = ["in_features", "out_features"];

/// Everything that is wrong with an architecture by itself.
pub(crate) fn check(architecture: &Architecture) -> Diagnostics {
    let mut checker = Checker {
        architecture,
        labels: labels(architecture),
        read: BTreeSet::new(),
        called: BTreeSet::new(),
        distributions: BTreeSet::new(),
        locals: Vec::new(),
        diagnostics: Diagnostics::default(),
    };
    checker.sections();
    checker.items();
    checker.unused();
    checker.diagnostics
}

/// Every label of a body, those of repeats left out: they are not operations.
fn labels(architecture: &Architecture) -> BTreeSet<&str> {
    let mut labels = BTreeSet::new();
    let body = &architecture.body;
    let scopes = body.blocks.iter().map(|block| &block.statements).chain([&body.model.statements]);
    for statements in scopes {
        walk(statements, &mut |expr| {
            if let ExprKind::Call(Call { label: Some(label), .. }) = &expr.kind {
                labels.insert(label.text.as_str());
            }
        });
    }
    labels
}

/// Calls `visit` for every expression of the statements.
pub(crate) fn walk<'a>(statements: &'a [Statement], visit: &mut dyn FnMut(&'a Expr)) {
    for statement in statements {
        match statement {
            Statement::Assign { value, .. } | Statement::Return { value, .. } => value.walk(visit),
            Statement::Keep { index, value, .. } => {
                index.walk(visit);
                value.walk(visit);
            }
            Statement::Repeat(repeat) => {
                repeat.count.walk(visit);
                walk(&repeat.statements, visit);
            }
        }
    }
}

/// A name bound in the callable that is looked at.
struct Local<'a> {
    name: &'a str,
    span: Span,
    read: bool,
    /// Arguments and indices need not be read.
    may_be_unread: bool,
}

struct Checker<'a> {
    architecture: &'a Architecture,
    labels: BTreeSet<&'a str>,
    /// Settings that the body and the checks read.
    read: BTreeSet<&'a str>,
    called: BTreeSet<&'a str>,
    distributions: BTreeSet<&'a str>,
    locals: Vec<Local<'a>>,
    diagnostics: Diagnostics,
}

impl<'a> Checker<'a> {
    fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    fn sections(&mut self) {
        for check in &self.architecture.checks {
            match check.condition.check_names(self.architecture.config_names()) {
                Ok(()) => {
                    self.read.extend(check.condition.names().iter().map(|name| name.text.as_str()))
                }
                Err(unknown) => self.push(unknown),
            }
            let kind = |name: &str| self.architecture.entry(name).map(|entry| entry.kind.clone());
            if check.condition.kind(&kind).is_some_and(|kind| kind != ConfigKind::Boolean) {
                self.push(
                    Diagnostic::error(codes::TYPE, "a check must be true or false")
                        .at(check.condition.span(), "gives a number")
                        .help("compare it with something"),
                );
            }
        }
        for wrong in self.architecture.huggingface.check(self.architecture.config_names()) {
            self.push(wrong);
        }
    }

    fn items(&mut self) {
        let body = &self.architecture.body;
        let mut known: BTreeMap<&str, Span> = BTreeMap::new();
        for block in &body.blocks {
            self.new_item(&block.name, &mut known, "block");
        }
        for init in &body.inits {
            self.new_item(&init.name, &mut known, "distribution");
            self.distribution(&init.distribution);
        }
        for item in &body.uses {
            self.distribution(&item.distribution);
            for kind in item.kinds.iter().filter(|kind| !INITIALIZED.contains(&kind.text.as_str()))
            {
                let help = did_you_mean(&kind.text, INITIALIZED, || {
                    format!("`use` speaks of {}", INITIALIZED.join(", "))
                });
                let message = format!("no parameters are of kind `{}`", kind.text);
                self.push(
                    Diagnostic::error(codes::INITIALIZATION, message)
                        .at(kind.span, "unknown kind")
                        .help(help),
                );
            }
        }
        self.inputs();
        for input in &body.model.inputs {
            self.locals.push(Local {
                name: &input.name.text,
                span: input.name.span,
                read: false,
                may_be_unread: false,
            });
        }
        if let Some(axis) = body.model.positions_axis()
            && self.architecture.entry(&axis.text).is_none()
        {
            let (name, span) = (axis.text.as_str(), axis.span);
            self.locals.push(Local { name, span, read: false, may_be_unread: true });
        }
        self.callable(&body.model.statements, body.model.span);
        for block in &body.blocks {
            for (index, parameter) in block.parameters.iter().enumerate() {
                self.shadows(parameter);
                if let Some(first) =
                    block.parameters[..index].iter().find(|first| first.text == parameter.text)
                {
                    self.duplicate(parameter, first.span);
                    continue;
                }
                let (name, span) = (parameter.text.as_str(), parameter.span);
                self.locals.push(Local { name, span, read: false, may_be_unread: false });
            }
            self.callable(&block.statements, block.name.span);
        }
    }

    fn duplicate(&mut self, name: &Name, first: Span) {
        self.push(
            Diagnostic::error(codes::DUPLICATE, format!("`{}` is declared twice", name.text))
                .at(name.span, "second")
                .at(first, "first")
                .help("give one of them another name"),
        );
    }

    fn new_item(&mut self, name: &'a Name, known: &mut BTreeMap<&'a str, Span>, what: &str) {
        if let Some(first) = known.insert(&name.text, name.span) {
            self.duplicate(name, first);
        }
        let taken = operation(&name.text).is_some()
            || function_arity(&name.text).is_some()
            || name.text == "window";
        if taken || DISTRIBUTIONS.iter().any(|(known, _)| *known == name.text) {
            self.push(
                Diagnostic::error(
                    codes::DUPLICATE,
                    format!("the language has a `{}` of its own", name.text),
                )
                .at(name.span, format!("a {what} of the same name"))
                .help("give it another name"),
            );
        }
    }

    fn inputs(&mut self) {
        let objective = self.architecture.objective;
        for input in &self.architecture.body.model.inputs {
            self.shadows(&input.name);
            let supplied = objective.inputs();
            let Some(known) = supplied.iter().find(|known| known.name == input.name.text) else {
                let names = supplied
                    .iter()
                    .map(|known| format!("`{}`", known.name))
                    .collect::<Vec<_>>()
                    .join(", ");
                self.push(
                    Diagnostic::error(
                        codes::INPUT,
                        format!("the objective supplies no input `{}`", input.name.text),
                    )
                    .at(input.name.span, "not supplied")
                    .at(self.architecture.objective_span, format!("supplies {names}"))
                    .help(format!("use {names}")),
                );
                continue;
            };
            let axes: Vec<&str> = input.axes.iter().map(|axis| axis.text.as_str()).collect();
            if input.kind.text != known.kind || axes != known.axes {
                let declaration =
                    format!("{}: {}[{}]", known.name, known.kind, known.axes.join(", "));
                let span =
                    input.axes.last().map_or(input.kind.span, |axis| input.kind.span.to(axis.span));
                self.push(
                    Diagnostic::error(
                        codes::INPUT,
                        format!("the objective supplies `{declaration}`"),
                    )
                    .at(span, "declared otherwise")
                    .at(self.architecture.objective_span, "this objective")
                    .help(format!("write `{declaration}`")),
                );
            }
        }
    }

    /// A setting and a value of the same name would be mistaken for each other.
    fn shadows(&mut self, name: &Name) {
        if let Some(entry) = self.architecture.entry(&name.text) {
            self.push(
                Diagnostic::error(
                    codes::SHADOWED_NAME,
                    format!("`{}` is a setting already", name.text),
                )
                .at(name.span, "another meaning")
                .at(entry.span, "the setting")
                .help("give the value another name"),
            );
        }
    }

    /// The statements of the model or a block; its arguments are bound already.
    fn callable(&mut self, statements: &'a [Statement], head: Span) {
        self.lists(statements);
        self.statements(statements, true);
        if !statements.iter().any(|statement| matches!(statement, Statement::Return { .. })) {
            self.push(
                Diagnostic::error(codes::RETURN, "nothing is returned")
                    .at(head, "has no `return`")
                    .help("end it with `return` and the result"),
            );
        }
        self.leave(0);
    }

    /// Forgets the names bound since; one that nobody reads was a mistake.
    fn leave(&mut self, count: usize) {
        let left = self.locals.split_off(count);
        for local in left.iter().filter(|local| !local.read && !local.may_be_unread) {
            self.push(
                Diagnostic::error(codes::UNUSED, format!("`{}` is never used", local.name))
                    .at(local.span, "unused")
                    .help("use it, or take it away"),
            );
        }
    }

    /// A list that is read was kept somewhere in the same callable, and one that is kept is read.
    fn lists(&mut self, statements: &'a [Statement]) {
        let mut kept: Vec<&'a Name> = Vec::new();
        kept_lists(statements, &mut kept);
        let mut read: Vec<&'a Name> = Vec::new();
        walk(statements, &mut |expr| {
            if let ExprKind::Element { list, .. } = &expr.kind {
                read.push(list);
            }
        });
        for list in &read {
            if !kept.iter().any(|kept| kept.text == list.text) {
                let names = || kept.iter().map(|kept| kept.text.as_str());
                let otherwise = || format!("keep a value first: `{}[index] = value`", list.text);
                self.push(
                    Diagnostic::error(
                        codes::UNKNOWN_NAME,
                        format!("there is no list `{}` here", list.text),
                    )
                    .at(list.span, "nothing is kept under this name")
                    .help(did_you_mean(&list.text, names(), otherwise)),
                );
            }
        }
        for (at, list) in kept.iter().enumerate() {
            let first = !kept[..at].iter().any(|other| other.text == list.text);
            if first && !read.iter().any(|read| read.text == list.text) {
                self.push(
                    Diagnostic::error(codes::UNUSED, format!("`{}` is never used", list.text))
                        .at(list.span, "kept and never read")
                        .help("read it as `name[index]`, or take it away"),
                );
            }
        }
    }

    fn statements(&mut self, statements: &'a [Statement], outermost: bool) {
        let mut returned: Option<Span> = None;
        for statement in statements {
            let span = match statement {
                Statement::Assign { name, .. } | Statement::Keep { list: name, .. } => name.span,
                Statement::Repeat(repeat) => repeat.label.span,
                Statement::Return { span, .. } => *span,
            };
            if let Some(first) = returned {
                self.push(
                    Diagnostic::error(codes::RETURN, "nothing after `return` is ever computed")
                        .at(span, "never reached")
                        .at(first, "returns here")
                        .help("move it before the `return`"),
                );
                return;
            }
            match statement {
                Statement::Assign { name, value } => {
                    self.expression(value);
                    self.shadows(name);
                    if !self.locals.iter().any(|local| local.name == name.text) {
                        let (name, span) = (name.text.as_str(), name.span);
                        self.locals.push(Local { name, span, read: false, may_be_unread: false });
                    }
                }
                Statement::Keep { list, index, value } => {
                    self.shadows(list);
                    self.expression(index);
                    self.expression(value);
                }
                Statement::Return { span, value } => {
                    if !outermost {
                        self.push(
                            Diagnostic::error(codes::RETURN, "a repeat runs to its end")
                                .at(*span, "returns from inside")
                                .help("assign to a name and return it after the repeat"),
                        );
                    }
                    self.expression(value);
                    returned = Some(*span);
                }
                Statement::Repeat(repeat) => {
                    self.expression(&repeat.count);
                    let count = self.locals.len();
                    if let Some(index) = &repeat.index {
                        self.shadows(index);
                        let (name, span) = (index.text.as_str(), index.span);
                        self.locals.push(Local { name, span, read: false, may_be_unread: true });
                    }
                    self.statements(&repeat.statements, false);
                    self.leave(count);
                }
            }
        }
    }

    fn expression(&mut self, expr: &'a Expr) {
        match &expr.kind {
            ExprKind::Literal(_) => {}
            ExprKind::Name(path) => {
                if let Some(local) =
                    self.locals.iter_mut().rev().find(|local| local.name == path.text)
                {
                    local.read = true;
                } else if self.architecture.entry(&path.text).is_some() {
                    self.read.insert(&path.text);
                } else if !MASKS.contains(&path.text.as_str()) {
                    let names = self.locals.iter().map(|local| local.name);
                    let known: Vec<&str> = names.chain(self.architecture.config_names()).collect();
                    self.push(unknown_name(&path.text, path.span, known));
                }
            }
            ExprKind::Unary { operand, .. } => self.expression(operand),
            ExprKind::Binary { left, right, .. } => {
                self.expression(left);
                self.expression(right);
            }
            ExprKind::Conditional { value, condition, otherwise } => {
                self.expression(condition);
                self.expression(value);
                otherwise.iter().for_each(|otherwise| self.expression(otherwise));
            }
            ExprKind::Call(call) => self.call(call, expr.span),
            ExprKind::Element { index, .. } => self.expression(index),
        }
    }

    fn unused(&mut self) {
        let body = &self.architecture.body;
        for block in
            body.blocks.iter().filter(|block| !self.called.contains(block.name.text.as_str()))
        {
            let message = format!("block `{}` is never called", block.name.text);
            let help = "call it, or take it away";
            self.diagnostics.push(
                Diagnostic::error(codes::UNUSED, message).at(block.name.span, "unused").help(help),
            );
        }
        for init in
            body.inits.iter().filter(|init| !self.distributions.contains(init.name.text.as_str()))
        {
            let message = format!("distribution `{}` is never used", init.name.text);
            let help = "use it, or take it away";
            self.diagnostics.push(
                Diagnostic::error(codes::UNUSED, message).at(init.name.span, "unused").help(help),
            );
        }
        self.recursion();
        // A setting that only defines another counts if the other does.
        let mut read = self.read.clone();
        loop {
            let more: Vec<&str> = self
                .architecture
                .config
                .iter()
                .filter(|entry| read.contains(entry.name.as_str()))
                .filter_map(|entry| match &entry.default {
                    Some(ConfigDefault::Expression(expression)) => Some(expression.names()),
                    _ => None,
                })
                .flatten()
                .map(|name| name.text.as_str())
                .filter(|name| !read.contains(name))
                .collect();
            if more.is_empty() {
                break;
            }
            read.extend(more);
        }
        // Unknown names hide what they were meant to read.
        if self.diagnostics.iter().any(|diagnostic| diagnostic.code == codes::UNKNOWN_NAME) {
            return;
        }
        for entry in
            self.architecture.config.iter().filter(|entry| !read.contains(entry.name.as_str()))
        {
            self.diagnostics.push(
                Diagnostic::error(
                    codes::UNUSED,
                    format!("setting `{}` changes nothing", entry.name),
                )
                .at(entry.span, "read by neither the body nor a check")
                .help("use it in the body, or take it away"),
            );
        }
    }

    /// Blocks that call themselves, over however many others.
    fn recursion(&mut self) {
        let blocks = &self.architecture.body.blocks;
        let find = |name: &str| blocks.iter().position(|block| block.name.text == name);
        let calls = |block: &'a Block| {
            let mut calls = Vec::new();
            walk(&block.statements, &mut |expr| {
                if let ExprKind::Call(call) = &expr.kind
                    && let Some(at) = find(&call.name.text)
                {
                    calls.push((at, call.name.span));
                }
            });
            calls
        };
        for start in 0..blocks.len() {
            let mut seen = BTreeSet::new();
            let mut open = calls(&blocks[start]);
            while let Some((at, span)) = open.pop() {
                if at == start {
                    let name = &blocks[start].name;
                    self.diagnostics.push(
                        Diagnostic::error(
                            codes::RECURSION,
                            format!("block `{}` calls itself", name.text),
                        )
                        .at(span, "called again here")
                        .at(name.span, "inside this block")
                        .help("write what is repeated as `repeat label[n] { … }`"),
                    );
                    // Others of the same circle would only repeat it.
                    return;
                }
                if seen.insert(at) {
                    open.extend(calls(&blocks[at]));
                }
            }
        }
    }
}

/// Every place where a value is kept under a number.
fn kept_lists<'a>(statements: &'a [Statement], kept: &mut Vec<&'a Name>) {
    for statement in statements {
        match statement {
            Statement::Keep { list, .. } => kept.push(list),
            Statement::Repeat(repeat) => kept_lists(&repeat.statements, kept),
            Statement::Assign { .. } | Statement::Return { .. } => {}
        }
    }
}
