//! One GPU: context, the stream that computes, memory, modules, graphs.
//!
//! A program is run step by step the first time, which loads what the driver loads lazily, and captured as a CUDA graph
//! the second time; from then on it is one launch. Failures while a program runs are failures of the device, for which
//! nobody up the stack has a remedy: they end the process with the driver's words.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr;

use cudarc::driver::sys;

use crate::cuda::attention::{AttentionKernels, AttentionShape};
use crate::cuda::device::Device;
use crate::cuda::driver::compile::{compile_all, version};
use crate::cuda::driver::cudnn::{Cudnn, PreparedAttention};
use crate::cuda::driver::libraries;
use crate::cuda::driver::product::{PreparedProduct, Products};
use crate::cuda::driver::transfers::Transfers;
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Argument, Kernel, Launch, Step};
use crate::cuda::lower;
use crate::cuda::source::Source;

/// Turns a status of the driver into an error that says what was being done.
pub(super) fn check(status: sys::CUresult, doing: &'static str) -> Result<(), CudaError> {
    if status == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = ptr::null();
    // SAFETY: the driver is loaded, since it gave a status; it hands out a string that lives for ever.
    let message = unsafe {
        match sys::cuGetErrorString(status, &mut text) {
            sys::CUresult::CUDA_SUCCESS if !text.is_null() => {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
            _ => format!("{status:?}"),
        }
    };
    Err(CudaError::Driver { doing, message })
}

/// What is known of a GPU before anything is allocated on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuDescription {
    /// As the driver calls it.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
    /// All memory, in bytes.
    pub memory_bytes: u64,
    /// The newest CUDA that the driver knows: 13000 for 13.0.
    pub driver_version: i32,
}

impl GpuDescription {
    /// What kernels are compiled for.
    pub(crate) fn architecture(&self) -> String {
        format!("sm_{}{}", self.capability.0, self.capability.1)
    }
}

/// Opens the driver and asks it for a device.
///
/// # Errors
/// Without a driver, without a device, or with one that is too old.
pub(crate) fn probe(ordinal: i32) -> Result<(sys::CUdevice, GpuDescription), CudaError> {
    libraries::driver()?;
    // SAFETY: the driver is open; every pointer is to a place of the right type.
    unsafe {
        check(sys::cuInit(0), "starting the driver")?;
        let mut driver_version = 0;
        check(sys::cuDriverGetVersion(&mut driver_version), "asking for the driver's version")?;
        let mut count = 0;
        check(sys::cuDeviceGetCount(&mut count), "counting devices")?;
        if count <= ordinal {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let mut device = 0;
        check(sys::cuDeviceGet(&mut device, ordinal), "opening the device")?;
        let mut name = [0 as std::ffi::c_char; 256];
        let length = name.len() as i32;
        check(sys::cuDeviceGetName(name.as_mut_ptr(), length, device), "asking for its name")?;
        let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
        let attribute = |attribute| {
            let mut value = 0;
            check(sys::cuDeviceGetAttribute(&mut value, attribute, device), "asking for attributes")
                .map(|()| value)
        };
        use sys::CUdevice_attribute_enum as A;
        let capability = (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let multiprocessors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let mut bytes = 0;
        check(sys::cuDeviceTotalMem_v2(&mut bytes, device), "asking for its memory")?;
        let memory_bytes = bytes as u64;
        if capability < (8, 0) {
            return Err(CudaError::TooOld { name, capability });
        }
        let description =
            GpuDescription { name, capability, multiprocessors, memory_bytes, driver_version };
        Ok((device, description))
    }
}

/// Bytes of a device's memory that nobody has.
///
/// # Errors
/// Without driver or device.
pub(crate) fn free_memory(ordinal: i32) -> Result<u64, CudaError> {
    let (device, _) = probe(ordinal)?;
    let (mut context, mut free, mut total) = (ptr::null_mut(), 0, 0);
    // SAFETY: the driver is open and the device exists; the context is given back.
    unsafe {
        check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "opening a context")?;
        check(sys::cuCtxSetCurrent(context), "using the context")?;
        let asked = check(sys::cuMemGetInfo_v2(&mut free, &mut total), "asking for free memory");
        let _ = sys::cuDevicePrimaryCtxRelease_v2(device);
        asked?;
    }
    Ok(free as u64)
}

/// Allocations that the device makes for itself.
const OWN_ALLOCATIONS: usize = 2;

/// One GPU. See the module's text.
pub(crate) struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    description: GpuDescription,
    allocations: Vec<sys::CUdeviceptr>,
    modules: BTreeMap<Source, sys::CUmodule>,
    graphs: BTreeMap<usize, Graph>,
    /// There once it is known how much there is to copy.
    transfers: Option<Transfers>,
    products: Option<Products>,
    /// Where its attention was asked for.
    cudnn: Option<Cudnn>,
    events: Vec<sys::CUevent>,
}

