//! Dropout: elements set to zero by counter-based random words.
//!
//! Owns the kernel, in place or not; forward and backward are the same. The words of an element depend on its place in
//! the tensor alone, so neither tasks nor threads can move them. Must not know other operations.

use crate::cpu::kernel::{Buffers, Context, Kernel, span};
use crate::cpu::stored::Stored;
use crate::cpu::vector::vectorised;
use crate::cpu::view::Integers;
use crate::host::random::philox4x32;

/// Elements whose words are made together: a multiple of four.
const GROUP: usize = 64;
/// Elements in a task, about.
const TASK_ELEMENTS: usize = 1 << 14;

/// [`colac_plan::Op::Dropout`].
#[derive(Debug)]
pub(crate) struct Dropout {
    pub(crate) x: Stored,
    pub(crate) draw: Integers,
    pub(crate) y: Stored,
    /// Whether `y` is `x`.
    pub(crate) in_place: bool,
    pub(crate) probability: f64,
    pub(crate) key: u64,
}

vectorised! {
    /// The words of the blocks from `first` on, four for each.
    fn words<FUSED>(key: [u32; 2], first: u64, draw: [u32; 2], words: &mut [u32; GROUP]) {
        for (block, words) in (first..).zip(words.as_chunks_mut::<4>().0) {
            *words = philox4x32(key, [block as u32, (block >> 32) as u32, draw[0], draw[1]]);
        }
    }
}

vectorised! {
    /// Drops the elements whose word is below the threshold.
    fn apply<FUSED>(y: &mut [f32], words: &[u32], threshold: u32, factor: f32) {
        for (y, word) in y.iter_mut().zip(words) {
            *y = if *word < threshold { 0.0 } else { *y * factor };
        }
    }
}

impl Dropout {
    /// Drops elements of a piece of a row whose first element has this index in the tensor.
    fn piece(
        &self,
        key: [u32; 2],
        draw: [u32; 2],
        threshold: u32,
        first: usize,
        mut y: &mut [f32],
    ) {
        let factor = (1.0 / (1.0 - self.probability)) as f32;
        let mut drawn = [0; GROUP];
        let mut element = first;
        while !y.is_empty() {
            // A group starts at a block, the elements perhaps within it.
            let skipped = element % 4;
            words(key, (element / 4) as u64, draw, &mut drawn);
            let count = y.len().min(GROUP - skipped);
            let (now, later) = y.split_at_mut(count);
            apply(now, &drawn[skipped..], threshold, factor);
            (y, element) = (later, element + count);
        }
    }
}

impl Kernel for Dropout {
    fn run(&self, context: &Context<'_>) {
        // SAFETY: the host sets the draw between runs and no operation writes it.
        let draw = unsafe { self.draw.all() };
        let word = |index: usize| draw[index].cast_unsigned();
        let key = [word(0) ^ self.key as u32, word(1) ^ (self.key >> 32) as u32];
        let number = [word(2), word(3)];
        let threshold = (self.probability * 4_294_967_296.0).floor() as u32;
        let (x, y) = match self.x.is_packed() && self.y.is_packed() {
            true => (self.x.flat(), self.y.flat()),
            false => (self.x, self.y),
        };
        if y.width == 0 {
            return;
        }
        let across = y.width.div_ceil(TASK_ELEMENTS);
        let together = (TASK_ELEMENTS / y.width).max(1);
        context.pool.run(y.rows.div_ceil(together) * across, &|task, thread| {
            let columns = span(task % across, TASK_ELEMENTS, y.width);
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers = Buffers::new(unsafe { context.scratch.of(thread, self.scratch()) });
            let (x_buffer, y_buffer) = (buffers.take(x.buffer(TASK_ELEMENTS)), buffers.rest());
            for row in span(task / across, together, y.rows) {
                let first = row * y.width + columns.start;
                // SAFETY: these elements belong to one task. Where `y` is `x`, only the slice of `y` is taken; else `x` is
                // apart from it and only read.
                unsafe {
                    if self.in_place {
                        y.update(row, columns.clone(), y_buffer, |y| {
                            self.piece(key, number, threshold, first, y);
                        });
                    } else {
                        let x = x.part(row, columns.clone(), x_buffer);
                        y.write(row, columns.clone(), y_buffer, |y| {
                            y.copy_from_slice(x);
                            self.piece(key, number, threshold, first, y);
                        });
                    }
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        self.x.buffer(TASK_ELEMENTS) + self.y.buffer(TASK_ELEMENTS)
    }
}
