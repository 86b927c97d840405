//! Indexes windows, the unit of training and labelling: consecutive frames, and one ahead. Start at
//! [`WindowIndex::with_horizon`].
//!
//! [`WindowIndex::locate`] finds a window by number, [`WindowIndex::gather`] copies its frames. A
//! window never crosses the end of an episode, a gap in decoding or the end of a shard. The index
//! has one entry per run of frames, not per frame.

use std::collections::HashSet;

use super::error::Result;
use super::shards::{FrameRun, Shards};
use super::split::{Split, VideoRank};

/// Every window of a dataset's shards, numbered from 0 in the shards' order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowIndex {
    frames_per_window: usize,
    runs: Vec<Run>,
    /// For each run, the number of windows in it and in all runs before it.
    ends: Vec<usize>,
    episodes: usize,
}

/// The location of a window in a shard: its frames are the rows from `row` on, and the last one is
/// `ahead` rows after the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The shard's index in [`Shards`].
    pub shard: usize,
    /// The row of the first frame.
    pub row: usize,
    /// Rows from the last frame but one to the last. 1: the frames are consecutive.
    pub ahead: usize,
}

/// Consecutive frames of one episode, at least one window long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    shard: u32,
    first_row: u32,
    windows: u32,
    /// Rows from a window's last frame but one to its last.
    ahead: u32,
    episode: u32,
    rank: VideoRank,
    /// The number of the first frame within the video.
    first_frame: u32,
}

impl WindowIndex {
    /// Indexes the windows of `frames_per_window` consecutive frames in `shards`.
    #[must_use]
    pub fn new(shards: &Shards, frames_per_window: usize) -> Self {
        Self::with_horizon(shards, frames_per_window, |_| 1)
    }

    /// Indexes windows whose last frame is further ahead. `horizon` returns its distance from the
    /// last but one, in frames, by the seconds between two frames of a video.
    #[must_use]
    pub fn with_horizon(
        shards: &Shards,
        frames_per_window: usize,
        horizon: impl Fn(f64) -> u32,
    ) -> Self {
        let frames_per_window = frames_per_window.max(1);
        let run = |span: &FrameRun| {
            let ahead = if frames_per_window == 1 { 1 } else { horizon(span.interval).max(1) };
            let rows = (frames_per_window - 1).saturating_add(ahead as usize);
            Run {
                shard: span.shard,
                first_row: span.first_row,
                windows: (span.frames as usize + 1).saturating_sub(rows) as u32,
                ahead,
                episode: span.episode,
                rank: span.rank,
                first_frame: span.first_frame,
            }
        };
        let runs = shards.runs().iter().map(run).filter(|run| run.windows > 0).collect();
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
        Window {
            shard: run.shard as usize,
            row: run.first_row as usize + skipped,
            ahead: run.ahead as usize,
        }
    }

    /// Returns the episode of the `index`-th window. Episodes are numbered in order of appearance.
    ///
    /// # Panics
    /// Panics if `index` is not below [`WindowIndex::len`].
    #[must_use]
    pub fn episode(&self, index: usize) -> usize {
        self.run_of(index).0.episode as usize
    }

    /// Returns the windows to train on and those to judge by, each in the same order.
    #[must_use]
    pub fn split(&self, split: &Split) -> [Self; 2] {
        let sides = self.runs.iter().map(|run| self.split_run(run, split));
        let (training, held_out): (Vec<Run>, Vec<Run>) = sides.unzip();
        [training, held_out].map(|mut runs| {
            runs.retain(|run| run.windows > 0);
            Self::of(self.frames_per_window, runs, self.episodes)
        })
    }

