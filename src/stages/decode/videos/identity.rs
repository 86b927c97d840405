//! The identity of a listed entry: its content, taken from a receipt if it is unchanged, and read
//! otherwise. Start at [`candidates`], then [`KnownVideos::identity`].
//!
//! A name does not identify a video. A known file is recognised by name, size and time, or by
//! inode, size and time. So a video that was renamed, moved or swapped with another one is not read
//! again.

use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::SystemTime;

use super::episode_videos::RecentIndexes;
use super::transient::is_transient_io;
use super::{DeferredVideos, Identified, Origin};
use crate::dataset::lerobot::EpisodeVideo;
use crate::dataset::{
    self, Access, EntryClass, EntryError, EntryFault, HashMap, ListMetadata, ListedVideo, Member,
    Receipt, VideoRecord, address, local_path, members, open_source, size_and_version,
};
use crate::stages::decode::{Archived, DecodeConfig, Identity, VideoSource};
use crate::stages::plan::DeferredVideo;

/// Extensions of archives other than plain tar.
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

/// An entry that may be a video.
pub(super) struct Candidate {
    /// Its name: the path or address, followed by the path within the archive if it is in one.
    uri: String,
    /// Its size and version, if a listing has them.
    known: Option<(u64, String)>,
    archived: Option<Archived>,
    /// Where its frames are, if it is an episode of a LeRobot dataset.
    episode: Option<Box<EpisodeVideo>>,
    /// The inode of the archive that holds it.
    inode: Option<u64>,
    /// Why it cannot be read, if that is known already.
    unread: Option<EntryError>,
}

/// A value, or why it cannot be read. An error means that an object store fails for now.
pub(super) type Read<T> = dataset::Result<Result<T, EntryError>>;

