//! Attention by cuDNN: graphs of its backend, without its C++ layer.
//!
//! `attention`, `forward` and `backward` make the graphs, `describe` hands one to the library, `plan` has it choose how to
//! run it, and what is here keeps a plan for each shape and runs it. The library is opened only where it is asked for.
//! Owns every call of it, and which attentions it is given. Must not know plans of models.

mod attention;
mod backward;
mod describe;
mod descriptor;
#[cfg(test)]
mod evaluate;
mod forward;
mod graph;
mod library;
mod names;
mod plan;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys::CUstream;

use crate::cuda::attention::{Attention, AttentionShape, Pass};
use crate::cuda::driver::gpu::GpuDescription;
use crate::cuda::driver::libraries::{self, Library};
use crate::cuda::error::CudaError;
use crate::cuda::memory::MOST_ATTENTION;

use descriptor::Descriptor;
use graph::{Place, Scalar};
use library::{Functions, Raw};
use plan::{Plan, Target};

/// The library, with a plan for every shape that it was asked for.
pub(crate) struct Cudnn {
    functions: &'static Functions,
    device: Device,
    capability: (i32, i32),
    plans: RefCell<BTreeMap<AttentionShape, Option<Rc<Plan>>>>,
}

/// What plans are made for.
enum Device {
    /// A device, by the library's handle of it.
    There(Raw),
    /// One that is not there, by its description: its plans can be prepared and not run.
    #[cfg_attr(not(any(test, feature = "cuda-shim")), expect(dead_code, reason = "for tests"))]
    Described(Descriptor),
}

impl Device {
    fn target(&self) -> Target<'_> {
        match self {
            Device::There(handle) => Target::Handle(*handle),
            Device::Described(description) => Target::Described(description),
        }
    }
}

/// An attention that is ready to run.
pub(crate) struct PreparedAttention {
    plan: Rc<Plan>,
    pack: Descriptor,
    // Numbers that `pack` points to.
    _scalars: Box<[f32]>,
}

/// Whether the library is there and new enough.
///
/// # Errors
/// If it is not, with what to do.
pub(crate) fn available() -> Result<(), CudaError> {
    library::functions().map(|_| ())
}

/// Version and place of the library, in words.
///
/// # Errors
/// As [`available`].
pub(super) fn described() -> Result<(String, &'static Library), CudaError> {
    library::described()
}

impl Cudnn {
    /// Opens the library on the current context, for work on a stream.
    ///
    /// # Errors
    /// If it is missing or too old, or refuses the device.
    pub(super) fn new(device: &GpuDescription, stream: CUstream) -> Result<Cudnn, CudaError> {
        // The library ends the process where it does not find this one by itself.
        libraries::cublaslt()?;
        let functions = library::functions()?;
        let mut handle = ptr::null_mut();
        // SAFETY: there is a place for the handle, and a context is current.
        functions.check(unsafe { (functions.create)(&mut handle) }, "opening the device")?;
        let (capability, plans) = (device.capability, RefCell::default());
        let cudnn = Cudnn { functions, device: Device::There(handle), capability, plans };
        // SAFETY: handle and stream live.
        let status = unsafe { (functions.set_stream)(handle, stream.cast()) };
        functions.check(status, "setting the stream")?;
        Ok(cudnn)
    }

    /// Opens the library for a device that is described to it in JSON.
    ///
    /// # Errors
    /// If the library is missing, or does not take the description.
    #[cfg(any(test, feature = "cuda-shim"))]
    pub(crate) fn described(device: &str, capability: (i32, i32)) -> Result<Cudnn, CudaError> {
        libraries::cublaslt()?;
        let functions = library::functions()?;
        let description =
            Descriptor::new(functions, names::described::BACKEND_DEVICEPROP_DESCRIPTOR)?
                .text(names::described::ATTR_DEVICEPROP_JSON_REPRESENTATION, device)?
                .finalized("reading a device's description")?;
        let (device, plans) = (Device::Described(description), RefCell::default());
        Ok(Cudnn { functions, device, capability, plans })
    }

    /// Bytes of workspace with which the library computes an attention; `None` where it does not take it.
    ///
    /// # Errors
    /// If the library fails at what it should always take.
    pub(crate) fn workspace(&self, shape: &AttentionShape) -> Result<Option<u64>, CudaError> {
        Ok(self.plan(shape)?.map(|plan| plan.workspace))
    }

