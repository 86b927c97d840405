//! Which runs of frames are windows: the unit of training and of labelling.
//!
//! In: a dataset's shards. Out: [`WindowIndex`], which numbers every window and finds the n-th one, and
//! [`WindowIndex::gather`], which copies its frames. Start at [`WindowIndex::new`].
//!
//! A window never crosses the end of an episode, a gap in decoding or a file. The index costs one entry
//! per run of frames, not per frame.

use std::collections::HashSet;

use super::error::Result;
use super::shards::{Shards, Span};

/// Every window of a dataset's shards, numbered from 0 in the shards' order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowIndex {
    frames_per_window: usize,
    runs: Vec<Run>,
    /// For each run, how many windows it and all before it have.
    ends: Vec<usize>,
    episodes: usize,
}

/// Where a window is: its frames are the rows `row .. row + frames_per_window` of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The shard's place among those the index was made of.
    pub shard: usize,
    /// The row of the first frame.
    pub row: usize,
}

/// Frames of one episode that follow each other, and are enough for a window.
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
            |span: &Span| (span.frames as usize + 1).saturating_sub(frames_per_window) as u32;
        let run = |span: &Span| Run {
            shard: span.shard,
            first_row: span.first_row,
            windows: windows(span),
            episode: span.episode,
        };
        let runs = shards.runs().iter().filter(|span| windows(span) > 0).map(run).collect();
        Self::of(frames_per_window, runs, shards.episodes())
    }

    /// How many windows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there is no window at all: every episode is shorter than one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many frames a window has.
    #[must_use]
    pub fn frames_per_window(&self) -> usize {
        self.frames_per_window
    }

    /// How many episodes the shards have, those too short for a window included.
    #[must_use]
    pub fn episodes(&self) -> usize {
        self.episodes
    }

    /// The `index`-th window.
    ///
    /// # Panics
    /// If `index` is not below [`WindowIndex::len`].
    #[must_use]
    pub fn locate(&self, index: usize) -> Window {
        let (run, skipped) = self.run_of(index);
        Window { shard: run.shard as usize, row: run.first_row as usize + skipped }
    }

    /// Which episode the `index`-th window is of; episodes are numbered as they first appear.
    ///
    /// # Panics
    /// If `index` is not below [`WindowIndex::len`].
    #[must_use]
    pub fn episode(&self, index: usize) -> usize {
        self.run_of(index).0.episode as usize
    }

    /// The windows of the episodes that `keep` says yes to, in the same order: how episodes are held out.
    ///
    /// An episode's number is that of [`WindowIndex::episode`] and stays the same in a subset.
    #[must_use]
    pub fn subset(&self, keep: impl Fn(usize) -> bool) -> Self {
        let runs = self.runs.iter().copied().filter(|run| keep(run.episode as usize)).collect();
        Self::of(self.frames_per_window, runs, self.episodes)
    }

    /// The windows of videos other than these, given by digest, in the same order.
    ///
    /// # Errors
    /// Where a shard can no longer be read.
    pub fn without(self, shards: &Shards, videos: &[String]) -> Result<Self> {
        if videos.is_empty() {
            return Ok(self);
        }
        let videos: HashSet<&str> = videos.iter().map(String::as_str).collect();
        let mut runs = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            if !videos
                .contains(shards.shard(run.shard as usize)?.video_digest(run.first_row as usize))
            {
                runs.push(*run);
            }
        }
        Ok(Self::of(self.frames_per_window, runs, self.episodes))
    }

    /// Copies a window's frames to `out`: `[frames_per_window, height, width, 3]`.
    ///
    /// # Errors
    /// Where the window's shard can no longer be read.
    ///
    /// # Panics
    /// If `out` has another length, or `shards` are not those the index was made of.
    pub fn gather(&self, shards: &Shards, window: Window, out: &mut [u8]) -> Result<()> {
        shards.copy(window.shard, window.row, out)
    }

    fn of(frames_per_window: usize, runs: Vec<Run>, episodes: usize) -> Self {
        let ends = runs.iter().scan(0, |end, run| {
            *end += run.windows as usize;
            Some(*end)
        });
        Self { frames_per_window, ends: ends.collect(), runs, episodes }
    }

    /// The run a window lies in, and how many of the run's windows come before it.
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

    /// A shard of random episodes with random gaps; each frame's pixels name it.
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

    /// The slow, obvious version: try every row of every shard.
    fn obvious(shards: &[Shard], frames: usize) -> Vec<Window> {
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
    fn windows_never_cross_an_episode_a_gap_or_a_file() {
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
        for frames in [1, 2, 3, 7, 150, 10_000] {
            let index = WindowIndex::new(&shards, frames);
            let found: Vec<Window> = (0..index.len()).map(|i| index.locate(i)).collect();
            assert_eq!(found, obvious(&one_by_one, frames), "{frames} frames");
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
    fn held_out_episodes_and_the_rest_share_no_window_and_miss_none() {
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
