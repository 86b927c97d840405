//! Labels beside true actions: both go in; a few transitions where both are known come out, drawn at random, and others to be asked about.

use std::collections::{BTreeMap, HashMap};

use super::{Error, Workplace};
use crate::dataset::{Action, Actions, FileInfo, Labels, read_labels};
use crate::models::Outputs;
use crate::train::decoding::{Answers, Pairs, Spread, Sums};

/// Most held-out transitions that are asked about.
const ASKED: usize = 8192;

/// What to draw, and out of what.
pub(super) struct Choice<'a> {
    pub labels: &'a [FileInfo],
    pub actions: &'a [FileInfo],
    /// Transitions of a draw, if there are so many, and how many there must be.
    pub most: usize,
    pub least: usize,
    pub draws: u64,
    /// Every so many-th video is asked about and not drawn from; 0: all are both.
    pub holdout: usize,
    pub seed: u64,
}

/// Transitions to learn from, draw by draw, and some to be asked about.
pub(super) struct Known {
    pub latent_dim: usize,
    pub outputs: Outputs,
    /// Of every latent action, whether its true action is known or not.
    pub spread: Spread,
    /// The most transitions asked for, in the order in which fewer are taken.
    pub draws: Vec<Pairs>,
    pub asked: Pairs,
    /// `[asked, codes]`
    pub asked_codes: Vec<u16>,
    /// Transitions that were to choose from.
    pub count: usize,
}

impl Choice<'_> {
    /// Reads all labels, once.
    ///
    /// # Errors
    /// Where fewer transitions have a true action, or none that is held out.
    pub(super) fn draw(&self, place: &Workplace) -> Result<Known, Error> {
        let paths: Vec<String> = self.actions.iter().map(|file| file.path.clone()).collect();
        let actions = Actions::read(place.store, &paths)?;
        let mut drawn = Drawn {
            draws: (0..self.draws).map(|_| Lowest::new(self.most)).collect(),
            asked: Lowest::new(ASKED),
            sums: Sums::default(),
            latent_dim: 0,
            count: 0,
            videos: 0,
        };
        for file in self.labels {
            drawn.take(self, &actions, &read_labels(place.store, &file.path)?);
        }
        if drawn.count < self.least {
            return Err(Error::TooFewLabels {
                file: paths.join(", "),
                found: drawn.count,
                asked: self.least,
            });
        }
        if drawn.asked.rows.is_empty() {
            return Err(Error::TooFewTransitions {
                split: "held-out",
                transitions: drawn.count,
                videos: drawn.videos,
            });
        }
        let axes = actions.axes();
        let (asked, asked_codes) = drawn.asked.pairs(axes);
        Ok(Known {
            latent_dim: drawn.latent_dim,
            outputs: axes.map_or(Outputs::Discrete { actions: actions.count() }, |axes| {
                Outputs::Continuous { axes }
            }),
            spread: drawn.sums.spread(),
            draws: drawn.draws.into_iter().map(|lowest| lowest.pairs(axes).0).collect(),
            asked,
            asked_codes,
            count: drawn.count,
        })
    }
}

/// True actions in the form in which they are learnt; `axes` where they are vectors.
pub(super) fn answers<'a>(
    actions: impl Iterator<Item = Action<'a>>,
    axes: Option<usize>,
) -> Answers {
    let (mut discrete, mut continuous) = (Vec::new(), Vec::new());
    for action in actions {
        match action {
            Action::Discrete(number) => discrete.push(number),
            Action::Continuous(numbers) => continuous.extend_from_slice(numbers),
        }
    }
    axes.map_or(Answers::Discrete(discrete), |axes| Answers::Continuous(continuous, axes))
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
    fn take(&mut self, choice: &Choice, actions: &Actions, labels: &Labels) {
        let (dim, codes) =
            (labels.shape.latent_dim, labels.latent_code.len() / labels.len().max(1));
        self.latent_dim = dim;
        self.sums.add(&labels.latent_action, dim);
        let mut videos = HashMap::new();
        for i in 0..labels.len() {
            let next = self.videos + videos.len();
            let video = *videos.entry(labels.video[i]).or_insert(next);
            let Some(action) = actions.get(video_of(labels, i), labels.frame_index[i]) else {
                continue;
            };
            let held_out = choice.holdout > 0 && video.is_multiple_of(choice.holdout);
            let row = || Row {
                latent_action: labels.latent_action[i * dim..][..dim].to_vec(),
                codes: labels.latent_code[i * codes..][..codes].to_vec(),
                action: Owned::from(action),
            };
            if held_out || choice.holdout == 0 {
                self.asked.offer(rank(labels, i, choice.seed, u64::MAX), row);
            }
            if !held_out {
                self.count += 1;
                self.draws.iter_mut().zip(0..).for_each(|(draw, number)| {
                    draw.offer(rank(labels, i, choice.seed, number), row)
                });
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
    hasher
        .update(&seed.to_le_bytes())
        .update(&draw.to_le_bytes())
        .update(&labels.frame_index[row].to_le_bytes());
    hasher.update(video_of(labels, row).as_bytes());
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
}

/// One transition whose true action is known.
struct Row {
    latent_action: Vec<f32>,
    codes: Vec<u16>,
    action: Owned,
}

enum Owned {
    Discrete(u32),
    Continuous(Vec<f32>),
}

impl Owned {
    fn borrowed(&self) -> Action<'_> {
        match self {
            Owned::Discrete(number) => Action::Discrete(*number),
            Owned::Continuous(numbers) => Action::Continuous(numbers),
        }
    }
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

    /// The pairs, and their codes.
    fn pairs(self, axes: Option<usize>) -> (Pairs, Vec<u16>) {
        let action = answers(self.rows.values().map(|row| row.action.borrowed()), axes);
        let (latent_action, codes): (Vec<_>, Vec<_>) =
            self.rows.into_values().map(|row| (row.latent_action, row.codes)).unzip();
        (Pairs { latent_action: latent_action.concat(), action }, codes.concat())
    }
}
