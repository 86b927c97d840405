//! SQL over the datasets of a workspace: every stage is a table.
//!
//! In: a workspace and a query. Out: [`Rows`], printed by [`write()`] as a table, CSV, JSON or Parquet. Start at
//! [`query`]; [`tables`] says what there is to ask, [`datasets`] what there is at all, [`inspect()`] what one stage has,
//! [`history()`] how it came to be.
//!
//! A stage's table is the stage's newest version: frames without their pixels where it made shards, else the
//! rows of its Parquet files. Besides, there are `videos`, with what lists say of them, `rejects`, those that could not be
//! read, and `frames` and `labels` where just one stage made such.

mod catalog;
mod history;
mod inspect;
mod print;

use polars::prelude::{DataFrame, IntoLazy, PolarsError};
use polars::sql::{SQLContext, extract_table_identifiers};

use crate::dataset::{self, Store};
use catalog::Catalog;
pub use catalog::{DatasetInfo, Table};
pub use history::{Changed, Diff, Version, diff, history};
pub use inspect::{Inspection, inspect};
pub use print::{Format, write};

/// What this room's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The rows that answer a query.
#[derive(Debug, Clone)]
pub struct Rows(DataFrame);

impl Rows {
    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.height()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns in order, each with its type.
    #[must_use]
    pub fn typed_columns(&self) -> Vec<String> {
        self.0.columns().iter().map(|column| format!("{} {}", column.name(), column.dtype())).collect()
    }

    /// The names of the columns, in order.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        self.0.columns().iter().map(|column| column.name().as_str()).collect()
    }
}

/// A query that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The workspace's files could not be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// There is nothing to ask.
    #[error("the workspace has no dataset yet")]
    EmptyWorkspace,
    /// No stage is called so.
    #[error("the workspace has no stage `{stage}`")]
    NoStage {
        /// The name.
        stage: String,
        /// The names there are.
        hint: String,
    },
    /// The stage has no such version.
    #[error("`{stage}` has no version {version}")]
    NoVersion {
        /// The stage.
        stage: String,
        /// The version that was asked for.
        version: u64,
        /// The versions there are.
        there: String,
    },
    /// A short name that several stages answer to.
    #[error("table `{name}` could be any of {}", list(stages))]
    Ambiguous {
        /// The short name.
        name: String,
        /// The stages it could mean.
        stages: Vec<String>,
    },
    /// The query names a table that is not there, or is no SQL we know.
    #[error("cannot run the query: {cause}")]
    Sql {
        /// What is wrong with it.
        cause: String,
        /// The first table it names that is not there.
        unknown: Option<String>,
        /// The tables there are.
        tables: Vec<String>,
    },
    /// The rows could not be put into a format.
    #[error("cannot write the rows as {format}: {cause}")]
    Format {
        /// The format.
        format: &'static str,
        /// What is in the way.
        cause: String,
    },
    /// The rows could not be written out, for example because the reader of a pipe has left.
    #[error("cannot write the rows: {0}")]
    Write(std::sync::Arc<std::io::Error>),
}

impl Error {
    /// The cure, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dataset(error) => error.hint(),
            Self::EmptyWorkspace => Some("run a pipeline in it first: `lapo run pipelines/<name>.yaml`".into()),
            Self::NoStage { hint, .. } => Some(hint.clone()),
            Self::NoVersion { there, .. } => Some(format!("versions here: {there}")),
            Self::Ambiguous { stages, .. } => Some(format!("name the stage: FROM {}", stages.first()?)),
            Self::Sql { unknown, tables, .. } => {
                let near = unknown.as_ref().and_then(|name| nearest(name, tables));
                let near = near.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
                Some(format!("{near}tables here: {}", list(tables)))
            }
            Self::Format { .. } | Self::Write(_) => None,
        }
    }

    /// Whether the same query may succeed later with nothing changed by hand.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Dataset(error) if error.is_transient())
    }
}

