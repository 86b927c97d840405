//! The identities of videos. Start at [`identify`]: it turns the entries of patterns and lists into
//! [`VideoSource`]s, identified by name and by the blake3 of their bytes. An unreadable entry is a
//! video with a reject.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use crate::dataset::{
    self, Access, HashMap, HashSet, ListMetadata, ListedVideo, Receipt, VideoRecord, local_path,
};
use crate::stages::decode::{DecodeConfig, Duplicates, VideoSource};

mod episode_videos;
mod identity;
mod transient;

use identity::{KnownVideos, candidates};
pub use transient::is_transient_io;

use crate::stages::plan::DeferredVideo;

/// Returns the blake3 of a local file. For an unreadable file it returns a digest no file has; the
/// task that needs the file reports the error.
pub fn digest_of(file: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(local_path(file))
        .and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.map_or_else(
        |_| blake3::hash(format!("unreadable\n{file}").as_bytes()),
        |()| hasher.finalize(),
    )
    .to_hex()
    .to_string()
}

/// A video with its identity. It borrows from a receipt, because most of a million videos are
/// known.
pub struct Identified<'a> {
    /// The identity: [`VideoSource::digest`].
    pub digest: Cow<'a, str>,
    /// Whether a receipt has this digest.
    known: bool,
    /// The columns of a list about the video.
    pub about: &'a ListMetadata,
    origin: Origin<'a>,
}

enum Origin<'a> {
    /// An unchanged video of a receipt.
    Known(&'a VideoRecord),
    New(Box<VideoSource>),
}

impl<'a> Identified<'a> {
    /// Creates a video that is read now. `known` tells whether a receipt has its digest.
    fn new(video: VideoSource, known: bool, about: &'a ListMetadata) -> Self {
        let digest = video.digest.clone().into();
        Identified { digest, known, about, origin: Origin::New(Box::new(video)) }
    }

    /// Returns its current name.
    pub fn uri(&self) -> &str {
        match &self.origin {
            Origin::New(video) => &video.uri,
            Origin::Known(record) => &record.uri,
        }
    }

    /// Returns the video as the input of a task.
    pub fn source(&self) -> VideoSource {
        let digest = self.digest.clone().into_owned();
        let about = self.about.clone();
        match &self.origin {
            Origin::New(video) => VideoSource { digest, about, ..(**video).clone() },
            Origin::Known(VideoRecord { uri, bytes, modified, inode, .. }) => VideoSource {
                uri: uri.clone(),
                digest,
                bytes: *bytes,
                modified: modified.clone(),
                inode: *inode,
                about,
                ..VideoSource::default()
            },
        }
    }
}

/// The videos this run ignores.
#[derive(Clone, Debug, Default)]
pub struct DeferredVideos {
    /// Videos left for the next run, and the reasons.
    pub left_out: BTreeMap<String, String>,
    /// Files changed less long ago are also left, since they may still be written.
    pub min_age: Duration,
}

/// Videos with their identities, and the videos left for the next run.
pub struct Identities<'a> {
    /// The videos to plan.
    pub videos: Vec<Identified<'a>>,
    /// The videos that cannot be read now. Their frames from earlier runs stay in the dataset.
    pub left_out: Vec<DeferredVideo>,
}

