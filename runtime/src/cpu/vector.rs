//! Loops over slices of f32 that compile to vector code, and the elementary functions they need.
//!
//! Owns the choice of instruction set: [`vectorised!`] compiles a function for AVX-512, AVX2 with FMA and the baseline,
//! and picks one when it is called. Must not know operations, tensors or threads. Sums are kept in a fixed number of
//! lanes that are added in a fixed order, so a result depends on the length alone.

#![expect(clippy::excessive_precision, reason = "coefficients stand as published")]

use std::sync::OnceLock;

use colac_plan::pointwise::{Binary, Unary};

/// Environment variable that names the widest vector instructions to use, for comparing machines and for tests. The
/// GEMM library makes a choice of its own.
pub(crate) const WIDEST_VARIABLE: &str = "COLAC_CPU_VECTORS";

/// Vector instructions, the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Widest {
    /// What every processor of the architecture has.
    Baseline,
    /// 256 bits with fused multiply-add.
    Avx2,
    /// 512 bits.
    Avx512,
}

/// The widest instructions that [`WIDEST_VARIABLE`] allows; `Err` is a value that names none.
pub(crate) fn widest() -> &'static Result<Widest, String> {
    static WIDEST: OnceLock<Result<Widest, String>> = OnceLock::new();
    WIDEST.get_or_init(|| match std::env::var(WIDEST_VARIABLE).as_deref() {
        Err(_) | Ok("avx512") => Ok(Widest::Avx512),
        Ok("avx2") => Ok(Widest::Avx2),
        Ok("baseline") => Ok(Widest::Baseline),
        Ok(other) => Err(other.to_owned()),
    })
}

/// Whether [`WIDEST_VARIABLE`] allows these instructions. The executor refuses values that name none before it asks.
#[cfg(target_arch = "x86_64")]
#[inline]
fn allowed(wanted: Widest) -> bool {
    matches!(widest(), Ok(widest) if *widest >= wanted)
}

/// Whether the 512-bit instructions that [`vectorised!`] uses are there.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx512() -> bool {
    allowed(Widest::Avx512)
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && has_avx2()
}

/// Whether the 256-bit instructions that [`vectorised!`] uses are there.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx2() -> bool {
    allowed(Widest::Avx2) && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Defines a function compiled once for each instruction set; the constant named in angle brackets says whether fused
/// multiply-adds are cheap.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident<$fused:ident>(
        $($argument:ident: $ty:ty),* $(,)?
    ) $(-> $output:ty)? $body:block) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $ty),*) $(-> $output)? {
            #[inline(always)]
            fn portable<const $fused: bool>($($argument: $ty),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn bits512($($argument: $ty),*) $(-> $output)? {
                    portable::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn bits256($($argument: $ty),*) $(-> $output)? {
                    portable::<true>($($argument),*)
                }
                if $crate::cpu::vector::has_avx512() {
                    // SAFETY: the processor has these features, as was just asked.
                    return unsafe { bits512($($argument),*) };
                }
                if $crate::cpu::vector::has_avx2() {
                    // SAFETY: the processor has these features, as was just asked.
                    return unsafe { bits256($($argument),*) };
                }
            }
            portable::<{ cfg!(target_arch = "aarch64") }>($($argument),*)
        }
    };
}
pub(crate) use vectorised;

/// `a · b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Adding this to a number below 2²² leaves its nearest integer in the low bits of the sum.
const ROUNDING: f32 = 12_582_912.0;

/// `eˣ`: Cody-Waite reduction by multiples of ln 2 and the degree-6 polynomial of Cephes `expf`.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Comparisons written so that NaN passes through both.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUNDING);
    let n = shifted - ROUNDING;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32);
    let r = multiply_add::<FUSED>(n, -0.693_359_4, x);
    let r = multiply_add::<FUSED>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = multiply_add::<FUSED>(p, r, coefficient);
    }
    let y = multiply_add::<FUSED>(p, r * r, r) + 1.0;
    // Two factors, because 2ⁿ itself may be too large or too small for a float while the product is not.
    let half = exponent >> 1;
    let low = f32::from_bits((half.wrapping_add(127) << 23) as u32);
    let high = f32::from_bits((exponent.wrapping_sub(half).wrapping_add(127) << 23) as u32);
    y * low * high
}

