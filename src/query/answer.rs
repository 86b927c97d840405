//! The streamed answer to a query. Start at [`QueryResult::write`].

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::mpsc::sync_channel;

use polars::prelude::{DataFrame, Engine, LazyFrame, PlanCallback, PolarsError, SchemaRef};

use super::damage::Sources;
use super::output::open;
use super::sink::Format;
use super::{Error, Result, engine_error};
use crate::dataset::pins::TemporaryPin;

/// Number of rows per write. In a Parquet file this is a row group.
const BATCH: usize = 50_000;

/// The answer to a query. Its rows are not read yet.
pub struct QueryResult {
    pub(super) rows: LazyFrame,
    pub(super) schema: SchemaRef,
    /// The query's tables and their columns, for error messages.
    pub(super) tables: Vec<(String, Vec<String>)>,
    /// The files of the query, for error messages.
    pub(super) sources: Option<Sources>,
    /// Pins on the versions of the query. They are released with the answer.
    pub(super) _pins: Vec<TemporaryPin>,
}

impl QueryResult {
    /// Returns a converter for errors of the engine. It names a damaged file if there is one.
    fn error_converter(&mut self) -> impl Fn(PolarsError) -> Error + use<> {
        let convert = engine_error(&self.tables);
        let sources = self.sources.take();
        move |cause| match &sources {
            Some(sources) => sources.explain(convert(cause)),
            None => convert(cause),
        }
    }

    /// Reads all rows into memory.
    ///
    /// # Errors
    /// Fails if a file cannot be read, or if the query fails on its rows.
    pub fn collect(mut self) -> Result<Rows> {
        let convert = self.error_converter();
        self.rows
            .collect_with_engine(Engine::Streaming)
            .map(|rows| Rows(rows.unwrap_single()))
            .map_err(convert)
    }

    /// Streams at most `limit` rows in a format, and returns the number of rows beyond the limit.
    ///
    /// Memory holds only some batches, except for tables and for queries that sort or group.
    ///
    /// # Errors
    /// Fails if a file cannot be read, if the query fails on its rows, or if writing to `out`
    /// fails.
    pub fn write(mut self, format: Format, limit: Option<u64>, out: &mut dyn Write) -> Result<u64> {
        let convert = self.error_converter();
        // Open the sink first: it writes the header even if there are no rows.
        let mut sink = open(format, &self.schema, out)?;
        let (sender, receiver) = sync_channel::<DataFrame>(2);
        // The callback returns true, which ends the query, once the receiver is gone.
        let batches = PlanCallback::new(move |batch| Ok(sender.send(batch).is_err()));
        let rows =
            self.rows.sink_batches(batches, true, NonZeroUsize::new(BATCH)).map_err(&convert)?;
        let reader =
            std::thread::spawn(move || rows.collect_with_engine(Engine::Streaming).map(|_| ()));
        let mut remaining = limit.unwrap_or(u64::MAX);
        let mut left_out = 0;
        let mut written = Ok(());
        for batch in receiver {
            let height = batch.height() as u64;
            let taken = height.min(remaining);
            if taken > 0 {
                written = sink.rows(&batch.slice(0, taken as usize));
            }
            remaining -= taken;
            left_out += height - taken;
            // Dropping the receiver ends the query.
            if written.is_err() {
                break;
            }
        }
        // Continue the panic of the reader in this thread.
        let read: Result<(), PolarsError> =
            reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written?;
        read.map_err(convert)?;
        sink.finish()?;
        Ok(left_out)
    }
}

/// The rows of an answer.
#[derive(Debug, Clone)]
pub struct Rows(pub(super) DataFrame);

impl Rows {
    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.height()
    }

    /// Returns whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the columns in order, each with its type.
    #[must_use]
    pub fn typed_columns(&self) -> Vec<String> {
        self.0
            .columns()
            .iter()
            .map(|column| format!("{} {}", column.name(), column.dtype()))
            .collect()
    }

    /// Returns the names of the columns in order.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        self.0.columns().iter().map(|column| column.name().as_str()).collect()
    }
}
