//! Norms, positions, embeddings, reductions, pointwise programs, the optimizer.

use colac_plan::op::{Real, UpdateRange};
use colac_plan::pointwise::{Binary, Builder, InputForm, Program, Unary};
use colac_plan::program::Write;
use colac_plan::{DType, Op, ProgramKind, Segment};

use super::*;

#[test]
fn rms_norm_and_its_derivative() {
    for (rows, n) in [(1, 1), (3, 7), (40, 64), (300, 130), (600, 257)] {
        let (x, w, dy) =
            (Value::numbers(1, &[rows, n]), Value::numbers(2, &[n]), Value::numbers(3, &[rows, n]));
        let (xs, ws, dys) = (x.f64(), w.f64(), dy.f64());
        let (rows_, n_) = (rows as usize, n as usize);
        let (mut y, mut rstds, mut dx, mut dw) = (vec![], vec![], vec![], vec![0.0; n_]);
        for i in 0..rows_ {
            let (x, dy) = (&xs[i * n_..][..n_], &dys[i * n_..][..n_]);
            let mean = x.iter().map(|x| x * x).sum::<f64>() / n as f64;
            // As the operation does, the backward pass gets the factor rounded to f32.
            let rstd = f64::from((1.0 / (mean + 1e-3).sqrt()) as f32);
            let gx = (0..n_).map(|j| dy[j] * ws[j] * x[j]).sum::<f64>() / n as f64;
            for j in 0..n_ {
                y.push(x[j] * rstd * ws[j]);
                dx.push(rstd * (dy[j] * ws[j] - x[j] * rstd * rstd * gx));
                dw[j] += dy[j] * x[j] * rstd;
            }
            rstds.push(rstd);
        }
        let op = Op::RmsNorm { epsilon: Real::new(1e-3), gain: true, prologue: None };
        Case::new(op, vec![x.clone(), w.clone()], vec![y, rstds.clone()])
            .packed(&[], &[1])
            .check("rms_norm");
        let rstd = Value::F32(vec![rows], rstds.iter().map(|r| *r as f32).collect());
        let backward = Case::new(
            Op::RmsNormBackward { gain: true, epilogue: None },
            vec![dy, x, w, rstd],
            vec![dx, dw],
        );
        // A row of one element has almost no derivative: what is left is the difference of two rounded numbers.
        backward
            .packed(&[3], &[])
            .tolerance(if n == 1 { 1e-4 } else { 2e-6 })
            .check("rms_norm_backward");
    }
}

#[test]
fn rope_turns_and_turns_back() {
    for (b, s, h, d) in [(1, 1, 1, 2), (2, 5, 3, 6), (3, 70, 2, 64)] {
        let half = d / 2;
        let (x, cos, sin) = (
            Value::numbers(1, &[b, s, h, d]),
            Value::numbers(2, &[s, half]),
            Value::numbers(3, &[s, half]),
        );
        let (xs, c, n) = (x.f64(), cos.f64(), sin.f64());
        for inverse in [false, true] {
            let sign = if inverse { -1.0 } else { 1.0 };
            let mut y = vec![0.0; xs.len()];
            for row in 0..(b * s * h) as usize {
                let position = row / h as usize % s as usize;
                for i in 0..half as usize {
                    let (first, second) =
                        (row * d as usize + i, row * d as usize + i + half as usize);
                    let (c, n) =
                        (c[position * half as usize + i], sign * n[position * half as usize + i]);
                    y[first] = xs[first] * c - xs[second] * n;
                    y[second] = xs[second] * c + xs[first] * n;
                }
            }
            Case::new(
                Op::Rope { inverse, interleaved: false },
                vec![x.clone(), cos.clone(), sin.clone()],
                vec![y],
            )
            .check("rope");
        }
    }
}

#[test]
fn embedding_and_its_derivative() {
    for (count, rows, n) in [(1, 1, 1), (7, 3, 5), (200, 130, 33)] {
        let ids: Vec<i32> = (0..count).map(|i| ((i * i * 7 + i / 3) % rows) as i32).collect();
        let table = Value::numbers(1, &[rows, n]);
        let dy = Value::numbers(2, &[1, count, n]);
        let (tables, dys, width) = (table.f64(), dy.f64(), n as usize);
        let y =
            ids.iter().flat_map(|id| tables[*id as usize * width..][..width].to_vec()).collect();
        let mut dtable = vec![0.0; tables.len()];
        for (i, id) in ids.iter().enumerate() {
            (0..width).for_each(|j| dtable[*id as usize * width + j] += dys[i * width + j]);
        }
        let ids = Value::I32(vec![1, count], ids);
        Case::new(Op::Embedding, vec![ids.clone(), table], vec![y]).check("embedding");
        Case::new(Op::EmbeddingBackward { rows }, vec![ids, dy], vec![dtable])
            .check("embedding_backward");
    }
}

