//! The records of TensorBoard's event files.
//!
//! Owns their bytes: framing, checksums and the few fields of the protocol buffer `Event` that are used. Must not know
//! what is shown.
//!
//! A record is the length of its payload (u64), the masked CRC-32C of those eight bytes (u32), the payload, and its
//! masked CRC-32C, all little-endian. The payload is an `Event`: field 1 is the time in seconds (double), 2 the step, 3
//! the file's version, 5 a summary, 7 a session's begin. A summary repeats, as field 1, a tag (1) with a float (2). See
//! `tensorflow/core/util/event.proto`, `framework/summary.proto` and `lib/io/record_writer.h` in TensorFlow.

/// One event with its time in seconds since 1970 and its step.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    /// When it was written.
    pub time: f64,
    /// The update it belongs to.
    pub step: u64,
    /// What it says.
    pub event: Event,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first of a file.
    Version(String),
    /// A process begins or goes on; what earlier ones said of this step and later ones is void.
    SessionStart,
    /// Values by tag.
    Scalars(Vec<(String, f32)>),
    /// Anything else.
    Other,
}

/// Appends a record.
pub(crate) fn encode(bytes: &mut Vec<u8>, time: f64, step: u64, event: &Event) {
    match event {
        Event::Version(version) => frame(bytes, |bytes| {
            stamp(bytes, time, step);
            text(bytes, 3, version);
        }),
        Event::SessionStart => frame(bytes, |bytes| {
            stamp(bytes, time, step);
            // SessionLog { status: START }
            bytes.extend([7 << 3 | 2, 2, 1 << 3, 1]);
        }),
        Event::Scalars(scalars) => {
            let scalars = scalars.iter().map(|(tag, value)| (tag.as_str(), *value));
            encode_scalars(bytes, time, step, scalars);
        }
        Event::Other => frame(bytes, |bytes| stamp(bytes, time, step)),
    }
}

/// Appends a record of scalars.
pub(crate) fn encode_scalars<'a>(
    bytes: &mut Vec<u8>,
    time: f64,
    step: u64,
    scalars: impl Iterator<Item = (&'a str, f32)> + Clone,
) {
    // A tag with its length and field number, and a float with its field number; tags are shorter than 120 bytes.
    let value_length = |tag: &str| tag.len() + 2 + 5;
    let summary: usize = scalars.clone().map(|(tag, _)| value_length(tag) + 2).sum();
    frame(bytes, |bytes| {
        stamp(bytes, time, step);
        bytes.push(5 << 3 | 2);
        varint(bytes, summary as u64);
        for (tag, value) in scalars {
            bytes.extend([1 << 3 | 2, value_length(tag) as u8]);
            text(bytes, 1, tag);
            bytes.push(2 << 3 | 5);
            bytes.extend(value.to_le_bytes());
        }
    });
}

/// Appends a record whose payload `fill` appends.
fn frame(bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 12]);
    fill(bytes);
    let length = (bytes.len() - start - 12) as u64;
    bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
    let check = masked(crc32c(&length.to_le_bytes()));
    bytes[start + 8..start + 12].copy_from_slice(&check.to_le_bytes());
    let check = masked(crc32c(&bytes[start + 12..]));
    bytes.extend(check.to_le_bytes());
}

fn stamp(bytes: &mut Vec<u8>, time: f64, step: u64) {
    bytes.push(1 << 3 | 1);
    bytes.extend(time.to_le_bytes());
    bytes.push(2 << 3);
    varint(bytes, step);
}

fn text(bytes: &mut Vec<u8>, field: u8, text: &str) {
    bytes.push(field << 3 | 2);
    varint(bytes, text.len() as u64);
    bytes.extend(text.as_bytes());
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The polynomial of Castagnoli, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut remainder = index as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = remainder & 1;
            remainder >>= 1;
            if carry == 1 {
                remainder ^= POLYNOMIAL;
            }
            bit += 1;
        }
        table[index] = remainder;
        index += 1;
    }
    table
};

/// CRC-32C.
fn crc32c(bytes: &[u8]) -> u32 {
    let remainder = bytes.iter().fold(u32::MAX, |remainder, &byte| {
        remainder >> 8 ^ TABLE[usize::from(remainder as u8 ^ byte)]
    });
    !remainder
}

/// A checksum as records hold it, so that data that contains records does not have checksums of checksums.
fn masked(check: u32) -> u32 {
    check.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Reads the events of a file up to its end, or to the first record that is not whole.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the first byte of a file on.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, position: 0 }
    }

    /// Where the next record begins.
    pub fn position(&self) -> usize {
        self.position
    }
}

impl Iterator for Reader<'_> {
    type Item = Stamped;

    fn next(&mut self) -> Option<Stamped> {
        let (length, rest) = self.bytes.get(self.position..)?.split_first_chunk::<8>()?;
        let (check, rest) = rest.split_first_chunk::<4>()?;
        if masked(crc32c(length)) != u32::from_le_bytes(*check) {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (payload, rest) = rest.split_at_checked(length)?;
        let (check, _) = rest.split_first_chunk::<4>()?;
        if masked(crc32c(payload)) != u32::from_le_bytes(*check) {
            return None;
        }
        let stamped = decode(payload)?;
        self.position += 12 + length + 4;
        Some(stamped)
    }
}

