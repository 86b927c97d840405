//! The frames of one video fall into episodes: the next begins after lost frames, frames that are left out, and at scene cuts.
//!
//! In: frames as they are decoded; out: the same, two frames later, each with its episode or why it is in none. Start at
//! [`Episodes::push`]. A cut is a change that stands out from the changes before and after it. How large it is says little: a maze changes
//! by .002 of the range from frame to frame, a join of two mazes by .02 to .1, a platformer's run by .1. [`super::DecodeConfig::cut`] has
//! what was measured.

use std::collections::VecDeque;

use super::quality::{LeftOut, Look, Measured};
use super::{DecodeConfig, Still};
use crate::dataset::FrameSize;

/// Changes on either side that one is compared with. Two, so that frames that are there twice, every other or every fifth, make no cuts.
const AROUND: usize = 2;
/// A smaller change, as a share of the range, is no cut.
const LEAST: f32 = 0.02;
/// Where nothing changes around it, a change is this many times smaller than its score.
const NOTHING: f32 = 1e-6;

/// A frame with its time in seconds.
pub struct Timed {
    /// RGB.
    pub pixels: Vec<u8>,
    /// Seconds from the start.
    pub time_secs: f64,
    /// Its position in the source.
    pub index: u32,
}

/// A frame whose surroundings are known.
pub struct Judged {
    /// The frame.
    pub frame: Timed,
    /// Its episode, where it is not left out.
    pub episode: u32,
    /// What was measured, and whether it is left out.
    pub measured: Measured,
}

/// Frames of one video on their way to their episodes.
pub struct Episodes {
    size: FrameSize,
    cut: Option<f32>,
    blank: Option<f32>,
    still: Option<Still>,
    waiting: VecDeque<Waiting>,
    /// The changes that led to the frames that are out.
    before: [f32; AROUND],
    /// Frames that are kept.
    kept: u64,
    /// Cuts that were found.
    cuts: u64,
    episode: u32,
    /// Whether the next frame that is kept begins an episode.
    broken: bool,
    /// Frames since the picture last moved.
    stood: u64,
}

struct Waiting {
    frame: Timed,
    /// From the frame before, as a share of the range; none where that is not known.
    change: Option<f32>,
    /// Whether frames were lost before it.
    gap: bool,
}

impl Episodes {
    /// None yet, of frames of this size.
    pub fn new(config: &DecodeConfig) -> Self {
        Episodes {
            size: FrameSize { height: config.size, width: config.size },
            cut: config.cut.map(|cut| cut as f32),
            blank: config.blank.map(|blank| blank as f32),
            still: config.still,
            waiting: VecDeque::new(),
            before: [0.0; AROUND],
            kept: 0,
            cuts: 0,
            episode: 0,
            broken: false,
            stood: 0,
        }
    }

    /// Takes the next frame; gives the one whose surroundings are known now.
    pub fn push(&mut self, frame: Timed, gap: bool) -> Option<Judged> {
        let last = self.waiting.back().filter(|_| !gap);
        let change = last.map(|last| change(&last.frame.pixels, &frame.pixels));
        self.waiting.push_back(Waiting { frame, change, gap });
        if self.waiting.len() > AROUND { self.pop() } else { None }
    }

    /// The rest, one by one.
    pub fn pop(&mut self) -> Option<Judged> {
        let Waiting { frame, change, gap } = self.waiting.pop_front()?;
        let look = Look::at(&frame.pixels, self.size);
        let moved = change.unwrap_or_default();
        let around = self
            .waiting
            .iter()
            .filter_map(|next| next.change)
            .chain(self.before)
            .fold(0.0, f32::max);
        let is_cut = self.cut.is_some_and(|cut| moved >= LEAST && moved > cut * around);
        let left_out = self.left_out(&look, change);
        self.cuts += u64::from(is_cut);
        self.broken |= gap || is_cut || left_out.is_some();
        if left_out.is_none() {
            self.episode += u32::from(self.broken && self.kept > 0);
            (self.broken, self.kept) = (false, self.kept + 1);
        }
        self.before.rotate_left(1);
        self.before[AROUND - 1] = moved;
        let measured =
            Measured { look, change: moved, cut_score: moved / around.max(NOTHING), left_out };
        Some(Judged { frame, episode: self.episode, measured })
    }

    fn left_out(&mut self, look: &Look, change: Option<f32>) -> Option<LeftOut> {
        let still =
            self.still.filter(|still| change.is_some_and(|change| change < still.change as f32));
        self.stood = if still.is_some() { self.stood + 1 } else { 0 };
        let blank = self.blank.filter(|blank| look.contrast < *blank).map(|_| LeftOut::Blank);
        blank.or_else(|| still.filter(|still| self.stood > still.frames).map(|_| LeftOut::Still))
    }

