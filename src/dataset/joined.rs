//! Joined tables: the small Parquet files of many tasks as one large file. Start at [`join`].
//!
//! [`commit`](super::commit()) decides which files to join, and lists the result as [`JoinedTable`] in
//! the manifest.
//!
//! A joined table repeats rows. Receipts still list the tasks' own files, and trainings read these.
//! Queries, `lapo files` and the Delta Lake log read joined tables, because opening a file costs as
//! much as reading ten thousand rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use parquet::file::metadata::KeyValue;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::paths::FileInfo;
use super::schema::{DEVICE_KEY, FORMAT_KEY};
use super::store::Store;
use super::table::{parquet_error, parquet_writer, properties, table_name};
use super::table_reader::{OpenParquet, open_parquet};

/// The default size of a full joined table, in MiB; see [`JoinedTable::parts_bytes`].
pub const DEFAULT_FILE_MIB: u64 = 128;

/// The number of files opened at once.
const AT_ONCE: usize = 64;
/// The number of threads that open files of an object store.
const REMOTE_THREADS: usize = 32;

/// One file with the tables of many tasks, all of one sort such as `labels.parquet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinedTable {
    /// The file.
    pub file: FileInfo,
    /// The joined tasks, as ranges of the dataset's order: the first task's index and the number of
    /// tasks.
    pub tasks: Vec<(u32, u32)>,
    /// The total size of the tasks' own tables in bytes. It decides whether the joined table is
    /// full. The joined file itself is smaller, because it has a single footer.
    pub parts_bytes: u64,
}

impl JoinedTable {
    /// Creates the entry of a joined table.
    ///
    /// `places` are the indices of its tasks in the dataset's order, ascending. `parts_bytes` is
    /// the total size of the tasks' own tables.
    pub(super) fn new(file: FileInfo, places: &[usize], parts_bytes: u64) -> Self {
        let mut tasks: Vec<(u32, u32)> = Vec::new();
        for index in places.iter().map(|index| *index as u32) {
            match tasks.last_mut() {
                // The task continues the last range.
                Some((first, count)) if *first + *count == index => *count += 1,
                _ => tasks.push((index, 1)),
            }
        }
        Self { file, tasks, parts_bytes }
    }

    /// Returns the indices of its tasks in the dataset's order.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        self.tasks.iter().flat_map(|(first, count)| (*first as usize..).take(*count as usize))
    }

    /// Returns the sort of its tables, such as `labels.parquet`.
    pub(super) fn sort(&self) -> Option<String> {
        table_name(&self.file.path)
    }
}

/// Joins tables into the new file `path`, in their order.
///
/// Returns `None` if their columns differ, or if a file does not match its receipt. Joining is an
/// optimisation, so a damaged file is reported by its own readers and not here.
pub(super) fn join(store: &Store, path: &str, files: &[FileInfo]) -> Result<Option<FileInfo>> {
    match try_join(store, path, files) {
        Err(Error::Corrupt { .. } | Error::Missing { .. } | Error::OtherFormat { .. }) => Ok(None),
        joined => joined,
    }
}

fn try_join(store: &Store, path: &str, files: &[FileInfo]) -> Result<Option<FileInfo>> {
    let Some(first) = files.first() else { return Ok(None) };
    let first = open_parquet(store, &first.path)?;
    let schema = Arc::new(with_text_dictionaries(first.schema()));
    let fields = first.schema().fields().clone();
    let sizes = list_sizes(&first);
    let mut common_metadata = first.metadata.clone();
    let mut devices = BTreeSet::new();
    let mut built = properties(first.row_bytes(), std::iter::empty());
    for column in first.columns_without_dictionary() {
        built = built.set_column_dictionary_enabled(column, false);
    }
    let mut writer = parquet_writer(store, path, schema.clone(), built.build())?;
    for chunk in files.chunks(AT_ONCE) {
        // Files are opened in parallel, and copied one after the other to keep their order.
        for (file, parquet) in chunk.iter().zip(open_all(store, chunk)?) {
            // Returning drops the writer, which removes the unfinished file.
            if *parquet.schema().fields() != fields || list_sizes(&parquet) != sizes {
                return Ok(None);
            }
            // A joined file keeps only the entries that all its parts share.
            common_metadata.retain(|name, value| parquet.metadata.get(name) == Some(value));
            devices
                .insert(parquet.metadata.get(DEVICE_KEY).map_or("cpu", String::as_str).to_owned());
            let mut rows = 0;
            for batch in parquet.batches(&file.path, Schema::clone(&schema))? {
                let batch = batch.map_err(|cause| Error::Corrupt {
                    path: file.path.clone(),
                    reason: cause.to_string(),
                })?;
                rows += batch.num_rows() as u64;
                writer.write(&batch).map_err(parquet_error(path))?;
            }
            if rows != file.rows {
                return Ok(None);
            }
        }
    }
    // `properties` states the format already.
    common_metadata.remove(FORMAT_KEY);
    // Without an entry, the whole file would seem to come from a CPU.
    if devices.len() > 1 {
        let devices: Vec<_> = devices.into_iter().collect();
        common_metadata.insert(DEVICE_KEY.to_owned(), devices.join(", "));
    }
    for (name, value) in common_metadata {
        writer.append_key_value_metadata(KeyValue::new(name, value));
    }
    let rows = files.iter().map(|file| file.rows).sum();
    writer.into_inner().map_err(parquet_error(path))?.finish(rows).map(Some)
}

