//! The CPU executor: plans of any precision on a few threads.
//!
//! Construction maps every segment, resolves every operation of every program to a kernel and starts the threads; a run
//! only walks the list. Nothing is allocated while a program runs (on x86-64, where the GEMM library keeps its packing
//! buffers; elsewhere it allocates them in each product). Results have the same bits for any number of threads, since
//! tasks and the order of additions depend on shapes alone; they may differ between instruction sets. What is stored in
//! bf16 is brought to f32 before arithmetic and rounded once after it (`stored.rs`); that costs time, and the numbers are
//! those that any executor of bf16 must give within its rounding. The widest vector
//! instructions are used that the processor has and `COLAC_CPU_VECTORS` (`avx512`, `avx2` or `baseline`) allows.
//!
//! One file for each family of operations; `prepare` joins them with the plan. Must not know the training loop.

mod adamw;
mod attention;
mod attention_backward;
mod checking;
mod copies;
mod dropout;
mod embedding;
mod error;
mod factor;
mod gemm;
mod head_loss;
mod heads;
mod kernel;
mod layer_norm;
mod memory;
mod norm;
mod pointwise;
mod pool;
mod prepare;
mod reduce;
mod rope;
mod rows;
mod stored;
#[cfg(test)]
mod tests;
mod vector;
pub(crate) mod view;

use std::sync::Arc;
use std::time::Instant;

use colac_plan::program::When;
use colac_plan::{DType, Plan, ProgramKind, Segment, Tensor, TensorId};

use crate::cpu::checking::{Poison, overwrite, poison};
use crate::cpu::kernel::{Context, Kernel, Scratch};
use crate::cpu::memory::Memory;
use crate::cpu::pool::Pool;
use crate::cpu::prepare::prepare;
use crate::cpu::stored::Pointer;
use crate::cpu::view::Segments;
use crate::executor::{Executor, OperationSpan, TimedExecutor};

pub use crate::contract::{LayoutProblem, OperationError, OperationProblem};
pub use error::CpuError;

/// Where the activation arena is put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArenaPlacement {
    /// From a page boundary on.
    #[default]
    PageStart,
    /// So that it ends where a protected page begins: an access past its end stops the process. For tests; Unix only.
    BeforeProtectedPage,
}

/// How a plan is executed. Nothing here changes a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that share the work, the calling one included; 0 takes one for each core.
    pub threads: usize,
    /// Overwrites workspace before each operation, and activations after their last planned use, with signalling NaNs.
    /// For tests: slow.
    pub checking: bool,
    /// Where the activation arena is put.
    pub arena: ArenaPlacement,
}

/// An operation ready to run.
struct Prepared {
    kernel: Box<dyn Kernel + Sync>,
    when: When,
    workspace: u64,
}

struct PreparedProgram {
    kind: ProgramKind,
    operations: Vec<Prepared>,
    /// Only in checking mode.
    poison: Option<Poison>,
}

/// Executes a plan on the CPU.
///
/// The plan should have passed the verifier; what the executor relies on for memory safety it checks itself.
pub struct CpuExecutor {
    plan: Arc<Plan>,
    // Before the memory, so that threads end first.
    pool: Pool,
    scratch: Scratch,
    programs: Vec<PreparedProgram>,
    segments: Segments,
    // Read through `segments`; kept here because it is unmapped when dropped.
    _memory: Vec<Memory>,
}

impl CpuExecutor {
    /// Allocates all segments, zeroed and of exactly the planned sizes, prepares every operation and starts the threads.
    ///
    /// # Errors
    /// A plan that contradicts itself, and a machine without the memory or threads.
    pub fn new(plan: Arc<Plan>, options: CpuOptions) -> Result<CpuExecutor, CpuError> {
        if let Err(value) = vector::widest() {
            return Err(CpuError::Vectors {
                variable: vector::WIDEST_VARIABLE,
                value: value.clone(),
            });
        }
        let (memory, segments) = allocate(&plan, options.arena)?;
        let mut programs = Vec::with_capacity(plan.programs.len());
        for program in &plan.programs {
            let mut operations = Vec::with_capacity(program.operations.len());
            for operation in &program.operations {
                let kernel = prepare(&plan, &segments, operation)?;
                operations.push(Prepared {
                    kernel,
                    when: operation.when,
                    workspace: operation.workspace,
                });
            }
            let poison = options.checking.then(|| poison(&plan, program));
            programs.push(PreparedProgram { kind: program.kind, operations, poison });
        }
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        gemm::warm_up();
        let pool = Pool::new(threads, gemm::warm_up)
            .map_err(|source| CpuError::Threads { threads, source })?;
        let kernels = programs.iter().flat_map(|program| &program.operations).map(|o| &o.kernel);
        let each = kernels.map(|kernel| kernel.scratch()).max().unwrap_or(0);
        let scratch = Scratch::new(threads, each).map_err(|source| CpuError::Memory {
            purpose: "scratch of the threads",
            bytes: (threads * each * 4) as u64,
            source,
        })?;
        Ok(CpuExecutor { plan, pool, scratch, programs, segments, _memory: memory })
    }

