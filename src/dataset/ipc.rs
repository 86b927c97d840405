//! An Arrow IPC file becomes record batches, with no copy where none is needed and no byte read that nobody asked for.
//!
//! In: a shard, mapped or in an object store. Out: its batches, and where its pixels are. Start at [`decode`]. Whatever is wrong with
//! the bytes is an error that names the file.
//!
//! The columns other than pixels come first in every batch of a shard. So they are read as the beginning of each batch: a request of
//! some kilobytes, where the whole batch has megabytes.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, root_as_footer, root_as_message};
use bytes::Bytes;

use super::error::{Error, Result};
use super::parts::Parts;
use super::schema::{self, FORMAT_KEY, FrameSize};
use super::shard::BATCH_ROWS;

/// The end of a file that is read first: all of the footer, for a shard of up to some hundred batches.
const TAIL: u64 = 12 << 10;
/// Columns other than pixels: dictionary keys, keys, episode, frame index, time.
const SMALL_COLUMNS: [usize; 5] = [0, 1, 2, 3, 4];
/// Buffers of these columns in a batch: each has one of nulls and one of values.
const SMALL_BUFFERS: usize = 2 * SMALL_COLUMNS.len();
/// The buffer of pixels: behind the nulls of the list and those of its items.
const PIXEL_BUFFER: usize = SMALL_BUFFERS + 2;
/// Bytes of a row in the small columns.
const SMALL_ROW: usize = 4 + 4 + 4 + 4 + 8;
/// Bytes by which a buffer may be padded, or longer for its compression.
const SLACK: usize = 128;

/// Which columns are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All but the pixels.
    Small,
    /// All.
    All,
}

/// A shard's content.
#[derive(Debug)]
pub(super) struct Decoded {
    /// The size of every frame.
    pub size: FrameSize,
    /// The wanted columns.
    pub batches: Vec<RecordBatch>,
    /// Where each batch's pixels begin in the file; empty if they are compressed.
    pub pixels_at: Vec<u64>,
}

/// Decodes the wanted columns of the shard at `path`.
pub(super) fn decode(path: &str, file: &Parts, wanted: Wanted) -> Result<Decoded> {
    // Arrow checks most of what it reads, and panics where a damaged header points outside its block.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_checked(path, file, wanted)));
    decoded.unwrap_or_else(|_| Err(corrupt(path, "a header in it points outside its block")))
}

fn decode_checked(path: &str, file: &Parts, wanted: Wanted) -> Result<Decoded> {
    let footer = footer(path, file)?;
    let footer = root_as_footer(&footer).map_err(|cause| corrupt(path, cause))?;
    let schema = footer.schema().ok_or_else(|| corrupt(path, "it has no schema"))?;
    let schema = Arc::new(try_fb_to_schema(schema).map_err(|cause| corrupt(path, cause))?);
    check_format(path, &schema)?;
    let size = schema::frame_size(&schema)
        .ok_or_else(|| corrupt(path, "its columns are not those of a shard"))?;
    let mut decoder = FileDecoder::new(schema, footer.version());
    if wanted == Wanted::Small {
        decoder = decoder.with_projection(SMALL_COLUMNS.to_vec());
    }
    let dictionaries: Vec<&Block> = footer.dictionaries().iter().flatten().collect();
    let ranges = dictionaries
        .iter()
        .map(|block| Ok(whole(path, file, block)?.0))
        .collect::<Result<Vec<_>>>()?;
    for (block, bytes) in dictionaries.into_iter().zip(file.read(&ranges)?) {
        decoder
            .read_dictionary(block, &Buffer::from(bytes))
            .map_err(|cause| corrupt(path, cause))?;
    }
    let blocks: Vec<&Block> = footer.recordBatches().iter().flatten().collect();
    let (mut batches, mut pixels_at) = (Vec::new(), Vec::new());
    for (block, bytes) in blocks.iter().zip(beginnings(path, file, &blocks, wanted)?) {
        pixels_at.push(pixels(path, file, block, &bytes, size)?);
        let batch = decoder.read_record_batch(block, &Buffer::from(bytes));
        batches.extend(batch.map_err(|cause| corrupt(path, cause))?);
    }
    let pixels_at = pixels_at.into_iter().collect::<Option<Vec<u64>>>().unwrap_or_default();
    Ok(Decoded { size, batches, pixels_at })
}

/// Returns the footer: the last ten bytes of a file are its length and the magic word.
fn footer(path: &str, file: &Parts) -> Result<Bytes> {
    let none = || corrupt(path, "it has no footer");
    let from = file.len().saturating_sub(TAIL);
    let tail = file.read_one(from..file.len())?;
    let end = tail.len().checked_sub(10).ok_or_else(none)?;
    let length =
        read_footer_length(tail[end..].try_into().expect("ten bytes")).map_err(|_| none())?;
    match end.checked_sub(length) {
        Some(start) => Ok(tail.slice(start..end)),
        None => {
            let end = file.len() - 10;
            let start = end.checked_sub(length as u64).ok_or_else(none)?;
            file.read_one(start..end)
        }
    }
}

