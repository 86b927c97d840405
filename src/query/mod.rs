//! Answers SQL queries over the datasets of a workspace. Every stage is a table.
//!
//! - [`answer`] prepares an [`QueryResult`], a stream of rows as a table, CSV, JSON, JSON lines or
//!   Parquet. [`query()`] collects the rows instead.
//! - [`tables`] lists the tables of a workspace, [`table_names`] the tables of a query.
//! - [`datasets`] lists all datasets, [`inspect()`] describes one of them, [`history()`] lists its
//!   versions, [`diff`] compares two of them.
//!
//! A stage's table is its newest version: the frames without pixels if it made shards, otherwise
//! the rows of its Parquet files. In addition there are `videos` (with the columns of video lists),
//! `rejects` (unreadable videos), and the short names `frames` and `labels` if exactly one stage
//! makes such rows. `labels@3` is version 3 of a table; [`Versions`] selects versions for a whole
//! query.
//!
//! If a stage's newest manifest is damaged, only queries that may read it fail: queries on its
//! table, on `videos`, on `rejects` and on short names. `SHOW TABLES` and [`datasets`] list it with
//! the damage.

extern crate lapo_dataset as dataset;
// Paths are the same within this crate and in `lapo`.
extern crate self as query;

mod answer;
mod catalog;
mod columns;
mod damage;
mod error;
mod history;
mod inspect;
mod output;
mod print;
mod sink;
mod statement;
#[cfg(test)]
mod tests;
mod text;
mod versions;

use std::collections::BTreeSet;

use polars::prelude::{Column, DataFrame, IntoLazy, LazyFrame, PolarsError};
use polars::sql::SQLContext;
use sqlparser::ast::Query;

use crate::dataset::Store;
use crate::dataset::pins::{self, TemporaryPin};
pub use answer::{QueryResult, Rows};
use catalog::Catalog;
pub use catalog::{DatasetInfo, Table};
use damage::Sources;
pub use error::Error;
use error::{list, nearest};
pub use history::{Changed, Diff, Version, diff, history};
pub use inspect::{Inspection, inspect};
pub use output::write;
pub use sink::Format;
use statement::Statement;
pub use statement::{TableName, table_names};
pub use versions::Versions;

/// The result of a query.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Answers an SQL query over the newest versions of all datasets, and collects its rows.
pub fn query(store: &Store, sql: &str) -> Result<Rows> {
    answer(store, sql, &Versions::default())?.collect()
}

/// Prepares the answer to an SQL query. Rows are read when the answer is written or collected.
pub fn answer(store: &Store, sql: &str, versions: &Versions) -> Result<QueryResult> {
    let statement = Statement::parse(sql)?;
    let mut workspace = Workspace::open(store, versions)?;
    match statement {
        Statement::Tables => {
            let whole = workspace.catalog.tables.iter().map(|table| (table.name.clone(), None));
            let damaged = workspace
                .catalog
                .damaged
                .iter()
                .map(|(stage, damage)| (stage.clone(), Some(damage.clone())));
            let mut all: Vec<(String, Option<String>)> = whole.chain(damaged).collect();
            all.sort_unstable();
            let (names, damages): (Vec<String>, Vec<Option<String>>) = all.into_iter().unzip();
            QueryResult::of(vec![
                Column::new("name".into(), names),
                Column::new("damage".into(), damages),
            ])
        }
        Statement::Columns(table) => {
            let (_, mut rows) = workspace.scan(&table, &mut Sources::new(store))?;
            let schema = rows.collect_schema().map_err(engine_error(&[]))?;
            let (names, types): (Vec<String>, Vec<String>) =
                schema.iter().map(|(name, kind)| (name.to_string(), kind.to_string())).unzip();
            QueryResult::of(vec![
                Column::new("column_name".into(), names),
                Column::new("column_type".into(), types),
            ])
        }
        Statement::Rows(query) => {
            for _ in 0..REOPENINGS {
                match workspace.rows(query.clone()) {
                    Err(Error::Dataset(crate::dataset::Error::Missing { path }))
                        if path.contains("/manifests/") => {}
                    rows => return rows,
                }
                // The newest version was superseded and collected since the workspace was opened.
                workspace = Workspace::open(store, versions)?;
            }
            workspace.rows(query)
        }
    }
}

