//! An Arrow IPC file becomes record batches, with no copy where none is needed.
//!
//! In: the bytes of a shard. Out: its schema and batches, each pointing into those bytes. Start at [`decode`]. Whatever
//! is wrong with the bytes is an error that names the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, root_as_footer};

use super::error::{Error, Result};
use super::schema::FORMAT_KEY;

/// Decodes the columns `projection` of the file at `path`, whose bytes are `file`.
pub(super) fn decode(path: &str, file: &Buffer, projection: &[usize]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    // Arrow checks most of what it reads, and panics where a damaged header points outside its block.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_checked(path, file, projection)));
    decoded.unwrap_or_else(|_| Err(corrupt(path, "a header in it points outside its block")))
}

fn decode_checked(path: &str, file: &Buffer, projection: &[usize]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let (footer_start, footer_end) = footer_range(file).ok_or_else(|| corrupt(path, "it has no footer"))?;
    let footer = root_as_footer(&file[footer_start..footer_end]).map_err(|cause| corrupt(path, cause))?;
    let schema = footer.schema().ok_or_else(|| corrupt(path, "it has no schema"))?;
    let schema = Arc::new(try_fb_to_schema(schema).map_err(|cause| corrupt(path, cause))?);
    check_format(path, &schema)?;
    let mut decoder = FileDecoder::new(schema.clone(), footer.version()).with_projection(projection.to_vec());
    for block in footer.dictionaries().iter().flatten() {
        decoder.read_dictionary(block, &slice(path, file, block)?).map_err(|cause| corrupt(path, cause))?;
    }
    let mut batches = Vec::new();
    for block in footer.recordBatches().iter().flatten() {
        let batch = decoder.read_record_batch(block, &slice(path, file, block)?);
        batches.extend(batch.map_err(|cause| corrupt(path, cause))?);
    }
    Ok((schema, batches))
}

/// A file that is not what was written.
pub(super) fn corrupt(path: &str, reason: impl ToString) -> Error {
    Error::Corrupt { path: path.to_owned(), reason: reason.to_string() }
}

/// Where the footer is: the last ten bytes are its length and the magic word.
fn footer_range(file: &Buffer) -> Option<(usize, usize)> {
    let end = file.len().checked_sub(10)?;
    let length = read_footer_length(file[end..].try_into().ok()?).ok()?;
    Some((end.checked_sub(length)?, end))
}

fn check_format(path: &str, schema: &Schema) -> Result<()> {
    match schema.metadata().get(FORMAT_KEY).and_then(|format| format.parse().ok()) {
        Some(super::FORMAT) => Ok(()),
        Some(found) => Err(Error::NewerFormat { path: path.to_owned(), found, known: super::FORMAT }),
        None => Err(corrupt(path, "it states no format")),
    }
}

/// The bytes of a block, or an error where the footer points outside the file.
fn slice(path: &str, file: &Buffer, block: &Block) -> Result<Buffer> {
    let range = || {
        let offset = usize::try_from(block.offset()).ok()?;
        let header = usize::try_from(block.metaDataLength()).ok()?;
        let length = header.checked_add(usize::try_from(block.bodyLength()).ok()?)?;
        (offset.checked_add(length)? <= file.len()).then_some((offset, length))
    };
    let (offset, length) = range().ok_or_else(|| corrupt(path, "its footer points outside the file"))?;
    Ok(file.slice_with_length(offset, length))
}
