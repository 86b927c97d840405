//! SQL over the datasets of a workspace: every stage is a table.
//!
//! In: a workspace and a query. Out: an [`Answer`], whose rows are written as they come, as a table, CSV, JSON, JSON lines or Parquet.
//! Start at [`answer`]; [`query`] collects the rows instead. [`tables`] says what there is to ask, [`tables_asked`] what a query asks
//! for, [`datasets`] what there is at all, [`inspect()`] what one stage has, [`history()`] how it came to be.
//!
//! A stage's table is the stage's newest version: frames without their pixels where it made shards, else the
//! rows of its Parquet files. Besides, there are `videos`, with what lists say of them, `rejects`, those that could not be
//! read, and `frames` and `labels` where just one stage made such. `labels@3` is version 3 of the same; [`Versions`] chooses for a
//! whole query.
//!
//! A stage whose newest manifest is damaged fails the queries that read it, and those that read `videos`, `rejects` or a short name, which
//! may be about it. `SHOW TABLES` and [`datasets`] list it with what is wrong.

mod answer;
mod catalog;
mod columns;
mod damage;
mod error;
mod history;
mod inspect;
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
pub use answer::{Answer, Rows};
use catalog::Catalog;
pub use catalog::{DatasetInfo, Table};
use damage::Sources;
pub use error::Error;
use error::{list, nearest};
pub use history::{Changed, Diff, Version, diff, history};
pub use inspect::{Inspection, inspect};
pub use print::write;
pub use sink::Format;
use statement::Statement;
pub use statement::{Asked, tables_asked};
pub use versions::Versions;

/// What this room's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Answers an SQL query over the newest versions of a workspace's datasets, and collects its rows.
pub fn query(store: &Store, sql: &str) -> Result<Rows> {
    answer(store, sql, &Versions::default())?.collect()
}

/// Prepares the answer to an SQL query. Rows are read when the answer is written or collected.
pub fn answer(store: &Store, sql: &str, versions: &Versions) -> Result<Answer> {
    let statement = Statement::parse(sql)?;
    let mut asked = Workspace::open(store, versions)?;
    match statement {
        Statement::Tables => {
            let whole = asked.catalog.tables.iter().map(|table| (table.name.clone(), None));
            let damaged = asked
                .catalog
                .damaged
                .iter()
                .map(|(stage, damage)| (stage.clone(), Some(damage.clone())));
            let mut all: Vec<(String, Option<String>)> = whole.chain(damaged).collect();
            all.sort_unstable();
            let (names, damages): (Vec<String>, Vec<Option<String>>) = all.into_iter().unzip();
            Answer::of(vec![
                Column::new("name".into(), names),
                Column::new("damage".into(), damages),
            ])
        }
        Statement::Columns(table) => {
            let (_, mut rows) = asked.scan(&table, &mut Sources::new(store))?;
            let schema = rows.collect_schema().map_err(failed(&[]))?;
            let (names, types): (Vec<String>, Vec<String>) =
                schema.iter().map(|(name, kind)| (name.to_string(), kind.to_string())).unzip();
            Answer::of(vec![
                Column::new("column_name".into(), names),
                Column::new("column_type".into(), types),
            ])
        }
        Statement::Rows(query) => {
            for _ in 0..RETRIES {
                match asked.rows(query.clone()) {
                    Err(Error::Dataset(crate::dataset::Error::Missing { path }))
                        if path.contains("/manifests/") => {}
                    rows => return rows,
                }
                // What was the newest version has been superseded and collected meanwhile.
                asked = Workspace::open(store, versions)?;
            }
            asked.rows(query)
        }
    }
}

/// How often a query looks again for the newest versions.
const RETRIES: usize = 8;

/// The error of a stage that is not there, or has no such version.
///
/// # Errors
/// Where the workspace cannot be read.
pub fn no_such_version(store: &Store, stage: &str, version: Option<u64>) -> Result<Error> {
    match version {
        Some(version) if !crate::dataset::versions(store, stage)?.is_empty() => {
            catalog::no_version(store, stage, version)
        }
        _ => inspect::no_stage(store, stage),
    }
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

/// A workspace at the versions that a query reads.
struct Workspace<'a> {
    store: &'a Store,
    versions: &'a Versions,
    catalog: Catalog,
}

/// A table of a query: what the query and the engine call it, and what is in it.
struct Opened {
    asked: Asked,
    name: String,
    rows: LazyFrame,
    columns: Vec<String>,
}

impl<'a> Workspace<'a> {
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

