//! A table of several Parquet files in numbered folders.

use super::CHUNK_FILES;
use crate::dataset::{ExportColumn, ExportTable, FileInfo};
use crate::stages::{Error, TaskContext};

/// The size in bytes from which a file is full.
const FILE_BYTES: u64 = 100 << 20;

/// The place of rows or of a video: the number of its folder, and of its file there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub chunk: usize,
    pub file: usize,
}

impl Place {
    /// Returns the place of a file by its number among all files.
    pub fn of(number: usize) -> Place {
        Place { chunk: number / CHUNK_FILES, file: number % CHUNK_FILES }
    }

    /// Returns the name of the file without its suffix.
    pub fn name(self) -> String {
        format!("chunk-{:03}/file-{:03}", self.chunk, self.file)
    }
}

/// A table whose rows go to the next file once one is full.
pub(super) struct RollingTable<'a> {
    ctx: &'a TaskContext<'a>,
    folder: &'static str,
    metadata: Vec<(&'static str, String)>,
    open: Option<ExportTable>,
    files: Vec<FileInfo>,
}

impl<'a> RollingTable<'a> {
    /// Creates a table without files in a folder of the attempt.
    pub fn new(ctx: &'a TaskContext<'a>, folder: &'static str) -> Self {
        RollingTable { ctx, folder, metadata: vec![], open: None, files: vec![] }
    }

    /// Adds a key-value pair to the metadata of the files to come.
    pub fn set_metadata(&mut self, key: &'static str, value: String) {
        self.metadata.push((key, value));
    }

    /// Returns the place of the next row group.
    pub fn next_place(&self) -> Place {
        Place::of(self.files.len())
    }

    /// Writes a row group and returns its place.
    pub fn write(&mut self, group: &[(String, ExportColumn)]) -> Result<Place, Error> {
        let place = self.next_place();
        let table = match self.open.take() {
            Some(mut table) => {
                table.write(group)?;
                table
            }
            None => {
                let path = format!("{}/{}/{}.parquet", self.ctx.folder, self.folder, place.name());
                ExportTable::create(self.ctx.store, &path, &self.metadata, group)?
            }
        };
        if table.bytes() < FILE_BYTES {
            self.open = Some(table);
        } else {
            self.files.push(table.finish()?);
        }
        Ok(place)
    }

    /// Completes the last file and returns all files.
    pub fn finish(mut self) -> Result<Vec<FileInfo>, Error> {
        if let Some(open) = self.open.take() {
            self.files.push(open.finish()?);
        }
        Ok(self.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_thousand_files() {
        assert_eq!(Place::of(999).name(), "chunk-000/file-999");
        assert_eq!(Place::of(2001).name(), "chunk-002/file-001");
    }
}
