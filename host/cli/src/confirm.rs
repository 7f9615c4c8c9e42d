//! Asks before a command deletes something.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use anyhow::bail;

use crate::failure::UsageError;
use crate::output;

#[derive(Debug, Clone, clap::Args)]
pub struct Consent {
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

impl Consent {
    /// Fails unless the user agrees to `action`, such as "delete model m".
    pub fn ask(&self, action: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(UsageError {
                problem: format!("cannot ask whether to {action} without a terminal"),
                hint: Some("the same command with `--yes`".into()),
            }
            .into());
        }
        output::note(&format!("Really {action}? [y/N] "));
        let mut answer = String::new();
        io::stdin().lock().take(1024).read_line(&mut answer)?;
        if agrees(&answer) {
            Ok(())
        } else {
            bail!("nothing was deleted")
        }
    }
}

fn agrees(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        assert!(agrees("y\n") && agrees(" Yes\r\n"));
        assert!(!agrees("") && !agrees("\n") && !agrees("no") && !agrees("yikes"));
    }
}
