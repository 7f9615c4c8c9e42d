//! The commands, options and tests that the book names exist.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Result, ensure};
use samovar_tests::{binary, repository};

/// What `--help` says of one command.
#[derive(Clone)]
struct Help {
    commands: BTreeSet<String>,
    options: BTreeSet<String>,
}

impl Help {
    fn of(path: &[String]) -> Result<Self> {
        let output = Command::new(binary()).args(path).arg("--help").output()?;
        ensure!(output.status.success(), "samovar {path:?} --help");
        Ok(Self::read(&String::from_utf8(output.stdout)?))
    }

    fn read(text: &str) -> Self {
        let commands = text.lines().skip_while(|line| *line != "Commands:").skip(1);
        let commands = commands.take_while(|line| !line.is_empty());
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let words = text.split(|char: char| char.is_whitespace() || char == ',');
        Self {
            commands: commands.filter_map(first).collect(),
            options: words
                .filter(|word| word.starts_with('-'))
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// The command lines that begin with `samovar` in a page: in blocks after `$`, and in code spans.
fn command_lines(page: &str) -> Vec<String> {
    let (mut found, mut is_code) = (Vec::new(), false);
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            found.extend(line.strip_prefix("$ ").map(str::to_owned));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let parts = found
        .iter()
        .flat_map(|line| line.split(['|', ';', '&', '#', '>', '"']));
    let parts = parts
        .map(str::trim)
        .filter(|part| part.starts_with("samovar "));
    parts.map(str::to_owned).collect()
}

/// Why a command line cannot be right, if it cannot.
fn problem(line: &str, help: &mut dyn FnMut(&[String]) -> Result<Help>) -> Result<Option<String>> {
    let mut path = Vec::new();
    let mut now = help(&path)?;
    for word in line.split_whitespace().skip(1) {
        if word.starts_with('-') && word != "-" {
            let option = word.split('=').next().unwrap_or(word);
            if !now.options.contains(option) {
                return Ok(Some(format!("`{line}`: there is no {option}")));
            }
        } else if now.commands.contains(word) {
            path.push(word.to_owned());
            now = help(&path)?;
        } else if !now.commands.is_empty() && word != word.to_uppercase() {
            return Ok(Some(format!("`{line}`: there is no command {word:?}")));
        }
    }
    Ok(None)
}

#[test]
fn every_command_of_the_book_is_there() -> Result<()> {
    let mut known: BTreeMap<Vec<String>, Help> = BTreeMap::new();
    let mut help = |path: &[String]| {
        if !known.contains_key(path) {
            known.insert(path.to_vec(), Help::of(path)?);
        }
        Ok(known[path].clone())
    };
    let (mut problems, mut count) = (Vec::new(), 0);
    for entry in std::fs::read_dir(repository().join("docs/src"))? {
        let path = entry?.path();
        for line in command_lines(&std::fs::read_to_string(&path)?) {
            count += 1;
            let wrong = problem(&line, &mut help)?;
            problems.extend(wrong.map(|wrong| format!("{}: {wrong}", path.display())));
        }
    }
    assert!(
        count > 100,
        "only {count} commands found: the book has moved"
    );
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    Ok(())
}

#[test]
fn a_wrong_command_is_seen() -> Result<()> {
    for (line, wanted) in [
        ("samovar model list --json", None),
        ("samovar brew", Some("no command \"brew\"")),
        ("samovar model brew", Some("no command \"brew\"")),
        ("samovar push --sugar", Some("no --sugar")),
        ("samovar model list --wait", Some("no --wait")),
    ] {
        let found = problem(line, &mut Help::of)?;
        let is_right = match (&found, wanted) {
            (None, None) => true,
            (Some(found), Some(wanted)) => found.contains(wanted),
            _ => false,
        };
        assert!(is_right, "{line}: {found:?}");
    }
    let page = "`samovar a`\n```console\n$ samovar b | samovar c  # d\nsamovar e\n```\n";
    assert_eq!(command_lines(page), ["samovar a", "samovar b", "samovar c"]);
    Ok(())
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

/// The tests that the tables of guarantees in a page name, as files with names, and what is wrong with the tables.
fn guarantees(page: &str) -> (Vec<(String, Option<String>)>, Vec<String>) {
    let (mut named, mut problems) = (Vec::new(), Vec::new());
    let mut is_guarantees = false;
    for line in page.lines() {
        let Some(row) = line.strip_prefix('|') else {
            is_guarantees = false;
            continue;
        };
        let last = row
            .trim_end_matches('|')
            .rsplit('|')
            .next()
            .unwrap_or_default();
        if last.trim() == "enforced by" {
            is_guarantees = true;
            continue;
        }
        if !is_guarantees || last.trim() == "---" {
            continue;
        }
        let (mut file, before) = (None, named.len());
        for word in last.split('`').skip(1).step_by(2) {
            match (word.ends_with(".rs"), &file) {
                (true, _) => {
                    // A fuzz target is a file of its own.
                    named.push((word.to_owned(), None));
                    file = Some(word);
                }
                (false, Some(file)) => named.push(((*file).to_owned(), Some(word.to_owned()))),
                (false, None) => problems.push(format!("no file before `{word}`")),
            }
        }
        let tests = named[before..].iter().filter(|(_, test)| test.is_some());
        if tests.count() == 0 && !last.contains("`fuzz/") {
            problems.push(format!("no test in {line:?}"));
        }
    }
    (named, problems)
}

/// The sections of a page that name no test.
fn sections_without_tests(page: &str) -> Vec<&str> {
    let sections = page.split("\n## ").skip(1);
    let without = sections.filter(|section| guarantees(section).0.is_empty());
    without
        .filter_map(|section| section.lines().next())
        .collect()
}

#[test]
fn each_guarantee_of_the_security_page_names_a_test_that_exists() -> Result<()> {
    let page = std::fs::read_to_string(repository().join("docs/src/security.md"))?;
    let (named, mut problems) = guarantees(&page);
    assert!(
        named.len() > 100,
        "only {} tests found: the tables have another form",
        named.len()
    );
    for (file, test) in named {
        let source = std::fs::read_to_string(repository().join(&file));
        match (source, test) {
            (Err(error), _) => problems.push(format!("{file}: {error}")),
            (Ok(source), Some(test)) if !has_test(&source, &test) => {
                problems.push(format!("{file}: there is no test {test}"));
            }
            (Ok(_), _) => {}
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    assert_eq!(sections_without_tests(&page), ["What is not protected"]);
    Ok(())
}

#[test]
fn a_guarantee_without_a_test_is_seen() {
    let source = "#[tokio::test(flavor = \"x\")]\nasync fn one() {}\n\n#[test]\n#[ignore]\nfn two() {}\nfn three() {}\n";
    assert!(has_test(source, "one") && has_test(source, "two"));
    assert!(!has_test(source, "three") && !has_test(source, "on"));
    let page = "## A\n| guarantee | enforced by |\n| --- | --- |\n| x `y` | `a.rs`: `b`, `c`; `d.rs`: `e` |\n\
                | z | `fuzz/f.rs` |\n| u | nothing |\n| v | `w` |\n\n## B\n| a | b |\n| c | `d.rs` |\n";
    let (named, problems) = guarantees(page);
    let named: Vec<_> = named
        .iter()
        .map(|(file, test)| (file.as_str(), test.as_deref()))
        .collect();
    assert_eq!(
        named,
        [
            ("a.rs", None),
            ("a.rs", Some("b")),
            ("a.rs", Some("c")),
            ("d.rs", None),
            ("d.rs", Some("e")),
            ("fuzz/f.rs", None),
        ]
    );
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(sections_without_tests(&format!("\n{page}")), ["B"]);
}
