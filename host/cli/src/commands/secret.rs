//! `samovar secret`: the secrets of a server. Their values come from standard input or a file, never from the command line,
//! which other users of the machine can read.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use console::Term;
use jiff::Timestamp;
use samovar_client::Client;
use samovar_client::text::printable;
use samovar_types::api::secrets::{ListSecretsResponse, SecretResponse, SetSecretRequest};
use samovar_types::names;
use samovar_types::secret::{self, MAX_SECRET_BYTES};
use secrecy::zeroize::{Zeroize as _, Zeroizing};

use crate::confirm::Consent;
use crate::failure::UsageError;
use crate::output::{self, Format, since};

#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all secrets, without their values
    List,
    /// Set a secret to the text on standard input, without a line break at its end
    Set {
        /// Name of the secret, as in `secrets` of a manifest
        #[arg(value_parser = name)]
        name: String,
        /// Read the value from this file instead, byte for byte
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
    },
    /// Delete a secret; models can no longer read it
    Delete {
        /// Name of the secret
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
}

pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    match action {
        Action::List => {
            let answer = client.secrets().await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::table(
                    &["NAME", "CREATED"],
                    rows(&answer, Timestamp::now()),
                    "no secrets: set one with `samovar secret set NAME`",
                ),
            }
        }
        Action::Set { name, from_file } => {
            let value = match &from_file {
                Some(path) => File::open(path)
                    .and_then(read)
                    .with_context(|| path.display().to_string())?,
                None => read_input(&name).context("reading the value from standard input")?,
            };
            if value.is_empty() {
                return Err(UsageError {
                    problem: "found no value on standard input or in the file".into(),
                    hint: Some(format!("`samovar secret set {name} --from-file FILE`")),
                }
                .into());
            }
            secret::check(&name, &value)?;
            let mut request = SetSecretRequest {
                name: name.clone(),
                value: value.to_string(),
            };
            let answer = client.set_secret(&request).await;
            request.value.zeroize();
            let answer = answer?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("set secret {name}")),
            }
        }
        Action::Delete { name, consent } => {
            consent.ask(&format!("delete secret {name}"))?;
            let answer = client.delete_secret(&name).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted secret {name}")),
            }
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    match names::check_variable(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(wanted) => Err(format!("wanted {wanted}")),
    }
}

fn read_input(name: &str) -> io::Result<Zeroizing<String>> {
    let terminal = Term::stderr();
    if io::stdin().is_terminal() && terminal.is_term() {
        output::note(&format!("Value of {name} (not shown as you type): "));
        return terminal.read_secure_line().map(Zeroizing::new);
    }
    let mut text = read(io::stdin().lock())?;
    without_line_break(&mut text);
    Ok(text)
}

/// One byte more than a value may have, and the line break after it, are enough to be refused for.
fn read(source: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    source
        .take(MAX_SECRET_BYTES as u64 + 3)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// `echo` and editors end what they write with one.
fn without_line_break(text: &mut String) {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
}

fn rows(answer: &ListSecretsResponse, now: Timestamp) -> Vec<Vec<String>> {
    let row =
        |secret: &SecretResponse| vec![printable(&secret.name), since(secret.created_at, now)];
    answer.secrets.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_goes_and_no_more() {
        for (found, wanted) in [
            ("x", "x"),
            ("x\n", "x"),
            ("x\r\n", "x"),
            ("x\n\n", "x\n"),
            ("x\r", "x\r"),
            ("\n", ""),
            (" x ", " x "),
        ] {
            let mut text = found.to_owned();
            without_line_break(&mut text);
            assert_eq!(text, wanted, "{found:?}");
        }
    }

    #[test]
    fn the_longest_value_passes_and_a_longer_one_is_not_cut_to_fit() {
        let read = |count: usize| {
            let mut text = read(io::repeat(b'x').take(count as u64)).unwrap();
            without_line_break(&mut text);
            secret::check("A", &text).is_ok()
        };
        assert!(read(MAX_SECRET_BYTES));
        assert!(!read(MAX_SECRET_BYTES + 1));
        assert!(!read(1 << 20));
    }

    #[test]
    fn names_are_those_of_manifests() {
        assert!(name("HF_TOKEN").is_ok());
        for bad in ["1A", "a-b", "", "a/b", ".."] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
