//! Windows of unrelated clips, and the windows around each of them.

use rand::seq::SliceRandom;

use crate::dataset::{Shards, Window, WindowIndex};
use crate::stages::Error;
use crate::train::batch;

/// The windows of an index.
pub(super) struct Clips<'a> {
    shards: &'a Shards,
    index: &'a WindowIndex,
}

/// Windows that overlap others by all but a frame: `[window, time, height, width, channel]`.
#[derive(Default)]
pub(super) struct Continued {
    /// The positions of the windows that are continued.
    pub positions: Vec<usize>,
    /// One frame later.
    pub next: Vec<u8>,
    /// The last frame is the one after it.
    pub skipped: Vec<u8>,
    /// The same transition backwards: the frames after it in reverse, then `o[t+1]` and `o[t]`.
    pub reversed: Vec<u8>,
}

impl<'a> Clips<'a> {
    pub(super) fn new(shards: &'a Shards, index: &'a WindowIndex) -> Self {
        Clips { shards, index }
    }

    /// Returns the bytes of a frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.shards.frame_size().map_or(1, |size| size.bytes())
    }

    /// Returns the side of the square frames, in pixels.
    pub(super) fn side(&self) -> usize {
        self.shards.frame_size().map_or(1, |size| size.width as usize)
    }

    pub(super) fn window_bytes(&self) -> usize {
        self.frame_bytes() * self.index.frames_per_window()
    }

    /// Returns at most `most` windows in random order, each with a window of another episode. With
    /// a single episode, the other window is half of the episode away.
    pub(super) fn pairs(&self, most: usize, seed: u64) -> Vec<(usize, usize)> {
        let windows = batch::spread(self.index, most);
        let episodes: Vec<usize> = windows.iter().map(|&at| self.index.episode(at)).collect();
        let count = windows.len();
        let unrelated = |i: usize| {
            let from = i + count / 2;
            let other = (from..from + count).find(|j| episodes[j % count] != episodes[i]);
            windows[other.unwrap_or(from) % count]
        };
        let mut pairs: Vec<_> = (0..count).map(|i| (windows[i], unrelated(i))).collect();
        pairs.shuffle(&mut batch::generator(seed, "splice", 0));
        pairs
    }

    /// Returns the frames of windows.
    pub(super) fn windows(&self, windows: &[usize]) -> Result<Vec<u8>, Error> {
        let mut frames = Vec::new();
        batch::gather(self.shards, self.index, windows, &mut frames)?;
        Ok(frames)
    }

    /// Replaces the last frame of each window.
    ///
    /// # Shapes
    /// - `last`: windows, or single frames
    pub(super) fn with_last(&self, windows: &[u8], last: &[u8]) -> Vec<u8> {
        let bytes = self.window_bytes();
        let past = bytes - self.frame_bytes();
        let mut joined = windows.to_vec();
        let each = last.len() / (windows.len() / bytes);
        for (window, last) in joined.chunks_exact_mut(bytes).zip(last.chunks_exact(each)) {
            window[past..].copy_from_slice(&last[each - self.frame_bytes()..]);
        }
        joined
    }

    /// Turns frames upside down.
    pub(super) fn upside_down(&self, frames: &[u8]) -> Vec<u8> {
        let row = self.frame_bytes() / self.side();
        let turned = frames.chunks_exact(self.frame_bytes());
        turned.flat_map(|frame| frame.chunks_exact(row).rev().flatten().copied()).collect()
    }

    /// Returns the last two frames of a window.
    pub(super) fn last_two<'w>(&self, window: &'w [u8]) -> [&'w [u8]; 2] {
        let frame = self.frame_bytes();
        let (before, next) = window.split_at(window.len() - frame);
        [&before[before.len() - frame..], next]
    }

    /// Returns the windows around those that have enough frames after them.
    pub(super) fn continued(&self, windows: &[usize]) -> Result<Continued, Error> {
        let frame = self.frame_bytes();
        let time = self.index.frames_per_window();
        let context = time.saturating_sub(2);
        // A reversed window begins with as many frames after the transition as the context has.
        let after = context.max(1);
        let mut all = Continued::default();
        let mut clip = vec![0; (time + after) * frame];
        for (position, &window) in windows.iter().enumerate() {
            let start = self.index.locate(window);
            let last = window + after;
            let end = Window { row: start.row + after, ..start };
            // Rows of one run are consecutive, and so are its windows. Only transitions to the next
            // frame add up within a window's reach.
            if start.ahead != 1 || last >= self.index.len() || self.index.locate(last) != end {
                continue;
            }
            self.shards.copy(start.shard, start.row, &mut clip)?;
            let frames: Vec<&[u8]> = clip.chunks_exact(frame).collect();
            all.positions.push(position);
            all.next.extend(frames[1..=time].concat());
            all.skipped.extend(frames[..time - 1].concat());
            all.skipped.extend(frames[time]);
            let backwards = frames[context..context + time].iter().rev().copied();
            all.reversed.extend(backwards.collect::<Vec<_>>().concat());
        }
        Ok(all)
    }
}