#[test]
fn column_sums() {
    for (rows, n) in [(1, 1), (255, 3), (256, 300), (257, 300), (1030, 17)] {
        let x = Value::numbers(1, &[rows, n]);
        let xs = x.f64();
        let y = (0..n as usize)
            .map(|j| (0..rows as usize).map(|i| xs[i * n as usize + j]).sum())
            .collect();
        Case::new(Op::ColumnSum, vec![x], vec![y]).check("column_sum");
    }
}

#[test]
fn norm_of_the_gradient() {
    for n in [1, 100, (1 << 16) + 1, 200_000] {
        let mut x = Value::numbers(1, &[n]);
        let norm = x.f64().iter().map(|x| x * x).sum::<f64>().sqrt();
        Case::new(Op::GradientNorm, vec![x.clone()], vec![vec![norm], vec![1.0]])
            .check("gradient_norm");
        for broken in [f32::NAN, f32::INFINITY] {
            if let Value::F32(_, values) = &mut x {
                values[n as usize / 2] = broken;
            }
            Case::new(Op::GradientNorm, vec![x.clone()], vec![vec![], vec![0.0]])
                .check("gradient_norm not finite");
        }
    }
}

/// A program with every form of input, constants in every place and two outputs, one of them an input.
fn mixed_program() -> Program {
    let mut b = Builder::new();
    let (x, row, column, scalar) = (
        b.input(InputForm::Elements),
        b.input(InputForm::Row),
        b.input(InputForm::Column),
        b.input(InputForm::Scalar),
    );
    let other = b.input(InputForm::Elements);
    let half = b.constant(0.5);
    let a = b.binary(Binary::Multiply, x, row);
    let a = b.binary(Binary::Add, a, column);
    let s = b.unary(Unary::Sigmoid, scalar);
    let a = b.binary(Binary::Multiply, s, a);
    let t = b.binary(Binary::Subtract, half, column);
    let a = b.binary(Binary::Maximum, a, t);
    let c = b.binary(Binary::Greater, other, half);
    let y = b.select(c, a, column);
    let y = b.round(DType::F32, y);
    let z = b.binary(Binary::Divide, x, scalar);
    b.finish(&[(y, DType::F32), (other, DType::F32), (z, DType::F32)])
}

#[test]
fn pointwise_programs() {
    let silu = Program::unary(|b, x| {
        let s = b.unary(Unary::Sigmoid, x);
        b.binary(Binary::Multiply, x, s)
    });
    for (rows, n) in [(1, 1), (5, 3), (3, 1025), (70, 513)] {
        let x = Value::numbers(1, &[rows, n]);
        let want = x.f64().iter().map(|x| x / (1.0 + (-x).exp())).collect();
        Case::new(Op::Pointwise { program: silu.clone() }, vec![x.clone()], vec![want])
            .check("silu");
        let operands = vec![
            x,
            Value::numbers(2, &[n]),
            Value::numbers(3, &[rows]),
            Value::F32(vec![], vec![0.75]),
            Value::numbers(4, &[rows, n]),
        ];
        let v: Vec<Vec<f64>> = operands.iter().map(Value::f64).collect();
        let (mut y, mut z) = (vec![], vec![]);
        for i in 0..(rows * n) as usize {
            let (row, column) = (v[1][i % n as usize], v[2][i / n as usize]);
            let a = (v[0][i] * row + column) / (1.0 + (-0.75f64).exp());
            y.push(if v[4][i] > 0.5 { a.max(0.5 - column) } else { column });
            z.push(v[0][i] / 0.75);
        }
        let want = vec![y, v[4].clone(), z];
        Case::new(Op::Pointwise { program: mixed_program() }, operands, want).check("mixed");
    }
}

