//! Plans of `decode`. In: the videos there are, and the receipts of those that were decoded; out: partitions that are kept, and new ones.
//!
//! A partition is kept while all its videos are there, under their names of then. The other videos form new partitions: of one that has been
//! decoded before, in whatever partition and under whatever name, the frames are copied. So names in frames, labels and actions are those of
//! now, for every reader, and only new content is decoded. What it costs is that a renamed video's shard is written and labelled anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use super::videos::{Identified, Now, identify, of_bytes};
use super::{DUPLICATE, DecodeConfig, DecodeTask, Decoded, Duplicates, VideoSource};
use crate::dataset::{self, HashMap, HashSet, Receipt, VideoRecord};
use crate::stages::StageTask;
use crate::stages::plan::key::WithSettings;
use crate::stages::plan::{Given, NewTask, Planned, StagePlan};

/// Plans the tasks: old partitions stay as they are while all their videos are there, unless some are to be tried again; the other videos
/// form new ones.
pub(super) fn plan(
    config: &DecodeConfig,
    given: &Given,
    plan: &mut StagePlan,
) -> dataset::Result<()> {
    let receipts = given.receipts;
    let now = Now {
        min_age: given.now.min_age.max(Duration::from_secs_f64(config.min_age)),
        ..given.now.clone()
    };
    let current: HashSet<&str> = plan.before_entries.iter().map(|(key, _)| key.as_str()).collect();
    let identified = identify(given.videos, receipts, &current, &now, config, given.access)?;
    plan.left_out = identified.left_out;
    plan.note = (!given.notes.is_empty()).then(|| given.notes.join("; "));
    let videos = identified.videos;
    let place: HashMap<&str, usize> =
        videos.iter().enumerate().map(|(i, v)| (&*v.digest, i)).collect();
    let task =
        |videos: Vec<VideoSource>, tries: u64| DecodeTask { config: config.clone(), videos, tries };
    plan.set_settings(&task(vec![], 1).key().into_fields());

    let rank: HashMap<String, usize> =
        plan.before_entries.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
    let with_settings = WithSettings::new(&plan.settings);
    let with_settings: Vec<&Arc<Receipt>> =
        receipts.iter().filter(|r| with_settings.are_of(r)).collect();
    let mut usable: Vec<Old> =
        with_settings.par_iter().copied().map(|receipt| Old::new(receipt, &place)).collect();
    usable.sort_by_cached_key(|old| {
        (rank.get(&old.receipt.key).copied().unwrap_or(usize::MAX), old.first())
    });
    // Names, and what lists say, are those of now.
    let is_now = |video: &Identified, record: &VideoRecord| {
        video.uri() == record.uri && *video.about == record.about
    };
    let says_so = |(at, record): (&Option<usize>, &VideoRecord)| {
        at.is_none_or(|at| is_now(&videos[at], record))
    };
    usable.retain(|old| old.places.iter().zip(&old.receipt.videos).all(says_so));
    let tries = usable.iter().map(|old| tries(old.receipt)).max().unwrap_or(0) + 1;
    let (mut kept, mut covered) = covering(&usable, videos.len());
    let again = again(given, &kept);
    if again.is_empty() {
        plan.note = plan
            .note
            .take()
            .into_iter()
            .chain(nothing_again(given, &kept))
            .reduce(|note, more| format!("{note}; {more}"));
    } else {
        usable.retain(|old| old.receipt.videos.iter().all(|v| !again.contains(v.digest.as_str())));
        (kept, covered) = covering(&usable, videos.len());
    }
    let source = |video: &Identified| match config.duplicates {
        Duplicates::Skip => {
            skipped(video.source(), |digest| place.get(digest).map(|at| videos[*at].source().uri))
        }
        Duplicates::Keep => video.source(),
    };
    let missing: Vec<VideoSource> = videos
        .iter()
        .zip(&covered)
        .filter(|(_, covered)| !**covered)
        .map(|(video, _)| source(video))
        .collect();
    let kept_tasks: Vec<Planned> =
        kept.iter().map(|receipt| Planned::Done((*receipt).clone())).collect();
    let (again, mut fresh): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|v| again.contains(v.digest.as_str()));
    find_decoded(&mut fresh, &with_settings);
    for (videos, tries) in [(fresh, 1), (again, tries)] {
        for videos in partitions(videos, config.videos_per_shard, config.shard_mib << 20) {
            let task = task(videos, tries);
            let units = task.videos.len() as u64;
            plan.add(NewTask::new(task, vec![], units), given.known);
        }
    }
    kept_tasks.into_iter().for_each(|task| plan.tasks.push(task));
    let first = |task: &Planned| {
        task.digests().into_iter().filter_map(|digest| place.get(digest)).min().copied()
    };
    plan.tasks.sort_by_cached_key(|task| {
        (rank.get(task.key()).copied().unwrap_or(usize::MAX), first(task))
    });
    Ok(())
}

/// The videos of partitions in which one was rejected that is to be tried again, by digest.
fn again<'r>(given: &Given, receipts: &[&'r Arc<Receipt>]) -> HashSet<&'r str> {
    let Some(classes) = given.retry_rejected else { return HashSet::default() };
    let asked = |reject: &dataset::Reject| classes.is_empty() || classes.contains(&reject.class);
    let rejected = receipts.iter().filter(|r| r.rejects.iter().any(asked));
    rejected.flat_map(|r| &r.videos).map(|video| video.digest.as_str()).collect()
}

