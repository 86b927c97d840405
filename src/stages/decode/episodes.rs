//! Splits the frames of a video into episodes. Start at [`Episodes::push`].
//!
//! An episode ends at lost frames, at dropped frames and at scene cuts. A frame leaves two frames
//! after it came in, since a cut is judged by the changes around it: it must stand out from the
//! changes before and after. The size of a change alone says little, because mazes change far less
//! from frame to frame than platformers.

use std::collections::VecDeque;

use super::quality::{DropReason, FrameStats, Measured};
use super::{DecodeConfig, Still};
use crate::dataset::FrameSize;

/// The number of changes on either side with which a change is compared. With two, frames repeated
/// at every second or fifth position make no cuts.
const AROUND: usize = 2;
/// The smallest change that can be a cut, as a share of the range.
const MIN_CUT: f32 = 0.02;
/// The divisor of a cut score where nothing changes around the frame.
const MIN_AROUND: f32 = 1e-6;

/// A frame with its time.
pub struct Timed {
    /// Pixels, `[height, width, 3]`.
    pub pixels: Vec<u8>,
    /// Seconds from the start.
    pub time_secs: f64,
    /// The frame's position in the source.
    pub index: u32,
}

/// A frame with its episode.
pub struct Judged {
    /// The frame.
    pub frame: Timed,
    /// Its episode. Meaningless if the frame is dropped.
    pub episode: u32,
    /// The frame's statistics, and why it is dropped, if it is.
    pub measured: Measured,
}

/// The state of splitting a video into episodes.
pub struct Episodes {
    size: FrameSize,
    cut: Option<f32>,
    blank: Option<f32>,
    still: Option<Still>,
    waiting: VecDeque<Waiting>,
    /// The last changes before the waiting frames.
    previous: [f32; AROUND],
    /// The number of frames kept.
    kept: u64,
    /// The number of cuts.
    cuts: u64,
    episode: u32,
    /// Whether the next kept frame begins an episode.
    begins_episode: bool,
    /// The number of frames since the picture last changed.
    still_frames: u64,
}

struct Waiting {
    frame: Timed,
    /// The change from the frame before, as a share of the range. `None` after lost frames.
    change: Option<f32>,
    /// Whether frames were lost before this one.
    gap: bool,
}

impl Episodes {
    /// Creates the state for a video without frames so far.
    pub fn new(config: &DecodeConfig) -> Self {
        Episodes {
            size: FrameSize { height: config.size, width: config.size },
            cut: config.cut().map(|cut| cut as f32),
            blank: config.blank.map(|blank| blank as f32),
            still: config.still,
            waiting: VecDeque::new(),
            previous: [0.0; AROUND],
            kept: 0,
            cuts: 0,
            episode: 0,
            begins_episode: false,
            still_frames: 0,
        }
    }

    /// Takes the next frame. Returns the frame whose surroundings are now known.
    pub fn push(&mut self, frame: Timed, gap: bool) -> Option<Judged> {
        // Across lost frames the change is unknown.
        let last = self.waiting.back().filter(|_| !gap);
        let change = last.map(|last| change(&last.frame.pixels, &frame.pixels));
        self.waiting.push_back(Waiting { frame, change, gap });
        // Two later changes are known once three frames wait.
        if self.waiting.len() > AROUND { self.pop() } else { None }
    }

    /// Returns one of the remaining frames after the last one was taken.
    pub fn pop(&mut self) -> Option<Judged> {
        let Waiting { frame, change, gap } = self.waiting.pop_front()?;
        let stats = FrameStats::of(&frame.pixels, self.size);
        let moved = change.unwrap_or_default();
        let around = self
            .waiting
            .iter()
            .filter_map(|next| next.change)
            .chain(self.previous)
            .fold(0.0, f32::max);
        // A small change is never a cut, even where nothing else moves.
        let is_cut = self.cut.is_some_and(|cut| moved >= MIN_CUT && moved > cut * around);
        let dropped = self.drop_reason(&stats, change);
        self.cuts += u64::from(is_cut);
        self.begins_episode |= gap || is_cut || dropped.is_some();
        if dropped.is_none() {
            // The first kept frame begins episode 0, whatever was dropped before it.
            self.episode += u32::from(self.begins_episode && self.kept > 0);
            self.begins_episode = false;
            self.kept += 1;
        }
        // The oldest of the two changes leaves.
        self.previous.rotate_left(1);
        self.previous[AROUND - 1] = moved;
        let measured =
            Measured { stats, change: moved, cut_score: moved / around.max(MIN_AROUND), dropped };
        Some(Judged { frame, episode: self.episode, measured })
    }

