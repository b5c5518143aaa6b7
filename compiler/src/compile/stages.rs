//! What is looked at between the stages.
//!
//! Owns verifying every graph, printing the one that is asked for, and keeping them all where pictures are made of them.
//! Must not change a graph.

use std::collections::BTreeMap;

use crate::compile::{Dump, UNKNOWN_PASS, bug};
use crate::diagnostics::{Diagnostic, did_you_mean};
use crate::emit::Scheduled;
use crate::graph::{Graph, Home, PrintOptions};
use crate::passes::PASSES;

/// What is kept of the graphs on the way to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    Graphs,
}

/// Verifies after every stage, prints the one asked for, and keeps the graphs.
pub(super) struct Stages {
    wanted: Option<Dump>,
    /// What was asked for.
    pub(super) text: Option<String>,
    keep: Keep,
    /// By pass, the graph after it.
    pub(super) graphs: BTreeMap<&'static str, Graph>,
}

impl Stages {
    pub(super) fn new(wanted: Option<Dump>, keep: Keep) -> Result<Stages, Diagnostic> {
        if let Some(dump) = &wanted
            && !PASSES.iter().any(|p| p.name == dump.pass)
        {
            let names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
            let otherwise = || format!("write one of {}", names.join(", "));
            let help = did_you_mean(&dump.pass, names.iter().copied(), otherwise);
            let message = format!("there is no pass `{}`", dump.pass);
            return Err(Diagnostic::error(UNKNOWN_PASS, message).help(help));
        }
        Ok(Stages { wanted, text: None, keep, graphs: BTreeMap::new() })
    }

    fn wants(&self, pass: &str) -> Option<PrintOptions> {
        self.wanted.as_ref().filter(|dump| dump.pass == pass).map(|dump| dump.options)
    }

    pub(super) fn after(&mut self, pass: &'static str, graph: &Graph) -> Result<(), Diagnostic> {
        // The training graph comes last after a pass that runs for every program.
        if self.keep == Keep::Graphs {
            self.graphs.insert(pass, graph.clone());
        }
        if let Some(options) = self.wants(pass) {
            self.text = Some(graph.print(options));
        }
        graph.verify().map_err(|error| bug(format!("after {pass}: {error}")))
    }

    pub(super) fn after_schedule(&mut self, scheduled: &Scheduled) {
        if let Some(options) = self.wants("schedule") {
            let place = |value| match scheduled.graph.home(value) {
                Some(Home::Join { start, .. }) => Some(format!("in its join from {start}")),
                Some(Home::Operand(_)) => Some("on its operand".to_owned()),
                None => {
                    scheduled.placement.offsets.get(&value).map(|offset| format!("at {offset}"))
                }
            };
            self.text = Some(scheduled.graph.print_ordered(&scheduled.order, &place, options));
        }
    }
}
