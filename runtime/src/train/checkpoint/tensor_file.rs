//! Safetensors files, written and read one tensor at a time.
//!
//! Owns the bytes of the format; its header is the `safetensors` crate's. The crate itself wants all tensors in memory to
//! read, and writes files that only their owner may read. Must not know what the tensors are.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use colac_plan::DType;
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};

use crate::train::error::CheckpointError;
use crate::train::file_system::{FileSystem, Output};

/// Largest header that the format allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// Elements that are converted at a time.
const CHUNK: usize = 1 << 14;

/// Bytes of two tensors that are compared at a time.
const COMPARED: usize = 1 << 20;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    /// Extents as they are in the file.
    pub(crate) extents: Vec<usize>,
}

/// The format's name of an element format.
pub(crate) fn file_dtype(dtype: DType) -> FileDtype {
    match dtype {
        DType::F32 => FileDtype::F32,
        DType::Bf16 => FileDtype::BF16,
        DType::I32 => FileDtype::I32,
    }
}

/// Writes the elements of one tensor after the other.
pub(crate) struct TensorWriter<'a> {
    path: &'a Path,
    file: BufWriter<Box<dyn Output>>,
    hasher: blake3::Hasher,
    bytes: Vec<u8>,
}

impl<'a> TensorWriter<'a> {
    /// Creates a file for entries of descending element size, whose elements follow in the same order.
    pub(crate) fn create(
        disk: &dyn FileSystem,
        path: &'a Path,
        entries: &[Entry],
    ) -> Result<Self, CheckpointError> {
        let mut offset = 0;
        let infos = entries.iter().map(|entry| {
            let start = offset;
            offset += entry.extents.iter().product::<usize>() * entry.dtype.bytes() as usize;
            let info = TensorInfo {
                dtype: file_dtype(entry.dtype),
                shape: entry.extents.clone(),
                data_offsets: (start, offset),
            };
            (entry.name.clone(), info)
        });
        // Loaders of the Hugging Face libraries refuse files that do not say which framework's layout they have.
        let metadata =
            Metadata::new(Some([("format".to_owned(), "pt".to_owned())].into()), infos.collect())
                .expect("offsets made one after the other are consistent");
        let mut header = serde_json::to_vec(&metadata).expect("a header always has a JSON form");
        header.resize(header.len().next_multiple_of(8), b' ');

        let file = disk.create_file(path).map_err(CheckpointError::io("create", path))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut writer =
            TensorWriter { path, file, hasher: blake3::Hasher::new(), bytes: Vec::new() };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(&header)?;
        Ok(writer)
    }

