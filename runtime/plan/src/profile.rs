//! What a device does in a second, as numbers, and how each number came to be known.
//!
//! Owns the figures from which [`crate::predict`] makes times, and how a rate between two measured sizes is found. Must
//! not know devices themselves, nor the files in which profiles are kept: those are read and written elsewhere.
//!
//! A profile may hold hundreds of measured points or a handful of lines of a data sheet; whoever uses a figure is told
//! which it was, so that a prediction can say what it rests on. All figures are integers and so is all arithmetic on
//! them: equal profiles give equal predictions on every machine.

use std::fmt;

use crate::dtype::DType;

/// How a figure came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Basis {
    /// On the device itself.
    Measured,
    /// By experience, without a measurement or a document behind it.
    Assumed,
    /// From the vendor's description: what is never exceeded, and seldom reached.
    DataSheet,
}

impl Basis {
    /// Every basis, from the best known to the least.
    pub const ALL: [Basis; 3] = [Basis::Measured, Basis::Assumed, Basis::DataSheet];

    /// `measured`, `assumed` or `data sheet`.
    pub fn name(self) -> &'static str {
        match self {
            Basis::Measured => "measured",
            Basis::Assumed => "assumed",
            Basis::DataSheet => "data sheet",
        }
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number and how it came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The number, in the unit that its owner says.
    pub value: u64,
    /// How it is known.
    pub basis: Basis,
}

impl Figure {
    /// A figure.
    pub fn new(value: u64, basis: Basis) -> Figure {
        Figure { value, basis }
    }
}

/// Which of the three products of a linear: how the factors are turned differs, and with it the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Product {
    /// `y = x wᵀ`.
    Forward,
    /// `dx = dy w`.
    Input,
    /// `dw = dyᵀ x`.
    Weight,
}

impl Product {
    /// All three.
    pub const ALL: [Product; 3] = [Product::Forward, Product::Input, Product::Weight];

    /// `forward`, `input` or `weight`.
    pub fn name(self) -> &'static str {
        match self {
            Product::Forward => "forward",
            Product::Input => "input",
            Product::Weight => "weight",
        }
    }
}

/// The extents of a product: a result of `rows × columns`, each element a sum of `inner` terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProductShape {
    /// M.
    pub rows: u64,
    /// N.
    pub columns: u64,
    /// K.
    pub inner: u64,
}

impl ProductShape {
    /// Multiply-adds count as two.
    pub fn flops(self) -> u64 {
        2 * self.rows * self.columns * self.inner
    }
}

/// The rate of products of one class of shapes: those near `shape`, by the ratios of the extents. Without a shape it
/// holds for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductRate {
    /// Which product; all where there is none.
    pub product: Option<Product>,
    /// How the factors are stored.
    pub dtype: DType,
    /// The middle of the class.
    pub shape: Option<ProductShape>,
    /// FLOP/s.
    pub rate: Figure,
}

/// The rate of attention near a length and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionRate {
    /// Whether it is that of the derivative.
    pub backward: bool,
    /// How queries are stored.
    pub dtype: DType,
    /// Positions in a row; all where there is none.
    pub sequence: Option<u64>,
    /// Width of a head; all where there is none.
    pub head_dim: Option<u64>,
    /// FLOP/s, as [`crate::op::cost`] counts them.
    pub rate: Figure,
}

/// The rate at which an operation between the products moves bytes, near a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRate {
    /// Name of the operation ([`crate::Op::name`]); all that have no rate of their own where there is none.
    pub operation: Option<String>,
    /// Bytes moved by the operation: what fits a cache moves faster. All where there is none.
    pub bytes: Option<u64>,
    /// Bytes a second.
    pub rate: Figure,
}

/// Where a device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Processor cores and the machine's memory.
    Cpu,
    /// A CUDA device with memory of its own.
    Cuda,
}

/// What figures of one basis go back to, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Which figures.
    pub basis: Basis,
    /// `date`, `command`, `machine`, `document` … and what they say, in order.
    pub facts: Vec<(String, String)>,
}

/// Percent of a data sheet's rate that programs reach: peaks are not what a training step sees. Measured figures are
/// taken as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attainable {
    /// Of the rate of products.
    pub products: u64,
    /// Of the rate of products, inside attention.
    pub attention: u64,
    /// Of the bandwidth.
    pub streams: u64,
}

