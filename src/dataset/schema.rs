//! Defines every column name and every schema of the data files. Start at [`shard`] and [`labels`].
//!
//! No other file spells out a column's name.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The video's path or address, as the user gave it.
pub const VIDEO: &str = "video";
/// The BLAKE3 digest of the video's bytes, its identity.
pub const VIDEO_DIGEST: &str = "video_digest";
/// The episode's number within its video.
pub const EPISODE: &str = "episode";
/// The frame's number within its video; for a transition, the number of `o[t]`.
pub const FRAME_INDEX: &str = "frame_index";
/// The frame's time within its video, in seconds.
pub const TIME_S: &str = "time_s";
/// The frame, rows top to bottom, RGB, 0 to 255.
pub const PIXELS: &str = "pixels";
/// The latent action before quantisation. Policies are cloned from it.
pub const LATENT_ACTION: &str = "latent_action";
/// The codebook entries of the quantised latent action, one per codebook and position.
pub const LATENT_CODE: &str = "latent_code";
/// The FDM's error on the transition, a sign of the label's quality; null if it was not computed.
pub const FDM_ERROR: &str = "fdm_error";
/// The mean absolute change of a pixel from `o[t]` to `o[t+1]`, from 0 to 1.
pub const MOTION: &str = "motion";
/// The true action of a label, if known.
pub const TRUE_ACTION: &str = "true_action";
/// The true action between a frame and the next, in a table of recorded actions.
pub const ACTION: &str = "action";
/// The state at a frame, such as the angles of joints, in a table of recorded actions.
pub const STATE: &str = "state";
/// The reward of this action.
pub const REWARD: &str = "reward";
/// Column of labels: frames from `o[t]` to the frame that the latent action leads to.
pub const HORIZON: &str = "horizon";
/// The BLAKE3 digest of the shard file that holds the frames.
pub const SHARD: &str = "shard";
/// The row of `o[t]` in that shard.
pub const ROW: &str = "row";

/// The metadata key of a data file's format.
pub const FORMAT_KEY: &str = "lapo.format";
/// The metadata key of the class of the device that computed a label file: `cuda` or `vulkan`.
/// Files of the CPU have none.
pub const DEVICE_KEY: &str = "lapo.device";
/// The metadata key of the precision in which a GPU computed a label file.
pub const PRECISION_KEY: &str = "lapo.precision";
/// The format of Parquet files. Format 1 had unsigned integers and fixed-size lists; several
/// readers refuse both.
pub const TABLE_FORMAT: u32 = 2;

/// The size of a frame in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameSize {
    /// The number of rows of pixels.
    pub height: u32,
    /// The number of pixels in a row.
    pub width: u32,
}

impl FrameSize {
    /// Returns the bytes of one RGB frame.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.height as usize * self.width as usize * 3
    }
}

/// The lengths of the lists in a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelShape {
    /// The length of the latent action.
    pub latent_dim: usize,
    /// The length of the latent code: the number of codebooks times positions.
    pub codes: usize,
}

/// The compression of a shard's columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// No compression: frames are read in place, without a copy. The default.
    #[default]
    None,
    /// Zstandard: about half the disk space, but the whole shard is in memory while it is read.
    Zstd,
}

/// Returns the schema of a shard of frames.
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

/// Returns the schema of a label file. The file's metadata states the lengths of the lists under
/// [`list_size_key`].
///
/// Integers are signed, because the Delta Lake protocol and Spark have no unsigned ones.
/// `frame_index` and `row` are int64, because their values exceed int32.
#[must_use]
pub fn labels() -> Schema {
    label_fields(DataType::Utf8)
}

/// Returns the schema of labels in memory, with repeating names as dictionaries. In a file they are
/// text.
pub(super) fn labels_in_memory() -> Schema {
    label_fields(DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into()))
}

