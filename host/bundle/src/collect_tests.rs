//! Tests of bundles made from what is on disk: what becomes a blob, and the words of each refusal.

use std::fs::{self, File};

use super::*;

fn project(manifest: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("samovar.toml"), manifest).unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn refused(manifest: &str, files: &[(&str, &str)]) -> String {
    LocalBundle::collect(project(manifest, files).path())
        .unwrap_err()
        .to_string()
}

const MANIFEST: &str = "name = 'm'\ncomponent = 'm.wasm'\nfiles = ['a.txt', 'data']\n[graphs.default]\nfile = 'm.onnx'";

#[test]
fn files_folders_and_graphs_are_hashed_once() {
    let folder = project(
        MANIFEST,
        &[
            ("m.wasm", "component"),
            ("m.onnx", "graph"),
            ("a.txt", "a"),
            ("data/b.txt", "a"),
            ("data/deep/c.txt", "c"),
            ("not-named.txt", "x"),
        ],
    );
    let local = LocalBundle::collect(folder.path()).unwrap();
    let paths: Vec<_> = local.bundle.files.keys().collect();
    assert_eq!(paths, ["a.txt", "data/b.txt", "data/deep/c.txt"]);
    assert_eq!(local.bundle.component.digest, Digest::of(b"component"));
    assert_eq!(local.bundle.graphs["default"].file, "m.onnx");
    assert_eq!(
        local.bundle.files["a.txt"],
        local.bundle.files["data/b.txt"]
    );
    let blobs: BTreeMap<_, _> = local
        .blobs
        .iter()
        .map(|blob| (blob.digest, blob.size))
        .collect();
    assert_eq!(blobs, local.bundle.blobs());
    assert_eq!(local.blobs.len(), 4);
    for blob in &local.blobs {
        assert_eq!(
            Digest::of(&fs::read(blob.source.path()).unwrap()),
            blob.digest
        );
    }
}

/// A message of the format, out of tagged pieces.
fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, payload) in fields {
        bytes.extend([tag << 3 | 2, u8::try_from(payload.len()).unwrap()]);
        bytes.extend(*payload);
    }
    bytes
}

/// A model whose weight `w` has 4 bytes in another file.
fn model(location: &str) -> Vec<u8> {
    let place = message(&[(1, b"location"), (2, location.as_bytes())]);
    let length = message(&[(1, b"length"), (2, b"4")]);
    let weight = message(&[(8, b"w"), (13, &place), (13, &length)]);
    message(&[(7, &message(&[(5, &weight)]))])
}

#[test]
fn weights_beside_a_model_come_along() {
    let manifest = "name = 'm'\ncomponent = 'm.wasm'\n[graphs.default]\nfile = 'deep/m.onnx'";
    let folder = project(
        manifest,
        &[("m.wasm", "component"), ("deep/w/m.data", "1234")],
    );
    let put = |location: &str| fs::write(folder.path().join("deep/m.onnx"), model(location));
    let refused = || LocalBundle::collect(folder.path()).unwrap_err().to_string();
    put("./w/m.data").unwrap();
    let local = LocalBundle::collect(folder.path()).unwrap();
    let graph = &local.bundle.graphs["default"];
    assert_eq!(graph.data["w/m.data"].digest, Digest::of(b"1234"));
    assert_eq!(local.blobs.len(), 3);

    put("other.data").unwrap();
    let error = refused();
    assert!(
        error.contains("samovar.toml:4: `graphs.default.file`: deep/m.onnx: weight `w` is stored in `other.data`, which does not exist"),
        "{error}"
    );
    put("../m.wasm").unwrap();
    assert!(
        refused().contains("wanted a file in the model's folder"),
        "{}",
        refused()
    );
    put("w/m.data").unwrap();
    fs::write(folder.path().join("deep/w/m.data"), "123").unwrap();
    assert!(
        refused().contains("weight `w` ends at byte 4"),
        "{}",
        refused()
    );
}

