//! Each promise names what enforces it: a test that exists, or a row of the bench that has a floor.
//!
//! `SPECIFICATION.md` and the page about security hold their promises in tables whose last column is "enforced by":
//! `` `FILE`: `TEST`, `TEST` `` or `` bench `PART`: `ROW` ``, several of them with `;` between them.

use clap::ValueEnum as _;

use crate::bench::Part;

/// What a line says that it is enforced by.
#[derive(Debug, PartialEq, Eq)]
enum Evidence {
    Test {
        file: String,
        name: String,
    },
    /// A fuzz target is a file of its own.
    Fuzz {
        file: String,
    },
    Row {
        part: String,
        row: String,
    },
}

/// The lines of the tables of promises in a page, each with its last cell.
fn promises(page: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut is_promises = false;
    for line in page.lines() {
        let cells = line.strip_prefix('|').map(|row| row.trim_end_matches('|'));
        let Some(last) = cells.and_then(|cells| cells.rsplit('|').next()) else {
            is_promises = false;
            continue;
        };
        match last.trim() {
            "enforced by" => is_promises = true,
            "---" => {}
            last if is_promises => found.push((line, last)),
            _ => {}
        }
    }
    found
}

/// Reads the last cell of a line.
fn evidence(cell: &str) -> Result<Vec<Evidence>, String> {
    let mut found = Vec::new();
    for item in cell.split(';').map(str::trim) {
        let mut words = item.split('`').skip(1).step_by(2).map(str::to_owned);
        let Some(first) = words.next() else {
            return Err(format!("{item:?} names nothing"));
        };
        let is_row = item.starts_with("bench ");
        if !is_row && !first.ends_with(".rs") {
            return Err(format!("no file before `{first}`"));
        }
        let before = found.len();
        found.extend(words.map(|name| match is_row {
            true => Evidence::Row {
                part: first.clone(),
                row: name,
            },
            false => Evidence::Test {
                file: first.clone(),
                name,
            },
        }));
        if found.len() == before {
            match first.starts_with("fuzz/") {
                true => found.push(Evidence::Fuzz { file: first }),
                false => return Err(format!("no test and no row of `{first}` is named")),
            }
        }
    }
    Ok(found)
}

/// Why there is no such thing, if there is none. `read` gives the text of a file of the repository.
fn problem(evidence: &Evidence, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    match evidence {
        Evidence::Fuzz { file } => read(file).is_none().then(|| format!("there is no {file}")),
        Evidence::Test { file, name } => match read(file) {
            None => Some(format!("there is no {file}")),
            Some(source) => {
                (!has_test(&source, name)).then(|| format!("{file}: there is no test {name}"))
            }
        },
        Evidence::Row { part, row } => {
            let Ok(variant) = Part::from_str(part, false) else {
                return Some(format!("the bench has no part {part:?}"));
            };
            let source = module_of(variant, &read("xtask/src/bench.rs")?)
                .and_then(|module| read(&format!("xtask/src/bench/{module}.rs")))
                .unwrap_or_default();
            let mut code = source
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let has_row = code.any(|line| line.contains('"') && line.contains(row));
            let has_floor = source.contains("floor: format!");
            (!has_row || !has_floor)
                .then(|| format!("the part {part:?} of the bench has no row {row:?} with a floor"))
        }
    }
}

/// The module that measures a part of the bench.
fn module_of(part: Part, bench: &str) -> Option<&str> {
    let arm = format!("Part::{part:?} => ");
    let (_, call) = bench.split_once(&arm)?;
    Some(call.split_once("::")?.0)
}

/// Whether a file of ours holds a test of that name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let declares = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let rest = line
            .strip_prefix("fn ")
            .and_then(|line| line.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with('('))
    };
    let is_test = |at: usize| {
        let before = lines[..at].iter().rev();
        let mut attributes = before.take_while(|line| line.starts_with("#["));
        attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    };
    (0..lines.len()).any(|at| declares(lines[at]) && is_test(at))
}

