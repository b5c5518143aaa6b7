//! The executor over a device: one arena, programs as lists of steps.
//!
//! Construction allocates all memory, lowers and prepares every operation, and times products; running a program is one
//! call of the device. Owns how tensors cross between host and device. Must not know drivers.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use colac_plan::program::When;
use colac_plan::{DType, Op, Plan, ProgramKind, Tensor, TensorId};

use crate::cuda::attention::{Attention, AttentionKernels, AttentionShape, AttentionUse};
use crate::cuda::device::Device;
use crate::cuda::driver::{Gpu, GpuDescription};
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Kernel, Step};
use crate::cuda::lower::{Target, lower};
use crate::cuda::memory::{Arena, Copies};
use crate::cuda::order::Order;
use crate::cuda::view::Segments;
use crate::executor::{Executor, OperationSpan, QueuedReads, TimedExecutor};

/// A program whose steps are ready.
struct Prepared<S> {
    kind: ProgramKind,
    steps: Vec<S>,
    /// One past the last step of each operation.
    ends: Vec<usize>,
    /// Whether a step runs, for micro-batches before the last and for the last.
    flags: [Vec<bool>; 2],
    /// Nanoseconds at the end of each operation, where they are measured.
    times: Vec<u64>,
}

/// Executes a plan on a device.
pub(crate) struct DeviceExecutor<D: Device> {
    plan: Arc<Plan>,
    programs: Vec<Prepared<D::Prepared>>,
    segments: Segments,
    orders: BTreeMap<TensorId, Order>,
    /// Numbers on their way to a tensor of bf16.
    bits: Vec<u16>,
    /// Everything allocated for the plan, its orders, and attention by a library.
    allocated: u64,
    /// The last of these.
    attention_workspace: u64,
    attention: AttentionUse,
    // After the programs, whose steps it made.
    device: D,
}

impl<D: Device> DeviceExecutor<D> {
    /// Allocates, lowers, compiles, times products.
    pub(crate) fn new(plan: Arc<Plan>, mut device: D) -> Result<DeviceExecutor<D>, CudaError> {
        let mut all = Arena::of(&plan);
        let in_arena = all.bytes;
        let copies = Copies::of(&plan, &all);
        device.reserve_copies(copies.up, copies.down)?;
        let arena = device.allocate(in_arena, "the plan's tensors")?;
        all.begin_at(arena);
        let Arena { segments, orders, mut bytes } = all;
        let places = orders.iter().map(|(ids, order)| (*ids, order.address)).collect();
        let workspace = Cell::new(0);
        let takes = |shape: &AttentionShape| {
            let needed = device.attention_workspace(shape)?;
            workspace.set(workspace.get().max(needed.unwrap_or(0)));
            Ok(needed.is_some())
        };
        let mut lowered = Vec::with_capacity(plan.programs.len());
        for program in &plan.programs {
            let steps = program.operations.iter();
            let target = Target { multiprocessors: device.multiprocessors(), takes: &takes };
            let steps = steps.map(|operation| lower(&plan, &segments, &places, operation, target));
            lowered.push(steps.collect::<Result<Vec<Vec<Step>>, CudaError>>()?);
        }
        // One for all attentions: they run one after the other.
        let workspace = workspace.get();
        let at = device.allocate(workspace, "the workspace of attention")?;
        bytes += workspace;
        attentions(&mut lowered).for_each(|attention| attention.workspace = at);
        let attention = attention_use(&plan, attentions(&mut lowered).count());
        device.compile(&kernels(&lowered))?;
        device.fill_with_noise(arena, in_arena)?;
        let mut programs = Vec::with_capacity(plan.programs.len());
        for (program, lowered) in plan.programs.iter().zip(&lowered) {
            programs.push(prepare(&mut device, program, lowered)?);
        }
        device.prepared()?;
        device.clear(arena, in_arena)?;
        let mut executor = DeviceExecutor {
            plan,
            programs,
            segments,
            orders,
            bits: Vec::new(),
            allocated: bytes,
            attention_workspace: workspace,
            attention,
            device,
        };
        let ids: Vec<TensorId> = executor.orders.keys().copied().collect();
        for ids in ids {
            let zeros = vec![0; executor.plan.tensor(ids).ty.shape.elements() as usize];
            executor.upload_order(ids, &zeros);
        }
        Ok(executor)
    }

    /// Bytes allocated for the plan's segments, the sort orders of ids, and attention by a library.
    pub(crate) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// What computes the plan's attention.
    pub(crate) fn attention(&self) -> AttentionUse {
        self.attention
    }

