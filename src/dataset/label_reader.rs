//! Labels come back from disk, column by column: what a policy is cloned from.
//!
//! In: a label file's path. Out: [`Labels`], plain vectors. Start at [`read_labels`].

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type};

use super::error::{Error, Result};
use super::schema::{self, LabelShape};
use super::store::Store;
use super::table_reader::{elements, open_parquet};

/// The labels of one file; every column has a value per transition.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// The sizes of a label.
    pub shape: LabelShape,
    /// What made the labels, as [`super::LabelWriter::create`] was told.
    pub metadata: BTreeMap<String, String>,
    /// The names `video` and `shard` point into.
    pub names: Vec<String>,
    /// The video's place in `names`.
    pub video: Vec<u32>,
    /// The episode within the video.
    pub episode: Vec<u32>,
    /// The frame number of `o[t]` within the video.
    pub frame_index: Vec<u32>,
    /// The time of `o[t]` within the video, in seconds.
    pub time_s: Vec<f64>,
    /// `[rows, latent_dim]`: before quantisation.
    pub latent_action: Vec<f32>,
    /// `[rows, codes]`: the codebook entries.
    pub latent_code: Vec<u16>,
    /// The world model's error on the transition, where it was computed.
    pub fdm_error: Vec<Option<f32>>,
    /// The mean absolute change of a pixel, from 0 to 1.
    pub motion: Vec<f32>,
    /// The true action, where known.
    pub true_action: Vec<Option<i32>>,
    /// The place in `names` of the shard the frames lie in.
    pub shard: Vec<u32>,
    /// The row of `o[t]` in that shard.
    pub row: Vec<u32>,
}

/// Reads a whole file of labels into memory.
///
/// # Errors
/// Says whether the file is missing, has another format, is damaged, or holds other columns or lists than its metadata states.
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
    let mut places = BTreeMap::new();
    // Names stay dictionaries on the way: they are looked up once, not once a row.
    for batch in parquet.batches(path, schema::labels_in_memory())? {
        let batch = batch.map_err(|cause| corrupt(cause.to_string()))?;
        labels.extend(&batch, &mut places).map_err(corrupt)?;
    }
    Ok(labels)
}

impl Labels {
    /// How many transitions are labelled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether no transition is labelled.
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
            episode: vec![],
            frame_index: vec![],
            time_s: vec![],
            latent_action: vec![],
            latent_code: vec![],
            fdm_error: vec![],
            motion: vec![],
            true_action: vec![],
            shard: vec![],
            row: vec![],
        }
    }

    /// Adds a batch whose schema was checked, or says which value is none of a label; `places` remembers where each name is.
    fn extend(
        &mut self,
        batch: &RecordBatch,
        places: &mut BTreeMap<String, u32>,
    ) -> Result<(), String> {
        let column = |name| batch.column_by_name(name).expect("the schema was checked");
        let lists = |name, size| {
            elements(column(name), size).map_err(|reason| format!("column `{name}` {reason}"))
        };
        add_names(column(schema::VIDEO), &mut self.names, places, &mut self.video);
        add_counts::<Int32Type, u32>(schema::EPISODE, column(schema::EPISODE), &mut self.episode)?;
        add_counts::<Int64Type, u32>(
            schema::FRAME_INDEX,
            column(schema::FRAME_INDEX),
            &mut self.frame_index,
        )?;
        add::<Float64Type>(column(schema::TIME_S), &mut self.time_s);
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
        add_names(column(schema::SHARD), &mut self.names, places, &mut self.shard);
        add_counts::<Int64Type, u32>(schema::ROW, column(schema::ROW), &mut self.row)
    }
}

fn add<T: ArrowPrimitiveType>(column: &ArrayRef, to: &mut Vec<T::Native>) {
    to.extend_from_slice(column.as_primitive::<T>().values());
}

/// Adds whole numbers, which the file holds signed, or names one that is out of range.
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
    places: &mut BTreeMap<String, u32>,
    to: &mut Vec<u32>,
) {
    let column = column.as_dictionary::<Int32Type>();
    let values = column.values().as_string::<i32>();
    let mut place_of = |name: &str| {
        *places.entry(name.to_owned()).or_insert_with(|| {
            names.push(name.to_owned());
            u32::try_from(names.len() - 1).expect("fewer names than rows")
        })
    };
    let place: Vec<u32> = values.iter().map(|name| place_of(name.unwrap_or_default())).collect();
    to.extend(column.keys().values().iter().map(|&key| place[key as usize]));
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::{Column, FileInfo, LabelRows, LabelWriter, write_table};
    use super::*;

    const SHAPE: LabelShape = LabelShape { latent_dim: 128, codes: 8 };
    const PATH: &str = "labels/data/key/attempt/labels.parquet";
    const ROWS: usize = 20_000;

    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    /// Two shards' labels, more than a row group of them.
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
                episode: &counts[rows.clone()],
                frame_index: &counts[rows.clone()],
                time_s: &times[rows.clone()],
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
    fn labels_come_back_as_they_were() {
        let (_folder, store) = workspace();
        let (info, action) = write(&store);
        let labels = read_labels(&store, PATH).unwrap();
        assert_eq!((labels.len(), info.rows, labels.shape), (ROWS, ROWS as u64, SHAPE));
        assert_eq!(labels.metadata["lapo.model"], "digest");
        assert!(labels.latent_action == action);
        assert_eq!(labels.latent_code[8 * 777..8 * 778], [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!((labels.fdm_error[8999], labels.fdm_error[9000]), (Some(0.25), None));
        assert_eq!((labels.true_action[14], labels.true_action[15]), (Some(14), None));
        let name = |place: u32| &labels.names[place as usize][..];
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
    fn the_same_labels_are_the_same_bytes() {
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
    fn a_table_that_holds_no_labels_is_refused() {
        let (_folder, store) = workspace();
        write_table(&store, PATH, &[("step", Column::U64(vec![1]))]).unwrap();
        let error = read_labels(&store, PATH).unwrap_err();
        assert!(error.to_string().contains("its columns are not those of labels"), "{error}");
    }

    #[test]
    fn columns_that_do_not_fit_are_refused_by_name() {
        let (_folder, store) = workspace();
        let mut writer = LabelWriter::create(&store, PATH, SHAPE, &[]).unwrap();
        let labels = LabelRows {
            video: &["a"],
            episode: &[0],
            frame_index: &[0],
            time_s: &[0.0],
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
