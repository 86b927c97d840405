//! Indexes windows: consecutive frames, the unit of training and labelling. Start at
//! [`WindowIndex::new`].
//!
//! [`WindowIndex::locate`] finds a window by number, [`WindowIndex::gather`] copies its frames. A
//! window never crosses the end of an episode, a gap in decoding or the end of a shard. The index
//! has one entry per run of frames, not per frame.

use std::collections::HashSet;

use super::error::Result;
use super::shards::{FrameRun, Shards};

/// Every window of a dataset's shards, numbered from 0 in the shards' order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowIndex {
    frames_per_window: usize,
    runs: Vec<Run>,
    /// For each run, the number of windows in it and in all runs before it.
    ends: Vec<usize>,
    episodes: usize,
}

/// The location of a window: its frames are the rows `row .. row + frames_per_window` of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The shard's index in [`Shards`].
    pub shard: usize,
    /// The row of the first frame.
    pub row: usize,
}

/// Consecutive frames of one episode, at least one window long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    shard: u32,
    first_row: u32,
    windows: u32,
    episode: u32,
}

impl WindowIndex {
    /// Indexes the windows of `frames_per_window` frames in `shards`.
    #[must_use]
    pub fn new(shards: &Shards, frames_per_window: usize) -> Self {
        let frames_per_window = frames_per_window.max(1);
        let windows =
            |span: &FrameRun| (span.frames as usize + 1).saturating_sub(frames_per_window) as u32;
        let long_enough = shards.runs().iter().filter(|span| windows(span) > 0);
        let runs = long_enough
            .map(|span| Run {
                shard: span.shard,
                first_row: span.first_row,
                windows: windows(span),
                episode: span.episode,
            })
            .collect();
        Self::of(frames_per_window, runs, shards.episodes())
    }

    /// Returns the number of windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Returns whether there are no windows, because every episode is too short.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns the number of frames in a window.
    #[must_use]
    pub fn frames_per_window(&self) -> usize {
        self.frames_per_window
    }

    /// Returns the number of episodes in the shards, too short ones included.
    #[must_use]
    pub fn episodes(&self) -> usize {
        self.episodes
    }

    /// Returns the location of the `index`-th window.
    ///
    /// # Panics
    /// Panics if `index` is not below [`WindowIndex::len`].
    #[must_use]
    pub fn locate(&self, index: usize) -> Window {
        let (run, skipped) = self.run_of(index);
        Window { shard: run.shard as usize, row: run.first_row as usize + skipped }
    }

    /// Returns the episode of the `index`-th window. Episodes are numbered in order of appearance.
    ///
    /// # Panics
    /// Panics if `index` is not below [`WindowIndex::len`].
    #[must_use]
    pub fn episode(&self, index: usize) -> usize {
        self.run_of(index).0.episode as usize
    }

    /// Returns the windows of the episodes selected by `keep`, in the same order. Training uses it
    /// to hold out episodes.
    ///
    /// `keep` gets the number from [`WindowIndex::episode`]. An episode keeps its number in a
    /// subset.
    #[must_use]
    pub fn subset(&self, keep: impl Fn(usize) -> bool) -> Self {
        let runs = self.runs.iter().copied().filter(|run| keep(run.episode as usize)).collect();
        Self::of(self.frames_per_window, runs, self.episodes)
    }

