//! Tests of the wire form of a bundle and its rules.

use serde_json::json;

use super::*;
use crate::strict::Strict;

fn blob(seed: u8) -> Blob {
    Blob {
        digest: Digest::of(&[seed]),
        size: u64::from(seed),
    }
}

fn bundle() -> Bundle {
    let graph = blob(2);
    Bundle {
        name: "magika".into(),
        component: blob(1),
        graphs: BTreeMap::from([(
            "default".into(),
            Graph {
                digest: graph.digest,
                size: graph.size,
                file: "model.onnx".into(),
                data: BTreeMap::new(),
                backend: GraphBackend::Auto,
                target: GraphTarget::Cpu,
                threads: 1,
                batch: Some(Batch {
                    max_size: 16,
                    max_delay_ms: 2,
                }),
            },
        )]),
        files: BTreeMap::from([("labels.json".into(), blob(3))]),
        secrets: BTreeSet::from(["HF_TOKEN".into()]),
        environment_variables: BTreeMap::from([("MODE".into(), "fast".into())]),
        network: Network {
            allow: BTreeSet::from(["api.example.com:443".into()]),
        },
        snapshot: true,
        example: Some("[1]".into()),
        load_graphs_from_bytes: true,
        isolation: Isolation::Deployment,
        limits: Limits::default(),
        autoscaling: AutoscalingSettings::default(),
    }
}

fn refused(change: impl FnOnce(&mut Bundle)) -> String {
    let mut bundle = bundle();
    change(&mut bundle);
    bundle.validate().unwrap_err().to_string()
}

