//! Plans of `decode`: which partitions are kept, and which new ones the other videos form.
//!
//! A partition is kept while all its videos exist under their old names. The other videos form new
//! partitions. The frames of a video that was decoded before, in any partition and under any name,
//! are copied. So frames, labels and actions always have the current names, and only new content is
//! decoded. In return, the shard of a renamed video is written and labelled again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use super::videos::{DeferredVideos, Identified, identify, of_bytes};
use super::{DUPLICATE, DecodeConfig, DecodeTask, Decoded, Duplicates, VideoSource};
use crate::dataset::{self, HashMap, HashSet, Receipt, VideoRecord};
use crate::stages::StageTask;
use crate::stages::plan::key::WithSettings;
use crate::stages::plan::{NewTask, PlanInputs, PlannedTask, StagePlan};

/// Plans the tasks: kept partitions, and new partitions of all other videos.
pub(super) fn plan(
    config: &DecodeConfig,
    given: &PlanInputs,
    plan: &mut StagePlan,
) -> dataset::Result<()> {
    let now = DeferredVideos {
        min_age: given.now.min_age.max(Duration::from_secs_f64(config.min_age)),
        ..given.now.clone()
    };
    // Videos of the newest version stay if they cannot be read now.
    let current: HashSet<&str> = plan.before_entries.iter().map(|(key, _)| key.as_str()).collect();
    let identified = identify(given.videos, given.receipts, &current, &now, config, given.access)?;
    plan.left_out = identified.left_out;
    plan.note = (!given.notes.is_empty()).then(|| given.notes.join("; "));
    let videos = identified.videos;
    let position: HashMap<&str, usize> =
        videos.iter().enumerate().map(|(i, video)| (&*video.digest, i)).collect();
    plan.set_settings(&config.task(vec![], 1).key().into_fields());

    let rank: HashMap<String, usize> =
        plan.before_entries.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
    let with_settings = WithSettings::new(&plan.settings);
    let with_settings: Vec<&Arc<Receipt>> =
        given.receipts.iter().filter(|receipt| with_settings.are_of(receipt)).collect();
    let mut usable = usable_partitions(&with_settings, &videos, &position, &rank);
    // A new number of tries makes a new key, even for the same videos.
    let tries = usable.iter().map(|old| tries(old.receipt)).max().unwrap_or(0) + 1;
    let (mut kept, mut covered) = covering(&usable, videos.len());
    let retried = retried(given, &kept);
    if retried.is_empty() {
        add_note(plan, nothing_retried(given, &kept));
    } else {
        // Without the retried partitions, others may cover some of their videos.
        usable
            .retain(|old| old.receipt.videos.iter().all(|v| !retried.contains(v.digest.as_str())));
        (kept, covered) = covering(&usable, videos.len());
    }
    let (again, mut fresh): (Vec<_>, Vec<_>) = missing(config, &videos, &covered, &position)
        .into_iter()
        .partition(|video| retried.contains(video.digest.as_str()));
    find_decoded(&mut fresh, &with_settings);
    for (videos, tries) in [(fresh, 1), (again, tries)] {
        for videos in partitions(videos, config.videos_per_shard, config.shard_mib << 20) {
            let units = videos.len() as u64;
            plan.add(NewTask::new(config.task(videos, tries), vec![], units), given.known);
        }
    }
    for receipt in kept {
        plan.tasks.push(PlannedTask::Done(receipt.clone()));
    }
    // Old partitions keep their order, and new ones follow by their first video.
    plan.tasks.sort_by_cached_key(|task| {
        let first = task.digests().into_iter().filter_map(|digest| position.get(digest)).min();
        (rank.get(task.key()).copied().unwrap_or(usize::MAX), first.copied())
    });
    Ok(())
}

/// Appends to the plan's note.
fn add_note(plan: &mut StagePlan, more: Option<String>) {
    let notes = plan.note.take().into_iter().chain(more);
    plan.note = notes.reduce(|note, more| format!("{note}; {more}"));
}

impl DecodeConfig {
    fn task(&self, videos: Vec<VideoSource>, tries: u64) -> DecodeTask {
        DecodeTask { config: self.clone(), videos, tries }
    }
}

/// Returns the old partitions whose videos have the same names and list columns as now. Partitions
/// of the newest version come first, in its order.
fn usable_partitions<'r>(
    receipts: &[&'r Arc<Receipt>],
    videos: &[Identified],
    position: &HashMap<&str, usize>,
    rank: &HashMap<String, usize>,
) -> Vec<Old<'r>> {
    let mut usable: Vec<Old> =
        receipts.par_iter().copied().map(|receipt| Old::new(receipt, position)).collect();
    usable.sort_by_cached_key(|old| {
        (rank.get(&old.receipt.key).copied().unwrap_or(usize::MAX), old.first())
    });
    let is_unchanged = |(at, record): (&Option<usize>, &VideoRecord)| {
        at.is_none_or(|at| videos[at].uri() == record.uri && *videos[at].about == record.about)
    };
    usable.retain(|old| old.positions.iter().zip(&old.receipt.videos).all(is_unchanged));
    usable
}

