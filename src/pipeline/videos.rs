//! Patterns become videos with an identity. In: glob patterns, of files and of objects in a store; out: [`VideoSource`]s, by name and by
//! the blake3 of their bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::sync::Arc;

use glob::{MatchOptions, Pattern};
use rayon::prelude::*;

use crate::dataset::{
    self, About, Access, HashMap, HashSet, ListedVideo, Member, Receipt, Store, VideoRecord, address, members, open_source, version_of,
};
use crate::stages::decode::{Archived, DecodeConfig, Duplicates, Identity, VideoSource};

use super::plan::LeftOut;

/// What a pattern matches, here or in an object store.
pub fn matching(pattern: &str, access: &Access) -> Result<Vec<ListedVideo>, String> {
    match address(pattern) {
        Some((bucket, path)) => objects(bucket, path, access),
        None => files(pattern),
    }
}

/// A folder counts only where it is named like a file: `x.mp4/` is a broken video.
fn files(pattern: &str) -> Result<Vec<ListedVideo>, String> {
    let paths = glob::glob(pattern).map_err(|e| format!("`{pattern}` is not a pattern: {e}"))?;
    let mut found = Vec::new();
    for path in paths {
        let path = path.map_err(|e| format!("cannot list {}: {}", e.path().display(), e.error()))?;
        if path.extension().is_some() || !path.is_dir() {
            found.push(ListedVideo { uri: path.to_string_lossy().into_owned(), known: None, about: About::default() });
        }
    }
    Ok(found)
}

/// Lists what lies below the part of the pattern that is plain.
fn objects(bucket: &str, pattern: &str, access: &Access) -> Result<Vec<ListedVideo>, String> {
    let like = Pattern::new(pattern).map_err(|e| format!("`{bucket}/{pattern}` is not a pattern: {e}"))?;
    let plain = &pattern[..pattern.find(['*', '?', '[']).unwrap_or(pattern.len())];
    let folder = plain.rsplit_once('/').map_or("", |(folder, _)| folder);
    let listed = Store::open_with(bucket, access).and_then(|store| store.files(folder)).map_err(|e| e.to_string())?;
    let as_in_paths = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let fitting = listed.into_iter().filter(|object| like.matches_with(&object.path, as_in_paths));
    Ok(fitting
        .map(|object| ListedVideo {
            uri: format!("{bucket}/{}", object.path),
            known: Some((object.bytes, object.version())),
            about: About::default(),
        })
        .collect())
}

/// The blake3 of a local file; of one that cannot be read, something that no file has: the task that needs it says why.
pub fn digest_of(file: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(file).and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.map_or_else(|_| blake3::hash(format!("unreadable\n{file}").as_bytes()), |()| hasher.finalize()).to_hex().to_string()
}

/// A video somewhere, not yet looked at.
struct Candidate {
    /// Its name: the path or address, and in an archive the path within.
    uri: String,
    /// Size and version, where a listing told them.
    known: Option<(u64, String)>,
    archived: Option<Archived>,
    /// Why it cannot be read, where that is known already.
    unusable: Option<String>,
}

/// A video with its identity. Of a million most are known, and cost a few words each.
pub struct Identified<'a> {
    /// What makes it the video it is; [`VideoSource::digest`].
    pub digest: Cow<'a, str>,
    /// Whether that is what a receipt calls it already.
    known: bool,
    /// What a list says of it.
    pub about: &'a About,
    is: Is<'a>,
}

enum Is<'a> {
    /// The video of a receipt, unchanged.
    Known(&'a VideoRecord),
    New(Box<VideoSource>),
}

impl Identified<'_> {
    /// All that a task must know of it.
    pub fn source(&self) -> VideoSource {
        let (digest, about) = (self.digest.clone().into_owned(), self.about.clone());
        match &self.is {
            Is::New(video) => VideoSource { digest, about, ..(**video).clone() },
            Is::Known(VideoRecord { uri, bytes, modified, .. }) => {
                let (uri, modified) = (uri.clone(), modified.clone());
                VideoSource { uri, digest, bytes: *bytes, modified, archived: None, about, unusable: None }
            }
        }
    }
}

/// Videos with their identities, and those that are left for the next run.
pub struct Identities<'a> {
    /// Those that can be read.
    pub videos: Vec<Identified<'a>>,
    /// Those that cannot be read now; what was read of one before stays as it is.
    pub left_out: Vec<LeftOut>,
}

/// What is known when a video gets its identity.
struct Known<'a> {
    /// Records of receipts by name, size, version and place in an archive: one name may have had several contents.
    records: HashMap<(&'a str, u64, &'a str, Option<u64>), &'a VideoRecord>,
    left_out: &'a BTreeMap<String, String>,
    by: Identity,
    access: &'a Access,
}