    /// The rows that answer a query.
    fn rows(&self, mut query: Box<Query>) -> Result<Answer> {
        if let Some((asked, name)) = statement::counted(&query)
            && let Some(rows) = self.counted(&asked)?
        {
            return Answer::of(vec![Column::new(name.into(), [rows])]);
        }
        let (mut opened, mut held, mut sources) =
            (Vec::<Opened>::new(), Vec::new(), Sources::new(self.store));
        let renamed = statement::rename_tables(&mut query, |asked| {
            if let Some(known) = opened.iter().find(|one| one.asked == *asked) {
                return Ok(known.name.clone());
            }
            held.extend(self.hold(asked)?);
            let (name, mut rows) = self.scan(asked, &mut sources)?;
            let schema = rows.collect_schema().map_err(failed(&[]))?;
            let columns = schema.iter_names().map(ToString::to_string).collect();
            opened.push(Opened { asked: asked.clone(), name: name.clone(), rows, columns });
            Ok(name)
        });
        renamed.map_err(|error| sources.explain(error))?;
        columns::name_results(&mut query)?;
        let known: BTreeSet<String> =
            opened.iter().flat_map(|table| table.columns.clone()).collect();
        let unknown = columns::fold(&mut query, &known);
        let tables: Vec<_> =
            opened.iter().map(|table| (table.asked.name.clone(), table.columns.clone())).collect();
        let mut context = SQLContext::new();
        for table in opened {
            context.register(&table.name, table.rows);
        }
        let wrong = |cause| match unknown.first() {
            Some(column) => Error::NoColumn { column: column.clone(), tables: tables.clone() },
            None => failed(&tables)(cause),
        };
        let rows = context
            .execute(&query.to_string())
            .and_then(|mut rows| rows.collect_schema().map(|schema| (rows, schema)));
        let (rows, schema) = rows.map_err(|cause| sources.explain(wrong(cause)))?;
        Ok(Answer { rows, schema, tables, sources: Some(sources), _held: held })
    }

    /// How many rows a table has by what the workspace knows of its files; `None` where only reading it can tell.
    fn counted(&self, asked: &Asked) -> Result<Option<u64>> {
        let (table, version) = self.find(asked)?;
        self.catalog.rows(self.store, table, version)
    }

    /// Holds the versions of a table while they are read.
    fn hold(&self, asked: &Asked) -> Result<Vec<TemporaryPin>> {
        let (table, version) = self.find(asked)?;
        let mut held = Vec::new();
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
                reading => held.extend(reading?),
            }
        }
        Ok(held)
    }

    /// A table's rows, and a name for them that no name in a query can hide.
    fn scan(&self, asked: &Asked, sources: &mut Sources) -> Result<(String, LazyFrame)> {
        let (table, version) = self.find(asked)?;
        let named = version.map(|version| format!("@{version}")).unwrap_or_default();
        let files = self.catalog.files(self.store, table, version)?;
        let rows = self.catalog.scan(self.store, table, &files);
        sources.add(files);
        Ok((format!("table:{}{named}", table.name), rows?))
    }

    /// The table that a name means, and the version of it.
    fn find(&self, asked: &Asked) -> Result<(&Table, Option<u64>)> {
        let table = self.table(&asked.name)?;
        let Some(stage) = &table.stage else {
            return if asked.version.is_some() {
                Err(Error::Unversioned(asked.clone()))
            } else {
                Ok((table, None))
            };
        };
        match asked.version {
            Some(version) => Ok((table, Some(version))),
            None => Ok((table, self.versions.version(stage)?)),
        }
    }

    fn table(&self, name: &str) -> Result<&Table> {
        let tables = &self.catalog.tables;
        if let Some(table) = tables.iter().find(|table| table.name == name) {
            // `rejects` and `videos` list what every stage has.
            if table.stage.is_none() {
                self.catalog.fail_if_damaged(self.store, |_| true)?;
            }
            return Ok(table);
        }
        self.catalog.check_damage(self.store, name)?;
        if let Some((name, stages)) =
            self.catalog.ambiguous.iter().find(|(short, _)| statement::same(short, name))
        {
            return Err(Error::Ambiguous { name: name.clone(), stages: stages.clone() });
        }
        let mut near = tables.iter().filter(|table| statement::same(&table.name, name));
        match (near.next(), near.next()) {
            (Some(table), None) => Ok(table),
            _ => Err(Error::NoTable {
                name: name.to_owned(),
                tables: tables.iter().map(|table| table.name.clone()).collect(),
            }),
        }
    }
}

/// Tells what the engine says; its first line says what is wrong, the rest is the query's plan.
fn failed(tables: &[(String, Vec<String>)]) -> impl Fn(PolarsError) -> Error + use<> {
    let tables = tables.to_vec();
    move |cause| Error::Sql {
        cause: cause.to_string().lines().next().unwrap_or_default().to_owned(),
        tables: tables.clone(),
    }
}

impl Answer {
    /// An answer that is known already.
    fn of(columns: Vec<Column>) -> Result<Self> {
        let rows = DataFrame::new_infer_height(columns).map_err(failed(&[]))?;
        Ok(Self {
            schema: rows.schema().clone(),
            rows: rows.lazy(),
            tables: vec![],
            sources: None,
            _held: vec![],
        })
    }
}
