//! Finds near-duplicate videos: the same clip at another size, frame rate or codec, or most of it.
//!
//! A video is a near-duplicate if it is close enough to an earlier one. Near-duplicates become
//! rejects, and other stages can leave them out. `copies.parquet` has, for each video, the nearest
//! earlier one and its distance.
//!
//! Frames are compared as thumbnails: 16 x 16 means of luminance. For each thumbnail of the shorter
//! video, the most similar one of the longer video is found. The distance of the two videos is the
//! median of these differences, as a share of the range. The default threshold of 0.004 finds
//! nearly all re-encoded copies without false positives. The column `hash` of the quality table
//! finds only copies with hardly changed pixels.
//!
//! Actions are not compared: two episodes of the same level of a game are as close as copies. Use
//! this stage for collected videos, not for recorded ones.

use std::collections::HashSet;
use std::ops::Range;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::key::digests;
use super::plan::{KeyFields, NewTask, PlanInputs, StagePlan};
use super::{
    ArtifactKind, Error, FieldFault, FieldFaults, Input, LaneState, Needs, Stage, StageKind,
    StageTask, TaskContext, TaskOutput,
};
use crate::dataset::{self, Column, FileInfo, FrameSize, Reject, Shards, write_table};

/// Finds videos that are near-duplicates of earlier ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeduplicateConfig {
    /// The `decode` stage with the videos to compare. A `record` stage also works, but its episodes
    /// may look alike without being copies.
    pub frames: String,
    /// The largest distance at which the later of two videos counts as a near-duplicate, as a share
    /// of the range (0 to 0.02). Default 0.004. Compare the column `distance` of the stage's table
    /// to choose a value for your videos.
    #[serde(default = "default_distance")]
    pub distance: f64,
}

fn default_distance() -> f64 {
    0.004
}

impl Stage for DeduplicateConfig {
    type Task = DeduplicateTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        vec![Input::new("frames", &self.frames, ArtifactKind::Frames)]
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        faults.expect_value(
            (0.0..=MAX_MEAN_DIFFERENCE).contains(&self.distance),
            "distance",
            self.distance,
            "expected a share of the range, 0 to 0.02",
        );
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // Each core holds the thumbnails of two videos, 512 bytes a frame. Every video has a mean
        // thumbnail.
        Needs { gpu: false, cores: 8, memory_mib: 2048 }
    }

    /// Adds one task for the comparison of all videos.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let frames = given.plan(&self.frames);
        let task = DeduplicateTask { config: self.clone(), shards: frames.shards() };
        plan.set_settings(&task.key().into_fields());
        if !plan.waits_for([("frames", Some(frames))]) {
            let units = frames.tasks.receipts().map(|receipt| receipt.videos.len() as u64).sum();
            plan.add(NewTask::new(task, frames.tasks.keys(), units), given.known);
        }
        Ok(())
    }

    fn about_frames_of<'a>(&'a self, _own: &'a str) -> Option<&'a str> {
        Some(&self.frames)
    }
}

/// The properties of all `deduplicate` stages. Raise `version` when the same frames give other
/// near-duplicates.
pub const KIND: StageKind = StageKind {
    key_inputs: &["frames"],
    ..StageKind::new("deduplicate", 1, &[ArtifactKind::Copies], "videos")
};
/// The class of near-duplicate rejects.
pub const NEAR_DUPLICATE: &str = "near_duplicate";
/// The width and height of a thumbnail, in cells.
const SIDE: usize = 16;
/// The number of thumbnails of the shorter video to find in the longer one.
const SAMPLES: usize = 16;
/// Videos whose mean thumbnails differ by more than this share of the range are not compared.
const MAX_MEAN_DIFFERENCE: f64 = 0.02;
/// The number of earlier videos, the most similar ones, to compare a video with.
const NEIGHBOURS: usize = 16;
/// The luminance of white.
const RANGE: f64 = 256.0 * 255.0;

/// All shards of one version of a dataset.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeduplicateTask {
    /// The stage's settings.
    pub config: DeduplicateConfig,
    /// The frames, in the dataset's order.
    pub shards: Vec<FileInfo>,
}