/// A program on its way to being one launch.
enum Graph {
    /// Was run step by step once.
    Warm,
    Captured(sys::CUgraphExec),
}

/// A step with everything resolved.
pub(crate) enum Prepared {
    Kernel(PreparedKernel),
    Product(PreparedProduct),
    Attention(PreparedAttention),
}

/// A kernel with its arguments.
pub(crate) struct PreparedKernel {
    function: sys::CUfunction,
    grid: u32,
    threads: u32,
    shared: u32,
    // The arguments that `pointers` point to; never moved.
    _values: Box<[u64]>,
    pointers: Box<[*mut c_void]>,
}

impl Gpu {
    /// Opens a GPU: its context, a stream, the library of products. `choices` is the file in which a run keeps the
    /// algorithms of its products. cuDNN is opened where its attention is asked for.
    ///
    /// # Errors
    /// Whatever is missing.
    pub(crate) fn new(
        ordinal: i32,
        choices: Option<&Path>,
        attention: AttentionKernels,
    ) -> Result<Gpu, CudaError> {
        let (device, description) = probe(ordinal)?;
        version()?;
        libraries::cublaslt()?;
        let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the driver is open and the device exists.
        unsafe {
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "opening a context")?;
            check(sys::cuCtxSetCurrent(context), "using the context")?;
            let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
            check(sys::cuStreamCreate(&mut stream, flags), "creating a stream")?;
        }
        let mut gpu = Gpu {
            device,
            context,
            stream,
            description,
            allocations: Vec::new(),
            modules: BTreeMap::new(),
            graphs: BTreeMap::new(),
            transfers: None,
            products: None,
            cudnn: None,
            events: Vec::new(),
        };
        let workspace = gpu.allocate(Products::WORKSPACE, "workspace of products")?;
        let constants = gpu.allocate(Products::CONSTANTS, "constants of products")?;
        gpu.write(constants, bytemuck::cast_slice(&Products::constants()));
        gpu.products =
            Some(Products::new(&gpu.description, stream, workspace, constants, choices)?);
        if attention == AttentionKernels::Cudnn {
            gpu.cudnn = Some(Cudnn::new(&gpu.description, stream)?);
        }
        Ok(gpu)
    }

    /// What it is.
    pub(crate) fn description(&self) -> &GpuDescription {
        &self.description
    }

    /// Bytes in use on the device by everybody, and all.
    pub(crate) fn memory_in_use(&self) -> Result<(u64, u64), CudaError> {
        self.enter();
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is current.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "asking for free memory")?;
        Ok(((total - free) as u64, total as u64))
    }

    /// The algorithms of the products that were prepared, as the file of a run holds them.
    pub(crate) fn choices(&self) -> String {
        self.products.as_ref().expect("there from the beginning").choices()
    }

    /// Gives back what was allocated for a plan and forgets its programs; kernels and choices of products stay.
    pub(crate) fn forget_plan(&mut self) {
        self.enter();
        self.synchronize();
        self.discard_reads();
        for (_, graph) in std::mem::take(&mut self.graphs) {
            if let Graph::Captured(executable) = graph {
                // SAFETY: captured here, and nothing is running.
                let _ = unsafe { sys::cuGraphExecDestroy(executable) };
            }
        }
        for allocation in self.allocations.drain(OWN_ALLOCATIONS.min(self.allocations.len())..) {
            // SAFETY: allocated here, and nothing is running.
            let _ = unsafe { sys::cuMemFree_v2(allocation) };
        }
    }

    /// Makes the context current on this thread.
    fn enter(&self) {
        // SAFETY: the context lives as long as `self`.
        or_end(check(unsafe { sys::cuCtxSetCurrent(self.context) }, "using the context"));
    }

    fn transfers(&mut self) -> &mut Transfers {
        self.transfers.as_mut().expect("room for copies was asked for")
    }

    fn synchronize(&self) {
        // SAFETY: the stream lives as long as `self`.
        or_end(check(unsafe { sys::cuStreamSynchronize(self.stream) }, "running"));
    }

    fn kernel(&mut self, launch: &Launch) -> Result<PreparedKernel, CudaError> {
        let module = self.modules.get(&launch.source).copied().ok_or_else(|| {
            CudaError::Compiler(format!("kernel {} was not compiled", launch.entry))
        })?;
        let name = CString::new(launch.entry).expect("names of kernels have no zero byte");
        let mut function = ptr::null_mut();
        // SAFETY: the module is loaded, the context is current.
        unsafe {
            check(
                sys::cuModuleGetFunction(&mut function, module, name.as_ptr()),
                "finding a kernel",
            )?;
            if launch.shared > 48 << 10 {
                let attribute =
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                check(
                    sys::cuFuncSetAttribute(function, attribute, launch.shared as i32),
                    "reserving shared memory",
                )?;
            }
        }
        let values: Box<[u64]> = launch.arguments.iter().map(|a| slot(*a)).collect();
        let pointers = values.iter().map(|value| ptr::from_ref(value).cast_mut().cast()).collect();
        let grid = u32::try_from(launch.grid).ok().filter(|grid| *grid < 1 << 31);
        let grid = grid.ok_or_else(|| {
            CudaError::Compiler(format!("kernel {} has {} blocks", launch.entry, launch.grid))
        })?;
        let (threads, shared) = (launch.threads, launch.shared);
        Ok(PreparedKernel { function, grid, threads, shared, _values: values, pointers })
    }

    fn step(&self, step: &Prepared) -> Result<(), CudaError> {
        match step {
            Prepared::Kernel(kernel) if kernel.grid == 0 => Ok(()),
            Prepared::Kernel(kernel) => {
                // SAFETY: function and arguments were prepared; addresses lie in allocations of this device.
                let status = unsafe {
                    sys::cuLaunchKernel(
                        kernel.function,
                        kernel.grid,
                        1,
                        1,
                        kernel.threads,
                        1,
                        1,
                        kernel.shared,
                        self.stream,
                        kernel.pointers.as_ptr().cast_mut(),
                        ptr::null_mut(),
                    )
                };
                check(status, "launching a kernel")
            }
            Prepared::Product(product) => {
                self.products.as_ref().expect("there from the beginning").run(product)
            }
            Prepared::Attention(attention) => {
                self.cudnn.as_ref().expect("it prepared the attention").run(attention)
            }
        }
    }

    fn walk(&self, steps: &[Prepared], flags: &[bool]) -> Result<(), CudaError> {
        steps.iter().zip(flags).filter(|(_, flag)| **flag).try_for_each(|(step, _)| self.step(step))
    }

    fn capture(&self, steps: &[Prepared], flags: &[bool]) -> Result<sys::CUgraphExec, CudaError> {
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: nothing else uses the stream; the graph is destroyed once it has been instantiated.
        unsafe {
            check(sys::cuStreamBeginCapture_v2(self.stream, mode), "capturing a program")?;
            let walked = self.walk(steps, flags);
            check(sys::cuStreamEndCapture(self.stream, &mut graph), "capturing a program")?;
            walked?;
            check(
                sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0),
                "making a graph of a program",
            )?;
            check(sys::cuGraphDestroy(graph), "capturing a program")?;
        }
        Ok(executable)
    }
}

