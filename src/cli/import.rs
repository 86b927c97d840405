//! `lapo import`: converts a published PyTorch checkpoint to safetensors.

use std::path::Path;

use clap::Args as ClapArgs;

use super::stdout::print;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::stages::import_dynamics::import_file;

/// Arguments of `lapo import`.
#[derive(Debug, ClapArgs)]
pub struct ImportArgs {
    /// The checkpoint: idm_fdm.pt or latent_policy.pt
    pub checkpoint: String,
    /// The file to write, such as model.safetensors. The stage `import_dynamics` accepts this file
    /// as well as the checkpoint
    pub output: String,
}

/// Writes the converted file, with the network sizes in its metadata, and prints its content.
pub fn run(args: &ImportArgs) -> Result<()> {
    let (bytes, content) = import_file(Path::new(&args.checkpoint))?;
    std::fs::write(&args.output, bytes)
        .map_err(|source| Error::Output { to: args.output.clone(), source })?;
    print(&format!("{}: {content}\n", args.output))
}
