//! A profile to TOML.
//!
//! Owns the layout of the text. What is written is read back as the same profile.

use std::fmt::Write;

use colac_plan::profile::{AttentionRate, DeviceKind, Figure, ProductRate, Profile, StreamRate};

use super::FORMAT;

/// The profile as TOML. Reading it gives the profile again.
pub fn write(profile: &Profile) -> String {
    let mut text = String::new();
    let kind = match profile.kind {
        DeviceKind::Cpu => "cpu",
        DeviceKind::Cuda => "cuda",
    };
    let _ = write!(
        text,
        "format = {FORMAT}\nname = {}\ndevice = {}\nkind = \"{kind}\"\n",
        quoted(&profile.name),
        quoted(&profile.device)
    );
    if let Some(threads) = profile.threads {
        let _ = writeln!(text, "threads = {threads}");
    }
    if let Some(memory) = profile.memory {
        let _ = writeln!(text, "memory = {{ {} }}", whole("bytes", memory));
    }
    let _ = writeln!(text, "reserved = {{ {} }}", whole("bytes", profile.reserved));
    let _ = writeln!(text, "overhead = {{ {} }}", whole("nanoseconds", profile.overhead));
    let _ = writeln!(text, "arithmetic = {{ {} }}", giga("gigaelements", profile.arithmetic));
    let _ = writeln!(text, "functions = {{ {} }}", giga("gigaelements", profile.functions));
    let list = |text: &mut String, name: &str, entries: Vec<Vec<String>>| {
        if !entries.is_empty() {
            let _ = writeln!(text, "{name} = [");
            for keys in entries {
                let _ = writeln!(text, "  {{ {} }},", keys.join(", "));
            }
            let _ = writeln!(text, "]");
        }
    };
    let key = |name: &str, value: Option<String>| value.map(|value| format!("{name} = {value}"));
    let number = |name: &str, value: Option<u64>| key(name, value.map(|value| value.to_string()));
    let product = |rate: &ProductRate| {
        let (product, dtype) =
            (rate.product.map(|p| quoted(p.name())), quoted(&rate.dtype.to_string()));
        let keys = [
            key("product", product),
            key("dtype", Some(dtype)),
            number("rows", rate.shape.map(|shape| shape.rows)),
            number("columns", rate.shape.map(|shape| shape.columns)),
            number("inner", rate.shape.map(|shape| shape.inner)),
            Some(giga("gigaflops", rate.rate)),
        ];
        keys.into_iter().flatten().collect()
    };
    let attention = |rate: &AttentionRate| {
        let direction = if rate.backward { "backward" } else { "forward" };
        let keys = [
            key("direction", Some(quoted(direction))),
            key("dtype", Some(quoted(&rate.dtype.to_string()))),
            number("sequence", rate.sequence),
            number("head_dim", rate.head_dim),
            Some(giga("gigaflops", rate.rate)),
        ];
        keys.into_iter().flatten().collect()
    };
    let stream = |rate: &StreamRate| {
        let keys = [
            key("operation", rate.operation.as_deref().map(quoted)),
            number("bytes", rate.bytes),
            Some(giga("gigabytes", rate.rate)),
        ];
        keys.into_iter().flatten().collect()
    };
    list(&mut text, "products", profile.products.iter().map(product).collect());
    list(&mut text, "attention", profile.attention.iter().map(attention).collect());
    list(&mut text, "streams", profile.streams.iter().map(stream).collect());
    if let Some(attainable) = profile.attainable {
        let _ = writeln!(
            text,
            "\n[attainable]\nproducts = {}\nattention = {}\nstreams = {}",
            attainable.products, attainable.attention, attainable.streams
        );
    }
    for evidence in &profile.evidence {
        let _ = writeln!(text, "\n[{}]", evidence.basis.name().replace(' ', "_"));
        for (key, fact) in &evidence.facts {
            let _ = writeln!(text, "{key} = {}", quoted(fact));
        }
    }
    text
}

fn whole(unit: &str, figure: Figure) -> String {
    format!("{unit} = {}, how = \"{}\"", figure.value, figure.basis)
}

/// A rate in billions, exact: nine digits behind the point, as far as they are not zero.
fn giga(unit: &str, figure: Figure) -> String {
    let (whole, rest) = (figure.value / 1_000_000_000, figure.value % 1_000_000_000);
    let rest = format!("{rest:09}");
    let rest = rest.trim_end_matches('0');
    let rest = if rest.is_empty() { "0" } else { rest };
    format!("{unit} = {whole}.{rest}, how = \"{}\"", figure.basis)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::read;
    use crate::diagnostics::Sources;
    use crate::spec::shipped;

    /// Every shipped profile can be read, and writing and reading it changes nothing.
    #[test]
    fn what_is_written_is_read_back() {
        for (name, text) in shipped::devices() {
            let mut sources = Sources::default();
            let profile = read(*name, text, &mut sources).unwrap();
            assert_eq!(profile.name, *name);
            let again = read(*name, &write(&profile), &mut sources).unwrap();
            assert_eq!(profile, again, "{name}");
        }
    }

    #[test]
    fn rates_keep_every_digit() {
        let figure = |value| Figure::new(value, colac_plan::profile::Basis::Measured);
        assert_eq!(giga("g", figure(1_234_567_891)), "g = 1.234567891, how = \"measured\"");
        assert_eq!(giga("g", figure(2_000_000_000)), "g = 2.0, how = \"measured\"");
        assert_eq!(giga("g", figure(500)), "g = 0.0000005, how = \"measured\"");
    }
}
