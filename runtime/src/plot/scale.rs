//! Axes: from values to places, and the ticks between.
//!
//! Owns scales, ticks and how numbers on axes are written. Must not know what is drawn along an axis.

/// The range of an axis and how values are spread over it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
    /// Places of `low` and `high`.
    places: (f64, f64),
}

impl Scale {
    /// A scale from `low` to `high`, drawn between two places. A range without extent is widened; a logarithmic one
    /// begins above 0.
    pub(crate) fn new(low: f64, high: f64, is_log: bool, places: (f64, f64)) -> Scale {
        let (mut low, mut high) = (low.min(high), low.max(high));
        if is_log {
            high = high.max(f64::MIN_POSITIVE);
            if low <= 0.0 {
                low = high / 1000.0;
            }
            if low == high {
                (low, high) = (low / 2.0, high * 2.0);
            }
        } else if low == high {
            let reach = if low == 0.0 { 1.0 } else { low.abs() / 2.0 };
            (low, high) = (low - reach, high + reach);
        }
        Scale { low, high, is_log, places }
    }

    /// Whether it is logarithmic.
    pub(crate) fn is_log(&self) -> bool {
        self.is_log
    }

    /// Where a value lies; `None` for one that has no place on a logarithmic axis.
    pub(crate) fn place(&self, value: f64) -> Option<f64> {
        let share = if self.is_log {
            if value <= 0.0 {
                return None;
            }
            (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        Some(self.places.0 + share * (self.places.1 - self.places.0))
    }

    /// About `count` round values within the range.
    pub(crate) fn ticks(&self, count: usize) -> Vec<f64> {
        if self.is_log {
            let ticks = log_ticks(self.low, self.high, count);
            if ticks.len() >= 2 {
                return ticks;
            }
        }
        linear_ticks(self.low, self.high, count)
    }
}

/// The smallest of 1, 2, 5 times a power of ten by which `count` ticks cover a range.
fn round_step(range: f64, count: usize) -> f64 {
    let rough = range / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

fn linear_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let step = round_step(high - low, count);
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    if !(first.is_finite() && last.is_finite() && last - first < 1000.0) {
        return vec![low, high];
    }
    // Multiples of the step rather than sums, so that 0.3 is 0.3.
    let tick = |i: i64| {
        let value = (first + i as f64) * step;
        if value.abs() < step / 2.0 { 0.0 } else { value }
    };
    (0..=(last - first) as i64).map(tick).collect()
}

fn log_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let inside = |value: &f64| *value >= low * 0.999_999 && *value <= high * 1.000_001;
    let with = |factors: &[f64], every: usize| -> Vec<f64> {
        let powers = (first..=last).step_by(every);
        let values = powers.flat_map(|power| factors.iter().map(move |f| f * 10f64.powi(power)));
        values.filter(inside).collect()
    };
    for factors in [&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0][..], &[1.0, 2.0, 5.0], &[1.0]] {
        let ticks = with(factors, 1);
        if ticks.len() <= count + 1 {
            return ticks;
        }
    }
    let decades = (last - first).max(1) as usize;
    with(&[1.0], decades.div_ceil(count.max(1)))
}

/// How the numbers of an axis are written: alike on a linear one, each as short as may be on a logarithmic one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TickFormat {
    Each,
    Alike { divisor: f64, suffix: &'static str, decimals: usize },
    Scientific,
}

/// Below this the numbers of an axis are written with powers of ten.
const TINY: f64 = 1e-3;

impl TickFormat {
    /// A format in which the ticks of a scale can be told apart: with `k`, `M`, ... for large numbers, powers of ten for
    /// tiny ones.
    pub(crate) fn of(scale: &Scale, ticks: &[f64]) -> TickFormat {
        if scale.is_log() {
            return TickFormat::Each;
        }
        let largest = ticks.iter().fold(0.0, |largest: f64, tick| largest.max(tick.abs()));
        if largest > 0.0 && largest < TINY {
            return TickFormat::Scientific;
        }
        let (divisor, suffix) = prefix(largest);
        let decimals = ticks.iter().map(|tick| decimals(tick / divisor)).max().unwrap_or(0);
        TickFormat::Alike { divisor, suffix, decimals }
    }

    pub(crate) fn write(self, value: f64) -> String {
        match self {
            _ if value == 0.0 => "0".to_owned(),
            TickFormat::Scientific => scientific(value),
            TickFormat::Each if value.abs() < TINY => scientific(value),
            TickFormat::Each => {
                let (divisor, suffix) = prefix(value.abs());
                let scaled = value / divisor;
                format!("{scaled:.*}{suffix}", decimals(scaled))
            }
            TickFormat::Alike { divisor, suffix, decimals } => {
                format!("{:.*}{suffix}", decimals, value / divisor)
            }
        }
    }
}

/// The prefix for numbers up to `largest`: below ten thousand none.
fn prefix(largest: f64) -> (f64, &'static str) {
    let prefixes = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let fits = |(divisor, _): &(f64, &str)| largest >= *divisor && largest >= 1e4;
    prefixes.into_iter().find(fits).unwrap_or((1.0, ""))
}

/// Decimals that a number has, six at most.
fn decimals(value: f64) -> usize {
    (0..6).find(|&n| is_whole(value * 10f64.powi(n))).unwrap_or(6) as usize
}

fn is_whole(value: f64) -> bool {
    (value - value.round()).abs() < 1e-6 * value.abs().max(1e-3)
}

