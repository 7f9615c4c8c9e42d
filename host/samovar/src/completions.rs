//! `samovar completions`: completion scripts for shells.

use clap::CommandFactory as _;
use clap_complete::Shell;
use samovar_cli::output;

use crate::Cli;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Shell to print the script for
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    output::write(&script(arguments.shell))
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "samovar", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn each_shell_has_a_script() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            assert!(script.contains("deployment"), "{shell}");
        }
    }
}
