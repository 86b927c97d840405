//! Entries become videos with an identity. In: what patterns and lists name; out: [`VideoSource`]s, by name and by the blake3 of their
//! bytes. Start at [`identify`]. An entry that cannot be read is a video, too: one with a reject.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use crate::dataset::{
    self, About, Access, HashMap, HashSet, ListedVideo, Receipt, VideoRecord, local_path,
};
use crate::stages::decode::{DecodeConfig, Duplicates, VideoSource};

mod identity;

pub use identity::may_pass;
use identity::{Known, candidates};

use crate::stages::plan::LeftOut;

/// The blake3 of a local file; of one that cannot be read, something that no file has: the task that needs it says why.
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
    /// Its name now.
    pub fn uri(&self) -> &str {
        match &self.is {
            Is::New(video) => &video.uri,
            Is::Known(record) => &record.uri,
        }
    }

    /// All that a task must know of it.
    pub fn source(&self) -> VideoSource {
        let (digest, about) = (self.digest.clone().into_owned(), self.about.clone());
        match &self.is {
            Is::New(video) => VideoSource { digest, about, ..(**video).clone() },
            Is::Known(VideoRecord { uri, bytes, modified, inode, .. }) => {
                let (uri, modified) = (uri.clone(), modified.clone());
                VideoSource {
                    uri,
                    digest,
                    bytes: *bytes,
                    modified,
                    inode: *inode,
                    about,
                    ..VideoSource::default()
                }
            }
        }
    }
}

/// What this run says of videos, beside the pipeline.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// Those that it leaves for the next one, and why.
    pub left_out: BTreeMap<String, String>,
    /// Files that were changed less long ago are left, too: they may still be written.
    pub min_age: Duration,
}

/// Videos with their identities, and those that are left for the next run.
pub struct Identities<'a> {
    /// Those that can be read.
    pub videos: Vec<Identified<'a>>,
    /// Those that cannot be read now; what was read of one before stays as it is.
    pub left_out: Vec<LeftOut>,
}

/// Gives every video its identity; of a tar archive, every video in it. Unchanged ones (same name, size and time or etag as in a receipt)
/// are not read again. `current` are the keys of the newest version. Those of `left_out` are not looked at: what was read of them before stays.
///
/// # Errors
/// Where an object store fails in passing; a video that cannot be read is one of the outcomes.
pub fn identify<'a>(
    listed: &'a [ListedVideo],
    receipts: &'a [Arc<Receipt>],
    current: &HashSet<&str>,
    now: &'a Now,
    config: &DecodeConfig,
    access: &'a Access,
) -> dataset::Result<Identities<'a>> {
    let known = Known::new(receipts, now, config, access);
    let of = |listed: &'a ListedVideo| {
        let unchanged = known.unchanged(listed);
        let looked = match unchanged.is_none().then(|| candidates(listed, &known)) {
            None => vec![],
            Some(Ok(found)) => {
                found.into_iter().map(|found| known.identity(found, &listed.about)).collect()
            }
            Some(Err(error)) => vec![Err(error)],
        };
        unchanged.map(|video| Ok(Ok(video))).into_iter().chain(looked)
    };
    let found: Vec<Result<Identified, LeftOut>> =
        listed.par_iter().flat_map_iter(of).collect::<dataset::Result<_>>()?;
    let (mut videos, mut waiting) = (Vec::with_capacity(found.len()), Vec::new());
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
        let stay = staying(newest, &videos, &waiting);
        videos.extend(stay.into_iter().map(|record| {
            let digest = record.digest.as_str().into();
            Identified { digest, known: true, about: &record.about, is: Is::Known(record) }
        }));
    }
    number_copies(&mut videos, config.duplicates);
    Ok(Identities { videos, left_out: waiting })
}

/// Returns the videos of the newest version that stay as they are, since their file, folder or archive cannot be read now. One whose
/// bytes are found under another name has only been renamed.
fn staying<'a>(
    newest: impl Iterator<Item = &'a VideoRecord>,
    found: &[Identified],
    waiting: &[LeftOut],
) -> Vec<&'a VideoRecord> {
    let digests: HashSet<&str> = found.iter().map(|video| &*video.digest).collect();
    let names: HashSet<&str> =
        waiting.iter().map(|left| left.video.trim_end_matches('/')).collect();
    // Of a folder or an archive, all that is below it.
    let below = |name: &str| {
        names.contains(name) || name.match_indices('/').any(|(at, _)| names.contains(&name[..at]))
    };
    newest
        .filter(|record| below(&record.uri) && !digests.contains(record.digest.as_str()))
        .collect()
}

/// Of videos with the same bytes all but one are told apart by a number. One that has rows keeps its number, whatever comes later; where
/// copies are skipped, the numbers are by name alone, since there must be a first one.
fn number_copies(videos: &mut [Identified], duplicates: Duplicates) {
    let (mut taken, mut numbers) = (HashSet::default(), HashMap::<&str, usize>::default());
    let stay = |video: &Identified| duplicates == Duplicates::Keep && video.known;
    let stay: Vec<bool> =
        videos.iter().map(|video| stay(video) && taken.insert(&*video.digest)).collect();
    let numbered = videos.iter().zip(stay).map(|(video, stays)| {
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
    let numbered: Vec<Option<String>> = numbered.collect();
    for (video, digest) in videos.iter_mut().zip(numbered) {
        if let Some(digest) = digest {
            video.digest = digest.into();
        }
    }
}

/// A digest without the number that tells copies apart.
pub fn of_bytes(digest: &str) -> &str {
    digest.split('#').next().unwrap_or_default()
}
