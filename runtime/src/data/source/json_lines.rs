//! JSON Lines as documents: one object a line, one of its fields the text.
//!
//! Owns the search for that field, without building the rest of the object. Blank lines are no records.

use std::fmt;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{Documents, MAX_RECORD_BYTES, Next};
use crate::data::error::{DataError, one_line};

/// The documents of a file of JSON Lines.
pub(super) struct JsonDocuments {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    field: String,
    line: Vec<u8>,
    number: u64,
}

impl JsonDocuments {
    pub(super) fn new(reader: Box<dyn BufRead + Send>, path: &Path, field: &str) -> Self {
        let field = field.to_owned();
        Self { reader, path: path.to_owned(), field, line: Vec::new(), number: 0 }
    }

    /// Leaves out the rest of a line.
    fn skip_line(&mut self) -> Result<(), DataError> {
        loop {
            let buffer = self.reader.fill_buf().map_err(DataError::io("read", &self.path))?;
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(buffer.len(), |end| end + 1);
            let done = end.is_some() || buffer.is_empty();
            self.reader.consume(used);
            if done {
                return Ok(());
            }
        }
    }
}

impl Documents for JsonDocuments {
    fn next(&mut self, text: &mut String) -> Result<Next, DataError> {
        loop {
            self.line.clear();
            let count = (&mut self.reader)
                .take(MAX_RECORD_BYTES as u64)
                .read_until(b'\n', &mut self.line)
                .map_err(DataError::io("read", &self.path))?;
            if count == 0 {
                return Ok(Next::End);
            }
            self.number += 1;
            let place = || format!(":{}", self.number);
            if count == MAX_RECORD_BYTES && !self.line.ends_with(b"\n") {
                let place = place();
                self.skip_line()?;
                let reason = "a line of more than 256 MiB".to_owned();
                return Ok(Next::Bad { place, reason });
            }
            let line = match self.number {
                1 => self.line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.line),
                _ => &self.line,
            };
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            if self.number == 1 && line.starts_with(b"[") {
                // A whole file in one array has no lines to skip.
                return Err(DataError::NotJsonLines { path: self.path.clone() });
            }
            return Ok(match text_of(line, &self.field) {
                Ok(found) => {
                    *text = found;
                    Next::Last
                }
                Err(reason) => Next::Bad { place: place(), reason },
            });
        }
    }
}

/// The text in a line.
fn text_of(line: &[u8], field: &str) -> Result<String, String> {
    let not_json = |error: serde_json::Error| {
        let error = one_line(error);
        // Every line is line 1 to its parser.
        format!("it is not JSON ({})", error.replace(" at line 1 column", " at column"))
    };
    if !line.starts_with(b"{") {
        // Whether it is JSON at all decides which of two mistakes is reported.
        return match serde_json::from_slice::<IgnoredAny>(line) {
            Ok(_) => Err("it is JSON, but not an object".to_owned()),
            Err(error) => Err(not_json(error)),
        };
    }
    let mut parser = serde_json::Deserializer::from_slice(line);
    let found = Wanted { field }.deserialize(&mut parser).map_err(not_json)?;
    parser.end().map_err(not_json)?;
    match found {
        Found::Text(text) => Ok(text),
        Found::Other(what) => Err(format!("the field `{field}` is {what} and not a text")),
        Found::Absent(names) if names.is_empty() => Err(format!("no field `{field}`")),
        Found::Absent(names) => Err(format!("no field `{field}`; there is {}", names.join(", "))),
    }
}

/// What stands where the text should be.
enum Found {
    Text(String),
    Other(&'static str),
    /// The names that are there, some of them.
    Absent(Vec<String>),
}

/// Looks for a field by its name, or along a dotted path.
struct Wanted<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// How many names a message lists.
const LISTED_NAMES: usize = 8;

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a field `{}`", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = None;
        let mut names = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == self.field {
                found = Some(map.next_value_seed(Leaf)?);
                continue;
            }
            let inside = self.field.strip_prefix(name.as_str());
            if let Some(rest) = inside.and_then(|rest| rest.strip_prefix('.')) {
                let inner = map.next_value_seed(Wanted { field: rest })?;
                if !matches!(inner, Found::Absent(_)) {
                    found = Some(inner);
                    continue;
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if names.len() < LISTED_NAMES {
                names.push(format!("`{}`", name.escape_debug()));
            }
        }
        Ok(found.unwrap_or(Found::Absent(names)))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Absent(Vec::new()))
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::Absent(Vec::new()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Absent(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Absent(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Absent(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Absent(Vec::new()))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Absent(Vec::new()))
    }
}

/// The value of the field.
struct Leaf;

impl<'de> DeserializeSeed<'de> for Leaf {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Leaf {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Found, E> {
        Ok(Found::Text(text))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Other("a truth value"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Other("null"))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Other("an object"))
    }
}
