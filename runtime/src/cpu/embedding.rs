//! Rows of a table looked up by id, and the gradient of the table.
//!
//! Owns both kernels. Must not know other operations.

use crate::cpu::kernel::{Buffers, Context, Kernel, WriteMode, span};
use crate::cpu::stored::Stored;
use crate::cpu::vector::accumulate;
use crate::cpu::view::Integers;

/// Looked-up rows in a task.
const TASK_ROWS: usize = 64;
/// Most tasks that the gradient is cut into; each reads all ids.
const MOST_TASKS: usize = 64;
/// Numbers of a table that is not f32 which a task keeps in f32 until all is added: that many more tasks there are.
const TASK_NUMBERS: usize = 1 << 16;

/// [`colac_plan::Op::Embedding`].
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) ids: Integers,
    pub(crate) table: Stored,
    pub(crate) y: Stored,
}

/// The row that an id names.
///
/// # Panics
/// The caller gave an id that the table does not have.
fn row_of(id: i32, rows: usize) -> usize {
    match usize::try_from(id) {
        Ok(row) if row < rows => row,
        _ => panic!("id {id} is not in a table of {rows} rows"),
    }
}

impl Kernel for Embedding {
    fn run(&self, context: &Context<'_>) {
        context.pool.run(self.ids.length.div_ceil(TASK_ROWS), &|task, _| {
            for row in span(task, TASK_ROWS, self.ids.length) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    let id = row_of(self.ids.all()[row], self.table.rows);
                    self.y.copy(row, 0, &self.table, id, 0..self.table.width);
                }
            }
        });
    }
}

/// [`colac_plan::Op::EmbeddingBackward`].
#[derive(Debug)]
pub(crate) struct EmbeddingBackward {
    pub(crate) ids: Integers,
    pub(crate) dy: Stored,
    pub(crate) dtable: Stored,
    pub(crate) write: WriteMode,
}

impl Kernel for EmbeddingBackward {
    fn run(&self, context: &Context<'_>) {
        let (rows, adds) = (self.dtable.rows, self.write.adds());
        // SAFETY: operands are only read.
        let ids = unsafe { self.ids.all() };
        // A task owns a range of the table and goes through all ids: additions to a row keep the order of the ids.
        let (each, width) = (self.task_rows(), self.dtable.width);
        context.pool.run(rows.div_ceil(each), &|task, thread| {
            let owned = span(task, each, rows);
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers = Buffers::new(unsafe { context.scratch.of(thread, self.scratch()) });
            let dy_buffer = buffers.take(self.dy.buffer(width));
            let mut sums = SumRows { first: owned.start, table: self.dtable, sums: buffers.rest() };
            for row in owned.clone() {
                // SAFETY: a row of the table belongs to one task.
                unsafe { sums.begin(row, adds) };
            }
            for (row, id) in ids.iter().enumerate() {
                let id = row_of(*id, rows);
                if owned.contains(&id) {
                    // SAFETY: as above; operands are only read.
                    unsafe { accumulate(sums.row(id), self.dy.row(row, dy_buffer)) };
                }
            }
            for row in owned {
                // SAFETY: as above.
                unsafe { sums.end(row) };
            }
        });
    }

    fn scratch(&self) -> usize {
        let width = self.dtable.width;
        self.dy.buffer(width) + self.dtable.buffer(self.task_rows() * width)
    }
}

impl EmbeddingBackward {
    /// Rows of the table in a task.
    fn task_rows(&self) -> usize {
        let each = self.dtable.rows.div_ceil(MOST_TASKS);
        match self.dtable.is_f32() {
            true => each.max(1),
            false => each.min(TASK_NUMBERS / self.dtable.width.max(1)).max(1),
        }
    }
}

/// Rows of a table while they are added up: in place where the table is f32, else in f32 beside it.
struct SumRows<'a> {
    /// Row of the table whose sum comes first.
    first: usize,
    table: Stored,
    sums: &'a mut [f32],
}

impl SumRows<'_> {
    /// Starts with what is there, or with 0.
    ///
    /// # Safety
    /// While this object lives, nobody else reads or writes the row.
    unsafe fn begin(&mut self, row: usize, adds: bool) {
        let width = self.table.width;
        match (self.table.is_f32(), adds) {
            (true, true) => {}
            // SAFETY: passed on.
            (true, false) => unsafe { self.table.clear(row, 0..width) },
            (false, false) => self.sums[(row - self.first) * width..][..width].fill(0.0),
            (false, true) => {
                let sums = &mut self.sums[(row - self.first) * width..][..width];
                // SAFETY: passed on; the row is brought to f32 in the place of its sum.
                unsafe { self.table.row(row, sums) };
            }
        }
    }

    /// The sum of a row.
    ///
    /// # Safety
    /// As [`SumRows::begin`].
    unsafe fn row(&mut self, row: usize) -> &mut [f32] {
        let width = self.table.width;
        match self.table.f32_row(row) {
            // SAFETY: the row lies in the table; passed on.
            Some(pointer) => unsafe { std::slice::from_raw_parts_mut(pointer, width) },
            None => &mut self.sums[(row - self.first) * width..][..width],
        }
    }

    /// Stores the sum.
    ///
    /// # Safety
    /// As [`SumRows::begin`].
    unsafe fn end(&mut self, row: usize) {
        let width = self.table.width;
        if !self.table.is_f32() {
            let sums = &self.sums[(row - self.first) * width..][..width];
            // SAFETY: passed on.
            unsafe { self.table.set(row, 0, sums) };
        }
    }
}
