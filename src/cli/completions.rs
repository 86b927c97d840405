//! `lapo completions`: prints a shell completion script.

use clap::Args as ClapArgs;

use super::stdout::print;
use crate::error::Result;

/// Arguments of `lapo completions`.
#[derive(Debug, ClapArgs)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Prints the script for `command`, to be used as `source <(lapo completions bash)`.
pub fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "lapo", &mut script);
    print(&String::from_utf8_lossy(&script))
}
