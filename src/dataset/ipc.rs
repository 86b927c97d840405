//! Decodes the Arrow IPC file of a shard, memory-mapped or in an object store. Start at [`decode`].
//!
//! A mapped shard is decoded without copies. A remote shard is read by ranges: the pixels are the
//! last column of a batch, so the other columns cost a request of some kilobytes for the beginning
//! of each batch of megabytes. Damaged bytes give an error with the file's path, never a panic.

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

use super::byte_ranges::ByteRanges;
use super::error::{Error, Result};
use super::schema::{self, FORMAT_KEY, FrameSize};
use super::shard::BATCH_ROWS;

/// Bytes read first, from the end of a file: the whole footer of a shard of up to some hundred
/// batches.
const TAIL: u64 = 12 << 10;
/// Columns other than pixels: dictionary keys, keys, episode, frame index, time.
const SMALL_COLUMNS: [usize; 5] = [0, 1, 2, 3, 4];
/// Buffers of these columns in a batch: a validity buffer and a values buffer for each column.
const SMALL_BUFFERS: usize = 2 * SMALL_COLUMNS.len();
/// The buffer of pixels: it follows the validity buffers of the list and of its items.
const PIXEL_BUFFER: usize = SMALL_BUFFERS + 2;
/// Bytes of one row in the small columns.
const SMALL_ROW: usize = 4 + 4 + 4 + 4 + 8;
/// Bytes by which padding or compression may lengthen a buffer.
const SLACK: usize = 128;

/// The columns to decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Projection {
    /// All columns except the pixels.
    WithoutPixels,
    /// All columns.
    All,
}

/// The decoded content of a shard.
#[derive(Debug)]
pub(super) struct Decoded {
    /// The size of every frame.
    pub size: FrameSize,
    /// The projected columns.
    pub batches: Vec<RecordBatch>,
    /// The offset of each batch's pixels in the file; empty if they are compressed.
    pub pixels_at: Vec<u64>,
}

/// Decodes the projected columns of the shard at `path`.
pub(super) fn decode(path: &str, file: &ByteRanges, projection: Projection) -> Result<Decoded> {
    // Arrow checks most of its input, but panics on a damaged header that points outside its block.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_checked(path, file, projection)));
    decoded.unwrap_or_else(|_| Err(corrupt(path, "a header in it points outside its block")))
}

fn decode_checked(path: &str, file: &ByteRanges, projection: Projection) -> Result<Decoded> {
    let footer = footer(path, file)?;
    let footer = root_as_footer(&footer).map_err(|cause| corrupt(path, cause))?;
    let schema = footer.schema().ok_or_else(|| corrupt(path, "it has no schema"))?;
    let schema = Arc::new(try_fb_to_schema(schema).map_err(|cause| corrupt(path, cause))?);
    check_format(path, &schema)?;
    let size = schema::frame_size(&schema)
        .ok_or_else(|| corrupt(path, "its columns are not those of a shard"))?;
    let mut decoder = FileDecoder::new(schema, footer.version());
    if projection == Projection::WithoutPixels {
        decoder = decoder.with_projection(SMALL_COLUMNS.to_vec());
    }
    // The dictionaries (video names and digests) come before the batches that refer to them.
    let dictionaries: Vec<&Block> = footer.dictionaries().iter().flatten().collect();
    let ranges = dictionaries
        .iter()
        .map(|block| Ok(block_range(path, file, block)?.0))
        .collect::<Result<Vec<_>>>()?;
    for (block, bytes) in dictionaries.into_iter().zip(file.read(&ranges)?) {
        decoder
            .read_dictionary(block, &Buffer::from(bytes))
            .map_err(|cause| corrupt(path, cause))?;
    }
    let blocks: Vec<&Block> = footer.recordBatches().iter().flatten().collect();
    let mut batches = Vec::new();
    let mut pixels_at = Vec::new();
    for (block, bytes) in blocks.iter().zip(read_batches(path, file, &blocks, projection)?) {
        pixels_at.push(pixel_offset(path, file, block, &bytes, size)?);
        let batch = decoder.read_record_batch(block, &Buffer::from(bytes));
        batches.extend(batch.map_err(|cause| corrupt(path, cause))?);
    }
    // One compressed batch is enough to rule out reading pixels in place.
    let pixels_at = pixels_at.into_iter().collect::<Option<Vec<u64>>>().unwrap_or_default();
    Ok(Decoded { size, batches, pixels_at })
}

