//! `lapo export`: writes trained networks as an ONNX file, for other programs.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::Args as ClapArgs;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::human_readable::bytes;
use super::stdout::print;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::onnx::{self, OPSET, OnnxModel, WeightFile};

/// Arguments of `lapo export`.
#[derive(Debug, ClapArgs)]
pub struct ExportArgs {
    /// The weights: a .safetensors file of a train_dynamics, train_policy, train_decoder or
    /// finetune stage, or of `lapo import`
    pub weights: String,
    /// Decoder of the policy's latent actions: both become one network
    #[arg(long, value_name = "DECODER.safetensors")]
    pub decoder: Option<String>,
    /// The file to write
    #[arg(long, value_name = "FILE.onnx")]
    pub to: String,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
}

/// Writes the ONNX file and prints its inputs and outputs.
pub fn run(args: &ExportArgs) -> Result<()> {
    check_target(args)?;
    let weights = read(&args.weights)?;
    let decoder = args.decoder.as_deref().map(read).transpose()?;
    let model =
        onnx::export(&weights, decoder.as_ref()).map_err(|error| refused(&files(args), &error))?;
    write(args, &model.file)?;
    print(&describe(&args.to, &model))
}

/// Returns the files that the network comes from, for messages.
fn files(args: &ExportArgs) -> String {
    match &args.decoder {
        Some(decoder) => format!("{} with {decoder}", args.weights),
        None => args.weights.clone(),
    }
}

/// Refuses a target that is no ONNX file, so that no weights are replaced, or that exists.
fn check_target(args: &ExportArgs) -> Result<(), Error> {
    let to = &args.to;
    if Path::new(to).extension().is_none_or(|extension| extension != "onnx") {
        return Err(Error::Usage {
            what: format!("--to {to}: expected a name that ends with .onnx"),
            hint: "such as --to policy.onnx".into(),
        });
    }
    match std::fs::symlink_metadata(to) {
        Ok(_) if !args.force => Err(exists(to)),
        Ok(found) if !found.is_file() => Err(Error::Usage {
            what: format!("--to {to}: expected a file, found something else of this name"),
            hint: "give another name".into(),
        }),
        _ => Ok(()),
    }
}

fn exists(to: &str) -> Error {
    Error::Usage {
        what: format!("--to {to}: the file exists"),
        hint: "give another name, or replace the file with --force".into(),
    }
}

fn read(path: &str) -> Result<WeightFile, Error> {
    let file = std::fs::read(path).map_err(|source| Error::Input { from: path.into(), source })?;
    WeightFile::parse(&file).map_err(|error| refused(path, &error))
}

/// Returns the error of weights that have no ONNX form.
fn refused(files: &str, error: &ModelError) -> Error {
    let hint = match error {
        ModelError::Format(_) => "give a .safetensors file; `lapo inspect STAGE` lists a stage's",
        ModelError::DecoderSize { .. } => "give a decoder trained on labels of the policy's model",
        ModelError::Kind { .. } => "--decoder takes a decoder, and only a policy can have one",
        _ => "`lapo inspect FILE` shows what a file holds",
    };
    Error::Usage { what: format!("{files}: {error}"), hint: hint.into() }
}

/// Writes the file, which appears under its name only when it is complete.
fn write(args: &ExportArgs, file: &[u8]) -> Result<(), Error> {
    let to = &args.to;
    // In the folder of the target, so that the move is atomic.
    let staged = format!("{to}.{}.part", std::process::id());
    let written = File::create_new(&staged)
        .and_then(|mut created| created.write_all(file).and_then(|()| created.sync_all()))
        .and_then(|()| put_in_place(&staged, args));
    written.map_err(|source| {
        // Report the first error, not a second one of the cleanup.
        let _ = std::fs::remove_file(&staged);
        if source.kind() == ErrorKind::AlreadyExists && !args.force {
            return exists(to);
        }
        Error::Output { to: to.clone(), source }
    })
}

/// Gives a complete file its final name. Without `--force`, the move replaces nothing.
fn put_in_place(staged: &str, args: &ExportArgs) -> std::io::Result<()> {
    if args.force {
        return std::fs::rename(staged, &args.to);
    }
    Ok(renameat_with(CWD, staged, CWD, &args.to, RenameFlags::NOREPLACE)?)
}

/// Describes what was written.
fn describe(to: &str, model: &OnnxModel) -> String {
    let size = bytes(model.file.len() as u64);
    let mut text = format!("{to}: {}, opset {OPSET}, {size}\n", model.kind);
    for (direction, ports) in [("input", &model.inputs), ("output", &model.outputs)] {
        for port in ports {
            text += &format!("  {direction} {port}\n");
        }
    }
    text
}