    fn drop_reason(&mut self, stats: &FrameStats, change: Option<f32>) -> Option<DropReason> {
        let still =
            self.still.filter(|still| change.is_some_and(|change| change < still.change as f32));
        self.still_frames = if still.is_some() { self.still_frames + 1 } else { 0 };
        // A blank frame counts as blank even within a frozen stretch.
        let blank = self.blank.filter(|blank| stats.contrast < *blank).map(|_| DropReason::Blank);
        blank.or_else(|| {
            still.filter(|still| self.still_frames > still.frames).map(|_| DropReason::Still)
        })
    }

    /// Returns the number of frames kept.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Returns the number of cuts.
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// Returns the number of episodes.
    pub fn count(&self) -> u64 {
        if self.kept == 0 { 0 } else { u64::from(self.episode) + 1 }
    }
}

/// Returns the mean absolute change of a pixel, as a share of the range.
fn change(before: &[u8], after: &[u8]) -> f32 {
    let sum: u64 = before.iter().zip(after).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f32 / (255.0 * before.len().max(1) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges frames of these brightnesses. A negative one has a gap before it. The left half is
    /// darker by 10, so that only brightness 0 is blank.
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
        let kept = || out.iter().filter(|judged| judged.measured.dropped.is_none());
        assert_eq!(episodes.kept(), kept().count() as u64);
        assert_eq!(
            episodes.count(),
            kept().next_back().map_or(0, |judged| u64::from(judged.episode) + 1)
        );
        out
    }

    /// Returns the episodes of these frames, with -1 for dropped ones.
    fn episodes(config: &DecodeConfig, frames: &[i16]) -> Vec<i64> {
        let of = |judged: &Judged| {
            if judged.measured.dropped.is_some() { -1 } else { i64::from(judged.episode) }
        };
        judged(config, frames).iter().map(of).collect()
    }

    fn cut(cut: Option<f64>) -> DecodeConfig {
        DecodeConfig {
            cut: Some(cut),
            ..serde_json::from_str("{}").expect("all fields have defaults")
        }
    }

    #[test]
    fn an_episode_ends_at_a_cut_and_at_lost_frames() {
        let two = cut(Some(2.0));
        assert_eq!(episodes(&two, &[10, 11, 12, 200, 201, -202, 203]), [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(episodes(&two, &[]), [0; 0]);
        assert_eq!(episodes(&two, &[10]), [0]);
        assert_eq!(episodes(&two, &[10, 200]), [0, 1], "the changes around it are unknown");
        assert_eq!(episodes(&cut(None), &[0, 255, 0, -255]), [0, 0, 0, 1]);
    }

    #[test]
    fn constant_motion_and_flashes_are_not_cut() {
        let two = cut(Some(2.0));
        assert_eq!(episodes(&two, &[10, 30, 60, 90, 120, 175]), [0; 6]);
        assert_eq!(
            episodes(&two, &[10, 10, 250, 10, 10, 10]),
            [0; 6],
            "a flash changes as much on both sides"
        );
        assert_eq!(episodes(&two, &[10, 20, 20, 40, 40, 60, 60, 80]), [0; 8], "every frame twice");
        assert_eq!(episodes(&two, &[10, 10, 14, 14, 14]), [0; 5], "too small a change");
    }

    #[test]
    fn dropped_frames_end_an_episode() {
        let blank = DecodeConfig { blank: Some(0.01), ..cut(None) };
        assert_eq!(episodes(&blank, &[0, 0, 50, 51, 0, 52, 53, 0]), [-1, -1, 0, 0, -1, 1, 1, -1]);
        assert_eq!(episodes(&blank, &[0, 0]), [-1, -1]);
        let still = DecodeConfig { still: Some(Still { frames: 2, change: 0.001 }), ..cut(None) };
        assert_eq!(episodes(&still, &[50, 50, 50, 50, 50, 60, 60, 70]), [0, 0, 0, -1, -1, 1, 1, 1]);
        assert_eq!(
            episodes(&still, &[50, 50, -50, 50, 50]),
            [0, 0, 1, 1, 1],
            "the change across a gap is unknown"
        );
    }

    #[test]
    fn exactly_one_score_exceeds_the_threshold_at_a_cut() {
        let judged = judged(&cut(Some(2.0)), &[10, 11, 12, 200, 201, 202, 203]);
        let scores: Vec<f32> = judged.iter().map(|judged| judged.measured.cut_score).collect();
        assert_eq!(scores.iter().filter(|score| **score > 2.0).count(), 1);
        assert!(
            scores[3] > 100.0 && (judged[3].measured.change - 188.0 / 255.0).abs() < 0.02,
            "{scores:?}"
        );
    }
}