/// Natural logarithm: Cephes `logf`.
#[inline(always)]
pub(crate) fn log<const FUSED: bool>(x: f32) -> f32 {
    const SQRT_HALF: i32 = 0x3f35_04f3;
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let offset = if tiny { -23.0 } else { 0.0 };
    let bits = (scaled.to_bits() as i32).wrapping_sub(SQRT_HALF);
    let e = (bits >> 23) as f32 + offset;
    let f = f32::from_bits(((bits & 0x007f_ffff) + SQRT_HALF) as u32) - 1.0;
    let z = f * f;
    let mut p = 7.037_683_6e-2;
    for coefficient in [
        -1.151_461_03e-1,
        1.167_699_87e-1,
        -1.242_014_08e-1,
        1.424_932_28e-1,
        -1.666_805_77e-1,
        2.000_071_48e-1,
        -2.499_999_4e-1,
        3.333_333_1e-1,
    ] {
        p = multiply_add::<FUSED>(p, f, coefficient);
    }
    let y = multiply_add::<FUSED>(e, -2.121_944_4e-4, p * f * z);
    let y = multiply_add::<FUSED>(-0.5, z, y);
    let y = multiply_add::<FUSED>(e, 0.693_359_4, f + y);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// Hyperbolic tangent: Cephes `tanhf`.
#[inline(always)]
pub(crate) fn tanh<const FUSED: bool>(x: f32) -> f32 {
    let size = x.abs();
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    for coefficient in [2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1] {
        p = multiply_add::<FUSED>(p, z, coefficient);
    }
    let small = multiply_add::<FUSED>(p * z, x, x);
    let large = (1.0 - 2.0 / (exp::<FUSED>(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { small } else { large }
}

/// Gauss error function: a polynomial near zero, `1 - e^polynomial` beyond (minimax fits of one rounding's accuracy).
#[inline(always)]
pub(crate) fn erf<const FUSED: bool>(x: f32) -> f32 {
    let size = x.abs();
    let square = x * x;
    let mut far = multiply_add::<FUSED>(-1.728_534_7e-5, size, 3.831_971_3e-4);
    let low = multiply_add::<FUSED>(-3.883_964_4e-3, size, 2.425_462_2e-2);
    far = multiply_add::<FUSED>(far, square, low);
    far = multiply_add::<FUSED>(far, size, -1.067_778_8e-1);
    far = multiply_add::<FUSED>(far, size, -6.348_467e-1);
    far = multiply_add::<FUSED>(far, size, -1.287_175_1e-1);
    far = multiply_add::<FUSED>(far, size, -size);
    // Beyond 4 the function is 1 in f32, while the polynomial turns upwards again.
    let far = if size > 4.0 { 1.0 } else { 1.0 - exp::<FUSED>(far) }.copysign(x);
    let mut near = -5.967_617e-4;
    for coefficient in
        [4.991_194e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1]
    {
        near = multiply_add::<FUSED>(near, square, coefficient);
    }
    let near = multiply_add::<FUSED>(near, x, x);
    // NaN is not above the border and so takes the polynomial, which keeps it.
    if size > 0.927_734_4 { far } else { near }
}

/// Rounds to the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { (bits | 0x0040_0000) & 0xffff_0000 } else { rounded })
}

/// The nearest bf16, ties to even, as it is stored.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u16 {
    (round_bf16(x).to_bits() >> 16) as u16
}

/// The number that is stored so.
#[inline(always)]
pub(crate) fn from_bf16_bits(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// What an instruction reads: a slice, or one number for all elements.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Slice(&'a [f32]),
    Splat(f32),
}

#[inline(always)]
fn map(x: &[f32], y: &mut [f32], function: impl Fn(f32) -> f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = function(*x);
    }
}

#[inline(always)]
fn zip(a: Source<'_>, b: Source<'_>, y: &mut [f32], function: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Source::Slice(a), Source::Slice(b)) => {
            for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                *y = function(*a, *b);
            }
        }
        (Source::Slice(a), Source::Splat(b)) => map(a, y, |a| function(a, b)),
        (Source::Splat(a), Source::Slice(b)) => map(b, y, |b| function(a, b)),
        (Source::Splat(a), Source::Splat(b)) => y.fill(function(a, b)),
    }
}

