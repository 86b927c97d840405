//! The files that describe the dataset: `info.json`, `tasks.parquet` and the card.

use serde_json::{Map, Value, json};

use super::{CAMERA, CHUNK_FILES, Episodes};
use crate::dataset::{ExportColumn, ExportTable, FileInfo, FrameSize};
use crate::stages::export::ExportTask;
use crate::stages::{Error, TaskContext};

/// The features of every LeRobot dataset. Their numbers have no names.
const MANDATORY: [&str; 5] = ["timestamp", "frame_index", "episode_index", "index", "task_index"];

/// Returns `info.json`. `group` has the columns of an episode.
pub(super) fn info(
    task: &ExportTask,
    episodes: &Episodes,
    group: &[(String, ExportColumn)],
) -> Value {
    let mut features = Map::new();
    features.insert(CAMERA.to_owned(), camera(task, episodes));
    for (name, column) in group {
        features.insert(name.clone(), feature(name, column));
    }
    json!({
        "codebase_version": "v3.0",
        "robot_type": null,
        "total_episodes": episodes.all.len(),
        "total_frames": episodes.frames,
        "total_tasks": 1,
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": episodes.fps,
        "splits": { "train": format!("0:{}", episodes.all.len()) },
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    })
}

/// Returns the feature of a column.
pub(super) fn feature(name: &str, column: &ExportColumn) -> Value {
    let (dtype, width) = numpy_type(column);
    let names = match width {
        _ if MANDATORY.contains(&name) => Value::Null,
        1 => json!([name]),
        width => (0..width).map(|i| format!("{name}_{i}")).collect(),
    };
    json!({ "dtype": dtype, "shape": [width], "names": names })
}

/// Returns the feature of the camera.
fn camera(task: &ExportTask, episodes: &Episodes) -> Value {
    let FrameSize { height, width } = episodes.size;
    let [height, width] = [height, width].map(|side| side * task.config.zoom);
    json!({
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": false,
            "video.fps": episodes.fps,
            "video.channels": 3,
            "has_audio": false,
        },
    })
}

/// Returns numpy's name of a column's numbers, and how many a row has.
fn numpy_type(column: &ExportColumn) -> (&'static str, usize) {
    match column {
        ExportColumn::F32Rows(_, width) => ("float32", *width),
        ExportColumn::I64Rows(_, width) => ("int64", *width),
        ExportColumn::I64(_) => ("int64", 1),
        ExportColumn::Bool(_) => ("bool", 1),
        _ => ("float32", 1),
    }
}

/// Returns the columns' types as Hugging Face `datasets` stores them in a Parquet file.
pub(super) fn huggingface(group: &[(String, ExportColumn)]) -> String {
    json!({ "info": { "features": huggingface_features(group) } }).to_string()
}

/// Returns the columns' types as Hugging Face `datasets` names them.
pub(super) fn huggingface_features(group: &[(String, ExportColumn)]) -> Map<String, Value> {
    group
        .iter()
        .map(|(name, column)| {
            let (dtype, width) = numpy_type(column);
            let value = json!({ "dtype": dtype, "_type": "Value" });
            let is_list = matches!(column, ExportColumn::F32Rows(..) | ExportColumn::I64Rows(..));
            let list = json!({ "feature": value, "length": width, "_type": "Sequence" });
            (name.clone(), if is_list { list } else { value })
        })
        .collect()
}

/// Writes the only task. Readers look it up in the index of a pandas frame.
pub(super) fn write_tasks(ctx: &TaskContext, text: &str) -> Result<FileInfo, Error> {
    let column = |name: &str, pandas: &str, numpy: &str| {
        json!({
            "name": name,
            "field_name": name,
            "pandas_type": pandas,
            "numpy_type": numpy,
            "metadata": null,
        })
    };
    let pandas = json!({
        "index_columns": ["task"],
        "column_indexes": [{
            "name": null,
            "field_name": null,
            "pandas_type": "unicode",
            "numpy_type": "object",
            "metadata": { "encoding": "UTF-8" },
        }],
        "columns": [
            column("task_index", "int64", "int64"),
            column("task", "unicode", "object"),
        ],
        "attributes": {},
        "creator": { "library": "pyarrow", "version": "20.0.0" },
        "pandas_version": "2.2.3",
    });
    let group = [
        ("task_index".to_owned(), ExportColumn::I64(vec![0])),
        ("task".to_owned(), ExportColumn::Text(vec![text.to_owned()])),
    ];
    let path = format!("{}/meta/tasks.parquet", ctx.folder);
    let metadata = [("pandas", pandas.to_string())];
    let file = ExportTable::create(ctx.store, &path, &metadata, &group)?.finish()?;
    Ok(FileInfo { rows: 0, ..file })
}

/// Returns the card, which Hugging Face's Hub shows.
pub(super) fn card(text: &str) -> String {
    format!(
        "---
task_categories:
- robotics
tags:
- LeRobot
- lapo
configs:
- config_name: default
  data_files: data/*/*.parquet
---

# {text}

A LeRobot dataset, version 3.0, written by lapo {version}: frames of unlabelled video, each with its
latent action.

| feature | content |
|---|---|
| `latent_action` | the latent action from this frame to the next, before quantisation |
| `latent_code` | its codebook entries |
| `fdm_error` | the error of the predicted next frame |
| `latent_action_valid` | whether the frame has a label; if not, the columns above are zero |
| `action`, `next.reward` | true actions and rewards, if known |
",
        version = env!("CARGO_PKG_VERSION"),
    )
}
