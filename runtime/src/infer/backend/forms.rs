//! Makes the form of a model that its backend loads faster, in a separate process.

use std::path::Path;

use samovar_onnx::external::needs;
use samovar_onnx::file::ModelFile;
use samovar_onnx::{Onnx, classes};

use super::{GuestModel, Source, onnxruntime, rten};

/// A backend that can make forms.
pub(crate) enum FormMaker {
    Rten,
    Onnxruntime(Box<onnxruntime::Optimizer>),
}

/// The static name of a backend, and the extension of its forms; `None` if there is no such backend.
pub(crate) fn find_backend(backend: &str) -> Option<(&'static str, &'static str)> {
    match backend {
        rten::NAME => Some((rten::NAME, rten::FORM_EXTENSION)),
        onnxruntime::NAME => Some((onnxruntime::NAME, onnxruntime::FORM_EXTENSION)),
        _ => None,
    }
}

impl FormMaker {
    /// Opens the library of a backend.
    ///
    /// # Errors
    /// If there is no such backend, or its library cannot be opened.
    pub fn open(backend: &str, library: Option<&Path>) -> Result<Self, String> {
        match (backend, library) {
            (rten::NAME, _) => Ok(Self::Rten),
            (onnxruntime::NAME, Some(library)) => {
                let optimizer = onnxruntime::Optimizer::open(library)?;
                Ok(Self::Onnxruntime(Box::new(optimizer)))
            }
            (onnxruntime::NAME, None) => Err("the path of its library is unknown".into()),
            _ => Err(format!("there is no backend `{backend}`")),
        }
    }

    /// Writes the form of a model to an existing file. Returns `false` if the form is not worth caching.
    ///
    /// # Errors
    /// If the backend cannot load the model, or the file cannot be written.
    pub fn make(&self, model: &Path, threads: usize, to: &Path) -> Result<bool, String> {
        let bytes = ModelFile::open(model).map_err(|e| e.0)?;
        let onnx = Onnx::read(&bytes)?;
        if !needs(&onnx.references)?.is_empty() {
            // The form would be another copy of the weights.
            return Ok(false);
        }
        let is_edited = classes::without_maps(&onnx.model, &bytes)?.is_some();
        match self {
            // It loads an edited model from a folder.
            Self::Rten if is_edited => Ok(false),
            Self::Rten => rten::make_form(&onnx.model, &bytes, to),
            Self::Onnxruntime(library) if is_edited => {
                let edited = GuestModel::read(bytes.to_vec(), u64::MAX).map_err(|e| e.0)?;
                library.make(&Source::Bytes(&edited), threads, onnx.folding, to)
            }
            Self::Onnxruntime(library) => {
                library.make(&Source::File(model), threads, onnx.folding, to)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::backend::testing::row_by_row;

    #[test]
    fn a_form_is_made_of_the_model_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (model, form) = (folder.path().join("model"), folder.path().join("form.onnx"));
        std::fs::write(&model, row_by_row()).unwrap();
        let maker = FormMaker::open("rten", None).unwrap();
        assert_eq!(maker.make(&model, 1, &form), Ok(true));
        ::rten::ModelOptions::with_all_ops()
            .load_file(&form)
            .unwrap();
        std::fs::write(&model, "no model").unwrap();
        maker.make(&model, 1, &form).unwrap_err();
        FormMaker::open("other", None).err().unwrap();
        FormMaker::open("onnxruntime", None).err().unwrap();
    }
}