/// Number of attempts to reopen the workspace during a query.
const REOPENINGS: usize = 8;

/// Returns the error for an unknown stage, or for an unknown version of a stage.
///
/// # Errors
/// Fails if the workspace cannot be read.
pub fn no_such_version(store: &Store, stage: &str, version: Option<u64>) -> Result<Error> {
    match version {
        Some(version) if !crate::dataset::versions(store, stage)?.is_empty() => {
            catalog::no_version(store, stage, version)
        }
        _ => inspect::no_stage(store, stage),
    }
}

/// Returns the tables of a workspace.
pub fn tables(store: &Store) -> Result<Vec<Table>> {
    Ok(Catalog::read(store)?.tables)
}

/// Describes the newest version of every stage's dataset.
pub fn datasets(store: &Store) -> Result<Vec<DatasetInfo>> {
    match Catalog::read(store) {
        Ok(catalog) => Ok(catalog.datasets()),
        Err(Error::EmptyWorkspace) => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// A workspace and the selected versions.
struct Workspace<'a> {
    store: &'a Store,
    versions: &'a Versions,
    catalog: Catalog,
}

/// A table of a query: the name in the query, the name in the engine, and its rows.
struct OpenedTable {
    query_name: TableName,
    name: String,
    rows: LazyFrame,
    columns: Vec<String>,
}

impl<'a> Workspace<'a> {
    /// Reads the catalog and checks the selected stages.
    fn open(store: &'a Store, versions: &'a Versions) -> Result<Self> {
        let catalog = Catalog::read(store)?;
        let stages: Vec<String> = catalog.datasets().into_iter().map(|info| info.stage).collect();
        if let Some(stage) = versions.stages().find(|stage| !stages.contains(stage)) {
            return Err(Error::NoStage {
                stage: stage.clone(),
                hint: format!("stages here: {}", list(&stages)),
            });
        }
        Ok(Self { store, versions, catalog })
    }

    /// Prepares the rows of a query.
    fn rows(&self, mut query: Box<Query>) -> Result<QueryResult> {
        // The manifest has the count, so no file is opened.
        if let Some((table, column)) = statement::counted_table(&query)
            && let Some(rows) = self.row_count(&table)?
        {
            return QueryResult::of(vec![Column::new(column.into(), [rows])]);
        }
        let mut opened = Vec::<OpenedTable>::new();
        let mut pins = Vec::new();
        let mut sources = Sources::new(self.store);
        // Each table is opened once, however often the query names it.
        let renamed = statement::rename_tables(&mut query, |table| {
            if let Some(known) = opened.iter().find(|one| one.query_name == *table) {
                return Ok(known.name.clone());
            }
            // Pin first: garbage collection must not delete a file between listing and reading.
            pins.extend(self.pin(table)?);
            let (name, mut rows) = self.scan(table, &mut sources)?;
            let schema = rows.collect_schema().map_err(engine_error(&[]))?;
            let columns = schema.iter_names().map(ToString::to_string).collect();
            opened.push(OpenedTable {
                query_name: table.clone(),
                name: name.clone(),
                rows,
                columns,
            });
            Ok(name)
        });
        renamed.map_err(|error| sources.explain(error))?;
        // Name results before fixing the case: the names are the user's text.
        columns::name_results(&mut query)?;
        let known: BTreeSet<String> =
            opened.iter().flat_map(|table| table.columns.clone()).collect();
        let unknown = columns::fix_column_case(&mut query, &known);
        let tables: Vec<_> = opened
            .iter()
            .map(|table| (table.query_name.name.clone(), table.columns.clone()))
            .collect();
        let mut context = SQLContext::new();
        for table in opened {
            context.register(&table.name, table.rows);
        }
        // The engine's message for an unknown column is vague: report the column instead.
        let explained = |cause| match unknown.first() {
            Some(column) => Error::NoColumn { column: column.clone(), tables: tables.clone() },
            None => engine_error(&tables)(cause),
        };
        let rows = context
            .execute(&query.to_string())
            .and_then(|mut rows| rows.collect_schema().map(|schema| (rows, schema)));
        let (rows, schema) = rows.map_err(|cause| sources.explain(explained(cause)))?;
        Ok(QueryResult { rows, schema, tables, sources: Some(sources), _pins: pins })
    }

    /// Returns a table's number of rows according to its manifest, or `None` if it must be read.
    fn row_count(&self, name: &TableName) -> Result<Option<u64>> {
        let (table, version) = self.find(name)?;
        self.catalog.rows(self.store, table, version)
    }

    /// Pins the versions of a table while they are read.
    fn pin(&self, name: &TableName) -> Result<Vec<TemporaryPin>> {
        let (table, version) = self.find(name)?;
        let mut pins = Vec::new();
        for stage in table.stage.clone().map_or_else(
            || self.catalog.datasets().into_iter().map(|info| info.stage).collect(),
            |stage| vec![stage],
        ) {
            let Some(newest) = self.catalog.manifest(&stage) else { continue };
            match pins::reading(self.store, &stage, version.unwrap_or(newest.version)) {
                Err(crate::dataset::Error::Missing { .. }) if version.is_some() => {
                    return Err(catalog::no_version(
                        self.store,
                        &stage,
                        version.unwrap_or_default(),
                    )?);
                }
                reading => pins.extend(reading?),
            }
        }
        Ok(pins)
    }

    /// Returns a table's rows and an internal name. No name in a query can hide it.
    fn scan(&self, name: &TableName, sources: &mut Sources) -> Result<(String, LazyFrame)> {
        let (table, version) = self.find(name)?;
        let named = version.map(|version| format!("@{version}")).unwrap_or_default();
        let files = self.catalog.files(self.store, table, version)?;
        let rows = self.catalog.scan(self.store, table, &files);
        sources.add(files);
        Ok((format!("table:{}{named}", table.name), rows?))
    }

    /// Returns the table with this name, and its version.
    fn find(&self, name: &TableName) -> Result<(&Table, Option<u64>)> {
        let table = self.table(&name.name)?;
        let Some(stage) = &table.stage else {
            return if name.version.is_some() {
                Err(Error::Unversioned(name.clone()))
            } else {
                Ok((table, None))
            };
        };
        match name.version {
            Some(version) => Ok((table, Some(version))),
            // A version in the query takes precedence over the selected one.
            None => Ok((table, self.versions.version(stage)?)),
        }
    }

    /// Returns the table with this name; a different case is accepted if it is unambiguous.
    fn table(&self, name: &str) -> Result<&Table> {
        let tables = &self.catalog.tables;
        if let Some(table) = tables.iter().find(|table| table.name == name) {
            // `rejects` and `videos` combine the rows of all stages.
            if table.stage.is_none() {
                self.catalog.fail_if_damaged(self.store, |_| true)?;
            }
            return Ok(table);
        }
        self.catalog.check_damage(self.store, name)?;
        if let Some((name, stages)) = self
            .catalog
            .ambiguous
            .iter()
            .find(|(short, _)| statement::same_ignoring_case(short, name))
        {
            return Err(Error::Ambiguous { name: name.clone(), stages: stages.clone() });
        }
        // A table in other case is meant if there is only one.
        let mut near =
            tables.iter().filter(|table| statement::same_ignoring_case(&table.name, name));
        match (near.next(), near.next()) {
            (Some(table), None) => Ok(table),
            _ => Err(Error::NoTable {
                name: name.to_owned(),
                tables: tables.iter().map(|table| table.name.clone()).collect(),
            }),
        }
    }
}

/// Converts an error of the engine. Its first line is the message, the rest is the query's plan.
fn engine_error(tables: &[(String, Vec<String>)]) -> impl Fn(PolarsError) -> Error + use<> {
    let tables = tables.to_vec();
    move |cause| Error::Sql {
        cause: cause.to_string().lines().next().unwrap_or_default().to_owned(),
        tables: tables.clone(),
    }
}

impl QueryResult {
    /// Creates an answer from columns in memory.
    fn of(columns: Vec<Column>) -> Result<Self> {
        let rows = DataFrame::new_infer_height(columns).map_err(engine_error(&[]))?;
        Ok(Self {
            schema: rows.schema().clone(),
            rows: rows.lazy(),
            tables: vec![],
            sources: None,
            _pins: vec![],
        })
    }
}
