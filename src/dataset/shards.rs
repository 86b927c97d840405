//! Reads frames of a whole dataset at random, in constant memory for any number and size of shards.
//! Start at [`Shards::open`].
//!
//! Opening reads everything except the pixels, many shards in parallel. A shard in an object store
//! is copied to the local disk on the first access to its pixels.
//!
//! A small dataset is memory-mapped, the fastest access. Frames of a large dataset are read from
//! their offsets in the files: every touched page of a map counts as the process's memory, and a
//! process may hold only about 65,000 maps. Reading is up to five times slower if many files must
//! be opened, but still far faster than training. Compressed shards are decompressed into memory,
//! and a few of them are kept.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rayon::prelude::*;

use super::error::{Result, io_error};
use super::frame_rows::AT_ONCE;
use super::ipc::corrupt;
use super::paths::FileInfo;
use super::schema::FrameSize;
use super::shard_reader::{EpisodeRun, Shard};
use super::split::{Split, VideoFrames, VideoRank};
use super::store::Store;

/// At most twice this number of files stay open. The default limit of a process is 1024.
const FILES: usize = 256;
/// At most twice this number of bytes of decompressed shards stay in memory, but at least two
/// shards.
const WHOLE_BYTES: usize = 256 << 20;
/// A dataset of up to this number of bytes is mapped.
const MAPPED_BYTES: usize = 1 << 30;

/// The shards of a dataset, in its order.
#[derive(Debug)]
pub struct Shards {
    store: Store,
    sources: Vec<Source>,
    layouts: Vec<PixelLayout>,
    frame_size: Option<FrameSize>,
    runs: Vec<FrameRun>,
    episodes: usize,
    files: Mutex<RecentCache<File>>,
    whole: Mutex<RecentCache<Shard>>,
    /// One slot per shard if the dataset is mapped, else empty.
    mapped: Vec<OnceLock<Arc<Shard>>>,
    /// Locked while a shard is mapped, so that no two threads copy the same one.
    mapping: Mutex<()>,
}

/// A shard's file.
#[derive(Debug)]
enum Source {
    Path(String),
    /// A file with the size and digest from its receipt.
    File(FileInfo),
}

impl Source {
    fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::File(info) => &info.path,
        }
    }

    fn info(&self) -> Option<&FileInfo> {
        match self {
            Self::Path(_) => None,
            Self::File(info) => Some(info),
        }
    }

    fn open(&self, store: &Store) -> Result<Arc<Shard>> {
        match self {
            Self::Path(path) => Shard::open(store, path),
            Self::File(info) => Shard::open_file(store, info),
        }
        .map(Arc::new)
    }
}

/// Consecutive frames of one episode, without a gap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FrameRun {
    pub shard: u32,
    pub first_row: u32,
    pub frames: u32,
    /// The episode's number in the dataset, in order of appearance.
    pub episode: u32,
    /// The video.
    pub rank: VideoRank,
    /// The number of the first frame within the video.
    pub first_frame: u32,
    /// The number of the last frame within the video.
    pub last_frame: u32,
    /// The mean time between two frames, in seconds; 0 of a single frame.
    pub interval: f64,
}

/// The location of a shard's pixels in its file, by batch.
#[derive(Debug)]
struct PixelLayout {
    rows: usize,
    /// The number of rows in every batch but the last.
    rows_per_batch: usize,
    /// The offset of each batch's pixels in the file; empty if the shard is compressed.
    batches: Vec<u64>,
}

impl Shards {
    /// Opens the shards at `paths` without reading their pixels.
    pub fn open(store: &Store, paths: Vec<String>) -> Result<Self> {
        Self::open_sources(store, paths.into_iter().map(Source::Path).collect())
    }

    /// Opens shards like [`Shards::open`], and checks their sizes against the receipts.
    pub fn open_files(store: &Store, files: &[FileInfo]) -> Result<Self> {
        Self::open_sources(store, files.iter().cloned().map(Source::File).collect())
    }

