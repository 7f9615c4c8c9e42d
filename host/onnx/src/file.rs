//! Model files: their bytes, and what they declare.

use std::io::Read as _;
use std::path::Path;

use crate::Onnx;
use crate::external::{DataNeed, needs};
use crate::port::Ports;

/// Every graph is read once as a whole to learn its shape; a larger file has its weights outside of it.
const MAX_MODEL_BYTES: u64 = 2 << 30;

/// Why a model file cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// A model file's bytes: mapped, or read where the file system cannot map.
pub struct ModelFile(Contents);

enum Contents {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl std::ops::Deref for ModelFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Contents::Mapped(bytes) => bytes,
            Contents::Read(bytes) => bytes,
        }
    }
}

impl ModelFile {
    /// Opens a model file.
    ///
    /// # Errors
    /// The file cannot be read, or is longer than a model may be.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let failed = |e: std::io::Error| ReadError(format!("cannot read {}: {e}", path.display()));
        let file = std::fs::File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let fits = |size: u64| {
            if size <= MAX_MODEL_BYTES {
                return Ok(());
            }
            Err(ReadError(format!(
                "the model is {size} bytes; the limit is {MAX_MODEL_BYTES}: save its weights in separate files"
            )))
        };
        fits(metadata.len())?;
        if metadata.is_file() {
            // SAFETY: a blob is not changed once it is stored, and who changes a file under `push` harms that push alone.
            if let Ok(mapped) = unsafe { memmap2::Mmap::map(&file) } {
                return Ok(Self(Contents::Mapped(mapped)));
            }
        }
        // What cannot be mapped, as not every file system's files can be.
        let mut bytes = Vec::new();
        file.take(MAX_MODEL_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        fits(bytes.len() as u64)?;
        Ok(Self(Contents::Read(bytes)))
    }
}

/// The files beside it that a model wants; none of what is no model, which loading refuses.
///
/// # Errors
/// When it cannot be read, or wants a file that cannot be its own.
pub fn data_needs(model: &Path) -> Result<Vec<DataNeed>, ReadError> {
    let bytes = ModelFile::open(model)?;
    let onnx = Onnx::read(&bytes);
    onnx.map_or(Ok(Vec::new()), |onnx| {
        needs(&onnx.references).map_err(ReadError)
    })
}

/// What the graph of a model file wants and gives, as the file says.
///
/// # Errors
/// When it cannot be read, is no ONNX model, or has an input or output that wasi-nn cannot carry.
pub fn ports(model: &Path) -> Result<Ports, ReadError> {
    let bytes = ModelFile::open(model)?;
    let onnx = Onnx::read(&bytes).map_err(ReadError)?.model;
    Ok(Ports {
        inputs: onnx.inputs().map_err(ReadError)?,
        outputs: onnx.outputs().map_err(ReadError)?,
    })
}
