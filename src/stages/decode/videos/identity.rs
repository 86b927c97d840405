//! What makes a listed entry the video it is: its content, looked up where it is known and read where it is not.
//!
//! In: an entry. Out: the video with its digest, or why it cannot be read. Start at [`candidates`], then [`Known::identity`].
//!
//! A name is data, no identity. A file that is known is recognised under its name, by size and time; and under any name, by inode, size and
//! time: a video that is renamed, moved or swapped with another one is not read again.

use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Identified, Is, Now};
use crate::dataset::{
    self, About, Access, EntryClass, HashMap, ListedVideo, Member, Receipt, Refused, Unread,
    VideoRecord, address, local_path, members, open_source, version_of,
};
use crate::stages::decode::{Archived, DecodeConfig, Identity, VideoSource};
use crate::stages::plan::LeftOut;

/// Endings of archives that are compressed, or of another kind than tar.
const OTHER_ARCHIVES: [&str; 17] = [
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz2",
    ".tbz",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".tzst",
    ".tar.lz4",
    ".tar.lzma",
    ".tar.z",
    ".tar.lz",
    ".zip",
    ".7z",
    ".rar",
    ".gz",
];

/// A video somewhere, not yet looked at.
pub(super) struct Candidate {
    /// Its name: the path or address, and in an archive the path within.
    uri: String,
    /// Size and version, where a listing told them.
    known: Option<(u64, String)>,
    archived: Option<Archived>,
    /// The inode of the archive that holds it.
    inode: Option<u64>,
    /// Why it cannot be read, where that is known already.
    unread: Option<Unread>,
}

/// An answer, or why there is none; an error where an object store fails in passing.
type Read<T> = dataset::Result<Result<T, Unread>>;

/// Returns the videos that a listed entry holds: itself, or, if it is an archive, those in it.
///
/// # Errors
/// Where an object store fails in passing.
pub(super) fn candidates(listed: &ListedVideo, known: &Known) -> dataset::Result<Vec<Candidate>> {
    let ListedVideo { uri, known: told, unread, .. } = listed;
    let alone = |unread: Option<Unread>| {
        Ok(vec![Candidate {
            uri: uri.clone(),
            known: told.clone(),
            archived: None,
            inode: None,
            unread,
        }])
    };
    if unread.is_some() || !is_tar(uri) {
        let name = uri.to_ascii_lowercase();
        let ending = OTHER_ARCHIVES.iter().find(|ending| name.ends_with(**ending));
        let packed = ending.map(|ending| {
            Refused::new(EntryClass::CompressedArchive, format!("it is an archive (`{ending}`)"))
        });
        return alone(unread.clone().or(packed.map(Unread::Refused)));
    }
    let version = match known.look(uri)? {
        Ok(version) => version,
        Err(unread) => return alone(Some(unread)),
    };
    match readable(uri, members(uri, known.access))? {
        Ok(members) => {
            let candidate = |member: Member| Candidate {
                uri: if member.name.is_empty() {
                    uri.clone()
                } else {
                    format!("{uri}/{}", member.name)
                },
                known: Some((member.bytes, version.modified.clone())),
                archived: Some(Archived { path: uri.clone(), at: member.at }),
                inode: version.inode,
                unread: member.refused.map(Unread::Refused),
            };
            Ok(members.into_iter().map(candidate).collect())
        }
        Err(unread) => alone(Some(unread)),
    }
}

fn is_tar(uri: &str) -> bool {
    let end = uri.len().saturating_sub(4);
    uri.is_char_boundary(end) && uri[end..].eq_ignore_ascii_case(".tar")
}

/// What the file system or the store says of a file.
struct Version {
    bytes: u64,
    /// Nanoseconds since 1970, or an etag.
    modified: String,
    inode: Option<u64>,
}

/// What is known when videos get their identities.
pub(super) struct Known<'a> {
    /// Records of receipts by name, size, version and place in an archive: one name may have had several contents.
    by_name: HashMap<(&'a str, u64, &'a str, Option<u64>), &'a VideoRecord>,
    /// The same by inode, size, version and place in an archive: one file may have had several names.
    by_inode: HashMap<(u64, u64, &'a str, Option<u64>), &'a VideoRecord>,
    now: &'a Now,
    by: Identity,
    access: &'a Access,
}

impl<'a> Known<'a> {
    /// Sorts the records of receipts, of which the first ones are the newest.
    pub(super) fn new(
        receipts: &'a [Arc<Receipt>],
        now: &'a Now,
        config: &DecodeConfig,
        access: &'a Access,
    ) -> Self {
        let records = || {
            receipts
                .iter()
                .rev()
                .flat_map(|receipt| &receipt.videos)
                .filter(|video| !video.modified.is_empty())
        };
        let by_name = records().map(|video| {
            ((video.uri.as_str(), video.bytes, video.modified.as_str(), video.at), video)
        });
        let by_inode = records().filter_map(|video| {
            Some(((video.inode?, video.bytes, video.modified.as_str(), video.at), video))
        });
        Known {
            by_name: by_name.collect(),
            by_inode: by_inode.collect(),
            now,
            by: config.identity,
            access,
        }
    }