/// An argument in the eight bytes that its parameter is read from.
pub(crate) fn slot(argument: Argument) -> u64 {
    match argument {
        Argument::Address(value) | Argument::U64(value) => value,
        Argument::I64(value) => value as u64,
        Argument::U32(value) => u64::from(value),
        Argument::F32(value) => u64::from(value.to_bits()),
        Argument::F64(value) => value.to_bits(),
    }
}

/// Ends the process with the driver's words: a device that fails while it runs cannot be used any further.
pub(super) fn or_end<T>(result: Result<T, CudaError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the GPU failed: {error}"),
    }
}

impl Device for Gpu {
    type Prepared = Prepared;

    fn multiprocessors(&self) -> u64 {
        u64::try_from(self.description.multiprocessors).unwrap_or(1)
    }

    fn allocate(&mut self, bytes: u64, purpose: &'static str) -> Result<u64, CudaError> {
        if bytes == 0 {
            return Ok(0);
        }
        self.enter();
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut address = 0;
        // SAFETY: the context is current.
        let status = unsafe { sys::cuMemAlloc_v2(&mut address, size) };
        check(status, "allocating memory").map_err(|error| CudaError::Memory {
            purpose,
            bytes,
            message: error.to_string(),
        })?;
        self.allocations.push(address);
        self.clear(address, bytes)?;
        Ok(address)
    }

