//! What a device is asked to do: launches of kernels, products, attention by a library.
//!
//! Owns the words between [`crate::cuda::lower`] and the devices. Must not know operations or drivers.

use colac_plan::DType;

use crate::cuda::attention::Attention;
use crate::cuda::source::Source;
use crate::cuda::view::Rows;

/// One argument of a kernel, of the type that the kernel's parameter has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Argument {
    /// A pointer to anything; 0 is the null pointer.
    Address(u64),
    U64(u64),
    I64(i64),
    U32(u32),
    F32(f32),
    F64(f64),
}

/// A kernel: the text that it is compiled from and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kernel {
    pub(crate) source: Source,
    pub(crate) entry: &'static str,
}

/// One launch: blocks and threads have one axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch {
    /// The text that the kernel is compiled from.
    pub(crate) source: Source,
    /// Name of the kernel in the text.
    pub(crate) entry: &'static str,
    /// Blocks; a launch without blocks is left out.
    pub(crate) grid: u64,
    /// Threads of a block; a multiple of 32.
    pub(crate) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
    pub(crate) arguments: Vec<Argument>,
}

impl Launch {
    /// The kernel launched.
    pub(crate) fn kernel(&self) -> Kernel {
        Kernel { source: self.source.clone(), entry: self.entry }
    }
}

/// A matrix of a product, stored in rows; `transposed` says that the product takes it with rows and columns exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Factor {
    pub(crate) address: u64,
    pub(crate) dtype: DType,
    /// As stored.
    pub(crate) rows: u64,
    /// As stored.
    pub(crate) columns: u64,
    /// Elements from row to row, as stored.
    pub(crate) stride: u64,
    pub(crate) transposed: bool,
}

impl Factor {
    /// Some rows as they are.
    pub(crate) fn of(rows: Rows) -> Factor {
        let Rows { address, dtype, rows, width, stride, .. } = rows;
        Factor { address, dtype, rows, columns: width, stride, transposed: false }
    }

    /// With rows and columns exchanged.
    pub(crate) fn transposed(self) -> Factor {
        Factor { transposed: !self.transposed, ..self }
    }

    /// Rows and columns as the product takes them.
    pub(crate) fn extents(&self) -> (u64, u64) {
        match self.transposed {
            false => (self.rows, self.columns),
            true => (self.columns, self.rows),
        }
    }
}

/// What becomes of the old contents of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// Replaced, whatever they are.
    Overwrite,
    /// Added to.
    Add,
    /// Added to where the f32 at this address is 1; replaced without being read where it is 0.
    AddIf(u64),
}

impl WriteMode {
    /// The two arguments that kernels take for it: `u32 mode, const float* condition`.
    pub(crate) fn arguments(self) -> [Argument; 2] {
        match self {
            WriteMode::Overwrite => [Argument::U32(0), Argument::Address(0)],
            WriteMode::Add => [Argument::U32(1), Argument::Address(0)],
            WriteMode::AddIf(condition) => [Argument::U32(2), Argument::Address(condition)],
        }
    }
}

/// `c = a b`, or added to what is there; sums in f32, rounded once. `c` is not transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) a: Factor,
    pub(crate) b: Factor,
    pub(crate) c: Factor,
    pub(crate) write: WriteMode,
}

/// One thing a device does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Launch(Launch),
    Product(Product),
    /// As a whole, by a library that said that it takes it.
    Attention(Box<Attention>),
}
