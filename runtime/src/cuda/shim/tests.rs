//! The conformance suite over the kernels' own sources.

use std::sync::Arc;

use colac_plan::Plan;

use super::{Collector, Products, Shim};
use crate::conformance;
use crate::cuda::executor::DeviceExecutor;
use crate::executor::Executor;

fn make(products: Products, seed: u32) -> impl Fn(Arc<Plan>) -> Box<dyn Executor> {
    move |plan| {
        let executor = DeviceExecutor::new(plan, Shim::new(products, seed));
        Box::new(executor.expect("a plan of one operation"))
    }
}

/// Builds the kernels of all cases at once.
fn build() {
    let mut collector = Collector::default();
    for plan in conformance::plans() {
        DeviceExecutor::new(plan, &mut collector).expect("a plan of one operation");
    }
    let kernels: Vec<_> = collector.kernels.into_iter().collect();
    super::build::all(&kernels).expect("kernels are C++");
}

#[test]
fn kernels_conform_on_the_cpu() {
    build();
    conformance::check(&make(Products::Loops, 1));
}
