//! `lapo completions`: a script that completes lapo's words in a shell.

use clap::{Args as ClapArgs, CommandFactory};

use super::args::Args;
use super::print;
use crate::error::Result;

#[derive(Debug, ClapArgs)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Prints the script, e.g. for `source <(lapo completions bash)`.
pub fn run(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "lapo", &mut script);
    print(&String::from_utf8_lossy(&script))
}
