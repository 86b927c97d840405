//! Lists of videos that people keep: text, CSV or Parquet. In: a path or an address; out: an address a row, and what the list says of it.
//!
//! Start at [`read_list`]. Size and etag are believed, so that nothing is asked of a store for videos that are known: a list of a million
//! needs no request. What else a list says (licence, split, channel) stays with the video: SQL's table `videos` has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde::{Deserialize, Serialize};

use super::access::{Access, address};
use super::error::{Error, Result};
use super::remote_file::RemoteFile;

/// The column of addresses.
const URI: &str = "uri";
/// The column of sizes in bytes.
const BYTES: &str = "bytes";
/// The column of etags.
const ETAG: &str = "etag";
/// What decides where a video is and whether it changed; the rest is about it.
const KNOWN: [&str; 3] = [URI, BYTES, ETAG];

/// A row of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVideo {
    /// Where the video is.
    pub uri: String,
    /// Its size and etag, where the list says both.
    pub known: Option<(u64, String)>,
    /// What else the list says of it, by column.
    pub about: About,
}

impl ListedVideo {
    /// Takes over what another list knows of the same video and this one does not; true, for there is one less.
    pub fn join(&mut self, other: &mut ListedVideo) -> bool {
        self.known = self.known.take().or(other.known.take());
        let (theirs, ours) = (std::mem::take(&mut other.about), std::mem::take(&mut self.about));
        self.about = theirs.columns().chain(ours.columns()).collect();
        true
    }
}

/// What a list says of a video, by column; a column that is empty there is not in it. Of a million videos most lists say nothing, which is
/// eight bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[expect(clippy::box_collection, reason = "what says nothing should be small")]
pub struct About(Option<Box<BTreeMap<String, String>>>);

impl About {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What a column says.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0.as_ref()?.get(column).map(String::as_str)
    }

    /// The columns' names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.iter().flat_map(|columns| columns.keys())
    }

    fn columns(self) -> impl Iterator<Item = (String, String)> {
        self.0.into_iter().flat_map(|columns| *columns)
    }
}

impl FromIterator<(String, String)> for About {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(columns: T) -> Self {
        let columns: BTreeMap<_, _> = columns.into_iter().collect();
        About((!columns.is_empty()).then(|| Box::new(columns)))
    }
}

/// Reads a list: `.csv` and `.parquet` by their column `uri`, with `bytes` and `etag` where they know them, and whatever else
/// they have of numbers, dates and text; anything else is text, an address a line.
///
/// # Errors
/// Names the list and what is wrong with it: it cannot be read, a column is missing, a row has no address or a size that is none.
pub fn read_list(path: &str, access: &Access) -> Result<Vec<ListedVideo>> {
    let wrong = |reason: String| Error::List { path: path.to_owned(), reason };
    let bytes = read(path, access).map_err(|cause| wrong(cause.to_string()))?;
    let kind = path.rsplit_once('.').map_or("", |(_, kind)| kind).to_ascii_lowercase();
    let rows = match kind.as_str() {
        "csv" => of_csv(&bytes),
        "parquet" => of_parquet(bytes.into()),
        _ => of_text(&bytes),
    };
    rows.map_err(wrong)
}

fn read(path: &str, access: &Access) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match address(path) {
        Some(_) => RemoteFile::open(path, access)?.read_to_end(&mut bytes)?,
        None => File::open(path)?.read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

fn of_text(bytes: &[u8]) -> Result<Vec<ListedVideo>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text; expected an address a line, or a file named .csv or .parquet")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(|line| ListedVideo { uri: line.to_owned(), known: None, about: About::default() }).collect())
}

fn of_csv(bytes: &[u8]) -> Result<Vec<ListedVideo>, String> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let head = reader.headers().map_err(|cause| cause.to_string())?.clone();
    let place = |name: &str| head.iter().position(|column| column == name);
    let uri = place(URI).ok_or_else(|| format!("it has no column `{URI}`"))?;
    let (size, etag) = (place(BYTES), place(ETAG));
    let mut rows = Vec::new();
    for (row, record) in reader.records().enumerate() {
        let (record, line) = (record.map_err(|cause| cause.to_string())?, row + 2);
        let text = |at: Option<usize>| at.map(|at| &record[at]).filter(|text| !text.is_empty());
        let bad = |name: &str, seen: &str| format!("line {line}: `{name}` is `{seen}`");
        let uri = text(Some(uri)).ok_or_else(|| bad(URI, ""))?.to_owned();
        let size = text(size).map(|text| text.parse::<u64>().map_err(|_| bad(BYTES, text))).transpose()?;
        let others = head.iter().zip(&record).filter(|(name, text)| !KNOWN.contains(name) && !text.is_empty());
        let about = others.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        rows.push(ListedVideo { uri, known: size.zip(text(etag).map(str::to_owned)), about });
    }
    Ok(rows)
}

fn of_parquet(bytes: Bytes) -> Result<Vec<ListedVideo>, String> {
    // Without the writer's own schema strings are plain strings, however the writer held them.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).map_err(|cause| cause.to_string())?;
    let mut rows = Vec::new();
    for batch in builder.build().map_err(|cause| cause.to_string())? {
        of_batch(&batch.map_err(|cause| cause.to_string())?, &mut rows)?;
    }
    Ok(rows)
}

