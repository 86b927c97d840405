//! Writes shards: Arrow IPC files with one fixed-size row per frame. Start at
//! [`ShardWriter::create`].
//!
//! Frames come video after video, episode after episode, in presentation order. Memory use is
//! constant: a batch of rows is written as soon as it is full. `shard_reader`, pyarrow and polars
//! read the file.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, FixedSizeListArray, Float64Array, Int32Array, RecordBatch,
    StringArray, UInt8Array, UInt32Array,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};

use super::error::{Error, Result};
use super::new_file::{FileInfo, NewFile};
use super::schema::{self, Compression, FrameSize};
use super::store::Store;

/// The most rows in a record batch.
pub(super) const BATCH_ROWS: usize = 256;
/// The most bytes of pixels in a record batch, unless a single frame has more.
const BATCH_BYTES: usize = 8 << 20;

/// The settings of a new shard.
#[derive(Debug, Clone)]
pub struct ShardLayout {
    /// The size of every frame.
    pub size: FrameSize,
    /// The compression of the columns.
    pub compression: Compression,
    /// All videos that may appear. An IPC file holds one dictionary, and not every reader supports
    /// one that grows, so the names are needed up front. A video may have no frames.
    pub videos: Vec<VideoName>,
}

/// The name and the identity of a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoName {
    /// Its path or address, as it was given.
    pub uri: String,
    /// The BLAKE3 digest of its bytes, in hexadecimal.
    pub digest: String,
}

/// A writer of one shard. If it is dropped before [`ShardWriter::finish`], no file remains.
pub struct ShardWriter {
    writer: FileWriter<NewFile>,
    schema: SchemaRef,
    path: String,
    size: FrameSize,
    /// The values of the two dictionaries, shared by all batches.
    uris: ArrayRef,
    digests: ArrayRef,
    video: i32,
    /// The index of the video's last frame.
    last: Option<u32>,
    batch: Batch,
    rows_per_batch: usize,
    rows: u64,
}

/// Rows that are not written yet.
#[derive(Default)]
struct Batch {
    video: Vec<i32>,
    episode: Vec<u32>,
    frame_index: Vec<u32>,
    time_s: Vec<f64>,
    pixels: Vec<u8>,
}

impl ShardWriter {
    /// Starts the shard `path` in `store`.
    pub fn create(store: &Store, path: &str, layout: &ShardLayout) -> Result<Self> {
        let schema = Arc::new(schema::shard(layout.size));
        let codec = match layout.compression {
            Compression::None => None,
            Compression::Zstd => Some(CompressionType::ZSTD),
        };
        let options =
            IpcWriteOptions::default().try_with_compression(codec).map_err(encode_error(path))?;
        let file = store.new_file(path)?;
        let writer =
            FileWriter::try_new_with_options(file, &schema, options).map_err(encode_error(path))?;
        let names = |name: fn(&VideoName) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(layout.videos.iter().map(name)))
        };
        Ok(Self {
            writer,
            schema,
            path: path.to_owned(),
            size: layout.size,
            uris: names(|video| &video.uri),
            digests: names(|video| &video.digest),
            // No video yet: `push` refuses frames until `begin_video`.
            video: -1,
            last: None,
            batch: Batch::default(),
            rows_per_batch: (BATCH_BYTES / layout.size.bytes().max(1)).clamp(1, BATCH_ROWS),
            rows: 0,
        })
    }

    /// Starts `layout.videos[video]`: the next frames belong to this video.
    pub fn begin_video(&mut self, video: usize) -> Result<()> {
        if video >= self.uris.len() {
            return Err(self.wrong_shape("the video's number", video, self.uris.len()));
        }
        self.last = None;
        self.video = i32::try_from(video)
            .map_err(|_| self.wrong_shape("the video's number", video, 1 << 31))?;
        Ok(())
    }

    /// Adds one frame. Its `frame_index` must exceed the previous frame's.
    ///
    /// # Shapes
    /// - `pixels`: `[height, width, 3]`, u8, RGB
    pub fn push(
        &mut self,
        episode: u32,
        frame_index: u32,
        time_s: f64,
        pixels: &[u8],
    ) -> Result<()> {
        if pixels.len() != self.size.bytes() {
            return Err(self.wrong_shape(
                "a frame's length in bytes",
                pixels.len(),
                self.size.bytes(),
            ));
        }
        if self.video < 0 {
            return Err(self.wrong_shape("the number of videos begun", 0, 1));
        }
        // Two frames of a video never have the same index.
        if let Some(last) = self.last.replace(frame_index).filter(|last| *last >= frame_index) {
            return Err(self.wrong_shape(
                "a frame's number",
                frame_index as usize,
                last as usize + 1,
            ));
        }
        self.batch.video.push(self.video);
        self.batch.episode.push(episode);
        self.batch.frame_index.push(frame_index);
        self.batch.time_s.push(time_s);
        // One allocation of the exact size: growing by doubling would waste up to half of it.
        if self.batch.pixels.capacity() == 0 {
            self.batch.pixels.reserve_exact(self.rows_per_batch * self.size.bytes());
        }
        self.batch.pixels.extend_from_slice(pixels);
        self.rows += 1;
        if self.batch.video.len() == self.rows_per_batch { self.write_batch() } else { Ok(()) }
    }

    /// Returns the number of frames pushed so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes the remaining rows and syncs the file to disk.
    pub fn finish(mut self) -> Result<FileInfo> {
        if !self.batch.video.is_empty() {
            self.write_batch()?;
        }
        self.writer.write_metadata(schema::FORMAT_KEY, super::FORMAT.to_string());
        let file = self.writer.into_inner().map_err(encode_error(&self.path))?;
        file.finish(self.rows)
    }

    fn write_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let columns = self.columns(batch).map_err(encode_error(&self.path))?;
        let batch =
            RecordBatch::try_new(self.schema.clone(), columns).map_err(encode_error(&self.path))?;
        self.writer.write(&batch).map_err(encode_error(&self.path))
    }

    fn columns(&self, batch: Batch) -> Result<Vec<ArrayRef>, ArrowError> {
        let video = Int32Array::from(batch.video);
        let frame_bytes =
            i32::try_from(self.size.bytes()).expect("the schema was made with this length");
        let pixels = UInt8Array::new(ScalarBuffer::from(Buffer::from_vec(batch.pixels)), None);
        // The order of `schema::shard`.
        Ok(vec![
            Arc::new(DictionaryArray::<Int32Type>::try_new(video.clone(), self.uris.clone())?),
            Arc::new(DictionaryArray::<Int32Type>::try_new(video, self.digests.clone())?),
            Arc::new(UInt32Array::from(batch.episode)),
            Arc::new(UInt32Array::from(batch.frame_index)),
            Arc::new(Float64Array::from(batch.time_s)),
            Arc::new(FixedSizeListArray::try_new(
                Arc::new(schema::item(DataType::UInt8)),
                frame_bytes,
                Arc::new(pixels),
                None,
            )?),
        ])
    }

    fn wrong_shape(&self, what: &str, found: usize, expected: usize) -> Error {
        Error::WrongShape {
            path: self.path.clone(),
            what: what.into(),
            found: found as u64,
            expected: expected as u64,
        }
    }
}

/// Converts an Arrow error. An I/O error, such as a full disk, stays an I/O error.
fn encode_error(path: &str) -> impl FnOnce(ArrowError) -> Error {
    move |cause| match cause {
        ArrowError::IoError(_, cause) => {
            Error::Io { action: "write", path: path.to_owned(), cause }
        }
        other => Error::Encode { path: path.to_owned(), reason: other.to_string() },
    }
}
