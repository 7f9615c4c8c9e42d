//! Which crates may not be needed by which, through whatever dependency: the compiler enforces the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// What only a server needs.
const SERVER: &[&str] = &["axum", "sqlx", "samovar-server", "samovar-store"];
const RUNTIME: &[&str] = &["wasmtime", "ort", "rten", "samovar-runtime"];
/// What calls others over a network.
const CALLS: &[&str] = &["reqwest", "hyper", "tokio"];
const SHOWN: &[&str] = &["clap", "indicatif", "comfy-table"];

/// Each crate with what it may not need.
const WALLS: &[(&str, &[&[&str]])] = &[
    ("samovar-types", &[SERVER, RUNTIME, CALLS, SHOWN, &["rand"]]),
    ("samovar-onnx", &[SERVER, RUNTIME, CALLS, SHOWN]),
    ("samovar-bundle", &[SERVER, RUNTIME, CALLS, SHOWN]),
    (
        "samovar-client",
        &[SERVER, RUNTIME, SHOWN, &["samovar-bundle"]],
    ),
    ("samovar-cli", &[SERVER, RUNTIME]),
    (
        "samovar-store",
        &[
            RUNTIME,
            SHOWN,
            &[
                "axum",
                "hyper",
                "reqwest",
                "samovar-server",
                "samovar-bundle",
            ],
        ],
    ),
    (
        "samovar-runtime",
        &[SERVER, SHOWN, &["samovar-types", "samovar-bundle"]],
    ),
    (
        "samovar-server",
        &[SHOWN, &["samovar-client", "samovar-cli"]],
    ),
];

/// The names of everything that a crate needs to be built for use, tests left out.
fn needed(metadata: &Metadata, root: &str) -> BTreeSet<String> {
    let names: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package.name.as_str()))
        .collect();
    let nodes: BTreeMap<&PackageId, _> = metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .map(|node| (&node.id, node))
        .collect();
    let first = metadata.packages.iter().find(|one| one.name == root);
    let mut open = vec![
        &first
            .unwrap_or_else(|| panic!("there is no crate {root}"))
            .id,
    ];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        let used = nodes[id].deps.iter().filter(|dependency| {
            let mut kinds = dependency.dep_kinds.iter();
            kinds.any(|kind| kind.kind == DependencyKind::Normal)
        });
        open.extend(used.map(|one| &one.pkg).filter(|id| seen.insert(*id)));
    }
    seen.into_iter().map(|id| names[id].to_owned()).collect()
}

fn metadata() -> Metadata {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let host = output.lines().find_map(|line| line.strip_prefix("host: "));
    // A machine that has just built this lacks the crates that only other platforms need.
    let options = ["--locked", "--offline", "--filter-platform", host.unwrap()];
    MetadataCommand::new()
        .current_dir(crate::repository())
        .other_options(options.map(str::to_owned))
        .exec()
        .unwrap()
}

/// Crates that need what they may not.
fn crossed(metadata: &Metadata, walls: &[(&str, &[&[&str]])]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, walls) in walls {
        let needed = needed(metadata, name);
        for forbidden in walls.iter().copied().flatten() {
            if !metadata.packages.iter().any(|one| one.name == *forbidden) {
                problems.push(format!("a wall before {forbidden}, which nothing needs"));
            }
            if needed.contains(*forbidden) {
                problems.push(format!("{name} needs {forbidden}"));
            }
        }
    }
    problems
}

#[test]
fn no_crate_needs_what_is_behind_a_wall() {
    let metadata = metadata();
    assert_eq!(crossed(&metadata, WALLS), [""; 0]);
    let walls: &[(&str, &[&[&str]])] = &[("samovar-cli", &[&["samovar-types", "axum", "gone"]])];
    assert_eq!(
        crossed(&metadata, walls),
        [
            "samovar-cli needs samovar-types",
            "a wall before gone, which nothing needs"
        ]
    );
}

#[test]
fn what_is_needed_through_others_counts() {
    let metadata = metadata();
    let needed = needed(&metadata, "samovar");
    for name in ["samovar-onnx", "sqlx", "wasmtime"] {
        assert!(needed.contains(name), "{name}");
    }
    assert!(!needed.contains("proptest"), "tests need it alone");
}

/// Whether a file names a route of the management API.
fn names_a_route(text: &str) -> bool {
    text.contains("/v1/") || text.contains("\"v1\"")
}

#[test]
fn only_the_store_knows_how_things_are_stored() {
    let metadata = metadata();
    for library in ["sqlx", "object_store", "chacha20poly1305"] {
        let needs_it = |package: &&cargo_metadata::Package| {
            package.dependencies.iter().any(|one| one.name == library)
        };
        let packages = metadata.workspace_packages();
        let users = packages.iter().copied().filter(needs_it);
        let users: Vec<&str> = users.map(|package| package.name.as_str()).collect();
        assert_eq!(users, ["samovar-store"], "{library}");
    }
}

#[test]
fn only_the_client_names_routes() {
    let mut open = vec![
        crate::repository().join("host/cli/src"),
        crate::repository().join("host/samovar/src"),
    ];
    let mut count = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|one| one.unwrap().path()),
            );
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            !names_a_route(&text),
            "{} names a route: call the client instead",
            path.display()
        );
    }
    assert!(count > 30, "the commands have moved");
    assert!(names_a_route("get(\"/v1/models\")") && names_a_route("&[\"v1\", \"models\"]"));
    assert!(!names_a_route("/v2/models/m/infer"));
}