impl StageTask for DeduplicateTask {
    fn key(&self) -> KeyFields {
        let DeduplicateTask { config, shards } = self;
        let DeduplicateConfig { distance, frames: _ } = config;
        KeyFields::new(&KIND).setting("distance", distance).input("frames", digests(shards))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

/// Compares every video with similar earlier videos.
fn run(task: &DeduplicateTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let shards = Shards::open_files(ctx.store, &task.shards)?;
    let clips = clips(&shards, task.shards.len())?;
    let mean_of = |clip: &Clip| {
        ctx.check_stop()?;
        Ok(mean(&clip.thumbnails(&shards)?))
    };
    let means = clips.par_iter().map(mean_of).collect::<Result<Vec<Thumbnail>, Error>>()?;
    // Reading all thumbnails of all pairs would be quadratic; mean thumbnails narrow them down.
    let candidates = similar(&means);
    let compare = |(at, others): (usize, &Vec<usize>)| {
        ctx.check_stop()?;
        // Pixels are read only if there is something to compare with.
        let own = if others.is_empty() { vec![] } else { clips[at].thumbnails(&shards)? };
        let measure =
            |other: &usize| Ok((*other, distance(&own, &clips[*other].thumbnails(&shards)?)));
        let distances = others.iter().map(measure).collect::<Result<Vec<(usize, f64)>, Error>>();
        ctx.progress.advance(1);
        distances
    };
    let distances =
        candidates.par_iter().enumerate().map(compare).collect::<Result<Vec<_>, Error>>()?;
    let (nearest, copies) = nearest_and_copies(&distances, task.config.distance);
    let name = |at: usize| clips[at].video.clone();
    let table = [
        ("video", Column::Text(nearest.iter().map(|(at, ..)| name(*at)).collect())),
        ("nearest", Column::Text(nearest.iter().map(|(_, other, _)| name(*other)).collect())),
        ("distance", Column::F64(nearest.iter().map(|(.., distance)| Some(*distance)).collect())),
    ];
    let file = write_table(ctx.store, &format!("{}/copies.parquet", ctx.folder), &table)?;
    let rejected =
        nearest.iter().filter(|(at, ..)| copies.contains(at)).map(|(at, other, distance)| Reject {
            video: name(*at),
            digest: clips[*at].digest.clone(),
            class: NEAR_DUPLICATE.into(),
            reason: format!(
                "{}: its frames differ from those of {} by {distance:.4} of the range",
                name(*at),
                name(*other)
            ),
            frames_kept: 0,
        });
    let stats = [("videos", clips.len()), ("copies", copies.len())]
        .map(|(name, count)| (name.to_owned(), count as f64));
    Ok(TaskOutput {
        files: vec![file],
        rejects: rejected.collect(),
        stats: stats.into(),
        ..TaskOutput::default()
    })
}

/// A video and its rows in a shard.
struct Clip {
    video: String,
    digest: String,
    shard: usize,
    rows: Range<usize>,
}

/// The mean luminance of 16 x 16 cells, with white at [`RANGE`].
type Thumbnail = [u16; SIDE * SIDE];

impl Clip {
    fn thumbnails(&self, shards: &Shards) -> Result<Vec<Thumbnail>, Error> {
        let shard = shards.shard(self.shard)?;
        Ok(self.rows.clone().map(|row| thumbnail(shard.pixels(row), shard.frame_size())).collect())
    }
}

/// Returns the videos with frames, in the dataset's order.
fn clips(shards: &Shards, count: usize) -> Result<Vec<Clip>, Error> {
    let mut clips: Vec<Clip> = Vec::new();
    for number in 0..count {
        for run in shards.shard(number)?.episodes() {
            let end = run.first_row + run.len;
            // Episodes of a video are consecutive rows of its shard.
            match clips.last_mut().filter(|clip| clip.shard == number && clip.digest == run.digest)
            {
                Some(clip) => clip.rows.end = end,
                None => clips.push(Clip {
                    video: run.video,
                    digest: run.digest,
                    shard: number,
                    rows: run.first_row..end,
                }),
            }
        }
    }
    Ok(clips)
}

fn thumbnail(pixels: &[u8], size: FrameSize) -> Thumbnail {
    let (height, width) = (size.height as usize, size.width as usize);
    // Each cell has at least one row and one column, even of frames smaller than a thumbnail.
    let part =
        |at: usize, of: usize| at * of / SIDE..((at + 1) * of / SIDE).max(at * of / SIDE + 1);
    // Rec. 601 weights in 256ths.
    let luminance =
        |rgb: &[u8]| 77 * u32::from(rgb[0]) + 150 * u32::from(rgb[1]) + 29 * u32::from(rgb[2]);
    std::array::from_fn(|cell| {
        let (ys, xs) = (part(cell / SIDE, height), part(cell % SIDE, width));
        let count = (ys.len() * xs.len()) as u32;
        let row = |y: usize| {
            pixels[(y * width + xs.start) * 3..(y * width + xs.end) * 3]
                .chunks_exact(3)
                .map(luminance)
                .sum::<u32>()
        };
        (ys.map(row).sum::<u32>() / count) as u16
    })
}

fn mean(thumbnails: &[Thumbnail]) -> Thumbnail {
    std::array::from_fn(|cell| {
        (thumbnails.iter().map(|t| u64::from(t[cell])).sum::<u64>()
            / thumbnails.len().max(1) as u64) as u16
    })
}

/// Returns the mean difference of two thumbnails, as a share of the range.
fn difference(a: &Thumbnail, b: &Thumbnail) -> f64 {
    let sum: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    f64::from(sum) / (RANGE * a.len() as f64)
}

/// Returns, for each video, the earlier videos with the most similar mean thumbnails. Videos are
/// sorted by brightness, so that only videos of similar brightness are compared.
fn similar(means: &[Thumbnail]) -> Vec<Vec<usize>> {
    let brightness: Vec<u32> =
        means.iter().map(|mean| mean.iter().map(|cell| u32::from(*cell)).sum()).collect();
    let mut sorted: Vec<usize> = (0..means.len()).collect();
    sorted.sort_by_key(|at| brightness[*at]);
    // The brightness of two videos differs by no more than their thumbnails do.
    let farthest = (MAX_MEAN_DIFFERENCE * RANGE * (SIDE * SIDE) as f64) as u32;
    let similar_before = |at: usize| {
        let from = sorted
            .partition_point(|other| brightness[*other] < brightness[at].saturating_sub(farthest));
        let near = sorted[from..]
            .iter()
            .copied()
            .take_while(|other| brightness[*other] <= brightness[at] + farthest);
        let near = near
            .filter(|other| *other < at)
            .map(|other| (difference(&means[at], &means[other]), other));
        let mut near: Vec<(f64, usize)> =
            near.filter(|(difference, _)| *difference <= MAX_MEAN_DIFFERENCE).collect();
        // Ties by position, since an unstable sort leaves their order open.
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        near.into_iter().map(|(_, other)| other).take(NEIGHBOURS).collect()
    };
    (0..means.len()).into_par_iter().map(similar_before).collect()
}

/// Returns the distance of two videos, as a share of the range.
fn distance(a: &[Thumbnail], b: &[Thumbnail]) -> f64 {
    // Searching in the longer video makes an excerpt a copy of the whole.
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let count = short.len().min(SAMPLES);
    let samples = (0..count).map(|i| &short[i * short.len() / count]);
    let mut least: Vec<f64> = samples
        .map(|sample| {
            long.iter().map(|other| difference(sample, other)).fold(f64::INFINITY, f64::min)
        })
        .collect();
    // The median ignores a title or a cut in a few of the samples.
    least.sort_unstable_by(f64::total_cmp);
    least.get(count / 2).copied().unwrap_or(f64::INFINITY)
}

/// Returns the nearest earlier video of each video, with its distance, and all near-duplicates. A
/// copy of a copy is a near-duplicate, too.
fn nearest_and_copies(
    distances: &[Vec<(usize, f64)>],
    threshold: f64,
) -> (Vec<(usize, usize, f64)>, HashSet<usize>) {
    let mut nearest = Vec::new();
    let mut copies = HashSet::new();
    for (at, others) in distances.iter().enumerate() {
        let closest = others.iter().min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        // A video without similar earlier ones has no row.
        let Some(&(other, distance)) = closest else { continue };
        nearest.push((at, other, distance));
        if distance <= threshold {
            copies.insert(at);
        }
    }
    (nearest, copies)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_similar_videos_are_the_same_as_by_comparing_every_pair() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let scenes: Vec<Thumbnail> =
            (0..40).map(|_| std::array::from_fn(|_| rng.random_range(20_000..24_000))).collect();
        let means: Vec<Thumbnail> = (0..300)
            .map(|i| scenes[i * 7 % 40].map(|cell| cell + rng.random_range(0..900)))
            .collect();
        let pairs = |at: usize| {
            let mut near: Vec<usize> = (0..at)
                .filter(|other| difference(&means[at], &means[*other]) <= MAX_MEAN_DIFFERENCE)
                .collect();
            near.sort_by(|a, b| {
                difference(&means[at], &means[*a]).total_cmp(&difference(&means[at], &means[*b]))
            });
            near.truncate(NEIGHBOURS);
            near
        };
        let expected: Vec<Vec<usize>> = (0..means.len()).map(pairs).collect();
        assert_eq!(similar(&means), expected);
        assert!(expected.iter().map(Vec::len).sum::<usize>() > 300, "similar pairs exist");
    }

    #[test]
    fn an_excerpt_is_at_distance_0_and_a_copy_of_a_copy_is_a_copy() {
        let scene = |n: u16| -> Thumbnail {
            std::array::from_fn(|cell| (cell as u16 * 37 + n * 911) % 60_000)
        };
        let long: Vec<Thumbnail> = (0..50).map(scene).collect();
        assert_eq!(distance(&long[20..40], &long), 0.0);
        assert!(distance(&(50..80).map(scene).collect::<Vec<_>>(), &long) > 0.01);
        let distances =
            [vec![], vec![(0, 0.5)], vec![(0, 0.003), (1, 0.6)], vec![(0, 0.005), (2, 0.001)]];
        let (nearest, copies) = nearest_and_copies(&distances, 0.004);
        assert_eq!(
            (nearest, copies),
            (vec![(1, 0, 0.5), (2, 0, 0.003), (3, 2, 0.001)], HashSet::from([2, 3]))
        );
    }

    #[test]
    fn a_thumbnail_is_the_mean_luminance_of_its_cells() {
        let size = FrameSize { height: 32, width: 20 };
        let pixels: Vec<u8> =
            (0..32 * 20).flat_map(|at| if at % 20 < 10 { [255; 3] } else { [0; 3] }).collect();
        let seen = thumbnail(&pixels, size);
        assert!(seen.chunks(SIDE).all(|row| row[..8].iter().all(|cell| f64::from(*cell) == RANGE)
            && row[8..].iter().all(|cell| *cell == 0)));
    }
}
