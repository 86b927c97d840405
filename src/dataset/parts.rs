//! Stretches of a file, wherever it is: of a local file in place, of one in an object store by ranges.
//!
//! In: a file of a store. Out: its size, and the bytes of any stretches. Start at [`Parts::read`]. Reading the small columns of a shard
//! in a bucket takes a few kilobytes this way, where a copy would take the pixels too.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{Error, Result};
use super::place::Stored;
use super::remote::Remote;

/// A file to read stretches of.
pub(super) enum Parts {
    /// The whole file, mapped.
    Mapped {
        /// What to call it.
        path: String,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A file of an object store.
    Remote(Arc<Remote>, Stored),
}

impl Parts {
    /// Returns the file's size.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Mapped { bytes, .. } => bytes.len() as u64,
            Self::Remote(_, found) => found.bytes,
        }
    }

    /// Returns the bytes of some stretches, in their order; of a mapped file they are no copies.
    pub(super) fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let Some(outside) =
            ranges.iter().find(|range| range.start > range.end || range.end > self.len())
        {
            let reason = format!(
                "it speaks of bytes {} to {} of {}",
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

    /// Returns the bytes of one stretch.
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
