//! What a prepared operation is: a kernel that runs on the pool.
//!
//! Owns the interface between the executor's loop and the operation families. Must not know any operation.

use crate::cpu::memory::Memory;
use crate::cpu::pool::Pool;
use crate::cpu::view::Rows;

/// What a kernel may use while it runs.
pub(crate) struct Context<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) scratch: &'a Scratch,
}

/// An operation with its tensors resolved. Running it allocates nothing.
pub(crate) trait Kernel: Send {
    /// Computes the results. Only one kernel runs at a time.
    fn run(&self, context: &Context<'_>);

    /// Numbers of scratch that each thread needs.
    fn scratch(&self) -> usize {
        0
    }
}

/// Private memory of each thread, allocated once.
#[derive(Debug)]
pub(crate) struct Scratch {
    memory: Memory,
    pointer: *mut f32,
    threads: usize,
    each: usize,
}

// SAFETY: parts are handed out by thread, see `Scratch::of`.
unsafe impl Sync for Scratch {}
// SAFETY: the pointer is into the memory owned beside it.
unsafe impl Send for Scratch {}

impl Scratch {
    /// `each` numbers for each of `threads` threads, on pages of their own.
    pub(crate) fn new(threads: usize, each: usize) -> std::io::Result<Scratch> {
        let each = each.next_multiple_of(1024);
        let mut memory = Memory::zeroed(threads * each * size_of::<f32>())?;
        let pointer = memory.pointer().cast();
        Ok(Scratch { memory, pointer, threads, each })
    }

    /// The memory of one thread.
    ///
    /// # Safety
    /// Only one slice of a thread's memory is alive at a time: a task takes it once, for its own thread.
    #[expect(
        clippy::mut_from_ref,
        reason = "each thread has a part of its own; the caller promises to take one slice"
    )]
    pub(crate) unsafe fn of(&self, thread: usize, length: usize) -> &mut [f32] {
        assert!(thread < self.threads && length <= self.each);
        // SAFETY: inside the memory, as checked; the caller answers for aliasing.
        unsafe {
            std::slice::from_raw_parts_mut(self.pointer.wrapping_add(thread * self.each), length)
        }
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes()
    }
}

/// Cuts a thread's scratch into buffers.
pub(crate) struct Buffers<'a>(&'a mut [f32]);

impl<'a> Buffers<'a> {
    /// The whole scratch, not cut yet.
    pub(crate) fn new(scratch: &'a mut [f32]) -> Buffers<'a> {
        Buffers(scratch)
    }

    /// The next buffer.
    pub(crate) fn take(&mut self, length: usize) -> &'a mut [f32] {
        let (buffer, rest) = std::mem::take(&mut self.0).split_at_mut(length);
        self.0 = rest;
        buffer
    }

    /// What is left.
    pub(crate) fn rest(self) -> &'a mut [f32] {
        self.0
    }
}

/// How an accumulating result is written in this run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WriteMode {
    Overwrite,
    Add,
    /// Adds where the scalar is not 0.
    AddIf(Rows),
}

impl WriteMode {
    /// Whether the old contents are kept and added to.
    pub(crate) fn adds(&self) -> bool {
        match self {
            WriteMode::Overwrite => false,
            WriteMode::Add => true,
            // SAFETY: the host sets the scalar between runs and no operation that reads it writes it.
            WriteMode::AddIf(scalar) => unsafe { scalar.scalar() != 0.0 },
        }
    }
}

/// Cuts `count` items into tasks of `each`: the items of task `index`.
pub(crate) fn span(index: usize, each: usize, count: usize) -> std::ops::Range<usize> {
    index * each..((index + 1) * each).min(count)
}