/// Returns the videos no kept partition covers, as inputs of new tasks.
fn missing(
    config: &DecodeConfig,
    videos: &[Identified],
    covered: &[bool],
    position: &HashMap<&str, usize>,
) -> Vec<VideoSource> {
    let name = |digest: &str| position.get(digest).map(|at| videos[*at].source().uri);
    let source = |video: &Identified| match config.duplicates {
        Duplicates::Skip => skipped(video.source(), name),
        Duplicates::Keep => video.source(),
    };
    let uncovered = videos.iter().zip(covered).filter(|(_, covered)| !**covered);
    uncovered.map(|(video, _)| source(video)).collect()
}

/// Returns the digests of all videos in partitions with a reject that `--retry-rejected` names.
fn retried<'r>(given: &PlanInputs, receipts: &[&'r Arc<Receipt>]) -> HashSet<&'r str> {
    let Some(classes) = given.retry_rejected else { return HashSet::default() };
    let is_named = |reject: &dataset::Reject| classes.is_empty() || classes.contains(&reject.class);
    let rejected = receipts.iter().filter(|r| r.rejects.iter().any(is_named));
    rejected.flat_map(|r| &r.videos).map(|video| video.digest.as_str()).collect()
}

/// Returns a note if `--retry-rejected` matches no video. Its class may be misspelt.
fn nothing_retried(given: &PlanInputs, receipts: &[&Arc<Receipt>]) -> Option<String> {
    let classes = given.retry_rejected?;
    let mut found = BTreeMap::new();
    for reject in receipts.iter().flat_map(|receipt| &receipt.rejects) {
        *found.entry(reject.class.as_str()).or_insert(0) += 1;
    }
    let named =
        if classes.is_empty() { String::new() } else { format!(" as {}", classes.join(", ")) };
    let others: Vec<String> =
        found.into_iter().map(|(class, count)| format!("{count} as {class}")).collect();
    let others =
        if others.is_empty() { String::new() } else { format!("; others: {}", others.join(", ")) };
    Some(format!("no video was rejected{named}, so none is tried again{others}"))
}

/// An old partition.
struct Old<'r> {
    receipt: &'r Arc<Receipt>,
    /// The position of each of its videos among the current ones.
    positions: Vec<Option<usize>>,
}

impl<'r> Old<'r> {
    fn new(receipt: &'r Arc<Receipt>, position: &HashMap<&str, usize>) -> Self {
        Old {
            receipt,
            positions: receipt
                .videos
                .iter()
                .map(|video| position.get(video.digest.as_str()).copied())
                .collect(),
        }
    }

    fn first(&self) -> Option<usize> {
        self.positions.iter().flatten().min().copied()
    }
}

/// Returns the partitions to keep, and for each video whether one of them covers it. Of partitions
/// that share a video, the first one is kept.
fn covering<'r>(all: &[Old<'r>], videos: usize) -> (Vec<&'r Arc<Receipt>>, Vec<bool>) {
    let mut covered = vec![false; videos];
    let mut fits = |old: &&Old| {
        let fits = old.positions.iter().all(|at| at.is_some_and(|at| !covered[at]));
        if fits {
            for at in old.positions.iter().flatten() {
                covered[*at] = true;
            }
        }
        fits
    };
    let kept = all.iter().filter(|old| fits(old)).map(|old| old.receipt).collect();
    (kept, covered)
}

/// Marks a copy of another video as a duplicate. `name` returns the name of the video with a
/// digest.
fn skipped(video: VideoSource, name: impl FnOnce(&str) -> Option<String>) -> VideoSource {
    // Only the second and later copies have a number.
    let Some((first, _)) = video.digest.split_once('#') else { return video };
    let reason = format!(
        "{}: has the bytes of {}",
        video.uri,
        name(first).unwrap_or_else(|| first.to_owned())
    );
    VideoSource { unusable: Some((DUPLICATE.into(), reason)), ..video }
}

/// Sets `decoded` of videos that were decoded before, under any name and in any partition.
fn find_decoded(videos: &mut [VideoSource], receipts: &[&Arc<Receipt>]) {
    let wanted: HashSet<String> = videos
        .iter()
        .filter(|video| video.unusable.is_none())
        .map(|video| of_bytes(&video.digest).to_owned())
        .collect();
    if wanted.is_empty() {
        return;
    }
    // By the digest of the bytes, without the number of the copy. The first receipt wins.
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
            // A skipped duplicate has no frames to copy.
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

/// Returns how often the receipt's videos had been tried.
fn tries(receipt: &Receipt) -> u64 {
    receipt.fields.get("try").and_then(serde_json::Value::as_u64).unwrap_or(1)
}

/// Splits videos into partitions. A partition closes by its own content alone, so the rest of a
/// killed run is split as before.
fn partitions(videos: Vec<VideoSource>, most: usize, most_bytes: u64) -> Vec<Vec<VideoSource>> {
    let mut all = Vec::new();
    let mut current = Vec::new();
    let mut bytes = 0;
    for video in videos {
        // The video that exceeds the limit still belongs to the partition.
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
    fn the_rest_of_a_killed_run_is_split_into_the_same_partitions() {
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
