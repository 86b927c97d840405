//! Samples transitions whose latent and true action are both known: draws to train on, and a
//! held-out set.

use std::collections::{BTreeMap, HashSet};

use super::{Error, TaskContext};
use crate::dataset::{
    Action, Actions, FileInfo, Labels, Split, VideoRank, read_labels, split_labels,
};
use crate::models::Outputs;
use crate::train::pairs::{ColumnStats, ColumnSums, Pairs, TrueActions};

/// The maximum number of held-out transitions.
const MAX_HELD_OUT: usize = 8192;

/// The pairs to sample.
pub(super) struct PairSampling<'a> {
    pub labels: &'a [FileInfo],
    pub actions: &'a [FileInfo],
    /// The maximum number of transitions in a draw.
    pub most: usize,
    /// The number of transitions that must have a true action.
    pub least: usize,
    /// The number of draws.
    pub draws: u64,
    /// One in `holdout` videos is held out, so that no draw has pairs of it. 0: every video is in
    /// both sets.
    pub holdout: usize,
    /// Seeds the draws.
    pub seed: u64,
}

/// Sampled pairs: draws to train on, and held-out pairs.
pub(super) struct PairSample {
    pub latent_dim: usize,
    pub outputs: Outputs,
    /// Statistics of all latent actions, labelled or not.
    pub latent_stats: ColumnStats,
    /// Each draw has `most` transitions. A smaller draw is a prefix of it.
    pub draws: Vec<Pairs>,
    pub held_out: Pairs,
    /// `[pair, code]`
    pub held_out_codes: Vec<u16>,
    /// The number of transitions that the draws were taken from.
    pub count: usize,
}

impl PairSampling<'_> {
    /// Reads all labels once and samples pairs of them.
    ///
    /// # Errors
    /// If fewer than `least` transitions have a true action, or none is held out.
    pub(super) fn sample(&self, ctx: &TaskContext) -> Result<PairSample, Error> {
        let paths: Vec<String> = self.actions.iter().map(|file| file.path.clone()).collect();
        let actions = Actions::read(ctx.store, &paths)?;
        let mut sampler = Sampler {
            draws: (0..self.draws).map(|_| LowestRanks::new(self.most)).collect(),
            held_out: LowestRanks::new(MAX_HELD_OUT),
            sums: ColumnSums::default(),
            latent_dim: 0,
            count: 0,
            videos: HashSet::new(),
            split: split_labels(ctx.store, self.labels, self.holdout)?,
        };
        for file in self.labels {
            sampler.add(self, &actions, &read_labels(ctx.store, &file.path)?);
        }
        if sampler.count < self.least {
            return Err(Error::TooFewLabels {
                file: paths.join(", "),
                found: sampler.count,
                asked: self.least,
            });
        }
        if sampler.held_out.rows.is_empty() {
            return Err(Error::TooFewTransitions {
                split: "held-out",
                transitions: sampler.count,
                videos: sampler.videos.len(),
            });
        }
        // `None` for discrete actions.
        let axes = actions.axes();
        let (held_out, held_out_codes) = sampler.held_out.into_pairs(axes);
        Ok(PairSample {
            latent_dim: sampler.latent_dim,
            outputs: axes.map_or(Outputs::Discrete { actions: actions.count() }, |axes| {
                Outputs::Continuous { axes }
            }),
            latent_stats: sampler.sums.stats(),
            draws: sampler.draws.into_iter().map(|lowest| lowest.into_pairs(axes).0).collect(),
            held_out,
            held_out_codes,
            count: sampler.count,
        })
    }
}

/// Collects true actions for a decoder. `axes` is the width of continuous actions.
pub(super) fn true_actions<'a>(
    actions: impl Iterator<Item = Action<'a>>,
    axes: Option<usize>,
) -> TrueActions {
    let mut discrete = Vec::new();
    let mut continuous = Vec::new();
    for action in actions {
        match action {
            Action::Discrete(number) => discrete.push(number),
            Action::Continuous(numbers) => continuous.extend_from_slice(numbers),
        }
    }
    axes.map_or(TrueActions::Discrete(discrete), |axes| TrueActions::Continuous(continuous, axes))
}

