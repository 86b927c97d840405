//! Reads lists of videos from Parquet files of other programs. Start at [`read`].
//!
//! Numbers, dates, times and text of any width become text. A time with a zone becomes UTC, such as
//! `2024-01-02T12:00:00Z`. A column of lists, structs or maps is left out with a note.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::{BYTES, ETAG, KNOWN, List, ListedVideo, URI, bytes_text, missing_uri};

/// Reads a list.
pub(super) fn read(path: &str, bytes: Bytes) -> Result<List, String> {
    // Without the writer's embedded Arrow schema, strings are plain, whatever type the writer used.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)
        .map_err(|cause| cause.to_string())?;
    let mut list = List::default();
    let schema = builder.schema().clone();
    if schema.column_with_name(URI).is_none() {
        return Err(missing_uri(schema.fields().iter().map(|field| field.name().as_str())));
    }
    let is_left_out = |name: &str, kind: &DataType| !KNOWN.contains(&name) && !has_text(kind);
    for field in schema.fields() {
        if is_left_out(field.name(), field.data_type()) {
            list.notes.push(format!(
                "{path}: the column `{}` is left out: it holds {}",
                field.name(),
                type_name(field.data_type())
            ));
        }
    }
    for batch in builder.build().map_err(|cause| cause.to_string())? {
        add_rows(path, &batch.map_err(|cause| cause.to_string())?, &mut list.videos)?;
    }
    Ok(list)
}

/// Adds the rows of one batch.
fn add_rows(list: &str, batch: &RecordBatch, rows: &mut Vec<ListedVideo>) -> Result<(), String> {
    let column = |name: &str, expected: &str| {
        let column = batch.column_by_name(name);
        column
            .map(|column| {
                to_text(column).ok_or_else(|| {
                    let found = type_name(column.data_type());
                    format!("column `{name}` holds {found}, expected {expected}")
                })
            })
            .transpose()
    };
    let uris = column(URI, "text")?.ok_or_else(|| missing_uri(std::iter::empty()))?;
    let sizes = column(BYTES, "whole numbers")?;
    let etags = column(ETAG, "text")?;
    let metadata = batch
        .schema_ref()
        .fields()
        .iter()
        .zip(batch.columns())
        .filter(|(field, _)| !KNOWN.contains(&field.name().as_str()));
    let metadata: Vec<(&String, StringArray)> =
        metadata.filter_map(|(field, column)| Some((field.name(), to_text(column)?))).collect();
    for row in 0..batch.num_rows() {
        // Rows are numbered from 1 over all batches: `rows` holds the batches before.
        let position = format!("row {}", rows.len() + 1);
        let text = |column: &Option<StringArray>| {
            column
                .as_ref()
                .filter(|column| column.is_valid(row))
                .map(|column| column.value(row).to_owned())
        };
        let size = text(&sizes).map(|size| parse_bytes(&size).ok_or(size)).transpose();
        let uri = uris.is_valid(row).then(|| uris.value(row).trim()).filter(|uri| !uri.is_empty());
        rows.push(match (uri, size) {
            (None, _) => ListedVideo::bad_row(list, &position, "`uri` is empty"),
            (_, Err(seen)) => ListedVideo::bad_row(
                list,
                &position,
                &format!("`{BYTES}` is `{seen}`, expected a number of bytes"),
            ),
            (Some(uri), Ok(size)) => {
                let present = metadata.iter().filter(|(_, column)| column.is_valid(row));
                let about = present
                    .map(|(name, column)| ((*name).clone(), column.value(row).to_owned()))
                    .collect();
                ListedVideo {
                    known: size.zip(text(&etags)),
                    about,
                    ..ListedVideo::new(uri.to_owned())
                }
            }
        });
    }
    Ok(())
}

/// Parses a number of bytes. Floats are accepted, because many writers store whole numbers with
/// missing values as floats.
fn parse_bytes(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| {
        text.parse::<f64>()
            .ok()
            .filter(|size| *size >= 0.0 && size.fract() == 0.0)
            .map(|size| size as u64)
    })
}

/// Returns whether [`to_text`] supports a type.
fn has_text(kind: &DataType) -> bool {
    kind.is_primitive()
        && (can_cast_types(kind, &DataType::Utf8) || matches!(kind, DataType::Timestamp(..)))
        || matches!(
            kind,
            DataType::Boolean
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
                | DataType::Null
        )
        || matches!(kind, DataType::Dictionary(_, value) if has_text(value))
}

/// Converts a column to text, or returns `None` for an unsupported type.
fn to_text(column: &ArrayRef) -> Option<StringArray> {
    let text = |column: &ArrayRef| {
        cast(column, &DataType::Utf8).ok().map(|text| text.as_string::<i32>().clone())
    };
    match column.data_type() {
        kind if !has_text(kind) => None,
        // The stored number is UTC in every zone: dropping the zone gives the text in UTC.
        DataType::Timestamp(unit, Some(_)) => {
            let number = cast(column, &DataType::Int64).ok()?;
            let times = text(&cast(&number, &DataType::Timestamp(*unit, None)).ok()?)?;
            Some(times.iter().map(|time| time.map(|time| format!("{time}Z"))).collect())
        }
        // Text from writers that mark no column as text, and digests.
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => {
            let wide = cast(column, &DataType::Binary).ok()?;
            Some(wide.as_binary::<i32>().iter().map(|bytes| bytes.map(readable)).collect())
        }
        // A whole float keeps its decimal point here; only `parse_bytes` reads it as a whole
        // number.
        _ => text(column),
    }
}

