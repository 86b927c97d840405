//! Reads byte ranges of a file: in place from a local one, with range requests from an object
//! store. Start at [`ByteRanges::read`].
//!
//! Reading the small columns of a shard in a bucket this way transfers a few kilobytes. A copy of
//! the file would transfer the pixels too.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{Error, Result};
use super::paths::StoredFile;
use super::remote::Remote;

/// A file to read byte ranges of.
pub(super) enum ByteRanges {
    /// A memory-mapped file.
    Mapped {
        /// The path for messages.
        path: String,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A file of an object store.
    Remote(Arc<Remote>, StoredFile),
}

impl ByteRanges {
    /// Returns the file's size.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Mapped { bytes, .. } => bytes.len() as u64,
            Self::Remote(_, found) => found.bytes,
        }
    }

    /// Returns the bytes of the ranges, in their order. Ranges of a mapped file are not copied.
    pub(super) fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let Some(outside) =
            ranges.iter().find(|range| range.start > range.end || range.end > self.len())
        {
            // The ranges come from the file itself, so one outside means damage.
            let reason = format!(
                "it refers to bytes {} to {}, but has {}",
                outside.start,
                outside.end,
                self.len()
            );
            return Err(Error::Corrupt { path: self.path().to_owned(), reason });
        }
        match self {
            Self::Mapped { bytes, .. } => Ok(ranges
                .iter()
                .map(|range| bytes.slice(range.start as usize..range.end as usize))
                .collect()),
            Self::Remote(remote, found) => remote.read_parts(found, ranges),
        }
    }

    /// Returns the bytes of one range.
    pub(super) fn read_one(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self.read(std::slice::from_ref(&range))?.remove(0))
    }

    fn path(&self) -> &str {
        match self {
            Self::Mapped { path, .. } => path,
            Self::Remote(_, found) => &found.path,
        }
    }
}
