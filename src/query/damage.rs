//! Which file of a query is damaged. In: the files that a query reads, and the engine's error; out: the error of the file that is missing or
//! cut short, if there is one. Sizes are looked at only once the engine has failed: a query of a million files asks for none of them before.

use super::{Error, Result};
use crate::dataset::{self, FileInfo, Store};

/// The files that a query reads.
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

    /// Returns the error of the first file that does not have the size its receipt says; otherwise the engine's own.
    pub fn explain(&self, error: Error) -> Error {
        if !matches!(error, Error::Sql { .. } | Error::Dataset(dataset::Error::Corrupt { .. })) {
            return error;
        }
        self.check().err().unwrap_or(error)
    }

    fn check(&self) -> Result<()> {
        Ok(self.files.iter().try_for_each(|file| self.store.check_size(file))?)
    }
}