    /// The device.
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    fn place(&self, id: TensorId, real: bool) -> (&Tensor, u64) {
        let tensor = self.plan.tensor(id);
        assert_eq!(tensor.ty.dtype.is_float(), real, "the format of tensor {id} ({})", tensor.name);
        match self.segments.locate(tensor) {
            Ok(address) => (tensor, address),
            Err(problem) => panic!("tensor {id} ({}) {problem}", tensor.name),
        }
    }

    /// Writes the bytes of packed elements into a tensor. What lies between its rows stays.
    fn write(&mut self, id: TensorId, real: bool, packed: &[u8]) {
        let (tensor, address) = self.place(id, real);
        if tensor.is_packed() {
            return self.device.write(address, packed);
        }
        let mut bytes = vec![0; span(tensor)];
        self.device.read(address, &mut bytes);
        for_each_row(tensor, |place, within, count| {
            bytes[place..place + count].copy_from_slice(&packed[within..within + count]);
        });
        self.device.write(address, &bytes);
    }

    /// Reads a tensor as the bytes of packed elements.
    fn read(&self, id: TensorId, real: bool, packed: &mut [u8]) {
        let (tensor, address) = self.place(id, real);
        if tensor.is_packed() {
            return self.device.read(address, packed);
        }
        let mut bytes = vec![0; span(tensor)];
        self.device.read(address, &mut bytes);
        for_each_row(tensor, |place, within, count| {
            packed[within..within + count].copy_from_slice(&bytes[place..place + count]);
        });
    }

    fn upload_order(&mut self, ids: TensorId, values: &[i32]) {
        let Some(order) = self.orders.get_mut(&ids) else { return };
        let address = order.address;
        let table = order.of(values);
        self.device.write(address, bytemuck::cast_slice(table));
    }

    fn check_length(&self, id: TensorId, length: usize) {
        let tensor = self.plan.tensor(id);
        let elements = tensor.ty.shape.elements();
        assert_eq!(length as u64, elements, "values for tensor {id} ({})", tensor.name);
    }

    /// The address of part of a tensor whose elements follow each other.
    fn part(&self, id: TensorId, first: usize, count: usize) -> (DType, u64) {
        let (tensor, address) = self.place(id, true);
        assert!(tensor.is_packed(), "{id} has gaps");
        let end = first.checked_add(count).map(|end| end as u64);
        assert!(
            end.is_some_and(|end| end <= tensor.ty.shape.elements()),
            "{first} and {count} more in {id}"
        );
        (tensor.ty.dtype, address + first as u64 * tensor.ty.dtype.bytes())
    }
}

/// Bytes from the first to one past the last element.
fn span(tensor: &Tensor) -> usize {
    tensor.span_bytes().expect("a located tensor fits into its segment") as usize
}

/// Calls `visit` with the place of each piece of neighbouring elements from the first element on, its place among packed
/// elements, and its length, all in bytes, in logical order.
fn for_each_row(tensor: &Tensor, mut visit: impl FnMut(usize, usize, usize)) {
    let bytes = tensor.ty.dtype.bytes() as usize;
    let leading = tensor.ty.shape.leading();
    let width = tensor.ty.shape.width() as usize;
    for row in 0..tensor.ty.shape.rows() {
        let (mut rest, mut distance) = (row, 0);
        for (axis, stride) in leading.iter().zip(&tensor.strides).rev() {
            distance += rest % axis.extent * stride;
            rest /= axis.extent;
        }
        visit(distance as usize * bytes, row as usize * width * bytes, width * bytes);
    }
}

/// The attentions that a library computes.
fn attentions(lowered: &mut [Vec<Vec<Step>>]) -> impl Iterator<Item = &mut Attention> {
    lowered.iter_mut().flatten().flatten().filter_map(|step| match step {
        Step::Attention(attention) => Some(attention.as_mut()),
        Step::Launch(_) | Step::Product(_) => None,
    })
}

/// What computes a plan's attention, of which a library has so many operations.
fn attention_use(plan: &Plan, library: usize) -> AttentionUse {
    let operations = plan.programs.iter().flat_map(|program| &program.operations);
    let all = operations
        .filter(|o| matches!(o.op, Op::Attention { .. } | Op::AttentionBackward { .. }))
        .count();
    AttentionUse { library, own: all - library }
}

/// The distinct kernels of all launches.
fn kernels(lowered: &[Vec<Vec<Step>>]) -> Vec<Kernel> {
    let steps = lowered.iter().flatten().flatten();
    let kernels: BTreeSet<Kernel> = steps
        .filter_map(|step| match step {
            Step::Launch(launch) => Some(launch.kernel()),
            Step::Product(_) | Step::Attention(_) => None,
        })
        .collect();
    kernels.into_iter().collect()
}

