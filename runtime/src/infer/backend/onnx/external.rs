//! Weights in files beside the model: which a model names, and a folder that holds them under names of our own.
//!
//! A backend reads such files from wherever a model points, so it never sees a model's own words for them: it gets a copy
//! of the model (without the weights, which lie outside) that names links to the deployment's blobs and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::outside::Reference;
use super::wire::{Edit, edited};

/// A file with weights of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// As the model names it, from the model's own folder.
    pub location: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// What a model wants of a file beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataNeed {
    /// The file, from the model's own folder.
    pub location: String,
    /// A weight that lies in it, the one that reaches furthest.
    pub weight: String,
    /// How many bytes of it the model reads.
    pub bytes: u64,
}

/// The files that a model wants, in the order of their names.
///
/// # Errors
/// When a location leads out of the model's folder or means none, or when the model wants something other than weights.
pub(crate) fn needs(references: &[Reference]) -> Result<Vec<DataNeed>, String> {
    let mut needs: BTreeMap<String, DataNeed> = BTreeMap::new();
    for reference in references {
        let need = match reference {
            Reference::Data { tensor, entries } => need(tensor, entries)?,
            Reference::Engine { .. } => {
                return Err(format!(
                    "{}: export the model without it",
                    reference.label()
                ));
            }
        };
        match needs.get_mut(&need.location) {
            Some(before) if before.bytes >= need.bytes => {}
            _ => drop(needs.insert(need.location.clone(), need)),
        }
    }
    Ok(needs.into_values().collect())
}

fn need(weight: &str, entries: &[(String, String)]) -> Result<DataNeed, String> {
    let entry = |key: &str| -> Result<Option<&str>, String> {
        let mut found = entries.iter().filter(|(name, _)| name == key);
        let first = found.next().map(|(_, value)| value.as_str());
        match found.next() {
            None => Ok(first),
            Some(_) => Err(format!("weight `{weight}` has two entries `{key}`")),
        }
    };
    let location = entry("location")?.ok_or_else(|| {
        format!("weight `{weight}` lies in another file, but it does not say which")
    })?;
    let location = checked(location).ok_or_else(|| {
        format!(
            "weight `{weight}` lies in {location:?}: wanted a file in the model's folder or below it, as `model.onnx.data`"
        )
    })?;
    let number = |key: &str| -> Result<u64, String> {
        let Some(text) = entry(key)? else {
            return Ok(0);
        };
        text.parse()
            .map_err(|_| format!("weight `{weight}`: found {key} {text:?}, wanted a number"))
    };
    Ok(DataNeed {
        location,
        weight: weight.to_owned(),
        bytes: number("offset")?.saturating_add(number("length")?),
    })
}

/// A location in its plainest form; `None` when it could mean anything outside of the model's folder.
fn checked(location: &str) -> Option<String> {
    if location.starts_with('/') || location.contains(['\\', '\0', ':']) {
        return None;
    }
    let parts: Vec<&str> = location
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

/// A folder with a model and its files, which goes when this is dropped. What a backend has mapped stays mapped.
pub(crate) struct Laid {
    folder: Folder,
}

enum Folder {
    /// Goes with this.
    Own(tempfile::TempDir),
    /// Somebody else lets it go.
    Lent(PathBuf),
}

impl Laid {
    /// Lays a model out below `scratch`, which best lies where links to the files can be made.
    ///
    /// # Errors
    /// In words: a file is missing, too short, or cannot be linked.
    pub fn out(
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
        let mut names = BTreeMap::new();
        for (number, need) in needs.iter().enumerate() {
            let DataNeed {
                location,
                weight,
                bytes,
            } = need;
            let file = files.iter().find(|file| file.location == *location);
            let path = &file
                .ok_or_else(|| {
                    format!(
                        "weight `{weight}` lies in `{location}`, which the bundle does not hold"
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
    use super::super::{Attribute, Entry, GraphProto, ModelProto, NodeProto, Onnx, TensorProto};
    use super::*;
    use prost::Message;

    fn weight(name: &str, location: &str, offset: u64, length: u64) -> TensorProto {
        let entry = |key: &str, value: String| Entry {
            key: key.into(),
            value,
        };
        TensorProto {
            name: name.into(),
            data_location: 1,
            external_data: vec![
                entry("location", location.into()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            ..Default::default()
        }
    }

    fn needs_of(model: &[u8]) -> Result<Vec<DataNeed>, String> {
        needs(&Onnx::read(model)?.references)
    }

    fn model(weights: Vec<TensorProto>) -> Vec<u8> {
        let inner = GraphProto {
            initializer: weights,
            ..Default::default()
        };
        let node = NodeProto {
            attribute: vec![Attribute {
                g: Some(Box::new(inner)),
                ..Default::default()
            }],
            ..Default::default()
        };
        ModelProto {
            graph: Some(GraphProto {
                node: vec![node],
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn a_file_is_wanted_once_up_to_its_last_byte() {
        let model = model(vec![
            weight("a", "m.data", 0, 8),
            weight("b", "./m.data", 8, 8),
            weight("c", "deep/n.data", 0, 4),
        ]);
        let needs = needs_of(&model).unwrap();
        assert_eq!(needs.len(), 2);
        assert_eq!(
            (needs[0].location.as_str(), needs[0].bytes),
            ("deep/n.data", 4)
        );
        assert_eq!((needs[1].weight.as_str(), needs[1].bytes), ("b", 16));
    }

    #[test]
    fn no_location_leads_out_of_the_folder() {
        for location in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "",
            ".",
            "C:\\x",
            "a\\b",
            "a\0b",
        ] {
            let error = needs_of(&model(vec![weight("w", location, 0, 1)])).unwrap_err();
            assert!(error.contains("weight `w`"), "{error}");
        }
    }

    #[test]
    fn a_laid_out_model_names_links_alone() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        std::fs::write(&blob, [7; 16]).unwrap();
        let model = model(vec![weight("a", "deep/m.data", 0, 16)]);
        let wants = needs_of(&model).unwrap();
        let file = |location: &str| DataFile {
            location: location.into(),
            path: blob.clone(),
        };
        let laid = |files: &[DataFile]| Laid::out(folder.path(), &model, &wants, files);
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