    fn reserve_copies(&mut self, up: u64, down: u64) -> Result<(), CudaError> {
        if self.transfers.as_ref().is_some_and(|transfers| transfers.holds(up, down)) {
            return Ok(());
        }
        self.enter();
        self.synchronize();
        if let Some(mut smaller) = self.transfers.take() {
            // SAFETY: the context is current, and nothing is running.
            unsafe { smaller.destroy() };
        }
        self.transfers = Some(Transfers::new(up, down)?);
        Ok(())
    }

    fn fill_with_noise(&mut self, address: u64, bytes: u64) -> Result<(), CudaError> {
        if bytes < 4 {
            return Ok(());
        }
        let launch = lower::noise(address, bytes / 4);
        self.compile(&[launch.kernel()])?;
        let kernel = Prepared::Kernel(self.kernel(&launch)?);
        self.step(&kernel)?;
        self.synchronize();
        Ok(())
    }

    fn clear(&mut self, address: u64, bytes: u64) -> Result<(), CudaError> {
        if bytes == 0 {
            return Ok(());
        }
        self.enter();
        // SAFETY: the caller's range is one of ours.
        unsafe {
            let status = sys::cuMemsetD8Async(address, 0, bytes as usize, self.stream);
            check(status, "clearing memory")?;
            check(sys::cuStreamSynchronize(self.stream), "clearing memory")
        }
    }

    fn compile(&mut self, kernels: &[Kernel]) -> Result<(), CudaError> {
        self.enter();
        let mut missing: Vec<Source> = (kernels.iter().map(|kernel| &kernel.source))
            .filter(|source| !self.modules.contains_key(source))
            .cloned()
            .collect();
        missing.sort();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        for (source, cubin) in compile_all(&missing, &self.description.architecture())? {
            let mut module = ptr::null_mut();
            // SAFETY: the image is what NVRTC made, and lives during the call.
            let status = unsafe { sys::cuModuleLoadData(&mut module, cubin.as_ptr().cast()) };
            check(status, "loading kernels")?;
            self.modules.insert(source, module);
        }
        Ok(())
    }

    fn attention_workspace(&self, shape: &AttentionShape) -> Result<Option<u64>, CudaError> {
        let Some(cudnn) = &self.cudnn else { return Ok(None) };
        self.enter();
        cudnn.workspace(shape)
    }

    fn prepare(&mut self, step: &Step) -> Result<Prepared, CudaError> {
        self.enter();
        match step {
            Step::Launch(launch) => Ok(Prepared::Kernel(self.kernel(launch)?)),
            Step::Product(product) => {
                let products = self.products.as_mut().expect("there from the beginning");
                if let Some(prepared) = products.prepare(product)? {
                    return Ok(Prepared::Product(prepared));
                }
                let launch = lower::product::fallback(product);
                self.compile(&[launch.kernel()])?;
                Ok(Prepared::Kernel(self.kernel(&launch)?))
            }
            Step::Attention(attention) => {
                let cudnn = self.cudnn.as_ref().expect("it said that it takes the attention");
                Ok(Prepared::Attention(cudnn.prepare(attention)?))
            }
        }
    }