impl<'a> Known<'a> {
    /// The identity of an object whose name, size and version a receipt has.
    fn unchanged(&self, listed: &'a ListedVideo) -> Option<Identified<'a>> {
        let ListedVideo { uri, known, about } = listed;
        let (bytes, modified) = known.as_ref().filter(|(_, modified)| !modified.is_empty())?;
        if is_archive(uri) || address(uri).is_none() || self.left_out.contains_key(uri) {
            return None;
        }
        let same = *self.records.get(&(uri.as_str(), *bytes, modified.as_str(), None))?;
        Some(Identified { digest: same.digest.as_str().into(), known: true, about, is: Is::Known(same) })
    }
}

/// Gives every video its identity; of a tar archive, every video in it. Unchanged ones (same name, size and time or etag as in a receipt)
/// are not read again. Those of `left_out` are not looked at: what was read of them before stays.
///
/// # Errors
/// Where an object store fails in passing; a video that cannot be read is one of the outcomes.
pub fn identify<'a>(
    listed: &'a [ListedVideo],
    receipts: &'a [Arc<Receipt>],
    left_out: &'a BTreeMap<String, String>,
    config: &DecodeConfig,
    access: &'a Access,
) -> dataset::Result<Identities<'a>> {
    let records = || receipts.iter().rev().flat_map(|receipt| &receipt.videos);
    let mut by_version = HashMap::default();
    by_version.reserve(receipts.iter().map(|receipt| receipt.videos.len()).sum());
    by_version.extend(records().map(|video| ((video.uri.as_str(), video.bytes, video.modified.as_str(), video.at), video)));
    let known = Known { records: by_version, left_out, by: config.identity, access };
    let of = |listed: &'a ListedVideo| {
        let unchanged = known.unchanged(listed);
        let looked = match unchanged.is_none().then(|| candidates(listed, access)) {
            None => vec![],
            Some(Ok(found)) => found.into_iter().map(|found| identity(found, &listed.about, &known)).collect(),
            Some(Err(error)) => vec![Err(error)],
        };
        unchanged.map(|video| Ok(Ok(video))).into_iter().chain(looked)
    };
    let found: Vec<Result<Identified, LeftOut>> = listed.par_iter().flat_map_iter(of).collect::<dataset::Result<_>>()?;
    let (mut videos, mut waiting) = (Vec::with_capacity(found.len()), Vec::new());
    // The last of a name, whatever its content.
    let named: HashMap<&str, &VideoRecord> = match found.iter().any(Result::is_err) {
        true => records().map(|video| (video.uri.as_str(), video)).collect(),
        false => HashMap::default(),
    };
    for one in found {
        match one {
            Ok(video) => videos.push(video),
            Err(left) => {
                if let Some(record) = named.get(left.video.as_str()) {
                    videos.push(Identified {
                        digest: record.digest.as_str().into(),
                        known: true,
                        about: &record.about,
                        is: Is::Known(record),
                    });
                }
                waiting.push(left);
            }
        }
    }
    number_copies(&mut videos, config.duplicates);
    Ok(Identities { videos, left_out: waiting })
}

/// Of videos with the same bytes all but one are told apart by a number. One that has rows keeps its number, whatever comes later; where
/// copies are skipped, the numbers are by name alone, since there must be a first one.
fn number_copies(videos: &mut [Identified], duplicates: Duplicates) {
    let (mut taken, mut numbers) = (HashSet::default(), HashMap::<&str, usize>::default());
    taken.reserve(videos.len());
    let stay = |video: &Identified| duplicates == Duplicates::Keep && video.known;
    let stay: Vec<bool> = videos.iter().map(|video| stay(video) && taken.insert(&*video.digest)).collect();
    let numbered = videos.iter().zip(stay).map(|(video, stays)| {
        if stays {
            return None;
        }
        let bytes = of_bytes(&video.digest);
        let last = numbers.entry(bytes).or_default();
        let mut digests = (*last + 1..).map(|n| (n, if n == 1 { bytes.to_owned() } else { format!("{bytes}#{n}") }));
        let (number, digest) = digests.find(|(_, digest)| !taken.contains(digest.as_str()))?;
        *last = number;
        (digest != video.digest).then_some(digest)
    });
    let numbered: Vec<Option<String>> = numbered.collect();
    for (video, digest) in videos.iter_mut().zip(numbered) {
        if let Some(digest) = digest {
            video.digest = digest.into();
        }
    }
}

/// A digest without the number that tells copies apart.
fn of_bytes(digest: &str) -> &str {
    digest.split('#').next().unwrap_or_default()
}

fn is_archive(uri: &str) -> bool {
    let end = uri.len().saturating_sub(4);
    uri.is_char_boundary(end) && uri[end..].eq_ignore_ascii_case(".tar")
}

