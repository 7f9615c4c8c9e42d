//! Rules of the house that a compiler does not check; run by `cargo test` like any other test.

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    /// Which folder may name which: a room knows only those below it.
    const WALLS: &[(&str, &[&str])] = &[
        (
            "host/server/src/domain",
            &[
                "crate::api",
                "crate::gateway",
                "crate::node",
                "crate::control",
                // Values of the store are the domain's, too; what reads and writes is not.
                "samovar_store::sqlite",
                "samovar_store::blobs",
            ],
        ),
        (
            "host/server/src/control",
            &["crate::api", "crate::gateway", "crate::node"],
        ),
        ("host/server/src/gateway", &["crate::node"]),
        ("host/server/src", &["wasmtime"]),
        (
            "runtime/src/process",
            &["crate::compile", "crate::infer", "wasmtime"],
        ),
        (
            "runtime/src/compile",
            &["crate::artifact", "crate::pool", "crate::infer::engines"],
        ),
        (
            "runtime/src/infer/backend",
            &[
                "crate::infer::nn",
                "crate::pool",
                "crate::replica",
                "crate::sandbox",
            ],
        ),
        (
            "runtime/src/infer/nn",
            &["crate::pool", "crate::replica", "crate::sandbox"],
        ),
    ];

    fn sources() -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in [
            "runtime/src",
            "host/bundle/src",
            "host/cli/src",
            "host/client/src",
            "host/onnx/src",
            "host/samovar/src",
            "host/server/src",
            "host/store/src",
            "host/types/src",
            "sdk/src",
            "sdk/macros/src",
            "tests/support",
            "tests/e2e",
            "tests/bare/src",
            "xtask/src",
        ] {
            collect(&crate::repository().join(folder), &mut found);
        }
        assert!(found.len() > 20, "the sources have moved: {found:?}");
        found
    }

    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }

    fn name(path: &Path) -> String {
        let relative = path.strip_prefix(crate::repository()).unwrap();
        relative.to_str().unwrap().to_owned()
    }

    #[test]
    fn every_module_says_its_one_idea() {
        for path in sources() {
            let text = std::fs::read_to_string(&path).unwrap();
            let first = text.lines().next().unwrap_or_default();
            assert!(
                first.starts_with("//! ") || first.starts_with("#!["),
                "{}: starts with {first:?}, wanted a `//!` line that says what it is",
                name(&path)
            );
        }
    }

    #[test]
    fn no_file_has_grown_past_reading() {
        for path in sources() {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 700, "{}: {lines} lines", name(&path));
        }
    }

    /// The modules of a path such as `crate::infer::nn`, within the sources of a room.
    fn is_there(room: &str, module: &str) -> bool {
        let (sources, path) = match module.split_once("::") {
            Some(("crate", path)) => (room.split_once("/src").unwrap().0, path),
            Some(("samovar_store", path)) => ("host/store", path),
            Some(_) => return false,
            // Another crate: no folder of ours.
            None => return true,
        };
        let path = path.trim_end_matches("::").replace("::", "/");
        let path = crate::repository().join(sources).join("src").join(path);
        path.is_dir() || path.with_extension("rs").is_file()
    }

    #[test]
    fn every_wall_stands_between_folders_that_are_there() {
        for (room, forbidden) in WALLS {
            let mut found = Vec::new();
            collect(&crate::repository().join(room), &mut found);
            assert!(
                !found.is_empty(),
                "a wall around {room}, which has no sources"
            );
            for other in *forbidden {
                assert!(
                    is_there(room, other),
                    "a wall between {room} and {other}, which is not there"
                );
            }
        }
        assert!(!is_there("runtime/src/infer/nn", "crate::nn"));
        assert!(!is_there("host/server/src/domain", "samovar_store::nn"));
        assert!(!is_there("host/server/src/domain", "samovar::sqlite"));
    }

    #[test]
    fn no_room_knows_one_above_it() {
        for path in sources() {
            let name = name(&path);
            let text = std::fs::read_to_string(&path).unwrap();
            let around = |room: &str| {
                let rest = name.strip_prefix(room);
                rest.is_some_and(|rest| rest.starts_with(['/', '.']))
            };
            for (room, forbidden) in WALLS.iter().filter(|(room, _)| around(room)) {
                for other in *forbidden {
                    let used = text
                        .lines()
                        .any(|line| line.trim_start().starts_with("use ") && line.contains(other));
                    assert!(!used, "{name}, in {room}, uses {other}");
                }
            }
        }
    }

    #[test]
    fn the_map_names_every_folder_and_no_other() {
        let map = std::fs::read_to_string(crate::repository().join("ARCHITECTURE.md")).unwrap();
        let mut folders: Vec<String> = sources()
            .iter()
            .map(|path| name(path.parent().unwrap()))
            .collect();
        folders.sort();
        folders.dedup();
        for folder in &folders {
            assert!(
                map.contains(&format!("`{folder}/`")),
                "ARCHITECTURE.md does not name `{folder}/`"
            );
        }
        for word in map.split('`').skip(1).step_by(2) {
            if word.ends_with('/') && word.contains("/src") {
                assert!(
                    crate::repository().join(word).is_dir(),
                    "ARCHITECTURE.md names `{word}`, which is not there"
                );
            }
        }
    }
}