vectorised! {
    /// `y = function(x)`.
    pub(crate) fn unary<FUSED>(function: Unary, x: &[f32], y: &mut [f32]) {
        match function {
            Unary::Negate => map(x, y, |x| -x),
            Unary::Absolute => map(x, y, f32::abs),
            Unary::Exponential => map(x, y, exp::<FUSED>),
            Unary::Logarithm => map(x, y, log::<FUSED>),
            Unary::SquareRoot => map(x, y, f32::sqrt),
            Unary::ReciprocalSquareRoot => map(x, y, |x| 1.0 / x.sqrt()),
            Unary::Sigmoid => map(x, y, sigmoid::<FUSED>),
            Unary::HyperbolicTangent => map(x, y, tanh::<FUSED>),
            Unary::ErrorFunction => map(x, y, erf::<FUSED>),
            // Rare in models, so one number at a time in f64: exact for angles of any size.
            Unary::Sine => map(x, y, |x| libm::sin(f64::from(x)) as f32),
            Unary::Cosine => map(x, y, |x| libm::cos(f64::from(x)) as f32),
        }
    }
}

vectorised! {
    /// `y = function(a, b)`.
    pub(crate) fn binary<FUSED>(function: Binary, a: Source<'_>, b: Source<'_>, y: &mut [f32]) {
        match function {
            Binary::Add => zip(a, b, y, |a, b| a + b),
            Binary::Subtract => zip(a, b, y, |a, b| a - b),
            Binary::Multiply => zip(a, b, y, |a, b| a * b),
            Binary::Divide => zip(a, b, y, |a, b| a / b),
            Binary::Maximum => zip(a, b, y, f32::max),
            Binary::Minimum => zip(a, b, y, f32::min),
            Binary::Greater => zip(a, b, y, |a, b| if a > b { 1.0 } else { 0.0 }),
        }
    }
}

vectorised! {
    /// `y = then` where `condition` is not 0, else `otherwise`.
    pub(crate) fn select<FUSED>(condition: &[f32], then: &[f32], otherwise: &[f32], y: &mut [f32]) {
        for (((y, c), a), b) in y.iter_mut().zip(condition).zip(then).zip(otherwise) {
            *y = if *c != 0.0 { *a } else { *b };
        }
    }
}

vectorised! {
    /// `y` = `x` rounded to bf16.
    pub(crate) fn to_bf16<FUSED>(x: &[f32], y: &mut [f32]) {
        map(x, y, round_bf16);
    }
}

vectorised! {
    /// bf16 to f32: every one is exact.
    pub(crate) fn widen<FUSED>(x: &[u16], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = from_bf16_bits(*x);
        }
    }
}

vectorised! {
    /// f32 to the nearest bf16, ties to even.
    pub(crate) fn narrow<FUSED>(x: &[f32], y: &mut [u16]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = bf16_bits(*x);
        }
    }
}

vectorised! {
    /// `y = y + x`, added in f32 and rounded to the nearest bf16.
    pub(crate) fn narrow_sum<FUSED>(x: &[f32], y: &mut [u16]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = bf16_bits(from_bf16_bits(*y) + *x);
        }
    }
}

/// Partial sums kept apart while a row is summed: four registers of 512 bits hide the latency of an addition.
pub(crate) const LANES: usize = 64;

/// Folds lanes pairwise, always in the same order.
#[inline(always)]
pub(crate) fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

vectorised! {
    /// Largest element; negative infinity for none. NaN is passed over.
    pub(crate) fn maximum<FUSED>(x: &[f32]) -> f32 {
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = larger(*lane, *x);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane = larger(*lane, *x);
        }
        fold(lanes, larger)
    }
}

vectorised! {
    /// Replaces each element by `e^(x - shift)` and gives their sum.
    pub(crate) fn exponentials<FUSED>(x: &mut [f32], shift: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = x.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = exp::<FUSED>(*x - shift);
                *lane += *x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = exp::<FUSED>(*x - shift);
            *lane += *x;
        }
        fold(lanes, |a, b| a + b)
    }
}

vectorised! {
    /// `Σ x`.
    pub(crate) fn sum<FUSED>(x: &[f32]) -> f32 {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += *x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += *x;
        }
        fold(lanes, |a, b| a + b)
    }
}

vectorised! {
    /// `Σ a · b`.
    pub(crate) fn dot<FUSED>(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0f32; LANES];
        let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for i in 0..LANES {
                lanes[i] = multiply_add::<FUSED>(a[i], b[i], lanes[i]);
            }
        }
        for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
            *lane = multiply_add::<FUSED>(*a, *b, *lane);
        }
        fold(lanes, |a, b| a + b)
    }
}