    /// Bytes allocated for segments: what the plan predicts.
    pub fn segment_bytes(&self) -> u64 {
        self.segments.bytes.iter().map(|bytes| *bytes as u64).sum()
    }

    /// Bytes of private scratch of the threads, which the plan does not count.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch.bytes() as u64
    }

    /// Threads that share the work.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// A tensor that has so many elements.
    fn tensor(&self, id: TensorId, values: usize) -> &Tensor {
        let tensor = self.plan.tensor(id);
        let elements = tensor.ty.shape.elements();
        assert_eq!(values as u64, elements, "values for tensor {id} ({})", tensor.name);
        tensor
    }

    /// The address of an integer tensor.
    fn integers(&self, id: TensorId, values: usize) -> (&Tensor, *mut i32) {
        let tensor = self.tensor(id, values);
        match self.segments.locate(tensor, DType::I32) {
            Ok(pointer) => (tensor, pointer.cast()),
            Err(problem) => panic!("tensor {id} ({}) {problem}", tensor.name),
        }
    }

    /// The address of a real tensor.
    fn reals(&self, id: TensorId) -> (&Tensor, Pointer) {
        let tensor = self.plan.tensor(id);
        match Pointer::locate(&self.segments, tensor) {
            Ok(pointer) => (tensor, pointer),
            Err(problem) => panic!("tensor {id} ({}) {problem}", tensor.name),
        }
    }

    /// The elements from `first` on of a real tensor whose elements follow each other.
    fn flat(&self, id: TensorId, first: usize, count: usize) -> Pointer {
        let (tensor, pointer) = self.reals(id);
        let elements = tensor.ty.shape.elements();
        assert!(tensor.strides == Tensor::packed_strides(&tensor.ty), "{id} has gaps");
        let end = first.checked_add(count).map(|end| end as u64);
        assert!(end.is_some_and(|end| end <= elements), "{first} and {count} more in {id}");
        pointer.at(first)
    }
}

/// Maps the segments.
fn allocate(plan: &Plan, arena: ArenaPlacement) -> Result<(Vec<Memory>, Segments), CpuError> {
    let count = Segment::ALL.len();
    let mut memory = Vec::with_capacity(count);
    let mut segments = Segments {
        pointers: [std::ptr::null_mut(); Segment::ALL.len()],
        bytes: [0; Segment::ALL.len()],
    };
    for segment in Segment::ALL {
        let bytes = plan.bytes(segment);
        let error = |source| CpuError::Memory { purpose: segment.name(), bytes, source };
        let size =
            usize::try_from(bytes).map_err(|_| error(std::io::ErrorKind::OutOfMemory.into()))?;
        let guarded =
            segment == Segment::Activations && arena == ArenaPlacement::BeforeProtectedPage;
        let mut block =
            if guarded { Memory::guarded(size) } else { Memory::zeroed(size) }.map_err(error)?;
        segments.pointers[segment.index()] = block.pointer();
        segments.bytes[segment.index()] = block.bytes();
        memory.push(block);
    }
    Ok((memory, segments))
}

/// Calls `row` for each innermost row of a tensor, in logical order, with the distance of its first element from the
/// tensor's first.
fn for_each_row(tensor: &Tensor, mut row: impl FnMut(usize)) {
    let leading = tensor.ty.shape.leading();
    for index in 0..tensor.ty.shape.rows() {
        let (mut rest, mut distance) = (index, 0);
        for (axis, stride) in leading.iter().zip(&tensor.strides).rev() {
            distance += rest % axis.extent * stride;
            rest /= axis.extent;
        }
        row(distance as usize);
    }
}

/// Copies packed values into a tensor, each stored by `store`.
///
/// # Safety
/// `pointer` is the address of the tensor's first element, of type `S`, and nobody else uses the tensor.
unsafe fn scatter<T: Copy, S>(
    tensor: &Tensor,
    pointer: *mut S,
    values: &[T],
    store: impl Fn(T) -> S,
) {
    let (width, step) =
        (tensor.ty.shape.width() as usize, tensor.strides.last().map_or(1, |s| *s as usize));
    let mut values = values.iter();
    for_each_row(tensor, |distance| {
        for (column, value) in values.by_ref().take(width).enumerate() {
            // SAFETY: the element is inside the tensor, which is inside its segment.
            unsafe { pointer.add(distance + column * step).write(store(*value)) };
        }
    });
}