    /// How many frames are kept.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// How many cuts were found.
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// How many episodes came out.
    pub fn count(&self) -> u64 {
        if self.kept == 0 { 0 } else { u64::from(self.episode) + 1 }
    }
}

/// Mean absolute change of a pixel, as a share of the range.
fn change(before: &[u8], after: &[u8]) -> f32 {
    let sum: u64 = before.iter().zip(after).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f32 / (255.0 * before.len().max(1) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of these brightnesses, a gap before each that is negative; the left half is darker by 10, so that none is blank but 0.
    fn judged(config: &DecodeConfig, frames: &[i16]) -> Vec<Judged> {
        let mut episodes = Episodes::new(&DecodeConfig { size: 8, ..config.clone() });
        let mut out = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            let bright = frame.unsigned_abs() as u8;
            let pixels = (0..8 * 8 * 3)
                .map(|at| if at / 3 % 8 < 4 { bright.saturating_sub(10) } else { bright })
                .collect();
            out.extend(
                episodes.push(Timed { pixels, time_secs: i as f64, index: i as u32 }, *frame < 0),
            );
        }
        out.extend(std::iter::from_fn(|| episodes.pop()));
        let in_order = |(i, judged): (usize, &Judged)| {
            judged.frame.time_secs == i as f64 && judged.frame.index == i as u32
        };
        assert!(
            out.len() == frames.len() && out.iter().enumerate().all(in_order),
            "each frame once, in order"
        );
        let kept = || out.iter().filter(|judged| judged.measured.left_out.is_none());
        assert_eq!(episodes.kept(), kept().count() as u64);
        assert_eq!(
            episodes.count(),
            kept().next_back().map_or(0, |judged| u64::from(judged.episode) + 1)
        );
        out
    }

    /// The episodes of these frames; -1 for what is left out.
    fn episodes(config: &DecodeConfig, frames: &[i16]) -> Vec<i64> {
        let of = |judged: &Judged| {
            if judged.measured.left_out.is_some() { -1 } else { i64::from(judged.episode) }
        };
        judged(config, frames).iter().map(of).collect()
    }

    fn cut(cut: Option<f64>) -> DecodeConfig {
        DecodeConfig { cut, ..serde_json::from_str("{}").expect("all fields have defaults") }
    }

    #[test]
    fn an_episode_ends_at_a_cut_and_at_lost_frames() {
        let two = cut(Some(2.0));
        assert_eq!(episodes(&two, &[10, 11, 12, 200, 201, -202, 203]), [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(episodes(&two, &[]), [0; 0]);
        assert_eq!(episodes(&two, &[10]), [0]);
        assert_eq!(episodes(&two, &[10, 200]), [0, 1], "nothing is known of what is around");
        assert_eq!(episodes(&cut(None), &[0, 255, 0, -255]), [0, 0, 0, 1]);
    }

    #[test]
    fn what_moves_all_the_time_or_flashes_is_not_cut() {
        let two = cut(Some(2.0));
        assert_eq!(episodes(&two, &[10, 30, 60, 90, 120, 175]), [0; 6]);
        assert_eq!(episodes(&two, &[10, 10, 250, 10, 10, 10]), [0; 6], "a flash goes as it came");
        assert_eq!(episodes(&two, &[10, 20, 20, 40, 40, 60, 60, 80]), [0; 8], "every frame twice");
        assert_eq!(episodes(&two, &[10, 10, 14, 14, 14]), [0; 5], "too small a change");
    }

    #[test]
    fn what_is_left_out_ends_an_episode() {
        let blank = DecodeConfig { blank: Some(0.01), ..cut(None) };
        assert_eq!(episodes(&blank, &[0, 0, 50, 51, 0, 52, 53, 0]), [-1, -1, 0, 0, -1, 1, 1, -1]);
        assert_eq!(episodes(&blank, &[0, 0]), [-1, -1]);
        let still = DecodeConfig { still: Some(Still { frames: 2, change: 0.001 }), ..cut(None) };
        assert_eq!(episodes(&still, &[50, 50, 50, 50, 50, 60, 60, 70]), [0, 0, 0, -1, -1, 1, 1, 1]);
        assert_eq!(
            episodes(&still, &[50, 50, -50, 50, 50]),
            [0, 0, 1, 1, 1],
            "what lies in a gap is not known"
        );
    }

    #[test]
    fn a_cut_is_what_its_score_says() {
        let judged = judged(&cut(Some(2.0)), &[10, 11, 12, 200, 201, 202, 203]);
        let scores: Vec<f32> = judged.iter().map(|judged| judged.measured.cut_score).collect();
        assert_eq!(scores.iter().filter(|score| **score > 2.0).count(), 1);
        assert!(
            scores[3] > 100.0 && (judged[3].measured.change - 188.0 / 255.0).abs() < 0.02,
            "{scores:?}"
        );
    }
}
