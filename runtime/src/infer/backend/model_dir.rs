//! A folder that holds a model and its weights under names of our own.
//!
//! A backend reads such files from wherever a model points, so it never sees a model's own words for them: it gets a copy
//! of the model (without the weights, which lie outside) that names links to the deployment's blobs and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use samovar_onnx::external::{DataNeed, checked};
use samovar_onnx::wire::{Edit, edited};

/// A file with weights of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// As the model names it, from the model's own folder.
    pub location: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// A folder with a model and its files, which goes when this is dropped. What a backend has mapped stays mapped.
pub struct ModelDir {
    folder: Folder,
}

enum Folder {
    /// Goes with this.
    Own(tempfile::TempDir),
    /// Somebody else lets it go.
    Lent(PathBuf),
}

impl ModelDir {
    /// Makes a folder with a model below `scratch`, which best lies where links to the files can be made.
    ///
    /// # Errors
    /// In words: a file is missing, too short, or cannot be linked.
    pub fn create(
        scratch: &Path,
        model: &[u8],
        needs: &[DataNeed],
        files: &[DataFile],
    ) -> Result<Self, String> {
        let failed = |e: io::Error| format!("cannot lay out the model's files: {e}");
        std::fs::create_dir_all(scratch).map_err(failed)?;
        let folder = tempfile::Builder::new()
            .prefix("graph-")
            .tempdir_in(scratch)
            .map_err(failed)?;
        let by_location = files.iter().map(|file| (&*file.location, file));
        let by_location: BTreeMap<&str, &DataFile> = by_location.collect();
        let mut names = BTreeMap::new();
        for (number, need) in needs.iter().enumerate() {
            let DataNeed {
                location,
                weight,
                bytes,
            } = need;
            let file = by_location.get(&**location);
            let path = &file
                .ok_or_else(|| {
                    format!(
                        "weight `{weight}` is stored in `{location}`, which is not in the bundle"
                    )
                })?
                .path;
            let found = std::fs::metadata(path).map_err(failed)?.len();
            if found < *bytes {
                return Err(format!(
                    "weight `{weight}` ends at byte {bytes} of `{location}`, which has only {found}"
                ));
            }
            // rten wants this ending.
            let name = format!("{number}.data");
            let link = folder.path().join(&name);
            std::fs::hard_link(path, &link)
                .or_else(|_| std::fs::copy(path, &link).map(drop))
                .map_err(failed)?;
            names.insert(location.clone(), name);
        }
        let laid = Self {
            folder: Folder::Own(folder),
        };
        let copy = edited(model, &mut Rename(names))?;
        std::fs::write(laid.model(), copy).map_err(failed)?;
        Ok(laid)
    }

    /// The model.
    pub fn model(&self) -> PathBuf {
        let folder = match &self.folder {
            Folder::Own(folder) => folder.path(),
            Folder::Lent(folder) => folder,
        };
        folder.join("model.onnx")
    }

    /// What another process has laid out, whose model this is.
    pub fn lent(model: &Path) -> Self {
        let folder = model.parent().unwrap_or(Path::new("")).to_owned();
        Self {
            folder: Folder::Lent(folder),
        }
    }
}

struct Rename(BTreeMap<String, String>);

impl Edit for Rename {
    fn location(&mut self, location: &str) -> String {
        // One that is unknown stays nowhere at all.
        let name = checked(location).and_then(|plain| self.0.get(&plain).cloned());
        name.unwrap_or_else(|| "missing.data".into())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use samovar_onnx::external::needs;
    use samovar_onnx::{Entry, GraphProto, ModelProto, Onnx, TensorProto};

    use super::*;

    fn needs_of(model: &[u8]) -> Result<Vec<DataNeed>, String> {
        needs(&Onnx::read(model)?.references)
    }

    /// A model with a weight of 16 bytes in another file.
    fn model(location: &str) -> Vec<u8> {
        let entry = |key: &str, value: &str| Entry {
            key: key.into(),
            value: value.into(),
        };
        let weight = TensorProto {
            name: "a".into(),
            data_location: 1,
            external_data: vec![
                entry("location", location),
                entry("offset", "0"),
                entry("length", "16"),
            ],
            ..Default::default()
        };
        ModelProto {
            graph: Some(GraphProto {
                initializer: vec![weight],
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn a_laid_out_model_names_links_alone() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        std::fs::write(&blob, [7; 16]).unwrap();
        let model = model("deep/m.data");
        let wants = needs_of(&model).unwrap();
        let file = |location: &str| DataFile {
            location: location.into(),
            path: blob.clone(),
        };
        let laid = |files: &[DataFile]| ModelDir::create(folder.path(), &model, &wants, files);
        let error = laid(&[file("other")]).err().unwrap();
        assert!(
            error.contains("weight `a`") && error.contains("deep/m.data"),
            "{error}"
        );
        let laid = laid(&[file("deep/m.data")]).unwrap();
        let copy = std::fs::read(laid.model()).unwrap();
        assert_eq!(needs_of(&copy).unwrap()[0].location, "0.data");
        let data = laid.model().with_file_name("0.data");
        assert_eq!(std::fs::read(data).unwrap(), [7; 16]);
        let place = laid.model();
        drop(laid);
        assert!(!place.exists());
    }
}