fn of_batch(batch: &RecordBatch, rows: &mut Vec<ListedVideo>) -> Result<(), String> {
    let column = |name: &str, kind: DataType, are: &str| {
        let column = batch.column_by_name(name);
        column.map(|column| cast(column, &kind).map_err(|_| format!("column `{name}` does not hold {are}"))).transpose()
    };
    let uris = column(URI, DataType::Utf8, "text")?.ok_or_else(|| format!("it has no column `{URI}`"))?;
    let (sizes, etags) = (column(BYTES, DataType::Int64, "whole numbers")?, column(ETAG, DataType::Utf8, "text")?);
    let names = batch.schema_ref().fields().iter().map(|field| field.name()).filter(|name| !KNOWN.contains(&name.as_str()));
    let others = names.map(|name| {
        let column = column(name, DataType::Utf8, "what can be told as text")?;
        Ok((name.clone(), column.ok_or_else(|| format!("it has no column `{name}`"))?))
    });
    let others = others.collect::<Result<Vec<(String, ArrayRef)>, String>>()?;
    for row in 0..batch.num_rows() {
        let there = |column: &&ArrayRef| column.is_valid(row);
        let size = sizes.as_ref().filter(there).map(|sizes| sizes.as_primitive::<Int64Type>().value(row));
        let size = size.map(|size| u64::try_from(size).map_err(|_| format!("row {row}: `{BYTES}` is {size}"))).transpose()?;
        let etag = etags.as_ref().filter(there).map(|etags| etags.as_string::<i32>().value(row).to_owned());
        let uri = Some(&uris).filter(there).map(|uris| uris.as_string::<i32>().value(row)).filter(|uri| !uri.is_empty());
        let uri = uri.ok_or_else(|| format!("row {row}: `{URI}` is empty"))?.to_owned();
        let told = others.iter().filter(|(_, column)| column.is_valid(row));
        let about = told.map(|(name, column)| (name.clone(), column.as_string::<i32>().value(row).to_owned())).collect();
        rows.push(ListedVideo { uri, known: size.zip(etag), about });
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::{Column, Store, write_table};
    use super::*;

    fn row(uri: &str, known: Option<(u64, &str)>) -> ListedVideo {
        ListedVideo { uri: uri.into(), known: known.map(|(bytes, etag)| (bytes, etag.to_owned())), about: About::default() }
    }

    #[test]
    fn text_csv_and_parquet_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| read_list(folder.path().join(name).to_str().unwrap(), &Access::default());
        std::fs::write(folder.path().join("a.txt"), "# clips\ns3://b/one.mp4\n\n  two.mp4\r\n").unwrap();
        assert_eq!(read("a.txt").unwrap(), [row("s3://b/one.mp4", None), row("two.mp4", None)]);
        let about = |row: ListedVideo, about: &[(&str, &str)]| {
            let about = about.iter().map(|(column, text)| ((*column).to_owned(), (*text).to_owned())).collect();
            ListedVideo { about, ..row }
        };
        std::fs::write(folder.path().join("a.csv"), "split,uri,bytes,etag,year\nx,s3://b/one.mp4,7,e1,1999\ny,two.mp4,8,,\n").unwrap();
        let split = [
            about(row("s3://b/one.mp4", Some((7, "e1"))), &[("split", "x"), ("year", "1999")]),
            about(row("two.mp4", None), &[("split", "y")]),
        ];
        assert_eq!(read("a.csv").unwrap(), split);
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let columns = [
            ("uri", Column::Text(vec!["s3://b/one.mp4".into(), "two.mp4".into()])),
            ("bytes", Column::U32(vec![7, 8])),
            ("etag", Column::Text(vec!["e1".into(), "e2".into()])),
            ("year", Column::F64(vec![Some(1999.0), None])),
        ];
        write_table(&store, "a.parquet", &columns).unwrap();
        let dated = [about(row("s3://b/one.mp4", Some((7, "e1"))), &[("year", "1999.0")]), row("two.mp4", Some((8, "e2")))];
        assert_eq!(read("a.parquet").unwrap(), dated);
    }

    #[test]
    fn what_is_wrong_with_a_list_is_said_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let fault = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            read_list(path.to_str().unwrap(), &Access::default()).unwrap_err().to_string()
        };
        assert!(fault("a.csv", b"video\nx.mp4\n").contains("it has no column `uri`"));
        assert!(fault("b.csv", b"uri,bytes\nx.mp4,7\ny.mp4,many\n").contains("line 3: `bytes` is `many`"));
        assert!(fault("c.csv", b"uri,bytes\n,7\n").contains("line 2: `uri` is ``"));
        assert!(fault("d.txt", &[0xff, 0xfe, 0]).contains("it is not text"));
        assert!(fault("e.parquet", b"PAR0").contains("e.parquet"));
        assert!(read_list("nowhere.txt", &Access::default()).unwrap_err().to_string().contains("nowhere.txt"));
    }
}
