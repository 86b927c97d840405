//! Queries that cannot be answered, and what cures them.

use super::Asked;
use crate::dataset;

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
    /// No run is called so.
    #[error("the workspace has no record of a run `{run}`")]
    NoRun {
        /// The run's id.
        run: String,
        /// The runs there are.
        there: String,
    },
    /// A run had no such stage, so its snapshot has no version of it.
    #[error("the run `{run}` had no stage `{stage}`")]
    NotInRun {
        /// The stage.
        stage: String,
        /// The run's id.
        run: String,
        /// The stages it had.
        stages: Vec<String>,
    },
    /// A table that has the rows of every stage, and so no version of its own.
    #[error("table `{}` has no versions: it lists what every stage has", .0.name)]
    Unversioned(Asked),
    /// A short name that several stages answer to.
    #[error("table `{name}` could be any of {}", list(stages))]
    Ambiguous {
        /// The short name.
        name: String,
        /// The stages it could mean.
        stages: Vec<String>,
    },
    /// The text is no SQL.
    #[error("cannot run the query: {cause}")]
    Syntax {
        /// What the parser says.
        cause: String,
    },
    /// A statement that is not answered.
    #[error("cannot run the query: found {seen}, expected {expected}")]
    Refused {
        /// What it is.
        seen: String,
        /// What would be answered.
        expected: String,
    },
    /// No table is called so.
    #[error("cannot run the query: no table is called `{name}`")]
    NoTable {
        /// The name.
        name: String,
        /// The tables there are.
        tables: Vec<String>,
    },
    /// No table of the query has such a column.
    #[error("cannot run the query: no column is called `{column}`")]
    NoColumn {
        /// The name.
        column: String,
        /// The query's tables and their columns.
        tables: Vec<(String, Vec<String>)>,
    },
    /// The engine cannot run the query.
    #[error("cannot run the query: {cause}")]
    Sql {
        /// What is wrong with it.
        cause: String,
        /// The query's tables and their columns.
        tables: Vec<(String, Vec<String>)>,
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
            Self::NoRun { there, .. } => Some(there.clone()),
            Self::NotInRun { stages, .. } => Some(format!("stages of that run: {}", list(stages))),
            Self::Unversioned(asked) => Some(format!("leave the version out: FROM {}", asked.name)),
            Self::Ambiguous { stages, .. } => Some(format!("name the stage: FROM {}", stages.first()?)),
            Self::Syntax { .. } => Some("for example: SELECT * FROM labels LIMIT 10".into()),
            Self::Refused { .. } => Some("these are answered: SELECT, WITH, SHOW TABLES, DESCRIBE table, SHOW COLUMNS FROM table".into()),
            Self::NoTable { name, tables } => Some(format!("{}tables here: {}", did_you_mean(name, tables), list(tables))),
            Self::NoColumn { column, tables } => {
                let all: Vec<String> = tables.iter().flat_map(|(_, columns)| columns.clone()).collect();
                Some(format!("{}{}", did_you_mean(column, &all), columns_of(tables)))
            }
            Self::Sql { tables, .. } if !tables.is_empty() => Some(columns_of(tables)),
            Self::Sql { .. } | Self::Format { .. } | Self::Write(_) => None,
        }
    }

    /// Whether the same query may succeed later with nothing changed by hand.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Dataset(error) if error.is_transient())
    }
}

fn columns_of(tables: &[(String, Vec<String>)]) -> String {
    let each =
        tables.iter().map(|(table, columns)| format!("columns of `{table}`: {}", list(columns)));
    each.collect::<Vec<_>>().join("; ")
}

fn did_you_mean(name: &str, names: &[String]) -> String {
    nearest(name, names).map(|name| format!("did you mean `{name}`? ")).unwrap_or_default()
}

/// Returns the name that differs least, where at most a third of the letters differ.
pub(super) fn nearest<'a>(name: &str, names: &'a [String]) -> Option<&'a String> {
    let lower = name.to_lowercase();
    let most = (lower.chars().count() / 3).min(3);
    let by_distance = names
        .iter()
        .map(|other| (strsim::damerau_levenshtein(&lower, &other.to_lowercase()), other));
    by_distance
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// Joins names for people.
pub(super) fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
