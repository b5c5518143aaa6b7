//! The plan file: header, hash and body; `docs/plan-format.md` specifies it byte by byte.
//!
//! Owns reading and writing. Must not know what a plan means: that is the verifier's, which both sides run, so that
//! nothing is written that would not be read and nothing is read that an executor cannot rely on.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::plan::Plan;
use crate::verify::{self, VerifyError};

/// First bytes of every plan file. The first is not ASCII and the last two are a line end, so that a transfer as text
/// damages the magic itself.
pub const MAGIC: [u8; 8] = *b"\x89COLAC\r\n";

/// Version of the format that is written and read.
pub const FORMAT_VERSION: u32 = 5;

/// Bytes before the body: magic, version (u32), body length (u64), BLAKE3 of the body (32 bytes); numbers little-endian.
pub const HEADER_BYTES: usize = 8 + 4 + 8 + 32;

/// Longest body that is accepted, in bytes. Decoding needs memory in proportion to the body, so this bounds it; a plan
/// of a model with 7 thousand million parameters has below a hundredth of it.
pub const MAX_BODY_BYTES: u64 = 64 << 20;

/// Why a plan could not be read or written. Each prints as one line.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The magic is missing.
    #[error(
        "this is not a plan: it does not start with the bytes of a plan file (write one with `colac compile SPEC`)"
    )]
    NotAPlan,
    /// The file ends early.
    #[error(
        "the plan is cut: {missing} bytes are missing at its end; copy it again or compile it again"
    )]
    Cut {
        /// Bytes that are missing: to the end of the header if that is cut, else to the end of the body.
        missing: u64,
    },
    /// The body does not have the hash of the header.
    #[error(
        "the plan is damaged: its contents do not have the hash in its header; copy it again or compile it again"
    )]
    Damaged,
    /// Written by a later version of the format.
    #[error(
        "the plan has format version {version}, newer than {FORMAT_VERSION}, which this colac reads; update colac"
    )]
    Newer {
        /// The version found.
        version: u32,
    },
    /// Written by a version of the format that is not read any more.
    #[error(
        "the plan has format version {version}, older than {FORMAT_VERSION}, which this colac reads; \
         compile its spec again"
    )]
    Older {
        /// The version found.
        version: u32,
    },
    /// Bytes after the body.
    #[error(
        "the plan has {extra} bytes after its end; something was appended to it: copy it again or compile it again"
    )]
    Trailing {
        /// How many.
        extra: u64,
    },
    /// The body is longer than any plan.
    #[error("the plan says that its body has {bytes} bytes; a plan has at most {MAX_BODY_BYTES}")]
    TooLong {
        /// Length in the header, or of the body to be written.
        bytes: u64,
    },
    /// The hash is right but the body is not that of a plan.
    #[error(
        "the plan's body cannot be decoded ({reason}); it was not written by colac: compile its spec again"
    )]
    Undecodable {
        /// What the decoder found.
        reason: &'static str,
    },
    /// The verifier found something that an executor could not rely on.
    #[error("the plan is refused: {0}")]
    Refused(#[from] VerifyError),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    System {
        /// `read`, `write` or the like.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// Any other error, with the file it is about.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<PlanError>,
    },
}

/// The body: the plan in postcard's wire format.
pub(crate) fn encode(plan: &Plan) -> Vec<u8> {
    postcard::to_stdvec(plan).expect("plain data always has a postcard form")
}

/// Verifies a plan and gives the bytes of its file.
pub fn write(plan: &Plan) -> Result<Vec<u8>, PlanError> {
    verify::verify(plan)?;
    let body = encode(plan);
    let bytes = body.len() as u64;
    if bytes > MAX_BODY_BYTES {
        return Err(PlanError::TooLong { bytes });
    }
    Ok(frame(&body))
}

/// A file with this body and the hash that belongs to it, whatever the body is: for tests of readers, which must not
/// rely on the hash.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEADER_BYTES + body.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    file.extend_from_slice(&(body.len() as u64).to_le_bytes());
    file.extend_from_slice(blake3::hash(body).as_bytes());
    file.extend_from_slice(body);
    file
}

