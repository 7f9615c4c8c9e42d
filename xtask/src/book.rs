//! `cargo xtask book`: checks that everything the book names is there, and builds it with mdbook.
//!
//! The check is a test too, so that a page cannot fall behind the code that it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const INCLUDE: &str = "{{#include ";
const SUMMARY: &str = "SUMMARY.md";

/// Checks the book and builds it into `target/book`.
pub fn build() -> Result<()> {
    let problems = problems(&folder())?;
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    let docs = crate::repository().join("docs");
    match Command::new("mdbook").arg("build").arg(&docs).status() {
        Ok(status) => ensure!(status.success(), "mdbook failed ({status})"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "mdbook is not installed: `cargo install mdbook`. The pages can be read as they are, in docs/src"
            )
        }
        Err(error) => return Err(error).context("mdbook does not start"),
    }
    let index = crate::repository().join("target/book/index.html");
    println!("{}", index.display());
    Ok(())
}

fn folder() -> PathBuf {
    crate::repository().join("docs/src")
}

/// What is wrong with the book in a folder, one line for each.
fn problems(folder: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut pages = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|ending| ending == "md") {
            let text = std::fs::read_to_string(&path)?;
            let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
            let (text, wrong) = expanded(&text, read);
            problems.extend(wrong.iter().map(|problem| format!("{name}: {problem}")));
            pages.insert(name.into_owned(), text);
        } else {
            problems.push(format!("{name}: the book holds pages (.md) alone"));
        }
    }
    problems.extend(wrong_links(&pages));
    problems.extend(wrong_summary(&pages));
    problems.extend(strays(folder)?);
    Ok(problems)
}

/// A page with what it includes put in, and what could not be.
fn expanded(page: &str, read: impl Fn(&str) -> Option<String>) -> (String, Vec<String>) {
    let (mut text, mut problems) = (String::new(), Vec::new());
    for line in page.lines() {
        let Some((before, rest)) = line.split_once("{{#") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let directive = line
            .strip_prefix(INCLUDE)
            .and_then(|rest| rest.strip_suffix("}}"));
        let (true, Some(directive)) = (before.is_empty(), directive) else {
            problems.push(format!(
                "`{{{{#{rest}`: wanted {INCLUDE}FILE:ANCHOR}}}} on a line of its own"
            ));
            continue;
        };
        match included(directive, &read) {
            Ok(part) => text.push_str(&part),
            Err(problem) => problems.push(format!("{INCLUDE}{directive}}}}}: {problem}")),
        }
    }
    (text, problems)
}

fn included(directive: &str, read: impl Fn(&str) -> Option<String>) -> Result<String> {
    let (file, anchor) = match directive.split_once(':') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (directive, None),
    };
    let text = read(file).context("there is no such file")?;
    let Some(anchor) = anchor else {
        return Ok(text);
    };
    ensure!(
        anchor.starts_with(|first: char| first.is_ascii_alphabetic()),
        "lines by their numbers move: name an anchor"
    );
    let marks = |line: &str, mark: &str| {
        let after = line.split_once(mark).map(|(_, after)| after.trim_start());
        after.and_then(|after| after.split_whitespace().next()) == Some(anchor)
    };
    let mut part = String::new();
    let mut lines = text
        .lines()
        .skip_while(|line| !marks(line, "ANCHOR:"))
        .peekable();
    ensure!(lines.next().is_some(), "the file has no `ANCHOR: {anchor}`");
    for line in lines {
        if marks(line, "ANCHOR_END:") {
            ensure!(!part.trim().is_empty(), "there is nothing in it");
            return Ok(part);
        }
        // mdbook leaves the marks of others out.
        if !line.contains("ANCHOR:") && !line.contains("ANCHOR_END:") {
            part.push_str(line);
            part.push('\n');
        }
    }
    bail!("the file has no `ANCHOR_END: {anchor}`")
}

/// Lines that are no code, without their code spans.
fn prose(text: &str) -> impl Iterator<Item = String> {
    let mut is_code = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            return None;
        }
        (!is_code).then(|| line.split('`').step_by(2).collect::<Vec<_>>().join("``"))
    })
}

fn links(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| {
            let targets = line.split("](").skip(1);
            let targets =
                targets.filter_map(|rest| rest.split_once(')').map(|(link, _)| link.to_owned()));
            targets.collect::<Vec<_>>()
        })
        .collect()
}