/// Identifies every video, and every video in a tar archive. Unchanged videos (same name, size and
/// time or etag as in a receipt) are not read again. `current` are the keys of the newest version.
///
/// # Errors
/// Returns an error if an object store fails for now. An unreadable video is not an error.
pub fn identify<'a>(
    listed: &'a [ListedVideo],
    receipts: &'a [Arc<Receipt>],
    current: &HashSet<&str>,
    now: &'a DeferredVideos,
    config: &DecodeConfig,
    access: &'a Access,
) -> dataset::Result<Identities<'a>> {
    let known = KnownVideos::new(receipts, now, config, access);
    let identify_listed = |listed: &'a ListedVideo| {
        let unchanged = known.unchanged(listed);
        let read = match unchanged.is_none().then(|| candidates(listed, &known)) {
            None => vec![],
            Some(Ok(found)) => {
                found.into_iter().map(|found| known.identity(found, &listed.about)).collect()
            }
            Some(Err(error)) => vec![Err(error)],
        };
        unchanged.map(|video| Ok(Ok(video))).into_iter().chain(read)
    };
    let found: Vec<Result<Identified, DeferredVideo>> =
        listed.par_iter().flat_map_iter(identify_listed).collect::<dataset::Result<_>>()?;
    let mut videos = Vec::with_capacity(found.len());
    let mut waiting = Vec::new();
    for one in found {
        match one {
            Ok(video) => videos.push(video),
            Err(left) => waiting.push(left),
        }
    }
    if !waiting.is_empty() {
        let newest = receipts
            .iter()
            .filter(|receipt| current.contains(receipt.key.as_str()))
            .flat_map(|receipt| &receipt.videos);
        // Without them, a disk that is away would empty the dataset.
        let stay = staying(newest, &videos, &waiting);
        videos.extend(stay.into_iter().map(|record| {
            let digest = record.digest.as_str().into();
            Identified { digest, known: true, about: &record.about, origin: Origin::Known(record) }
        }));
    }
    // Last, since videos that stay keep their numbers.
    number_copies(&mut videos, config.duplicates);
    Ok(Identities { videos, left_out: waiting })
}

/// Returns the videos of the newest version that stay, because their file, folder or archive cannot
/// be read now. A video whose bytes are found under another name was renamed instead.
fn staying<'a>(
    newest: impl Iterator<Item = &'a VideoRecord>,
    found: &[Identified],
    waiting: &[DeferredVideo],
) -> Vec<&'a VideoRecord> {
    let digests: HashSet<&str> = found.iter().map(|video| &*video.digest).collect();
    let names: HashSet<&str> =
        waiting.iter().map(|left| left.video.trim_end_matches('/')).collect();
    // Everything below an unreadable folder or archive stays.
    let below = |name: &str| {
        names.contains(name) || name.match_indices('/').any(|(at, _)| names.contains(&name[..at]))
    };
    newest
        .filter(|record| below(&record.uri) && !digests.contains(record.digest.as_str()))
        .collect()
}

/// Numbers videos with the same bytes, so that their digests differ. A video with rows keeps its
/// number. If copies are skipped, numbers follow the names alone, since there must be a first one.
fn number_copies(videos: &mut [Identified], duplicates: Duplicates) {
    let mut taken = HashSet::default();
    let mut numbers = HashMap::<&str, usize>::default();
    let stay = |video: &Identified| duplicates == Duplicates::Keep && video.known;
    let stay: Vec<bool> =
        videos.iter().map(|video| stay(video) && taken.insert(&*video.digest)).collect();
    let numbered = videos.iter().zip(stay).map(|(video, stays)| {
        // Its number is in use already.
        if stays {
            return None;
        }
        let bytes = of_bytes(&video.digest);
        let last = numbers.entry(bytes).or_default();
        let mut digests = (*last + 1..)
            .map(|n| (n, if n == 1 { bytes.to_owned() } else { format!("{bytes}#{n}") }));
        let (number, digest) = digests.find(|(_, digest)| !taken.contains(digest.as_str()))?;
        *last = number;
        (digest != video.digest).then_some(digest)
    });
    // Collected first, since the numbering borrows the digests that change below.
    let numbered: Vec<Option<String>> = numbered.collect();
    for (video, digest) in videos.iter_mut().zip(numbered) {
        if let Some(digest) = digest {
            video.digest = digest.into();
        }
    }
}

/// Returns a digest without the number of the copy.
pub fn of_bytes(digest: &str) -> &str {
    digest.split('#').next().unwrap_or_default()
}
