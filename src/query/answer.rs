//! The answer to a query: rows that come as they are written.
//!
//! In: a prepared query. Out: [`Rows`], or bytes in a [`Format`]. Start at [`Answer::write`].

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::mpsc::sync_channel;

use polars::prelude::{DataFrame, Engine, LazyFrame, PlanCallback, PolarsError, SchemaRef};

use super::damage::Sources;
use super::sink::{self, Format};
use super::{Error, Result, failed};
use crate::dataset::pins::TemporaryPin;

/// Rows written at once; of a Parquet file, a row group.
const BATCH: usize = 50_000;

/// The answer to a query, not read yet.
pub struct Answer {
    pub(super) rows: LazyFrame,
    pub(super) schema: SchemaRef,
    /// The query's tables and their columns, for what there is to say of an error.
    pub(super) tables: Vec<(String, Vec<String>)>,
    /// The files that it is read from, for what there is to say of an error.
    pub(super) sources: Option<Sources>,
    /// The versions that it is read from, held until it is.
    pub(super) _held: Vec<TemporaryPin>,
}

impl Answer {
    /// Tells what the engine says, or which file is damaged.
    fn wrong(&mut self) -> impl Fn(PolarsError) -> Error + use<> {
        let (failed, sources) = (failed(&self.tables), self.sources.take());
        move |cause| match &sources {
            Some(sources) => sources.explain(failed(cause)),
            None => failed(cause),
        }
    }

    /// Reads all rows into memory.
    ///
    /// # Errors
    /// Fails where a file cannot be read, or the query fails on its rows.
    pub fn collect(mut self) -> Result<Rows> {
        let wrong = self.wrong();
        self.rows
            .collect_with_engine(Engine::Streaming)
            .map(|rows| Rows(rows.unwrap_single()))
            .map_err(wrong)
    }

    /// Writes rows in a format as they come, at most `limit`, and returns how many were left out. They are never in memory all at once,
    /// except those that a table shows, and what the query itself needs to sort or group.
    ///
    /// # Errors
    /// Fails where a file cannot be read, the query fails on its rows, or `out` takes no more.
    pub fn write(mut self, format: Format, limit: Option<u64>, out: &mut dyn Write) -> Result<u64> {
        let wrong = self.wrong();
        let mut sink = sink::open(format, &self.schema, out)?;
        let (sender, receiver) = sync_channel::<DataFrame>(2);
        // A batch that nobody takes any more ends the query.
        let batches = PlanCallback::new(move |batch| Ok(sender.send(batch).is_err()));
        let rows =
            self.rows.sink_batches(batches, true, NonZeroUsize::new(BATCH)).map_err(&wrong)?;
        let reader =
            std::thread::spawn(move || rows.collect_with_engine(Engine::Streaming).map(|_| ()));
        let (mut room, mut left_out) = (limit.unwrap_or(u64::MAX), 0);
        let mut written = Ok(());
        for batch in receiver {
            let height = batch.height() as u64;
            let taken = height.min(room);
            if taken > 0 {
                written = sink.rows(&batch.slice(0, taken as usize));
            }
            (room, left_out) = (room - taken, left_out + height - taken);
            if written.is_err() {
                break;
            }
        }
        // A query that panics has told so by itself.
        let read: Result<(), PolarsError> =
            reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written?;
        read.map_err(wrong)?;
        sink.finish()?;
        Ok(left_out)
    }
}

/// The rows that answer a query.
#[derive(Debug, Clone)]
pub struct Rows(pub(super) DataFrame);

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
        self.0
            .columns()
            .iter()
            .map(|column| format!("{} {}", column.name(), column.dtype()))
            .collect()
    }

    /// The names of the columns, in order.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        self.0.columns().iter().map(|column| column.name().as_str()).collect()
    }
}
