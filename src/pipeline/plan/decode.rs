//! Plans of `decode`. In: the videos there are, and the receipts of those that were decoded; out: partitions that are kept, and new ones.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Planner, StagePlan};
use crate::dataset::{self, Receipt, head};
use crate::executor::Job;
use crate::pipeline::key::{Known, of_decode, settings};
use crate::pipeline::videos::{Identified, identify};
use crate::stages::Task;
use crate::stages::decode::{DUPLICATE, DecodeConfig, DecodeTask, Duplicates, SHARD_BYTES, VideoSource};

impl Planner<'_> {
    /// Old partitions stay as they are while all their videos are there, unless some are to be tried again; the other videos form new ones.
    pub(super) fn decode(&self, mut plan: StagePlan, config: &DecodeConfig, receipts: Vec<Receipt>) -> Result<StagePlan, dataset::Error> {
        let videos = identify(&self.checked.videos[&plan.stage], &receipts, config.identity, config.duplicates, self.store.access())?;
        let place: HashMap<&str, usize> = videos.iter().enumerate().map(|(i, v)| (&*v.digest, i)).collect();
        let task = |videos: Vec<VideoSource>, tries: u64| DecodeTask { config: config.clone(), videos, tries };
        plan.settings = settings(&of_decode(&task(vec![], 1)));

        let committed = head(self.store, &plan.stage)?.map(|manifest| manifest.receipts).unwrap_or_default();
        let rank: HashMap<&str, usize> = committed.iter().enumerate().map(|(i, key)| (key.as_str(), i)).collect();
        let first = |r: &Receipt| r.videos.iter().filter_map(|v| place.get(v.digest.as_str())).min().copied();
        let mut usable: Vec<&Receipt> = receipts.iter().filter(|r| settings(&r.fields) == plan.settings).collect();
        usable.sort_by_cached_key(|r| (rank.get(r.key.as_str()).copied().unwrap_or(usize::MAX), first(r)));
        // What a list says now is what the dataset says.
        usable.retain(|r| r.videos.iter().all(|v| place.get(v.digest.as_str()).is_none_or(|at| *videos[*at].about == v.about)));
        let tries = usable.iter().map(|r| tries(r)).max().unwrap_or(0) + 1;
        let (mut kept, mut covered) = covering(&usable, &place, videos.len());
        let again = self.again(&kept);
        if again.is_empty() {
            plan.note = self.nothing_again(&kept);
        } else {
            usable.retain(|r| r.videos.iter().all(|v| !again.contains(v.digest.as_str())));
            (kept, covered) = covering(&usable, &place, videos.len());
        }
        plan.reused_videos = covered.iter().filter(|covered| **covered).count();
        let source = |video: &Identified| match config.duplicates {
            Duplicates::Skip => skipped(video.source(), |digest| place.get(digest).map(|at| videos[*at].source().uri)),
            Duplicates::Keep => video.source(),
        };
        let missing: Vec<VideoSource> =
            videos.iter().zip(&covered).filter(|(_, covered)| !**covered).map(|(video, _)| source(video)).collect();
        plan.new_videos = missing.len();
        let known = Known::new(&receipts);
        let (again, fresh): (Vec<_>, Vec<_>) = missing.into_iter().partition(|v| again.contains(v.digest.as_str()));
        for (videos, tries) in [(fresh, 1), (again, tries)] {
            for videos in partitions(videos, config.videos_per_shard) {
                let task = task(videos, tries);
                let (fields, units) = (of_decode(&task), task.videos.len() as u64);
                plan.add(fields, vec![], BTreeMap::new(), units, Task::Decode(task), &known);
            }
        }
        let planned = |job: &Job| match &job.task {
            Task::Decode(task) => task.videos.iter().filter_map(|v| place.get(v.digest.as_str())).min().copied(),
            _ => None,
        };
        let mut ranked: Vec<_> = kept.iter().map(|r| (&r.key, first(r))).collect();
        ranked.extend(plan.jobs.iter().map(|job| (&job.key, planned(job))));
        ranked.sort_by_key(|(key, first)| (rank.get(key.as_str()).copied().unwrap_or(usize::MAX), *first));
        plan.order = ranked.into_iter().map(|(key, _)| key.clone()).collect();
        plan.reused = kept.len();
        // There may be a hundred thousand of them: they are moved.
        let kept: HashMap<String, usize> = kept.iter().enumerate().map(|(at, r)| (r.key.clone(), at)).collect();
        plan.receipts = receipts.into_iter().filter(|r| kept.contains_key(&r.key)).collect();
        plan.receipts.sort_by_key(|r| kept[&r.key]);
        Ok(plan)
    }

    /// The videos of partitions in which one was rejected that is to be tried again, by digest.
    fn again<'r>(&self, receipts: &[&'r Receipt]) -> HashSet<&'r str> {
        let Some(classes) = &self.options.retry_rejected else { return HashSet::new() };
        let asked = |reject: &dataset::Reject| classes.is_empty() || classes.contains(&reject.class);
        let rejected = receipts.iter().filter(|r| r.rejects.iter().any(asked));
        rejected.flat_map(|r| &r.videos).map(|video| video.digest.as_str()).collect()
    }

    /// What to say where videos were to be tried again, and none is: the class may be misspelt.
    fn nothing_again(&self, receipts: &[&Receipt]) -> Option<String> {
        let classes = self.options.retry_rejected.as_ref()?;
        let mut there = BTreeMap::new();
        receipts.iter().flat_map(|r| &r.rejects).for_each(|reject| *there.entry(reject.class.as_str()).or_insert(0) += 1);
        let asked = if classes.is_empty() { String::new() } else { format!(" as {}", classes.join(", ")) };
        let others: Vec<String> = there.into_iter().map(|(class, count)| format!("{count} as {class}")).collect();
        let others = if others.is_empty() { String::new() } else { format!("; others: {}", others.join(", ")) };
        Some(format!("no video was rejected{asked}, so none is tried again{others}"))
    }
}