/// Verifies a plan and writes its file: beside the target first, synced, then renamed, so that `path` holds either
/// the whole new file or what it held before.
pub fn write_to_path(plan: &Plan, path: &Path) -> Result<(), PlanError> {
    let bytes = write(plan)?;
    let system = |action| move |source| PlanError::System { action, path: path.to_owned(), source };
    let Some(name) = path.file_name() else {
        return Err(system("write")(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path does not name a file",
        )));
    };
    let mut beside = name.to_owned();
    beside.push(format!(".partial-{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if let Err(source) = written {
        // The error that matters is the first one; a partial file that cannot be removed either changes nothing.
        let _ = fs::remove_file(&beside);
        return Err(system("write")(source));
    }
    // The rename itself lasts only once the folder is synced. Where folders cannot be opened as files there is no such
    // call, and the rename has its effect anyway.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        folder.sync_all().map_err(system("sync the folder of"))?;
    }
    Ok(())
}

/// Length and hash of the body as the header says them.
fn header(bytes: &[u8]) -> Result<(u64, [u8; 32]), PlanError> {
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if magic.is_empty() || !MAGIC.starts_with(magic) {
        return Err(PlanError::NotAPlan);
    }
    let version = bytes.get(8..12).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")));
    match version {
        Some(version) if version > FORMAT_VERSION => return Err(PlanError::Newer { version }),
        Some(version) if version < FORMAT_VERSION => return Err(PlanError::Older { version }),
        _ => {}
    }
    let Some(rest) = bytes.get(12..HEADER_BYTES) else {
        return Err(PlanError::Cut { missing: (HEADER_BYTES - bytes.len()) as u64 });
    };
    let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"));
    let hash = rest[8..].try_into().expect("thirty-two bytes");
    if length > MAX_BODY_BYTES {
        return Err(PlanError::TooLong { bytes: length });
    }
    Ok((length, hash))
}

/// Reads and verifies a plan from the bytes of its file.
pub fn read(bytes: &[u8]) -> Result<Plan, PlanError> {
    let (length, hash) = header(bytes)?;
    let body = &bytes[HEADER_BYTES..];
    let found = body.len() as u64;
    if found < length {
        return Err(PlanError::Cut { missing: length - found });
    }
    if found > length {
        return Err(PlanError::Trailing { extra: found - length });
    }
    if *blake3::hash(body).as_bytes() != hash {
        return Err(PlanError::Damaged);
    }
    let plan = decode(body)?;
    verify::verify(&plan)?;
    Ok(plan)
}

/// Decodes a body. Allocations stay in proportion to the body whatever lengths it claims: text is borrowed from it
/// before it is copied, and lists grow as their elements are found (serde reserves at most 1 MiB ahead).
fn decode(body: &[u8]) -> Result<Plan, PlanError> {
    let (plan, rest): (Plan, _) =
        postcard::take_from_bytes(body).map_err(|error| PlanError::Undecodable {
            reason: match error {
                postcard::Error::DeserializeUnexpectedEnd => "it ends early",
                postcard::Error::DeserializeBadVarint => "a number is too long",
                postcard::Error::DeserializeBadBool => "a truth value is neither 0 nor 1",
                postcard::Error::DeserializeBadUtf8 => "a text is not UTF-8",
                postcard::Error::DeserializeBadOption => {
                    "an optional field is neither there nor absent"
                }
                postcard::Error::DeserializeBadEnum => "an alternative does not exist",
                _ => "an alternative does not exist or a field does not fit",
            },
        })?;
    if !rest.is_empty() {
        return Err(PlanError::Undecodable { reason: "bytes are left over" });
    }
    // Numbers have more than one encoding of which the writer uses the shortest; only that is accepted, so that one
    // plan has one file hash.
    if encode(&plan) != body {
        return Err(PlanError::Undecodable { reason: "a number is not in its shortest form" });
    }
    Ok(plan)
}

/// Reads and verifies a plan file. A file that is no plan, or too long for one, is refused from its first bytes.
pub fn read_from_path(path: &Path) -> Result<Plan, PlanError> {
    let system = |source| PlanError::System { action: "read", path: path.to_owned(), source };
    let in_file = |source| PlanError::InFile { path: path.to_owned(), source: Box::new(source) };
    let mut file = File::open(path).map_err(system)?;
    let mut bytes = Vec::new();
    (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut bytes).map_err(system)?;
    let (length, _) = header(&bytes).map_err(in_file)?;
    (&mut file).take(length).read_to_end(&mut bytes).map_err(system)?;
    let mut byte = [0];
    if file.read(&mut byte).map_err(system)? == 1 {
        let size = file.metadata().map_err(system)?.len();
        let extra = size.saturating_sub(HEADER_BYTES as u64 + length).max(1);
        return Err(in_file(PlanError::Trailing { extra }));
    }
    read(&bytes).map_err(in_file)
}
