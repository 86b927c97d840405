//! `lapo schema`: the schemas of the formats that lapo reads and writes, generated from the code.

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::stdout::print;
use crate::dataset::FrameSize;
use crate::dataset::schema::{describe, labels, shard};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::executor::settings::ExecutorSettings;
use crate::pipeline::spec::PipelineSpec;

/// Arguments of `lapo schema`.
#[derive(Debug, ClapArgs)]
pub struct SchemaArgs {
    /// The schema: pipeline or executor (the JSON Schemas of the YAML files), shard or labels
    #[arg(default_value = "pipeline")]
    pub name: String,
    /// Write all schemas into this folder instead of printing one
    #[arg(long)]
    pub write: Option<String>,
}

/// Returns every schema: its file name under `schemas/` and its text.
pub fn all() -> Vec<(&'static str, String)> {
    let text = |value: Value| format!("{value:#}\n");
    vec![
        ("pipeline.schema.json", text(json!(schemars::schema_for!(PipelineSpec)))),
        ("executor.schema.json", text(json!(schemars::schema_for!(ExecutorSettings)))),
        // The frame size is an example; each stage of frames has its own.
        ("shard.arrow.json", text(describe(&shard(FrameSize { height: 64, width: 64 })))),
        ("labels.parquet.json", text(describe(&labels()))),
    ]
}

/// Prints one schema, or writes all of them.
pub fn run(args: &SchemaArgs) -> Result<()> {
    if let Some(folder) = &args.write {
        for (name, text) in all() {
            let path = std::path::Path::new(folder).join(name);
            std::fs::write(&path, text)
                .map_err(|source| Error::Output { to: path.display().to_string(), source })?;
        }
        return Ok(());
    }
    let has_name = |(file, _): &(&str, String)| file.split('.').next() == Some(args.name.as_str());
    match all().into_iter().find(has_name) {
        Some((_, text)) => print(&text),
        None => Err(Error::Usage {
            what: format!("there is no schema `{}`", args.name),
            hint: "choose one of pipeline, executor, shard, labels".into(),
        })?,
    }
}