    /// Returns the windows of all other videos, in the same order. `videos` are digests.
    ///
    /// # Errors
    /// Fails if a shard can no longer be read.
    pub fn without(self, shards: &Shards, videos: &[String]) -> Result<Self> {
        if videos.is_empty() {
            return Ok(self);
        }
        let videos: HashSet<&str> = videos.iter().map(String::as_str).collect();
        let mut runs = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            // A run lies in one episode, and so in one video.
            let shard = shards.shard(run.shard as usize)?;
            if !videos.contains(shard.video_digest(run.first_row as usize)) {
                runs.push(*run);
            }
        }
        Ok(Self::of(self.frames_per_window, runs, self.episodes))
    }

    /// Copies a window's frames to `out`.
    ///
    /// # Shapes
    /// - `out`: `[frames_per_window, height, width, 3]`, u8, RGB
    ///
    /// # Errors
    /// Fails if the window's shard can no longer be read.
    ///
    /// # Panics
    /// Panics if `out` has another length, or if the index belongs to other shards.
    pub fn gather(&self, shards: &Shards, window: Window, out: &mut [u8]) -> Result<()> {
        shards.copy(window.shard, window.row, out)
    }

    fn of(frames_per_window: usize, runs: Vec<Run>, episodes: usize) -> Self {
        // Running sums, for the binary search in `run_of`.
        let ends = runs.iter().scan(0, |end, run| {
            *end += run.windows as usize;
            Some(*end)
        });
        Self { frames_per_window, ends: ends.collect(), runs, episodes }
    }

    /// Returns the run of a window, and the window's index in this run.
    fn run_of(&self, index: usize) -> (&Run, usize) {
        let run = self.ends.partition_point(|&end| end <= index);
        let before = run.checked_sub(1).map_or(0, |before| self.ends[before]);
        (&self.runs[run], index - before)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::{Compression, FrameSize, Shard, ShardLayout, ShardWriter, Store, VideoName};
    use super::*;

    const SIZE: FrameSize = FrameSize { height: 2, width: 2 };

    /// Writes a shard of random episodes with random gaps. Each frame's pixels identify it.
    fn random_shard(
        store: &Store,
        path: &str,
        compression: Compression,
        random: &mut ChaCha8Rng,
    ) -> String {
        let videos = (0..3)
            .map(|i| VideoName { uri: format!("{path}/{i}.mp4"), digest: format!("{path}{i}") });
        let layout = ShardLayout { size: SIZE, compression, videos: videos.collect() };
        let mut writer = ShardWriter::create(store, path, &layout).unwrap();
        for video in 0..layout.videos.len() {
            writer.begin_video(video).unwrap();
            let mut frame_index = 0u32;
            for episode in 0..random.random_range(0..5) {
                for _ in 0..random.random_range(0..200) {
                    frame_index += if random.random_bool(0.05) { 2 } else { 1 };
                    let pixels =
                        [frame_index.to_le_bytes(), [video as u8; 4], [episode as u8; 4]].concat();
                    writer.push(episode, frame_index, 0.0, &pixels).unwrap();
                }
            }
        }
        writer.finish().unwrap();
        path.to_owned()
    }

    /// Finds the windows the slow way: tries every row of every shard.
    fn all_windows(shards: &[Shard], frames: usize) -> Vec<Window> {
        let mut windows = Vec::new();
        for (shard, open) in shards.iter().enumerate() {
            for row in 0..open.rows() {
                let same = |other: usize| {
                    other < open.rows()
                        && open.video_digest(other) == open.video_digest(row)
                        && open.episode(other) == open.episode(row)
                        && open.frame_index(other) == open.frame_index(row) + (other - row) as u32
                };
                if (row..row + frames).all(same) {
                    windows.push(Window { shard, row });
                }
            }
        }
        windows
    }

    #[test]
    fn windows_never_cross_an_episode_boundary_a_gap_or_a_shard() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let random = &mut ChaCha8Rng::seed_from_u64(7);
        let kinds = [Compression::None, Compression::Zstd, Compression::None];
        let paths: Vec<String> = kinds
            .iter()
            .zip(0..)
            .map(|(kind, i)| random_shard(&store, &format!("f/data/k{i}/a/s"), *kind, random))
            .collect();
        let one_by_one: Vec<Shard> =
            paths.iter().map(|path| Shard::open(&store, path).unwrap()).collect();
        let shards = Shards::open(&store, paths).unwrap();
        // From one frame per window to more than any episode has.
        for frames in [1, 2, 3, 7, 150, 10_000] {
            let index = WindowIndex::new(&shards, frames);
            let found: Vec<Window> = (0..index.len()).map(|i| index.locate(i)).collect();
            assert_eq!(found, all_windows(&one_by_one, frames), "{frames} frames");
            let mut out = vec![0; frames * SIZE.bytes()];
            for window in found {
                index.gather(&shards, window, &mut out).unwrap();
                for (frame, pixels) in out.chunks_exact(SIZE.bytes()).enumerate() {
                    assert_eq!(pixels, one_by_one[window.shard].pixels(window.row + frame));
                }
            }
        }
    }

    #[test]
    fn every_window_is_in_the_training_or_the_held_out_set_but_not_in_both() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let path = random_shard(
            &store,
            "f/data/k/a/s",
            Compression::None,
            &mut ChaCha8Rng::seed_from_u64(3),
        );
        let shards = Shards::open(&store, vec![path]).unwrap();
        let all = WindowIndex::new(&shards, 3);
        let [train, held_out] = [all.subset(|e| e % 4 != 0), all.subset(|e| e % 4 == 0)];
        assert_eq!(train.len() + held_out.len(), all.len());
        assert!((0..train.len()).all(|i| train.episode(i) % 4 != 0));
        assert!((0..held_out.len()).all(|i| held_out.episode(i) % 4 == 0));
        assert!(!train.is_empty() && !held_out.is_empty());
    }
}