    /// Returns the identity of an object whose name, size and version a receipt has: of a million videos, of most.
    pub(super) fn unchanged(&self, listed: &'a ListedVideo) -> Option<Identified<'a>> {
        let ListedVideo { uri, known, about, unread } = listed;
        let (bytes, modified) = known.as_ref().filter(|(_, modified)| !modified.is_empty())?;
        if unread.is_some()
            || is_tar(uri)
            || address(uri).is_none()
            || self.now.left_out.contains_key(uri)
        {
            return None;
        }
        let same = *self.by_name.get(&(uri.as_str(), *bytes, modified.as_str(), None))?;
        Some(Identified {
            digest: same.digest.as_str().into(),
            known: true,
            about,
            is: Is::Known(same),
        })
    }

    /// Gives a video its identity, or says why it is left for the next run. One that never can be read is a video, too.
    ///
    /// # Errors
    /// Where an object store fails in passing.
    pub(super) fn identity(
        &self,
        found: Candidate,
        about: &'a About,
    ) -> dataset::Result<Result<Identified<'a>, LeftOut>> {
        let uri = found.uri.clone();
        let unread = match (self.now.left_out.get(&uri), found.unread.clone()) {
            (Some(reason), _) => Unread::Passing(reason.clone()),
            (None, Some(unread)) => unread,
            (None, None) => match self.video(found, about)? {
                Ok(video) => return Ok(Ok(video)),
                Err(unread) => unread,
            },
        };
        Ok(match unread {
            Unread::Passing(reason) => Err(LeftOut { video: uri, reason }),
            Unread::Refused(refused) => Ok(refuse(uri, &refused, about)),
        })
    }

    fn video(&self, found: Candidate, about: &'a About) -> Read<Identified<'a>> {
        let Candidate { uri, known: told, archived, inode, .. } = found;
        // What a list says of a local file is not believed.
        let told = told.filter(|_| address(&uri).is_some() || archived.is_some());
        let version = match told {
            Some((bytes, modified)) => Version { bytes, modified, inode },
            None => match self.look(&uri)? {
                Ok(version) => version,
                Err(unread) => return Ok(Err(unread)),
            },
        };
        let at = archived.as_ref().map(|archived| archived.at);
        let same = self.known(&uri, &version, at);
        if let Some(same) = same.filter(|same| archived.is_none() && same.uri == uri) {
            return Ok(Ok(Identified {
                digest: same.digest.as_str().into(),
                known: true,
                about,
                is: Is::Known(same),
            }));
        }
        let digest = match same {
            Some(same) => same.digest.clone(),
            None => match self.digest(&uri, archived.as_ref(), &version)? {
                Ok(digest) => digest,
                Err(unread) => return Ok(Err(unread)),
            },
        };
        let Version { bytes, modified, inode } = version;
        let video = VideoSource {
            uri,
            digest: digest.clone(),
            bytes,
            modified,
            archived,
            inode,
            ..VideoSource::default()
        };
        Ok(Ok(Identified {
            digest: digest.into(),
            known: same.is_some(),
            about,
            is: Is::New(Box::new(video)),
        }))
    }

    /// Returns the record of a file that is the same as before. Of two files that have swapped their names, and agree in size and time, the
    /// inode tells which is which.
    fn known(&self, uri: &str, version: &Version, at: Option<u64>) -> Option<&'a VideoRecord> {
        let Version { bytes, modified, inode } = version;
        let by_name = self.by_name.get(&(uri, *bytes, modified.as_str(), at)).copied();
        let by_inode = inode
            .and_then(|inode| self.by_inode.get(&(inode, *bytes, modified.as_str(), at)).copied());
        match (by_name, by_inode) {
            (Some(named), _) if named.inode.is_none() || named.inode == *inode => Some(named),
            (named, moved) => moved.or(named),
        }
    }

