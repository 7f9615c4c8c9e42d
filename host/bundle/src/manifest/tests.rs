//! Tests of the manifest: what is accepted, and the words of each refusal.

use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"# ANCHOR: whole
name = "magika"
build = "cargo build --release --target wasm32-wasip2"
component = "../target/wasm32-wasip2/release/magika.wasm"
files = ["labels.json"]
secrets = ["HF_TOKEN"]
snapshot = true
example = '{"text": "a"}'
load_graphs_from_bytes = true
isolation = "deployment"

[graphs.default]
file = "model.onnx"
backend = "rten"
target = "cpu"
threads = 2
batch = { max_size = 16, max_delay_ms = 2 }

[limits]
memory = "512MiB"
timeout = "90s"
body = "1GiB"

[environment_variables]
MODE = "fast"

[network]
allow = ["api.example.com:443"]

[autoscaling]
min_replica = 1
max_replica = 4
# ANCHOR_END: whole
"#;

fn parse(text: &str) -> Result<Manifest, String> {
    Manifest::parse(Path::new("/p/samovar.toml"), text).map_err(|error| error.to_string())
}

fn refused(text: &str) -> String {
    parse(&format!("name = \"m\"\ncomponent = \"m.wasm\"\n{text}"))
        .unwrap_err()
        .strip_prefix("/p/samovar.toml:")
        .unwrap()
        .to_owned()
}

