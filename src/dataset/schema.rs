//! Every column name and every schema of the data files, once.
//!
//! In: the sizes a file is made for. Out: its Arrow schema. Start at [`shard`] and [`labels`]; nothing
//! outside this file spells a column's name.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The video's path or address, as it was given.
pub const VIDEO: &str = "video";
/// The BLAKE3 digest of the video's bytes: its identity.
pub const VIDEO_DIGEST: &str = "video_digest";
/// The episode's number within its video.
pub const EPISODE: &str = "episode";
/// The frame's number within its video; a transition's is that of `o[t]`.
pub const FRAME_INDEX: &str = "frame_index";
/// The frame's time within its video, in seconds.
pub const TIME_S: &str = "time_s";
/// The frame, rows top to bottom, RGB, 0 to 255.
pub const PIXELS: &str = "pixels";
/// The latent action before quantisation: what a policy is cloned from.
pub const LATENT_ACTION: &str = "latent_action";
/// The codebook entries it was quantised to, one per codebook and position.
pub const LATENT_CODE: &str = "latent_code";
/// The world model's error on this transition: the label's own quality sign; null where it was not asked for.
pub const FDM_ERROR: &str = "fdm_error";
/// The mean absolute change of a pixel from `o[t]` to `o[t+1]`, from 0 to 1.
pub const MOTION: &str = "motion";
/// The true action, where it is known.
pub const TRUE_ACTION: &str = "true_action";
/// A true action, in a table of what was done: between its frame and the next.
pub const ACTION: &str = "action";
/// What that action earned.
pub const REWARD: &str = "reward";
/// The shard file the frames lie in, relative to the workspace.
pub const SHARD: &str = "shard";
/// The row of `o[t]` in that shard.
pub const ROW: &str = "row";

/// The metadata key every data file states its format under.
pub const FORMAT_KEY: &str = "lapo.format";
/// The format of Parquet files. Format 1 had unsigned integers and fixed-size lists, which several readers refuse.
pub const TABLE_FORMAT: u32 = 2;

/// The size of a frame in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameSize {
    /// Rows of pixels.
    pub height: u32,
    /// Pixels in a row.
    pub width: u32,
}

impl FrameSize {
    /// The bytes of one RGB frame.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.height as usize * self.width as usize * 3
    }
}

/// The sizes of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelShape {
    /// The length of the latent action.
    pub latent_dim: usize,
    /// The length of the latent code: codebooks times positions.
    pub codes: usize,
}

/// How a shard's columns are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all: frames are read in place, with no copy. The default.
    #[default]
    None,
    /// Zstandard: about half the disk, and the whole shard in memory while it is read.
    Zstd,
}

/// The schema of a shard of frames.
#[must_use]
pub fn shard(size: FrameSize) -> Schema {
    let tensor =
        json!({"shape": [size.height, size.width, 3], "dim_names": ["height", "width", "channel"]});
    let pixels = fixed_list(PIXELS, DataType::UInt8, size.bytes()).with_metadata(HashMap::from([
        ("ARROW:extension:name".to_owned(), "arrow.fixed_shape_tensor".to_owned()),
        ("ARROW:extension:metadata".to_owned(), tensor.to_string()),
    ]));
    let fields = vec![
        dictionary(VIDEO),
        dictionary(VIDEO_DIGEST),
        Field::new(EPISODE, DataType::UInt32, false),
        Field::new(FRAME_INDEX, DataType::UInt32, false),
        Field::new(TIME_S, DataType::Float64, false),
        pixels,
    ];
    Schema::new_with_metadata(fields, format_metadata())
}

/// Returns the schema of a file of labels. The lengths of the lists are in the file's metadata, under [`list_size_key`].
///
/// Integers are signed, because the Delta Lake protocol and Spark know no others. `frame_index` and `row` are int64: int32 does not hold
/// all of their values.
#[must_use]
pub fn labels() -> Schema {
    label_fields(DataType::Utf8)
}

/// Returns the schema of labels in memory: names that repeat are looked up in a dictionary. In a file they are text.
pub(super) fn labels_in_memory() -> Schema {
    label_fields(DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into()))
}

fn label_fields(names: DataType) -> Schema {
    let fields = vec![
        Field::new(VIDEO, names.clone(), false),
        Field::new(EPISODE, DataType::Int32, false),
        Field::new(FRAME_INDEX, DataType::Int64, false),
        Field::new(TIME_S, DataType::Float64, false),
        Field::new_list(LATENT_ACTION, element(DataType::Float32), false),
        Field::new_list(LATENT_CODE, element(DataType::Int32), false),
        Field::new(FDM_ERROR, DataType::Float32, true),
        Field::new(MOTION, DataType::Float32, false),
        Field::new(TRUE_ACTION, DataType::Int32, true),
        Field::new(SHARD, names, false),
        Field::new(ROW, DataType::Int64, false),
    ];
    Schema::new(fields)
}

