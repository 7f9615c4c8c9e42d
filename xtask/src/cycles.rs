//! Import cycles between the modules of a folder: each may use those below it, never, through others, itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Folders whose modules form no cycle, and the path of the module that each is.
const ACYCLIC: &[(&str, &str)] = &[
    ("runtime/src", "crate"),
    ("runtime/src/infer/graph", "crate::infer::graph"),
];

/// Which module of a folder uses which others, each with the file that does.
type Imports = BTreeMap<String, BTreeMap<String, String>>;

/// Reads the imports between the modules of `folder`, whose own path is `prefix`. Tests may use what they like.
fn imports(folder: &Path, prefix: &str) -> Imports {
    let mut files = Vec::new();
    collect(folder, &mut files);
    let module_of = |file: &str| {
        let first = file.split('/').next().unwrap_or(file);
        first.strip_suffix(".rs").unwrap_or(first).to_owned()
    };
    let modules: BTreeSet<String> = files.iter().map(|file| module_of(file)).collect();
    let mut imports = Imports::new();
    for file in &files {
        let module = module_of(file);
        let stem = file.strip_suffix(".rs").unwrap_or(file);
        let name = stem.rsplit('/').next().unwrap_or(stem);
        if ["lib", "mod"].contains(&module.as_str())
            || ["tests", "testing", "interleavings"]
                .iter()
                .any(|end| name.ends_with(end))
        {
            continue;
        }
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let mut used_here = used_modules(&text, prefix);
        if !file.contains('/') {
            used_here.extend(used_modules(&text, "super"));
        }
        for used in used_here {
            if used != module && modules.contains(&used) {
                let uses = imports.entry(module.clone()).or_default();
                uses.entry(used).or_insert_with(|| file.clone());
            }
        }
    }
    imports
}

/// The modules below `prefix` that code names, without its comments and its module of tests.
fn used_modules(text: &str, prefix: &str) -> BTreeSet<String> {
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);
    let code: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .collect();
    let code = code.join("\n");
    let start = format!("{prefix}::");
    let mut used = BTreeSet::new();
    for (_, rest) in code
        .match_indices(&start)
        .map(|(at, _)| code.split_at(at + start.len()))
    {
        // One `use` for several modules: their names follow `{` and each comma outside of inner braces.
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            for (at, found) in group.char_indices() {
                depth += match found {
                    '{' => 1,
                    '}' => -1,
                    _ => 0,
                };
                if depth == 0 {
                    break;
                }
                if at == 0 || (found == ',' && depth == 1) {
                    used.insert(first_name(group[at..].trim_start_matches([',', ' ', '\n'])));
                }
            }
        } else {
            used.insert(first_name(rest));
        }
    }
    used
}

fn first_name(path: &str) -> String {
    let is_name = |found: char| found.is_ascii_alphanumeric() || found == '_';
    path.chars().take_while(|found| is_name(*found)).collect()
}

/// All Rust files of a folder, by their paths in it.
fn collect(folder: &Path, files: &mut Vec<String>) {
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let path = path.strip_prefix(folder).unwrap();
            files.push(path.to_str().unwrap().to_owned());
        }
    }
    files.sort();
}

/// A cycle, as its modules in order, each with the file that uses the next.
fn cycle(imports: &Imports) -> Option<String> {
    let mut done = BTreeSet::new();
    imports
        .keys()
        .find_map(|module| walk(module, imports, &mut Vec::new(), &mut done))
}

fn walk<'a>(
    module: &'a str,
    imports: &'a Imports,
    path: &mut Vec<(&'a str, &'a str)>,
    done: &mut BTreeSet<&'a str>,
) -> Option<String> {
    if let Some(at) = path.iter().position(|(before, _)| *before == module) {
        let steps = path[at..].iter();
        let steps: Vec<String> = steps
            .map(|(module, file)| format!("{module} ({file})"))
            .collect();
        return Some(format!("{} -> {module}", steps.join(" -> ")));
    }
    if !done.contains(module) {
        for (used, file) in imports.get(module).into_iter().flatten() {
            path.push((module, file));
            let found = walk(used, imports, path, done);
            if found.is_some() {
                return found;
            }
            path.pop();
        }
        done.insert(module);
    }
    None
}

#[test]
fn modules_form_no_cycle() {
    for (folder, prefix) in ACYCLIC {
        let imports = imports(&crate::repository().join(folder), prefix);
        assert!(imports.len() > 2, "{folder}: found only {imports:?}");
        assert_eq!(cycle(&imports), None, "{folder}");
    }
}

#[test]
fn a_cycle_is_found_wherever_it_hides() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("a.rs", "use crate::b::B;\n// crate::d\n");
    write("b/inner.rs", "fn f() { crate::c::f() }\n");
    write(
        "b.rs",
        "#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n",
    );
    write("c.rs", "use crate::{d, e::{a, f}};\n");
    write("d.rs", "");
    write("e.rs", "use crate::d::D;\n");
    write("c/tests.rs", "use crate::a::A;\n");
    let found = |folder: &Path| cycle(&imports(folder, "crate"));
    assert_eq!(
        found(folder.path()),
        None,
        "comments and tests do not count"
    );
    write("e.rs", "use super::b::{B};\n");
    let cycle = "b (b/inner.rs) -> c (c.rs) -> e (e.rs) -> b";
    assert_eq!(found(folder.path()).as_deref(), Some(cycle));
}
