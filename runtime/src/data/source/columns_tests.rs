//! Parquet and Arrow: written by the crates of the formats, read by our readers.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Int64Array, LargeStringArray, RecordBatch, StringArray, StructArray,
};
use arrow_schema::{DataType, Field, Schema};
use parquet::column::writer::ColumnWriter;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

fn parquet_file(compression: parquet::basic::Compression) -> Vec<u8> {
    let schema = "message m { required int64 id; optional binary text (UTF8); \
                  required group meta { required binary body (UTF8); } repeated binary tags (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    for texts in [[Some("one"), None], [Some("two"), Some("é")]] {
        let mut group = writer.next_row_group().unwrap();
        let mut number = 0;
        while let Some(mut column) = group.next_column().unwrap() {
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(ids) => {
                    ids.write_batch(&[1, 2], None, None).unwrap();
                }
                ColumnWriter::ByteArrayColumnWriter(values) => {
                    match number {
                        0 => {
                            let found: Vec<_> =
                                texts.iter().flatten().map(|&text| text.into()).collect();
                            let levels: Vec<i16> =
                                texts.iter().map(|text| i16::from(text.is_some())).collect();
                            values.write_batch(&found, Some(&levels), None).unwrap();
                        }
                        1 => {
                            values.write_batch(&["x".into(), "y".into()], None, None).unwrap();
                        }
                        _ => {
                            values.write_batch(&[], Some(&[0, 0]), Some(&[0, 0])).unwrap();
                        }
                    }
                    number += 1;
                }
                _ => panic!("no other column was declared"),
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn batch() -> RecordBatch {
    let texts = StringArray::from(vec![Some("one"), None, Some("é")]);
    let bodies: ArrayRef = Arc::new(LargeStringArray::from(vec!["x", "y", "z"]));
    let meta =
        StructArray::from(vec![(Arc::new(Field::new("body", DataType::LargeUtf8, false)), bodies)]);
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("meta", meta.data_type().clone(), false),
    ]);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 2, 3])), Arc::new(texts), Arc::new(meta)];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn stream() -> Vec<u8> {
    let batch = batch();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch.slice(2, 1)).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn file() -> Vec<u8> {
    let batch = batch();
    let mut writer = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch.slice(2, 1)).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn of(field: &str) -> ReadOptions {
    skipping(ReadOptions { text_field: field.to_owned(), ..ReadOptions::default() })
}

#[test]
fn columns_are_documents() {
    use parquet::basic::Compression;
    for compression in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())]
    {
        let bytes = parquet_file(compression);
        let (documents, bad, _) = read_parts("a.parquet", &bytes, &of("text"), true).unwrap();
        assert_eq!(documents, ["one", "two", "é"]);
        assert_eq!(bad, ["DIR/a.parquet, row 2: the column `text` is null"]);
        let (documents, ..) = read_parts("a.parquet", &bytes, &of("meta.body"), true).unwrap();
        assert_eq!(documents, ["x", "y", "x", "y"]);
    }
    for bytes in [stream(), file()] {
        let (documents, bad, _) = read_parts("a.arrow", &bytes, &of("text"), true).unwrap();
        assert_eq!(documents, ["one", "é", "é"]);
        assert_eq!(bad, ["DIR/a.arrow, row 2: the column `text` is null"]);
        let (documents, ..) = read_parts("a.arrow", &bytes, &of("meta.body"), true).unwrap();
        assert_eq!(documents, ["x", "y", "z", "z"]);
    }
}

#[test]
fn wrong_columns_are_named() {
    let bytes = parquet_file(parquet::basic::Compression::UNCOMPRESSED);
    for (name, bytes) in [("a.parquet", bytes), ("a.arrow", stream()), ("a.arrow", file())] {
        let absent = read(name, &bytes, &of("body")).unwrap_err();
        assert!(absent.contains("no column `body`, only id, text, meta"), "{absent}");
        let number = read(name, &bytes, &of("id")).unwrap_err();
        assert!(number.contains("is of type I") && number.contains("not text"), "{number}");
    }
    let list = read("a.parquet", &parquet_file(parquet::basic::Compression::SNAPPY), &of("tags"));
    assert!(list.unwrap_err().contains("is a list and not text"));
}

#[test]
fn cut_and_changed_files_are_refused_or_read() {
    let bytes = parquet_file(parquet::basic::Compression::SNAPPY);
    for (name, bytes) in [("a.parquet", bytes), ("a.arrow", stream()), ("a.arrow", file())] {
        for length in 0..bytes.len() {
            let _ = read(name, &bytes[..length], &of("text"));
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x41;
            let _ = read(name, &changed, &of("text"));
        }
    }
}