/// All that is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Short name, as `--device` takes it.
    pub name: String,
    /// The device in words.
    pub device: String,
    /// Where it computes.
    pub kind: DeviceKind,
    /// Threads with which a CPU was measured.
    pub threads: Option<u32>,
    /// Bytes of memory on the device.
    pub memory: Option<Figure>,
    /// Bytes of them that are not to be had for a plan: the driver's context and what libraries take.
    pub reserved: Figure,
    /// Nanoseconds that an operation takes beside its work.
    pub overhead: Figure,
    /// Plain arithmetic instructions on single elements in a second.
    pub arithmetic: Figure,
    /// Exponentials, roots and other functions of single elements in a second.
    pub functions: Figure,
    /// Products; at least one.
    pub products: Vec<ProductRate>,
    /// Attention; where empty, that of products counts.
    pub attention: Vec<AttentionRate>,
    /// Bandwidths; at least one for all operations.
    pub streams: Vec<StreamRate>,
    /// What is reached of a data sheet's rates.
    pub attainable: Option<Attainable>,
    /// What the figures go back to.
    pub evidence: Vec<Evidence>,
}

impl Profile {
    /// FLOP/s of a product, taken from those of the same kind and storage as far as there are any (the rates of others
    /// are an assumption): between measured shapes the nearer ones count more.
    pub fn product_rate(&self, product: Product, dtype: DType, shape: ProductShape) -> Figure {
        let same = |rate: &&ProductRate| rate.product.is_none_or(|other| other == product);
        let storage = self.products.iter().any(|rate| rate.dtype == dtype && same(&rate));
        let of_storage = |rate: &&ProductRate| !storage || rate.dtype == dtype;
        let fitting = self.products.iter().filter(|rate| of_storage(rate));
        let known = fitting.clone().any(|rate| same(&rate));
        let distance = |rate: &ProductRate| {
            rate.shape.map_or(0, |at| {
                apart(at.rows, shape.rows)
                    + apart(at.columns, shape.columns)
                    + apart(at.inner, shape.inner)
            })
        };
        let points = fitting.filter(|rate| !known || same(rate));
        let rate = between(points.map(|rate| (distance(rate), rate.rate)));
        self.reached(borrowed(rate, !storage || !known), |attainable| attainable.products)
    }

    /// FLOP/s of attention.
    pub fn attention_rate(
        &self,
        backward: bool,
        dtype: DType,
        sequence: u64,
        head_dim: u64,
    ) -> Figure {
        let distance = |rate: &AttentionRate| {
            rate.sequence.map_or(0, |at| apart(at, sequence))
                + rate.head_dim.map_or(0, |at| apart(at, head_dim))
        };
        let same = |rate: &&AttentionRate| rate.backward == backward;
        let storage = self.attention.iter().filter(same).any(|rate| rate.dtype == dtype);
        let points =
            self.attention.iter().filter(same).filter(|rate| !storage || rate.dtype == dtype);
        let rate = between(points.map(|rate| (distance(rate), rate.rate)));
        self.reached(borrowed(rate, !storage), |attainable| attainable.attention)
    }

    /// Bytes a second that an operation moves, out of `bytes` in all.
    pub fn stream_rate(&self, operation: &str, bytes: u64) -> Figure {
        let own = self.streams.iter().any(|rate| rate.operation.as_deref() == Some(operation));
        let points = self.streams.iter().filter(|rate| match &rate.operation {
            Some(name) => own && name == operation,
            None => !own,
        });
        let distance = |rate: &StreamRate| rate.bytes.map_or(0, |at| apart(at, bytes));
        let rate = between(points.map(|rate| (distance(rate), rate.rate)));
        self.reached(rate, |attainable| attainable.streams)
    }

    /// The part of a data sheet's rate that programs reach.
    fn reached(&self, rate: Figure, percent: fn(&Attainable) -> u64) -> Figure {
        match (&self.attainable, rate.basis) {
            (Some(attainable), Basis::DataSheet) => {
                let value = u128::from(rate.value) * u128::from(percent(attainable)) / 100;
                Figure { value: u64::try_from(value).unwrap_or(u64::MAX).max(1), ..rate }
            }
            _ => rate,
        }
    }
}

/// A rate that was measured for something else is an assumption.
fn borrowed(rate: Figure, is_of_another: bool) -> Figure {
    match is_of_another {
        true => Figure { basis: rate.basis.max(Basis::Assumed), ..rate },
        false => rate,
    }
}

/// Parts of an octave in which [`octaves`] counts.
const PARTS: u64 = 64;

/// The logarithm to base 2 in parts of an octave, straight lines between powers of two: the same on every machine.
fn octaves(number: u64) -> u64 {
    let number = number.max(1);
    let whole = number.ilog2();
    let rest = (u128::from(number - (1 << whole)) * u128::from(PARTS)) >> whole;
    u64::from(whole) * PARTS + rest as u64
}

/// The square of the distance of two numbers, in parts of an octave.
fn apart(a: u64, b: u64) -> u64 {
    octaves(a).abs_diff(octaves(b)).pow(2)
}

