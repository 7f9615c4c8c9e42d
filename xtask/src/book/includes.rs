//! Code in the book's pages: copied from files that are built or tested, between two comments that name the file.
//!
//! ```text
//! <!-- include: ../../sdk/README.md:model -->
//! the part of the file between `ANCHOR: model` and `ANCHOR_END: model`
//! <!-- /include -->
//! ```
//!
//! The copy is part of the page, so that it reads the same on a forge, in an editor and built by mdbook. Where a code fence follows
//! the first comment, the copy goes inside the fence.

use anyhow::{Context, Result, bail, ensure};

const BEGIN: &str = "<!-- include: ";
const CLOSE: &str = " -->";
const END: &str = "<!-- /include -->";
const FENCE: &str = "```";

/// A page with each include copied anew from its file.
#[derive(Debug)]
pub struct Expanded {
    pub text: String,
    /// Includes whose text in the page differs from their file.
    pub outdated: Vec<String>,
    /// Includes that cannot be copied, with the reason.
    pub problems: Vec<String>,
}

/// Copies every include of a page anew; `read` reads a file by its path from the page's folder.
pub fn expand(page: &str, read: impl Fn(&str) -> Option<String>) -> Expanded {
    let (mut text, mut outdated, mut problems) = (String::new(), Vec::new(), Vec::new());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        if line.contains("{{#") {
            problems.push(format!(
                "`{line}`: only mdbook would expand this; write `{BEGIN}FILE:ANCHOR{CLOSE}` and `{END}`"
            ));
        }
        let Some(source) = line.strip_prefix(BEGIN) else {
            continue;
        };
        let source = source.strip_suffix(CLOSE).unwrap_or(source);
        let mut copied: Vec<&str> = Vec::new();
        let is_closed = loop {
            match lines.next() {
                Some(line) if line == END => break true,
                Some(line) => copied.push(line),
                None => break false,
            }
        };
        let before = lines_of(&copied);
        let after = match included(source, &read) {
            _ if !is_closed => Err(format!("no `{END}` follows")),
            Ok(part) => Ok(fenced(copied.first().copied(), &part)),
            Err(error) => Err(error.to_string()),
        };
        match after {
            Ok(after) => {
                if after != before {
                    outdated.push(source.to_owned());
                }
                text.push_str(&after);
            }
            Err(problem) => {
                problems.push(format!("{BEGIN}{source}{CLOSE}: {problem}"));
                text.push_str(&before);
            }
        }
        if is_closed {
            text.push_str(END);
            text.push('\n');
        }
    }
    Expanded {
        text,
        outdated,
        problems,
    }
}

fn lines_of(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// A part of a file, inside the fence that the page opens for it, if it does.
fn fenced(first: Option<&str>, part: &str) -> String {
    match first.filter(|line| line.starts_with(FENCE)) {
        Some(fence) if !part.starts_with(FENCE) => format!("{fence}\n{part}{FENCE}\n"),
        _ => part.to_owned(),
    }
}

/// A file, or the part of it between an anchor's two marks. Marks of other anchors are left out.
fn included(source: &str, read: impl Fn(&str) -> Option<String>) -> Result<String> {
    let (file, anchor) = match source.split_once(':') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (source, None),
    };
    let text = read(file).context("there is no such file")?;
    let Some(anchor) = anchor else {
        return Ok(lines_of(&text.lines().collect::<Vec<_>>()));
    };
    ensure!(
        anchor.starts_with(|first: char| first.is_ascii_alphabetic()),
        "line numbers change: name an anchor"
    );
    let marks = |line: &str, mark: &str| {
        let after = line.split_once(mark).map(|(_, after)| after.trim_start());
        after.and_then(|after| after.split_whitespace().next()) == Some(anchor)
    };
    let mut part = String::new();
    let mut lines = text.lines().skip_while(|line| !marks(line, "ANCHOR:"));
    ensure!(lines.next().is_some(), "the file has no `ANCHOR: {anchor}`");
    for line in lines {
        if marks(line, "ANCHOR_END:") {
            ensure!(!part.trim().is_empty(), "the part is empty");
            return Ok(part);
        }
        if !line.contains("ANCHOR:") && !line.contains("ANCHOR_END:") {
            part.push_str(line);
            part.push('\n');
        }
    }
    bail!("the file has no `ANCHOR_END: {anchor}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str =
        "no\n// ANCHOR: a\nyes\n// ANCHOR: b\ntoo\n// ANCHOR_END: b\n// ANCHOR_END: a\nno\n";

    fn expand_with(page: &str) -> Expanded {
        expand(page, |file| (file == "f.rs").then(|| CODE.to_owned()))
    }

    #[test]
    fn a_part_of_a_file_replaces_what_the_page_had() {
        for (source, part) in [
            ("f.rs:a", "yes\ntoo\n"),
            ("f.rs:b", "too\n"),
            ("f.rs", CODE),
        ] {
            let page =
                |copy: &str| format!("x\n<!-- include: {source} -->\n{copy}<!-- /include -->\ny\n");
            let fence = |copy: &str| page(&format!("```rust,ignore\n{copy}```\n"));
            for (before, after) in [
                (page(""), page(part)),
                (page("old\n"), page(part)),
                (fence("old\n"), fence(part)),
            ] {
                let expanded = expand_with(&before);
                assert_eq!(expanded.text, after);
                assert_eq!(expanded.outdated, [source]);
                assert!(expanded.problems.is_empty(), "{:?}", expanded.problems);
                let again = expand_with(&after);
                assert_eq!(again.text, after);
                assert!(again.outdated.is_empty(), "{:?}", again.outdated);
            }
        }
    }

    #[test]
    fn markdown_with_fences_of_its_own_gets_no_second_fence() {
        let part = "```rust\nx\n```\n";
        let page = format!("<!-- include: f -->\n{part}<!-- /include -->\n");
        let expanded = expand(&page, |_| Some(part.to_owned()));
        assert_eq!(expanded.text, page);
        assert!(expanded.outdated.is_empty());
    }

    #[test]
    fn an_include_that_cannot_be_copied_is_a_problem_and_stays_as_it_is() {
        let page = |source: &str| format!("<!-- include: {source} -->\nold\n<!-- /include -->\n");
        for (page, problem) in [
            (page("f.rs:c"), "no `ANCHOR: c`"),
            (page("f.rs:2:3"), "name an anchor"),
            (page("g.rs"), "no such file"),
            (
                "<!-- include: f.rs -->\nold\n".to_owned(),
                "no `<!-- /include -->` follows",
            ),
            (
                "{{#include f.rs}}\n".to_owned(),
                "only mdbook would expand this",
            ),
        ] {
            let expanded = expand_with(&page);
            assert_eq!(expanded.text, page);
            assert_eq!(expanded.problems.len(), 1, "{:?}", expanded.problems);
            assert!(
                expanded.problems[0].contains(problem),
                "{:?}",
                expanded.problems
            );
        }
        let open = |_: &str| Some("// ANCHOR: a\nx\n".to_owned());
        let error = included("f:a", open).unwrap_err().to_string();
        assert!(error.contains("ANCHOR_END"), "{error}");
    }
}