/// Everything that is wrong with the promises of a page.
fn problems(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (line, cell) in promises(page) {
        match evidence(cell) {
            Ok(named) => problems.extend(named.iter().filter_map(|one| problem(one, &read))),
            Err(error) => problems.push(format!("{error}, in {line:?}")),
        }
    }
    problems
}

/// The sections of a page without a promise.
fn sections_without_promises(page: &str) -> Vec<&str> {
    let sections = page.split("\n## ").skip(1);
    let without = sections.filter(|section| promises(section).is_empty());
    without
        .filter_map(|section| section.lines().next())
        .collect()
}

fn read(file: &str) -> Option<String> {
    std::fs::read_to_string(crate::repository().join(file)).ok()
}

fn check(page: &str, least: usize) -> String {
    let text = read(page).unwrap_or_default();
    let count = promises(&text).len();
    assert!(
        count >= least,
        "{page}: only {count} promises found, the tables have another form"
    );
    let problems = problems(&text, read);
    assert!(problems.is_empty(), "{page}:\n{}", problems.join("\n"));
    text
}

#[test]
fn each_line_of_the_specification_is_enforced_by_a_test_or_a_row_of_the_bench() {
    let page = check("SPECIFICATION.md", 60);
    assert_eq!(sections_without_promises(&page), [""; 0]);
    // A line outside a table would be enforced by nothing.
    let listed = page.lines().filter(|line| line.starts_with("- ")).count();
    assert_eq!(listed, 0);
}

#[test]
fn each_guarantee_of_the_security_page_names_a_test_that_exists() {
    let page = check("docs/src/security.md", 50);
    assert_eq!(sections_without_promises(&page), ["What is not protected"]);
}

#[test]
fn a_promise_without_evidence_is_seen() {
    let source = "#[tokio::test(flavor = \"x\")]\nasync fn one() {}\n\n#[test]\n#[ignore]\nfn two() {}\nfn three() {}\n";
    let read = |file: &str| match file {
        "a.rs" => Some(source.to_owned()),
        "fuzz/f.rs" => Some(String::new()),
        "xtask/src/bench.rs" => Some("Part::Cold => cold::rows(&bench)?,".into()),
        "xtask/src/bench/cold.rs" => {
            Some("measure: \"hello, cold\", floor: format!(\"< 2 ms\"),".into())
        }
        _ => None,
    };
    let page = |cell: &str| {
        format!(
            "## A\n| promise | enforced by |\n| --- | --- |\n| x `y` | {cell} |\n\n| a | b |\n| c | nothing |\n"
        )
    };
    for good in [
        "`a.rs`: `one`, `two`",
        "`fuzz/f.rs`",
        "bench `cold`: `hello, cold`; `a.rs`: `one`",
    ] {
        assert_eq!(problems(&page(good), read), [""; 0], "{good}");
    }
    for (bad, told) in [
        ("", "names nothing"),
        ("nothing", "names nothing"),
        ("`one`", "no file before `one`"),
        ("`a.rs`", "no test and no row of `a.rs`"),
        ("`a.rs`: `three`", "a.rs: there is no test three"),
        ("`a.rs`: `on`", "a.rs: there is no test on"),
        ("`b.rs`: `one`", "there is no b.rs"),
        ("`fuzz/g.rs`", "there is no fuzz/g.rs"),
        ("bench `hot`: `hello`", "no part \"hot\""),
        ("bench `cold`: `hello, hot`", "no row \"hello, hot\""),
        ("bench `warm`: `hello, cold`", "no row \"hello, cold\""),
    ] {
        let found = problems(&page(bad), read);
        assert_eq!(found.len(), 1, "{bad}: {found:?}");
        assert!(found[0].contains(told), "{bad}: {found:?}");
    }
    let two = format!("\n{}## B\nnone\n", page("`a.rs`: `one`"));
    assert_eq!(sections_without_promises(&two), ["B"]);
}
