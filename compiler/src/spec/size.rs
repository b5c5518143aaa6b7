//! Numbers of bytes as people write them: `24 GiB`.
//!
//! Owns the units, for specs and command lines alike. Must not know what the bytes are for.

/// Bytes of a text: a number with KiB, MiB, GiB or TiB (powers of 1024, which K, M, G and T alone are short for), with
/// kB, MB, GB or TB (powers of 1000), or without a unit.
///
/// # Errors
/// What to write instead.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = unit.trim().to_ascii_lowercase();
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("`{unit}` is no unit of memory: write GiB, MiB, GB or MB")),
    };
    let number: f64 =
        number.replace('_', "").parse().map_err(|_| "write a number such as 24GiB".to_owned())?;
    let bytes = number * factor as f64;
    match bytes >= 1.0 && bytes < u64::MAX as f64 {
        true => Ok(bytes as u64),
        false => Err("write a number of bytes above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        let read = |text| parse_bytes(text).ok();
        assert_eq!(read("24GiB"), Some(24 << 30));
        assert_eq!(read("24 gib"), Some(24 << 30));
        assert_eq!(read("1.5M"), Some(3 << 19));
        assert_eq!(read("80GB"), Some(80_000_000_000));
        assert_eq!(read("1_000"), Some(1000));
        for wrong in ["", "GiB", "0", "-1", "24 apples", "1e400", "inf", "99999999 TiB"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
