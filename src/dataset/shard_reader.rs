//! Frames come back from a shard, in place: an uncompressed shard is read through its memory map.
//!
//! In: a shard's path. Out: [`Shard`], a random-access view of its rows. Start at [`Shard::open`]. A shard is checked when it is opened, so that the
//! accessors need not be.

use arrow::array::{AsArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Float64Type, Int32Type, UInt8Type, UInt32Type};

use super::error::Result;
use super::ipc::{Decoded, Wanted, corrupt, decode};
use super::parts::Parts;
use super::place::FileInfo;
use super::schema::FrameSize;
use super::shard::VideoName;
use super::store::Store;

/// An open shard: cheap to share, safe to read from many threads.
#[derive(Debug)]
pub struct Shard {
    path: String,
    size: FrameSize,
    rows: usize,
    /// Every batch but the last holds this many rows.
    rows_per_batch: usize,
    batches: Vec<Columns>,
    videos: Vec<VideoName>,
    /// Where each batch's pixels begin in the file; empty if they are compressed.
    pixels_at: Vec<u64>,
}

/// Frames of one episode that follow each other with no gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpisodeRun {
    /// The video's path or address.
    pub video: String,
    /// The video's identity.
    pub digest: String,
    /// The episode's number within the video.
    pub episode: u32,
    /// The run's first row in the shard.
    pub first_row: usize,
    /// How many frames it has.
    pub len: usize,
}

/// One batch, as plain slices over the map.
#[derive(Debug)]
pub(super) struct Columns {
    /// The place of a row's video in [`Shard::videos`].
    pub video: ScalarBuffer<i32>,
    pub episode: ScalarBuffer<u32>,
    pub frame_index: ScalarBuffer<u32>,
    pub time_s: ScalarBuffer<f64>,
    /// Empty where only the small columns were read.
    pixels: ScalarBuffer<u8>,
}

impl Shard {
    /// Opens the shard at `path`; a compressed one is decompressed here, as a whole.
    pub fn open(store: &Store, path: &str) -> Result<Self> {
        Self::decode(
            path,
            &Parts::Mapped { path: path.to_owned(), bytes: store.map(path)? },
            Wanted::All,
        )
    }

    /// Opens a shard that must have the size that its receipt says; a compressed one is decompressed here, as a whole.
    pub fn open_file(store: &Store, info: &FileInfo) -> Result<Self> {
        Self::decode(
            &info.path,
            &Parts::Mapped { path: info.path.clone(), bytes: store.map_file(info)? },
            Wanted::All,
        )
    }

    /// Opens all of a shard but its pixels, which are not read.
    pub(super) fn open_rows(store: &Store, path: &str, info: Option<&FileInfo>) -> Result<Self> {
        Self::decode(path, &store.parts(path, info)?, Wanted::Small)
    }

    /// Rows of a batch, and where each batch's pixels begin in the file; nowhere if they are compressed.
    pub(super) fn pixels_in_place(&self) -> (usize, &[u64]) {
        (self.rows_per_batch, &self.pixels_at)
    }

    /// Returns the videos of the shard, each once.
    pub(super) fn videos(&self) -> &[VideoName] {
        &self.videos
    }

    /// Returns the columns other than pixels, batch after batch.
    pub(super) fn batches(&self) -> &[Columns] {
        &self.batches
    }

    /// The file's path, relative to the workspace.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How many frames it holds.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The size of every frame.
    #[must_use]
    pub fn frame_size(&self) -> FrameSize {
        self.size
    }

    /// The frame of a row: `[height, width, 3]`, RGB.
    #[must_use]
    pub fn pixels(&self, row: usize) -> &[u8] {
        let (batch, row) = self.split(row);
        let bytes = self.size.bytes();
        &batch.pixels[row * bytes..(row + 1) * bytes]
    }

    /// Copies the frames of the rows from `first` on, as many as `out` has room for.
    pub(super) fn copy(&self, first: usize, out: &mut [u8]) {
        let (batch, row) = self.split(first);
        let bytes = self.size.bytes();
        match batch.pixels.get(row * bytes..row * bytes + out.len()) {
            Some(pixels) => out.copy_from_slice(pixels),
            None => out
                .chunks_exact_mut(bytes)
                .enumerate()
                .for_each(|(i, out)| out.copy_from_slice(self.pixels(first + i))),
        }
    }

    /// The path or address of a row's video.
    #[must_use]
    pub fn video(&self, row: usize) -> &str {
        let (batch, row) = self.split(row);
        &self.videos[batch.video[row] as usize].uri
    }

