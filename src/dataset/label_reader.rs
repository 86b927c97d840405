//! Reads label files into plain vectors, column by column. Start at [`read_labels`].

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type};

use super::error::{Error, Result};
use super::paths::FileInfo;
use super::schema::{self, LabelShape};
use super::split::{Split, VideoFrames, VideoRank};
use super::store::Store;
use super::table_reader::{elements, open_parquet, read_columns};

/// The labels of one file. Every column has one value per transition.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// The lengths of the latent action and the latent code.
    pub shape: LabelShape,
    /// The metadata passed to [`super::LabelWriter::create`]: the model's digest, versions,
    /// settings.
    pub metadata: BTreeMap<String, String>,
    /// Names and digests; `video`, `video_digest` and `shard` hold indices into it.
    pub names: Vec<String>,
    /// The video's index in `names`.
    pub video: Vec<u32>,
    /// The index in `names` of the BLAKE3 digest of the video's bytes.
    pub video_digest: Vec<u32>,
    /// The episode's number within the video.
    pub episode: Vec<u32>,
    /// The frame number of `o[t]` within the video.
    pub frame_index: Vec<u32>,
    /// The time of `o[t]` within the video, in seconds.
    pub time_s: Vec<f64>,
    /// The number of frames from `o[t]` to the frame that the latent action leads to.
    pub horizon: Vec<u32>,
    /// `[rows, latent_dim]`: the latent actions before quantisation.
    pub latent_action: Vec<f32>,
    /// `[rows, codes]`: the codebook entries.
    pub latent_code: Vec<u16>,
    /// The FDM's error on the transition, if it was computed.
    pub fdm_error: Vec<Option<f32>>,
    /// The mean absolute change of a pixel, from 0 to 1.
    pub motion: Vec<f32>,
    /// The true action, if known.
    pub true_action: Vec<Option<i32>>,
    /// The index in `names` of the digest of the shard that holds the frames.
    pub shard: Vec<u32>,
    /// The row of `o[t]` in that shard.
    pub row: Vec<u32>,
}

/// Reads a whole label file into memory.
///
/// # Errors
/// Fails if the file is missing or damaged, has another format, has other columns than labels, or
/// has lists of another length than its metadata states.
pub fn read_labels(store: &Store, path: &str) -> Result<Labels> {
    let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), reason };
    let mut parquet = open_parquet(store, path)?;
    if parquet.schema().fields() != schema::labels().fields() {
        return Err(corrupt("its columns are not those of labels".into()));
    }
    let list_size = |column| {
        let missing =
            || corrupt(format!("its metadata does not state `{}`", schema::list_size_key(column)));
        parquet.list_size(column).ok_or_else(missing)
    };
    let shape = LabelShape {
        latent_dim: list_size(schema::LATENT_ACTION)?,
        codes: list_size(schema::LATENT_CODE)?,
    };
    let mut labels = Labels::empty(shape, std::mem::take(&mut parquet.metadata));
    let mut name_indices = BTreeMap::new();
    // Names are read as dictionaries, so that each is looked up once and not once per row.
    for batch in parquet.batches(path, schema::labels_in_memory())? {
        let batch = batch.map_err(|cause| corrupt(cause.to_string()))?;
        labels.extend(&batch, &mut name_indices).map_err(corrupt)?;
    }
    Ok(labels)
}

/// Splits the videos of label files: one in `holdout` is held out. Reads two columns.
///
/// # Errors
/// Fails like [`read_labels`].
pub fn split_labels(store: &Store, files: &[FileInfo], holdout: usize) -> Result<Split> {
    let mut videos = Vec::new();
    // Without held-out videos no file is read.
    for file in files.iter().filter(|_| holdout > 0) {
        let table = read_columns(store, &file.path, &[schema::VIDEO_DIGEST, schema::FRAME_INDEX])?;
        let columns = table.text(schema::VIDEO_DIGEST).zip(table.counts(schema::FRAME_INDEX));
        let (digests, frames) = columns.ok_or_else(|| Error::Corrupt {
            path: file.path.clone(),
            reason: "its columns are not those of labels".into(),
        })?;
        let mut first = 0;
        // Transitions of a video follow each other.
        for run in digests.chunk_by(|a, b| a == b) {
            let frames = &frames[first..first + run.len()];
            first += run.len();
            let ends = [frames.iter().min(), frames.iter().max()];
            let frames = ends.map(|end| end.map_or(0, |end| *end as u32));
            videos.push(VideoFrames { rank: VideoRank::of(&run[0]), frames });
        }
    }
    Ok(Split::new(holdout, videos))
}

