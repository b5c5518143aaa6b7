//! Statements and expressions: names, conditions, repeats, calls of blocks.
//!
//! Owns what is bound where. Must not know operations: those are in [`super::call`].

use std::collections::BTreeMap;

use colac_plan::Op;
use colac_plan::op::Mask;

use crate::diagnostics::{Diagnostic, Span};
use crate::graph::{NodeKind, Scope, Value as Tensor};
use crate::language::codes as language_codes;
use crate::language::expression::{self, Value};
use crate::language::operations::{bind, operation};
use crate::language::syntax::{
    BinaryOperator, Call, Expr, ExprKind, Name, Repeat, Statement, UnaryOperator,
};
use crate::lower::{Bound, Frame, Lowering, MOST_NESTED_CALLS, MOST_NODES, codes, too_large};

/// Extents and counts are below this.
const MOST_EXTENT: i64 = (1 << 31) - 1;

impl Lowering<'_> {
    /// Runs statements; what they return and where.
    pub(super) fn statements(
        &mut self,
        frame: &mut Frame,
        statements: &[Statement],
    ) -> Option<(Bound, Span)> {
        for statement in statements {
            match statement {
                Statement::Assign { name, value } => {
                    let result = self.expression(frame, value);
                    let bound = self.report(result).unwrap_or(Bound::Wrong);
                    match frame.names.iter_mut().rev().find(|(known, _)| *known == name.text) {
                        Some((_, known)) => *known = bound,
                        None => frame.names.push((name.text.clone(), bound)),
                    }
                }
                Statement::Keep { list, index, value } => {
                    let result = self.expression(frame, value);
                    let bound = self.report(result).unwrap_or(Bound::Wrong);
                    let index = self.index(frame, index);
                    if let Some(index) = self.report(index) {
                        frame.lists.entry(list.text.clone()).or_default().insert(index, bound);
                    }
                }
                Statement::Return { value, .. } => {
                    let result = self.expression(frame, value);
                    return Some((self.report(result).unwrap_or(Bound::Wrong), value.span));
                }
                Statement::Repeat(repeat) => {
                    let result = self.repeat(frame, repeat);
                    self.report(result);
                }
            }
        }
        None
    }

    fn repeat(&mut self, frame: &mut Frame, repeat: &Repeat) -> Result<(), Diagnostic> {
        let count = self.extent(frame, &repeat.count)?;
        let outside = (frame.path.clone(), frame.scope, frame.names.len());
        let path = frame.join(&repeat.label.text);
        for index in 0..count {
            let label = repeat.label.text.clone();
            let turn = format!("{path}.{index}");
            // Where parameters are shared, paths do not tell turns apart; scopes do.
            let scope = match outside.1.filter(|_| self.sharing > 0) {
                Some(outer) => {
                    format!("{}.{label}.{index}", self.graph.scopes()[outer.0 as usize].path)
                }
                None => turn.clone(),
            };
            frame.path = if repeat.shared { path.clone() } else { turn };
            frame.scope =
                Some(self.graph.add_scope(Scope { path: scope, label, index, parent: outside.1 }));
            if let Some(name) = &repeat.index {
                let index = i64::try_from(index)
                    .map_err(|_| too_large(repeat.label.span, "too many turns"))?;
                frame.names.push((name.text.clone(), Bound::Setting(Value::Integer(index))));
            }
            let (shares, replays) =
                (u32::from(repeat.shared), u32::from(repeat.shared && index > 0));
            (self.sharing, self.replaying) = (self.sharing + shares, self.replaying + replays);
            self.statements(frame, &repeat.statements);
            (self.sharing, self.replaying) = (self.sharing - shares, self.replaying - replays);
            frame.names.truncate(outside.2);
            // What is wrong in one turn is wrong in the next; a model of too many nodes would exhaust the memory.
            if self.diagnostics.has_errors() {
                break;
            }
            if self.graph.id_bound() > MOST_NODES {
                return Err(too_large(repeat.label.span, "more than 262144 operations"));
            }
        }
        (frame.path, frame.scope, _) = outside;
        Ok(())
    }

    /// The value of an expression.
    pub(super) fn expression(
        &mut self,
        frame: &mut Frame,
        expr: &Expr,
    ) -> Result<Bound, Diagnostic> {
        match &expr.kind {
            ExprKind::Literal(value) => Ok(Bound::Setting(value.clone())),
            ExprKind::Name(path) => {
                if let Some((_, bound)) =
                    frame.names.iter().rev().find(|(known, _)| *known == path.text)
                {
                    return Ok(bound.clone());
                }
                match (self.config.get(&path.text), path.text.as_str()) {
                    (Some(value), _) => Ok(Bound::Setting(value.clone())),
                    (None, "causal") => Ok(Bound::Mask(Mask::Causal)),
                    (None, "full") => Ok(Bound::Mask(Mask::Full)),
                    (None, name) => Err(expression::unknown_name(name, path.span, [])),
                }
            }
            ExprKind::Conditional { value, condition, otherwise } => {
                if self.condition(frame, condition)? {
                    self.expression(frame, value)
                } else {
                    otherwise
                        .as_ref()
                        .map_or(Ok(Bound::Absent), |otherwise| self.expression(frame, otherwise))
                }
            }
            ExprKind::Unary { operator: UnaryOperator::Not, .. } => {
                self.setting(frame, expr).map(Bound::Setting)
            }
            ExprKind::Unary { operator: UnaryOperator::Negate, .. } => self.arithmetic(frame, expr),
            ExprKind::Binary { operator, .. } => match operator {
                BinaryOperator::Add
                | BinaryOperator::Subtract
                | BinaryOperator::Multiply
                | BinaryOperator::Divide
                | BinaryOperator::Greater
                | BinaryOperator::GreaterOrEqual
                | BinaryOperator::Less
                | BinaryOperator::LessOrEqual => self.arithmetic(frame, expr),
                _ => self.setting(frame, expr).map(Bound::Setting),
            },
            ExprKind::Call(call) => self.call(frame, expr, call),
            ExprKind::Element { list, index } => self.element(frame, list, index, expr.span),
        }
    }

    /// A value kept under a number.
    fn element(
        &mut self,
        frame: &Frame,
        list: &Name,
        index: &Expr,
        span: Span,
    ) -> Result<Bound, Diagnostic> {
        let at = self.index(frame, index)?;
        let kept = frame.lists.get(&list.text);
        if let Some(bound) = kept.and_then(|kept| kept.get(&at)) {
            return Ok(bound.clone());
        }
        let known: Vec<String> =
            kept.into_iter().flat_map(|kept| kept.keys()).map(i64::to_string).collect();
        let known = match known.as_slice() {
            [] => "nothing is kept in it up to here".to_owned(),
            known => format!("up to here it has {}", known.join(", ")),
        };
        Err(Diagnostic::error(
            codes::OPERAND,
            format!("nothing is kept in `{}` under {at}", list.text),
        )
        .at(span, known)
        .help("keep the value before it is read, or read it under a condition"))
    }

    /// A whole number of the configuration or a repeat.
    fn index(&mut self, frame: &Frame, expr: &Expr) -> Result<i64, Diagnostic> {
        let value = self.setting(frame, expr)?;
        value.as_integer().ok_or_else(|| {
            Diagnostic::error(codes::OPERAND, "values are kept under whole numbers")
                .at(expr.span, format!("this is {value}"))
                .help("write a whole number, such as the index of a repeat")
        })
    }

    fn arithmetic(&mut self, frame: &mut Frame, expr: &Expr) -> Result<Bound, Diagnostic> {
        if self.is_setting(frame, expr) {
            self.setting(frame, expr).map(Bound::Setting)
        } else {
            self.pointwise(frame, expr, None)
        }
    }

    fn call(&mut self, frame: &mut Frame, expr: &Expr, call: &Call) -> Result<Bound, Diagnostic> {
        if let Some(operation) = operation(&call.name.text) {
            return self.operation(frame, operation, call, expr.span);
        }
        if self.block(&call.name.text).is_some() {
            return self.block_call(frame, call, expr.span);
        }
        if call.name.text == "window" {
            let [argument] = call.arguments.as_slice() else {
                return Err(Diagnostic::error(
                    language_codes::ARGUMENTS,
                    "`window` takes one value",
                )
                .at(expr.span, "called here")
                .help("write window(n): the number of positions that are seen"));
            };
            let width = self.extent(frame, &argument.value)?;
            return Ok(Bound::Mask(Mask::Window(u32::try_from(width).unwrap_or(u32::MAX))));
        }
        if self.is_setting(frame, expr) {
            return self.setting(frame, expr).map(Bound::Setting);
        }
        let label = call.label.as_ref().map(|label| frame.join(&label.text));
        self.pointwise(frame, expr, label)
    }

    /// Calls a block; a label adds its path to all that is labelled inside.
    fn block_call(
        &mut self,
        frame: &mut Frame,
        call: &Call,
        span: Span,
    ) -> Result<Bound, Diagnostic> {
        let architecture = self.architecture;
        let blocks = &architecture.body.blocks;
        let block = blocks
            .iter()
            .find(|block| block.name.text == call.name.text)
            .expect("the caller found it");
        let parameters: Vec<(&str, bool)> =
            block.parameters.iter().map(|name| (name.text.as_str(), true)).collect();
        let bound = bind(call, span, &parameters)?;
        let mut names = Vec::with_capacity(parameters.len());
        for ((name, _), argument) in parameters.iter().zip(bound) {
            // Every required argument is bound, or `bind` would have failed.
            let Some(argument) = argument else { continue };
            let value = self.expression(frame, &argument.value)?;
            names.push(((*name).to_owned(), value));
        }
        let path =
            call.label.as_ref().map_or_else(|| frame.path.clone(), |label| frame.join(&label.text));
        let mut inner = Frame { path, scope: frame.scope, names, lists: BTreeMap::new() };
        self.calls += 1;
        if self.calls > MOST_NODES || self.graph.id_bound() > MOST_NODES {
            return Err(too_large(span, "more than 262144 operations or calls of blocks"));
        }
        if self.nested_calls == MOST_NESTED_CALLS {
            return Err(too_large(span, "more than 32 calls of blocks inside each other"));
        }
        self.nested_calls += 1;
        let returned = self.statements(&mut inner, &block.statements);
        self.nested_calls -= 1;
        let result = returned.map_or(Bound::Wrong, |(result, _)| result);
        if let (Bound::Tensor(tensor), true) = (&result, call.label.is_some()) {
            self.offer_bypass(tensor, inner.path, span)?;
        }
        Ok(result)
    }

    /// A labelled block that is one function of one value can be bypassed by its label, as a labelled activation can.
    fn offer_bypass(
        &mut self,
        result: &Tensor,
        path: String,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let node = self.graph.node(result.node);
        let pointwise =
            matches!(node.kind, NodeKind::Op(Op::Pointwise { .. })) && node.origin.path == path;
        let [operand] = self.graph.operands(result.node)[..] else { return Ok(()) };
        let same = self.graph.ty(operand).shape.same_extents(&self.graph.ty(*result).shape);
        if pointwise && same && !self.graph.bypassable.contains(&result.node) {
            self.graph.bypassable.push(result.node);
            self.name(path, span)?;
        }
        Ok(())
    }

    /// Whether an expression is made of settings alone.
    pub(super) fn is_setting(&self, frame: &Frame, expr: &Expr) -> bool {
        let mut only_settings = true;
        expr.walk(&mut |part| match &part.kind {
            ExprKind::Name(path) => {
                let local = frame.names.iter().rev().find(|(known, _)| *known == path.text);
                only_settings &= match local {
                    Some((_, bound)) => matches!(bound, Bound::Setting(_)),
                    None => self.config.get(&path.text).is_some(),
                };
            }
            ExprKind::Call(call) => {
                let constant = expression::CONSTANT_FUNCTIONS
                    .iter()
                    .any(|(known, _)| *known == call.name.text);
                only_settings &= constant && call.label.is_none();
            }
            ExprKind::Element { .. } => only_settings = false,
            _ => {}
        });
        only_settings
    }

    /// The value of an expression of settings.
    pub(super) fn setting(&mut self, frame: &Frame, expr: &Expr) -> Result<Value, Diagnostic> {
        for path in expression::names(expr) {
            let local = frame.names.iter().rev().find(|(known, _)| *known == path.text);
            if let Some((name, bound)) = local
                && !matches!(bound, Bound::Setting(_))
            {
                return Err(Diagnostic::error(
                    codes::OPERAND,
                    format!("only settings can be read here, but `{name}` is {}", bound.describe()),
                )
                .at(path.span, "not a setting")
                .help(
                    "conditions, sizes and attributes read the configuration and repeat indices",
                ));
            }
        }
        expression::evaluate(expr, &|name| match frame
            .names
            .iter()
            .rev()
            .find(|(known, _)| known == name)
        {
            Some((_, Bound::Setting(value))) => Some(value.clone()),
            Some(_) => None,
            None => self.config.get(name).cloned(),
        })
    }

    pub(super) fn condition(&mut self, frame: &Frame, expr: &Expr) -> Result<bool, Diagnostic> {
        match self.setting(frame, expr)? {
            Value::Boolean(truth) => Ok(truth),
            other => Err(Diagnostic::error(
                codes::OPERAND,
                format!("a condition is true or false, not {}", other.type_name()),
            )
            .at(expr.span, format!("this is {other}"))
            .help("compare it with something")),
        }
    }

    /// A positive whole number.
    pub(super) fn extent(&mut self, frame: &Frame, expr: &Expr) -> Result<u64, Diagnostic> {
        let value = self.setting(frame, expr)?;
        if let Value::Integer(number @ 1..=MOST_EXTENT) = value {
            return Ok(number.unsigned_abs());
        }
        let mut diagnostic = Diagnostic::error(
            codes::EXTENT,
            format!("a size must be a whole number from 1 to {MOST_EXTENT}"),
        )
        .at(expr.span, format!("this is {value}"));
        for path in expression::names(expr) {
            if let (Some(place), Some(value)) =
                (self.config.place(&path.text), self.config.get(&path.text))
            {
                diagnostic = diagnostic.at(place, format!("`{}` is {value}", path.text));
            }
        }
        Err(diagnostic.help("change the settings it is computed from"))
    }

    /// A finite number.
    pub(super) fn number(&mut self, frame: &Frame, expr: &Expr) -> Result<f64, Diagnostic> {
        let value = self.setting(frame, expr)?;
        value.as_number().ok_or_else(|| {
            Diagnostic::error(
                codes::OPERAND,
                format!("a number is needed here, not {}", value.type_name()),
            )
            .at(expr.span, format!("this is {value}"))
            .help("write a number")
        })
    }

    /// A value of the computation, or `None` for one that is wrong already.
    pub(super) fn tensor(
        &mut self,
        frame: &mut Frame,
        expr: &Expr,
    ) -> Result<Option<Tensor>, Diagnostic> {
        match self.expression(frame, expr)? {
            Bound::Tensor(tensor) => Ok(Some(tensor)),
            Bound::Wrong => Ok(None),
            other => Err(Diagnostic::error(
                codes::OPERAND,
                format!("a value of the computation is needed here, not {}", other.describe()),
            )
            .at(expr.span, "not computed by an operation")
            .help("give it the result of an operation, a block, or an input of the model")),
        }
    }
}
