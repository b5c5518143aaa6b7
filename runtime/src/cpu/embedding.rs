//! Rows of a table looked up by id, and the gradient of the table.
//!
//! Owns both kernels. Must not know other operations.

use crate::cpu::kernel::{Context, Kernel, WriteMode, span};
use crate::cpu::vector::accumulate;
use crate::cpu::view::{Integers, Rows};

/// Looked-up rows in a task.
const TASK_ROWS: usize = 64;
/// Most tasks that the gradient is cut into; each reads all ids.
const MOST_TASKS: usize = 64;

/// [`colac_plan::Op::Embedding`].
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) ids: Integers,
    pub(crate) table: Rows,
    pub(crate) y: Rows,
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
                    self.y.row_mut(row).copy_from_slice(self.table.row(id));
                }
            }
        });
    }
}

/// [`colac_plan::Op::EmbeddingBackward`].
#[derive(Debug)]
pub(crate) struct EmbeddingBackward {
    pub(crate) ids: Integers,
    pub(crate) dy: Rows,
    pub(crate) dtable: Rows,
    pub(crate) write: WriteMode,
}

impl Kernel for EmbeddingBackward {
    fn run(&self, context: &Context<'_>) {
        let (rows, adds) = (self.dtable.rows, self.write.adds());
        // SAFETY: operands are only read.
        let ids = unsafe { self.ids.all() };
        // A task owns a range of the table and goes through all ids: additions to a row keep the order of the ids.
        let each = rows.div_ceil(MOST_TASKS).max(1);
        context.pool.run(rows.div_ceil(each), &|task, _| {
            let owned = span(task, each, rows);
            if !adds {
                for row in owned.clone() {
                    // SAFETY: a row of the table belongs to one task.
                    unsafe { self.dtable.row_mut(row) }.fill(0.0);
                }
            }
            for (row, id) in ids.iter().enumerate() {
                let id = row_of(*id, rows);
                if owned.contains(&id) {
                    // SAFETY: as above; operands are only read.
                    unsafe { accumulate(self.dtable.row_mut(id), self.dy.row(row)) };
                }
            }
        });
    }
}