/// Returns the footer. The last ten bytes of a file are the footer's length and the magic word.
fn footer(path: &str, file: &ByteRanges) -> Result<Bytes> {
    let no_footer = || corrupt(path, "it has no footer");
    let from = file.len().saturating_sub(TAIL);
    let tail = file.read_one(from..file.len())?;
    let end = tail.len().checked_sub(10).ok_or_else(no_footer)?;
    let length =
        read_footer_length(tail[end..].try_into().expect("ten bytes")).map_err(|_| no_footer())?;
    match end.checked_sub(length) {
        Some(start) => Ok(tail.slice(start..end)),
        // The footer is longer than the tail: it takes a second request.
        None => {
            let end = file.len() - 10;
            let start = end.checked_sub(length as u64).ok_or_else(no_footer)?;
            file.read_one(start..end)
        }
    }
}

/// Reads each batch from its beginning up to the end of the projected columns.
fn read_batches(
    path: &str,
    file: &ByteRanges,
    blocks: &[&Block],
    projection: Projection,
) -> Result<Vec<Bytes>> {
    // Lengths of buffers are in the headers, which are not read yet: this guess saves a request.
    let guess = (BATCH_ROWS * SMALL_ROW + SMALL_BUFFERS * SLACK) as u64;
    let ranges = blocks.iter().map(|block| {
        let (range, header) = block_range(path, file, block)?;
        let end = if projection == Projection::All {
            range.end
        } else {
            range.end.min(range.start + header + guess)
        };
        Ok(range.start..end)
    });
    let ranges = ranges.collect::<Result<Vec<_>>>()?;
    let mut read = file.read(&ranges)?;
    if projection == Projection::All {
        return Ok(read);
    }
    // The guess is too short for a batch of more rows than `BATCH_ROWS`, or for one that grew under
    // compression: read it again with the lengths of its header.
    for ((block, range), bytes) in blocks.iter().zip(ranges).zip(&mut read) {
        let (whole_range, header) = block_range(path, file, block)?;
        let small = batch_header(path, bytes)?
            .buffers
            .iter()
            .take(SMALL_BUFFERS)
            .map(|buffer| buffer.end)
            .max()
            .unwrap_or(0);
        let end = range.start.saturating_add(header).saturating_add(small);
        if end > range.end && end <= whole_range.end {
            *bytes = file.read_one(range.start..end)?;
        }
    }
    Ok(read)
}

/// Returns the offset of a batch's pixels in the file, or `None` if they are compressed.
fn pixel_offset(
    path: &str,
    file: &ByteRanges,
    block: &Block,
    bytes: &[u8],
    size: FrameSize,
) -> Result<Option<u64>> {
    let batch = batch_header(path, bytes)?;
    let (range, header) = block_range(path, file, block)?;
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

/// The header of a record batch.
struct BatchHeader {
    rows: u64,
    is_compressed: bool,
    /// The ranges of its buffers, relative to the end of the header.
    buffers: Vec<Range<u64>>,
}

fn batch_header(path: &str, bytes: &[u8]) -> Result<BatchHeader> {
    // Arrow 0.15 and later write a continuation marker before the length.
    let prefix = if bytes.starts_with(&[0xFF; 4]) { 8 } else { 4 };
    let message =
        bytes.get(prefix..).ok_or_else(|| corrupt(path, "a header in it is cut short"))?;
    let message = root_as_message(message).map_err(|cause| corrupt(path, cause))?;
    let batch = message
        .header_as_record_batch()
        .ok_or_else(|| corrupt(path, "a block in it is not a record batch"))?;
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
    Ok(BatchHeader { rows, is_compressed: batch.compression().is_some(), buffers })
}

/// Creates the error of a damaged file.
pub(super) fn corrupt(path: &str, reason: impl ToString) -> Error {
    Error::Corrupt { path: path.to_owned(), reason: reason.to_string() }
}

fn check_format(path: &str, schema: &Schema) -> Result<()> {
    match schema.metadata().get(FORMAT_KEY).and_then(|format| format.parse().ok()) {
        Some(super::FORMAT) => Ok(()),
        Some(found) => {
            Err(Error::OtherFormat { path: path.to_owned(), found, known: super::FORMAT })
        }
        None => Err(corrupt(path, format!("its metadata has no entry `{FORMAT_KEY}`"))),
    }
}

/// Returns a block's range in the file and the length of its header. Fails if the footer points
/// outside the file.
fn block_range(path: &str, file: &ByteRanges, block: &Block) -> Result<(Range<u64>, u64)> {
    let range = || {
        let start = u64::try_from(block.offset()).ok()?;
        let header = u64::try_from(block.metaDataLength()).ok()?;
        let end =
            start.checked_add(header)?.checked_add(u64::try_from(block.bodyLength()).ok()?)?;
        (end <= file.len()).then_some((start..end, header))
    };
    range().ok_or_else(|| corrupt(path, "its footer points outside the file"))
}
