//! Reports failed commands: exit code, error and hint.

use std::io::{self, Write as _};
use std::process::ExitCode;

use samovar_client::ClientError;

use crate::output::StdoutClosed;

/// A wrong command line that clap cannot detect.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct UsageError {
    pub problem: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// Prints the error without a backtrace.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<StdoutClosed>()) {
        // Whoever read the output has seen enough: `samovar model list | head -1`.
        return ExitCode::SUCCESS;
    }
    // Standard error may be closed too; then nobody is left to tell.
    let _ = io::stderr().write_all(describe(error).as_bytes());
    if error.chain().any(|cause| cause.is::<UsageError>()) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Libraries often put a cause's text into their own.
        if !said.contains(&cause) {
            text.push_str(&format!("  because: {cause}\n"));
            said = cause;
        }
    }
    if let Some(hint) = hint(error) {
        text.push_str(&format!("  try: {hint}\n"));
    }
    text
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let usage = cause.downcast_ref::<UsageError>();
        let client = cause.downcast_ref::<ClientError>();
        usage
            .and_then(|usage| usage.hint.clone())
            .or_else(|| client.and_then(ClientError::hint))
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_and_the_hint_follow_the_error() {
        let usage = UsageError {
            problem: "inner".into(),
            hint: Some("`--yes`".into()),
        };
        let error = Err::<(), _>(usage).context("outer").unwrap_err();
        assert_eq!(
            describe(&error),
            "error: outer\n  because: inner\n  try: `--yes`\n"
        );
        let repeated = Err::<(), _>(io::Error::other("inner"))
            .context("outer: inner")
            .unwrap_err();
        assert_eq!(describe(&repeated), "error: outer: inner\n");
    }
}
