//! Reads a file of an object store with [`Read`] and [`Seek`], without a local copy. Start at
//! [`RemoteFile::open`].
//!
//! Sequential reading requests pieces of growing size. A seek starts with a small piece again.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;

use super::access::{Access, address};
use super::archive::position;
use super::error::{Error, Result};
use super::paths::StoredFile;
use super::remote::Remote;

/// Bytes of the first piece, and of the first one after a seek.
const LEAST: u64 = 256 << 10;
/// Bytes of the largest piece.
const MOST: u64 = 8 << 20;

/// An open file of an object store. Reading fails if the file is replaced meanwhile.
pub struct RemoteFile {
    remote: Remote,
    found: StoredFile,
    /// The position of the next read.
    at: u64,
    /// The current piece and its offset in the file.
    piece: Bytes,
    piece_at: u64,
    /// The length of the last request, in bytes.
    request: u64,
}

impl RemoteFile {
    /// Opens the file at an address such as `s3://bucket/clips/a.mp4`. It must exist.
    pub fn open(uri: &str, access: &Access) -> Result<Self> {
        let Some((base, path)) = address(uri) else {
            return Err(Error::Address {
                address: access.hide(uri),
                reason: "it is not the address of a file in an object store".into(),
            });
        };
        Self::of(Remote::open(base, "", access)?, path)
    }

    fn of(remote: Remote, path: &str) -> Result<Self> {
        let found = remote
            .metadata(path)?
            .ok_or_else(|| Error::Missing { path: format!("{}/{path}", remote.name()) })?;
        Ok(Self { remote, found, at: 0, piece: Bytes::new(), piece_at: 0, request: LEAST })
    }

    /// Returns the size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.found.bytes
    }

    /// Returns a text that changes with the content: the etag, or without one the modification
    /// time.
    #[must_use]
    pub fn version(&self) -> String {
        self.found.version()
    }
}

impl Read for RemoteFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let end = self.piece_at + self.piece.len() as u64;
        if self.at >= self.found.bytes || out.is_empty() {
            return Ok(0);
        }
        if self.at < self.piece_at || self.at >= end {
            // Doubled while reading in order; a jump starts small again.
            let is_in_order = self.at == end && end > 0;
            self.request = if is_in_order { (self.request * 2).min(MOST) } else { LEAST };
            let count = self.request.min(self.found.bytes - self.at);
            self.piece = self.remote.read_part(&self.found, self.at, count)?;
            self.piece_at = self.at;
        }
        let piece = &self.piece[(self.at - self.piece_at) as usize..];
        let count = piece.len().min(out.len());
        out[..count].copy_from_slice(&piece[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for RemoteFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = position(to, self.at, self.found.bytes)?;
        Ok(self.at)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn bucket() -> Remote {
        Remote::new("memory".into(), Arc::new(InMemory::new()), Access::default()).unwrap()
    }

    #[test]
    fn reads_in_any_order_return_the_file_content() {
        let bytes: Vec<u8> = (0..3 << 20).map(|i: u32| (i / 5) as u8).collect();
        let remote = bucket();
        remote.create("v.mp4", &bytes).unwrap();
        let mut file = RemoteFile::of(remote, "v.mp4").unwrap();
        assert_eq!((file.size(), file.seek(SeekFrom::End(-5)).unwrap()), (3 << 20, (3 << 20) - 5));
        let mut out = Vec::new();
        file.read_to_end(&mut out).unwrap();
        assert_eq!(out, bytes[bytes.len() - 5..]);
        // Within a piece, across pieces, in order, and backwards.
        for (from, count) in [(0, 10), (5, 600_000), (600_005, 1_000_000), (7, 3)] {
            let mut out = vec![0; count];
            file.seek(SeekFrom::Start(from as u64)).unwrap();
            file.read_exact(&mut out).unwrap();
            assert_eq!(out, bytes[from..from + count], "{count} from {from}");
        }
        assert!(file.seek(SeekFrom::Current(-10_000_000)).is_err());
        assert_eq!(
            file.seek(SeekFrom::Start(9 << 20)).and_then(|_| file.read(&mut [0; 4])).unwrap(),
            0
        );
    }

    #[test]
    fn reading_a_replaced_file_fails() {
        let remote = bucket();
        remote.create("v.mp4", &[1; 1 << 20]).unwrap();
        let mut file = RemoteFile::of(remote, "v.mp4").unwrap();
        file.read_exact(&mut [0; 10]).unwrap();
        file.remote.delete(&["v.mp4".into()]).unwrap();
        file.remote.create("v.mp4", &[2; 1 << 20]).unwrap();
        // A position outside the first piece.
        file.seek(SeekFrom::Start(1 << 19)).unwrap();
        let error = file.read(&mut [0; 10]).unwrap_err();
        assert!(error.to_string().contains("v.mp4"), "{error}");
    }
}
