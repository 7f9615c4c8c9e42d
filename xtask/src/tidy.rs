//! Rules of the house that a compiler does not check; run by `cargo test` like any other test.
//!
//! Each rule is a function that answers what is wrong with sources, so that a test can hand it a violation.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
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
                "crate::controllers",
                // Values of the store are the domain's, too; what reads and writes is not.
                "samovar_store::sqlite",
                "samovar_store::blobs",
            ],
        ),
        (
            "host/server/src/catalog",
            &[
                "crate::api",
                "crate::gateway",
                "crate::node",
                "crate::control",
                "crate::controllers",
                "crate::serving",
                "crate::events",
            ],
        ),
        (
            "host/server/src/serving",
            &[
                "crate::api",
                "crate::gateway",
                "crate::node",
                "crate::controllers",
                "crate::events",
            ],
        ),
        (
            "host/server/src/control",
            &[
                "crate::api",
                "crate::gateway",
                "crate::node",
                "crate::controllers",
            ],
        ),
        (
            "host/server/src/controllers",
            &["crate::api", "crate::gateway", "crate::node"],
        ),
        (
            "host/server/src/events",
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
            &["crate::infer::nn", "crate::pool", "crate::sandbox"],
        ),
        ("runtime/src/infer/nn", &["crate::pool", "crate::sandbox"]),
    ];

    /// A file of ours.
    struct Source {
        /// Its path in the repository.
        name: String,
        text: String,
    }

    impl Source {
        fn folder(&self) -> &str {
            self.name.rsplit_once('/').map_or("", |(folder, _)| folder)
        }
    }

    /// The folders whose files keep the rules.
    const SOURCES: &[&str] = &[
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
    ];

    /// The longest file that is still read whole.
    const MAX_LINES: usize = 700;

    fn sources() -> Vec<Source> {
        let mut paths = Vec::new();
        for folder in SOURCES {
            let before = paths.len();
            collect(&crate::repository().join(folder), &mut paths);
            assert!(paths.len() > before, "{folder} has no sources");
        }
        let read = |path: PathBuf| Source {
            name: name(&path),
            text: std::fs::read_to_string(&path).unwrap(),
        };
        paths.into_iter().map(read).collect()
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

    fn assert_none(problems: &[String]) {
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    }

    fn example(name: &str, text: &str) -> Source {
        Source {
            name: name.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Files that do not say in their first line what they are.
    fn without_a_first_line(sources: &[Source]) -> Vec<String> {
        let first = |source: &Source| {
            let first = source.text.lines().next().unwrap_or_default().to_owned();
            let says = first.starts_with("//! ") || first.starts_with("#![");
            (!says).then(|| {
                let name = &source.name;
                format!("{name}: starts with {first:?}, wanted a `//!` line that says what it is")
            })
        };
        sources.iter().filter_map(first).collect()
    }

    #[test]
    fn every_module_says_its_one_idea() {
        assert_none(&without_a_first_line(&sources()));
        let problems = without_a_first_line(&[
            example("a.rs", "//! Says it.\nuse b;\n"),
            example("b.rs", "use b;\n"),
            example("c.rs", ""),
        ]);
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    /// Files that are longer than anybody reads.
    fn too_long(sources: &[Source]) -> Vec<String> {
        let lines = |source: &Source| {
            let lines = source.text.lines().count();
            (lines > MAX_LINES)
                .then(|| format!("{}: {lines} lines, wanted at most {MAX_LINES}", source.name))
        };
        sources.iter().filter_map(lines).collect()
    }

    #[test]
    fn no_file_has_grown_past_reading() {
        assert_none(&too_long(&sources()));
        let long = example("a.rs", &"//\n".repeat(MAX_LINES + 1));
        let fits = example("b.rs", &"//\n".repeat(MAX_LINES));
        assert_eq!(too_long(&[long, fits]).len(), 1);
    }

    /// Whether the modules of a path such as `crate::infer::nn` are there, within the sources of a room.
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

    /// Walls around or before what is not there.
    fn walls_around_nothing(walls: &[(&str, &[&str])]) -> Vec<String> {
        let mut problems = Vec::new();
        for (room, forbidden) in walls {
            let mut found = Vec::new();
            collect(&crate::repository().join(room), &mut found);
            if found.is_empty() {
                problems.push(format!("a wall around {room}, which has no sources"));
            }
            let gone = forbidden.iter().filter(|other| !is_there(room, other));
            problems.extend(
                gone.map(|other| format!("a wall between {room} and {other}, which is not there")),
            );
        }
        problems
    }

    #[test]
    fn every_wall_stands_between_folders_that_are_there() {
        assert_none(&walls_around_nothing(WALLS));
        let problems = walls_around_nothing(&[
            ("runtime/src/gone", &["wasmtime"]),
            ("runtime/src/infer/nn", &["crate::nn", "crate::pool"]),
        ]);
        assert_eq!(
            problems,
            [
                "a wall around runtime/src/gone, which has no sources",
                "a wall between runtime/src/infer/nn and crate::nn, which is not there"
            ]
        );
        assert!(!is_there("host/server/src/domain", "samovar_store::nn"));
        assert!(!is_there("host/server/src/domain", "samovar::sqlite"));
    }

    /// The code of a file without its comments.
    fn code(text: &str) -> String {
        let lines = text.lines();
        let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The paths of all `use` statements of a file, each whole.
    fn used(code: &str) -> Vec<String> {
        let statements = code.split(';').filter_map(|statement| {
            let begins = |at: &usize| {
                let before = statement[..*at].trim_end();
                before.is_empty()
                    || before.ends_with(['}', '{', ')', ']'])
                    || before.ends_with("pub")
            };
            let mut found = statement.match_indices("use ").map(|(at, _)| at);
            let at = found.find(begins)?;
            Some(statement[at + "use ".len()..].trim())
        });
        let mut paths = Vec::new();
        statements.for_each(|tree| expand("", tree, &mut paths));
        paths
    }

    /// Takes `a::{b, c::{d, e}}` apart.
    fn expand(front: &str, tree: &str, paths: &mut Vec<String>) {
        let Some(open) = tree.find('{') else {
            paths.push(format!("{front}{}", tree.trim()));
            return;
        };
        let front = format!("{front}{}", tree[..open].trim());
        let inner = tree[open + 1..].trim_end().trim_end_matches('}');
        let (mut depth, mut begin) = (0_i32, 0);
        for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth <= 0 || at == inner.len() => {
                    let part = inner[begin..at].trim();
                    if !part.is_empty() {
                        // What is left of the braces of a part has been cut off behind the last of them.
                        let open = part.matches('{').count();
                        let closed = part.matches('}').count();
                        let part = format!("{part}{}", "}".repeat(open.saturating_sub(closed)));
                        expand(&front, &part, paths);
                    }
                    begin = (at + 1).min(inner.len());
                }
                _ => {}
            }
        }
    }

    /// Uses of a room by one that must not know it.
    fn crossed_walls(sources: &[Source], walls: &[(&str, &[&str])]) -> Vec<String> {
        let mut problems = Vec::new();
        for source in sources {
            let around = |room: &str| {
                let rest = source.name.strip_prefix(room);
                rest.is_some_and(|rest| rest.starts_with(['/', '.']))
            };
            let walls: Vec<_> = walls.iter().filter(|(room, _)| around(room)).collect();
            if walls.is_empty() {
                continue;
            }
            let code = code(&source.text);
            let used = used(&code);
            for (room, forbidden) in walls {
                let crossed = forbidden.iter().filter(|other| {
                    let inner = format!("{other}::");
                    let is_it = |path: &String| path == *other || path.starts_with(&inner);
                    used.iter().any(is_it) || code.contains(&inner)
                });
                let name = &source.name;
                problems.extend(crossed.map(|other| format!("{name}, in {room}, uses {other}")));
            }
        }
        problems
    }

    #[test]
    fn no_room_knows_one_above_it() {
        assert_none(&crossed_walls(&sources(), WALLS));
        let walls: &[(&str, &[&str])] = &[("a/src/low", &["crate::high", "wasmtime"])];
        let problem = |name: &str, text: &str| {
            let problems = crossed_walls(&[example(name, text)], walls);
            problems.first().cloned().unwrap_or_default()
        };
        for text in [
            "use crate::high;",
            "use crate::high::Thing;",
            "pub use crate::high::Thing;",
            "fn f() {}\nuse crate::{\n    low::{A, B},\n    high::{C, D},\n};",
            "fn f() -> crate::high::Thing {}",
        ] {
            for file in ["a/src/low.rs", "a/src/low/inner.rs"] {
                let wanted = format!("{file}, in a/src/low, uses crate::high");
                assert_eq!(problem(file, text), wanted, "{text}");
            }
            assert_eq!(problem("a/src/lower.rs", text), "");
        }
        assert!(problem("a/src/low.rs", "use wasmtime::Engine;").contains("wasmtime"));
        for text in [
            "// use crate::high;",
            "use crate::highest::Thing;",
            "use crate::low::{high, C};",
        ] {
            assert_eq!(problem("a/src/low.rs", text), "", "{text}");
        }
    }

    /// Files and folders that a page names and that are not there. Names with capitals alone stand for one of many.
    fn missing_paths(page: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
        const TOP: [&str; 9] = [
            "docs", "examples", "fuzz", "host", "runtime", "sdk", "tests", "tools", "xtask",
        ];
        let is_path = |word: &&str| {
            let first = word.split('/').next().unwrap_or_default();
            word.contains('/') && !word.contains(' ') && TOP.contains(&first)
        };
        let is_one = |word: &&str| {
            !word
                .split(['/', '.'])
                .any(|part| part == part.to_uppercase() && part.len() > 2)
        };
        let words = page.split('`').skip(1).step_by(2);
        words
            .filter(is_path)
            .filter(is_one)
            .filter(|word| !exists(word))
            .map(|word| format!("`{word}` is not there"))
            .collect()
    }

    #[test]
    fn the_guide_for_contributors_names_files_that_are_there() {
        let page = std::fs::read_to_string(crate::repository().join("CONTRIBUTING.md")).unwrap();
        assert!(
            page.matches('`').count() > 100,
            "the guide has another form"
        );
        assert_none(&missing_paths(&page, |path| {
            crate::repository().join(path).exists()
        }));
        let page =
            "`host/a.rs`, `host/gone.rs`, `target/x`, `tests/e2e/NAME.rs`, `cargo x/y`, `host/b c`";
        let problems = missing_paths(page, |path| path == "host/a.rs");
        assert_eq!(problems, ["`host/gone.rs` is not there"]);
    }

    /// What the map lacks, and what it names that is not there.
    fn wrong_in_the_map(
        map: &str,
        folders: &BTreeSet<&str>,
        is_dir: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let unnamed = folders
            .iter()
            .filter(|folder| !map.contains(&format!("`{folder}/`")))
            .map(|folder| format!("ARCHITECTURE.md does not name `{folder}/`"));
        let named = map.split('`').skip(1).step_by(2);
        let gone = named
            .filter(|word| word.ends_with('/') && word.contains("/src") && !is_dir(word))
            .map(|word| format!("ARCHITECTURE.md names `{word}`, which is not there"));
        unnamed.chain(gone).collect()
    }

    #[test]
    fn the_map_names_every_folder_and_no_other() {
        let map = std::fs::read_to_string(crate::repository().join("ARCHITECTURE.md")).unwrap();
        let sources = sources();
        let folders = sources.iter().map(Source::folder).collect();
        let is_dir = |word: &str| crate::repository().join(word).is_dir();
        assert_none(&wrong_in_the_map(&map, &folders, is_dir));
        let map = "| `a/src/` | x |\n| `gone/src/` | y |\n";
        let problems = wrong_in_the_map(map, &["a/src", "b/src"].into(), |word| word == "a/src/");
        assert_eq!(
            problems,
            [
                "ARCHITECTURE.md does not name `b/src/`",
                "ARCHITECTURE.md names `gone/src/`, which is not there"
            ]
        );
    }
}
