//! Weights in files beside the model: which a model names, and a folder that holds them under names of our own.
//!
//! A backend reads such files from wherever a model points, so it never sees a model's own words for them: it gets a copy
//! of the model (without the weights, which lie outside) that names links to the deployment's blobs and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::wire::{Edit, edited};
use super::{Attribute, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

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
/// When a location leads out of the model's folder, or means none.
pub(crate) fn needs(model: &ModelProto) -> Result<Vec<DataNeed>, String> {
    let mut tensors = Vec::new();
    if let Some(graph) = &model.graph {
        of_graph(graph, &mut tensors);
    }
    for function in &model.functions {
        of_nodes(&function.node, &mut tensors);
    }
    let mut needs: BTreeMap<String, DataNeed> = BTreeMap::new();
    for tensor in tensors {
        let need = need(tensor)?;
        match needs.get_mut(&need.location) {
            Some(before) if before.bytes >= need.bytes => {}
            _ => drop(needs.insert(need.location.clone(), need)),
        }
    }
    Ok(needs.into_values().collect())
}

/// The first weight that lies in another file.
pub(crate) fn first(model: &ModelProto) -> Option<String> {
    let mut tensors = Vec::new();
    if let Some(graph) = &model.graph {
        of_graph(graph, &mut tensors);
    }
    for function in &model.functions {
        of_nodes(&function.node, &mut tensors);
    }
    tensors.first().map(|tensor| tensor.name.clone())
}

fn of_graph<'a>(graph: &'a GraphProto, found: &mut Vec<&'a TensorProto>) {
    found.extend(graph.initializer.iter().filter(|one| is_outside(one)));
    graph
        .sparse_initializer
        .iter()
        .for_each(|one| of_sparse(one, found));
    of_nodes(&graph.node, found);
}

fn of_nodes<'a>(nodes: &'a [NodeProto], found: &mut Vec<&'a TensorProto>) {
    nodes
        .iter()
        .flat_map(|node| &node.attribute)
        .for_each(|one| of_attribute(one, found));
}

fn of_attribute<'a>(one: &'a Attribute, found: &mut Vec<&'a TensorProto>) {
    let tensors = one.t.iter().chain(&one.tensors);
    found.extend(tensors.filter(|one| is_outside(one)));
    let sparse = one.sparse_tensor.iter().chain(&one.sparse_tensors);
    sparse.for_each(|one| of_sparse(one, found));
    let graphs = one.g.iter().chain(&one.graphs);
    graphs.for_each(|graph| of_graph(graph, found));
}

fn of_sparse<'a>(tensor: &'a SparseTensorProto, found: &mut Vec<&'a TensorProto>) {
    let both = tensor.values.iter().chain(&tensor.indices);
    found.extend(both.filter(|one| is_outside(one)));
}

fn is_outside(tensor: &TensorProto) -> bool {
    tensor.data_location != 0 || !tensor.external_data.is_empty()
}

fn need(tensor: &TensorProto) -> Result<DataNeed, String> {
    let entry = |key: &str| {
        let mut entries = tensor.external_data.iter();
        entries
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.as_str())
    };
    let weight = &tensor.name;
    let location = entry("location").ok_or_else(|| {
        format!("weight `{weight}` lies in another file, but it does not say which")
    })?;
    let location = checked(location).ok_or_else(|| {
        format!(
            "weight `{weight}` lies in {location:?}: wanted a file in the model's folder or below it, as `model.onnx.data`"
        )
    })?;
    let number = |key: &str| -> Result<Option<u64>, String> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| format!("weight `{weight}`: found {key} {text:?}, wanted a number"))
        };
        entry(key).map(parse).transpose()
    };
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(0);
    Ok(DataNeed {
        location,
        weight: weight.clone(),
        bytes: offset.saturating_add(length),
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
    folder: tempfile::TempDir,
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
        let laid = Self { folder };
        let copy = edited(model, &mut Rename(names))?;
        std::fs::write(laid.model(), copy).map_err(failed)?;
        Ok(laid)
    }

    /// The model.
    pub fn model(&self) -> PathBuf {
        self.folder.path().join("model.onnx")
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
    use super::super::Entry;
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

    fn model(weights: Vec<TensorProto>) -> ModelProto {
        let inner = GraphProto {
            initializer: weights,
            ..Default::default()
        };
        let node = NodeProto {
            attribute: vec![Attribute {
                g: Some(inner),
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
    }

    #[test]
    fn a_file_is_wanted_once_up_to_its_last_byte() {
        let model = model(vec![
            weight("a", "m.data", 0, 8),
            weight("b", "./m.data", 8, 8),
            weight("c", "deep/n.data", 0, 4),
        ]);
        let needs = needs(&model).unwrap();
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
            let error = needs(&model(vec![weight("w", location, 0, 1)])).unwrap_err();
            assert!(error.contains("weight `w`"), "{error}");
        }
    }

    #[test]
    fn a_laid_out_model_names_links_alone() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        std::fs::write(&blob, [7; 16]).unwrap();
        let model = model(vec![weight("a", "deep/m.data", 0, 16)]);
        let wants = needs(&model).unwrap();
        let bytes = model.encode_to_vec();
        let file = |location: &str| DataFile {
            location: location.into(),
            path: blob.clone(),
        };
        let laid = |files: &[DataFile]| Laid::out(folder.path(), &bytes, &wants, files);
        let error = laid(&[file("other")]).err().unwrap();
        assert!(
            error.contains("weight `a`") && error.contains("deep/m.data"),
            "{error}"
        );
        let laid = laid(&[file("deep/m.data")]).unwrap();
        let copy = ModelProto::decode(std::fs::read(laid.model()).unwrap().as_slice()).unwrap();
        assert_eq!(needs(&copy).unwrap()[0].location, "0.data");
        let data = laid.model().with_file_name("0.data");
        assert_eq!(std::fs::read(data).unwrap(), [7; 16]);
        let place = laid.model();
        drop(laid);
        assert!(!place.exists());
    }
}
