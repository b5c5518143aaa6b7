//! The file around a plan: what is damaged, cut, of another version or hostile is refused in one line.

#![allow(clippy::unwrap_used, reason = "a test may fail where it unwraps")]

mod common;

use std::path::PathBuf;

use colac_plan::file::{
    FORMAT_VERSION, HEADER_BYTES, MAX_BODY_BYTES, PlanError, frame, read, read_from_path, write,
    write_to_path,
};
use colac_plan::hash;

fn refused(bytes: &[u8]) -> PlanError {
    let error = read(bytes).expect_err("damaged plans are refused");
    let line = error.to_string();
    assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
    error
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("colac-plan-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn round_trip() {
    let plan = common::plan();
    let bytes = write(&plan).unwrap();
    assert_eq!(read(&bytes).unwrap(), plan);
    assert_eq!(write(&read(&bytes).unwrap()).unwrap(), bytes);
    assert_eq!(bytes[20..HEADER_BYTES], hash::file(&plan).0);
    assert_eq!(bytes[..8], *b"\x89COLAC\r\n");
}

#[test]
fn cut_anywhere() {
    let bytes = write(&common::plan()).unwrap();
    for length in 0..bytes.len() {
        let whole = if length < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
        match refused(&bytes[..length]) {
            PlanError::NotAPlan => assert_eq!(length, 0),
            PlanError::Cut { missing } => assert_eq!(missing, (whole - length) as u64),
            other => panic!("cut at {length}: {other}"),
        }
    }
}

#[test]
fn every_byte_flipped() {
    let bytes = write(&common::plan()).unwrap();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let error = refused(&damaged);
            match at {
                0..8 => assert!(matches!(error, PlanError::NotAPlan)),
                8..12 => {
                    assert!(matches!(error, PlanError::Newer { .. } | PlanError::Older { .. }))
                }
                12..20 => assert!(matches!(
                    error,
                    PlanError::Cut { .. } | PlanError::Trailing { .. } | PlanError::TooLong { .. }
                )),
                _ => assert!(matches!(error, PlanError::Damaged), "{at}: {error}"),
            }
        }
    }
}

#[test]
fn other_versions_and_trailing_bytes() {
    let mut bytes = write(&common::plan()).unwrap();
    bytes.extend([0; 3]);
    assert!(matches!(refused(&bytes), PlanError::Trailing { extra: 3 }));
    bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let newer = refused(&bytes);
    assert!(matches!(newer, PlanError::Newer { version } if version == FORMAT_VERSION + 1));
    assert!(
        newer.to_string().contains(&format!("format version {}", FORMAT_VERSION + 1))
            && newer.to_string().contains("update colac")
    );
    bytes[8..12].copy_from_slice(&0u32.to_le_bytes());
    let older = refused(&bytes).to_string();
    assert!(
        older.contains("format version 0") && older.contains("compile its spec again"),
        "{older}"
    );
    assert!(matches!(refused(b"name = \"a spec\""), PlanError::NotAPlan));
    // A newer version may have another header: it is named even where this header would not be complete.
    bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
    assert!(matches!(refused(&bytes[..12]), PlanError::Newer { version: 7 }));
}

/// The longest form of the number 2^60, or so.
const HUGE: [u8; 9] = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];

#[test]
fn claimed_lengths_cost_nothing() {
    // A huge length at every place of the body, so at every list and text too.
    let body = write(&common::plan()).unwrap().split_off(HEADER_BYTES);
    for at in 0..body.len() {
        let mut hostile = body.clone();
        hostile.splice(at..at + 1, HUGE);
        if let Err(error) = read(&frame(&hostile)) {
            assert!(!error.to_string().contains('\n'));
        }
        assert!(read(&frame(&[&body[..at], &HUGE].concat())).is_err());
    }
    // A header that claims a huge body is refused before anything is read.
    let mut bytes = write(&common::plan()).unwrap();
    bytes[12..20].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(matches!(refused(&bytes), PlanError::TooLong { bytes } if bytes == 1 << 60));
    assert!(body.len() as u64 * 1000 < MAX_BODY_BYTES);
}

#[test]
fn numbers_have_one_form() {
    let mut body = write(&common::plan()).unwrap().split_off(HEADER_BYTES);
    // The first byte is the length of the name, 7: the same number in two bytes.
    assert_eq!(body[0], 7);
    body.splice(0..1, [0x87, 0x00]);
    let error = refused(&frame(&body));
    assert!(error.to_string().contains("shortest form"), "{error}");
    body.push(0);
    assert!(refused(&frame(&body)).to_string().contains("left over"));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut plan = common::plan();
    plan.recipe.micro_batch = 0;
    assert!(matches!(write(&plan), Err(PlanError::Refused(_))));
    let folder = folder("refused");
    assert!(write_to_path(&plan, &folder.join("plan.bin")).is_err());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn files_are_replaced_whole() {
    let folder = folder("files");
    let path = folder.join("plan.bin");
    let plan = common::plan();
    std::fs::write(&path, "an older file").unwrap();
    write_to_path(&plan, &path).unwrap();
    assert_eq!(read_from_path(&path).unwrap(), plan);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");

    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend([0; 1000]);
    std::fs::write(&path, &bytes).unwrap();
    let error = read_from_path(&path).unwrap_err().to_string();
    assert!(error.contains("plan.bin: ") && error.contains("1000 bytes after its end"), "{error}");
    std::fs::write(&path, &bytes[..100]).unwrap();
    assert!(read_from_path(&path).unwrap_err().to_string().contains("bytes are missing"));
    std::fs::write(&path, "").unwrap();
    assert!(read_from_path(&path).unwrap_err().to_string().contains("not a plan"));
    let missing = read_from_path(&folder.join("none.bin")).unwrap_err().to_string();
    assert!(missing.contains("cannot read") && missing.contains("none.bin"), "{missing}");
    let nowhere = write_to_path(&plan, &folder.join("no/folder/plan.bin")).unwrap_err().to_string();
    assert!(nowhere.contains("cannot write"), "{nowhere}");
    std::fs::remove_dir_all(folder).unwrap();
}