#[cfg(unix)]
#[test]
fn weights_behind_a_link_out_of_the_folder_are_refused() {
    let manifest = "name = 'm'\ncomponent = 'm.wasm'\n[graphs.default]\nfile = 'm.onnx'";
    let folder = project(manifest, &[("m.wasm", "component")]);
    fs::write(folder.path().join("m.onnx"), model("m.data")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("m.data")).unwrap();
    let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("leads out of the manifest's folder"),
        "{error}"
    );
}

/// The cache of Hugging Face: links into a folder of blobs.
#[cfg(unix)]
#[test]
fn a_pushed_link_may_have_its_weights_where_it_leads() {
    use std::os::unix::fs::symlink;
    let cache = project(
        "",
        &[("blobs/1", ""), ("blobs/2", "1234"), ("secret", "1234")],
    );
    let at = |path: &str| cache.path().join(path);
    fs::write(at("blobs/1"), model("model.onnx_data")).unwrap();
    fs::create_dir_all(at("snapshots/main/onnx")).unwrap();
    let link = at("snapshots/main/onnx/model.onnx");
    let data = at("snapshots/main/onnx/model.onnx_data");
    symlink("../../../blobs/1", &link).unwrap();
    symlink("../../../blobs/2", &data).unwrap();
    // What the model takes and gives does not matter here.
    let collect = || {
        let manifest = Manifest::load(&link).unwrap();
        let mut files = FileHashCache::default();
        let mut collector = Collector {
            manifest: &manifest,
            files: &mut files,
            blobs: BTreeMap::new(),
        };
        let graph = manifest.graphs.values().next().unwrap();
        collector.graph_files(&graph.file)
    };
    let (_, weights) = collect().unwrap();
    assert_eq!(weights["model.onnx_data"].digest, Digest::of(b"1234"));

    // Anywhere else is as much outside as it is for a model that is no link.
    fs::remove_file(&data).unwrap();
    symlink("../../../secret", &data).unwrap();
    let error = collect().unwrap_err().to_string();
    assert!(error.contains("leads out of"), "{error}");

    // A manifest comes with its project: what it names is no word of the pusher's.
    fs::remove_file(&data).unwrap();
    symlink("../../../blobs/2", &data).unwrap();
    let manifest = "name = 'm'\n[graphs.default]\nfile = 'model.onnx'";
    fs::write(at("snapshots/main/onnx/samovar.toml"), manifest).unwrap();
    let folder = at("snapshots/main/onnx");
    let error = LocalBundle::collect(&folder).unwrap_err().to_string();
    assert!(error.contains("leads out of"), "{error}");
}

#[test]
fn a_bare_component_is_a_bundle() {
    let folder = project("", &[("hello.wasm", "component")]);
    let local = LocalBundle::collect(&folder.path().join("hello.wasm")).unwrap();
    assert_eq!(local.bundle.name, "hello");
    assert_eq!(local.blobs.len(), 1);
    let empty = project("", &[("empty.wasm", "")]);
    let error = LocalBundle::collect(&empty.path().join("empty.wasm")).unwrap_err();
    assert!(
        error.to_string().contains("component.size: found 0"),
        "{error}"
    );
}

/// A model with an input and an output of this type.
fn identity(ty: u8) -> Vec<u8> {
    let port = |name: &[u8]| {
        let tensor = [vec![8, ty], message(&[(2, &[])])].concat();
        message(&[(1, name), (2, &message(&[(1, &tensor)]))])
    };
    message(&[(7, &message(&[(11, &port(b"x")), (12, &port(b"y"))]))])
}

#[test]
fn a_bare_model_file_gets_the_built_in_component() {
    let folder = project("", &[]);
    let file = folder.path().join("My Model.onnx");
    fs::write(&file, identity(1)).unwrap();
    let local = LocalBundle::collect(&file).unwrap();
    let bundle = &local.bundle;
    assert_eq!(bundle.name, "my-model");
    assert_eq!(
        bundle.component.digest,
        Digest::of(open_inference::COMPONENT)
    );
    assert_eq!(bundle.graphs["default"].file, "My Model.onnx");
    let description = local.open_inference.unwrap();
    assert_eq!(
        bundle.files[open_inference::DESCRIPTION].digest,
        Digest::of(&description.to_json())
    );
    assert_eq!(description.served_name(), "my-model");
    assert_eq!(local.blobs.len(), 3);
}

