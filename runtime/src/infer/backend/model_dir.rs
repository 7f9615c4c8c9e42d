//! A folder with a model and its external weights under generated names.
//!
//! A backend opens whatever path a model names, so it never gets the paths of the original model. It gets a copy of the model
//! (without the weights) that names only links to the blobs of the deployment.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use samovar_onnx::external::{DataNeed, checked};
use samovar_onnx::wire::{Edit, edited};

/// A file with external weights of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// The path in the model, relative to the folder of the model.
    pub location: String,
    /// The path on disk.
    pub path: PathBuf,
}

/// A folder with a model and its files, which is removed on drop. Files that a backend has mapped stay mapped.
pub struct ModelDir {
    folder: Folder,
}

enum Folder {
    /// Removed on drop.
    Owned(tempfile::TempDir),
    /// Removed by another process.
    Borrowed(PathBuf),
}

impl ModelDir {
    /// Creates a folder with a model below `scratch`. Files are copied unless `scratch` is on the same file system.
    ///
    /// # Errors
    /// If a file is missing, too short, or cannot be linked or copied.
    pub fn create(
        scratch: &Path,
        model: &[u8],
        needs: &[DataNeed],
        files: &[DataFile],
    ) -> Result<Self, String> {
        let failed = |e: io::Error| format!("cannot create a folder for the model: {e}");
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
            // rten requires this extension.
            let name = format!("{number}.data");
            let link = folder.path().join(&name);
            std::fs::hard_link(path, &link)
                .or_else(|_| std::fs::copy(path, &link).map(drop))
                .map_err(failed)?;
            names.insert(location.clone(), name);
        }
        let dir = Self {
            folder: Folder::Owned(folder),
        };
        let copy = edited(model, &mut Rename(names))?;
        std::fs::write(dir.model(), copy).map_err(failed)?;
        Ok(dir)
    }

    /// The path of the model.
    pub fn model(&self) -> PathBuf {
        let folder = match &self.folder {
            Folder::Owned(folder) => folder.path(),
            Folder::Borrowed(folder) => folder,
        };
        folder.join("model.onnx")
    }

    /// The folder of a model that another process owns.
    pub fn borrowed(model: &Path) -> Self {
        let folder = model.parent().unwrap_or(Path::new("")).to_owned();
        Self {
            folder: Folder::Borrowed(folder),
        }
    }
}

struct Rename(BTreeMap<String, String>);

impl Edit for Rename {
    fn location(&mut self, location: &str) -> String {
        // An unknown file gets a name that does not exist.
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
    fn the_copy_of_a_model_names_only_links() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        std::fs::write(&blob, [7; 16]).unwrap();
        let model = model("deep/m.data");
        let wants = needs_of(&model).unwrap();
        let file = |location: &str| DataFile {
            location: location.into(),
            path: blob.clone(),
        };
        let create = |files: &[DataFile]| ModelDir::create(folder.path(), &model, &wants, files);
        let error = create(&[file("other")]).err().unwrap();
        assert!(
            error.contains("weight `a`") && error.contains("deep/m.data"),
            "{error}"
        );
        let dir = create(&[file("deep/m.data")]).unwrap();
        let copy = std::fs::read(dir.model()).unwrap();
        assert_eq!(needs_of(&copy).unwrap()[0].location, "0.data");
        let data = dir.model().with_file_name("0.data");
        assert_eq!(std::fs::read(data).unwrap(), [7; 16]);
        let place = dir.model();
        drop(dir);
        assert!(!place.exists());
    }
}
