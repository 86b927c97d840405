//! The frames of one video fall into episodes: the next begins after lost frames and at scene cuts.
//!
//! In: frames as they are decoded; out: the same, two frames later, each with its episode. Start at [`Episodes::push`]. A cut is a change that
//! stands out from the changes before and after it. How large it is says little: a maze changes by .002 of the range from frame to frame, a
//! join of two mazes by .02 to .1, a platformer's run by .1. [`super::DecodeConfig::cut`] has what was measured.

use std::collections::VecDeque;

/// Changes on either side that one is compared with. Two, so that frames that are there twice, every other or every fifth, make no cuts.
const AROUND: usize = 2;
/// A smaller change, as a share of the range, is no cut.
const LEAST: f32 = 0.02;

/// A frame with its time in seconds.
pub struct Timed {
    /// RGB.
    pub pixels: Vec<u8>,
    /// Seconds from the start.
    pub time_secs: f64,
}

/// Frames of one video on their way to their episodes.
pub struct Episodes {
    cut: Option<f32>,
    waiting: VecDeque<Waiting>,
    /// The changes that led to the frames that are out.
    before: [f32; AROUND],
    current: u32,
    out: u64,
}

struct Waiting {
    frame: Timed,
    /// From the frame before, as a share of the range; 0 where there is none.
    change: f32,
    /// Whether frames were lost before it.
    gap: bool,
}

impl Episodes {
    /// None yet. A cut is a change `cut` times as large as any around it; with none, nothing is.
    pub fn new(cut: Option<f32>) -> Self {
        Episodes { cut, waiting: VecDeque::new(), before: [0.0; AROUND], current: 0, out: 0 }
    }

    /// Takes the next frame; gives the one whose surroundings are known now, and its episode.
    pub fn push(&mut self, frame: Timed, gap: bool) -> Option<(u32, Timed)> {
        let last = self.waiting.back().filter(|_| !gap && self.cut.is_some());
        let change = last.map_or(0.0, |last| change(&last.frame.pixels, &frame.pixels));
        self.waiting.push_back(Waiting { frame, change, gap });
        if self.waiting.len() > AROUND { self.pop() } else { None }
    }

    /// The rest, one by one.
    pub fn pop(&mut self) -> Option<(u32, Timed)> {
        let Waiting { frame, change, gap } = self.waiting.pop_front()?;
        let around = self.waiting.iter().map(|next| next.change).chain(self.before).fold(0.0, f32::max);
        let is_cut = self.cut.is_some_and(|cut| change >= LEAST && change > cut * around);
        self.current += u32::from(self.out > 0 && (gap || is_cut));
        self.before.rotate_left(1);
        self.before[AROUND - 1] = change;
        self.out += 1;
        Some((self.current, frame))
    }

    /// How many episodes came out.
    pub fn count(&self) -> u64 {
        if self.out == 0 { 0 } else { u64::from(self.current) + 1 }
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

    /// The episodes of frames of these brightnesses; a gap before each that is negative.
    fn episodes(cut: Option<f32>, frames: &[i16]) -> Vec<u32> {
        let mut episodes = Episodes::new(cut);
        let mut out = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            let timed = Timed { pixels: vec![frame.unsigned_abs() as u8; 48], time_secs: i as f64 };
            out.extend(episodes.push(timed, *frame < 0));
        }
        out.extend(std::iter::from_fn(|| episodes.pop()));
        assert!(out.iter().enumerate().all(|(i, (_, frame))| frame.time_secs == i as f64), "each frame once, in order");
        assert_eq!(episodes.count(), out.last().map_or(0, |(episode, _)| u64::from(*episode) + 1));
        out.into_iter().map(|(episode, _)| episode).collect()
    }

    #[test]
    fn an_episode_ends_at_a_cut_and_at_lost_frames() {
        assert_eq!(episodes(Some(2.0), &[10, 11, 12, 200, 201, -202, 203]), [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(episodes(Some(2.0), &[]), [0; 0]);
        assert_eq!(episodes(Some(2.0), &[10]), [0]);
        assert_eq!(episodes(Some(2.0), &[10, 200]), [0, 1], "nothing is known of what is around");
        assert_eq!(episodes(None, &[0, 255, 0, -255]), [0, 0, 0, 1]);
    }

    #[test]
    fn what_moves_all_the_time_or_flashes_is_not_cut() {
        assert_eq!(episodes(Some(2.0), &[0, 30, 60, 90, 120, 175]), [0; 6]);
        assert_eq!(episodes(Some(2.0), &[10, 10, 250, 10, 10, 10]), [0; 6], "a flash goes as it came");
        assert_eq!(episodes(Some(2.0), &[0, 20, 20, 40, 40, 60, 60, 80]), [0; 8], "every frame twice");
        assert_eq!(episodes(Some(2.0), &[10, 10, 14, 14, 14]), [0; 5], "too small a change");
    }
}
