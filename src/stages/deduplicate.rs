//! The same clip twice: at another size, rate or codec, in another container, or most of it. In: shards; out: which videos are left out by
//! whoever names this stage, as rejects, and `copies.parquet`: of every video the nearest one before it, and how far that is.
//!
//! Pictures are compared as 16 x 16 means of luminance. The distance of two videos is the median, over pictures of the shorter one, of the
//! mean difference from the picture of the longer one that is most like it, as a share of the range. Of 53 copies of recordings in `data`
//! (MPEG-4 at twice the size and another rate, H.264 at `crf` 30, at 35 with a piece cut off) among 72 others, .004 finds 52 and nothing
//! else, .005 all and one of two mazes that look alike. `hash` in `frames_quality` finds those copies whose pictures a codec hardly
//! changes: half of coinrun's 36 pairs share half of their hashes, 9 of bigfish's, hardly one of the mazes'.
//!
//! What was done is not compared: two plays of one level of a game are as near as copies. Deduplicate what was collected, not what was
//! recorded.

use std::collections::HashSet;
use std::ops::Range;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::key::digests;
use super::plan::{Given, KeyFields, NewTask, StagePlan};
use super::{
    ArtifactKind, Done, Error, FieldFault, Input, Kept, Needs, Stage, StageKind, StageTask,
    Workplace,
};
use crate::dataset::{self, Column, FileInfo, FrameSize, Reject, Shards, write_table};

/// Finds videos that are nearly the same as another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeduplicateConfig {
    /// The `decode` stage whose videos are compared; or `record`, whose episodes may look alike without being copies.
    pub frames: String,
    /// How much the pictures of two videos may differ, as a share of the range, for the later one to be a copy. Default .004: `distance` in the
    /// stage's table says how far apart yours are.
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
        match (0.0..=FARTHEST).contains(&self.distance) {
            true => vec![],
            false => vec![(
                "distance",
                format!("is {}", self.distance),
                "expected a share of the range, at most .02",
            )],
        }
    }

    fn needs(&self) -> Needs {
        // Each core holds the pictures of two videos, 512 bytes a frame, and a video has a mean picture.
        Needs { gpu: false, cores: 8, memory_mib: 2048 }
    }

    /// Adds one task: every video is compared with those before it.
    fn plan(&self, given: &Given, plan: &mut StagePlan) -> dataset::Result<()> {
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

/// What all `deduplicate` stages have in common. Raise `version` when the same frames have other copies.
pub const KIND: StageKind = StageKind {
    key_inputs: &["frames"],
    ..StageKind::new("deduplicate", 1, &[ArtifactKind::Copies], "videos")
};
/// The class of a reject that is nearly the same as a video before it.
pub const NEAR_DUPLICATE: &str = "near_duplicate";
/// Cells on a side of a picture as it is compared.
const SIDE: usize = 16;
/// Pictures of the shorter video that are looked for in the longer one, at most.
const LOOKED_FOR: usize = 16;
/// Videos whose pictures differ by more on average are not looked at more closely, as a share of the range.
const FARTHEST: f64 = 0.02;
/// So many are looked at more closely, the most alike.
const NEIGHBOURS: usize = 16;
/// White.
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

    fn run(&self, place: &Workplace, _: &mut Kept) -> Result<Done, Error> {
        run(self, place)
    }
}

