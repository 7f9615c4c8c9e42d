//! Makes the form of a model that its backend loads quickest, in a process that does nothing else.

use std::path::Path;

use samovar_onnx::external::needs;
use samovar_onnx::file::ModelFile;
use samovar_onnx::{Onnx, classes};

use super::{GuestModel, Source, onnxruntime, rten};

/// A backend that makes forms.
pub(crate) enum FormMaker {
    Rten,
    Onnxruntime(Box<onnxruntime::Optimizer>),
}

/// The backend of this name, and the ending of the files in which its forms are kept; nothing when there is no such backend.
pub(crate) fn known(backend: &str) -> Option<(&'static str, &'static str)> {
    match backend {
        rten::NAME => Some((rten::NAME, rten::FORM_ENDING)),
        onnxruntime::NAME => Some((onnxruntime::NAME, onnxruntime::FORM_ENDING)),
        _ => None,
    }
}

impl FormMaker {
    /// Opens what the backend needs: its library, which is anywhere.
    ///
    /// # Errors
    /// In words, when there is no such backend, or its library cannot be opened.
    pub fn open(backend: &str, library: Option<&Path>) -> Result<Self, String> {
        match (backend, library) {
            (rten::NAME, _) => Ok(Self::Rten),
            (onnxruntime::NAME, Some(library)) => {
                let optimizer = onnxruntime::Optimizer::open(library)?;
                Ok(Self::Onnxruntime(Box::new(optimizer)))
            }
            (onnxruntime::NAME, None) => Err("the file of its library is not known".into()),
            _ => Err(format!("there is no backend `{backend}`")),
        }
    }

    /// Writes the form of a model to a file that is there; false when it is not worth its place.
    ///
    /// # Errors
    /// In words, when the backend cannot load the model, or the disk fails.
    pub fn make(&self, model: &Path, threads: usize, to: &Path) -> Result<bool, String> {
        let bytes = ModelFile::open(model).map_err(|e| e.0)?;
        let onnx = Onnx::read(&bytes)?;
        if !needs(&onnx.references)?.is_empty() {
            // It would hold the weights once more.
            return Ok(false);
        }
        let is_edited = classes::without_maps(&onnx.model, &bytes)?.is_some();
        match self {
            // It loads an edited model from a folder of its own.
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