/// The videos that a listed file holds: itself, or, if it is an archive, those in it.
fn candidates(listed: &ListedVideo, access: &Access) -> dataset::Result<Vec<Candidate>> {
    let ListedVideo { uri, known, .. } = listed;
    if !is_archive(uri) {
        return Ok(vec![Candidate { uri: uri.clone(), known: known.clone(), archived: None, unusable: None }]);
    }
    let found = version_of(uri, access).and_then(|(_, version)| Ok((version, members(uri, access)?)));
    match passing(uri, found)? {
        Ok((version, members)) => {
            let candidate = |member: Member| Candidate {
                uri: format!("{uri}/{}", member.name),
                known: Some((member.bytes, version.clone())),
                archived: Some(Archived { path: uri.clone(), at: member.at }),
                unusable: None,
            };
            Ok(members.into_iter().map(candidate).collect())
        }
        Err(cause) => Ok(vec![Candidate { uri: uri.clone(), known: None, archived: None, unusable: Some(format!("{uri}: {cause}")) }]),
    }
}

fn identity<'a>(found: Candidate, about: &'a About, known: &Known<'a>) -> dataset::Result<Result<Identified<'a>, LeftOut>> {
    let Candidate { uri, known: listed, archived, unusable } = found;
    if let Some(reason) = known.left_out.get(&uri) {
        return Ok(Err(LeftOut { video: uri, reason: reason.clone() }));
    }
    let left_out = |cause: &io::Error| LeftOut { video: uri.clone(), reason: cause.to_string() };
    let new = |video: VideoSource| Identified { digest: video.digest.clone().into(), known: false, about, is: Is::New(Box::new(video)) };
    let refuse = |class: &str, reason: String| {
        let digest = blake3::hash(format!("{class}\n{uri}").as_bytes()).to_hex().to_string();
        let unusable = Some((class.into(), reason));
        new(VideoSource { uri: uri.clone(), digest, bytes: 0, modified: String::new(), archived: None, about: About::default(), unusable })
    };
    if let Some(reason) = unusable {
        return Ok(Ok(refuse("unreadable", reason)));
    }
    let remote = address(&uri).is_some();
    // Asked before opening: opening a pipe that nobody writes to never returns.
    if !remote && archived.is_none() {
        match std::fs::metadata(&uri) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(metadata) => return Ok(Ok(refuse("not_a_file", format!("{uri}: is {}, expected a file", sort_of(&metadata))))),
            Err(cause) if may_pass(&cause) => return Ok(Err(left_out(&cause))),
            Err(cause) => return Ok(Ok(refuse("unreadable", format!("{uri}: {cause}")))),
        }
    }
    let told = listed.filter(|_| remote || archived.is_some());
    let looked = told.map_or_else(|| version_of(&uri, known.access), Ok);
    let (bytes, modified) = match passing(&uri, looked)? {
        Ok(found) => found,
        Err(cause) if may_pass(&cause) => return Ok(Err(left_out(&cause))),
        Err(cause) => return Ok(Ok(refuse("unreadable", format!("{uri}: {cause}")))),
    };
    let within = archived.as_ref().map(|archived| archived.at);
    let same = known.records.get(&(uri.as_str(), bytes, modified.as_str(), within)).copied().filter(|_| !modified.is_empty());
    let digest = match same {
        Some(same) if archived.is_none() => {
            return Ok(Ok(Identified { digest: same.digest.as_str().into(), known: true, about, is: Is::Known(same) }));
        }
        Some(same) => Ok(same.digest.clone()),
        None if known.by == Identity::Etag && remote => {
            Ok(blake3::hash(format!("etag\n{modified}\n{bytes}\n{within:?}").as_bytes()).to_hex().to_string())
        }
        None => {
            let place = archived.as_ref().map_or(uri.as_str(), |archived| &archived.path);
            let content = open_source(place, within.map(|at| (at, bytes)), known.access);
            content.and_then(|content| Ok(blake3::Hasher::new().update_reader(content)?.finalize().to_hex().to_string()))
        }
    };
    match passing(&uri, digest)? {
        Ok(digest) => {
            let video = VideoSource { uri: uri.clone(), digest, bytes, modified, archived, about: About::default(), unusable: None };
            Ok(Ok(Identified { known: same.is_some(), ..new(video) }))
        }
        Err(cause) if may_pass(&cause) => Ok(Err(left_out(&cause))),
        Err(cause) => Ok(Ok(refuse("unreadable", format!("{uri}: {cause}")))),
    }
}

/// Takes a fault of an object store that passes for an error: nothing follows from it for the video.
fn passing<T>(uri: &str, answer: io::Result<T>) -> dataset::Result<io::Result<T>> {
    match answer.map_err(|cause| dataset::Error::Io { action: "read", path: uri.to_owned(), cause }) {
        Err(error) if address(uri).is_some() && error.is_transient() => Err(error),
        Err(dataset::Error::Io { cause, .. }) => Ok(Err(cause)),
        answer => Ok(Ok(answer?)),
    }
}

/// Whether a local file may be readable later with nothing changed by hand: a disk error, a network disk that is away.
fn may_pass(cause: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, NotConnected, ResourceBusy,
        StaleNetworkFileHandle, TimedOut, WouldBlock,
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