/// Compares every video with those before it that look like it.
fn run(task: &DeduplicateTask, place: &Workplace) -> Result<Done, Error> {
    let shards = Shards::open_files(place.store, &task.shards)?;
    let clips = clips(&shards, task.shards.len())?;
    let look = |clip: &Clip| {
        place.go_on()?;
        Ok(mean(&clip.pictures(&shards)?))
    };
    let means = clips.par_iter().map(look).collect::<Result<Vec<Picture>, Error>>()?;
    let candidates = alike(&means);
    let near = |(at, others): (usize, &Vec<usize>)| {
        place.go_on()?;
        let own = if others.is_empty() { vec![] } else { clips[at].pictures(&shards)? };
        let far = |other: &usize| Ok((*other, distance(&own, &clips[*other].pictures(&shards)?)));
        let distances = others.iter().map(far).collect::<Result<Vec<(usize, f64)>, Error>>();
        place.progress.advance(1);
        distances
    };
    let near = candidates.par_iter().enumerate().map(near).collect::<Result<Vec<_>, Error>>()?;
    let (nearest, copies) = decide(&near, task.config.distance);
    let name = |at: usize| clips[at].video.clone();
    let table = [
        ("video", Column::Text(nearest.iter().map(|(at, ..)| name(*at)).collect())),
        ("nearest", Column::Text(nearest.iter().map(|(_, other, _)| name(*other)).collect())),
        ("distance", Column::F64(nearest.iter().map(|(.., distance)| Some(*distance)).collect())),
    ];
    let file = write_table(place.store, &format!("{}/copies.parquet", place.folder), &table)?;
    let rejected =
        nearest.iter().filter(|(at, ..)| copies.contains(at)).map(|(at, other, distance)| Reject {
            video: name(*at),
            digest: clips[*at].digest.clone(),
            class: NEAR_DUPLICATE.into(),
            reason: format!(
                "{}: its pictures differ from those of {} by {distance:.4} of the range",
                name(*at),
                name(*other)
            ),
            frames_kept: 0,
        });
    let stats = [("videos", clips.len()), ("copies", copies.len())]
        .map(|(name, count)| (name.to_owned(), count as f64));
    Ok(Done {
        files: vec![file],
        rejects: rejected.collect(),
        stats: stats.into(),
        ..Done::default()
    })
}

/// A video's rows in its shard.
struct Clip {
    video: String,
    digest: String,
    shard: usize,
    rows: Range<usize>,
}

/// Mean luminance of 16 x 16 cells, white at [`RANGE`].
type Picture = [u16; SIDE * SIDE];

impl Clip {
    fn pictures(&self, shards: &Shards) -> Result<Vec<Picture>, Error> {
        let shard = shards.shard(self.shard)?;
        Ok(self.rows.clone().map(|row| picture(shard.pixels(row), shard.frame_size())).collect())
    }
}

