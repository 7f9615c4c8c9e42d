//! The commands and options that the book names exist.

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