    fn plan(&self, shape: &AttentionShape) -> Result<Option<Rc<Plan>>, CudaError> {
        if let Some(plan) = self.plans.borrow().get(shape) {
            return Ok(plan.clone());
        }
        let plan = match is_known(shape, self.capability) {
            true => plan_of(self.functions, shape, self.device.target())?,
            false => None,
        };
        let plan = plan.filter(|plan| plan.workspace <= MOST_ATTENTION).map(Rc::new);
        self.plans.borrow_mut().insert(shape.clone(), plan.clone());
        Ok(plan)
    }

    /// Resolves an attention whose workspace has been allocated.
    ///
    /// # Errors
    /// For one that the library does not take.
    pub(crate) fn prepare(&self, attention: &Attention) -> Result<PreparedAttention, CudaError> {
        let plan = self.plan(&attention.shape)?.ok_or_else(|| CudaError::Cudnn {
            doing: "preparing an attention",
            message: "there is no plan for it".to_owned(),
        })?;
        prepared(self.functions, plan, attention)
    }

    /// Computes an attention on the stream.
    ///
    /// # Errors
    /// If the library fails.
    pub(super) fn run(&self, attention: &PreparedAttention) -> Result<(), CudaError> {
        let Device::There(handle) = self.device else { return Ok(()) };
        let (plan, pack) = (attention.plan.plan.raw(), attention.pack.raw());
        // SAFETY: handle, plan and pack live; addresses lie in the device's allocations, and the workspace has its size.
        let status = unsafe { (self.functions.execute)(handle, plan, pack) };
        self.functions.check(status, "running attention")
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        self.plans.borrow_mut().clear();
        if let Device::There(handle) = self.device {
            // SAFETY: made by `Cudnn::new`, destroyed once.
            let _ = unsafe { (self.functions.destroy)(handle) };
        }
    }
}

/// Whether an attention is of the kind that the graphs are made for, on a GPU of such a capability: others' deterministic
/// derivative wants other graphs.
fn is_known(shape: &AttentionShape, capability: (i32, i32)) -> bool {
    shape.is_for_library() && matches!(capability.0, 8 | 9)
}

/// The library's plan for a shape.
fn plan_of(
    functions: &'static Functions,
    shape: &AttentionShape,
    target: Target<'_>,
) -> Result<Option<Plan>, CudaError> {
    let graph = match shape.pass {
        Pass::Forward => forward::graph(shape),
        Pass::Backward => backward::graph(shape),
    };
    plan::plan(functions, &graph, target)
}

/// What lies behind each tensor of a plan.
fn prepared(
    functions: &'static Functions,
    plan: Rc<Plan>,
    attention: &Attention,
) -> Result<PreparedAttention, CudaError> {
    let number = |place: &Place| match place {
        Place::Scalar(Scalar::Scale) => attention.scale,
        Place::Scalar(Scalar::Value(value)) => *value,
        Place::Heads(_) | Place::Logarithms | Place::RowSums => 0.0,
    };
    let scalars: Box<[f32]> = plan.places.iter().map(|(_, place)| number(place)).collect();
    let pointers: Vec<Raw> = (plan.places.iter().zip(&scalars))
        .map(|((_, place), scalar)| match *place {
            Place::Heads(index) => attention.heads[index] as Raw,
            Place::Logarithms => attention.logarithms as Raw,
            Place::RowSums => attention.row_sums as Raw,
            Place::Scalar(_) => ptr::from_ref(scalar).cast_mut().cast(),
        })
        .collect();
    let numbers: Vec<i64> = plan.places.iter().map(|(number, _)| *number).collect();
    let pack = Descriptor::new(functions, names::BACKEND_VARIANT_PACK_DESCRIPTOR)?
        .numbers(names::ATTR_VARIANT_PACK_UNIQUE_IDS, &numbers)?
        .pointers(names::ATTR_VARIANT_PACK_DATA_POINTERS, &pointers)?
        .pointers(names::ATTR_VARIANT_PACK_WORKSPACE, &[attention.workspace as Raw])?
        .finalized("preparing an attention")?;
    Ok(PreparedAttention { plan, pack, _scalars: scalars })
}