fn label_fields(names: DataType) -> Schema {
    let fields = vec![
        Field::new(VIDEO, names.clone(), false),
        Field::new(VIDEO_DIGEST, names.clone(), false),
        Field::new(EPISODE, DataType::Int32, false),
        Field::new(FRAME_INDEX, DataType::Int64, false),
        Field::new(TIME_S, DataType::Float64, false),
        Field::new(HORIZON, DataType::Int32, false),
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

/// Returns the frame size from the schema of a shard, or `None` if it is another schema.
#[must_use]
pub fn frame_size(schema: &Schema) -> Option<FrameSize> {
    let metadata =
        schema.field_with_name(PIXELS).ok()?.metadata().get("ARROW:extension:metadata")?;
    // Any Arrow file may state a tensor: only a schema equal to that of a shard counts.
    let tensor: Value = serde_json::from_str(metadata).ok()?;
    let side = |axis: usize| u32::try_from(tensor["shape"][axis].as_u64()?).ok();
    let size = FrameSize { height: side(0)?, width: side(1)? };
    (*schema == shard(size)).then_some(size)
}

/// Describes a schema as JSON, column by column, for the files in `schemas/`.
#[must_use]
pub fn describe(schema: &Schema) -> Value {
    let columns = schema.fields().iter().map(|field| {
        let mut column = json!({
            "name": field.name(),
            "type": field.data_type().to_string(),
            "nullable": field.is_nullable(),
            "meaning": meaning(field.name()),
        });
        if matches!(field.data_type(), DataType::List(_)) {
            let key = list_size_key(field.name());
            let stated = "the same in every row; stated by the file's metadata entry";
            column["list_size"] = json!(format!("{stated} `{key}`"));
        }
        column
    });
    json!({"columns": columns.collect::<Vec<_>>()})
}

fn meaning(column: &str) -> &'static str {
    match column {
        VIDEO => "the video's path or address, as the user gave it",
        VIDEO_DIGEST => "the BLAKE3 digest of the video's bytes, its identity",
        EPISODE => "the episode's number within its video",
        FRAME_INDEX => concat!(
            "the frame's position in the source, lost frames included; ",
            "unknown from 2147483648 on; for a transition, the position of o[t]"
        ),
        TIME_S => "the frame's time within its video, in seconds",
        PIXELS => "the frame: [height, width, channel], RGB, 0 to 255",
        LATENT_ACTION => "the latent action before quantisation; policies are cloned from it",
        LATENT_CODE => {
            "the codebook entries of the quantised latent action, one per codebook and position"
        }
        FDM_ERROR => concat!(
            "the FDM's error on the transition, a sign of the label's quality; ",
            "null if it was not computed"
        ),
        MOTION => "the mean absolute change of a pixel from o[t] to o[t+1], from 0 to 1",
        TRUE_ACTION => "the true action; null if unknown",
        HORIZON => "the frames from o[t] to the frame that the latent action leads to",
        SHARD => "the BLAKE3 digest of the shard file that holds the frames",
        ROW => "the row of o[t] in that shard",
        _ => "",
    }
}

/// Returns the metadata of every shard.
pub(super) fn format_metadata() -> HashMap<String, String> {
    HashMap::from([(FORMAT_KEY.to_owned(), super::FORMAT.to_string())])
}

/// Returns the metadata key for the length of a column's lists in a Parquet file.
#[must_use]
pub fn list_size_key(column: &str) -> String {
    format!("lapo.list_size.{column}")
}

/// Returns the field of a plain list's elements, with the name from the Parquet format.
pub(super) fn element(data_type: DataType) -> Field {
    Field::new("element", data_type, false)
}

/// Returns the field of a fixed-size list's items.
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
    fn the_frame_size_is_read_back_from_the_schema() {
        let size = FrameSize { height: 48, width: 64 };
        assert_eq!(frame_size(&shard(size)), Some(size));
        assert_eq!(frame_size(&labels()), None);
    }

    /// Delta Lake, polars' `scan_delta` and Spark refuse unsigned integers, fixed-size lists and
    /// dictionaries.
    #[test]
    fn labels_have_only_types_supported_by_every_reader() {
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
