//! Reads frames from a shard, at random. Start at [`Shard::open`].
//!
//! An uncompressed shard is read in place through its memory map. Opening checks the shard, so that
//! the accessors cannot fail.

use arrow::array::{AsArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Float64Type, Int32Type, UInt8Type, UInt32Type};

use super::byte_ranges::ByteRanges;
use super::error::Result;
use super::ipc::{Decoded, Projection, corrupt, decode};
use super::paths::FileInfo;
use super::schema::FrameSize;
use super::shard::VideoName;
use super::store::Store;

/// An open shard: cheap to share, safe to read from many threads.
#[derive(Debug)]
pub struct Shard {
    path: String,
    size: FrameSize,
    rows: usize,
    /// The number of rows in every batch but the last.
    rows_per_batch: usize,
    batches: Vec<Columns>,
    videos: Vec<VideoName>,
    /// The offset of each batch's pixels in the file; empty if they are compressed.
    pixels_at: Vec<u64>,
}

/// Consecutive frames of one episode, without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpisodeRun {
    /// The video's path or address.
    pub video: String,
    /// The BLAKE3 digest of the video, its identity.
    pub digest: String,
    /// The episode's number within the video.
    pub episode: u32,
    /// The run's first row in the shard.
    pub first_row: usize,
    /// The number of frames.
    pub len: usize,
}

/// The columns of one batch, as slices of the memory map.
#[derive(Debug)]
pub(super) struct Columns {
    /// The index of each row's video in [`Shard::videos`].
    pub video: ScalarBuffer<i32>,
    pub episode: ScalarBuffer<u32>,
    pub frame_index: ScalarBuffer<u32>,
    pub time_s: ScalarBuffer<f64>,
    /// Empty if the shard was opened without pixels.
    pixels: ScalarBuffer<u8>,
}

impl Shard {
    /// Opens the shard at `path`. A compressed shard is decompressed into memory.
    pub fn open(store: &Store, path: &str) -> Result<Self> {
        Self::decode(
            path,
            &ByteRanges::Mapped { path: path.to_owned(), bytes: store.map(path)? },
            Projection::All,
        )
    }

    /// Opens a shard and checks its size against the receipt. A compressed shard is decompressed
    /// into memory.
    pub fn open_file(store: &Store, info: &FileInfo) -> Result<Self> {
        Self::decode(
            &info.path,
            &ByteRanges::Mapped { path: info.path.clone(), bytes: store.map_file(info)? },
            Projection::All,
        )
    }

    /// Opens a shard without reading its pixels.
    pub(super) fn open_rows(store: &Store, path: &str, info: Option<&FileInfo>) -> Result<Self> {
        Self::decode(path, &store.parts(path, info)?, Projection::WithoutPixels)
    }

    /// Returns the rows per batch and the offset of each batch's pixels in the file. There are no
    /// offsets if the pixels are compressed.
    pub(super) fn pixels_in_place(&self) -> (usize, &[u64]) {
        (self.rows_per_batch, &self.pixels_at)
    }

    /// Returns the videos of the shard, without repeats.
    pub(super) fn videos(&self) -> &[VideoName] {
        &self.videos
    }

    /// Returns the columns other than pixels, batch after batch.
    pub(super) fn batches(&self) -> &[Columns] {
        &self.batches
    }

    /// Returns the file's path, relative to the workspace.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the number of frames.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the size of every frame.
    #[must_use]
    pub fn frame_size(&self) -> FrameSize {
        self.size
    }

    /// Returns a row's frame: `[height, width, 3]`, RGB.
    #[must_use]
    pub fn pixels(&self, row: usize) -> &[u8] {
        let (batch, row) = self.split(row);
        let bytes = self.size.bytes();
        &batch.pixels[row * bytes..(row + 1) * bytes]
    }

    /// Copies consecutive frames, from row `first` on, until `out` is full.
    pub(super) fn copy(&self, first: usize, out: &mut [u8]) {
        let (batch, row) = self.split(first);
        let bytes = self.size.bytes();
        // A single copy, unless the frames lie in more than one batch.
        if let Some(pixels) = batch.pixels.get(row * bytes..row * bytes + out.len()) {
            out.copy_from_slice(pixels);
            return;
        }
        for (i, frame) in out.chunks_exact_mut(bytes).enumerate() {
            frame.copy_from_slice(self.pixels(first + i));
        }
    }

    /// Returns the path or address of a row's video.
    #[must_use]
    pub fn video(&self, row: usize) -> &str {
        let (batch, row) = self.split(row);
        &self.videos[batch.video[row] as usize].uri
    }

