//! Bundles and the manifests that say the same.

use std::collections::BTreeSet;
use std::path::Path;

use samovar_bundle::manifest::render::{Folder, folder};
use samovar_bundle::manifest::{Component, Manifest};
use samovar_types::bundle::{Blob, Bundle, Graph, Network};

/// The bundle of a manifest whose files are these blobs. Weights beside a model are those that its file names, so there are
/// none.
pub fn of_manifest(manifest: &Manifest, blob: &dyn Fn(&str) -> Blob) -> Bundle {
    let component = match &manifest.component {
        Component::File(place) => blob(&place.value.to_string_lossy()),
        Component::OpenInference => blob("open-inference.wasm"),
    };
    let graphs = manifest.graphs.iter().map(|(name, graph)| {
        let Blob { digest, size } = blob(&graph.file.value);
        let graph = Graph {
            digest,
            size,
            file: graph.file.value.clone(),
            data: Default::default(),
            backend: graph.backend,
            target: graph.target,
            threads: graph.threads,
            batch: graph.batch,
        };
        (name.clone(), graph)
    });
    let files = manifest.files.iter();
    Bundle {
        name: manifest.name.clone(),
        component,
        graphs: graphs.collect(),
        files: files
            .map(|file| (file.value.clone(), blob(&file.value)))
            .collect(),
        secrets: manifest.secrets.clone(),
        environment_variables: manifest.environment_variables.clone(),
        network: Network {
            allow: manifest.allow.clone(),
        },
        snapshot: manifest.snapshot,
        example: manifest.example.clone(),
        load_graphs_from_bytes: manifest.load_graphs_from_bytes,
        isolation: manifest.isolation,
        limits: manifest.limits.clone(),
        autoscaling: manifest.autoscaling.clone(),
    }
}

/// Lays a valid bundle out as a folder, and reads the same bundle from it.
pub fn check_folder(bundle: &Bundle) {
    let Folder {
        manifest: (name, text),
        blobs,
    } = folder(bundle);
    let paths: BTreeSet<&str> = blobs.keys().map(String::as_str).chain([&*name]).collect();
    assert_eq!(paths.len(), blobs.len() + 1, "the manifest replaces a file");
    for path in &paths {
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            assert!(!paths.contains(parent), "{parent:?} is a file and a folder");
        }
    }
    let read = match Manifest::parse(Path::new(&name), &text) {
        Ok(read) => read,
        Err(error) => panic!("{error}\n{text}"),
    };
    let mut again = of_manifest(&read, &|path| match blobs.get(path) {
        Some(blob) => *blob,
        None => panic!("no file {path:?}\n{text}"),
    });
    for (name, graph) in &mut again.graphs {
        let wanted = &bundle.graphs[name];
        let beside = graph.file.rfind('/').map_or("", |at| &graph.file[..=at]);
        for (location, blob) in &wanted.data {
            assert_eq!(blobs.get(&format!("{beside}{location}")), Some(blob));
        }
        // It may lie elsewhere when its place was taken.
        assert!(graph.file.ends_with(&wanted.file), "{}", graph.file);
        graph.file.clone_from(&wanted.file);
        graph.data.clone_from(&wanted.data);
    }
    assert_eq!(again, *bundle, "{text}");
}
