//! Frames of whole episodes go into a shard: one Arrow IPC file of fixed-size rows.
//!
//! In: frames, video after video, episode after episode, in the order they were shown. Out: a file that
//! `shard_reader`, pyarrow and polars read. Start at [`ShardWriter::create`]. Memory stays constant: a
//! batch of rows is written as soon as it is full.

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

/// The rows of a record batch, and the bytes it may weigh where frames are large.
pub(super) const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;

/// What a shard is made for.
#[derive(Debug, Clone)]
pub struct ShardLayout {
    /// The size of every frame.
    pub size: FrameSize,
    /// How the columns are compressed.
    pub compression: Compression,
    /// The videos that may appear. They are named beforehand because an IPC file holds one dictionary,
    /// and not every reader follows one that grows. A video with no frames is no harm.
    pub videos: Vec<VideoName>,
}

/// A video, by what people call it and by what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoName {
    /// Its path or address, as it was given.
    pub uri: String,
    /// The BLAKE3 digest of its bytes, in hexadecimal.
    pub digest: String,
}

/// Writes one shard.
///
/// Dropped before [`ShardWriter::finish`], it leaves no file.
pub struct ShardWriter {
    writer: FileWriter<NewFile>,
    schema: SchemaRef,
    path: String,
    size: FrameSize,
    /// The values of the two dictionaries, shared by all batches.
    uris: ArrayRef,
    digests: ArrayRef,
    video: i32,
    /// The number of the video's last frame.
    last: Option<u32>,
    batch: Batch,
    rows_per_batch: usize,
    rows: u64,
}

/// The rows that wait to be written.
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
            video: -1,
            last: None,
            batch: Batch::default(),
            rows_per_batch: (BATCH_BYTES / layout.size.bytes().max(1)).clamp(1, BATCH_ROWS),
            rows: 0,
        })
    }

    /// Says that the frames that follow are of `layout.videos[video]`.
    pub fn begin_video(&mut self, video: usize) -> Result<()> {
        if video >= self.uris.len() {
            return Err(self.wrong_shape("the video's number", video, self.uris.len()));
        }
        self.last = None;
        self.video = i32::try_from(video)
            .map_err(|_| self.wrong_shape("the video's number", video, 1 << 31))?;
        Ok(())
    }

    /// Adds one frame, whose number must be greater than the last one's: `pixels` is `[height, width, 3]`, RGB, row by row.
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
        // So that no two frames of a video have one number.
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
        if self.batch.pixels.capacity() == 0 {
            self.batch.pixels.reserve_exact(self.rows_per_batch * self.size.bytes());
        }
        self.batch.pixels.extend_from_slice(pixels);
        self.rows += 1;
        if self.batch.video.len() == self.rows_per_batch { self.write_batch() } else { Ok(()) }
    }

    /// How many frames were pushed.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes what is left and makes the file lasting.
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

/// Keeps a full disk recognisable: an I/O error inside Arrow stays one.
fn encode_error(path: &str) -> impl FnOnce(ArrowError) -> Error {
    move |cause| match cause {
        ArrowError::IoError(_, cause) => {
            Error::Io { action: "write", path: path.to_owned(), cause }
        }
        other => Error::Encode { path: path.to_owned(), reason: other.to_string() },
    }
}
