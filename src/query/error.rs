//! Errors of queries, and advice on how to fix them.

use super::TableName;
use crate::dataset;

/// An error of a query.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The workspace's files could not be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The workspace has no dataset yet.
    #[error("the workspace has no dataset yet")]
    EmptyWorkspace,
    /// No stage has this name.
    #[error("the workspace has no stage `{stage}`")]
    NoStage {
        /// The name.
        stage: String,
        /// The names of the stages.
        hint: String,
    },
    /// The stage does not have this version.
    #[error("`{stage}` has no version {version}")]
    NoVersion {
        /// The stage.
        stage: String,
        /// The requested version.
        version: u64,
        /// The existing versions.
        there: String,
    },
    /// No run has this id.
    #[error("the workspace has no record of a run `{run}`")]
    NoRun {
        /// The run's id.
        run: String,
        /// The existing runs.
        there: String,
    },
    /// The run did not have this stage, so its snapshot has no version of it.
    #[error("the run `{run}` had no stage `{stage}`")]
    NotInRun {
        /// The stage.
        stage: String,
        /// The run's id.
        run: String,
        /// The stages of the run.
        stages: Vec<String>,
    },
    /// A table with the rows of all stages has no versions.
    #[error("table `{}` has no versions: it combines the rows of all stages", .0.name)]
    Unversioned(TableName),
    /// An ambiguous short name.
    #[error("table `{name}` could be any of {}", list(stages))]
    Ambiguous {
        /// The short name.
        name: String,
        /// The possible stages.
        stages: Vec<String>,
    },
    /// The text is not SQL.
    #[error("cannot run the query: {cause}")]
    Syntax {
        /// The parser's message.
        cause: String,
    },
    /// The statement is not supported.
    #[error("cannot run the query: found {seen}, expected {expected}")]
    Refused {
        /// The statement.
        seen: String,
        /// The expected statement.
        expected: String,
    },
    /// No table has this name.
    #[error("cannot run the query: no table is called `{name}`")]
    NoTable {
        /// The name.
        name: String,
        /// The tables of the workspace.
        tables: Vec<String>,
    },
    /// No table of the query has this column.
    #[error("cannot run the query: no column is called `{column}`")]
    NoColumn {
        /// The name.
        column: String,
        /// The query's tables and their columns.
        tables: Vec<(String, Vec<String>)>,
    },
    /// The engine failed.
    #[error("cannot run the query: {cause}")]
    Sql {
        /// The engine's message.
        cause: String,
        /// The query's tables and their columns.
        tables: Vec<(String, Vec<String>)>,
    },
    /// The rows cannot be converted into the format.
    #[error("cannot write the rows as {format}: {cause}")]
    Format {
        /// The format.
        format: &'static str,
        /// The cause.
        cause: String,
    },
    /// Writing failed, for example because the reader of a pipe has exited.
    #[error("cannot write the rows: {0}")]
    Write(std::sync::Arc<std::io::Error>),
}

impl Error {
    /// Returns advice for the user, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dataset(error) => error.hint(),
            Self::EmptyWorkspace => {
                Some("run a pipeline in it first: `lapo run pipelines/<name>.yaml`".into())
            }
            Self::NoStage { hint, .. } => Some(hint.clone()),
            Self::NoVersion { there, .. } => Some(format!("versions here: {there}")),
            Self::NoRun { there, .. } => Some(there.clone()),
            Self::NotInRun { stages, .. } => Some(format!("stages of that run: {}", list(stages))),
            Self::Unversioned(table) => Some(format!("remove the version: FROM {}", table.name)),
            Self::Ambiguous { stages, .. } => {
                Some(format!("name the stage: FROM {}", stages.first()?))
            }
            Self::Syntax { .. } => Some("for example: SELECT * FROM labels LIMIT 10".into()),
            Self::Refused { .. } => Some(
                "supported statements: SELECT, WITH, SHOW TABLES, DESCRIBE table, \
                 SHOW COLUMNS FROM table"
                    .into(),
            ),
            Self::NoTable { name, tables } => {
                Some(format!("{}tables here: {}", did_you_mean(name, tables), list(tables)))
            }
            Self::NoColumn { column, tables } => {
                let all: Vec<String> =
                    tables.iter().flat_map(|(_, columns)| columns.clone()).collect();
                Some(format!("{}{}", did_you_mean(column, &all), columns_of(tables)))
            }
            Self::Sql { tables, .. } if !tables.is_empty() => Some(columns_of(tables)),
            Self::Sql { .. } | Self::Format { .. } | Self::Write(_) => None,
        }
    }

    /// Returns whether the same query may succeed later with nothing changed by hand.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Dataset(error) if error.is_transient())
    }
}

/// Lists the columns of every table.
fn columns_of(tables: &[(String, Vec<String>)]) -> String {
    let each =
        tables.iter().map(|(table, columns)| format!("columns of `{table}`: {}", list(columns)));
    each.collect::<Vec<_>>().join("; ")
}

/// Returns the beginning of a hint, or an empty text if no name is similar.
fn did_you_mean(name: &str, names: &[String]) -> String {
    nearest(name, names).map(|name| format!("did you mean `{name}`? ")).unwrap_or_default()
}

/// Returns the most similar name, if at most a third of its letters differ.
pub(super) fn nearest<'a>(name: &str, names: &'a [String]) -> Option<&'a String> {
    let lower = name.to_lowercase();
    // Short names differ in few letters by chance, so allow fewer.
    let most = (lower.chars().count() / 3).min(3);
    let by_distance = names
        .iter()
        .map(|other| (strsim::damerau_levenshtein(&lower, &other.to_lowercase()), other));
    by_distance
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// Joins names for a message.
pub(super) fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
