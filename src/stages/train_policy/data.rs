//! The data of a latent policy's training: frames on disk, latent actions in memory.

use std::collections::{HashMap, HashSet};

use super::{PolicyVerdict, TrainPolicyTask};
use crate::dataset::{Shards, VideoRank, read_labels, split_labels};
use crate::stages::{Error, TaskContext};
use crate::train::PolicyTrainer;

/// The maximum number of frames in a judgement.
const VERDICT_FRAMES: usize = 4096;
/// Frames in one forward pass of a judgement.
const VERDICT_BATCH: usize = 256;

/// The position of a labelled frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct LabelledFrame {
    shard: u32,
    /// The row in the shard.
    row: u32,
    /// The index of its latent action.
    label: u32,
}

/// Labelled frames, split into training and held-out ones.
pub(super) struct Data {
    shards: Shards,
    /// The side of a frame, in pixels.
    pub side: usize,
    /// Frames that the policy sees.
    frames: usize,
    /// `[transition, latent_dim]`
    latent_action: Vec<f32>,
    pub latent_dim: usize,
    pub training: Vec<LabelledFrame>,
    held_out: Vec<LabelledFrame>,
}

impl Data {
    /// Reads all labels and finds their frames.
    pub(super) fn open(task: &TrainPolicyTask, ctx: &TaskContext) -> Result<Data, Error> {
        let shards = Shards::open_files(ctx.store, &task.shards)?;
        let shard_numbers: HashMap<&str, u32> = task
            .shards
            .iter()
            .zip(0..)
            .map(|(file, number)| (file.blake3.as_str(), number))
            .collect();
        let split = split_labels(ctx.store, &task.labels, task.holdout)?;
        let mut latent_action = Vec::new();
        let mut latent_dim = 0;
        let mut videos = HashSet::new();
        let mut training = Vec::new();
        let mut held_out = Vec::new();
        for file in &task.labels {
            let labels = read_labels(ctx.store, &file.path)?;
            latent_dim = labels.shape.latent_dim;
            let ranks: Vec<VideoRank> =
                labels.names.iter().map(|name| VideoRank::of(name)).collect();
            for i in 0..labels.len() {
                let name = |number: u32| labels.names[number as usize].as_str();
                let shard = shard_numbers.get(name(labels.shard[i])).copied();
                let shard = shard.ok_or_else(|| Error::NoShard {
                    file: file.path.clone(),
                    shard: name(labels.shard[i]).to_owned(),
                })?;
                let video = ranks[labels.video_digest[i] as usize];
                videos.insert(video);
                let label = (latent_action.len() / latent_dim.max(1) + i) as u32;
                let frame = LabelledFrame { shard, row: labels.row[i], label };
                if split.trains(video, labels.frame_index[i]) {
                    training.push(frame);
                }
                if split.judges(video, labels.frame_index[i]) {
                    held_out.push(frame);
                }
            }
            latent_action.extend(labels.latent_action);
        }
        let transitions = latent_action.len() / latent_dim.max(1);
        for (split, frames) in [("training", &training), ("held-out", &held_out)] {
            if frames.is_empty() {
                return Err(Error::TooFewTransitions { split, transitions, videos: videos.len() });
            }
        }
        let side = shards.frame_size().map_or(0, |size| size.height as usize);
        let frames = task.config.frames;
        Ok(Data { shards, side, frames, latent_action, latent_dim, training, held_out })
    }

    /// Reads frames, each after those before it that the policy sees, and their latent actions.
    pub(super) fn gather(
        &self,
        labelled: impl Iterator<Item = LabelledFrame>,
    ) -> Result<(Vec<u8>, Vec<f32>), crate::dataset::Error> {
        let bytes = self.frames * self.side * self.side * 3;
        let mut frames = Vec::new();
        let mut latent_action = Vec::new();
        for frame in labelled {
            let start = frames.len();
            frames.resize(start + bytes, 0);
            let stack = &mut frames[start..];
            self.shards.copy_stack(frame.shard as usize, frame.row as usize, stack)?;
            let label = &self.latent_action[frame.label as usize * self.latent_dim..];
            latent_action.extend_from_slice(&label[..self.latent_dim]);
        }
        Ok((frames, latent_action))
    }

    /// Judges the policy after `steps` steps on frames spread evenly over the held-out ones.
    pub(super) fn judge(
        &self,
        trainer: &dyn PolicyTrainer,
        task: &TrainPolicyTask,
        steps: u64,
    ) -> Result<PolicyVerdict, Error> {
        let count = self.held_out.len().min(VERDICT_FRAMES);
        let judged: Vec<LabelledFrame> =
            (0..count).map(|i| self.held_out[i * self.held_out.len() / count]).collect();
        let mut error = 0.0_f64;
        let mut all = Vec::new();
        for part in judged.chunks(VERDICT_BATCH) {
            let (frames, expected) = self.gather(part.iter().copied())?;
            error += squared_distance(trainer.act(&frames)?.iter().zip(&expected));
            all.extend(expected);
        }
        // The baseline: the mean latent action of the judged frames.
        let mut mean = vec![0.0_f32; self.latent_dim];
        for row in all.chunks_exact(self.latent_dim) {
            for (mean, value) in mean.iter_mut().zip(row) {
                *mean += value / count as f32;
            }
        }
        let numbers = all.len() as f64;
        Ok(PolicyVerdict {
            steps,
            training_transitions: self.training.len(),
            transitions: count,
            held_out: task.holdout > 0,
            error: error / numbers,
            mean_error: squared_distance(all.iter().zip(mean.iter().cycle())) / numbers,
        })
    }
}

/// Returns the squared Euclidean distance of two vectors.
fn squared_distance<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)>) -> f64 {
    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