/// Copies a tensor into packed values, each brought by `load`.
///
/// # Safety
/// As [`scatter`].
unsafe fn gather<T, S: Copy>(
    tensor: &Tensor,
    pointer: *const S,
    values: &mut [T],
    load: impl Fn(S) -> T,
) {
    let (width, step) =
        (tensor.ty.shape.width() as usize, tensor.strides.last().map_or(1, |s| *s as usize));
    let mut values = values.iter_mut();
    for_each_row(tensor, |distance| {
        for (column, value) in values.by_ref().take(width).enumerate() {
            // SAFETY: the element is inside the tensor, which is inside its segment.
            *value = load(unsafe { pointer.add(distance + column * step).read() });
        }
    });
}

impl Executor for CpuExecutor {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn write_f32(&mut self, tensor: TensorId, values: &[f32]) {
        self.tensor(tensor, values.len());
        let (tensor, pointer) = self.reals(tensor);
        // SAFETY: located and checked; `self` is borrowed exclusively and no program is running.
        unsafe {
            match pointer {
                Pointer::F32(pointer) => scatter(tensor, pointer, values, |value| value),
                Pointer::Bf16(pointer) => scatter(tensor, pointer, values, vector::bf16_bits),
            }
        }
    }

    fn write_i32(&mut self, tensor: TensorId, values: &[i32]) {
        let (tensor, pointer) = self.integers(tensor, values.len());
        // SAFETY: as above.
        unsafe { scatter(tensor, pointer, values, |value| value) };
    }

    fn read_f32(&self, tensor: TensorId, values: &mut [f32]) {
        self.tensor(tensor, values.len());
        let (tensor, pointer) = self.reals(tensor);
        // SAFETY: located and checked; programs and writes borrow `self` exclusively, so none is running.
        unsafe {
            match pointer {
                Pointer::F32(pointer) => gather(tensor, pointer, values, |value| value),
                Pointer::Bf16(pointer) => gather(tensor, pointer, values, vector::from_bf16_bits),
            }
        }
    }

    fn read_f32_range(&self, tensor: TensorId, first: usize, values: &mut [f32]) {
        let pointer = self.flat(tensor, first, values.len());
        // SAFETY: the range was checked to lie in the tensor, whose elements follow each other; as above.
        unsafe { pointer.copy_to(values) };
    }

    fn write_f32_range(&mut self, tensor: TensorId, first: usize, values: &[f32]) {
        let pointer = self.flat(tensor, first, values.len());
        // SAFETY: as above; `self` is borrowed exclusively, so there is no other reference to the elements.
        unsafe { pointer.set(values) };
    }

    fn read_i32(&self, tensor: TensorId, values: &mut [i32]) {
        let (tensor, pointer) = self.integers(tensor, values.len());
        // SAFETY: as above.
        unsafe { gather(tensor, pointer, values, |value| value) };
    }

    fn run(&mut self, program: ProgramKind, last_micro_batch: bool) {
        self.walk(program, last_micro_batch, |_, run| run());
    }
}

impl TimedExecutor for CpuExecutor {
    fn run_timed(
        &mut self,
        program: ProgramKind,
        last_micro_batch: bool,
        times: &mut [OperationSpan],
    ) {
        assert_eq!(times.len(), self.plan.program(program).operations.len(), "a span for each");
        let now = Instant::now();
        times.fill(OperationSpan { began: now, ended: now });
        self.walk(program, last_micro_batch, |index, run| {
            let began = Instant::now();
            run();
            times[index] = OperationSpan { began, ended: Instant::now() };
        });
    }
}

impl CpuExecutor {
    /// Runs the operations of a program, each inside a call of `around`, which is told its position and runs it.
    #[inline]
    fn walk(
        &mut self,
        program: ProgramKind,
        last_micro_batch: bool,
        mut around: impl FnMut(usize, &dyn Fn()),
    ) {
        let program = self
            .programs
            .iter()
            .find(|p| p.kind == program)
            .expect("a verified plan has every program");
        let context = Context { pool: &self.pool, scratch: &self.scratch };
        let fill = |segment: Segment, range: &std::ops::Range<u64>| {
            assert!(range.end <= self.segments.bytes[segment.index()] as u64);
            // SAFETY: inside the segment; no kernel is running.
            unsafe { overwrite(self.segments.pointers[segment.index()], range) };
        };
        if let Some(poison) = &program.poison {
            poison.before.iter().for_each(|range| fill(Segment::Activations, range));
        }
        for (index, operation) in program.operations.iter().enumerate() {
            if program.poison.is_some() {
                fill(Segment::Workspace, &(0..operation.workspace));
            }
            let runs = match operation.when {
                When::Always => true,
                When::LastMicroBatch => last_micro_batch,
            };
            if runs {
                around(index, &|| operation.kernel.run(&context));
            }
            if let Some(poison) = &program.poison {
                poison.after[index].iter().for_each(|range| fill(Segment::Activations, range));
            }
        }
    }
}
