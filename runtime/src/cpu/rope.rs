//! Rotary positions: pairs of numbers turned by the angle of their position.
//!
//! Owns the kernel, in place or not. Must not know other operations.

use crate::cpu::heads::Heads;
use crate::cpu::kernel::{Buffers, Context, Kernel, span};
use crate::cpu::vector::vectorised;
use crate::cpu::view::Rows;

/// Positions in a task.
const TASK_POSITIONS: usize = 32;

/// [`colac_plan::Op::Rope`].
#[derive(Debug)]
pub(crate) struct Rope {
    pub(crate) x: Heads,
    pub(crate) cos: Rows,
    pub(crate) sin: Rows,
    pub(crate) y: Heads,
    /// Whether `y` is `x`.
    pub(crate) in_place: bool,
    /// 1, or -1 to turn back.
    pub(crate) direction: f32,
    /// Whether pairs are neighbours.
    pub(crate) interleaved: bool,
}

vectorised! {
    /// Turns the pairs `(first[i], second[i])`.
    fn turn<FUSED>(first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let s = *s * direction;
            (*a, *b) = (*a * *c - *b * s, *b * *c + *a * s);
        }
    }
}

vectorised! {
    /// Turns the pairs `(x[2i], x[2i + 1])`.
    fn turn_neighbours<FUSED>(x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
        for ((pair, c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            let s = *s * direction;
            let [a, b] = *pair;
            *pair = [a * *c - b * s, b * *c + a * s];
        }
    }
}

impl Kernel for Rope {
    fn run(&self, context: &Context<'_>) {
        let across = self.x.seq.div_ceil(TASK_POSITIONS);
        context.pool.run(self.x.batch * across, &|task, thread| {
            let batch = task / across;
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers = Buffers::new(unsafe { context.scratch.of(thread, self.scratch()) });
            let (x_buffer, y_buffer) = (buffers.take(self.x.buffer(1)), buffers.rest());
            for position in span(task % across, TASK_POSITIONS, self.x.seq) {
                // SAFETY: operands are only read.
                let (cos, sin) = unsafe { (self.cos.row(position), self.sin.row(position)) };
                let turn_pairs = |y: &mut [f32]| {
                    let y = &mut y[..2 * cos.len()];
                    if self.interleaved {
                        turn_neighbours(y, cos, sin, self.direction);
                    } else {
                        let (first, second) = y.split_at_mut(cos.len());
                        turn(first, second, cos, sin, self.direction);
                    }
                };
                for head in 0..self.x.heads {
                    let place = (batch, position, head);
                    // SAFETY: a position belongs to one task. Where `y` is `x`, only the slice of `y` is taken; else `x` is
                    // apart from it and only read.
                    unsafe {
                        if self.in_place {
                            self.y.change(place, true, y_buffer, turn_pairs);
                        } else {
                            let x = self.x.vector(batch, position, head, x_buffer);
                            self.y.change(place, false, y_buffer, |y| {
                                y.copy_from_slice(x);
                                turn_pairs(y);
                            });
                        }
                    }
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        self.x.buffer(1) + self.y.buffer(1)
    }
}