    /// The identity of a row's video.
    #[must_use]
    pub fn video_digest(&self, row: usize) -> &str {
        let (batch, row) = self.split(row);
        &self.videos[batch.video[row] as usize].digest
    }

    /// The episode of a row, within its video.
    #[must_use]
    pub fn episode(&self, row: usize) -> u32 {
        let (batch, row) = self.split(row);
        batch.episode[row]
    }

    /// The number of a row's frame, within its video.
    #[must_use]
    pub fn frame_index(&self, row: usize) -> u32 {
        let (batch, row) = self.split(row);
        batch.frame_index[row]
    }

    /// The time of a row's frame within its video, in seconds.
    #[must_use]
    pub fn time_s(&self, row: usize) -> f64 {
        let (batch, row) = self.split(row);
        batch.time_s[row]
    }

    /// The shard as runs: same video, same episode, frame after frame. A gap in decoding ends one.
    #[must_use]
    pub fn episodes(&self) -> Vec<EpisodeRun> {
        let mut runs: Vec<EpisodeRun> = Vec::new();
        let mut before = None;
        let mut row = 0;
        for batch in &self.batches {
            for i in 0..batch.video.len() {
                let this = (batch.video[i], batch.episode[i], batch.frame_index[i]);
                match runs.last_mut() {
                    Some(run) if before.is_some_and(|before| follows(before, this)) => run.len += 1,
                    _ => runs.push(EpisodeRun {
                        video: self.videos[this.0 as usize].uri.clone(),
                        digest: self.videos[this.0 as usize].digest.clone(),
                        episode: this.1,
                        first_row: row,
                        len: 1,
                    }),
                }
                before = Some(this);
                row += 1;
            }
        }
        runs
    }

    fn split(&self, row: usize) -> (&Columns, usize) {
        (&self.batches[row / self.rows_per_batch], row % self.rows_per_batch)
    }

    fn decode(path: &str, file: &Parts, wanted: Wanted) -> Result<Self> {
        let Decoded { size, batches, pixels_at } = decode(path, file, wanted)?;
        let rows_per_batch = batches.first().map_or(1, RecordBatch::num_rows).max(1);
        let short = batches.iter().rev().skip(1).any(|batch| batch.num_rows() != rows_per_batch);
        if short || batches.last().is_some_and(|batch| batch.num_rows() > rows_per_batch) {
            return Err(corrupt(path, "its record batches differ in length"));
        }
        let videos = batches.first().map(videos).unwrap_or_default();
        let batches: Vec<Columns> = batches.iter().map(columns).collect();
        let rows = batches.iter().map(|batch| batch.video.len()).sum();
        Ok(Self { path: path.to_owned(), size, rows, rows_per_batch, batches, videos, pixels_at })
    }
}