/// The mean of rates at given squared distances, each weighted by the inverse fourth power of its distance (Shepard's
/// method): at a measured point its own rate, beyond all points about that of the nearest. What is least known decides
/// the basis among those at the smallest distance. Nothing to choose from gives a rate of 1.
fn between(points: impl Iterator<Item = (u64, Figure)> + Clone) -> Figure {
    let Some(nearest) = points.clone().map(|(distance, _)| distance).min() else {
        return Figure::new(1, Basis::Assumed);
    };
    let basis = points
        .clone()
        .filter(|(distance, _)| *distance == nearest)
        .map(|(_, rate)| rate.basis)
        .max()
        .unwrap_or(Basis::Assumed);
    let weight = |distance: u64| match nearest {
        0 => u128::from(distance == 0),
        _ => {
            let ratio = (u128::from(nearest) << 20) / u128::from(distance);
            (ratio * ratio) >> 10
        }
    };
    let (mut sum, mut weights) = (0u128, 0u128);
    for (distance, rate) in points {
        sum += weight(distance) * u128::from(rate.value);
        weights += weight(distance);
    }
    Figure::new(u64::try_from(sum / weights.max(1)).unwrap_or(u64::MAX).max(1), basis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let figure = |value| Figure::new(value, Basis::Measured);
        let product = |rows, columns, inner, rate| ProductRate {
            product: Some(Product::Forward),
            dtype: DType::F32,
            shape: Some(ProductShape { rows, columns, inner }),
            rate: figure(rate),
        };
        Profile {
            name: "test".into(),
            device: "none".into(),
            kind: DeviceKind::Cpu,
            threads: Some(1),
            memory: None,
            reserved: figure(0),
            overhead: figure(1_000),
            arithmetic: figure(1_000_000_000),
            functions: figure(1_000_000_000),
            products: vec![product(1024, 64, 512, 10_000), product(1024, 1024, 512, 40_000)],
            attention: Vec::new(),
            streams: vec![
                StreamRate { operation: None, bytes: Some(1 << 20), rate: figure(9_000) },
                StreamRate { operation: None, bytes: Some(1 << 26), rate: figure(3_000) },
                StreamRate { operation: Some("rope".into()), bytes: None, rate: figure(500) },
            ],
            attainable: None,
            evidence: Vec::new(),
        }
    }

    #[test]
    fn octaves_rise_with_the_number() {
        assert_eq!([octaves(1), octaves(2), octaves(1 << 40)], [0, PARTS, 40 * PARTS]);
        assert_eq!(octaves(3), PARTS + PARTS / 2);
        let all: Vec<u64> = (1..5000).map(octaves).collect();
        assert!(all.is_sorted());
        assert_eq!(octaves(0), 0);
        assert!(octaves(u64::MAX) >= 63 * PARTS);
    }

    #[test]
    fn rates_are_those_of_the_points_and_between_them_in_between() {
        let rate = |columns| {
            let shape = ProductShape { rows: 1024, columns, inner: 512 };
            profile().product_rate(Product::Forward, DType::F32, shape).value
        };
        assert_eq!((rate(64), rate(1024)), (10_000, 40_000));
        assert_eq!(rate(256), 25_000);
        assert!(rate(128) < rate(256) && rate(256) < rate(512));
        // Far outside both points count alike in the limit, and the nearer one still more.
        assert!((25_000..40_001).contains(&rate(1 << 20)));
    }

    #[test]
    fn another_storage_or_product_is_taken_where_there_is_no_own() {
        let shape = ProductShape { rows: 1024, columns: 64, inner: 512 };
        let rate = |product, dtype| profile().product_rate(product, dtype, shape);
        let assumed = Figure::new(10_000, Basis::Assumed);
        assert_eq!(rate(Product::Weight, DType::Bf16), assumed);
        assert_eq!(rate(Product::Weight, DType::F32), assumed);
        assert_eq!(rate(Product::Forward, DType::F32), Figure::new(10_000, Basis::Measured));
    }

    #[test]
    fn operations_without_a_rate_of_their_own_share_one() {
        let rate = |operation: &str, bytes| profile().stream_rate(operation, bytes).value;
        assert_eq!(rate("rope", 77), 500);
        assert_eq!(rate("concat", 1 << 26), 3_000);
        assert_eq!(rate("concat", 1 << 20), 9_000);
    }

    #[test]
    fn only_rates_of_data_sheets_are_reduced() {
        let mut profile = profile();
        profile.attainable = Some(Attainable { products: 50, attention: 40, streams: 80 });
        assert_eq!(profile.stream_rate("rope", 1).value, 500);
        profile.streams[2].rate.basis = Basis::DataSheet;
        assert_eq!(profile.stream_rate("rope", 1), Figure::new(400, Basis::DataSheet));
    }

    #[test]
    fn nothing_known_is_no_division_by_zero() {
        let mut profile = profile();
        profile.streams.clear();
        assert_eq!(profile.stream_rate("rope", 1), Figure::new(1, Basis::Assumed));
    }
}