#[test]
fn a_model_file_that_cannot_be_served_is_refused_by_what_is_wrong() {
    let folder = project("", &[]);
    let file = folder.path().join("m.onnx");
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        LocalBundle::collect(&file).unwrap_err().to_string()
    };
    for bytes in [&b""[..], b"not a model", &[0xff; 100]] {
        let error = refused(bytes);
        assert!(error.contains("m.onnx: not an ONNX model: "), "{error}");
    }
    let error = refused(&identity(8));
    assert!(
        error.contains(
            "m.onnx: input `x` has the ONNX type string (8), which wasi-nn does not support"
        ),
        "{error}"
    );
    // A sparse file: it takes no room.
    let large = File::create(&file).unwrap();
    large.set_len((2 << 30) + 1).unwrap();
    let error = LocalBundle::collect(&file).unwrap_err().to_string();
    assert!(
        error.contains("the model is 2147483649 bytes; the limit is 2147483648"),
        "{error}"
    );
}

#[test]
fn a_manifest_of_graphs_alone_is_described_by_name_and_line() {
    let manifest = "name = 'm'\n[graphs.a]\nfile = 'a.onnx'\n[graphs.b]\nfile = 'b.onnx'";
    let folder = project(manifest, &[]);
    let put = |name: &str, bytes: Vec<u8>| fs::write(folder.path().join(name), bytes).unwrap();
    put("a.onnx", identity(1));
    put("b.onnx", identity(7));
    let local = LocalBundle::collect(folder.path()).unwrap();
    assert_eq!(local.bundle.graphs.len(), 2);
    assert!(local.open_inference.is_some());
    put("b.onnx", identity(5));
    let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
    assert!(
        error
            .contains("samovar.toml:5: `graphs.b.file`: b.onnx: input `x` has the ONNX type int16"),
        "{error}"
    );
    put("b.onnx", identity(7));
    put(open_inference::DESCRIPTION, b"{}".to_vec());
    let with_file = format!("files = ['open-inference.json']\n{manifest}");
    fs::write(folder.path().join("samovar.toml"), with_file).unwrap();
    let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains(
            "samovar.toml:1: `files`: found open-inference.json, which is generated from the graphs"
        ),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_named_with_line_and_key() {
    let error = refused(MANIFEST, &[]);
    assert!(
        error.contains("samovar.toml:2: `component`: no file "),
        "{error}"
    );
    let error = refused(MANIFEST, &[("m.wasm", "x")]);
    assert!(
        error.contains("samovar.toml:5: `graphs.default.file`: "),
        "{error}"
    );
    let error = refused(MANIFEST, &[("m.wasm", "x"), ("m.onnx", "x")]);
    assert!(
        error.contains("samovar.toml:3: `files`: ") && error.contains("a.txt"),
        "{error}"
    );
    let error = refused("name='m'\ncomponent='d'", &[("d/x", "")]);
    assert!(error.contains("not a plain file"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused() {
    let folder = project(
        "name='m'\ncomponent='m.wasm'\nfiles=['d']",
        &[("m.wasm", "x"), ("d/x", "x")],
    );
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("d/link")).unwrap();
    let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("leads out of the manifest's folder"),
        "{error}"
    );
    fs::remove_file(folder.path().join("d/link")).unwrap();
    std::os::unix::fs::symlink("..", folder.path().join("d/loop")).unwrap();
    let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not a plain file"), "{error}");
}

#[test]
fn too_many_files_are_refused() {
    let folder = project(
        "name='m'\ncomponent='m.wasm'\nfiles=['d']",
        &[("m.wasm", "x"), ("d/x", "x")],
    );
    for number in 0..MAX_FILES {
        fs::write(folder.path().join(format!("d/{number}")), "").unwrap();
    }
    let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
    assert!(error.contains("more than 1000 files"), "{error}");
}
