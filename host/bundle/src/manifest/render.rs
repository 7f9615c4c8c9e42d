//! Writes the manifest of a bundle, so that a downloaded bundle can be read and pushed again.

use std::collections::BTreeMap;

use samovar_types::bundle::{Blob, Bundle, Graph, Isolation};
use toml::{Table, Value};

use super::FILE_NAME;
use super::units::{format_duration_ms, format_size_bytes};

/// A bundle as files of a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// The manifest's path and its text.
    pub manifest: (String, String),
    /// The other files by their paths.
    pub blobs: BTreeMap<String, Blob>,
}

/// Turns a bundle into the files of a folder; `samovar push` of that folder makes the same bundle.
///
/// The manifest lacks what is not in a bundle, such as the command that built its component.
pub fn folder(bundle: &Bundle) -> Folder {
    let mut blobs: BTreeMap<String, Blob> = bundle.files.clone();
    let graphs: BTreeMap<&String, (String, &Graph)> = bundle
        .graphs
        .iter()
        .map(|(name, graph)| {
            let path = place_graph(&mut blobs, graph);
            (name, (path, graph))
        })
        .collect();
    let component = place(&mut blobs, "component.wasm", bundle.component);
    let mut name = FILE_NAME.to_owned();
    while !is_free(&blobs, &name, None) {
        name.insert_str(0, "bundle-");
    }
    let text = text(bundle, component, graphs);
    Folder {
        manifest: (name, text),
        blobs,
    }
}

/// Whether a file can have this path: it conflicts with no other file and no folder.
fn is_free(blobs: &BTreeMap<String, Blob>, path: &str, blob: Option<&Blob>) -> bool {
    let is_other = blobs.get(path).is_some_and(|there| Some(there) != blob);
    let mut parents = path.match_indices('/').map(|(at, _)| &path[..at]);
    let folder = format!("{path}/");
    let mut below = blobs.range(folder.clone()..);
    !is_other
        && !parents.any(|parent| blobs.contains_key(parent))
        && !below
            .next()
            .is_some_and(|(next, _)| next.starts_with(&folder))
}

/// The path itself, or a free variation of it.
fn place(blobs: &mut BTreeMap<String, Blob>, wanted: &str, blob: Blob) -> String {
    let mut path = wanted.to_owned();
    // Ends, because each blob is in the way of a few paths only.
    while !is_free(blobs, &path, Some(&blob)) {
        path.insert(0, '_');
    }
    blobs.insert(path.clone(), blob);
    path
}

/// Places a graph's files so that the relative paths in its model are valid, in a separate folder if necessary.
fn place_graph(blobs: &mut BTreeMap<String, Blob>, graph: &Graph) -> String {
    let model = Blob {
        digest: graph.digest,
        size: graph.size,
    };
    if graph.data.is_empty() {
        return place(blobs, &graph.file, model);
    }
    let mut file = graph.file.clone();
    loop {
        let beside = file.rfind('/').map_or("", |at| &file[..=at]);
        let data = graph.data.iter();
        let mut wanted: Vec<(String, Blob)> = data
            .map(|(location, blob)| (format!("{beside}{location}"), *blob))
            .collect();
        wanted.push((file.clone(), model));
        let free = |(path, blob): &(String, Blob)| is_free(blobs, path, Some(blob));
        if wanted.iter().all(free) {
            blobs.extend(wanted);
            return file;
        }
        file.insert_str(0, "_/");
    }
}

fn text(bundle: &Bundle, component: String, graphs: BTreeMap<&String, (String, &Graph)>) -> String {
    let list = |values: &mut dyn Iterator<Item = &String>| -> Value {
        values
            .map(|value| Value::from(value.clone()))
            .collect::<Vec<_>>()
            .into()
    };
    let mut top = Table::new();
    top.insert("name".into(), bundle.name.clone().into());
    top.insert("component".into(), component.into());
    if !bundle.files.is_empty() {
        top.insert("files".into(), list(&mut bundle.files.keys()));
    }
    if !bundle.secrets.is_empty() {
        top.insert("secrets".into(), list(&mut bundle.secrets.iter()));
    }
    if bundle.snapshot {
        top.insert("snapshot".into(), true.into());
    }
    if let Some(example) = &bundle.example {
        top.insert("example".into(), example.clone().into());
    }
    if bundle.load_graphs_from_bytes {
        top.insert("load_graphs_from_bytes".into(), true.into());
    }
    match bundle.isolation {
        Isolation::Shared => {}
        Isolation::Deployment => {
            top.insert("isolation".into(), "deployment".into());
        }
    }
    if !graphs.is_empty() {
        let graphs = graphs.into_iter();
        let graphs = graphs.map(|(name, (path, one))| (name.clone(), graph(path, one)));
        top.insert("graphs".into(), Value::Table(graphs.collect()));
    }
    let mut limits = Table::new();
    let size = |bytes| Value::from(format_size_bytes(bytes));
    limits.insert("memory".into(), size(bundle.limits.memory_bytes));
    let timeout = format_duration_ms(bundle.limits.timeout_ms);
    limits.insert("timeout".into(), timeout.into());
    limits.insert("body".into(), size(bundle.limits.body_bytes));
    if let Some(requests) = bundle.limits.requests_per_replica {
        limits.insert("requests_per_replica".into(), i64::from(requests).into());
    }
    top.insert("limits".into(), limits.into());
    if !bundle.environment_variables.is_empty() {
        let variables = bundle.environment_variables.iter();
        let variables = variables.map(|(name, value)| (name.clone(), value.clone().into()));
        top.insert(
            "environment_variables".into(),
            Value::Table(variables.collect()),
        );
    }
    if !bundle.network.allow.is_empty() {
        let allow = list(&mut bundle.network.allow.iter());
        let network = Table::from_iter([("allow".to_owned(), allow)]);
        top.insert("network".into(), network.into());
    }
    // Plain numbers under their names leave the writer nothing to fail on.
    if let Ok(autoscaling) = Value::try_from(&bundle.autoscaling) {
        top.insert("autoscaling".into(), autoscaling);
    }
    toml::to_string(&top).unwrap_or_default()
}