#[test]
fn the_wire_form_is_read_and_written() {
    let text = serde_json::to_string(&bundle()).unwrap();
    assert_eq!(serde_json::from_str::<Bundle>(&text).unwrap(), bundle());
    assert_eq!(bundle().validate(), Ok(()));
    assert!(text.contains(r#""snapshot":true"#));
    assert!(text.contains(r#""load_graphs_from_bytes":true"#));
    assert!(text.contains(r#""isolation":"deployment""#));
    assert!(text.contains(r#""backend":"auto","target":"cpu","threads":1"#));
    assert!(text.contains(r#""limits":{"memory_bytes":268435456,"timeout_ms":60000"#));
}

#[test]
fn name_and_component_are_enough() {
    let digest = Digest::of(b"x");
    let text = format!(r#"{{"name":"x","component":{{"digest":"{digest}","size":1}}}}"#);
    let bundle: Bundle = serde_json::from_str(&text).unwrap();
    assert_eq!(bundle.limits, Limits::default());
    // So are bundles that were stored before there were the fields, and their digests stay what they were.
    assert!(!bundle.load_graphs_from_bytes);
    assert_eq!(bundle.isolation, Isolation::Shared);
    assert!(
        !serde_json::to_string(&bundle)
            .unwrap()
            .contains("isolation")
    );
    assert_eq!(bundle.validate(), Ok(()));
}

#[test]
fn the_digest_tells_bundles_apart_and_not_their_spelling() {
    let text = serde_json::to_string_pretty(&bundle()).unwrap();
    let again: Bundle = serde_json::from_str(&text).unwrap();
    assert_eq!(again.digest(), bundle().digest());
    let mut other = bundle();
    other.limits.timeout_ms += 1;
    assert_ne!(other.digest(), bundle().digest());
}

#[test]
fn each_blob_is_listed_once() {
    let mut bundle = bundle();
    bundle.files.insert("again.json".into(), blob(3));
    assert_eq!(bundle.blobs().len(), 3);
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    let mut value = serde_json::to_value(bundle()).unwrap();
    let sound = value.clone();
    assert_eq!(
        serde_json::from_value::<Strict<Bundle>>(sound).unwrap().0,
        bundle()
    );
    value["graphs"]["default"]["batch"] = json!({ "max_size": 2, "max_delay_ms": 1 });
    for path in [
        "/gpu",
        "/component/gpu",
        "/graphs/default/gpu",
        "/graphs/default/batch/gpu",
        "/network/gpu",
        "/limits/gpu",
        "/autoscaling/gpu",
    ] {
        let mut value = value.clone();
        let (parent, _) = path.rsplit_once('/').unwrap();
        value.pointer_mut(parent).unwrap()["gpu"] = true.into();
        // A newer release may have stored it.
        let read: Bundle = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(read.name, bundle().name);
        let error = serde_json::from_value::<Strict<Bundle>>(value).unwrap_err();
        let named = format!("unknown field `{}`", path[1..].replace('/', "."));
        assert!(error.to_string().contains(&named), "{error}");
    }
}

#[test]
fn rules_hold_for_what_a_client_sends() {
    assert_eq!(
        refused(|bundle| bundle.name = "Magika".into()),
        "name: found \"Magika\", wanted 1 to 63 characters of [a-z0-9-], neither the first nor the last a `-`"
    );
    assert!(
        refused(|bundle| {
            bundle.files.insert("../etc/passwd".into(), blob(4));
        })
        .starts_with("files: found \"../etc/passwd\"")
    );
    assert!(
        refused(|bundle| {
            bundle.files.insert("labels.json/a".into(), blob(4));
        })
        .contains("either a file or a folder")
    );
    assert!(
        refused(|bundle| {
            bundle.files.insert("b".into(), Blob { size: 9, ..blob(3) });
        })
        .contains("one size for one digest")
    );
    assert!(refused(|bundle| bundle.component.size = 0).starts_with("component.size: found 0"));
    assert!(refused(|bundle| bundle.component.size = u64::MAX).starts_with("component.size"));
    assert!(
        refused(|bundle| {
            bundle
                .environment_variables
                .insert("A=B".into(), String::new());
        })
        .starts_with("environment_variables: found \"A=B\"")
    );
    assert!(
        refused(|bundle| {
            bundle.environment_variables.insert("A".into(), "\0".into());
        })
        .contains("NUL")
    );
    assert!(
        refused(|bundle| {
            bundle.network.allow.insert("*:443".into());
        })
        .starts_with("network.allow")
    );
    assert!(refused(|bundle| bundle.limits.memory_bytes = 1).starts_with("limits.memory_bytes"));
    assert!(
        refused(|bundle| {
            if let Some(graph) = bundle.graphs.get_mut("default") {
                graph.threads = 0;
            }
        })
        .starts_with("graphs.default.threads: found 0, wanted 1 to 64")
    );
    assert!(
        refused(|bundle| {
            let graph = bundle.graphs["default"].clone();
            for number in 0..MAX_GRAPHS {
                bundle.graphs.insert(format!("g{number}"), graph.clone());
            }
        })
        .contains("graphs: found 65, wanted at most 64")
    );
}

#[test]
fn many_long_paths_are_refused_before_they_burst_a_document() {
    let error = refused(|bundle| {
        for number in 0..999 {
            let path = format!("{}/{}/{number}", "a".repeat(250), "b".repeat(250));
            bundle.files.insert(path, blob(5));
        }
        let value = "v".repeat(MAX_VALUE_BYTES);
        for number in 0..20 {
            bundle
                .environment_variables
                .insert(format!("V{number}"), value.clone());
        }
    });
    assert!(error.starts_with("bundle: found"), "{error}");
}

#[test]
fn a_graphs_files_are_blobs_and_tell_it_apart() {
    let mut bundle = bundle();
    let graph = bundle.graphs.values_mut().next().unwrap();
    let alone = graph.whole_digest();
    assert_eq!(alone, graph.digest);
    let blob = |text: &str| Blob {
        digest: Digest::of(text.as_bytes()),
        size: text.len() as u64,
    };
    graph.data.insert("m.data".into(), blob("one"));
    let first = graph.whole_digest();
    graph.data.insert("m.data".into(), blob("two"));
    let second = graph.whole_digest();
    assert!(alone != first && first != second);
    assert!(bundle.blobs().contains_key(&Digest::of(b"two")));
    bundle.validate().unwrap();
    let graph = bundle.graphs.values().next().unwrap();
    let (name, file) = (graph.file.rsplit('/').next().unwrap(), blob("two"));
    let refused = |location: &str| {
        let mut bundle = bundle.clone();
        let graph = bundle.graphs.values_mut().next().unwrap();
        graph.data.insert(location.into(), file);
        bundle.validate().unwrap_err().to_string()
    };
    for wrong in [
        "../m.data".to_owned(),
        "m.data/x".to_owned(),
        name.to_owned(),
        format!("{name}/x"),
    ] {
        assert!(refused(&wrong).contains(".data: found "), "{wrong}");
    }
}