    /// Looks at a file, which must be one. A local one that was changed a moment ago is left for the next run.
    fn look(&self, uri: &str) -> Read<Version> {
        if address(uri).is_some() {
            let version = readable(uri, version_of(uri, self.access))?;
            return Ok(version.map(|(bytes, modified)| Version { bytes, modified, inode: None }));
        }
        // Asked before opening: opening a pipe that nobody writes to never returns.
        let metadata = match readable(uri, std::fs::metadata(local_path(uri)))? {
            Ok(metadata) => metadata,
            Err(unread) => return Ok(Err(unread)),
        };
        if !metadata.is_file() {
            let seen = format!("is {}, expected a file", sort_of(&metadata));
            return Ok(Err(Unread::Refused(Refused::new(EntryClass::NotAFile, seen))));
        }
        let age = metadata
            .modified()
            .ok()
            .and_then(|changed| SystemTime::now().duration_since(changed).ok());
        if let Some(age) = age.filter(|age| *age < self.now.min_age) {
            let (age, least) = (age.as_secs_f64(), self.now.min_age.as_secs_f64());
            let reason = format!(
                "it was changed {age:.0} s ago, and may still be written until that is {least:.0} s ago"
            );
            return Ok(Err(Unread::Passing(reason)));
        }
        let version = readable(uri, version_of(uri, self.access))?;
        Ok(version.map(|(bytes, modified)| Version {
            bytes,
            modified,
            inode: Some(metadata.ino()),
        }))
    }

    /// Reads what makes a video the one it is.
    fn digest(&self, uri: &str, archived: Option<&Archived>, version: &Version) -> Read<String> {
        let Version { bytes, modified, .. } = version;
        let at = archived.map(|archived| archived.at);
        if self.by == Identity::Etag && address(uri).is_some() {
            let text = format!("etag\n{modified}\n{bytes}\n{at:?}");
            return Ok(Ok(blake3::hash(text.as_bytes()).to_hex().to_string()));
        }
        let place = archived.map_or(uri, |archived| &archived.path);
        let content = open_source(place, at.map(|at| (at, *bytes)), self.access)
            .and_then(|content| read_digest(content, *bytes));
        Ok(readable(uri, content)?.and_then(|digest| {
            let seen = "it is the text that Git LFS keeps in place of the video";
            digest.ok_or_else(|| Unread::Refused(Refused::new(EntryClass::GitLfsPointer, seen)))
        }))
    }
}

/// Returns a video that is never read, but has a reject.
fn refuse<'a>(uri: String, refused: &Refused, about: &'a About) -> Identified<'a> {
    let class = refused.class.as_str();
    let digest = blake3::hash(format!("{class}\n{uri}").as_bytes()).to_hex().to_string();
    let unusable = Some((class.to_owned(), format!("{uri}: {}", refused.reason)));
    let video = VideoSource { uri, digest: digest.clone(), unusable, ..VideoSource::default() };
    Identified { digest: digest.into(), known: false, about, is: Is::New(Box::new(video)) }
}

/// How the text begins that Git LFS keeps in place of a file, and what is longer than any of them.
const LFS_POINTER: (&[u8], u64) = (b"version https://git-lfs.github.com/spec/", 1024);

/// Reads a file to its end; returns its digest, or `None` for the text that Git LFS keeps in place of a file.
fn read_digest(mut content: impl io::Read, bytes: u64) -> io::Result<Option<String>> {
    let mut hasher = blake3::Hasher::new();
    if bytes < LFS_POINTER.1 {
        let mut text = Vec::new();
        content.by_ref().take(LFS_POINTER.1).read_to_end(&mut text)?;
        if text.starts_with(LFS_POINTER.0) {
            return Ok(None);
        }
        hasher.update(&text);
    }
    Ok(Some(hasher.update_reader(content)?.finalize().to_hex().to_string()))
}

/// Says of a fault whether it may pass. One of an object store that passes is an error: nothing follows from it for the video.
fn readable<T>(uri: &str, answer: io::Result<T>) -> Read<T> {
    match answer.map_err(|cause| dataset::Error::Io { action: "read", path: uri.to_owned(), cause })
    {
        Err(error) if address(uri).is_some() && error.is_transient() => Err(error),
        Err(dataset::Error::Io { cause, .. }) if may_pass(&cause) => {
            Ok(Err(Unread::Passing(cause.to_string())))
        }
        Err(dataset::Error::Io { cause, .. }) => {
            Ok(Err(Unread::Refused(Refused::new(EntryClass::Unreadable, cause))))
        }
        answer => Ok(Ok(answer?)),
    }
}

/// Returns whether a local file may be readable later with nothing changed by hand: a disk error, a network disk that is away.
pub fn may_pass(cause: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, NotConnected, ResourceBusy, StaleNetworkFileHandle, TimedOut,
        WouldBlock,
    };
    /// What Linux says of a disk that does not answer, and of too many open files.
    const TRANSIENT: [i32; 3] = [5, 23, 24];
    cause.raw_os_error().is_some_and(|code| TRANSIENT.contains(&code))
        || matches!(
            cause.kind(),
            ConnectionAborted
                | ConnectionReset
                | HostUnreachable
                | Interrupted
                | NetworkDown
                | NetworkUnreachable
                | NotConnected
                | ResourceBusy
                | StaleNetworkFileHandle
                | TimedOut
                | WouldBlock
        )
}

fn sort_of(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() { "a folder" } else { "a pipe or device" }
}