/// The videos that have frames, in the dataset's order.
fn clips(shards: &Shards, count: usize) -> Result<Vec<Clip>, Error> {
    let mut clips: Vec<Clip> = Vec::new();
    for number in 0..count {
        for run in shards.shard(number)?.episodes() {
            let end = run.first_row + run.len;
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

fn picture(pixels: &[u8], size: FrameSize) -> Picture {
    let (height, width) = (size.height as usize, size.width as usize);
    let part =
        |at: usize, of: usize| at * of / SIDE..((at + 1) * of / SIDE).max(at * of / SIDE + 1);
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

fn mean(pictures: &[Picture]) -> Picture {
    std::array::from_fn(|cell| {
        (pictures.iter().map(|p| u64::from(p[cell])).sum::<u64>() / pictures.len().max(1) as u64)
            as u16
    })
}

/// Mean difference, as a share of the range.
fn difference(a: &Picture, b: &Picture) -> f64 {
    let sum: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    f64::from(sum) / (RANGE * a.len() as f64)
}

/// Of each video those before it whose mean pictures are most like its own. Videos are sorted by brightness, in which they differ no more
/// than in their pictures, so that few are compared.
fn alike(means: &[Picture]) -> Vec<Vec<usize>> {
    let brightness: Vec<u32> =
        means.iter().map(|mean| mean.iter().map(|cell| u32::from(*cell)).sum()).collect();
    let mut sorted: Vec<usize> = (0..means.len()).collect();
    sorted.sort_by_key(|at| brightness[*at]);
    let farthest = (FARTHEST * RANGE * (SIDE * SIDE) as f64) as u32;
    let before = |at: usize| {
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
            near.filter(|(difference, _)| *difference <= FARTHEST).collect();
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        near.into_iter().map(|(_, other)| other).take(NEIGHBOURS).collect()
    };
    (0..means.len()).into_par_iter().map(before).collect()
}

/// How far apart two videos are, as a share of the range.
fn distance(a: &[Picture], b: &[Picture]) -> f64 {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let count = short.len().min(LOOKED_FOR);
    let looked_for = (0..count).map(|i| &short[i * short.len() / count]);
    let mut least: Vec<f64> = looked_for
        .map(|picture| {
            long.iter().map(|other| difference(picture, other)).fold(f64::INFINITY, f64::min)
        })
        .collect();
    least.sort_unstable_by(f64::total_cmp);
    least.get(count / 2).copied().unwrap_or(f64::INFINITY)
}

/// Of each video that has one the nearest before it, and its distance; and which are copies, those of copies too.
fn decide(near: &[Vec<(usize, f64)>], most: f64) -> (Vec<(usize, usize, f64)>, HashSet<usize>) {
    let (mut nearest, mut copies) = (Vec::new(), HashSet::new());
    for (at, others) in near.iter().enumerate() {
        let nearest_of = |others: &[(usize, f64)]| {
            others.iter().min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0))).copied()
        };
        let Some((other, distance)) = nearest_of(others) else { continue };
        nearest.push((at, other, distance));
        if distance <= most {
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
    fn those_alike_are_those_that_a_look_at_every_pair_finds() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let scenes: Vec<Picture> =
            (0..40).map(|_| std::array::from_fn(|_| rng.random_range(20_000..24_000))).collect();
        let means: Vec<Picture> = (0..300)
            .map(|i| scenes[i * 7 % 40].map(|cell| cell + rng.random_range(0..900)))
            .collect();
        let pairs = |at: usize| {
            let mut near: Vec<usize> = (0..at)
                .filter(|other| difference(&means[at], &means[*other]) <= FARTHEST)
                .collect();
            near.sort_by(|a, b| {
                difference(&means[at], &means[*a]).total_cmp(&difference(&means[at], &means[*b]))
            });
            near.truncate(NEIGHBOURS);
            near
        };
        let expected: Vec<Vec<usize>> = (0..means.len()).map(pairs).collect();
        assert_eq!(alike(&means), expected);
        assert!(expected.iter().map(Vec::len).sum::<usize>() > 300, "some are");
    }

    #[test]
    fn a_piece_of_a_video_is_near_it_and_a_copy_of_a_copy_is_a_copy() {
        let scene = |n: u16| -> Picture {
            std::array::from_fn(|cell| (cell as u16 * 37 + n * 911) % 60_000)
        };
        let long: Vec<Picture> = (0..50).map(scene).collect();
        assert_eq!(distance(&long[20..40], &long), 0.0);
        assert!(distance(&(50..80).map(scene).collect::<Vec<_>>(), &long) > 0.01);
        let near =
            [vec![], vec![(0, 0.5)], vec![(0, 0.003), (1, 0.6)], vec![(0, 0.005), (2, 0.001)]];
        let (nearest, copies) = decide(&near, 0.004);
        assert_eq!(
            (nearest, copies),
            (vec![(1, 0, 0.5), (2, 0, 0.003), (3, 2, 0.001)], HashSet::from([2, 3]))
        );
    }

    #[test]
    fn a_picture_is_the_mean_luminance_of_its_cells() {
        let size = FrameSize { height: 32, width: 20 };
        let pixels: Vec<u8> =
            (0..32 * 20).flat_map(|at| if at % 20 < 10 { [255; 3] } else { [0; 3] }).collect();
        let seen = picture(&pixels, size);
        assert!(seen.chunks(SIDE).all(|row| row[..8].iter().all(|cell| f64::from(*cell) == RANGE)
            && row[8..].iter().all(|cell| *cell == 0)));
    }
}
