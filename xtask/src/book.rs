//! `cargo xtask book`: copies code into the pages, checks their links, and builds the book with mdbook.
//!
//! The check is a test too, so that a page cannot fall behind the code that it shows.

mod includes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const SUMMARY: &str = "SUMMARY.md";

/// Brings the code in the pages up to date, checks the book and builds it into `target/book`.
pub fn build() -> Result<()> {
    copy_includes(&folder())?;
    let problems = problems(&folder())?;
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    let docs = crate::repository().join("docs");
    match Command::new("mdbook").arg("build").arg(&docs).status() {
        Ok(status) => ensure!(status.success(), "mdbook failed ({status})"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "mdbook is not installed: `cargo install mdbook`. The pages in docs/src read the same without it"
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

/// The pages of a folder by name, and the names of other files.
fn read_pages(folder: &Path) -> Result<(BTreeMap<String, String>, Vec<String>)> {
    let (mut pages, mut others) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|ending| ending == "md") {
            pages.insert(name.into_owned(), std::fs::read_to_string(&path)?);
        } else {
            others.push(name.into_owned());
        }
    }
    Ok((pages, others))
}

fn expand(folder: &Path, page: &str) -> includes::Expanded {
    includes::expand(page, |file| std::fs::read_to_string(folder.join(file)).ok())
}

/// Writes pages whose code differs from the files that it comes from.
fn copy_includes(folder: &Path) -> Result<()> {
    for (name, text) in read_pages(folder)?.0 {
        let expanded = expand(folder, &text);
        if expanded.text != text {
            println!("{name}: copied {}", expanded.outdated.join(", "));
            std::fs::write(folder.join(&name), expanded.text)?;
        }
    }
    Ok(())
}

/// What is wrong with the book in a folder, one line for each.
fn problems(folder: &Path) -> Result<Vec<String>> {
    let (pages, others) = read_pages(folder)?;
    let others = others.iter();
    let mut problems: Vec<String> = others
        .map(|name| format!("{name}: the book holds pages (.md) alone"))
        .collect();
    for (name, text) in &pages {
        let expanded = expand(folder, text);
        let outdated = expanded.outdated.iter();
        problems.extend(outdated.map(|source| {
            format!("{name}: differs from {source}: `cargo xtask book` copies it again")
        }));
        let wrong = expanded.problems.iter();
        problems.extend(wrong.map(|problem| format!("{name}: {problem}")));
    }
    problems.extend(wrong_links(&pages));
    problems.extend(wrong_summary(&pages));
    problems.extend(strays(folder)?);
    Ok(problems)
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
    fn code_that_fell_behind_its_file_is_reported_and_copied_again() {
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("src");
        std::fs::create_dir(&pages).unwrap();
        std::fs::write(folder.path().join("code.rs"), "new\n").unwrap();
        let page = |code: &str| {
            format!("<!-- include: ../code.rs -->\n```rust\n{code}\n```\n<!-- /include -->\n")
        };
        std::fs::write(pages.join("a.md"), page("old")).unwrap();
        std::fs::write(pages.join(SUMMARY), "- [A](a.md)\n").unwrap();
        let about_code = || -> Vec<String> {
            let problems = problems(&pages).unwrap().into_iter();
            problems
                .filter(|problem| problem.contains("differs"))
                .collect()
        };
        assert_eq!(
            about_code(),
            ["a.md: differs from ../code.rs: `cargo xtask book` copies it again"]
        );
        copy_includes(&pages).unwrap();
        let written = std::fs::read_to_string(pages.join("a.md")).unwrap();
        assert_eq!(written, page("new"));
        assert!(about_code().is_empty());
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
