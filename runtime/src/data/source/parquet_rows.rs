//! Parquet as documents: one row, one of its columns the text.
//!
//! Owns the reading of that one column, row group by row group; the other columns are not read. Built with the feature
//! `arrow`.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::{Documents, Next, Tally};
use crate::data::error::{DataError, one_line};

/// Rows that are decoded at a time.
const ROWS: usize = 64;

/// The documents of a Parquet file.
pub(super) struct ParquetDocuments {
    path: PathBuf,
    field: String,
    file: SerializedFileReader<File>,
    column: usize,
    /// Definition level of a row whose text is not null.
    defined: i16,
    next_group: usize,
    values: Option<ColumnReaderImpl<ByteArrayType>>,
    rows: VecDeque<Option<ByteArray>>,
    row: u64,
    tally: Arc<Mutex<Tally>>,
    file_bytes: u64,
}

/// Rows of a Parquet file, from its footer alone.
pub(super) fn row_count(path: &Path) -> Result<u64, DataError> {
    let file = open(path)?;
    Ok(u64::try_from(file.metadata().file_metadata().num_rows()).unwrap_or(0))
}

fn open(path: &Path) -> Result<SerializedFileReader<File>, DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    SerializedFileReader::new(file).map_err(|error| damaged(path, error))
}

fn damaged(path: &Path, error: ParquetError) -> DataError {
    let (path, reason) = (path.to_owned(), one_line(error));
    DataError::NotColumns { path, format: "Parquet", reason }
}

impl ParquetDocuments {
    pub(super) fn open(
        path: &Path,
        field: &str,
        tally: &Arc<Mutex<Tally>>,
    ) -> Result<Self, DataError> {
        let file = open(path)?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let columns = schema.columns();
        let Some(column) = columns.iter().position(|column| column.path().string() == field) else {
            let names = columns.iter().map(|column| column.path().string()).collect();
            return Err(DataError::NoField {
                path: path.to_owned(),
                field: field.to_owned(),
                names,
            });
        };
        let found = &columns[column];
        if found.physical_type() != parquet::basic::Type::BYTE_ARRAY || found.max_rep_level() > 0 {
            let what = match found.max_rep_level() {
                0 => format!("of type {}", found.physical_type()),
                _ => "a list".to_owned(),
            };
            let (path, field) = (path.to_owned(), field.to_owned());
            return Err(DataError::NotText { path, field, what });
        }
        // Columns are read out of order, so the file's own hash needs a reading of its own.
        let defined = found.max_def_level();
        let file_bytes = {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            File::open(path)
                .and_then(|mut whole| std::io::copy(&mut whole, &mut tally.hasher))
                .map_err(DataError::io("read", path))?
        };
        Ok(Self {
            path: path.to_owned(),
            field: field.to_owned(),
            file,
            column,
            defined,
            next_group: 0,
            values: None,
            rows: VecDeque::new(),
            row: 0,
            tally: Arc::clone(tally),
            file_bytes,
        })
    }

    /// Decodes some rows; false at the end of the file.
    fn read_rows(&mut self) -> Result<bool, DataError> {
        loop {
            let Some(values) = &mut self.values else {
                let groups = self.file.metadata().num_row_groups();
                let share = self.next_group as u64 * self.file_bytes / groups.max(1) as u64;
                self.tally.lock().unwrap_or_else(PoisonError::into_inner).bytes = share;
                if self.next_group >= groups {
                    self.tally.lock().unwrap_or_else(PoisonError::into_inner).bytes =
                        self.file_bytes;
                    return Ok(false);
                }
                let group = self.file.get_row_group(self.next_group);
                let reader = group
                    .and_then(|group| group.get_column_reader(self.column))
                    .map_err(|error| damaged(&self.path, error))?;
                self.next_group += 1;
                if let ColumnReader::ByteArrayColumnReader(reader) = reader {
                    self.values = Some(reader);
                }
                continue;
            };
            let (mut found, mut levels) = (Vec::new(), Vec::new());
            let definition = (self.defined > 0).then_some(&mut levels);
            let (records, _, _) = values
                .read_records(ROWS, definition, None, &mut found)
                .map_err(|error| damaged(&self.path, error))?;
            if records == 0 {
                self.values = None;
                continue;
            }
            if self.defined == 0 {
                self.rows.extend(found.into_iter().map(Some));
            } else {
                let mut found = found.into_iter();
                for level in levels {
                    self.rows.push_back(if level == self.defined { found.next() } else { None });
                }
            }
            return Ok(true);
        }
    }
}

impl Documents for ParquetDocuments {
    fn next(&mut self, text: &mut String) -> Result<Next, DataError> {
        while self.rows.is_empty() {
            if !self.read_rows()? {
                return Ok(Next::End);
            }
        }
        let value = self.rows.pop_front().flatten();
        self.row += 1;
        let place = || format!(", row {}", self.row);
        let Some(value) = value else {
            let reason = format!("the column `{}` is null", self.field);
            return Ok(Next::Bad { place: place(), reason });
        };
        match std::str::from_utf8(value.data()) {
            Ok(value) => {
                text.clear();
                text.push_str(value);
                Ok(Next::Last)
            }
            Err(_) => Ok(Next::Bad { place: place(), reason: "it is not UTF-8 text".to_owned() }),
        }
    }
}