#[test]
fn every_key_is_read() {
    let manifest = parse(WHOLE).unwrap();
    assert_eq!(manifest.name, "magika");
    assert_eq!(manifest.root, Path::new("/p"));
    let Component::File(component) = &manifest.component else {
        panic!("{:?}", manifest.component);
    };
    assert_eq!(component.line, 4);
    assert_eq!(manifest.files[0].value, "labels.json");
    assert_eq!(manifest.example.as_deref(), Some(r#"{"text": "a"}"#));
    let graph = &manifest.graphs["default"];
    assert_eq!(graph.file.key, "graphs.default.file");
    assert_eq!(
        (graph.backend, graph.target, graph.threads),
        (GraphBackend::Rten, GraphTarget::Cpu, 2)
    );
    assert_eq!(
        graph.batch,
        Some(Batch {
            max_size: 16,
            max_delay_ms: 2
        })
    );
    let limits = Limits {
        memory_bytes: 512 << 20,
        timeout_ms: 90_000,
        body_bytes: 1 << 30,
        requests_per_replica: None,
    };
    assert!(manifest.snapshot && manifest.load_graphs_from_bytes);
    assert_eq!(manifest.isolation, Isolation::Deployment);
    assert_eq!(manifest.limits, limits);
    assert_eq!(manifest.environment_variables["MODE"], "fast");
    assert!(manifest.allow.contains("api.example.com:443"));
    assert_eq!(
        (
            manifest.autoscaling.min_replica,
            manifest.autoscaling.max_replica
        ),
        (1, 4)
    );
}

#[test]
fn a_name_and_a_component_are_enough() {
    let manifest = parse("name='m'\ncomponent='m.wasm'").unwrap();
    assert_eq!(manifest.limits, Limits::default());
    assert_eq!(manifest.autoscaling, AutoscalingSettings::default());
    assert!(!manifest.snapshot && !manifest.load_graphs_from_bytes);
    assert_eq!(manifest.isolation, Isolation::Shared);
    assert!(manifest.graphs.is_empty() && manifest.files.is_empty());
}

#[test]
fn graphs_without_a_component_get_the_built_in_one() {
    let manifest = parse("name='m'\n[graphs.default]\nfile='m.onnx'").unwrap();
    assert_eq!(manifest.component, Component::OpenInference);
    let manifest = parse("name='m'\ncomponent='c'\n[graphs.default]\nfile='m.onnx'").unwrap();
    assert_ne!(manifest.component, Component::OpenInference);
}

#[test]
fn each_refusal_names_line_key_and_what_was_wanted() {
    for (text, wanted) in [
        (
            "fils = []",
            "3: `fils`: unknown key, did you mean `files`? (known here: name, build,",
        ),
        (
            "[graphs.default]\nfile = \"m.onnx\"\ngpu = true",
            "5: `graphs.default.gpu`: unknown key (known here: file, ",
        ),
        (
            "[graphs.default]",
            "3: `graphs.default.file`: missing: the path of the model file",
        ),
        (
            "[graphs.\"A b\"]\nfile = \"m.onnx\"",
            "3: `graphs.\"A b\"`: wanted a graph's name: 1 to 63",
        ),
        (
            "graphs = 1",
            "3: `graphs`: found a value of type integer, wanted a table",
        ),
        (
            "[graphs.g]\nfile='m.onnx'\nbackend='tf'",
            "5: `graphs.g.backend`: found \"tf\", wanted one of auto, onnxruntime, rten",
        ),
        (
            "[graphs.g]\nfile='m.onnx'\nthreads=0",
            "5: `graphs.g.threads`: found 0, wanted a whole number from 1 to 64",
        ),
        (
            "[graphs.g]\nfile='m.onnx'\nthreads=99999999999999999999",
            "5: `graphs.g.threads`: found 99999999999999999999, wanted",
        ),
        (
            "[graphs.g]\nfile='m.onnx'\nbatch={max_size=4}",
            "5: `graphs.g.batch.max_delay_ms`: missing: the longest wait",
        ),
        (
            "snapshot = \"yes\"",
            "3: `snapshot`: found a value of type string, wanted true or false",
        ),
        (
            "isolation = \"process\"",
            "3: `isolation`: found \"process\", wanted one of shared, deployment",
        ),
        (
            "[limits]\nmemory = \"lots\"",
            "4: `limits.memory`: found \"lots\", wanted a size: a whole number and",
        ),
        (
            "[limits]\nmemory = 256",
            "4: `limits.memory`: found a value of type integer, wanted a size",
        ),
        (
            "[limits]\nmemory = \"1KiB\"",
            "4: `limits.memory`: found \"1KiB\", wanted 1MiB to 16GiB",
        ),
        (
            "[limits]\nrequests_per_replica = 0",
            "4: `limits.requests_per_replica`: found 0, wanted a whole number from 1 to",
        ),
        (
            "[limits]\ntimeout = \"2h\"",
            "4: `limits.timeout`: found \"2h\", wanted 1ms to 1h",
        ),
        (
            "[limits]\ntimeout = \"60\"",
            "4: `limits.timeout`: found \"60\", wanted a duration",
        ),
        (
            "files = [\n  \"a\",\n  \"../b\"\n]",
            "5: `files`: found \"../b\", wanted a relative path",
        ),
        (
            "files = [\"/etc/passwd\"]",
            "3: `files`: found \"/etc/passwd\", wanted a relative path",
        ),
        (
            "secrets = [\"A\", \"A\"]",
            "3: `secrets`: found \"A\" twice",
        ),
        (
            "secrets = [\"a-b\"]",
            "3: `secrets`: found \"a-b\", wanted 1 to 128",
        ),
        ("build = \" \"", "3: `build`: found an empty command"),
        (
            "[environment_variables]\n\"A=B\" = \"x\"",
            "4: `environment_variables.\"A=B\"`: wanted the name",
        ),
        (
            "[environment_variables]\nA = 1",
            "4: `environment_variables.A`: found a value of type integer",
        ),
        (
            "[environment_variables]\nA = \"\\u0000\"",
            "4: `environment_variables.A`: found a NUL",
        ),
        (
            "[network]\nallow = [\"example.com\"]",
            "4: `network.allow`: found \"example.com\", wanted HOST:PORT",
        ),
        (
            "[autoscaling]\nmax_replica = 0",
            "4: `autoscaling.max_replica`: found 0, wanted 1 to 10000",
        ),
        (
            "[autoscaling]\nmin_replica = 11",
            "4: `autoscaling.min_replica`: found 11, wanted 0 to max_replica, which is 10",
        ),
        (
            "[autoscaling]\nmax_scale_down_rate = 51",
            "4: `autoscaling.max_scale_down_rate`: found 51, wanted 1 to 50",
        ),
        (
            "[autoscaling]\nmax_replica = -1",
            "4: `autoscaling.max_replica`: found -1, wanted a whole number",
        ),
        ("x = ", "3: "),
    ] {
        let found = refused(text);
        assert!(
            found.starts_with(wanted),
            "{text}\nfound  {found}\nwanted {wanted}"
        );
    }
}

#[test]
fn what_is_missing_is_said() {
    let error = parse("component = 'm.wasm'").unwrap_err();
    assert_eq!(
        error,
        "/p/samovar.toml:1: `name`: missing: the model's name"
    );
    let error = parse("name = 'm'").unwrap_err();
    assert!(
        error.contains(
            "`component`: missing: the path of the WebAssembly component; or use [graphs."
        ),
        "{error}"
    );
    let error = parse("name = 'M_m'\ncomponent='m'").unwrap_err();
    assert!(
        error.contains(":1: `name`: found \"M_m\", wanted 1 to 63 characters of [a-z0-9-]"),
        "{error}"
    );
    let error = parse("name = 'm'\ncomponent='/m.wasm'").unwrap_err();
    assert!(
        error.contains(":2: `component`: wanted a path relative"),
        "{error}"
    );
}

#[test]
fn a_path_leads_to_its_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let load =
        |name: &str| Manifest::load(&folder.path().join(name)).map_err(|error| error.to_string());
    assert!(
        load("")
            .unwrap_err()
            .contains("the folder has no samovar.toml")
    );
    assert!(load("absent").unwrap_err().contains("absent: "));
    for name in ["my Model.v2.wasm", "m.onnx", "m.txt", "….wasm", "….onnx"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let manifest = load("my Model.v2.wasm").unwrap();
    assert_eq!(manifest.name, "my-model-v2");
    let Component::File(component) = &manifest.component else {
        panic!("{:?}", manifest.component);
    };
    assert!(manifest.root.join(&component.value).is_file());
    let manifest = load("m.onnx").unwrap();
    assert_eq!(manifest.name, "m");
    assert_eq!(manifest.component, Component::OpenInference);
    let graph = &manifest.graphs["default"].file;
    assert!(manifest.root.join(&graph.value).is_file());
    assert!(
        load("m.txt")
            .unwrap_err()
            .contains("found a file of another kind")
    );
    for name in ["….wasm", "….onnx"] {
        assert!(load(name).unwrap_err().contains("rename the file"));
    }
    std::fs::write(folder.path().join(FILE_NAME), WHOLE).unwrap();
    assert_eq!(load("").unwrap(), load(FILE_NAME).unwrap());
    std::fs::write(
        folder.path().join("big.toml"),
        " ".repeat(MAX_MANIFEST_BYTES as usize + 1),
    )
    .unwrap();
    assert!(
        load("big.toml")
            .unwrap_err()
            .contains("more than 1048576 bytes")
    );
    std::fs::write(folder.path().join("latin.toml"), b"name = \"\xe9\"").unwrap();
    assert!(load("latin.toml").is_err());
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_value_anywhere_is_answered(
        key in "(name|build|component|files|secrets|graphs|graphs\\.a|graphs\\.a\\.batch|limits|limits\\.memory|limits\\.timeout|network|network\\.allow|autoscaling|autoscaling\\.min_replica|environment_variables|environment_variables\\.A)",
        value in "(1|-1|0x7f|1e300|nan|true|\"\"|\"…\"|\\[\\]|\\[1\\]|\\[\"a\"\\]|\\{\\}|\\{a=1\\}|\\{file=\"a\"\\}|1979-05-27|'''\n\n''')",
    ) {
        let _ = parse(&format!("name='m'\ncomponent='m'\n{key} = {value}"));
        let _ = parse(&format!("{key} = {value}"));
    }

    #[test]
    fn a_cut_manifest_is_answered(end in 0..WHOLE.len()) {
        let _ = parse(&WHOLE[..end]);
    }
}
