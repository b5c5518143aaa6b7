//! Compressed files as the bytes they stand for.
//!
//! Owns the two compressions of text files, told apart by their first bytes and not by the file's name: gzip with any
//! number of members, zstd with any number of frames. Must not know what the bytes mean.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::BlockDecodingStrategy;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Skippable frames of zstd begin with 0x184D2A50 to 0x184D2A5F.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Largest window that a zstd frame may ask for, which is memory: what `zstd --long` uses, and no more.
const MAX_WINDOW_BYTES: u64 = 1 << 27;

/// The bytes behind a reader, decompressed if they are compressed.
pub(super) fn open<R: BufRead + Send + 'static>(
    mut reader: R,
) -> io::Result<Box<dyn BufRead + Send>> {
    let beginning = reader.fill_buf()?;
    if beginning.starts_with(&GZIP) {
        return Ok(Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(reader))));
    }
    let skippable = beginning.get(1..4) == Some(&ZSTD_SKIPPABLE) && beginning[0] & 0xf0 == 0x50;
    if beginning.starts_with(&ZSTD) || skippable {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        let frames = ZstdFrames { reader, decoder, inside: false };
        return Ok(Box::new(BufReader::with_capacity(1 << 16, frames)));
    }
    Ok(Box::new(reader))
}

/// The content of all frames, one behind the other.
struct ZstdFrames<R> {
    reader: R,
    decoder: FrameDecoder,
    /// Whether a frame was begun and is not used up.
    inside: bool,
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                if self.reader.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin_frame()?;
                continue;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.reader, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(damaged)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.end_frame()?;
        }
    }
}

impl<R: BufRead> ZstdFrames<R> {
    fn begin_frame(&mut self) -> io::Result<()> {
        match self.decoder.reset(&mut self.reader) {
            Ok(()) => self.inside = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let mut skipped = (&mut self.reader).take(length.into());
                if io::copy(&mut skipped, &mut io::sink())? < u64::from(length) {
                    return Err(damaged("it ends within a frame"));
                }
            }
            Err(error) => return Err(damaged(error)),
        }
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.inside = false;
        let (stated, found) =
            (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
        if stated.is_some() && stated != found {
            return Err(damaged("a frame's checksum is another than that of its content"));
        }
        Ok(())
    }
}

fn damaged(reason: impl ToString) -> io::Error {
    let reason = crate::data::error::one_line(reason);
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged zstd ({reason})"))
}