/// Opens files in parallel: of a disk as many at once as there are cores, of an object store many
/// more, because each is a wait of some requests.
fn open_all(store: &Store, files: &[FileInfo]) -> Result<Vec<OpenParquet>> {
    let open = |file: &FileInfo| open_parquet(store, &file.path);
    if !store.is_remote() {
        return files.par_iter().map(open).collect();
    }
    let share = files.len().div_ceil(REMOTE_THREADS);
    std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().map(open).collect::<Vec<_>>()))
            .collect();
        let opened = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        opened.collect()
    })
}

/// Returns the list length of each column, as the file's metadata states it.
fn list_sizes(parquet: &OpenParquet) -> BTreeMap<String, Option<usize>> {
    parquet
        .schema()
        .fields()
        .iter()
        .map(|field| (field.name().clone(), parquet.list_size(field.name())))
        .collect()
}

/// Returns the schema with text columns as dictionaries: names repeat, and dictionaries copy
/// faster.
fn with_text_dictionaries(schema: &Schema) -> Schema {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8 => {
            let names = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            Arc::new(field.as_ref().clone().with_data_type(names))
        }
        _ => field.clone(),
    };
    Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::label_reader::{Labels, read_labels};
    use super::super::{Column, LabelRows, LabelShape, LabelWriter, write_table};
    use super::*;

    const SHAPE: LabelShape = LabelShape { latent_dim: 3, codes: 2 };

    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    /// Writes `rows` labels of one video. Files with an even number have the FDM's error.
    fn labels(store: &Store, number: usize, rows: usize, shape: LabelShape) -> FileInfo {
        labels_of(store, number, rows, shape, None)
    }

    fn labels_of(
        store: &Store,
        number: usize,
        rows: usize,
        shape: LabelShape,
        device: Option<&str>,
    ) -> FileInfo {
        let video = format!("clip {number}");
        let shard = format!("shard {number}");
        let path = format!("l/data/{number}/a/labels.parquet");
        let metadata = [("lapo.model", "the same"), ("lapo.shard", shard.as_str())];
        let metadata: Vec<_> =
            metadata.into_iter().chain(device.map(|device| (DEVICE_KEY, device))).collect();
        let mut writer = LabelWriter::create(store, &path, shape, &metadata).unwrap();
        let values = |each: usize| {
            (0..rows * each).map(|at| (number * 1000 + at) as f32).collect::<Vec<_>>()
        };
        let counts: Vec<u32> = (0..rows as u32).collect();
        let latent_action = values(shape.latent_dim);
        let motion = values(1);
        let pushed = LabelRows {
            video: &vec![video.as_str(); rows],
            video_digest: &vec![video.as_str(); rows],
            episode: &counts,
            horizon: &counts,
            frame_index: &counts,
            time_s: &counts.iter().map(|at| f64::from(*at) / 3.0).collect::<Vec<_>>(),
            latent_action: &latent_action,
            latent_code: &vec![number as u16; rows * shape.codes],
            fdm_error: number.is_multiple_of(2).then_some(&motion),
            motion: &motion,
            true_action: &counts
                .iter()
                .map(|at| (at % 2 == 0).then_some(*at as i32))
                .collect::<Vec<_>>(),
            shard: &shard,
            row: &counts,
        };
        writer.push(&pushed).unwrap();
        writer.finish().unwrap()
    }

    fn names_of<'l>(labels: &'l Labels, indices: &[u32]) -> Vec<&'l str> {
        indices.iter().map(|index| labels.names[*index as usize].as_str()).collect()
    }

    #[test]
    fn a_joined_file_lists_the_devices_of_its_files() {
        let (_folder, store) = workspace();
        let of = |number, device| labels_of(&store, number, 2, SHAPE, device);
        let device_of = |path: &str, files: &[FileInfo]| {
            let joined = join(&store, path, files).unwrap().unwrap();
            read_labels(&store, &joined.path).unwrap().metadata.get(DEVICE_KEY).cloned()
        };
        let cpu = of(0, None);
        let cuda = [1, 2].map(|number| of(number, Some("cuda")));
        assert_eq!(device_of("l/tables/1-a/labels.parquet", &cuda), Some("cuda".into()));
        assert_eq!(device_of("l/tables/1-b/labels.parquet", std::slice::from_ref(&cpu)), None);
        let [first, _] = cuda;
        assert_eq!(
            device_of("l/tables/1-c/labels.parquet", &[cpu, first]),
            Some("cpu, cuda".into())
        );
    }

    #[test]
    fn a_joined_file_holds_the_labels_of_all_files_in_order() {
        let (_folder, store) = workspace();
        // An empty file, and one of more rows than a batch.
        let files: Vec<FileInfo> = [3, 0, 9000, 1, 40]
            .into_iter()
            .enumerate()
            .map(|(at, rows)| labels(&store, at, rows, SHAPE))
            .collect();
        let joined = join(&store, "l/tables/1-a/labels.parquet", &files).unwrap().unwrap();
        store.verify(&joined).unwrap();
        assert_eq!(joined.rows, 9044);
        let found = read_labels(&store, &joined.path).unwrap();
        assert_eq!(
            (found.shape, found.metadata["lapo.model"].as_str(), found.metadata.get("lapo.shard")),
            (SHAPE, "the same", None)
        );
        let mut at = 0;
        for part in files.iter().map(|file| read_labels(&store, &file.path).unwrap()) {
            let rows = at..at + part.len();
            assert_eq!(names_of(&found, &found.video[rows.clone()]), names_of(&part, &part.video));
            assert_eq!(names_of(&found, &found.shard[rows.clone()]), names_of(&part, &part.shard));
            assert_eq!(found.latent_action[rows.start * 3..rows.end * 3], part.latent_action);
            assert_eq!(found.latent_code[rows.start * 2..rows.end * 2], part.latent_code);
            assert_eq!(
                (&found.fdm_error[rows.clone()], &found.true_action[rows.clone()]),
                (&part.fdm_error[..], &part.true_action[..])
            );
            assert_eq!(
                (&found.time_s[rows.clone()], &found.row[rows.clone()]),
                (&part.time_s[..], &part.row[..])
            );
            at = rows.end;
        }
        let schema = |path: &str| open_parquet(&store, path).unwrap().parquet_schema();
        assert_eq!(
            schema(&joined.path),
            schema(&files[0].path),
            "other programs see the same columns"
        );
    }

    #[test]
    fn different_or_damaged_files_are_not_joined_and_no_file_remains() {
        let (folder, store) = workspace();
        let good = labels(&store, 0, 5, SHAPE);
        let other_lists = labels(&store, 1, 5, LabelShape { latent_dim: 4, codes: 2 });
        let other_columns =
            write_table(&store, "l/data/2/a/labels.parquet", &[("x", Column::I64(vec![1]))])
                .unwrap();
        let other_rows = FileInfo { rows: 6, ..labels(&store, 3, 5, SHAPE) };
        let missing = FileInfo { path: "l/data/4/a/labels.parquet".into(), ..good.clone() };
        let damaged = labels(&store, 5, 5, SHAPE);
        std::fs::write(folder.path().join(&damaged.path), "PAR1").unwrap();
        // The faulty file may come first or second.
        for bad in [other_lists, other_columns, other_rows, missing, damaged] {
            for files in [[good.clone(), bad.clone()], [bad.clone(), good.clone()]] {
                assert_eq!(
                    join(&store, "l/tables/1-a/labels.parquet", &files).unwrap(),
                    None,
                    "{bad:?}"
                );
                assert_eq!(store.list("l/tables").unwrap(), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn consecutive_tasks_are_stored_as_ranges() {
        let file = FileInfo {
            path: "l/tables/1-a/labels.parquet".into(),
            bytes: 1,
            rows: 1,
            blake3: String::new(),
        };
        let joined = JoinedTable::new(file, &[0, 1, 2, 5, 7, 8], 9);
        assert_eq!(joined.tasks, [(0, 3), (5, 1), (7, 2)]);
        assert_eq!(
            (joined.places().collect::<Vec<_>>(), joined.sort().as_deref()),
            (vec![0, 1, 2, 5, 7, 8], Some("labels.parquet"))
        );
    }
}