/// A field of a protocol buffer.
enum Field<'a> {
    Number(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(&'a [u8]),
}

/// Takes the next field off a message: its number and value.
fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let key = take_varint(message)?;
    let value = match key & 7 {
        0 => Field::Number(take_varint(message)?),
        1 => Field::Eight(*take::<8>(message)?),
        2 => {
            let length = usize::try_from(take_varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Field::Bytes(bytes)
        }
        5 => Field::Four(*take::<4>(message)?),
        _ => return None,
    };
    Some((key >> 3, value))
}

fn take<'a, const N: usize>(message: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (bytes, rest) = message.split_first_chunk::<N>()?;
    *message = rest;
    Some(bytes)
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = *take::<1>(message)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn decode(mut message: &[u8]) -> Option<Stamped> {
    let mut stamped = Stamped { time: 0.0, step: 0, event: Event::Other };
    while !message.is_empty() {
        match field(&mut message)? {
            (1, Field::Eight(time)) => stamped.time = f64::from_le_bytes(time),
            (2, Field::Number(step)) => stamped.step = step,
            (3, Field::Bytes(version)) => {
                stamped.event = Event::Version(str::from_utf8(version).ok()?.to_owned());
            }
            (5, Field::Bytes(summary)) => stamped.event = Event::Scalars(scalars(summary)?),
            (7, Field::Bytes([8, 1])) => stamped.event = Event::SessionStart,
            _ => {}
        }
    }
    Some(stamped)
}

fn scalars(mut summary: &[u8]) -> Option<Vec<(String, f32)>> {
    let mut found = Vec::new();
    while !summary.is_empty() {
        let (1, Field::Bytes(mut value)) = field(&mut summary)? else { continue };
        let (mut tag, mut number) = (None, None);
        while !value.is_empty() {
            match field(&mut value)? {
                (1, Field::Bytes(bytes)) => tag = Some(str::from_utf8(bytes).ok()?.to_owned()),
                (2, Field::Four(bytes)) => number = Some(f32::from_le_bytes(bytes)),
                _ => {}
            }
        }
        found.extend(tag.zip(number));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the catalogue of CRCs, and RFC 3720, B.4.
    #[test]
    fn checksums_are_the_published_ones() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(masked(0), 0xa282_ead8);
    }

    fn examples() -> Vec<Stamped> {
        let scalars = [("train/loss".to_owned(), 2.5), ("a".repeat(110), f32::MIN_POSITIVE)];
        [
            (0, Event::Version("brain.Event:2".to_owned())),
            (1, Event::SessionStart),
            (127, Event::Scalars(scalars[..1].to_vec())),
            (1 << 40, Event::Scalars(scalars.to_vec())),
            (u64::MAX, Event::Scalars(Vec::new())),
        ]
        .map(|(step, event)| Stamped { time: 1.5e9 + 0.25, step, event })
        .to_vec()
    }

    fn bytes_of(events: &[Stamped]) -> Vec<u8> {
        let mut bytes = Vec::new();
        events.iter().for_each(|e| encode(&mut bytes, e.time, e.step, &e.event));
        bytes
    }

    /// Written out by hand from the description of the format.
    #[test]
    fn a_record_has_the_bytes_of_the_format() {
        let event = Event::Scalars(vec![("l".to_owned(), 1.0)]);
        let mut bytes = Vec::new();
        encode(&mut bytes, 2.0, 300, &event);
        let payload = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0, 0x40][..],
            &[0x10, 0xac, 0x02],
            &[0x2a, 10, 0x0a, 8, 0x0a, 1, b'l', 0x15, 0, 0, 0x80, 0x3f],
        ]
        .concat();
        assert_eq!(bytes[..8], [payload.len() as u8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[12..12 + payload.len()], payload);
        assert_eq!(bytes.len(), 12 + payload.len() + 4);
    }

    #[test]
    fn events_are_read_as_they_were_written() {
        let bytes = bytes_of(&examples());
        assert_eq!(Reader::new(&bytes).collect::<Vec<_>>(), examples());
    }

    /// Cut anywhere, changed anywhere: what comes before is read, what is wrong is not.
    #[test]
    fn damage_ends_the_reading() {
        let events = examples();
        let bytes = bytes_of(&events);
        let ends: Vec<usize> = (0..=events.len()).map(|n| bytes_of(&events[..n]).len()).collect();
        for at in 0..bytes.len() {
            let whole = ends.iter().filter(|&&end| end <= at).count() - 1;
            let cut: Vec<_> = Reader::new(&bytes[..at]).collect();
            assert_eq!(cut, events[..whole]);
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(Reader::new(&changed).collect::<Vec<_>>(), events[..whole]);
            }
        }
    }
}
