//! Joined tables: the small Parquet files of many tasks as one large file, for those who read a whole version.
//!
//! In: the tables of tasks. Out: [`Joined`], which a manifest lists. Start at [`join`]; which files are joined is decided by
//! [`commit`](super::commit()).
//!
//! A joined table repeats rows. The tasks' own files stay what receipts name and trainings read. Queries, `lapo files` and the Delta Lake
//! log read joined tables, since opening a file costs as much as reading ten thousand rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use parquet::file::metadata::KeyValue;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::manifest::{Manifest, sort_of};
use super::place::FileInfo;
use super::schema::FORMAT_KEY;
use super::store::Store;
use super::table::{parquet_error, parquet_writer, properties};
use super::table_reader::{OpenParquet, open_parquet};

/// The size at which a joined table is full, unless a stage says otherwise.
pub const DEFAULT_FILE_MIB: u64 = 128;

/// So many files are opened at once.
const AT_ONCE: usize = 64;

/// Tables of one sort, of many tasks, as one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joined {
    /// The file.
    pub file: FileInfo,
    /// The tasks whose rows it holds, as stretches of the dataset's order: the first task, and how many.
    pub tasks: Vec<(u32, u32)>,
    /// The bytes of the tasks' own tables. They decide whether the joined table is full: its own size is smaller, since it has one footer.
    pub parts_bytes: u64,
}

impl Joined {
    /// A joined table of the tasks at these places, which are ascending, whose own tables have so many bytes.
    pub(super) fn new(file: FileInfo, places: &[usize], parts_bytes: u64) -> Self {
        let mut tasks: Vec<(u32, u32)> = Vec::new();
        for place in places.iter().map(|place| *place as u32) {
            match tasks.last_mut() {
                Some((first, count)) if *first + *count == place => *count += 1,
                _ => tasks.push((place, 1)),
            }
        }
        Self { file, tasks, parts_bytes }
    }

    /// The places of its tasks in the dataset's order.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        self.tasks.iter().flat_map(|(first, count)| (*first as usize..).take(*count as usize))
    }

    /// The sort of its tables, such as `labels.parquet`.
    pub(super) fn sort(&self) -> Option<String> {
        sort_of(&self.file.path)
    }
}

/// Tells of each joined table of a version whether it is there at its full size.
pub(super) fn are_whole(store: &Store, stage: &str, version: &Manifest) -> Result<Vec<bool>> {
    if version.joined.is_empty() {
        return Ok(vec![]);
    }
    let sizes = store.sizes(&format!("{stage}/tables"))?;
    Ok(version
        .joined
        .iter()
        .map(|joined| sizes.get(&joined.file.path) == Some(&joined.file.bytes))
        .collect())
}

impl Manifest {
    /// Returns the paths of the joined tables of this version of `stage` that are missing or cut short.
    pub fn damaged_tables(&self, store: &Store, stage: &str) -> Result<Vec<String>> {
        let damaged = self
            .joined
            .iter()
            .zip(are_whole(store, stage, self)?)
            .filter(|(_, is_whole)| !is_whole);
        Ok(damaged.map(|(joined, _)| joined.file.path.clone()).collect())
    }
}

/// Joins tables into the new file `path`, in their order. `None` where they do not belong together: their columns differ, or one of them is
/// not what its receipt says. Then whoever reads that one finds out.
pub(super) fn join(store: &Store, path: &str, files: &[FileInfo]) -> Result<Option<FileInfo>> {
    match join_whole(store, path, files) {
        Err(Error::Corrupt { .. } | Error::Missing { .. } | Error::OtherFormat { .. }) => Ok(None),
        joined => joined,
    }
}

fn join_whole(store: &Store, path: &str, files: &[FileInfo]) -> Result<Option<FileInfo>> {
    let Some(first) = files.first() else { return Ok(None) };
    let first = open_parquet(store, &first.path)?;
    let schema = Arc::new(in_memory(first.schema()));
    let (fields, sizes) = (first.schema().fields().clone(), list_sizes(&first));
    let mut common = first.metadata.clone();
    let mut built = properties(first.row_bytes(), std::iter::empty());
    for column in first.columns_without_dictionary() {
        built = built.set_column_dictionary_enabled(column, false);
    }
    let mut writer = parquet_writer(store, path, schema.clone(), built.build())?;
    for some in files.chunks(AT_ONCE) {
        let opened = some
            .par_iter()
            .map(|file| open_parquet(store, &file.path))
            .collect::<Result<Vec<_>>>()?;
        for (file, parquet) in some.iter().zip(opened) {
            if *parquet.schema().fields() != fields || list_sizes(&parquet) != sizes {
                return Ok(None);
            }
            common.retain(|name, value| parquet.metadata.get(name) == Some(value));
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
    common.remove(FORMAT_KEY);
    common
        .into_iter()
        .for_each(|(name, value)| writer.append_key_value_metadata(KeyValue::new(name, value)));
    let rows = files.iter().map(|file| file.rows).sum();
    writer.into_inner().map_err(parquet_error(path))?.finish(rows).map(Some)
}

/// What a file's metadata states of the lengths of its lists.
fn list_sizes(parquet: &OpenParquet) -> BTreeMap<String, Option<usize>> {
    parquet
        .schema()
        .fields()
        .iter()
        .map(|field| (field.name().clone(), parquet.list_size(field.name())))
        .collect()
}

/// The same columns with text as dictionaries: names repeat, and are looked up once on their way.
fn in_memory(schema: &Schema) -> Schema {
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

    /// Labels of a video, `rows` of them, with a world model's error in every second file.
    fn labels(store: &Store, number: usize, rows: usize, shape: LabelShape) -> FileInfo {
        let (video, shard, path) = (
            format!("clip {number}"),
            format!("shard {number}"),
            format!("l/data/{number}/a/labels.parquet"),
        );
        let metadata = [("lapo.model", "the same"), ("lapo.shard", shard.as_str())];
        let mut writer = LabelWriter::create(store, &path, shape, &metadata).unwrap();
        let values = |each: usize| {
            (0..rows * each).map(|at| (number * 1000 + at) as f32).collect::<Vec<_>>()
        };
        let counts: Vec<u32> = (0..rows as u32).collect();
        let (latent_action, motion) = (values(shape.latent_dim), values(1));
        let pushed = LabelRows {
            video: &vec![video.as_str(); rows],
            episode: &counts,
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

    fn names_of<'l>(labels: &'l Labels, places: &[u32]) -> Vec<&'l str> {
        places.iter().map(|place| labels.names[*place as usize].as_str()).collect()
    }

    #[test]
    fn joined_labels_are_those_of_the_files_one_after_the_other() {
        let (_folder, store) = workspace();
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
    fn files_that_do_not_belong_together_or_are_damaged_are_not_joined_and_leave_nothing() {
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
    fn places_are_kept_as_stretches() {
        let file = FileInfo {
            path: "l/tables/1-a/labels.parquet".into(),
            bytes: 1,
            rows: 1,
            blake3: String::new(),
        };
        let joined = Joined::new(file, &[0, 1, 2, 5, 7, 8], 9);
        assert_eq!(joined.tasks, [(0, 3), (5, 1), (7, 2)]);
        assert_eq!(
            (joined.places().collect::<Vec<_>>(), joined.sort().as_deref()),
            (vec![0, 1, 2, 5, 7, 8], Some("labels.parquet"))
        );
    }
}