/// The ids that mdbook gives to headings.
fn headings(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if is_code || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let id: String = title
            .trim()
            .chars()
            .filter_map(|char| match char {
                char if char.is_alphanumeric() || matches!(char, '-' | '_') => {
                    Some(char.to_ascii_lowercase())
                }
                char if char.is_whitespace() => Some('-'),
                _ => None,
            })
            .collect();
        let before = seen.entry(id.clone()).or_default();
        ids.insert(match *before {
            0 => id,
            count => format!("{id}-{count}"),
        });
        *before += 1;
    }
    ids
}

/// What lies beside the book's folder, where no reader finds it.
fn strays(folder: &Path) -> Result<Vec<String>> {
    let mut strays = Vec::new();
    for entry in std::fs::read_dir(folder.join(".."))? {
        let name = entry?.file_name();
        if name != "src" && name != "book.toml" {
            strays.push(format!(
                "docs/{}: pages of the book lie in docs/src",
                name.display()
            ));
        }
    }
    Ok(strays)
}

fn wrong_links(pages: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, text) in pages {
        for link in links(text) {
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            let (page, heading) = link.split_once('#').unwrap_or((&link, ""));
            let leaves = Path::new(page)
                .components()
                .any(|part| !matches!(part, Component::Normal(_)));
            let page = if page.is_empty() { name } else { page };
            let problem = match pages.get(page) {
                _ if leaves => {
                    "leads out of the book, where its reader finds nothing: name the file as code"
                }
                None => "leads to no page",
                Some(text) if !heading.is_empty() && !headings(text).contains(heading) => {
                    "leads to a page that has no such heading"
                }
                Some(_) => continue,
            };
            problems.push(format!("{name}: `{link}` {problem}"));
        }
    }
    problems
}

fn wrong_summary(pages: &BTreeMap<String, String>) -> Vec<String> {
    let Some(summary) = pages.get(SUMMARY) else {
        return vec![format!("there is no {SUMMARY}")];
    };
    let listed = links(summary);
    let missing = pages.keys().filter(|page| *page != SUMMARY);
    let missing = missing.filter(|page| !listed.contains(page));
    missing
        .map(|page| format!("{SUMMARY}: does not list {page}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(pages: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        pages.iter().map(owned).collect()
    }

    #[test]
    fn everything_that_the_book_names_is_there() {
        let problems = problems(&folder()).unwrap();
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    }

    #[test]
    fn a_part_of_a_file_is_put_in_without_its_marks() {
        let code =
            "no\n// ANCHOR: a\nyes\n// ANCHOR: b\ntoo\n// ANCHOR_END: b\n// ANCHOR_END: a\nno\n";
        let page = |directive: &str| {
            let (text, problems) =
                expanded(&format!("x\n{{{{#include f.rs{directive}}}}}\ny"), |file| {
                    (file == "f.rs").then(|| code.to_owned())
                });
            (text, problems.join("; "))
        };
        assert_eq!(page(":a").0, "x\nyes\ntoo\ny\n");
        assert_eq!(page(":b").0, "x\ntoo\ny\n");
        assert_eq!(page("").0, format!("x\n{code}y\n"));
        for (directive, problem) in [
            (":c", "no `ANCHOR: c`"),
            (":2:3", "name an anchor"),
            ("x", "no such file"),
        ] {
            assert!(
                page(directive).1.contains(problem),
                "{directive}: {}",
                page(directive).1
            );
        }
        let open = |_: &str| Some("// ANCHOR: a\nx\n".to_owned());
        assert!(
            included("f:a", open)
                .unwrap_err()
                .to_string()
                .contains("ANCHOR_END")
        );
        let (_, problems) = expanded("{{#playground f.rs}}", |_| None);
        assert!(problems[0].contains("wanted {{#include"), "{problems:?}");
    }

    #[test]
    fn links_are_followed_to_their_heading() {
        let pages = book(&[
            (
                "a.md",
                "[b](b.md) [h](b.md#two-words) [own](#a) `[no](link)`\n```\n[no](x)\n```\n# A\n# A\n[](#a-1)",
            ),
            (
                "b.md",
                "# B\n## `Two` words!\n[out](../x.md)\n[no](c.md)\n[no](a.md#b)\n[web](https://x.y)",
            ),
        ]);
        let problems = wrong_links(&pages).join("\n");
        assert_eq!(problems.lines().count(), 3, "{problems}");
        for wanted in [
            "`../x.md` leads out",
            "`c.md` leads to no page",
            "`a.md#b` leads to a page that has no",
        ] {
            assert!(problems.contains(wanted), "{problems}");
        }
    }

    #[test]
    fn every_page_is_in_the_summary() {
        let pages = book(&[(SUMMARY, "- [A](a.md)"), ("a.md", ""), ("b.md", "")]);
        assert_eq!(wrong_summary(&pages), ["SUMMARY.md: does not list b.md"]);
    }
}