fn graph(path: String, graph: &Graph) -> Value {
    let mut table = Table::new();
    table.insert("file".into(), path.into());
    for (name, value) in [
        ("backend", Value::try_from(graph.backend)),
        ("target", Value::try_from(graph.target)),
    ] {
        if let Ok(value) = value {
            table.insert(name.into(), value);
        }
    }
    table.insert("threads".into(), i64::from(graph.threads).into());
    if let Some(batch) = &graph.batch {
        let batch = Table::from_iter([
            ("max_size".to_owned(), i64::from(batch.max_size).into()),
            (
                "max_delay_ms".to_owned(),
                i64::from(batch.max_delay_ms).into(),
            ),
        ]);
        table.insert("batch".into(), batch.into());
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use samovar_types::digest::Digest;

    use super::*;
    use crate::collect::LocalBundle;

    fn blob(text: &str) -> Blob {
        Blob {
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
        }
    }

    /// A bundle of blobs whose contents are `contents`.
    fn bundle(contents: &mut BTreeMap<Digest, String>) -> Bundle {
        let mut digest = |text: &str| {
            contents.insert(Digest::of(text.as_bytes()), text.to_owned());
            blob(text).digest
        };
        let text = format!(
            r#"{{
                "name": "m",
                "component": {{"digest": "{component}", "size": 9}},
                "graphs": {{"default": {{
                    "digest": "{graph}", "size": 5, "file": "a/model.onnx", "backend": "rten", "target": "cpu",
                    "threads": 2, "batch": {{"max_size": 16, "max_delay_ms": 2}}
                }}}},
                "files": {{"labels.json": {{"digest": "{labels}", "size": 2}}}},
                "secrets": ["HF_TOKEN"],
                "snapshot": true,
                "load_graphs_from_bytes": true,
                "isolation": "deployment",
                "environment_variables": {{"MODE": "a \"quoted\"\nline"}},
                "network": {{"allow": ["api.example.com:443"]}},
                "limits": {{"memory_bytes": 268435456, "timeout_ms": 1500, "body_bytes": 1048577, "requests_per_replica": 7}},
                "autoscaling": {{"min_replica": 1, "max_replica": 3}}
            }}"#,
            component = digest("component"),
            graph = digest("graph"),
            labels = digest("[]"),
        );
        let bundle: Bundle = serde_json::from_str(&text).unwrap();
        bundle.validate().unwrap();
        bundle
    }

    #[test]
    fn what_is_laid_out_is_the_same_bundle_again() {
        let mut contents = BTreeMap::new();
        let bundle = bundle(&mut contents);
        let Folder { manifest, blobs } = folder(&bundle);
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(&manifest.0), &manifest.1).unwrap();
        for (path, blob) in &blobs {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, &contents[&blob.digest]).unwrap();
        }
        let again = LocalBundle::collect(root.path()).unwrap().bundle;
        assert_eq!(again, bundle, "{}", manifest.1);
        assert_eq!(again.digest(), bundle.digest());
    }

    #[test]
    fn no_file_takes_the_place_of_another() {
        let mut bundle = bundle(&mut BTreeMap::new());
        for path in ["component.wasm", "_component.wasm", "samovar.toml"] {
            bundle.files.insert(path.into(), blob("x"));
        }
        bundle.files.insert("a/model.onnx".into(), blob("y"));
        let Folder { manifest, blobs } = folder(&bundle);
        assert_eq!(manifest.0, "bundle-samovar.toml");
        assert_eq!(blobs["component.wasm"], blob("x"));
        assert_eq!(blobs["__component.wasm"], bundle.component);
        assert_eq!(blobs["_a/model.onnx"], blob("graph"));
        assert!(
            manifest.1.contains("component = \"__component.wasm\""),
            "{}",
            manifest.1
        );
    }

    #[test]
    fn no_file_takes_the_place_of_a_folder() {
        let mut bundle = bundle(&mut BTreeMap::new());
        for path in ["component.wasm/x", "samovar.toml/x", "a/model.onnx/x"] {
            bundle.files.insert(path.into(), blob("x"));
        }
        bundle.files.insert("_a".into(), blob("y"));
        bundle.validate().unwrap();
        let Folder { manifest, blobs } = folder(&bundle);
        assert_eq!(manifest.0, "bundle-samovar.toml");
        assert_eq!(blobs["_component.wasm"], bundle.component);
        assert_eq!(blobs["__a/model.onnx"], blob("graph"));
        assert!(!blobs.contains_key("component.wasm"));
    }
}