    fn open_sources(store: &Store, sources: Vec<Source>) -> Result<Self> {
        let mut episode_numbers = HashMap::new();
        let mut runs = Vec::new();
        let mut layouts = Vec::new();
        let mut frame_size = None;
        let mut bytes = 0;
        for chunk in sources.chunks(AT_ONCE) {
            let open = |source: &Source| {
                let shard = Shard::open_rows(store, source.path(), source.info())?;
                let frame = |row: usize| shard.frame_index(row);
                let ranked = |run: EpisodeRun| {
                    let last_row = run.first_row + run.len - 1;
                    let frames = [frame(run.first_row), frame(last_row)];
                    let seconds = shard.time_s(last_row) - shard.time_s(run.first_row);
                    let interval = seconds / (run.len - 1).max(1) as f64;
                    (VideoRank::of(&run.digest), frames, interval, run)
                };
                let runs: Vec<_> = shard.episodes().into_iter().map(ranked).collect();
                Ok((runs, shard.frame_size(), PixelLayout::of(&shard)))
            };
            // Opened in parallel, but numbered in the dataset's order.
            let opened: Vec<Result<_>> = chunk.par_iter().map(open).collect();
            for (source, opened) in chunk.iter().zip(opened) {
                let (episodes, size, layout) = opened?;
                check_size(source.path(), size, *frame_size.get_or_insert(size))?;
                for (rank, [first_frame, last_frame], interval, run) in episodes {
                    // An episode with a gap has several runs with the same number.
                    let next = episode_numbers.len();
                    let key = (run.digest, run.episode);
                    let episode = *episode_numbers.entry(key).or_insert(next);
                    let [shard, first_row, frames, episode] =
                        [layouts.len(), run.first_row, run.len, episode].map(to_u32);
                    runs.push(FrameRun {
                        shard,
                        first_row,
                        frames,
                        episode,
                        rank,
                        first_frame,
                        last_frame,
                        interval,
                    });
                }
                bytes += layout.rows * size.bytes();
                layouts.push(layout);
            }
        }
        let is_mapped =
            bytes <= MAPPED_BYTES && layouts.iter().all(|layout| !layout.batches.is_empty());
        let slots = if is_mapped { layouts.len() } else { 0 };
        Ok(Self {
            store: store.clone(),
            sources,
            layouts,
            frame_size,
            runs,
            episodes: episode_numbers.len(),
            files: Mutex::default(),
            whole: Mutex::default(),
            mapped: (0..slots).map(|_| OnceLock::new()).collect(),
            mapping: Mutex::default(),
        })
    }

    /// Returns the size of every frame, or `None` if there is no shard.
    #[must_use]
    pub fn frame_size(&self) -> Option<FrameSize> {
        self.frame_size
    }

    /// Splits the videos: one in `holdout` is held out.
    #[must_use]
    pub fn split(&self, holdout: usize) -> Split {
        let frames = |run: &FrameRun| VideoFrames {
            rank: run.rank,
            frames: [run.first_frame, run.last_frame],
        };
        Split::new(holdout, self.runs.iter().map(frames))
    }

    /// Returns the number of episodes.
    #[must_use]
    pub fn episodes(&self) -> usize {
        self.episodes
    }

    /// Copies consecutive frames, from row `first_row` of a shard on, until `out` is full.
    ///
    /// # Panics
    /// Panics if the shard does not exist or has fewer rows.
    pub fn copy(&self, shard: usize, first_row: usize, out: &mut [u8]) -> Result<()> {
        let layout = &self.layouts[shard];
        let bytes = self.frame_size.map_or(1, |size| size.bytes());
        let count = out.len() / bytes;
        assert!(
            first_row + count <= layout.rows,
            "rows {first_row} to {} of {}",
            first_row + count,
            layout.rows
        );
        if layout.batches.is_empty() || !self.mapped.is_empty() {
            self.shard(shard)?.copy(first_row, out);
            return Ok(());
        }
        let file = self.file(shard)?;
        let mut row = first_row;
        let mut rest = out;
        // One read per batch: the pixels of two batches are not adjacent in the file.
        while !rest.is_empty() {
            let batch = row / layout.rows_per_batch;
            let row_in_batch = row % layout.rows_per_batch;
            let rows = (layout.rows_per_batch - row_in_batch).min(rest.len() / bytes);
            let (pixels, after) = rest.split_at_mut(rows * bytes);
            let offset = layout.batches[batch] + (row_in_batch * bytes) as u64;
            let path = self.sources[shard].path();
            file.read_exact_at(pixels, offset).map_err(io_error("read", path))?;
            row += rows;
            rest = after;
        }
        Ok(())
    }