/// The sample of the labels read so far.
struct Sampler {
    draws: Vec<LowestRanks>,
    held_out: LowestRanks,
    sums: ColumnSums,
    latent_dim: usize,
    count: usize,
    videos: HashSet<VideoRank>,
    split: Split,
}

impl Sampler {
    /// Adds all transitions of a file whose true action is known.
    fn add(&mut self, sampling: &PairSampling, actions: &Actions, labels: &Labels) {
        let dim = labels.shape.latent_dim;
        let codes = labels.latent_code.len() / labels.len().max(1);
        self.latent_dim = dim;
        // Unlabelled latent actions count, too: there are many more of them.
        self.sums.add(&labels.latent_action, dim);
        let ranks: Vec<VideoRank> = labels.names.iter().map(|name| VideoRank::of(name)).collect();
        for i in 0..labels.len() {
            let video = ranks[labels.video_digest[i] as usize];
            self.videos.insert(video);
            let Some(action) = actions.get(video_of(labels, i), labels.frame_index[i]) else {
                continue;
            };
            // Copied only if its rank is low enough: most transitions are not drawn.
            let row = || LabelledTransition {
                latent_action: labels.latent_action[i * dim..][..dim].to_vec(),
                codes: labels.latent_code[i * codes..][..codes].to_vec(),
                action: OwnedAction::from(action),
            };
            if self.split.judges(video, labels.frame_index[i]) {
                // A draw number of its own for the held-out set.
                self.held_out.offer(rank(labels, i, sampling.seed, u64::MAX), row);
            }
            if self.split.trains(video, labels.frame_index[i]) {
                self.count += 1;
                for (draw, number) in self.draws.iter_mut().zip(0..) {
                    draw.offer(rank(labels, i, sampling.seed, number), row);
                }
            }
        }
    }
}

fn video_of(labels: &Labels, row: usize) -> &str {
    &labels.names[labels.video[row] as usize]
}

/// Returns the number that decides whether a transition is drawn: random, and the same wherever the
/// transition is stored.
fn rank(labels: &Labels, row: usize, seed: u64, draw: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&seed.to_le_bytes())
        .update(&draw.to_le_bytes())
        .update(&labels.frame_index[row].to_le_bytes());
    hasher.update(video_of(labels, row).as_bytes());
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
}

/// A transition whose true action is known.
struct LabelledTransition {
    latent_action: Vec<f32>,
    codes: Vec<u16>,
    action: OwnedAction,
}

enum OwnedAction {
    Discrete(u32),
    Continuous(Vec<f32>),
}

impl OwnedAction {
    fn borrowed(&self) -> Action<'_> {
        match self {
            OwnedAction::Discrete(number) => Action::Discrete(*number),
            OwnedAction::Continuous(numbers) => Action::Continuous(numbers),
        }
    }
}

impl From<Action<'_>> for OwnedAction {
    fn from(action: Action<'_>) -> Self {
        match action {
            Action::Discrete(number) => OwnedAction::Discrete(number),
            Action::Continuous(numbers) => OwnedAction::Continuous(numbers.to_vec()),
        }
    }
}

/// The `most` transitions with the lowest ranks.
struct LowestRanks {
    most: usize,
    rows: BTreeMap<u64, LabelledTransition>,
}

impl LowestRanks {
    fn new(most: usize) -> Self {
        LowestRanks { most, rows: BTreeMap::new() }
    }

    /// Adds a transition if its rank is among the lowest.
    fn offer(&mut self, rank: u64, row: impl Fn() -> LabelledTransition) {
        let full = self.rows.len() == self.most;
        if full && self.rows.last_key_value().is_none_or(|(highest, _)| rank > *highest) {
            return;
        }
        self.rows.insert(rank, row());
        if self.rows.len() > self.most {
            self.rows.pop_last();
        }
    }

    /// Returns the pairs and their codes.
    fn into_pairs(self, axes: Option<usize>) -> (Pairs, Vec<u16>) {
        let action = true_actions(self.rows.values().map(|row| row.action.borrowed()), axes);
        let (latent_action, codes): (Vec<_>, Vec<_>) =
            self.rows.into_values().map(|row| (row.latent_action, row.codes)).unzip();
        (Pairs { latent_action: latent_action.concat(), action }, codes.concat())
    }
}