    /// Writes the next tensor from real numbers. `exchange` gives the extents of a matrix in `values` that goes to the
    /// file with its axes exchanged.
    pub(crate) fn reals(
        &mut self,
        dtype: DType,
        values: &[f32],
        exchange: Option<(usize, usize)>,
    ) -> Result<(), CheckpointError> {
        let at = |index: usize| match exchange {
            None => values[index],
            Some((rows, columns)) => values[index % rows * columns + index / rows],
        };
        for first in (0..values.len()).step_by(CHUNK) {
            self.bytes.clear();
            for value in (first..values.len().min(first + CHUNK)).map(at) {
                match dtype {
                    DType::F32 => self.bytes.extend(value.to_le_bytes()),
                    // Values read from bf16 storage: the lower half is 0.
                    DType::Bf16 => {
                        self.bytes.extend(((value.to_bits() >> 16) as u16).to_le_bytes())
                    }
                    DType::I32 => unreachable!("integer tensors are written as integers"),
                }
            }
            let bytes = std::mem::take(&mut self.bytes);
            self.write(&bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Writes the next tensor from integers.
    pub(crate) fn integers(&mut self, values: &[i32]) -> Result<(), CheckpointError> {
        values.iter().try_for_each(|value| self.write(&value.to_le_bytes()))
    }

    /// Brings the file to the disk; returns its hash.
    pub(crate) fn finish(mut self) -> Result<blake3::Hash, CheckpointError> {
        self.file
            .flush()
            .and_then(|()| self.file.get_mut().sync())
            .map_err(CheckpointError::io("write", self.path))?;
        Ok(self.hasher.finalize())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(CheckpointError::io("write", self.path))
    }
}

/// A safetensors file whose header is read and checked.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    file: BufReader<File>,
    metadata: Metadata,
    data_start: u64,
}

impl TensorFile {
    /// Opens a file and checks that its header describes exactly its bytes.
    pub(crate) fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
        let damaged = |reason: String| CheckpointError::damaged(path, reason);
        let mut file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let length = file.metadata().map_err(CheckpointError::io("read", path))?.len();
        let mut prefix = [0; 8];
        if length < 8 {
            return Err(damaged(format!("{length} bytes are too few for a safetensors file")));
        }
        file.read_exact(&mut prefix).map_err(CheckpointError::io("read", path))?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > MAX_HEADER || header_length > length - 8 {
            return Err(damaged(format!(
                "its header should have {header_length} bytes, and the file has {length}"
            )));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(CheckpointError::io("read", path))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| damaged(format!("its header is wrong: {error}")))?;
        let data_start = 8 + header_length;
        let expected = data_start.checked_add(metadata.data_len() as u64);
        if expected != Some(length) {
            let expected = expected.map_or("more than 2^64".to_owned(), |bytes| bytes.to_string());
            return Err(damaged(format!(
                "its header describes {expected} bytes, and the file has {length}"
            )));
        }
        let file = BufReader::with_capacity(1 << 20, file);
        Ok(TensorFile { path: path.to_owned(), file, metadata, data_start })
    }

    /// Names of all tensors in the order of the file.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Element format and extents of a tensor.
    pub(crate) fn info(&self, name: &str) -> Option<(FileDtype, &[usize])> {
        self.metadata.info(name).map(|info| (info.dtype, info.shape.as_slice()))
    }

    /// Reads a tensor of real numbers; `exchange` gives the extents that a matrix shall have whose axes are exchanged in
    /// the file. The caller has checked format and extents.
    pub(crate) fn reals(
        &mut self,
        name: &str,
        values: &mut [f32],
        exchange: Option<(usize, usize)>,
    ) -> Result<(), CheckpointError> {
        let dtype = self.seek(name)?;
        let size = if dtype == FileDtype::F32 { 4 } else { 2 };
        let count = values.len();
        let mut bytes = vec![0; CHUNK * size];
        for first in (0..count).step_by(CHUNK) {
            let bytes = &mut bytes[..(count - first).min(CHUNK) * size];
            self.file.read_exact(bytes).map_err(CheckpointError::io("read", &self.path))?;
            for (index, element) in (first..).zip(bytes.chunks_exact(size)) {
                let value = match *element {
                    [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                    [a, b] => f32::from_le_bytes([0, 0, a, b]),
                    _ => unreachable!("elements have two or four bytes"),
                };
                let index = match exchange {
                    None => index,
                    Some((rows, columns)) => index % rows * columns + index / rows,
                };
                values[index] = value;
            }
        }
        Ok(())
    }

    /// Reads a tensor of integers whose format and extents the caller has checked.
    pub(crate) fn integers(
        &mut self,
        name: &str,
        values: &mut [i32],
    ) -> Result<(), CheckpointError> {
        self.seek(name)?;
        for value in values {
            let mut bytes = [0; 4];
            self.file.read_exact(&mut bytes).map_err(CheckpointError::io("read", &self.path))?;
            *value = i32::from_le_bytes(bytes);
        }
        Ok(())
    }

    /// Whether two tensors have the same bytes; it may read both.
    pub(crate) fn same_bytes(&mut self, a: &str, b: &str) -> Result<bool, CheckpointError> {
        let range = |file: &Self, name: &str| {
            let missing =
                || CheckpointError::damaged(&file.path, format!("it has no tensor {name}"));
            let (start, end) = file.metadata.info(name).ok_or_else(missing)?.data_offsets;
            Ok::<_, CheckpointError>((file.data_start + start as u64, end - start))
        };
        let ((a, length), (b, other)) = (range(self, a)?, range(self, b)?);
        if length != other {
            return Ok(false);
        }
        let mut pieces = [vec![0; COMPARED.min(length)], vec![0; COMPARED.min(length)]];
        for first in (0..length).step_by(COMPARED) {
            let count = (length - first).min(COMPARED);
            for (piece, start) in pieces.iter_mut().zip([a, b]) {
                self.file
                    .seek(SeekFrom::Start(start + first as u64))
                    .and_then(|_| self.file.read_exact(&mut piece[..count]))
                    .map_err(CheckpointError::io("read", &self.path))?;
            }
            if pieces[0][..count] != pieces[1][..count] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn seek(&mut self, name: &str) -> Result<FileDtype, CheckpointError> {
        let info = self.metadata.info(name).ok_or_else(|| {
            CheckpointError::damaged(&self.path, format!("it has no tensor {name}"))
        })?;
        let start = self.data_start + info.data_offsets.0 as u64;
        self.file.seek(SeekFrom::Start(start)).map_err(CheckpointError::io("read", &self.path))?;
        Ok(info.dtype)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::train::file_system::Disk;

    fn entry(name: &str, dtype: DType, extents: &[usize]) -> Entry {
        Entry { name: name.to_owned(), dtype, extents: extents.to_vec() }
    }

    fn write(path: &Path) -> blake3::Hash {
        let entries = [
            entry("b", DType::F32, &[3, 2]),
            entry("step", DType::I32, &[]),
            entry("a", DType::Bf16, &[3]),
        ];
        let mut writer = TensorWriter::create(&Disk, path, &entries).unwrap();
        // In memory [2, 3].
        writer.reals(DType::F32, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], Some((2, 3))).unwrap();
        writer.integers(&[-7]).unwrap();
        writer.reals(DType::Bf16, &[1.0, -2.5, f32::INFINITY], None).unwrap();
        writer.finish().unwrap()
    }

    /// What we write, the crate of the format reads.
    #[test]
    fn files_are_safetensors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let hash = write(&path);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(blake3::hash(&bytes), hash);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor("b").unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (FileDtype::F32, [3, 2].as_slice()));
        let expected: Vec<u8> =
            [1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0].into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(tensor.data(), expected);
        assert_eq!(tensors.tensor("step").unwrap().data(), (-7i32).to_le_bytes());
        assert_eq!(tensors.tensor("a").unwrap().data(), [0x80, 0x3f, 0x20, 0xc0, 0x80, 0x7f]);
        assert_eq!(tensors.len(), 3);
    }

    #[test]
    fn files_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path);
        let mut file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names(), ["b", "step", "a"]);
        let (mut b, mut step, mut a) = ([0.0; 6], [0], [0.0; 3]);
        file.reals("b", &mut b, Some((2, 3))).unwrap();
        file.integers("step", &mut step).unwrap();
        file.reals("a", &mut a, None).unwrap();
        assert_eq!(
            (b, step, a),
            ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [-7], [1.0, -2.5, f32::INFINITY])
        );
        assert!(file.reals("c", &mut a, None).is_err());
    }

    /// More elements than are converted at a time, exchanged there and back.
    #[test]
    fn large_matrices_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let values: Vec<f32> = (0..257 * 131).map(|i| i as f32).collect();
        let mut writer =
            TensorWriter::create(&Disk, &path, &[entry("m", DType::F32, &[131, 257])]).unwrap();
        writer.reals(DType::F32, &values, Some((257, 131))).unwrap();
        writer.finish().unwrap();
        let mut file = TensorFile::open(&path).unwrap();
        let mut as_stored = vec![0.0; values.len()];
        file.reals("m", &mut as_stored, None).unwrap();
        assert_eq!(as_stored[..3], [0.0, 131.0, 262.0]);
        let mut back = vec![0.0; values.len()];
        file.reals("m", &mut back, Some((257, 131))).unwrap();
        assert_eq!(back, values);
    }

    /// Every cut and every changed byte of the header is refused or still describes exactly the file; nothing panics.
    #[test]
    fn damaged_headers_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path);
        let bytes = std::fs::read(&path).unwrap();
        let damaged = directory.path().join("damaged");
        for length in 0..bytes.len() {
            std::fs::write(&damaged, &bytes[..length]).unwrap();
            assert!(
                matches!(TensorFile::open(&damaged), Err(CheckpointError::Damaged { .. })),
                "cut to {length}"
            );
        }
        let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for at in 0..header_end {
            for bit in [0, 3, 6] {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                std::fs::write(&damaged, &changed).unwrap();
                if let Ok(mut file) = TensorFile::open(&damaged) {
                    assert_eq!(
                        file.data_start + file.metadata.data_len() as u64,
                        bytes.len() as u64
                    );
                    if file.info("b") == Some((FileDtype::F32, &[3, 2])) {
                        file.reals("b", &mut [0.0; 6], None).unwrap();
                    }
                }
            }
        }
    }
}