impl Labels {
    /// Returns the number of labelled transitions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Returns whether no transition is labelled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    fn empty(shape: LabelShape, metadata: BTreeMap<String, String>) -> Self {
        Self {
            shape,
            metadata,
            names: vec![],
            video: vec![],
            video_digest: vec![],
            episode: vec![],
            frame_index: vec![],
            time_s: vec![],
            horizon: vec![],
            latent_action: vec![],
            latent_code: vec![],
            fdm_error: vec![],
            motion: vec![],
            true_action: vec![],
            shard: vec![],
            row: vec![],
        }
    }

    /// Adds a batch with a checked schema. `name_indices` maps each name to its index in `names`.
    ///
    /// # Errors
    /// Names the first column with an invalid value.
    fn extend(
        &mut self,
        batch: &RecordBatch,
        name_indices: &mut BTreeMap<String, u32>,
    ) -> Result<(), String> {
        let column = |name| batch.column_by_name(name).expect("the schema was checked");
        let lists = |name, size| {
            elements(column(name), size).map_err(|reason| format!("column `{name}` {reason}"))
        };
        add_names(column(schema::VIDEO), &mut self.names, name_indices, &mut self.video);
        add_names(
            column(schema::VIDEO_DIGEST),
            &mut self.names,
            name_indices,
            &mut self.video_digest,
        );
        add_counts::<Int32Type, u32>(schema::EPISODE, column(schema::EPISODE), &mut self.episode)?;
        add_counts::<Int64Type, u32>(
            schema::FRAME_INDEX,
            column(schema::FRAME_INDEX),
            &mut self.frame_index,
        )?;
        add::<Float64Type>(column(schema::TIME_S), &mut self.time_s);
        add_counts::<Int32Type, u32>(schema::HORIZON, column(schema::HORIZON), &mut self.horizon)?;
        add::<Float32Type>(
            &lists(schema::LATENT_ACTION, self.shape.latent_dim)?,
            &mut self.latent_action,
        );
        add_counts::<Int32Type, u16>(
            schema::LATENT_CODE,
            &lists(schema::LATENT_CODE, self.shape.codes)?,
            &mut self.latent_code,
        )?;
        self.fdm_error.extend(column(schema::FDM_ERROR).as_primitive::<Float32Type>().iter());
        add::<Float32Type>(column(schema::MOTION), &mut self.motion);
        self.true_action.extend(column(schema::TRUE_ACTION).as_primitive::<Int32Type>().iter());
        add_names(column(schema::SHARD), &mut self.names, name_indices, &mut self.shard);
        add_counts::<Int64Type, u32>(schema::ROW, column(schema::ROW), &mut self.row)
    }
}

fn add<T: ArrowPrimitiveType>(column: &ArrayRef, to: &mut Vec<T::Native>) {
    to.extend_from_slice(column.as_primitive::<T>().values());
}

/// Adds whole numbers. The file stores them signed, because the Delta Lake protocol has no unsigned
/// types.
fn add_counts<T: ArrowPrimitiveType, U: TryFrom<T::Native>>(
    name: &str,
    column: &ArrayRef,
    to: &mut Vec<U>,
) -> Result<(), String> {
    to.reserve(column.len());
    for value in column.as_primitive::<T>().values() {
        to.push(
            U::try_from(*value)
                .map_err(|_| format!("column `{name}` holds {value:?}, which is out of range"))?,
        );
    }
    Ok(())
}

