//! Writes label files: Parquet, one row per transition. Start at [`LabelWriter::create`].
//!
//! The columns are listed in [`super::schema::labels`]. The file's metadata states the model,
//! versions and the lengths of the lists. Row groups have about 10 MiB; polars, DuckDB, pyarrow and
//! Spark read them. The same labels give the same bytes.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow::datatypes::{Int32Type, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::schema::types::ColumnPath;

use super::error::{Error, Result};
use super::new_file::{FileInfo, NewFile};
use super::schema::{self, LabelShape};
use super::store::Store;
use super::table::{list_array, parquet_error, parquet_writer, properties};

/// Labels of one shard, column by column. Every column has one value per transition.
#[derive(Debug, Clone, Copy)]
pub struct LabelRows<'a> {
    /// The path or address of the video.
    pub video: &'a [&'a str],
    /// The BLAKE3 digest of the video's bytes.
    pub video_digest: &'a [&'a str],
    /// The episode's number within the video.
    pub episode: &'a [u32],
    /// The frame number of `o[t]` within the video.
    pub frame_index: &'a [u32],
    /// The time of `o[t]` within the video, in seconds.
    pub time_s: &'a [f64],
    /// The number of frames from `o[t]` to the frame that the latent action leads to.
    pub horizon: &'a [u32],
    /// `[rows, latent_dim]`: the latent actions before quantisation.
    pub latent_action: &'a [f32],
    /// `[rows, codes]`: the codebook entries.
    pub latent_code: &'a [u16],
    /// The FDM's error on the transition, if it was computed.
    pub fdm_error: Option<&'a [f32]>,
    /// The mean absolute change of a pixel, from 0 to 1.
    pub motion: &'a [f32],
    /// The true action, if known.
    pub true_action: &'a [Option<i32>],
    /// The BLAKE3 digest of the shard file that holds the frames.
    pub shard: &'a str,
    /// The row of `o[t]` in that shard.
    pub row: &'a [u32],
}

/// A writer of one label file. If it is dropped before [`LabelWriter::finish`], no file remains.
pub struct LabelWriter {
    writer: ArrowWriter<NewFile>,
    schema: SchemaRef,
    shape: LabelShape,
    path: String,
    rows: u64,
}

impl LabelWriter {
    /// Starts the file `path`. `metadata` describes the labels' origin: the model's digest,
    /// versions, settings.
    pub fn create(
        store: &Store,
        path: &str,
        shape: LabelShape,
        metadata: &[(&str, &str)],
    ) -> Result<Self> {
        let schema = Arc::new(schema::labels_in_memory());
        let sizes = [(schema::LATENT_ACTION, shape.latent_dim), (schema::LATENT_CODE, shape.codes)];
        let sizes = sizes
            .map(|(column, size)| KeyValue::new(schema::list_size_key(column), size.to_string()));
        let entries = metadata
            .iter()
            .map(|(key, value)| KeyValue::new((*key).to_owned(), (*value).to_owned()));
        // A code takes at most two bytes, because the file stores it as an index into a dictionary.
        let row_bytes = shape.latent_dim * 4 + shape.codes * 2 + 52;
        let mut properties = properties(row_bytes, sizes.into_iter().chain(entries));
        // These values hardly ever repeat, so a dictionary would only add bytes.
        for column in [
            vec![schema::LATENT_ACTION, "list", "element"],
            vec![schema::FDM_ERROR],
            vec![schema::MOTION],
        ] {
            let column = ColumnPath::new(column.into_iter().map(str::to_owned).collect());
            properties = properties.set_column_dictionary_enabled(column, false);
        }
        let writer = parquet_writer(store, path, schema.clone(), properties.build())?;
        Ok(Self { writer, schema, shape, path: path.to_owned(), rows: 0 })
    }