/// Returns what is wanted of each batch, as its beginning.
fn beginnings(path: &str, file: &Parts, blocks: &[&Block], wanted: Wanted) -> Result<Vec<Bytes>> {
    let guess = (BATCH_ROWS * SMALL_ROW + SMALL_BUFFERS * SLACK) as u64;
    let ranges = blocks.iter().map(|block| {
        let (range, header) = whole(path, file, block)?;
        let end = if wanted == Wanted::All {
            range.end
        } else {
            range.end.min(range.start + header + guess)
        };
        Ok(range.start..end)
    });
    let ranges = ranges.collect::<Result<Vec<_>>>()?;
    let mut read = file.read(&ranges)?;
    // A batch of more rows than are written today, or one that grew under compression.
    for ((block, range), bytes) in
        blocks.iter().zip(ranges).zip(&mut read).filter(|_| wanted == Wanted::Small)
    {
        let (range_of_all, header) = whole(path, file, block)?;
        let small = header_of(path, bytes)?
            .buffers
            .iter()
            .take(SMALL_BUFFERS)
            .map(|buffer| buffer.end)
            .max()
            .unwrap_or(0);
        let end = range.start.saturating_add(header).saturating_add(small);
        if end > range.end && end <= range_of_all.end {
            *bytes = file.read_one(range.start..end)?;
        }
    }
    Ok(read)
}

/// Returns where in the file a batch's pixels begin; none if they are compressed.
fn pixels(
    path: &str,
    file: &Parts,
    block: &Block,
    bytes: &[u8],
    size: FrameSize,
) -> Result<Option<u64>> {
    let (batch, (range, header)) = (header_of(path, bytes)?, whole(path, file, block)?);
    if batch.is_compressed {
        return Ok(None);
    }
    let missing = || corrupt(path, "a batch in it has fewer pixels than its rows need");
    let pixels = batch.buffers.get(PIXEL_BUFFER).ok_or_else(missing)?;
    let needed = batch.rows.checked_mul(size.bytes() as u64).ok_or_else(missing)?;
    let start = (range.start + header).checked_add(pixels.start).ok_or_else(missing)?;
    let is_inside = needed <= pixels.end - pixels.start
        && start.checked_add(needed).is_some_and(|end| end <= range.end);
    if is_inside { Ok(Some(start)) } else { Err(missing()) }
}

/// What a batch says of itself.
struct Header {
    rows: u64,
    is_compressed: bool,
    /// Where its buffers are, from the end of the header on.
    buffers: Vec<Range<u64>>,
}

fn header_of(path: &str, bytes: &[u8]) -> Result<Header> {
    // Newer files have a marker before the length.
    let prefix = if bytes.starts_with(&[0xFF; 4]) { 8 } else { 4 };
    let message = bytes.get(prefix..).ok_or_else(|| corrupt(path, "a header in it is cut"))?;
    let message = root_as_message(message).map_err(|cause| corrupt(path, cause))?;
    let batch = message
        .header_as_record_batch()
        .ok_or_else(|| corrupt(path, "a block in it is no batch"))?;
    let range = |offset: i64, length: i64| {
        let start = u64::try_from(offset).ok()?;
        Some(start..start.checked_add(u64::try_from(length).ok()?)?)
    };
    let buffers = batch
        .buffers()
        .into_iter()
        .flatten()
        .map(|buffer| range(buffer.offset(), buffer.length()))
        .collect::<Option<Vec<_>>>();
    let buffers = buffers.ok_or_else(|| corrupt(path, "a buffer in it ends before it begins"))?;
    let rows = u64::try_from(batch.length()).map_err(|cause| corrupt(path, cause))?;
    Ok(Header { rows, is_compressed: batch.compression().is_some(), buffers })
}

/// A file that is not what was written.
pub(super) fn corrupt(path: &str, reason: impl ToString) -> Error {
    Error::Corrupt { path: path.to_owned(), reason: reason.to_string() }
}

fn check_format(path: &str, schema: &Schema) -> Result<()> {
    match schema.metadata().get(FORMAT_KEY).and_then(|format| format.parse().ok()) {
        Some(super::FORMAT) => Ok(()),
        Some(found) => {
            Err(Error::OtherFormat { path: path.to_owned(), found, known: super::FORMAT })
        }
        None => Err(corrupt(path, "it states no format")),
    }
}

/// Returns where a block is in the file, and how long its header is; an error if the footer points outside the file.
fn whole(path: &str, file: &Parts, block: &Block) -> Result<(Range<u64>, u64)> {
    let range = || {
        let start = u64::try_from(block.offset()).ok()?;
        let header = u64::try_from(block.metaDataLength()).ok()?;
        let end =
            start.checked_add(header)?.checked_add(u64::try_from(block.bodyLength()).ok()?)?;
        (end <= file.len()).then_some((start..end, header))
    };
    range().ok_or_else(|| corrupt(path, "its footer points outside the file"))
}
