//! `lapo schema`: the formats this program reads and writes, as generated from the code.

use serde_json::{Value, json};

use super::args::Schema;
use super::{Error, print};
use crate::dataset::FrameSize;
use crate::dataset::schema::{describe, labels, shard};
use crate::error::Result;
use crate::pipeline::spec::PipelineSpec;

/// Every schema: the file name under `schemas/` and its text.
pub fn all() -> Vec<(&'static str, String)> {
    let text = |value: Value| format!("{value:#}\n");
    vec![
        ("pipeline.schema.json", text(json!(schemars::schema_for!(PipelineSpec)))),
        ("shard.arrow.json", text(describe(&shard(FrameSize { height: 64, width: 64 })))),
        ("labels.parquet.json", text(describe(&labels()))),
    ]
}

/// Prints one schema, or writes all of them.
pub fn run(args: &Schema) -> Result<()> {
    if let Some(folder) = &args.write {
        for (name, text) in all() {
            let path = std::path::Path::new(folder).join(name);
            std::fs::write(&path, text)
                .map_err(|source| Error::Output { to: path.display().to_string(), source })?;
        }
        return Ok(());
    }
    let named = |(name, _): &(&str, String)| name.split('.').next() == Some(args.name.as_str());
    match all().into_iter().find(named) {
        Some((_, text)) => print(&text),
        None => Err(Error::Usage {
            what: format!("no schema `{}`", args.name),
            hint: "there is: pipeline, shard, labels".into(),
        })?,
    }
}
