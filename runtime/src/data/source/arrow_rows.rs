//! Arrow IPC as documents: one row, one of its columns the text.
//!
//! Owns both forms of the format: the file, which begins with `ARROW1`, and the stream, which is what the `datasets`
//! library writes under the same ending. Built with the feature `arrow`.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType, Fields, SchemaRef};

use super::{Documents, Next, TalliedFile, Tally};
use crate::data::error::{DataError, one_line};

/// How the file form begins.
const FILE_MAGIC: &[u8; 6] = b"ARROW1";

/// The two forms.
enum Batches {
    File(Box<FileReader<BufReader<File>>>),
    Stream(Box<StreamReader<BufReader<TalliedFile>>>),
}

/// The documents of an Arrow file.
pub(super) struct ArrowDocuments {
    path: PathBuf,
    field: String,
    batches: Batches,
    /// Positions of the column among those of its parent, from the outermost.
    route: Vec<usize>,
    texts: Option<ArrayRef>,
    next_row: usize,
    row: u64,
}

fn damaged(path: &Path, error: ArrowError) -> DataError {
    DataError::NotColumns { path: path.to_owned(), format: "Arrow", reason: one_line(error) }
}

impl ArrowDocuments {
    pub(super) fn open(
        path: &Path,
        field: &str,
        tally: &Arc<Mutex<Tally>>,
    ) -> Result<Self, DataError> {
        let io = |error| DataError::io("read", path)(error);
        let mut file = File::open(path).map_err(DataError::io("open", path))?;
        let mut beginning = Vec::new();
        (&mut file).take(FILE_MAGIC.len() as u64).read_to_end(&mut beginning).map_err(io)?;
        file.rewind().map_err(io)?;
        let batches = if beginning == FILE_MAGIC {
            let mut tallied = TalliedFile { file, tally: Arc::clone(tally) };
            // Read once for its hash; batches are then found through the footer.
            std::io::copy(&mut tallied, &mut std::io::sink()).map_err(io)?;
            let mut file = tallied.file;
            file.rewind().map_err(io)?;
            let reader = FileReader::try_new(BufReader::new(file), None);
            Batches::File(Box::new(reader.map_err(|error| damaged(path, error))?))
        } else {
            let file = TalliedFile { file, tally: Arc::clone(tally) };
            let reader = StreamReader::try_new(BufReader::with_capacity(1 << 16, file), None);
            Batches::Stream(Box::new(reader.map_err(|error| damaged(path, error))?))
        };
        let schema: SchemaRef = match &batches {
            Batches::File(reader) => reader.schema(),
            Batches::Stream(reader) => reader.schema(),
        };
        let route = route(schema.fields(), field, path)?;
        Ok(Self {
            path: path.to_owned(),
            field: field.to_owned(),
            batches,
            route,
            texts: None,
            next_row: 0,
            row: 0,
        })
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, DataError> {
        let batch = match &mut self.batches {
            Batches::File(reader) => reader.next(),
            Batches::Stream(reader) => {
                let batch = reader.next();
                if batch.is_none() {
                    // Whatever stands behind the mark of the end belongs to the file's hash.
                    std::io::copy(reader.get_mut(), &mut std::io::sink())
                        .map_err(DataError::io("read", &self.path))?;
                }
                batch
            }
        };
        batch.transpose().map_err(|error| damaged(&self.path, error))
    }

    /// The text of a row of the current batch, unless it is null.
    fn text_at(texts: &ArrayRef, row: usize) -> Option<&str> {
        if texts.is_null(row) {
            return None;
        }
        match texts.data_type() {
            DataType::LargeUtf8 => Some(texts.as_string::<i64>().value(row)),
            DataType::Utf8View => Some(texts.as_string_view().value(row)),
            _ => Some(texts.as_string::<i32>().value(row)),
        }
    }
}

/// Where a column lies that is named by a dotted path.
fn route(fields: &Fields, field: &str, path: &Path) -> Result<Vec<usize>, DataError> {
    let mut route = Vec::new();
    let (mut fields, mut rest) = (fields, field);
    loop {
        if let Some(at) = fields.iter().position(|column| column.name() == rest) {
            route.push(at);
            return match fields[at].data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(route),
                other => Err(DataError::NotText {
                    path: path.to_owned(),
                    field: field.to_owned(),
                    what: format!("of type {other}"),
                }),
            };
        }
        let inside = fields.iter().enumerate().find_map(|(at, column)| {
            let rest = rest.strip_prefix(column.name().as_str())?.strip_prefix('.')?;
            match column.data_type() {
                DataType::Struct(inner) => Some((at, inner, rest)),
                _ => None,
            }
        });
        let Some((at, inner, inner_rest)) = inside else {
            let names = fields.iter().map(|column| column.name().clone()).collect();
            return Err(DataError::NoField {
                path: path.to_owned(),
                field: field.to_owned(),
                names,
            });
        };
        route.push(at);
        (fields, rest) = (inner, inner_rest);
    }
}

impl Documents for ArrowDocuments {
    fn next(&mut self, text: &mut String) -> Result<Next, DataError> {
        loop {
            if let Some(texts) = &self.texts
                && self.next_row < texts.len()
            {
                let found = Self::text_at(texts, self.next_row);
                self.next_row += 1;
                self.row += 1;
                let Some(found) = found else {
                    let place = format!(", row {}", self.row);
                    let reason = format!("the column `{}` is null", self.field);
                    return Ok(Next::Bad { place, reason });
                };
                text.clear();
                text.push_str(found);
                return Ok(Next::Last);
            }
            let Some(batch) = self.next_batch()? else { return Ok(Next::End) };
            let mut column = batch.column(self.route[0]).clone();
            for &at in &self.route[1..] {
                column = column.as_struct().column(at).clone();
            }
            self.texts = Some(column);
            self.next_row = 0;
        }
    }
}
