//! Samples of operations that copy parts of rows, and of the sum over everything.

use colac_plan::{Op, TensorType};

use super::{Sample, real, with};

pub(super) fn slice() -> Vec<Sample> {
    // Leading axes, width, start, length.
    let cases: [(&[u64], u64, u64, u64); 8] = [
        (&[], 1, 0, 1),
        (&[1], 5, 4, 1),
        (&[2, 65], 17, 0, 17),
        (&[2, 65], 17, 3, 9),
        (&[300], 129, 64, 65),
        (&[1, 1], 20_000, 1, 17_000),
        (&[2, 3, 1], 6, 2, 4),
        (&[6], 520, 8, 264),
    ];
    let sample = |&(leading, width, start, length): &(&[u64], u64, u64, u64)| {
        let operands = vec![real("x", &with(leading, width), 1.0)];
        let results = vec![TensorType::f32(&with(leading, length))];
        let name = format!("{leading:?}, {length} from {start} of {width}");
        Sample::new(name, Op::Slice { start, length }, operands, results)
    };
    cases.iter().map(sample).collect()
}

/// Leading axes, widths of the parts with the gaps before them, gap at the end.
type Parts<'a> = (&'a [u64], &'a [(u64, u64)], u64);

pub(super) fn concat() -> Vec<Sample> {
    let cases: [Parts<'_>; 7] = [
        (&[], &[(0, 1)], 0),
        (&[1], &[(0, 3), (0, 1)], 0),
        (&[2, 65], &[(0, 17), (0, 5), (0, 1)], 0),
        (&[2, 65], &[(3, 4)], 2),
        (&[300], &[(0, 64), (1, 65), (7, 2)], 1),
        (&[1, 2], &[(5, 17_000)], 0),
        (&[5], &[(0, 264), (8, 16)], 8),
    ];
    let sample = |&(leading, parts, after): &Parts<'_>| {
        let (mut starts, mut operands, mut width) = (Vec::new(), Vec::new(), 0);
        for (i, &(gap, part)) in parts.iter().enumerate() {
            starts.push(width + gap);
            operands.push(real(&format!("part {i}"), &with(leading, part), 1.0));
            width += gap + part;
        }
        width += after;
        let results = vec![TensorType::f32(&with(leading, width))];
        let name = format!("{leading:?}, parts {parts:?}, {after}");
        Sample::new(name, Op::Concat { width, starts }, operands, results)
    };
    cases.iter().map(sample).collect()
}

pub(super) fn shift() -> Vec<Sample> {
    let cases: [(&[u64], i64); 9] = [
        (&[1, 1, 1], 1),
        (&[1, 1, 1], 0),
        (&[2, 65, 17], 1),
        (&[2, 65, 17], -3),
        (&[3, 5, 2], 5),
        (&[3, 5, 2], i64::MIN),
        (&[2, 9, 1, 5], 2),
        (&[1, 40, 900], 7),
        (&[2, 5, 264], 2),
    ];
    let sample = |&(extents, by): &(&[u64], i64)| {
        let operands = vec![real("x", extents, 1.0)];
        let results = vec![TensorType::f32(extents)];
        Sample::new(format!("{extents:?} by {by}"), Op::Shift { by }, operands, results)
    };
    cases.iter().map(sample).collect()
}

pub(super) fn sum() -> Vec<Sample> {
    let cases: [&[u64]; 8] =
        [&[], &[1], &[17], &[2, 65, 17], &[300, 129], &[2, 70_000], &[70_000], &[1100, 64]];
    let sample = |extents: &&[u64]| {
        let operands = vec![real("x", extents, 1.0)];
        Sample::new(format!("{extents:?}"), Op::Sum, operands, vec![TensorType::f32(&[])])
    };
    cases.iter().map(sample).collect()
}