/// Returns the videos of a listed entry: the entry itself, or the members of an archive.
///
/// # Errors
/// Returns an error if an object store fails for now.
pub(super) fn candidates(
    listed: &ListedVideo,
    known: &KnownVideos,
) -> dataset::Result<Vec<Candidate>> {
    let ListedVideo { uri, known: listed_version, unread, episode, .. } = listed;
    let alone = |unread: Option<EntryError>| {
        Ok(vec![Candidate {
            uri: uri.clone(),
            known: listed_version.clone(),
            archived: None,
            episode: episode.clone(),
            inode: None,
            unread,
        }])
    };
    if episode.is_some() {
        return alone(unread.clone());
    }
    if unread.is_some() || !is_tar(uri) {
        let name = uri.to_ascii_lowercase();
        let ending = OTHER_ARCHIVES.iter().find(|ending| name.ends_with(**ending));
        let packed = ending.map(|ending| {
            EntryFault::new(EntryClass::CompressedArchive, format!("it is an archive (`{ending}`)"))
        });
        return alone(unread.clone().or(packed.map(EntryError::Refused)));
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
                episode: None,
                inode: version.inode,
                unread: member.refused.map(EntryError::Refused),
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

/// The size and the version of a file.
pub(super) struct Version {
    pub(super) bytes: u64,
    /// Nanoseconds since 1970, or an etag.
    pub(super) modified: String,
    pub(super) inode: Option<u64>,
}

/// The videos of receipts, and the settings that identify videos.
pub(super) struct KnownVideos<'a> {
    /// Records by name, size, version and offset in an archive. One name may have had several
    /// contents.
    by_name: HashMap<(&'a str, u64, &'a str, Option<u64>), &'a VideoRecord>,
    /// The same records by inode, size, version and offset. One file may have had several names.
    by_inode: HashMap<(u64, u64, &'a str, Option<u64>), &'a VideoRecord>,
    now: &'a DeferredVideos,
    by: Identity,
    pub(super) access: &'a Access,
    pub(super) mp4s: RecentIndexes,
}

impl<'a> KnownVideos<'a> {
    /// Indexes the videos of receipts. Earlier receipts are newer and win.
    pub(super) fn new(
        receipts: &'a [Arc<Receipt>],
        now: &'a DeferredVideos,
        config: &DecodeConfig,
        access: &'a Access,
    ) -> Self {
        let records = || {
            receipts
                .iter()
                // Reversed, so that the newest record overwrites older ones.
                .rev()
                .flat_map(|receipt| &receipt.videos)
                // Videos that could not be read have no time.
                .filter(|video| !video.modified.is_empty())
        };
        let by_name = records().map(|video| {
            ((video.uri.as_str(), video.bytes, video.modified.as_str(), video.at), video)
        });
        let by_inode = records().filter_map(|video| {
            Some(((video.inode?, video.bytes, video.modified.as_str(), video.at), video))
        });
        KnownVideos {
            by_name: by_name.collect(),
            by_inode: by_inode.collect(),
            now,
            by: config.identity,
            access,
            mp4s: RecentIndexes::default(),
        }
    }

    /// Returns the identity of an object a receipt has with the same name, size and version. This
    /// is the fast path of most objects.
    pub(super) fn unchanged(&self, listed: &'a ListedVideo) -> Option<Identified<'a>> {
        let ListedVideo { uri, known, about, unread, .. } = listed;
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
            origin: Origin::Known(same),
        })
    }

    /// Identifies a video, or returns why it is left for the next run. A permanently unreadable
    /// video has an identity, too.
    ///
    /// # Errors
    /// Returns an error if an object store fails for now.
    pub(super) fn identity(
        &self,
        found: Candidate,
        about: &'a ListMetadata,
    ) -> dataset::Result<Result<Identified<'a>, DeferredVideo>> {
        let uri = found.uri.clone();
        let unread = match (self.now.left_out.get(&uri), found.unread.clone()) {
            (Some(reason), _) => EntryError::Passing(reason.clone()),
            (None, Some(unread)) => unread,
            (None, None) => match self.video(found, about)? {
                Ok(video) => return Ok(Ok(video)),
                Err(unread) => unread,
            },
        };
        Ok(match unread {
            EntryError::Passing(reason) => Err(DeferredVideo { video: uri, reason }),
            EntryError::Refused(refused) => Ok(refuse(uri, &refused, about)),
        })
    }

    fn video(&self, found: Candidate, about: &'a ListMetadata) -> Read<Identified<'a>> {
        let Candidate { uri, known: listed_version, archived, episode, inode, .. } = found;
        if let Some(episode) = episode {
            return self.episode(uri, &episode, about);
        }
        // Sizes of local files in lists are not trusted.
        let listed_version =
            listed_version.filter(|_| address(&uri).is_some() || archived.is_some());
        let version = match listed_version {
            Some((bytes, modified)) => Version { bytes, modified, inode },
            None => match self.look(&uri)? {
                Ok(version) => version,
                Err(unread) => return Ok(Err(unread)),
            },
        };
        let at = archived.as_ref().map(|archived| archived.at);
        // The same content may have another name now; only its digest is reused then.
        let same = self.known(&uri, &version, at);
        if let Some(same) = same.filter(|same| archived.is_none() && same.uri == uri) {
            return Ok(Ok(Identified {
                digest: same.digest.as_str().into(),
                known: true,
                about,
                origin: Origin::Known(same),
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
        let video =
            VideoSource { uri, digest, bytes, modified, archived, inode, ..VideoSource::default() };
        Ok(Ok(Identified::new(video, same.is_some(), about)))
    }

    /// Returns the record of an unchanged file. If two files with equal sizes and times swapped
    /// names, the inode decides.
    pub(super) fn known(
        &self,
        uri: &str,
        version: &Version,
        at: Option<u64>,
    ) -> Option<&'a VideoRecord> {
        let Version { bytes, modified, inode } = version;
        let by_name = self.by_name.get(&(uri, *bytes, modified.as_str(), at)).copied();
        let by_inode = inode
            .and_then(|inode| self.by_inode.get(&(inode, *bytes, modified.as_str(), at)).copied());
        // A receipt without an inode comes from an older version or from an object store.
        match (by_name, by_inode) {
            (Some(named), _) if named.inode.is_none() || named.inode == *inode => Some(named),
            (named, moved) => moved.or(named),
        }
    }

    /// Returns the version of a file. A recently changed local file is left for the next run.
    pub(super) fn look(&self, uri: &str) -> Read<Version> {
        if address(uri).is_some() {
            let version = readable(uri, size_and_version(uri, self.access))?;
            return Ok(version.map(|(bytes, modified)| Version { bytes, modified, inode: None }));
        }
        // Checked before opening, since opening a pipe without a writer blocks forever.
        let metadata = match readable(uri, std::fs::metadata(local_path(uri)))? {
            Ok(metadata) => metadata,
            Err(unread) => return Ok(Err(unread)),
        };
        if !metadata.is_file() {
            let seen = format!("is {}, expected a file", kind_of_entry(&metadata));
            return Ok(Err(EntryError::Refused(EntryFault::new(EntryClass::NotAFile, seen))));
        }
        let age = metadata
            .modified()
            .ok()
            .and_then(|changed| SystemTime::now().duration_since(changed).ok());
        if let Some(age) = age.filter(|age| *age < self.now.min_age) {
            let reason = format!(
                "it was changed {:.0} s ago, and may still be written until {:.0} s after its last \
                 change",
                age.as_secs_f64(),
                self.now.min_age.as_secs_f64()
            );
            return Ok(Err(EntryError::Passing(reason)));
        }
        let version = readable(uri, size_and_version(uri, self.access))?;
        Ok(version.map(|(bytes, modified)| Version {
            bytes,
            modified,
            inode: Some(metadata.ino()),
        }))
    }

    /// Returns the digest of a video's content, or of its etag.
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
            let seen = "it is a Git LFS pointer, not the video";
            digest.ok_or_else(|| {
                EntryError::Refused(EntryFault::new(EntryClass::GitLfsPointer, seen))
            })
        }))
    }
}