/// Answers an SQL query over the newest versions of a workspace's datasets.
pub fn query(store: &Store, sql: &str) -> Result<Rows> {
    let catalog = Catalog::read(store)?;
    let asked = extract_table_identifiers(sql, false, true).map_err(|cause| sql_error(&catalog, &[], &cause))?;
    if let Some((name, stages)) = catalog.ambiguous.iter().find(|(name, _)| asked.contains(name)) {
        return Err(Error::Ambiguous { name: name.clone(), stages: stages.clone() });
    }
    let mut context = SQLContext::new();
    for table in &catalog.tables {
        // A table nobody asks for is registered by name alone, so that `SHOW TABLES` knows it.
        let is_asked = asked.contains(&table.name);
        let rows = if is_asked { catalog.scan(store, table)? } else { DataFrame::default().lazy() };
        context.register(&table.name, rows);
    }
    let rows = context.execute(sql).and_then(|rows| rows.collect());
    rows.map(Rows).map_err(|cause| sql_error(&catalog, &asked, &cause))
}

/// The tables a query can name.
pub fn tables(store: &Store) -> Result<Vec<Table>> {
    Ok(Catalog::read(store)?.tables)
}

/// Every stage's newest version: how much it is, and of what.
pub fn datasets(store: &Store) -> Result<Vec<DatasetInfo>> {
    match Catalog::read(store) {
        Ok(catalog) => Ok(catalog.datasets()),
        Err(Error::EmptyWorkspace) => Ok(vec![]),
        Err(error) => Err(error),
    }
}

fn sql_error(catalog: &Catalog, asked: &[String], cause: &PolarsError) -> Error {
    let tables: Vec<String> = catalog.tables.iter().map(|table| table.name.clone()).collect();
    let unknown = asked.iter().find(|name| !tables.contains(name)).cloned();
    // The first line says what is wrong; the rest is the query plan.
    let cause = cause.to_string().lines().next().unwrap_or_default().to_owned();
    Error::Sql { cause, unknown, tables }
}

