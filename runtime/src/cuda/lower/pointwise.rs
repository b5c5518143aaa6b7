//! Pointwise programs: one launch, a thread for each group of neighbours.

use std::fmt::Write;

use colac_plan::pointwise::{InputForm, Program};

use super::{Lowering, Steps};
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::source::{Family, Source, type_name};
use crate::cuda::view::Rows;

/// Rows of fewer elements are taken one by one where a tensor is not aligned.
const SCATTERED_WIDTH: u64 = 64;

/// Threads of a block.
const THREADS: u32 = 256;

impl Lowering<'_> {
    /// Whether the launch of a program writes zeros where its results are padded.
    pub(super) fn pointwise_pads(&self, program: &Program) -> Result<bool, CudaError> {
        let steps = self.pointwise(program)?;
        Ok(steps.iter().any(|step| match step {
            Step::Launch(launch) => launch.source.defines.iter().any(|(name, _)| *name == "WIDTH"),
            Step::Product(_) | Step::Attention(_) => false,
        }))
    }

    /// The launch of a program.
    pub(super) fn pointwise(&self, program: &Program) -> Steps {
        // Without gaps and without inputs that know rows, all elements are one row: no division finds their place.
        let flat = program.inputs.iter().zip(&self.operands).all(|(form, tensor)| match form {
            InputForm::Elements => tensor.is_packed(),
            InputForm::Scalar => true,
            InputForm::Row | InputForm::Column => false,
        }) && self.results.iter().all(|tensor| tensor.is_packed());
        let results = (0..self.results.len())
            .map(|index| if flat { self.packed_result(index) } else { self.result(index) })
            .collect::<Result<Vec<Rows>, CudaError>>()?;
        let (rows, width) = (results[0].rows, results[0].width);
        let generated = self.program(program, 0, false, rows)?;
        // Eight neighbours at once where some tensor allows it; of the others a thread takes them one by one, which the
        // first-level cache makes nearly as good.
        let some = generated.some_wide || results.iter().any(Rows::is_wide_with_padding);
        let wide = some && (width >= SCATTERED_WIDTH || width.is_multiple_of(8));
        let groups = if wide { width.div_ceil(8) } else { width };
        let padded = wide && !width.is_multiple_of(8);
        let index = if rows * groups < 1 << 32 { "u32" } else { "u64" };
        let (mut params, mut names, mut stores) = (String::new(), String::new(), String::new());
        let mut arguments = vec![Argument::U64(rows * groups), Argument::U64(groups)];
        for (number, result) in results.iter().enumerate() {
            let name = type_name(result.dtype);
            let _ = write!(params, ", {name}* y{number}, u64 y{number}_stride");
            let _ = write!(names, ", y{number}, y{number}_stride");
            let place = format!("y{number} + row * y{number}_stride + column");
            let _ = match result.is_wide_with_padding() {
                true => writeln!(stores, "    store({place}, out[{number}]);"),
                false => writeln!(stores, "    store_each({place}, out[{number}], IN_ROW);"),
            };
            arguments.push(Argument::Address(result.address));
            arguments.push(Argument::U64(result.stride));
        }
        arguments.extend(generated.arguments);
        let text = format!(
            "{}#define RESULT_PARAMS {params}\n#define RESULT_ARGS {names}\n\
             DEVICE void store_results(u64 row, u64 column, const float (&out)[OUTPUTS][VEC] RESULT_PARAMS) {{\n{stores}}}\n",
            generated.text
        );
        let mut source = Source::new(Family::Pointwise)
            .define("VEC", if wide { 8 } else { 1 })
            .define("INDEX", index)
            .define("ROWS", if rows == 1 { 1 } else { 2 });
        if padded {
            source = source.define("WIDTH", width).define("IN_ROW", format!("({width} - column)"));
        }
        source.program = text;
        let grid = (rows * groups).div_ceil(u64::from(THREADS));
        Ok(vec![Step::Launch(Launch {
            source,
            entry: "pointwise",
            grid,
            threads: THREADS,
            shared: 0,
            arguments,
        })])
    }
}
