//! Videos in tar archives (such as WebDataset's), read in place.
//!
//! Start at [`members`]. Archives are never unpacked: a video in an archive is a byte range.
//! Archives may be local files or objects of an object store.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::access::{Access, address};
use super::entry_faults::EntryFault;
use super::path_text::local_path;
use super::remote_file::RemoteFile;

mod members;

use members::list;

/// An entry of an archive: a video, or an entry with the reason why it is not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The path in the archive.
    pub name: String,
    /// The offset of its first byte.
    pub at: u64,
    /// The size in bytes.
    pub bytes: u64,
    /// Why the entry is not read. An entry without a name stands for the archive itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<EntryFault>,
}

impl Member {
    /// Returns an entry of no bytes with the reason why it is not read.
    fn refused(name: String, refused: EntryFault) -> Self {
        Member { name, at: 0, bytes: 0, refused: Some(refused) }
    }
}

/// A byte source with sequential and random access.
pub trait Readable: Read + Seek + Send {}
impl<T: Read + Seek + Send> Readable for T {}

/// Opens a local file or an object. `member` is the offset and size of one member of an archive.
pub fn open_source(
    uri: &str,
    member: Option<(u64, u64)>,
    access: &Access,
) -> io::Result<Box<dyn Readable>> {
    let file: Box<dyn Readable> = match address(uri) {
        Some(_) => Box::new(RemoteFile::open(uri, access)?),
        None => Box::new(File::open(local_path(uri))?),
    };
    Ok(match member {
        Some((from, bytes)) => Box::new(Section::new(file, from, bytes)?),
        None => file,
    })
}

/// Returns the size of a file and its version: the etag, or the time of the last change in
/// nanoseconds since 1970.
pub fn size_and_version(uri: &str, access: &Access) -> io::Result<(u64, String)> {
    if address(uri).is_some() {
        let file = RemoteFile::open(uri, access)?;
        return Ok((file.size(), file.version()));
    }
    let metadata = std::fs::metadata(local_path(uri))?;
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), since.map(|since| since.as_nanos().to_string()).unwrap_or_default()))
}

/// Lists a tar archive in its order: its videos, and other entries with the reason why they are not
/// read. The list of an archive in an object store is cached beside the local copies, since each
/// member costs a request.
pub fn members(uri: &str, access: &Access) -> io::Result<Vec<Member>> {
    if address(uri).is_none() {
        // Opening a pipe without a writer would block forever.
        return if std::fs::metadata(local_path(uri))?.is_file() {
            list(File::open(local_path(uri))?)
        } else {
            Err(ErrorKind::InvalidInput.into())
        };
    }
    let (bytes, version) = size_and_version(uri, access)?;
    // The version is part of the name, so a changed archive is listed again.
    let name = blake3::hash(format!("members of all kinds\n{uri}\n{version}\n{bytes}").as_bytes())
        .to_hex()
        .to_string();
    let mut file = access.cache().file(&name, None, |copy| {
        let found = RemoteFile::open(uri, access)
            .map_err(io::Error::from)
            .and_then(list)
            .map_err(super::error::io_error("read", uri))?;
        copy.write_all(&serde_json::to_vec(&found).expect("plain data"))
            .map_err(super::error::io_error("write a copy of", uri))
    })?;
    let mut json = Vec::new();
    file.read_to_end(&mut json)?;
    serde_json::from_slice(&json).map_err(io::Error::other)
}

/// Returns the position that a seek from `at` leads to in a file of this size.
pub(super) fn position(to: SeekFrom, at: u64, bytes: u64) -> io::Result<u64> {
    let position = match to {
        SeekFrom::Start(position) => Some(position),
        SeekFrom::End(by) => bytes.checked_add_signed(by),
        SeekFrom::Current(by) => at.checked_add_signed(by),
    };
    position.ok_or_else(|| ErrorKind::InvalidInput.into())
}

/// A byte range of a file, read like a file of its own.
struct Section<R> {
    file: R,
    from: u64,
    bytes: u64,
    at: u64,
}

impl<R: Seek> Section<R> {
    fn new(mut file: R, from: u64, bytes: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(from))?;
        Ok(Section { file, from, bytes, at: 0 })
    }
}

impl<R: Read> Read for Section<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // Reads stop at the end of the member, and seeks behind it read nothing.
        let wanted = self.bytes.saturating_sub(self.at).min(out.len() as u64) as usize;
        let read = self.file.read(&mut out[..wanted])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: Seek> Seek for Section<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = position(to, self.at, self.bytes)?;
        // The inner position is always `from + at`.
        let offset = self.from.checked_add(self.at).ok_or(ErrorKind::InvalidInput)?;
        self.file.seek(SeekFrom::Start(offset))?;
        Ok(self.at)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_member_reads_like_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let long = format!("{}/clip.MP4", "x".repeat(150));
        for (name, bytes) in [
            ("a/0001.mp4", &b"first"[..]),
            ("a/0001.json", b"{}"),
            (&long, b"the second"),
            ("c.webm", b""),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        }
        builder.finish().unwrap();
        let uri = path.to_str().unwrap();
        let found = members(uri, &Access::default()).unwrap();
        assert_eq!(
            found.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(),
            ["a/0001.mp4", &long, "c.webm"]
        );
        let second = &found[1];
        let mut file =
            open_source(uri, Some((second.at, second.bytes)), &Access::default()).unwrap();
        let mut read = |from: SeekFrom| {
            let mut text = String::new();
            file.seek(from).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(
            (read(SeekFrom::Start(0)), read(SeekFrom::Start(4)), read(SeekFrom::End(-3))),
            ("the second".into(), "second".into(), "ond".into())
        );
        assert_eq!(read(SeekFrom::Start(100)), "");
    }
}