/// Receipts of videos that are there, the first of those that share one; and which of all videos they are of, by place.
fn covering<'r>(receipts: &[&'r Receipt], place: &HashMap<&str, usize>, videos: usize) -> (Vec<&'r Receipt>, Vec<bool>) {
    let mut covered = vec![false; videos];
    let mut fits = |receipt: &&&'r Receipt| {
        let places: Option<Vec<usize>> = receipt.videos.iter().map(|video| place.get(video.digest.as_str()).copied()).collect();
        let Some(places) = places.filter(|places| places.iter().all(|at| !covered[*at])) else { return false };
        places.iter().for_each(|at| covered[*at] = true);
        true
    };
    let kept = receipts.iter().filter(|receipt| fits(receipt)).copied().collect();
    (kept, covered)
}

/// A copy is not decoded: one of its bytes is. `named` knows the video of a digest.
fn skipped(video: VideoSource, named: impl FnOnce(&str) -> Option<String>) -> VideoSource {
    let Some((first, _)) = video.digest.split_once('#') else { return video };
    let reason = format!("{}: has the bytes of {}", video.uri, named(first).unwrap_or_else(|| first.to_owned()));
    VideoSource { unusable: Some((DUPLICATE.into(), reason)), ..video }
}

/// How often its videos had been tried when it was filed.
fn tries(receipt: &Receipt) -> u64 {
    receipt.fields.get("try").and_then(serde_json::Value::as_u64).unwrap_or(1)
}

/// Cuts videos into partitions. A partition closes by what is in it alone, so a run that was killed cuts the rest as before.
fn partitions(videos: Vec<VideoSource>, most: usize) -> Vec<Vec<VideoSource>> {
    let (mut all, mut current, mut bytes) = (Vec::new(), Vec::new(), 0);
    for video in videos {
        bytes += video.bytes;
        current.push(video);
        if current.len() >= most || bytes >= SHARD_BYTES {
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

    fn video(name: usize, bytes: u64) -> VideoSource {
        VideoSource {
            uri: format!("{name}.mp4"),
            digest: name.to_string(),
            bytes,
            modified: String::new(),
            archived: None,
            about: Default::default(),
            unusable: None,
        }
    }

    #[test]
    fn partitions_of_what_a_killed_run_left_are_the_old_ones() {
        let sizes = [1, SHARD_BYTES, 3, 4, 5, SHARD_BYTES / 2, SHARD_BYTES / 2, 9, 9, 9, 9];
        let videos: Vec<VideoSource> = sizes.iter().enumerate().map(|(i, bytes)| video(i, *bytes)).collect();
        let whole = partitions(videos.clone(), 3);
        assert_eq!(whole.concat(), videos);
        for done in 0_usize..1 << whole.len() {
            let left: Vec<Vec<VideoSource>> = (0..whole.len()).filter(|i| done >> i & 1 == 0).map(|i| whole[i].clone()).collect();
            assert_eq!(partitions(left.concat(), 3), left, "done: {done:b}");
        }
    }
}