fn add_names(
    column: &ArrayRef,
    names: &mut Vec<String>,
    name_indices: &mut BTreeMap<String, u32>,
    to: &mut Vec<u32>,
) {
    let column = column.as_dictionary::<Int32Type>();
    let values = column.values().as_string::<i32>();
    let mut index_of = |name: &str| {
        *name_indices.entry(name.to_owned()).or_insert_with(|| {
            names.push(name.to_owned());
            u32::try_from(names.len() - 1).expect("fewer names than rows")
        })
    };
    // Each batch has a dictionary of its own: its keys are translated to indices in `names`.
    let indices: Vec<u32> = values.iter().map(|name| index_of(name.unwrap_or_default())).collect();
    to.extend(column.keys().values().iter().map(|&key| indices[key as usize]));
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::{Column, LabelRows, LabelWriter, write_table};
    use super::*;

    const SHAPE: LabelShape = LabelShape { latent_dim: 128, codes: 8 };
    const PATH: &str = "labels/data/key/attempt/labels.parquet";
    const ROWS: usize = 20_000;

    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    /// Writes labels of two shards, more than fit into one row group.
    fn write(store: &Store) -> (FileInfo, Vec<f32>) {
        let mut writer =
            LabelWriter::create(store, PATH, SHAPE, &[("lapo.model", "digest")]).unwrap();
        let action: Vec<f32> = (0..ROWS * 128).map(|i| (i as f32 * 0.37).sin()).collect();
        let code: Vec<u16> = (0..ROWS * 8).map(|i| (i % 64) as u16).collect();
        let counts: Vec<u32> = (0..ROWS as u32).collect();
        let times: Vec<f64> = (0..ROWS).map(|i| i as f64 / 15.0).collect();
        let errors = vec![0.25; ROWS];
        let video: Vec<&str> =
            (0..ROWS).map(|i| if i < 9000 { "a.mp4" } else { "b.mp4" }).collect();
        let true_action: Vec<Option<i32>> =
            (0..ROWS as i32).map(|i| (i % 2 == 0).then_some(i % 15)).collect();
        for (shard, rows) in [("frames/one", 0..9000), ("frames/two", 9000..ROWS)] {
            let labels = LabelRows {
                video: &video[rows.clone()],
                video_digest: &video[rows.clone()],
                episode: &counts[rows.clone()],
                frame_index: &counts[rows.clone()],
                time_s: &times[rows.clone()],
                horizon: &counts[rows.clone()],
                latent_action: &action[rows.start * 128..rows.end * 128],
                latent_code: &code[rows.start * 8..rows.end * 8],
                fdm_error: (shard == "frames/one").then_some(&errors[rows.clone()]),
                motion: &errors[rows.clone()],
                true_action: &true_action[rows.clone()],
                shard,
                row: &counts[rows],
            };
            writer.push(&labels).unwrap();
        }
        (writer.finish().unwrap(), action)
    }

    #[test]
    fn labels_read_back_equal_what_was_written() {
        let (_folder, store) = workspace();
        let (info, action) = write(&store);
        let labels = read_labels(&store, PATH).unwrap();
        // Rows 8999 and 9000 are the last of the first shard and the first of the second.
        assert_eq!((labels.len(), info.rows, labels.shape), (ROWS, ROWS as u64, SHAPE));
        assert_eq!(labels.metadata["lapo.model"], "digest");
        assert!(labels.latent_action == action);
        assert_eq!(labels.latent_code[8 * 777..8 * 778], [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!((labels.fdm_error[8999], labels.fdm_error[9000]), (Some(0.25), None));
        assert_eq!((labels.true_action[14], labels.true_action[15]), (Some(14), None));
        let name = |index: u32| &labels.names[index as usize][..];
        assert_eq!(labels.video_digest, labels.video);
        assert_eq!(labels.horizon, labels.row);
        assert_eq!((name(labels.video[8999]), name(labels.shard[8999])), ("a.mp4", "frames/one"));
        assert_eq!((name(labels.video[9000]), name(labels.shard[9000])), ("b.mp4", "frames/two"));
        assert_eq!(labels.row[ROWS - 1], ROWS as u32 - 1);
    }

    #[test]
    fn row_groups_stay_near_ten_mebibytes() {
        let (_folder, store) = workspace();
        write(&store);
        let builder = ParquetRecordBatchReaderBuilder::try_new(store.map(PATH).unwrap()).unwrap();
        let sizes: Vec<i64> =
            builder.metadata().row_groups().iter().map(|group| group.total_byte_size()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes[0] > 8 << 20 && sizes[0] < 12 << 20, "{sizes:?}");
    }

    #[test]
    fn the_same_labels_give_the_same_bytes() {
        let digests = [(); 3].map(|()| {
            let (_folder, store) = workspace();
            write(&store).0.blake3
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    }

    #[test]
    fn files_state_their_list_sizes_and_no_arrow_schema() {
        let (_folder, store) = workspace();
        write(&store);
        let metadata = open_parquet(&store, PATH).unwrap().metadata;
        let keys: Vec<&str> = metadata.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "lapo.format",
                "lapo.list_size.latent_action",
                "lapo.list_size.latent_code",
                "lapo.model"
            ]
        );
        assert_eq!(
            (
                &metadata["lapo.list_size.latent_action"][..],
                &metadata["lapo.list_size.latent_code"][..]
            ),
            ("128", "8")
        );
    }

    #[test]
    fn a_table_without_label_columns_is_refused() {
        let (_folder, store) = workspace();
        write_table(&store, PATH, &[("step", Column::U64(vec![1]))]).unwrap();
        let error = read_labels(&store, PATH).unwrap_err();
        assert!(error.to_string().contains("its columns are not those of labels"), "{error}");
    }

    #[test]
    fn errors_name_the_column_of_another_length() {
        let (_folder, store) = workspace();
        let mut writer = LabelWriter::create(&store, PATH, SHAPE, &[]).unwrap();
        // The latent action is one value too short.
        let labels = LabelRows {
            video: &["a"],
            video_digest: &["d"],
            episode: &[0],
            frame_index: &[0],
            time_s: &[0.0],
            horizon: &[1],
            latent_action: &[0.0; 127],
            latent_code: &[0; 8],
            fdm_error: None,
            motion: &[0.0],
            true_action: &[None],
            shard: "s",
            row: &[0],
        };
        let error = writer.push(&labels).unwrap_err();
        assert!(error.to_string().contains("`latent_action` is 127, expected 128"), "{error}");
        store.create("labels/bad.parquet", b"PAR1 not really PAR1").unwrap();
        assert!(matches!(read_labels(&store, "labels/bad.parquet"), Err(Error::Corrupt { .. })));
    }
}