    /// Returns the windows of a run to train on and those to judge by. Frame numbers rise, so these
    /// are its beginning and its end.
    fn split_run(&self, run: &Run, split: &Split) -> (Run, Run) {
        let first = |window: &u32| run.first_frame + window;
        let last = |window: &u32| {
            first(window) + (self.frames_per_window as u32).saturating_sub(2) + run.ahead
        };
        let trained = (0..run.windows).take_while(|window| split.trains(run.rank, last(window)));
        let skipped = (0..run.windows).take_while(|window| !split.judges(run.rank, first(window)));
        let [trained, skipped] = [trained.count() as u32, skipped.count() as u32];
        let held_out = Run {
            first_row: run.first_row + skipped,
            first_frame: run.first_frame + skipped,
            windows: run.windows - skipped,
            ..*run
        };
        (Run { windows: trained, ..*run }, held_out)
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
        if window.ahead == 1 {
            return shards.copy(window.shard, window.row, out);
        }
        let before = self.frames_per_window - 1;
        let (past, last) = out.split_at_mut(out.len() / self.frames_per_window * before);
        shards.copy(window.shard, window.row, past)?;
        shards.copy(window.shard, window.row + before - 1 + window.ahead, last)
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
                    windows.push(Window { shard, row, ahead: 1 });
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

    /// Returns a small dataset and its windows.
    fn dataset(paths: &[&str]) -> (tempfile::TempDir, Shards, WindowIndex) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let random = &mut ChaCha8Rng::seed_from_u64(3);
        let write = |path: &&str| random_shard(&store, path, Compression::None, random);
        let paths = paths.iter().map(write).collect();
        let shards = Shards::open(&store, paths).unwrap();
        let all = WindowIndex::new(&shards, 3);
        (folder, shards, all)
    }

    #[test]
    fn the_last_frame_of_a_window_is_as_far_ahead_as_the_horizon() {
        let (_folder, shards, consecutive) = dataset(&["f/data/a/a/s", "f/data/b/a/s"]);
        for horizon in [1, 2, 5] {
            // A window of three frames lies in one of `2 + horizon` consecutive ones.
            let index = WindowIndex::with_horizon(&shards, 3, |_| horizon as u32);
            let around = WindowIndex::new(&shards, 2 + horizon);
            assert_eq!(index.len(), around.len());
            for i in 0..index.len() {
                let [mut found, mut all] =
                    [3, 2 + horizon].map(|frames| vec![0; frames * SIZE.bytes()]);
                index.gather(&shards, index.locate(i), &mut found).unwrap();
                around.gather(&shards, around.locate(i), &mut all).unwrap();
                let bytes = SIZE.bytes();
                assert_eq!(found[..2 * bytes], all[..2 * bytes]);
                assert_eq!(found[2 * bytes..], all[(1 + horizon) * bytes..]);
            }
        }
        assert!(WindowIndex::with_horizon(&shards, 3, |_| u32::MAX).is_empty());
        assert_eq!(WindowIndex::with_horizon(&shards, 3, |_| 1), consecutive);
    }

    #[test]
    fn all_windows_of_a_video_are_on_one_side_whatever_else_is_there() {
        let (_folder, shards, all) = dataset(&["f/data/a/a/s", "f/data/b/a/s", "f/data/c/a/s"]);
        let [training, held_out] = all.split(&shards.split(3));
        assert_eq!(training.len() + held_out.len(), all.len());
        let videos = |index: &WindowIndex| -> HashSet<String> {
            let digest = |i: usize| {
                let Window { shard, row, .. } = index.locate(i);
                shards.shard(shard).unwrap().video_digest(row).to_owned()
            };
            (0..index.len()).map(digest).collect()
        };
        let [trained, judged] = [&training, &held_out].map(videos);
        assert!(trained.is_disjoint(&judged) && !trained.is_empty() && !judged.is_empty());
        let [both, same] = all.split(&shards.split(0));
        assert!(both == all && same == all);
    }

    #[test]
    fn a_single_video_is_cut_between_windows_that_share_no_frame() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let videos = vec![VideoName { uri: "a.mp4".into(), digest: "a".into() }];
        let layout = ShardLayout { size: SIZE, compression: Compression::None, videos };
        let mut writer = ShardWriter::create(&store, "f/data/k/a/s", &layout).unwrap();
        writer.begin_video(0).unwrap();
        for frame in 0..200 {
            writer.push(0, frame, 0.0, &[0; 12]).unwrap();
        }
        writer.finish().unwrap();
        let shards = Shards::open(&store, vec!["f/data/k/a/s".into()]).unwrap();
        let all = WindowIndex::new(&shards, 3);
        let [training, held_out] = all.split(&shards.split(10));
        let row = |index: &WindowIndex, window: usize| index.locate(window).row;
        // The last fifth is 40 frames, the gap 10.
        assert_eq!([row(&training, 0), row(&held_out, held_out.len() - 1)], [0, 197]);
        let end = row(&training, training.len() - 1) + 3;
        assert_eq!([end, row(&held_out, 0)], [150, 160]);
    }
}