fn prepare<D: Device>(
    device: &mut D,
    program: &colac_plan::Program,
    lowered: &[Vec<Step>],
) -> Result<Prepared<D::Prepared>, CudaError> {
    let (mut steps, mut ends) = (Vec::new(), Vec::with_capacity(lowered.len()));
    let mut flags = [Vec::new(), Vec::new()];
    for (operation, lowered) in program.operations.iter().zip(lowered) {
        for step in lowered {
            steps.push(device.prepare(step)?);
            flags[0].push(operation.when == When::Always);
            flags[1].push(true);
        }
        ends.push(steps.len());
    }
    let times = vec![0; ends.len()];
    Ok(Prepared { kind: program.kind, steps, ends, flags, times })
}

impl<D: Device> Executor for DeviceExecutor<D> {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn write_f32(&mut self, tensor: TensorId, values: &[f32]) {
        self.check_length(tensor, values.len());
        match self.plan.tensor(tensor).ty.dtype {
            DType::Bf16 => {
                let mut bits = std::mem::take(&mut self.bits);
                bits.clear();
                bits.extend(values.iter().map(|value| bf16_bits(*value)));
                self.write(tensor, true, bytemuck::cast_slice(&bits));
                self.bits = bits;
            }
            DType::F32 | DType::I32 => self.write(tensor, true, bytemuck::cast_slice(values)),
        }
    }

    fn clear(&mut self, id: TensorId) {
        let (tensor, address) = self.place(id, true);
        if tensor.is_packed() {
            let bytes = tensor.ty.shape.elements() * tensor.ty.dtype.bytes();
            return self
                .device
                .clear(address, bytes)
                .unwrap_or_else(|e| panic!("the GPU failed: {e}"));
        }
        let zeros = vec![0.0; tensor.ty.shape.elements() as usize];
        self.write_f32(id, &zeros);
    }

    fn write_i32(&mut self, tensor: TensorId, values: &[i32]) {
        self.check_length(tensor, values.len());
        self.write(tensor, false, bytemuck::cast_slice(values));
        self.upload_order(tensor, values);
    }

    fn read_f32(&self, tensor: TensorId, values: &mut [f32]) {
        self.check_length(tensor, values.len());
        match self.plan.tensor(tensor).ty.dtype {
            DType::Bf16 => {
                let mut bits = vec![0u16; values.len()];
                self.read(tensor, true, bytemuck::cast_slice_mut(&mut bits));
                values.iter_mut().zip(bits).for_each(|(value, bits)| *value = from_bf16_bits(bits));
            }
            DType::F32 | DType::I32 => {
                self.read(tensor, true, bytemuck::cast_slice_mut(values));
            }
        }
    }

    fn read_f32_range(&self, tensor: TensorId, first: usize, values: &mut [f32]) {
        match self.part(tensor, first, values.len()) {
            (DType::Bf16, address) => {
                let mut bits = vec![0u16; values.len()];
                self.device.read(address, bytemuck::cast_slice_mut(&mut bits));
                values.iter_mut().zip(bits).for_each(|(value, bits)| *value = from_bf16_bits(bits));
            }
            (_, address) => self.device.read(address, bytemuck::cast_slice_mut(values)),
        }
    }

    fn write_f32_range(&mut self, tensor: TensorId, first: usize, values: &[f32]) {
        match self.part(tensor, first, values.len()) {
            (DType::Bf16, address) => {
                let bits: Vec<u16> = values.iter().map(|value| bf16_bits(*value)).collect();
                self.device.write(address, bytemuck::cast_slice(&bits));
            }
            (_, address) => self.device.write(address, bytemuck::cast_slice(values)),
        }
    }

    fn read_i32(&self, tensor: TensorId, values: &mut [i32]) {
        self.check_length(tensor, values.len());
        self.read(tensor, false, bytemuck::cast_slice_mut(values));
    }

    fn run(&mut self, program: ProgramKind, last_micro_batch: bool) {
        let index = position(&self.programs, program);
        let last = usize::from(last_micro_batch);
        let Prepared { steps, flags, .. } = &self.programs[index];
        // Where nothing waits for the last micro-batch, both ways of running are one.
        let last = if flags[0] == flags[1] { 1 } else { last };
        self.device.run(2 * index + last, steps, &flags[last]);
    }

    fn queued_reads(&mut self) -> Option<&mut dyn QueuedReads> {
        Some(self)
    }
}

impl<D: Device> QueuedReads for DeviceExecutor<D> {
    fn queue_read(&mut self, id: TensorId) {
        let elements = self.plan.tensor(id).ty.shape.elements();
        let (dtype, address) = self.part(id, 0, elements as usize);
        assert_eq!(dtype, DType::F32, "what is read behind is never rounded");
        self.device.queue_read(address, (elements * dtype.bytes()) as usize);
    }