    fn prepared(&mut self) -> Result<(), CudaError> {
        self.products.as_mut().expect("there from the beginning").save()
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.enter();
        let stream = self.stream;
        if let Some(transfers) = &mut self.transfers
            && transfers.write(stream, address, bytes)
        {
            return;
        }
        self.synchronize();
        // SAFETY: the caller's range is one of ours, and nothing else uses it now.
        let status = unsafe { sys::cuMemcpyHtoD_v2(address, bytes.as_ptr().cast(), bytes.len()) };
        or_end(check(status, "copying to the device"));
    }

    fn read(&self, address: u64, bytes: &mut [u8]) {
        self.enter();
        self.synchronize();
        // SAFETY: the caller's range is one of ours, and nothing is running.
        let status =
            unsafe { sys::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), address, bytes.len()) };
        or_end(check(status, "copying from the device"));
    }

    fn queue_read(&mut self, address: u64, bytes: usize) {
        self.enter();
        let stream = self.stream;
        self.transfers().queue_read(stream, address, bytes);
    }

    fn fetch(&mut self, bytes: &mut [u8]) {
        self.enter();
        self.transfers().fetch(bytes);
    }

    fn discard_reads(&mut self) {
        self.enter();
        if let Some(transfers) = &mut self.transfers {
            transfers.discard_reads();
        }
    }

    fn run(&mut self, key: usize, steps: &[Prepared], flags: &[bool]) {
        self.enter();
        match self.graphs.get(&key) {
            None => {
                or_end(self.walk(steps, flags));
                self.graphs.insert(key, Graph::Warm);
            }
            Some(Graph::Warm) => {
                let executable = or_end(self.capture(steps, flags));
                self.graphs.insert(key, Graph::Captured(executable));
                self.run(key, steps, flags);
            }
            Some(Graph::Captured(executable)) => {
                // SAFETY: graph and stream live as long as `self`.
                let status = unsafe { sys::cuGraphLaunch(*executable, self.stream) };
                or_end(check(status, "launching a program"));
            }
        }
    }

    fn run_timed(
        &mut self,
        steps: &[Prepared],
        flags: &[bool],
        groups: &[usize],
        ends: &mut [u64],
    ) {
        self.enter();
        while self.events.len() <= groups.len() {
            let mut event = ptr::null_mut();
            // SAFETY: the context is current.
            or_end(check(unsafe { sys::cuEventCreate(&mut event, 0) }, "creating an event"));
            self.events.push(event);
        }
        let record = |index: usize| {
            // SAFETY: event and stream live as long as `self`.
            or_end(check(unsafe { sys::cuEventRecord(self.events[index], self.stream) }, "timing"));
        };
        record(0);
        let mut first = 0;
        for (index, &end) in groups.iter().enumerate() {
            or_end(self.walk(&steps[first..end], &flags[first..end]));
            record(index + 1);
            first = end;
        }
        self.synchronize();
        for (index, end) in ends.iter_mut().enumerate() {
            let mut milliseconds = 0.0;
            // SAFETY: both events have been recorded and waited for.
            let status = unsafe {
                sys::cuEventElapsedTime_v2(
                    &mut milliseconds,
                    self.events[0],
                    self.events[index + 1],
                )
            };
            or_end(check(status, "timing"));
            *end = (f64::from(milliseconds) * 1e6) as u64;
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: everything below was made by this object and is not used any more. Failures are ignored: the process
        // gives everything back anyway.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            let _ = sys::cuStreamSynchronize(self.stream);
            for graph in self.graphs.values() {
                if let Graph::Captured(executable) = graph {
                    let _ = sys::cuGraphExecDestroy(*executable);
                }
            }
            self.products = None;
            self.cudnn = None;
            for event in &self.events {
                let _ = sys::cuEventDestroy_v2(*event);
            }
            for module in self.modules.values() {
                let _ = sys::cuModuleUnload(*module);
            }
            for allocation in &self.allocations {
                let _ = sys::cuMemFree_v2(*allocation);
            }
            if let Some(mut transfers) = self.transfers.take() {
                transfers.destroy();
            }
            let _ = sys::cuStreamDestroy_v2(self.stream);
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}