/// What to say where videos were to be tried again, and none is: the class may be misspelt.
fn nothing_again(given: &Given, receipts: &[&Arc<Receipt>]) -> Option<String> {
    let classes = given.retry_rejected?;
    let mut there = BTreeMap::new();
    receipts
        .iter()
        .flat_map(|r| &r.rejects)
        .for_each(|reject| *there.entry(reject.class.as_str()).or_insert(0) += 1);
    let asked =
        if classes.is_empty() { String::new() } else { format!(" as {}", classes.join(", ")) };
    let others: Vec<String> =
        there.into_iter().map(|(class, count)| format!("{count} as {class}")).collect();
    let others =
        if others.is_empty() { String::new() } else { format!("; others: {}", others.join(", ")) };
    Some(format!("no video was rejected{asked}, so none is tried again{others}"))
}

/// An old partition.
struct Old<'r> {
    receipt: &'r Arc<Receipt>,
    /// Where its videos are among those that are there.
    places: Vec<Option<usize>>,
}

impl<'r> Old<'r> {
    fn new(receipt: &'r Arc<Receipt>, place: &HashMap<&str, usize>) -> Self {
        Old {
            receipt,
            places: receipt
                .videos
                .iter()
                .map(|video| place.get(video.digest.as_str()).copied())
                .collect(),
        }
    }

    fn first(&self) -> Option<usize> {
        self.places.iter().flatten().min().copied()
    }
}

/// Receipts of videos that are there, the first of those that share one; and which of all videos they are of, by place.
fn covering<'r>(all: &[Old<'r>], videos: usize) -> (Vec<&'r Arc<Receipt>>, Vec<bool>) {
    let mut covered = vec![false; videos];
    let mut fits = |old: &&Old| {
        let fits = old.places.iter().all(|at| at.is_some_and(|at| !covered[at]));
        if fits {
            old.places.iter().flatten().for_each(|at| covered[*at] = true);
        }
        fits
    };
    let kept = all.iter().filter(|old| fits(old)).map(|old| old.receipt).collect();
    (kept, covered)
}

/// A copy is not decoded: one of its bytes is. `named` knows the video of a digest.
fn skipped(video: VideoSource, named: impl FnOnce(&str) -> Option<String>) -> VideoSource {
    let Some((first, _)) = video.digest.split_once('#') else { return video };
    let reason = format!(
        "{}: has the bytes of {}",
        video.uri,
        named(first).unwrap_or_else(|| first.to_owned())
    );
    VideoSource { unusable: Some((DUPLICATE.into(), reason)), ..video }
}

/// Says of videos that have been decoded before, under whatever name and among whatever other videos, where their frames are.
fn find_decoded(videos: &mut [VideoSource], receipts: &[&Arc<Receipt>]) {
    let wanted: HashSet<String> = videos
        .iter()
        .filter(|video| video.unusable.is_none())
        .map(|video| of_bytes(&video.digest).to_owned())
        .collect();
    if wanted.is_empty() {
        return;
    }
    let mut found: HashMap<&str, Decoded> = HashMap::default();
    for receipt in receipts {
        let file = |end: &str| receipt.files.iter().find(|file| file.path.ends_with(end));
        let Some((shard, quality)) = file("shard.arrow").zip(file("quality.parquet")) else {
            continue;
        };
        for record in
            receipt.videos.iter().filter(|record| wanted.contains(of_bytes(&record.digest)))
        {
            let reject =
                receipt.rejects.iter().find(|reject| reject.digest == record.digest).cloned();
            if reject.as_ref().is_some_and(|reject| reject.class == DUPLICATE) {
                continue;
            }
            let decoded = || Decoded {
                key: receipt.key.clone(),
                shard: shard.clone(),
                quality: quality.clone(),
                record: record.clone(),
                reject,
            };
            found.entry(of_bytes(&record.digest)).or_insert_with(decoded);
        }
    }
    for video in videos.iter_mut().filter(|video| video.unusable.is_none()) {
        video.decoded = found.get(of_bytes(&video.digest)).cloned().map(Box::new);
    }
}

/// How often its videos had been tried when it was filed.
fn tries(receipt: &Receipt) -> u64 {
    receipt.fields.get("try").and_then(serde_json::Value::as_u64).unwrap_or(1)
}

/// Cuts videos into partitions. A partition closes by what is in it alone, so a run that was killed cuts the rest as before.
fn partitions(videos: Vec<VideoSource>, most: usize, most_bytes: u64) -> Vec<Vec<VideoSource>> {
    let (mut all, mut current, mut bytes) = (Vec::new(), Vec::new(), 0);
    for video in videos {
        bytes += video.bytes;
        current.push(video);
        if current.len() >= most || bytes >= most_bytes {
            all.push(std::mem::take(&mut current));
            bytes = 0;
        }
    }
    all.extend((!current.is_empty()).then_some(current));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD_BYTES: u64 = 32 << 20;

    fn video(name: usize, bytes: u64) -> VideoSource {
        VideoSource {
            uri: format!("{name}.mp4"),
            digest: name.to_string(),
            bytes,
            ..VideoSource::default()
        }
    }

    #[test]
    fn partitions_of_what_a_killed_run_left_are_the_old_ones() {
        let sizes = [1, SHARD_BYTES, 3, 4, 5, SHARD_BYTES / 2, SHARD_BYTES / 2, 9, 9, 9, 9];
        let videos: Vec<VideoSource> =
            sizes.iter().enumerate().map(|(i, bytes)| video(i, *bytes)).collect();
        let whole = partitions(videos.clone(), 3, SHARD_BYTES);
        assert_eq!(whole.concat(), videos);
        for done in 0_usize..1 << whole.len() {
            let left: Vec<Vec<VideoSource>> =
                (0..whole.len()).filter(|i| done >> i & 1 == 0).map(|i| whole[i].clone()).collect();
            assert_eq!(partitions(left.concat(), 3, SHARD_BYTES), left, "done: {done:b}");
        }
    }
}
