//! What decoders learn from: labels and true actions go in; the few transitions that were drawn come out, draw by draw.

use std::collections::{BTreeMap, HashMap};

use super::TrainDecoderTask;
use crate::dataset::{Action, Actions, Labels, read_labels};
use crate::models::Outputs;
use crate::stages::{Error, Workplace};
use crate::train::decoding::{Answers, Pairs, Spread, Sums};

/// Most held-out transitions that judge a decoder.
const ASKED: usize = 8192;

/// Transitions to learn from, draw by draw, and some to be asked about.
pub(super) struct Known {
    pub latent_dim: usize,
    pub outputs: Outputs,
    /// Of every latent action, whether its true action is known or not.
    pub spread: Spread,
    /// The most transitions asked for, in the order in which fewer are taken.
    pub draws: Vec<Pairs>,
    pub asked: Pairs,
    /// Transitions that were to choose from.
    pub count: usize,
}

impl Known {
    pub(super) fn read(task: &TrainDecoderTask, place: &Workplace) -> Result<Known, Error> {
        let paths: Vec<String> = task.actions.iter().map(|file| file.path.clone()).collect();
        let actions = Actions::read(place.store, &paths)?;
        let most = task.config.transitions.iter().copied().max().unwrap_or(0);
        let mut drawn = Drawn {
            draws: (0..task.config.draws).map(|_| Lowest::new(most)).collect(),
            asked: Lowest::new(ASKED),
            sums: Sums::default(),
            latent_dim: 0,
            count: 0,
            videos: 0,
        };
        for file in &task.labels {
            drawn.take(task, &actions, &read_labels(place.store, &file.path)?);
        }
        if drawn.count < most {
            return Err(Error::TooFewLabels { file: paths.join(", "), found: drawn.count, asked: most });
        }
        if drawn.asked.rows.is_empty() {
            return Err(Error::TooFewTransitions { split: "held-out", transitions: drawn.count, videos: drawn.videos });
        }
        let outputs = match actions.axes() {
            Some(axes) => Outputs::Continuous { axes },
            None => Outputs::Discrete { actions: actions.count() },
        };
        Ok(Known {
            latent_dim: drawn.latent_dim,
            outputs,
            spread: drawn.sums.spread(),
            draws: drawn.draws.into_iter().map(|lowest| lowest.pairs(outputs)).collect(),
            asked: drawn.asked.pairs(outputs),
            count: drawn.count,
        })
    }
}

/// What was drawn of the labels read so far.
struct Drawn {
    draws: Vec<Lowest>,
    asked: Lowest,
    sums: Sums,
    latent_dim: usize,
    count: usize,
    videos: usize,
}

impl Drawn {
    /// Offers every transition of a file whose true action is known.
    fn take(&mut self, task: &TrainDecoderTask, actions: &Actions, labels: &Labels) {
        let dim = labels.shape.latent_dim;
        self.latent_dim = dim;
        self.sums.add(&labels.latent_action, dim);
        let mut videos = HashMap::new();
        for i in 0..labels.len() {
            let next = self.videos + videos.len();
            let video = *videos.entry(labels.video[i]).or_insert(next);
            let Some(action) = actions.get(video_of(labels, i), labels.frame_index[i]) else { continue };
            let held_out = task.config.holdout > 0 && video.is_multiple_of(task.config.holdout);
            let row = || Row { latent_action: labels.latent_action[i * dim..][..dim].to_vec(), action: Owned::from(action) };
            if held_out || task.config.holdout == 0 {
                self.asked.offer(rank(labels, i, task.seed, u64::MAX), row);
            }
            if !held_out {
                self.count += 1;
                self.draws.iter_mut().zip(0..).for_each(|(draw, number)| draw.offer(rank(labels, i, task.seed, number), row));
            }
        }
        self.videos += videos.len();
    }
}

fn video_of(labels: &Labels, row: usize) -> &str {
    &labels.names[labels.video[row] as usize]
}

/// A number that decides which transitions are drawn: random, and the same wherever the transition stands.
fn rank(labels: &Labels, row: usize, seed: u64, draw: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&draw.to_le_bytes()).update(&labels.frame_index[row].to_le_bytes());
    hasher.update(video_of(labels, row).as_bytes());
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
}

/// One transition whose true action is known.
struct Row {
    latent_action: Vec<f32>,
    action: Owned,
}

enum Owned {
    Discrete(u32),
    Continuous(Vec<f32>),
}

impl From<Action<'_>> for Owned {
    fn from(action: Action<'_>) -> Self {
        match action {
            Action::Discrete(number) => Owned::Discrete(number),
            Action::Continuous(numbers) => Owned::Continuous(numbers.to_vec()),
        }
    }
}

/// The transitions of lowest rank, at most so many.
struct Lowest {
    most: usize,
    rows: BTreeMap<u64, Row>,
}

impl Lowest {
    fn new(most: usize) -> Self {
        Lowest { most, rows: BTreeMap::new() }
    }

    fn offer(&mut self, rank: u64, row: impl Fn() -> Row) {
        let full = self.rows.len() == self.most;
        if full && self.rows.last_key_value().is_none_or(|(highest, _)| rank > *highest) {
            return;
        }
        self.rows.insert(rank, row());
        if self.rows.len() > self.most {
            self.rows.pop_last();
        }
    }

    fn pairs(self, outputs: Outputs) -> Pairs {
        let (mut latent_action, mut discrete, mut continuous) = (Vec::new(), Vec::new(), Vec::new());
        for row in self.rows.into_values() {
            latent_action.extend(row.latent_action);
            match row.action {
                Owned::Discrete(number) => discrete.push(number),
                Owned::Continuous(numbers) => continuous.extend(numbers),
            }
        }
        let action = match outputs {
            Outputs::Discrete { .. } => Answers::Discrete(discrete),
            Outputs::Continuous { axes } => Answers::Continuous(continuous, axes),
        };
        Pairs { latent_action, action }
    }
}
