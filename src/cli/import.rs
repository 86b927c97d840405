//! `lapo import`: a published PyTorch checkpoint becomes safetensors, with its sizes in the metadata.

use std::path::Path;

use super::{Error, args, print};
use crate::error::Result;
use crate::stages::import_dynamics::import_file;

/// Converts, and says what the checkpoint holds.
pub fn run(args: &args::Import) -> Result<()> {
    let (bytes, holds) = import_file(Path::new(&args.checkpoint))?;
    std::fs::write(&args.output, bytes)
        .map_err(|source| Error::Output { to: args.output.clone(), source })?;
    print(&format!("{}: {holds}\n", args.output))
}