/// Returns printable bytes as text, and other bytes in hexadecimal.
fn readable(bytes: &[u8]) -> String {
    let is_text = std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control));
    if is_text {
        bytes_text(bytes)
    } else {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Returns the name of a type for messages.
fn type_name(kind: &DataType) -> String {
    match kind {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "lists".into(),
        DataType::Struct(_) => "structs".into(),
        DataType::Map(..) => "maps".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
        ListArray, StructArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Fields};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn parquet_file(columns: Vec<(&str, ArrayRef)>, codec: Compression) -> Bytes {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .unwrap();
        let options = WriterProperties::builder().set_compression(codec).build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(options)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    fn uris() -> ArrayRef {
        Arc::new(StringArray::from(vec!["a.mp4", "b.mp4"]))
    }

    #[test]
    fn lists_of_every_compression_are_read() {
        let codecs = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::BROTLI(BrotliLevel::default()),
            Compression::LZ4_RAW,
            Compression::LZ4,
            Compression::ZSTD(ZstdLevel::default()),
        ];
        for codec in codecs {
            let list = read("l", parquet_file(vec![("uri", uris())], codec)).unwrap();
            assert_eq!(list.videos.len(), 2, "{codec}");
        }
    }

    #[test]
    fn every_type_becomes_text_or_is_left_out_with_a_note() {
        // 2024-01-02, 12:00 UTC, in microseconds.
        let noon = 1_704_196_800_000_000;
        let time = |zone: &str| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(vec![Some(noon), None]).with_timezone(zone))
        };
        let number = Field::new("x", DataType::Int64, true);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let cases: Vec<(ArrayRef, Option<&str>)> = vec![
            (time("UTC"), Some("2024-01-02T12:00:00Z")),
            (time("+00:00"), Some("2024-01-02T12:00:00Z")),
            (time("Europe/Berlin"), Some("2024-01-02T12:00:00Z")),
            (Arc::new(TimestampMicrosecondArray::from(vec![noon; 2])), Some("2024-01-02T12:00:00")),
            (Arc::new(Date32Array::from(vec![19_724; 2])), Some("2024-01-02")),
            (Arc::new(BooleanArray::from(vec![true; 2])), Some("true")),
            (Arc::new(Float64Array::from(vec![0.5; 2])), Some("0.5")),
            (
                Arc::new(
                    Decimal128Array::from(vec![150; 2]).with_precision_and_scale(5, 2).unwrap(),
                ),
                Some("1.50"),
            ),
            (Arc::new(BinaryArray::from(vec![b"cc-by".as_slice(); 2])), Some("cc-by")),
            (Arc::new(BinaryArray::from(vec![b"\x00\xff".as_slice(); 2])), Some("00ff")),
            (
                Arc::new(StructArray::new(
                    Fields::from(vec![number.clone()]),
                    vec![numbers.clone()],
                    None,
                )),
                None,
            ),
            (
                Arc::new(ListArray::new(
                    Arc::new(number),
                    arrow::buffer::OffsetBuffer::from_lengths([1, 1]),
                    numbers,
                    None,
                )),
                None,
            ),
        ];
        for (column, text) in cases {
            let kind = column.data_type().clone();
            let columns = vec![("uri", uris()), ("it", column)];
            let list = read("l", parquet_file(columns, Compression::SNAPPY)).unwrap();
            assert_eq!((list.videos.len(), list.videos[0].about.get("it")), (2, text), "{kind}");
            assert_eq!(list.notes.len(), usize::from(text.is_none()), "{kind}");
        }
    }

    #[test]
    fn sizes_may_be_floats_and_an_invalid_row_does_not_affect_the_others() {
        let sizes: ArrayRef =
            Arc::new(Float64Array::from(vec![Some(7.0), None, Some(-1.0), Some(8.0)]));
        let etags: ArrayRef = Arc::new(StringArray::from(vec!["e"; 4]));
        let uris: ArrayRef =
            Arc::new(StringArray::from(vec![Some("a.mp4"), Some("b.mp4"), Some("c.mp4"), None]));
        let columns = vec![("uri", uris), ("bytes", sizes), ("etag", etags)];
        let list = read("l", parquet_file(columns, Compression::SNAPPY)).unwrap();
        let read: Vec<(&str, Option<u64>, bool)> = list
            .videos
            .iter()
            .map(|video| {
                (
                    video.uri.as_str(),
                    video.known.as_ref().map(|(bytes, _)| *bytes),
                    video.unread.is_some(),
                )
            })
            .collect();
        assert_eq!(
            read,
            [
                ("a.mp4", Some(7), false),
                ("b.mp4", None, false),
                ("l, row 3", None, true),
                ("l, row 4", None, true)
            ]
        );
        let numbers: ArrayRef =
            Arc::new(ListArray::new_null(Arc::new(Field::new("x", DataType::Int64, true)), 1));
        // A list without usable addresses is an error of the whole list.
        assert!(
            read_fault(vec![("uri", numbers)]).contains("column `uri` holds lists, expected text")
        );
        assert!(
            read_fault(vec![("URI", Arc::new(Int64Array::from(vec![1])))])
                .contains("its columns: URI")
        );
    }

    fn read_fault(columns: Vec<(&str, ArrayRef)>) -> String {
        read("l", parquet_file(columns, Compression::SNAPPY)).unwrap_err()
    }
}