/// The frame size a shard's schema states, if it is a shard's.
#[must_use]
pub fn frame_size(schema: &Schema) -> Option<FrameSize> {
    let metadata =
        schema.field_with_name(PIXELS).ok()?.metadata().get("ARROW:extension:metadata")?;
    let tensor: Value = serde_json::from_str(metadata).ok()?;
    let side = |axis: usize| u32::try_from(tensor["shape"][axis].as_u64()?).ok();
    let size = FrameSize { height: side(0)?, width: side(1)? };
    (*schema == shard(size)).then_some(size)
}

/// A schema as JSON, column by column: what `schemas/` shows to people.
#[must_use]
pub fn describe(schema: &Schema) -> Value {
    let columns = schema.fields().iter().map(|field| {
        let mut column = json!({"name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable(),
                                "meaning": meaning(field.name())});
        if matches!(field.data_type(), DataType::List(_)) {
            column["list_size"] =
                json!(format!("the same in every row; stated by the file's metadata entry `{}`", list_size_key(field.name())));
        }
        column
    });
    json!({"columns": columns.collect::<Vec<_>>()})
}

fn meaning(column: &str) -> &'static str {
    match column {
        VIDEO => "the video's path or address, as it was given",
        VIDEO_DIGEST => "BLAKE3 of the video's bytes: its identity",
        EPISODE => "the episode's number within its video",
        FRAME_INDEX => {
            "the frame's position in the source, lost frames counted; from 2147483648 on it is unknown; a transition's is that of o[t]"
        }
        TIME_S => "the frame's time within its video, in seconds",
        PIXELS => "the frame: [height, width, channel], RGB, 0 to 255",
        LATENT_ACTION => "the latent action before quantisation: what a policy is cloned from",
        LATENT_CODE => "the codebook entries it was quantised to, one per codebook and position",
        FDM_ERROR => {
            "the world model's error on this transition: the label's own quality sign; null where it was not asked for"
        }
        MOTION => "the mean absolute change of a pixel from o[t] to o[t+1], from 0 to 1",
        TRUE_ACTION => "the true action, null where unknown",
        SHARD => "the shard file the frames lie in, relative to the workspace",
        ROW => "the row of o[t] in that shard",
        _ => "",
    }
}

/// The metadata every data file carries.
pub(super) fn format_metadata() -> HashMap<String, String> {
    HashMap::from([(FORMAT_KEY.to_owned(), super::FORMAT.to_string())])
}

/// Returns the metadata key under which a Parquet file states the length of the lists in a column: the same in every row.
#[must_use]
pub fn list_size_key(column: &str) -> String {
    format!("lapo.list_size.{column}")
}

/// Returns the field of a plain list's elements, named as the Parquet format asks.
pub(super) fn element(data_type: DataType) -> Field {
    Field::new("element", data_type, false)
}

/// The field of a fixed-size list's items.
pub(super) fn item(data_type: DataType) -> Field {
    Field::new("item", data_type, false)
}

fn fixed_list(name: &str, data_type: DataType, length: usize) -> Field {
    let length = i32::try_from(length).expect("a frame or a latent has fewer than 2^31 values");
    Field::new(name, DataType::FixedSizeList(item(data_type).into(), length), false)
}

fn dictionary(name: &str) -> Field {
    Field::new(name, DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into()), false)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn sizes_come_back_from_the_schema() {
        let size = FrameSize { height: 48, width: 64 };
        assert_eq!(frame_size(&shard(size)), Some(size));
        assert_eq!(frame_size(&labels()), None);
    }

    /// Delta Lake, polars' `scan_delta` and Spark refuse unsigned integers, fixed-size lists and dictionaries.
    #[test]
    fn labels_hold_only_types_that_every_reader_knows() {
        use DataType::{Float32, Float64, Int32, Int64, List, Utf8};
        for field in labels().fields() {
            let simple = match field.data_type() {
                List(item) => {
                    matches!(item.data_type(), Int32 | Float32) && item.name() == "element"
                }
                other => matches!(other, Utf8 | Int32 | Int64 | Float32 | Float64),
            };
            assert!(simple, "{field}");
        }
    }

    #[test]
    fn every_column_has_a_meaning() {
        for schema in [shard(FrameSize { height: 1, width: 1 }), labels()] {
            for column in describe(&schema)["columns"].as_array().unwrap() {
                assert_ne!(column["meaning"], "", "{}", column["name"]);
            }
        }
    }
}