    /// Copies the frame of a row and those before it in its episode, the oldest first, until `out`
    /// is full. At the beginning of an episode, and after a gap, the first frame is repeated.
    ///
    /// # Shapes
    /// - `out`: `[frame, height, width, 3]`
    ///
    /// # Panics
    /// As [`copy`](Self::copy).
    pub fn copy_stack(&self, shard: usize, row: usize, out: &mut [u8]) -> Result<()> {
        let bytes = self.frame_size.map_or(1, |size| size.bytes());
        let frames = out.len() / bytes;
        // Runs are in the order of shards and rows.
        let after = self
            .runs
            .partition_point(|run| (run.shard as usize, run.first_row as usize) <= (shard, row));
        let begin = after.checked_sub(1).map_or(row, |at| self.runs[at].first_row as usize);
        let first = (row + 1).saturating_sub(frames).max(begin);
        let (repeated, seen) = out.split_at_mut((frames - (row + 1 - first)) * bytes);
        self.copy(shard, first, seen)?;
        for frame in repeated.chunks_exact_mut(bytes) {
            frame.copy_from_slice(&seen[..bytes]);
        }
        Ok(())
    }

    /// Returns one shard with its pixels.
    pub fn shard(&self, number: usize) -> Result<Arc<Shard>> {
        let open = || self.sources[number].open(&self.store);
        let Some(mapped) = self.mapped.get(number) else {
            return lock(&self.whole).get(number, WHOLE_BYTES, pixel_bytes, open);
        };
        if let Some(shard) = mapped.get() {
            return Ok(shard.clone());
        }
        // Another thread may map the shard until the lock is taken, so look again.
        let _alone = lock(&self.mapping);
        match mapped.get() {
            Some(shard) => Ok(shard.clone()),
            None => open().map(|shard| mapped.get_or_init(|| shard).clone()),
        }
    }

    pub(super) fn runs(&self) -> &[FrameRun] {
        &self.runs
    }

    fn file(&self, number: usize) -> Result<Arc<File>> {
        let source = &self.sources[number];
        lock(&self.files).get(
            number,
            FILES,
            |_| 1,
            || self.store.file_of(source.path(), source.info()).map(Arc::new),
        )
    }
}

impl PixelLayout {
    fn of(shard: &Shard) -> Self {
        let (rows_per_batch, batches) = shard.pixels_in_place();
        Self { rows: shard.rows(), rows_per_batch, batches: batches.to_vec() }
    }
}

/// Checks that a shard's frame size equals that of the shards before it.
fn check_size(path: &str, found: FrameSize, expected: FrameSize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let FrameSize { height, width } = expected;
    let seen = format!("its frames are {} x {} pixels", found.height, found.width);
    Err(corrupt(path, format!("{seen}, but the shards before it have {height} x {width}")))
}

fn pixel_bytes(shard: &Shard) -> usize {
    shard.rows() * shard.frame_size().bytes()
}

/// A cache of recently used values, in two generations. When the newer one is full, the older one
/// is dropped.
#[derive(Debug)]
struct RecentCache<T> {
    newer: HashMap<usize, Arc<T>>,
    older: HashMap<usize, Arc<T>>,
    /// The total weight of the newer generation.
    weight: usize,
}

impl<T> Default for RecentCache<T> {
    fn default() -> Self {
        RecentCache { newer: HashMap::new(), older: HashMap::new(), weight: 0 }
    }
}

impl<T> RecentCache<T> {
    /// Returns a value from the cache, or opens it. A generation is full at the weight `capacity`.
    fn get(
        &mut self,
        number: usize,
        capacity: usize,
        weight: impl Fn(&T) -> usize,
        open: impl FnOnce() -> Result<Arc<T>>,
    ) -> Result<Arc<T>> {
        if let Some(found) = self.newer.get(&number) {
            return Ok(found.clone());
        }
        // A value in use moves to the newer generation, and so survives the next drop.
        let found = match self.older.remove(&number) {
            Some(found) => found,
            None => open()?,
        };
        if self.weight >= capacity {
            self.older = std::mem::take(&mut self.newer);
            self.weight = 0;
        }
        self.weight += weight(&found);
        self.newer.insert(number, found.clone());
        Ok(found)
    }
}

/// Locks a mutex. A panic of another thread leaves the caches consistent, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count)
        .expect("a shard has fewer than 2^32 rows, and a dataset fewer episodes and shards")
}

#[cfg(test)]
mod tests;