/// The columns of a batch whose schema was checked, pixels only where they were asked for.
fn columns(batch: &RecordBatch) -> Columns {
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

/// The two dictionaries, side by side.
fn videos(batch: &RecordBatch) -> Vec<VideoName> {
    let [uris, digests] =
        [0, 1].map(|column| batch.column(column).as_dictionary::<Int32Type>().values());
    let pairs = uris.as_string::<i32>().iter().zip(digests.as_string::<i32>());
    let name = |text: Option<&str>| text.unwrap_or_default().to_owned();
    pairs.map(|(uri, digest)| VideoName { uri: name(uri), digest: name(digest) }).collect()
}

fn follows(before: (i32, u32, u32), this: (i32, u32, u32)) -> bool {
    (before.0, before.1) == (this.0, this.1) && before.2.checked_add(1) == Some(this.2)
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::faults::faulty_store;
    use super::super::{Compression, Error, ShardLayout, ShardWriter};
    use super::*;

    const SIZE: FrameSize = FrameSize { height: 8, width: 4 };
    pub const PATH: &str = "frames/data/key/attempt/shard.arrow";

    fn workspace() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    fn pixels(video: usize, frame: u32) -> Vec<u8> {
        (0..SIZE.bytes()).map(|i| (video * 101 + frame as usize * 7 + i) as u8).collect()
    }

    /// Two videos of two episodes of 150 frames, with one frame missing in the last episode.
    pub fn write(store: &Store, compression: Compression) -> crate::dataset::FileInfo {
        let names = [("films/a.mp4", "d0"), ("unread.mp4", "d1"), ("films/b.mp4", "d2")];
        let names = names.map(|(uri, digest)| VideoName { uri: uri.into(), digest: digest.into() });
        let layout = ShardLayout { size: SIZE, compression, videos: names.to_vec() };
        let mut writer = ShardWriter::create(store, PATH, &layout).unwrap();
        for video in [0, 2] {
            writer.begin_video(video).unwrap();
            for frame in (0..300).filter(|frame| (video, *frame) != (2, 200)) {
                writer
                    .push(frame / 150, frame, f64::from(frame) / 15.0, &pixels(video, frame))
                    .unwrap();
            }
        }
        writer.finish().unwrap()
    }

    #[test]
    fn frames_come_back_as_they_were_with_and_without_compression() {
        for compression in [Compression::None, Compression::Zstd] {
            let (_folder, store) = workspace();
            let info = write(&store, compression);
            let shard = Shard::open(&store, PATH).unwrap();
            assert_eq!((shard.rows(), info.rows, shard.frame_size()), (599, 599, SIZE));
            assert_eq!((shard.video(0), shard.video_digest(0)), ("films/a.mp4", "d0"));
            assert_eq!((shard.video(300), shard.video_digest(598)), ("films/b.mp4", "d2"));
            assert_eq!(
                (shard.episode(449), shard.frame_index(449), shard.time_s(449)),
                (0, 149, 149.0 / 15.0)
            );
            for row in 0..300 {
                assert_eq!(shard.pixels(row), pixels(0, row as u32));
            }
            assert_eq!(shard.pixels(598), pixels(2, 299));
        }
    }

    #[test]
    fn an_episode_with_a_gap_is_two_runs() {
        let (_folder, store) = workspace();
        write(&store, Compression::None);
        let runs = Shard::open(&store, PATH).unwrap().episodes();
        let shown: Vec<_> =
            runs.iter().map(|run| (&run.digest[..], run.episode, run.first_row, run.len)).collect();
        assert_eq!(
            shown,
            [
                ("d0", 0, 0, 150),
                ("d0", 1, 150, 150),
                ("d2", 0, 300, 150),
                ("d2", 1, 450, 50),
                ("d2", 1, 500, 99)
            ]
        );
    }

    #[test]
    fn an_uncompressed_shard_is_read_in_place() {
        let (_folder, store) = workspace();
        write(&store, Compression::None);
        let file = store.map(PATH).unwrap();
        let shard = Shard::open(&store, PATH).unwrap();
        let needle = shard.pixels(77);
        let place = file.windows(needle.len()).position(|bytes| bytes == needle).unwrap();
        // Two maps of one file differ in address and agree on where in a page a byte is.
        assert_eq!((needle.as_ptr() as usize) % 4096, place % 4096);
        let mut out = vec![0; 3 * SIZE.bytes()];
        shard.copy(254, &mut out);
        assert_eq!(out, [254, 255, 256].map(|row| shard.pixels(row)).concat());
    }

    #[test]
    fn the_same_frames_are_the_same_bytes() {
        let digests = [(); 3].map(|()| {
            let (_folder, store) = workspace();
            write(&store, Compression::None).blake3
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    }

    #[test]
    fn a_frame_of_another_size_is_refused() {
        let (_folder, store) = workspace();
        let videos = vec![VideoName { uri: "a".into(), digest: "d".into() }];
        let layout = ShardLayout { size: SIZE, compression: Compression::None, videos };
        let mut writer = ShardWriter::create(&store, PATH, &layout).unwrap();
        assert!(writer.push(0, 0, 0.0, &pixels(0, 0)).is_err(), "no video was begun");
        assert!(writer.begin_video(1).is_err());
        writer.begin_video(0).unwrap();
        let error = writer.push(0, 0, 0.0, &[0; 5]).unwrap_err();
        assert!(error.to_string().contains("is 5, expected 96"), "{error}");
        drop(writer);
        assert!(store.list("frames").unwrap().is_empty(), "an unfinished shard leaves no file");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_never_a_panic() {
        let store = faulty_store(&[]);
        write(&store, Compression::None);
        let whole = store.map(PATH).unwrap();
        let headers = (0..2048).chain(whole.len() - 4096..whole.len());
        let damaged = headers.step_by(3).map(|place| {
            let mut bytes = whole.to_vec();
            bytes[place] ^= 0x55;
            bytes
        });
        let truncated = (0..whole.len()).step_by(997).map(|len| whole[..len].to_vec());
        for (i, bytes) in damaged.chain(truncated).enumerate() {
            let path = format!("frames/data/key/bad{i}/shard.arrow");
            store.create(&path, &bytes).unwrap();
            let rows = Shard::open_rows(&store, &path, None);
            for error in [rows.err(), Shard::open(&store, &path).err()].into_iter().flatten() {
                assert!(error.to_string().contains(&path), "{error}");
            }
            store.delete_all(&format!("frames/data/key/bad{i}")).unwrap();
        }
        assert!(matches!(Shard::open(&store, "no/such/file"), Err(Error::Missing { .. })));
    }
}
