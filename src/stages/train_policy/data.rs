//! What a policy is cloned from: frames on disk, latent actions in memory. In: shards and labels; out: any of their pairs, and a verdict.

use std::collections::HashMap;

use super::{PolicyVerdict, TrainPolicyTask};
use crate::dataset::{Shards, read_labels};
use crate::stages::{Error, Workplace};
use crate::train::PolicyTrainer;

/// Most frames the verdict is based on, and how many a pass takes.
const VERDICT_FRAMES: usize = 4096;
const VERDICT_BATCH: usize = 256;

/// A labelled frame: its shard, its row there, and where its latent action begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    shard: u32,
    row: u32,
    label: u32,
}

/// Frames on disk and latent actions in memory.
pub(super) struct Data {
    shards: Shards,
    pub side: usize,
    /// `[transition, latent_dim]`
    latent_action: Vec<f32>,
    pub latent_dim: usize,
    pub training: Vec<Place>,
    held_out: Vec<Place>,
}

impl Data {
    pub(super) fn open(task: &TrainPolicyTask, place: &Workplace) -> Result<Data, Error> {
        let shards = Shards::open_files(place.store, &task.shards)?;
        let number: HashMap<&str, u32> = task
            .shards
            .iter()
            .zip(0..)
            .map(|(file, number)| (file.blake3.as_str(), number))
            .collect();
        let (mut latent_action, mut latent_dim, mut videos) = (Vec::new(), 0, HashMap::new());
        let (mut training, mut held_out) = (Vec::new(), Vec::new());
        for file in &task.labels {
            let labels = read_labels(place.store, &file.path)?;
            latent_dim = labels.shape.latent_dim;
            for i in 0..labels.len() {
                let name = |number: u32| labels.names[number as usize].as_str();
                let shard = number.get(name(labels.shard[i])).copied();
                let shard = shard.ok_or_else(|| Error::NoShard {
                    file: file.path.clone(),
                    shard: name(labels.shard[i]).to_owned(),
                })?;
                let next = videos.len();
                let video =
                    *videos.entry((shard, name(labels.video[i]).to_owned())).or_insert(next);
                let kept = task.config.holdout > 0 && video.is_multiple_of(task.config.holdout);
                let label = (latent_action.len() / latent_dim.max(1) + i) as u32;
                if kept { &mut held_out } else { &mut training }.push(Place {
                    shard,
                    row: labels.row[i],
                    label,
                });
            }
            latent_action.extend(labels.latent_action);
        }
        let transitions = training.len() + held_out.len();
        if task.config.holdout == 0 {
            held_out.clone_from(&training);
        }
        for (split, places) in [("training", &training), ("held-out", &held_out)] {
            if places.is_empty() {
                return Err(Error::TooFewTransitions { split, transitions, videos: videos.len() });
            }
        }
        let side = shards.frame_size().map_or(0, |size| size.height as usize);
        Ok(Data { shards, side, latent_action, latent_dim, training, held_out })
    }

    /// Copies frames and their latent actions.
    pub(super) fn gather(
        &self,
        places: impl Iterator<Item = Place>,
    ) -> Result<(Vec<u8>, Vec<f32>), crate::dataset::Error> {
        let bytes = self.side * self.side * 3;
        let (mut frames, mut latent_action) = (Vec::new(), Vec::new());
        for place in places {
            let from = frames.len();
            frames.resize(from + bytes, 0);
            self.shards.copy(place.shard as usize, place.row as usize, &mut frames[from..])?;
            latent_action.extend_from_slice(
                &self.latent_action[place.label as usize * self.latent_dim..][..self.latent_dim],
            );
        }
        Ok((frames, latent_action))
    }

    /// On frames spread evenly over those held out, after so many steps.
    pub(super) fn judge(
        &self,
        trainer: &dyn PolicyTrainer,
        task: &TrainPolicyTask,
        steps: u64,
    ) -> Result<PolicyVerdict, Error> {
        let count = self.held_out.len().min(VERDICT_FRAMES);
        let asked: Vec<Place> =
            (0..count).map(|i| self.held_out[i * self.held_out.len() / count]).collect();
        let (mut error, mut all) = (0.0_f64, Vec::new());
        for part in asked.chunks(VERDICT_BATCH) {
            let (frames, right) = self.gather(part.iter().copied())?;
            error += squared(trainer.act(&frames)?.iter().zip(&right));
            all.extend(right);
        }
        let mut mean = vec![0.0_f32; self.latent_dim];
        all.chunks_exact(self.latent_dim).for_each(|row| {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / count as f32)
        });
        let numbers = all.len() as f64;
        Ok(PolicyVerdict {
            steps,
            training_transitions: self.training.len(),
            transitions: count,
            held_out: task.config.holdout > 0,
            error: error / numbers,
            mean_error: squared(all.iter().zip(mean.iter().cycle())) / numbers,
        })
    }
}

fn squared<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)>) -> f64 {
    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