    /// Adds labels.
    ///
    /// # Errors
    /// Fails if a column has another length than `row`, and if the file cannot be written.
    pub fn push(&mut self, labels: &LabelRows<'_>) -> Result<()> {
        let rows = labels.row.len();
        self.check_lengths(labels, rows)?;
        let encode = |cause: ArrowError| Error::Encode {
            path: self.path.clone(),
            reason: cause.to_string(),
        };
        let episode = labels
            .episode
            .iter()
            .map(|episode| i32::try_from(*episode).map_err(|_| *episode))
            .collect::<Result<Vec<i32>, u32>>();
        let episode = episode.map_err(|episode| Error::Encode {
            path: self.path.clone(),
            reason: format!("column `episode` holds {episode}, expected at most {}", i32::MAX),
        })?;
        let columns = columns(labels, self.shape, episode).map_err(encode)?;
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(encode)?;
        self.writer.write(&batch).map_err(parquet_error(&self.path))?;
        self.rows += rows as u64;
        Ok(())
    }

    /// Writes the remaining rows and syncs the file to disk.
    pub fn finish(self) -> Result<FileInfo> {
        let file = self.writer.into_inner().map_err(parquet_error(&self.path))?;
        file.finish(self.rows)
    }

    fn check_lengths(&self, labels: &LabelRows<'_>, rows: usize) -> Result<()> {
        // Column, its length, and its values per row.
        let lengths = [
            (schema::VIDEO, labels.video.len(), 1),
            (schema::VIDEO_DIGEST, labels.video_digest.len(), 1),
            (schema::EPISODE, labels.episode.len(), 1),
            (schema::FRAME_INDEX, labels.frame_index.len(), 1),
            (schema::TIME_S, labels.time_s.len(), 1),
            (schema::HORIZON, labels.horizon.len(), 1),
            (schema::LATENT_ACTION, labels.latent_action.len(), self.shape.latent_dim),
            (schema::LATENT_CODE, labels.latent_code.len(), self.shape.codes),
            (schema::FDM_ERROR, labels.fdm_error.map_or(rows, <[f32]>::len), 1),
            (schema::MOTION, labels.motion.len(), 1),
            (schema::TRUE_ACTION, labels.true_action.len(), 1),
        ];
        match lengths.iter().find(|(_, found, each)| *found != rows * each) {
            None => Ok(()),
            Some((column, found, each)) => Err(Error::WrongShape {
                path: self.path.clone(),
                what: format!("the length of `{column}`"),
                found: *found as u64,
                expected: (rows * each) as u64,
            }),
        }
    }
}

/// Encodes the columns in the order of [`schema::labels_in_memory`].
fn columns(
    labels: &LabelRows<'_>,
    shape: LabelShape,
    episode: Vec<i32>,
) -> Result<Vec<ArrayRef>, ArrowError> {
    let names = |names: &[&str]| -> DictionaryArray<Int32Type> { names.iter().copied().collect() };
    let shard = Arc::new(StringArray::from_iter_values([labels.shard]));
    let action = Arc::new(Float32Array::from(labels.latent_action.to_vec()));
    let code = Arc::new(Int32Array::from_iter_values(
        labels.latent_code.iter().map(|code| i32::from(*code)),
    ));
    Ok(vec![
        Arc::new(names(labels.video)),
        Arc::new(names(labels.video_digest)),
        Arc::new(Int32Array::from(episode)),
        int64(labels.frame_index),
        Arc::new(Float64Array::from(labels.time_s.to_vec())),
        Arc::new(Int32Array::from_iter_values(labels.horizon.iter().map(|frames| *frames as i32))),
        Arc::new(list_array(action, shape.latent_dim)?),
        Arc::new(list_array(code, shape.codes)?),
        Arc::new(labels.fdm_error.map_or_else(
            || Float32Array::new_null(labels.row.len()),
            |error| error.to_vec().into(),
        )),
        Arc::new(Float32Array::from(labels.motion.to_vec())),
        Arc::new(Int32Array::from(labels.true_action.to_vec())),
        // All rows are of one shard: a dictionary with one entry, repeated.
        Arc::new(DictionaryArray::<Int32Type>::try_new(
            Int32Array::from(vec![0; labels.row.len()]),
            shard,
        )?),
        int64(labels.row),
    ])
}

fn int64(values: &[u32]) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values.iter().map(|value| i64::from(*value))))
}
