//! The text of a kernel: definitions, the prelude, a generated program, and the file of its family.
//!
//! Owns how a text is put together and what a kernel's parameters are. Must not know operations or devices.

use std::fmt::Write;

use colac_plan::DType;

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    AdamW,
    Attention,
    AttentionTiles,
    Copies,
    Dropout,
    Embedding,
    Fill,
    Head,
    Norm,
    Pointwise,
    Product,
    Reduce,
    Rope,
    Rows,
}

impl Family {
    /// Name of the file without its end, and its text.
    pub(crate) fn file(self) -> (&'static str, &'static str) {
        macro_rules! file {
            ($name:literal) => {
                ($name, include_str!(concat!("kernels/", $name, ".cu")))
            };
        }
        match self {
            Family::AdamW => file!("adamw"),
            Family::Attention => file!("attention"),
            Family::AttentionTiles => file!("attention_tiles"),
            Family::Copies => file!("copies"),
            Family::Dropout => file!("dropout"),
            Family::Embedding => file!("embedding"),
            Family::Fill => file!("fill"),
            Family::Head => file!("head"),
            Family::Norm => file!("norm"),
            Family::Pointwise => file!("pointwise"),
            Family::Product => file!("product"),
            Family::Reduce => file!("reduce"),
            Family::Rope => file!("rope"),
            Family::Rows => file!("rows"),
        }
    }
}

const PRELUDE: &str = include_str!("kernels/prelude.cuh");

/// What a kernel is compiled from. Equal sources are compiled once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Source {
    pub(crate) family: Family,
    /// Macros: types, widths, what is there.
    pub(crate) defines: Vec<(&'static str, String)>,
    /// Generated functions, and the macros `PROGRAM_PARAMS` and `PROGRAM_ARGS` that carry their operands.
    pub(crate) program: String,
}

impl Source {
    /// A family without a program.
    pub(crate) fn new(family: Family) -> Source {
        Source { family, defines: Vec::new(), program: String::new() }
    }

    /// With a macro.
    pub(crate) fn define(mut self, name: &'static str, value: impl ToString) -> Source {
        self.defines.push((name, value.to_string()));
        self
    }

    /// With a macro that is the element type of a tensor.
    pub(crate) fn format(self, name: &'static str, dtype: DType) -> Source {
        self.define(name, type_name(dtype))
    }

    /// The whole text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.defines {
            let _ = writeln!(text, "#define {name} {value}");
        }
        text.push_str(PRELUDE);
        text.push_str(&self.program);
        text.push_str(self.family.file().1);
        text
    }
}

/// What the kernels call an element format.
pub(crate) fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::Bf16 => "bf16",
        DType::I32 => "i32",
    }
}
