//! Finds the damaged file when a query fails.
//!
//! The engine's error does not name the file. File sizes are checked only after a failure, so a
//! query over a million files makes no extra requests.

use super::{Error, Result};
use crate::dataset::{self, FileInfo, Store};

/// The files of a query.
pub(super) struct Sources {
    store: Store,
    files: Vec<FileInfo>,
}

impl Sources {
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone(), files: Vec::new() }
    }

    pub fn add(&mut self, files: Vec<FileInfo>) {
        self.files.extend(files);
    }

    /// Returns the error of the first file with a wrong size, or else the given error.
    pub fn explain(&self, error: Error) -> Error {
        if !matches!(error, Error::Sql { .. } | Error::Dataset(dataset::Error::Corrupt { .. })) {
            return error;
        }
        self.check().err().unwrap_or(error)
    }

    /// Compares the size of every file with its receipt.
    fn check(&self) -> Result<()> {
        Ok(self.files.iter().try_for_each(|file| self.store.check_size(file))?)
    }
}