vectorised! {
    /// `x = x · factor`.
    pub(crate) fn scale<FUSED>(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

vectorised! {
    /// `y = y + x`.
    pub(crate) fn accumulate<FUSED>(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error in units of the last place of the exact value over the given arguments.
    fn worst(
        function: Unary,
        exact: impl Fn(f64) -> f64,
        arguments: impl Iterator<Item = f32>,
    ) -> f64 {
        let x: Vec<f32> = arguments.collect();
        let mut y = vec![0.0; x.len()];
        unary(function, &x, &mut y);
        let ulps = |(x, y): (&f32, &f32)| {
            let want = exact(f64::from(*x));
            let rounded = want as f32;
            let unit =
                f64::from(f32::from_bits(rounded.abs().to_bits() + 1)) - f64::from(rounded.abs());
            (f64::from(*y) - want).abs() / unit
        };
        x.iter().zip(&y).map(ulps).fold(0.0, f64::max)
    }

    fn range(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (0..=200_000).map(move |i| from + (to - from) * (i as f32 / 200_000.0))
    }

    #[test]
    fn elementary_functions_are_accurate() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (name, error, bound) in [
            ("exp", worst(Unary::Exponential, f64::exp, range(-87.0, 88.7)), 1.5),
            ("log", worst(Unary::Logarithm, f64::ln, range(1e-3, 4.0)), 2.0),
            ("log wide", worst(Unary::Logarithm, f64::ln, range(-80.0, 80.0).map(f32::exp)), 2.0),
            ("sigmoid", worst(Unary::Sigmoid, sigmoid, range(-80.0, 30.0)), 3.0),
            ("tanh", worst(Unary::HyperbolicTangent, f64::tanh, range(-10.0, 10.0)), 2.0),
            ("erf", worst(Unary::ErrorFunction, libm::erf, range(-5.0, 5.0)), 2.0),
        ] {
            assert!(error <= bound, "{name}: {error} units in the last place, more than {bound}");
        }
    }

    #[test]
    fn elementary_functions_keep_limits() {
        let x = [f32::NEG_INFINITY, -200.0, 0.0, 200.0, f32::INFINITY, f32::NAN];
        let mut y = [0.0; 6];
        let check = |function, want: [f32; 6], y: &mut [f32; 6]| {
            unary(function, &x, y);
            for (got, want) in y.iter().zip(want) {
                assert!(*got == want || (got.is_nan() && want.is_nan()), "{function:?}: {y:?}");
            }
        };
        let infinity = f32::INFINITY;
        check(Unary::Exponential, [0.0, 0.0, 1.0, infinity, infinity, f32::NAN], &mut y);
        check(Unary::Sigmoid, [0.0, 0.0, 0.5, 1.0, 1.0, f32::NAN], &mut y);
        check(Unary::HyperbolicTangent, [-1.0, -1.0, 0.0, 1.0, 1.0, f32::NAN], &mut y);
        check(Unary::ErrorFunction, [-1.0, -1.0, 0.0, 1.0, 1.0, f32::NAN], &mut y);
        let log200 = 200f32.ln();
        check(
            Unary::Logarithm,
            [f32::NAN, f32::NAN, -infinity, log200, infinity, f32::NAN],
            &mut y,
        );
    }

    #[test]
    fn reductions_cover_every_length() {
        for length in [0, 1, 15, 63, 64, 65, 200] {
            let x: Vec<f32> = (0..length).map(|i| ((i * 7) % 13) as f32 - 3.0).collect();
            let want: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            assert_eq!(f64::from(dot(&x, &x)), want);
            assert_eq!(maximum(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut y = x.clone();
            let sum = exponentials(&mut y, 2.0);
            let want: f64 = x.iter().map(|x| (f64::from(*x) - 2.0).exp()).sum();
            assert!((f64::from(sum) - want).abs() <= 1e-6 * want);
        }
    }

    #[test]
    fn bf16_rounds_to_even() {
        let x = [1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.004, f32::INFINITY, -2.5];
        let mut y = [0.0; 6];
        to_bf16(&x, &mut y);
        assert_eq!(y, [1.0, 1.0, 1.015_625, 1.007_812_5, f32::INFINITY, -2.5]);
    }
}