#[test]
fn pointwise_in_place_reads_before_it_writes() {
    // Outputs swap the inputs they lie on.
    let mut b = Builder::new();
    let (x, y) = (b.input(InputForm::Elements), b.input(InputForm::Elements));
    let sum = b.binary(Binary::Add, x, y);
    let program = b.finish(&[(y, DType::F32), (x, DType::F32), (sum, DType::F32)]);
    let mut plan = PlanBuilder::default();
    let n = 5000;
    let tensor = |plan: &mut PlanBuilder| plan.tensor(Segment::Activations, DType::F32, &[n]);
    let (x, y, sum) = (tensor(&mut plan), tensor(&mut plan), tensor(&mut plan));
    plan.operation(Op::Pointwise { program }, &[x, y], &[x, y, sum], &[Write::Overwrite; 3]);
    let plan = Arc::new(plan.build(&[x, y, sum]));
    let mut executor =
        CpuExecutor::new(plan, CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
    let (a, b) = (numbers(1, n as usize), numbers(2, n as usize));
    executor.write_f32(x, &a);
    executor.write_f32(y, &b);
    executor.run(ProgramKind::ForwardBackward, true);
    let mut got = vec![0.0; n as usize];
    executor.read_f32(x, &mut got);
    assert_eq!(got, b);
    executor.read_f32(y, &mut got);
    assert_eq!(got, a);
    executor.read_f32(sum, &mut got);
    assert!(got.iter().zip(a.iter().zip(&b)).all(|(got, (a, b))| *got == a + b));
}

/// Parameters, moments and counter after some updates, with the given norms and flags.
fn updates(threads: usize, steps: &[(f32, f32)], clip_norm: f64) -> (Vec<Vec<f32>>, i32) {
    let n = 70_000u64;
    let range = |start, length, decay, factor| UpdateRange {
        start,
        length,
        weight_decay: Real::new(decay),
        learning_rate_factor: Real::new(factor),
    };
    let op = Op::AdamW {
        beta1: Real::new(0.9),
        beta2: Real::new(0.999),
        epsilon: Real::new(1e-8),
        clip_norm: Real::new(clip_norm),
        ranges: vec![range(0, 40_000, 0.1, 1.0), range(40_010, 29_990, 0.0, 0.5)],
        master: false,
    };
    let mut plan = PlanBuilder::default();
    let segment = |plan: &mut PlanBuilder, segment| plan.tensor(segment, DType::F32, &[n]);
    let gradients = segment(&mut plan, Segment::Gradients);
    let results = [Segment::Parameters, Segment::Optimizer, Segment::Optimizer]
        .map(|s| segment(&mut plan, s));
    let scalars = [0, 1, 2].map(|_| plan.tensor(Segment::Scalars, DType::F32, &[]));
    let step = plan.tensor(Segment::Optimizer, DType::I32, &[]);
    let operands = [gradients, scalars[0], scalars[1], scalars[2]];
    plan.operation(
        op,
        &operands,
        &[results[0], results[1], results[2], step],
        &[Write::Overwrite; 4],
    );
    let options = CpuOptions { threads, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(Arc::new(plan.build(&[])), options).unwrap();
    executor.write_f32(results[0], &numbers(9, n as usize));
    executor.write_f32(scalars[2], &[0.01]);
    for (i, (norm, finite)) in steps.iter().enumerate() {
        executor.write_f32(gradients, &numbers(i as u64 + 20, n as usize));
        executor.write_f32(scalars[0], &[*norm]);
        executor.write_f32(scalars[1], &[*finite]);
        executor.run(ProgramKind::ForwardBackward, true);
    }
    let read = |id| {
        let mut values = vec![0.0; n as usize];
        executor.read_f32(id, &mut values);
        values
    };
    let mut count = [0];
    executor.read_i32(step, &mut count);
    (results.into_iter().map(read).collect(), count[0])
}

#[test]
fn adamw_follows_its_formula() {
    let steps = [(0.5, 1.0), (40.0, 1.0), (7.0, 0.0), (9.0, 1.0)];
    let (got, count) = updates(1, &steps, 2.0);
    assert_eq!(count, 3);
    let n = got[0].len();
    let mut want: Vec<Vec<f64>> =
        vec![numbers(9, n).iter().map(|x| f64::from(*x)).collect(), vec![0.0; n], vec![0.0; n]];
    let mut t = 0;
    for (i, (norm, finite)) in steps.iter().enumerate() {
        if *finite == 0.0 {
            continue;
        }
        t += 1;
        let clip = (2.0 / (f64::from(*norm) + 1e-6)).min(1.0);
        for (j, g) in numbers(i as u64 + 20, n).iter().enumerate() {
            let (decay, rate) = match j {
                0..40_000 => (0.1, f64::from(0.01f32)),
                40_000..40_010 => continue,
                _ => (0.0, f64::from(0.01f32) * 0.5),
            };
            let g = f64::from(*g) * clip;
            want[1][j] = 0.9 * want[1][j] + 0.1 * g;
            want[2][j] = 0.999 * want[2][j] + 0.001 * g * g;
            let m = want[1][j] / (1.0 - 0.9f64.powi(t));
            let v = want[2][j] / (1.0 - 0.999f64.powi(t));
            want[0][j] = want[0][j] * (1.0 - rate * decay) - rate * m / (v.sqrt() + 1e-8);
        }
    }
    for (got, want) in got.iter().zip(&want) {
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() <= 1e-6, "{got} is not {want}");
        }
    }
    for threads in [2, 3] {
        assert!(updates(threads, &steps, 2.0).0 == got, "{threads} threads give other bits");
    }
    assert_eq!(
        updates(2, &[(f32::NAN, 0.0)], 2.0),
        (vec![numbers(9, n), vec![0.0; n], vec![0.0; n]], 0)
    );
    assert!(updates(1, &steps, 0.0).0 != got, "without clipping the updates differ");
}