    /// Returns the digest of a row's video.
    #[must_use]
    pub fn video_digest(&self, row: usize) -> &str {
        let (batch, row) = self.split(row);
        &self.videos[batch.video[row] as usize].digest
    }

    /// Returns the number of a row's episode within its video.
    #[must_use]
    pub fn episode(&self, row: usize) -> u32 {
        let (batch, row) = self.split(row);
        batch.episode[row]
    }

    /// Returns the number of a row's frame within its video.
    #[must_use]
    pub fn frame_index(&self, row: usize) -> u32 {
        let (batch, row) = self.split(row);
        batch.frame_index[row]
    }

    /// Returns the time of a row's frame within its video, in seconds.
    #[must_use]
    pub fn time_s(&self, row: usize) -> f64 {
        let (batch, row) = self.split(row);
        batch.time_s[row]
    }

    /// Returns the shard's runs of consecutive frames: same video, same episode. A gap in decoding
    /// ends a run.
    #[must_use]
    pub fn episodes(&self) -> Vec<EpisodeRun> {
        let mut runs: Vec<EpisodeRun> = Vec::new();
        let mut previous = None;
        let mut row = 0;
        for batch in &self.batches {
            for i in 0..batch.video.len() {
                let this = (batch.video[i], batch.episode[i], batch.frame_index[i]);
                match runs.last_mut() {
                    Some(run) if previous.is_some_and(|previous| follows(previous, this)) => {
                        run.len += 1
                    }
                    _ => runs.push(EpisodeRun {
                        video: self.videos[this.0 as usize].uri.clone(),
                        digest: self.videos[this.0 as usize].digest.clone(),
                        episode: this.1,
                        first_row: row,
                        len: 1,
                    }),
                }
                previous = Some(this);
                row += 1;
            }
        }
        runs
    }

    fn split(&self, row: usize) -> (&Columns, usize) {
        (&self.batches[row / self.rows_per_batch], row % self.rows_per_batch)
    }

    fn decode(path: &str, file: &ByteRanges, projection: Projection) -> Result<Self> {
        let Decoded { size, batches, pixels_at } = decode(path, file, projection)?;
        // `split` finds a row by division: all batches but the last must have the same length.
        let rows_per_batch = batches.first().map_or(1, RecordBatch::num_rows).max(1);
        let short = batches.iter().rev().skip(1).any(|batch| batch.num_rows() != rows_per_batch);
        if short || batches.last().is_some_and(|batch| batch.num_rows() > rows_per_batch) {
            return Err(corrupt(path, "its record batches differ in length"));
        }
        // All batches of an IPC file share one dictionary.
        let videos = batches.first().map(videos).unwrap_or_default();
        let batches: Vec<Columns> = batches.iter().map(columns).collect();
        let rows = batches.iter().map(|batch| batch.video.len()).sum();
        Ok(Self { path: path.to_owned(), size, rows, rows_per_batch, batches, videos, pixels_at })
    }
}

/// Returns the columns of a batch with a checked schema.
fn columns(batch: &RecordBatch) -> Columns {
    // Columns are in the order of `schema::shard`. Column 1 repeats the keys of column 0.
    let numbers =
        |column: usize| batch.column(column).as_primitive::<UInt32Type>().values().clone();
    let pixels = batch.columns().get(5).map(|column| column.as_fixed_size_list().values().clone());
    Columns {
        video: batch.column(0).as_dictionary::<Int32Type>().keys().values().clone(),
        episode: numbers(2),
        frame_index: numbers(3),
        time_s: batch.column(4).as_primitive::<Float64Type>().values().clone(),
        pixels: pixels.map_or_else(
            || ScalarBuffer::from(vec![]),
            |p| p.as_primitive::<UInt8Type>().values().clone(),
        ),
    }
}

/// Returns the videos: the dictionaries of names and digests, paired.
fn videos(batch: &RecordBatch) -> Vec<VideoName> {
    let [uris, digests] =
        [0, 1].map(|column| batch.column(column).as_dictionary::<Int32Type>().values());
    let pairs = uris.as_string::<i32>().iter().zip(digests.as_string::<i32>());
    let name = |text: Option<&str>| text.unwrap_or_default().to_owned();
    pairs.map(|(uri, digest)| VideoName { uri: name(uri), digest: name(digest) }).collect()
}

/// Returns whether a frame is the next one of the same episode. Both are `(video, episode,
/// frame_index)`.
fn follows(previous: (i32, u32, u32), this: (i32, u32, u32)) -> bool {
    (previous.0, previous.1) == (this.0, this.1) && previous.2.checked_add(1) == Some(this.2)
}

#[cfg(test)]
pub(super) mod tests;