    fn fetch(&mut self, values: &mut [f32]) {
        self.device.fetch(bytemuck::cast_slice_mut(values));
    }

    fn discard_reads(&mut self) {
        self.device.discard_reads();
    }
}

fn position<S>(programs: &[Prepared<S>], kind: ProgramKind) -> usize {
    let found = programs.iter().position(|program| program.kind == kind);
    found.expect("a verified plan has every program")
}

impl<D: Device> TimedExecutor for DeviceExecutor<D> {
    fn run_timed(
        &mut self,
        program: ProgramKind,
        last_micro_batch: bool,
        times: &mut [OperationSpan],
    ) {
        let index = position(&self.programs, program);
        let Prepared { steps, ends, flags, times: nanoseconds, .. } = &mut self.programs[index];
        assert_eq!(times.len(), ends.len(), "a span for each");
        let mut began = Instant::now();
        let flags = &flags[usize::from(last_micro_batch)];
        self.device.run_timed(steps, flags, ends, nanoseconds);
        let start = began;
        for (span, end) in times.iter_mut().zip(nanoseconds) {
            let ended = start + Duration::from_nanos(*end);
            *span = OperationSpan { began, ended };
            began = ended;
        }
    }
}

/// The nearest bf16, ties to even.
pub(crate) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn from_bf16_bits(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Executes a plan on an NVIDIA GPU.
pub struct CudaExecutor {
    executor: DeviceExecutor<Gpu>,
    kernels: AttentionKernels,
}

impl CudaExecutor {
    /// Opens the GPU of that number, allocates everything, compiles kernels (or takes them from the cache) and times
    /// products. `choices` is the file in which a run keeps the algorithms of its products: where it is there, they are
    /// used again, so that a run that goes on has the same bits. `attention` says whose kernels compute attention.
    ///
    /// # Errors
    /// Without driver, device, libraries or memory; each says what to do.
    pub fn new(
        plan: Arc<Plan>,
        ordinal: i32,
        choices: Option<&Path>,
        attention: AttentionKernels,
    ) -> Result<CudaExecutor, CudaError> {
        let gpu = Gpu::new(ordinal, choices, attention)?;
        Ok(CudaExecutor { executor: DeviceExecutor::new(plan, gpu)?, kernels: attention })
    }

    /// Whose kernels were asked for.
    pub fn kernels(&self) -> AttentionKernels {
        self.kernels
    }

    /// What computes the plan's attention: the library may not take all of it.
    pub fn attention(&self) -> AttentionUse {
        self.executor.attention()
    }

    /// The GPU.
    pub fn description(&self) -> &GpuDescription {
        self.executor.device().description()
    }

    /// Bytes allocated for the plan's segments, the sort orders of ids, and attention by a library.
    pub fn allocated(&self) -> u64 {
        self.executor.allocated()
    }

    /// Bytes of a library's workspace for attention, beside the plan's.
    pub fn attention_workspace(&self) -> u64 {
        self.executor.attention_workspace
    }

    /// Bytes of the device in use by everybody, and all that it has.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn memory_in_use(&self) -> Result<(u64, u64), CudaError> {
        self.executor.device().memory_in_use()
    }
}

impl Executor for CudaExecutor {
    fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    fn write_f32(&mut self, tensor: TensorId, values: &[f32]) {
        self.executor.write_f32(tensor, values);
    }

    fn clear(&mut self, tensor: TensorId) {
        self.executor.clear(tensor);
    }

    fn write_i32(&mut self, tensor: TensorId, values: &[i32]) {
        self.executor.write_i32(tensor, values);
    }

    fn read_f32(&self, tensor: TensorId, values: &mut [f32]) {
        self.executor.read_f32(tensor, values);
    }

    fn read_f32_range(&self, tensor: TensorId, first: usize, values: &mut [f32]) {
        self.executor.read_f32_range(tensor, first, values);
    }

    fn write_f32_range(&mut self, tensor: TensorId, first: usize, values: &[f32]) {
        self.executor.write_f32_range(tensor, first, values);
    }

    fn read_i32(&self, tensor: TensorId, values: &mut [i32]) {
        self.executor.read_i32(tensor, values);
    }

    fn choices(&self) -> Option<String> {
        Some(self.executor.device().choices())
    }

    fn run(&mut self, program: ProgramKind, last_micro_batch: bool) {
        self.executor.run(program, last_micro_batch);
    }

    fn queued_reads(&mut self) -> Option<&mut dyn QueuedReads> {
        self.executor.queued_reads()
    }
}

impl TimedExecutor for CudaExecutor {
    fn run_timed(
        &mut self,
        program: ProgramKind,
        last_micro_batch: bool,
        times: &mut [OperationSpan],
    ) {
        self.executor.run_timed(program, last_micro_batch, times);
    }
}