/// `6×10⁻⁴`.
fn scientific(value: f64) -> String {
    let power = value.abs().log10().floor();
    let mantissa = value / 10f64.powf(power);
    let digits: String = (power as i32)
        .to_string()
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            digit => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹']
                [digit.to_digit(10).unwrap_or(0) as usize],
        })
        .collect();
    let mantissa = format!("{mantissa:.1}");
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    if mantissa == "1" { format!("10{digits}") } else { format!("{mantissa}×10{digits}") }
}

/// A unit that makes the largest value of an axis readable: its size and its name.
pub(crate) fn unit(largest: f64, units: &[(f64, &'static str)]) -> (f64, &'static str) {
    let fits = units.iter().rev().find(|(size, _)| largest >= *size);
    fits.or(units.first()).copied().unwrap_or((1.0, ""))
}

/// FLOPs, by factors of a thousand.
pub(crate) const FLOP_UNITS: &[(f64, &str)] = &[
    (1.0, "FLOP"),
    (1e3, "kFLOP"),
    (1e6, "MFLOP"),
    (1e9, "GFLOP"),
    (1e12, "TFLOP"),
    (1e15, "PFLOP"),
    (1e18, "EFLOP"),
    (1e21, "ZFLOP"),
    (1e24, "YFLOP"),
];

/// Time; the next unit is taken from two of it on.
pub(crate) const TIME_UNITS: &[(f64, &str)] =
    &[(1.0, "s"), (120.0, "min"), (7200.0, "h"), (172_800.0, "days")];

/// Seconds of a unit of [`TIME_UNITS`], by its name.
pub(crate) fn seconds_of(unit: &str) -> f64 {
    match unit {
        "min" => 60.0,
        "h" => 3600.0,
        "days" => 86_400.0,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(low: f64, high: f64, is_log: bool, count: usize) -> String {
        let scale = Scale::new(low, high, is_log, (0.0, 1.0));
        let ticks = scale.ticks(count);
        let format = TickFormat::of(&scale, &ticks);
        ticks.iter().map(|&tick| format.write(tick)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_and_alike() {
        assert_eq!(written(3.9, 8.4, false, 5), "4 5 6 7 8");
        assert_eq!(written(3.93, 4.41, false, 5), "4.0 4.1 4.2 4.3 4.4");
        assert_eq!(written(0.0, 3000.0, false, 6), "0 500 1000 1500 2000 2500 3000");
        assert_eq!(written(0.0, 60_000.0, false, 6), "0 10k 20k 30k 40k 50k 60k");
        assert_eq!(written(0.0, 3_072_000.0, false, 6), "0 1M 2M 3M");
        assert_eq!(written(0.0, 1_300_000.0, false, 6), "0 0.5M 1.0M");
        assert_eq!(written(0.0, 0.006, false, 3), "0 0.002 0.004 0.006");
        assert_eq!(written(0.0, 6e-4, false, 3), "0 2×10⁻⁴ 4×10⁻⁴ 6×10⁻⁴");
        assert_eq!(written(-1.0, 1.0, false, 4), "-1.0 -0.5 0 0.5 1.0");
    }

    #[test]
    fn logarithmic_ticks_keep_to_their_count() {
        assert_eq!(written(1.0, 3000.0, true, 6), "1 10 100 1000");
        assert_eq!(written(0.3, 40.0, true, 6), "0.5 1 2 5 10 20");
        assert_eq!(written(3.9, 8.4, true, 6), "4 5 6 7 8");
        assert_eq!(written(4.1, 4.4, true, 4), "4.1 4.2 4.3 4.4");
        assert_eq!(written(1.0, 1e18, true, 6).split(' ').count(), 7);
    }

    #[test]
    fn values_find_their_places() {
        let scale = Scale::new(0.0, 10.0, false, (100.0, 0.0));
        assert_eq!(scale.place(2.5), Some(75.0));
        let log = Scale::new(1.0, 100.0, true, (0.0, 50.0));
        assert!((log.place(10.0).unwrap() - 25.0).abs() < 1e-9);
        assert_eq!((log.place(0.0), log.place(-1.0)), (None, None));
        assert!(log.is_log() && !scale.is_log());
    }

    /// Nothing in a log can make an axis that is not there.
    #[test]
    fn degenerate_ranges_are_widened() {
        for (low, high) in [(0.0, 0.0), (3.0, 3.0), (-2.0, -2.0), (5.0, 1.0), (1e-300, 1e300)] {
            for is_log in [false, true] {
                let scale = Scale::new(low, high, is_log, (0.0, 100.0));
                let ticks = scale.ticks(5);
                assert!(!ticks.is_empty() && ticks.len() < 20, "{low} {high} {is_log}: {ticks:?}");
                assert!(scale.low < scale.high);
                assert!(ticks.iter().all(|tick| scale.place(*tick).is_some_and(f64::is_finite)));
            }
        }
    }

    #[test]
    fn units_fit_the_largest_value() {
        assert_eq!(unit(8e14, FLOP_UNITS).1, "TFLOP");
        assert_eq!(unit(1e15, FLOP_UNITS).1, "PFLOP");
        assert_eq!(unit(0.0, FLOP_UNITS).1, "FLOP");
        assert_eq!(unit(119.0, TIME_UNITS).1, "s");
        assert_eq!(unit(7199.0, TIME_UNITS).1, "min");
        assert_eq!(seconds_of(unit(1e6, TIME_UNITS).1), 86_400.0);
    }
}
