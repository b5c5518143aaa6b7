//! Device profiles as commands take them.
//!
//! Owns where a user's profiles are kept, which one stands for this machine, and how predictions say what they rest on.
//! Must not know what is in a profile.

use std::path::PathBuf;

use clap::Args;
use colac_compiler::device;
use colac_compiler::diagnostics::Sources;
use colac_compiler::view::text;
use colac_plan::profile::{Basis, Profile};

use crate::shared::failure::Failure;
use crate::shared::machine::Device;

/// The name under which `colac calibrate` keeps the profile of this machine's device.
pub(crate) fn own_name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
    }
}

/// Options of commands that predict times.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DeviceOptions {
    /// The device to predict for: h100, h200, a100-80, rtx-4090, the name of a profile of your own, or the path of one
    ///
    /// Profiles of your own lie in the folder `devices` of colac's configuration folder: $COLAC_CONFIG_DIR, else
    /// $XDG_CONFIG_HOME/colac, else ~/.config/colac. `colac calibrate` writes that of this machine there, as `cpu` or, of
    /// its GPU, as `cuda`.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) device: Option<String>,
}

impl DeviceOptions {
    /// The profile asked for.
    pub(crate) fn named(&self) -> Result<Option<Profile>, Failure> {
        self.device.as_deref().map(load).transpose()
    }

    /// The profile asked for, or that of this machine if it has been calibrated.
    pub(crate) fn named_or_own(&self) -> Result<Option<Profile>, Failure> {
        match &self.device {
            Some(name) => load(name).map(Some),
            None => own_if_there(Device::Cpu),
        }
    }
}

/// Options of commands that compute on a device and compare with what was predicted for it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PredictionOptions {
    /// Compare with the prediction for a device profile: its name or path [default: what `colac calibrate` wrote for the
    /// device, if it did]
    #[arg(long, value_name = "NAME|FILE")]
    predict_for: Option<String>,
}

impl PredictionOptions {
    /// The profile asked for, or that of the device if it has been calibrated.
    pub(crate) fn named_or_own(&self, device: Device) -> Result<Option<Profile>, Failure> {
        match &self.predict_for {
            Some(name) => load(name).map(Some),
            None => own_if_there(device),
        }
    }
}

/// The profile of this machine's device, if it has been calibrated.
fn own_if_there(device: Device) -> Result<Option<Profile>, Failure> {
    match own(device).is_some_and(|path| path.is_file()) {
        true => load(own_name(device)).map(Some),
        false => Ok(None),
    }
}

/// Reads a profile by name or path.
pub(crate) fn load(argument: &str) -> Result<Profile, Failure> {
    let mut sources = Sources::default();
    device::load(argument, folder().as_deref(), &mut sources)
        .map_err(|diagnostics| Failure::Texts(diagnostics, sources))
}

/// Where a user keeps profiles; none where the system names no such folder.
pub(crate) fn folder() -> Option<PathBuf> {
    let named = |variable: &str| {
        let value = std::env::var_os(variable)?;
        (!value.is_empty()).then(|| PathBuf::from(value))
    };
    let configuration = named("COLAC_CONFIG_DIR")
        .or_else(|| Some(named("XDG_CONFIG_HOME")?.join("colac")))
        .or_else(|| Some(named("HOME")?.join(".config/colac")))
        .or_else(|| Some(named("APPDATA")?.join("colac")))?;
    Some(configuration.join("devices"))
}

/// The file of the profile of this machine's device.
pub(crate) fn own(device: Device) -> Option<PathBuf> {
    Some(folder()?.join(format!("{}.toml", own_name(device))))
}

/// What stands behind a prediction: ` (data sheet)` unless every figure was measured.
pub(crate) fn mark(basis: &str) -> String {
    if basis == Basis::Measured.name() { String::new() } else { format!(" ({basis})") }
}

/// A line about a profile: `h100, NVIDIA H100 SXM, 80 GB: data sheet`.
pub(crate) fn described(profile: &Profile) -> String {
    let bases: Vec<&str> = [Basis::Measured, Basis::DataSheet]
        .into_iter()
        .filter(|basis| profile.products.iter().any(|rate| rate.rate.basis == *basis))
        .map(Basis::name)
        .collect();
    let date = profile.evidence.iter().find(|evidence| evidence.basis == Basis::Measured);
    let date = date.and_then(|e| e.facts.iter().find(|(key, _)| key == "date"));
    let date = date.map_or_else(String::new, |(_, date)| format!(" {date}"));
    let threads = profile.threads.map_or_else(String::new, |n| format!(", {n} threads"));
    format!("{}, {}{threads}: {}{date}", profile.name, profile.device, bases.join(" and "))
}

/// Nanoseconds as `12.3 ms` or `1.25 s`.
pub(crate) fn time(nanoseconds: u64) -> String {
    match nanoseconds as f64 {
        n if n >= 1e9 => format!("{:.3} s", n / 1e9),
        n if n >= 1e6 => format!("{:.2} ms", n / 1e6),
        n if n >= 1e3 => format!("{:.1} µs", n / 1e3),
        n => format!("{n} ns"),
    }
}

/// A rate as `12.3 GFLOP/s`, for its unit.
pub(crate) fn rate(per_second: f64, unit: &str) -> String {
    let text = text::count(per_second);
    if text.contains(' ') { format!("{text}{unit}/s") } else { format!("{text} {unit}/s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_read_well() {
        assert_eq!(time(43), "43 ns");
        assert_eq!(time(1_234), "1.2 µs");
        assert_eq!(time(12_300_000), "12.30 ms");
        assert_eq!(time(1_250_000_000), "1.250 s");
        assert_eq!(rate(45.6e9, "FLOP"), "45.60 GFLOP/s");
        assert_eq!(rate(5.0, "FLOP"), "5 FLOP/s");
    }
}