/// Returns an unreadable video with a reject.
fn refuse<'a>(uri: String, refused: &EntryFault, about: &'a ListMetadata) -> Identified<'a> {
    let class = refused.class.as_str();
    // The content is unknown, so the name stands for it.
    let digest = blake3::hash(format!("{class}\n{uri}").as_bytes()).to_hex().to_string();
    let unusable = Some((class.to_owned(), format!("{uri}: {}", refused.reason)));
    let video = VideoSource { uri, digest, unusable, ..VideoSource::default() };
    Identified::new(video, false, about)
}

/// The first bytes of a Git LFS pointer, and a size that none of them reaches.
const LFS_POINTER: (&[u8], u64) = (b"version https://git-lfs.github.com/spec/", 1024);

/// Returns the digest of a file, or `None` for a Git LFS pointer.
pub(super) fn read_digest(mut content: impl io::Read, bytes: u64) -> io::Result<Option<String>> {
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

/// Sorts read errors into passing and permanent ones. A passing failure of an object store is an
/// error, because it concerns no single video.
pub(super) fn readable<T>(uri: &str, answer: io::Result<T>) -> Read<T> {
    match answer.map_err(|cause| dataset::Error::Io { action: "read", path: uri.to_owned(), cause })
    {
        Err(error) if address(uri).is_some() && error.is_transient() => Err(error),
        Err(dataset::Error::Io { cause, .. }) if is_transient_io(&cause) => {
            Ok(Err(EntryError::Passing(cause.to_string())))
        }
        Err(dataset::Error::Io { cause, .. }) => {
            Ok(Err(EntryError::Refused(EntryFault::new(EntryClass::Unreadable, cause))))
        }
        answer => Ok(Ok(answer?)),
    }
}

fn kind_of_entry(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() { "a folder" } else { "a pipe or device" }
}