fn nearest<'a>(name: &str, tables: &'a [String]) -> Option<&'a String> {
    let by_distance = tables.iter().map(|table| (strsim::damerau_levenshtein(name, table), table));
    by_distance.filter(|(distance, _)| *distance <= 3).min_by_key(|(distance, _)| *distance).map(|(_, table)| table)
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::dataset::{
        Commit, Compression, FORMAT, FileInfo, FrameSize, LabelRows, LabelShape, LabelWriter, Receipt, Reject, ShardLayout, ShardWriter,
        VideoName, commit, extend, file_receipt, write_table,
    };

    /// Files a task's receipt and commits it.
    fn add(store: &Store, stage: &str, kind: &str, files: Vec<FileInfo>, rejects: Vec<Reject>) {
        let receipt = Receipt {
            format: FORMAT,
            key: "key".into(),
            stage: kind.into(),
            attempt: "a".into(),
            fields: serde_json::Map::new(),
            files,
            inputs: vec![],
            videos: vec![],
            rejects,
            stats: std::collections::BTreeMap::new(),
        };
        file_receipt(store, stage, &receipt).unwrap();
        let by = Commit { stage, run: "run", why: "a test", since: 0 };
        commit(store, by, |head| extend(head, &["key".to_owned()])).unwrap();
    }

    fn add_frames(store: &Store, stage: &str) {
        let videos = vec![VideoName { uri: "maze/a.mp4".into(), digest: "d".into() }];
        let layout = ShardLayout { size: FrameSize { height: 2, width: 2 }, compression: Compression::None, videos };
        let mut writer = ShardWriter::create(store, &format!("{stage}/data/key/a/shard.arrow"), &layout).unwrap();
        writer.begin_video(0).unwrap();
        for frame in 0..10 {
            writer.push(frame / 5, frame, f64::from(frame) / 2.0, &[0; 12]).unwrap();
        }
        let reject =
            Reject { video: "bad.mp4".into(), digest: "b".into(), class: "truncated".into(), reason: "ends early".into(), frames_kept: 3 };
        add(store, stage, "decode", vec![writer.finish().unwrap()], vec![reject]);
    }

    fn add_labels(store: &Store, stage: &str) {
        let shape = LabelShape { latent_dim: 4, codes: 2 };
        let path = format!("{stage}/data/key/a/labels.parquet");
        let mut writer = LabelWriter::create(store, &path, shape, &[]).unwrap();
        let labels = LabelRows {
            video: &["maze/a.mp4"; 3],
            episode: &[0; 3],
            frame_index: &[1, 2, 3],
            time_s: &[0.5, 1.0, 1.5],
            latent_action: &[0.5, -1.0, 0.0, 1e-7, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0, 3.0, 4.0],
            latent_code: &[1, 2, 3, 4, 63, 0],
            fdm_error: Some(&[0.1, 0.2, 0.3]),
            motion: &[0.0, 0.5, 1.0],
            true_action: &[Some(4), None, Some(7)],
            shard: "frames/data/key/a/shard.arrow",
            row: &[1, 2, 3],
        };
        writer.push(&labels).unwrap();
        add(store, stage, "label", vec![writer.finish().unwrap()], vec![]);
    }

    /// A workspace with frames, labels and metrics.
    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        add_frames(&store, "clips");
        add_labels(&store, "order");
        let columns = [("step", dataset::Column::U64(vec![1, 2])), ("loss", dataset::Column::F64(vec![Some(0.5), Some(f64::NAN)]))];
        let metrics = write_table(&store, "dynamics/data/key/a/metrics.parquet", &columns).unwrap();
        add(&store, "dynamics", "train_dynamics", vec![metrics], vec![]);
        (folder, store)
    }

    fn check(store: &Store, sql: &str, format: Format, expected: &str) {
        let mut out = Vec::new();
        write(&query(store, sql).unwrap(), format, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{sql}");
    }

    #[test]
    fn every_stage_is_a_table_and_so_are_the_short_names() {
        let (_folder, store) = workspace();
        let names: Vec<String> = tables(&store).unwrap().into_iter().map(|table| table.name).collect();
        assert_eq!(names, ["clips", "dynamics", "order", "frames", "labels", "rejects", "videos"]);
        for (sql, rows) in [
            ("SELECT * FROM clips", 10),
            ("SELECT * FROM frames WHERE episode = 1", 5),
            ("SELECT * FROM \"order\"", 3),
            ("SELECT * FROM labels WHERE video LIKE 'maze/%' AND motion > 0.2", 2),
            ("SELECT * FROM dynamics", 2),
            ("SELECT * FROM rejects WHERE class = 'truncated'", 1),
            ("SHOW TABLES", 7),
            ("WITH slow AS (SELECT * FROM labels WHERE motion < 0.2) SELECT * FROM slow", 1),
        ] {
            assert_eq!(query(&store, sql).unwrap().len(), rows, "{sql}");
        }
        assert!(!query(&store, "SELECT * FROM frames").unwrap().columns().contains(&"pixels"));
    }

    #[test]
    fn labels_join_the_frames_they_are_of() {
        let (_folder, store) = workspace();
        let sql = "SELECT l.frame_index, f.time_s, l.true_action FROM labels l \
                   JOIN frames f ON l.video = f.video AND l.frame_index = f.frame_index ORDER BY l.frame_index";
        check(&store, sql, Format::Csv, "frame_index,time_s,true_action\n1,0.5,4\n2,1.0,\n3,1.5,7\n");
        let sql = "SELECT video, COUNT(*) AS n, AVG(fdm_error) AS error FROM labels GROUP BY video";
        check(&store, sql, Format::Table, "video       n  error\nmaze/a.mp4  3    0.2\n");
    }

    #[test]
    fn rows_are_written_for_people_and_for_programs() {
        let (_folder, store) = workspace();
        let sql = "SELECT frame_index, latent_action, latent_code, true_action FROM labels LIMIT 2";
        check(
            &store,
            sql,
            Format::Table,
            "frame_index  latent_action        latent_code  true_action\n\
             \x20         1  [0.5, -1, 0, +1]     [1, 2]                 4\n\
             \x20         2  [0.1, 0.2, 0.3, +1]  [3, 4]                 -\n",
        );
        check(
            &store,
            sql,
            Format::Csv,
            "frame_index,latent_action,latent_code,true_action\n1,\"[0.5,-1.0,0.0,1e-7]\",\"[1,2]\",4\n2,\"[0.1,0.2,0.3,0.4]\",\"[3,4]\",\n",
        );
        check(
            &store,
            sql,
            Format::Json,
            "[{\"frame_index\":1,\"latent_action\":[0.5,-1.0,0.0,1e-7],\"latent_code\":[1,2],\"true_action\":4},{\"frame_index\":2,\"latent_action\":[0.1,0.2,0.3,0.4],\"latent_code\":[3,4],\"true_action\":null}]\n",
        );
        let sql = "SELECT video, frame_index > 1 AS later, frame_index / 0.0 AS endless FROM labels LIMIT 1";
        check(&store, sql, Format::Json, "[{\"video\":\"maze/a.mp4\",\"later\":false,\"endless\":null}]\n");
        check(&store, "SELECT video FROM labels WHERE frame_index > 9", Format::Json, "[]\n");
        let mut parquet = Vec::new();
        write(&query(&store, "SELECT * FROM labels").unwrap(), Format::Parquet, &mut parquet).unwrap();
        assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
        check(&store, "SELECT * FROM dynamics", Format::Json, "[{\"step\":1,\"loss\":0.5},{\"step\":2,\"loss\":null}]\n");
    }

    #[test]
    fn a_wrong_query_says_what_is_wrong_and_what_there_is() {
        let (_folder, store) = workspace();
        for (sql, message, hint) in [
            ("SELECT * FROM lables", "lables", "did you mean `labels`?"),
            ("SELECT speed FROM labels", "speed", "tables here: `clips`"),
            ("SELEKT 1", "SELEKT", "tables here: `clips`"),
            ("SELECT * FROM labels WHERE", "query", "tables here: `clips`"),
        ] {
            let error = query(&store, sql).unwrap_err();
            assert!(error.to_string().contains(message), "{sql}: {error}");
            assert!(error.hint().unwrap().contains(hint), "{sql}: {:?}", error.hint());
        }
    }

    #[test]
    fn a_short_name_of_two_stages_is_refused_with_both() {
        let (_folder, store) = workspace();
        add_labels(&store, "more");
        let error = query(&store, "SELECT * FROM labels").unwrap_err();
        assert_eq!(error.to_string(), "table `labels` could be any of `more`, `order`");
        assert_eq!(query(&store, "SELECT * FROM more").unwrap().len(), 3);
    }

    #[test]
    fn an_empty_workspace_says_how_to_fill_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("none").to_str().unwrap()).unwrap();
        assert!(query(&store, "SELECT 1").unwrap_err().hint().unwrap().contains("lapo run"));
        assert!(datasets(&store).unwrap().is_empty());
    }

    #[test]
    fn datasets_are_counted_from_their_receipts() {
        let (_folder, store) = workspace();
        let all = datasets(&store).unwrap();
        let shown: Vec<_> = all.iter().map(|d| (&d.stage[..], &d.kind[..], d.version, d.rows, d.rejects)).collect();
        assert_eq!(shown, [("clips", "decode", 1, 10, 1), ("dynamics", "train_dynamics", 1, 2, 0), ("order", "label", 1, 3, 0)]);
    }
}
