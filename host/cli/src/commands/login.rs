//! `samovar login`: saves the address of the server to call and the key.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use console::Term;
use samovar_client::{Client, config};
use serde_json::json;

use crate::failure::UsageError;
use crate::output::{self, Format};

const MAX_KEY_BYTES: u64 = 4096;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address of the server, such as https://samovar.example.com
    url: String,
}

/// Reads the key, tries it, and saves it if the server accepts it.
pub async fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let text = read_key(&arguments.url).context("reading the key from standard input")?;
    let key = check_key(&text)?;
    let client = Client::new(&arguments.url, Some(key.to_owned()))?;
    client.models().await.context("nothing was saved")?;
    let file = config::save(client.url(), key)?;
    match format {
        Format::Json => output::document(&json!({"url": client.url(), "config_file": file})),
        Format::Text => output::line(&format!(
            "{} accepts the key; saved in {}",
            client.url(),
            file.display()
        )),
    }
}

fn read_key(url: &str) -> io::Result<String> {
    let terminal = Term::stderr();
    if io::stdin().is_terminal() && terminal.is_term() {
        output::note(&format!("Key for {url} (not shown as you type): "));
        return terminal.read_secure_line();
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_KEY_BYTES + 1)
        .read_line(&mut text)?;
    Ok(text)
}

fn check_key(text: &str) -> anyhow::Result<&str> {
    let key = text.trim();
    if key.is_empty() {
        return Err(UsageError {
            problem: "found no key on standard input".into(),
            hint: Some("`samovar login URL < FILE`, with the key in the file".into()),
        }
        .into());
    }
    if text.len() as u64 > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!(
            "standard input: found something that is not a key, wanted one line of plain characters"
        );
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_line_of_plain_characters() {
        assert_eq!(check_key(" abc.def-1\r\n").unwrap(), "abc.def-1");
        assert!(check_key("\n").unwrap_err().is::<UsageError>());
        for bad in ["a b", "a\u{7f}", "é", &"k".repeat(5000)] {
            let error = check_key(bad).unwrap_err().to_string();
            assert!(!error.contains(bad), "{error}");
        }
    }
}
