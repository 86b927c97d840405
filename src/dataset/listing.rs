//! Reads users' lists of videos: text, CSV or Parquet. Start at [`read_list`].
//!
//! A list's sizes and etags are trusted, so that a list of a million known videos needs no request
//! to the store. Other columns (licence, split, channel) stay with the video as metadata, and the
//! SQL table `videos` shows them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::access::{Access, address};
use super::entry_faults::{EntryClass, EntryFault};
use super::error::{Error, Result};
use super::lerobot::EpisodeVideo;
use super::path_text::{bytes_text, local_path};
use super::remote_file::RemoteFile;

mod parquet;

/// The column of paths or addresses.
const URI: &str = "uri";
/// The column of sizes in bytes.
const BYTES: &str = "bytes";
/// The column of etags.
const ETAG: &str = "etag";
/// The columns that decide where a video is and whether it changed. All others are metadata.
const KNOWN: [&str; 3] = [URI, BYTES, ETAG];

/// An entry of a list, a folder or a bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListedVideo {
    /// The path or address of the video.
    pub uri: String,
    /// The video's size in bytes and etag, if the list has both.
    pub known: Option<(u64, String)>,
    /// The list's other columns.
    pub about: ListMetadata,
    /// Where its frames are, if it is the video of an episode of a LeRobot dataset.
    pub episode: Option<Box<EpisodeVideo>>,
    /// Why the video cannot be read, if the listing has found a reason.
    pub unread: Option<EntryError>,
}

/// Why an entry cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// A lasting fault: the entry can never be read as it is.
    Refused(EntryFault),
    /// A passing fault. Earlier results of this entry, and of entries below it, are kept.
    Passing(String),
}

/// The content of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    /// One entry per row, invalid rows included.
    pub videos: Vec<ListedVideo>,
    /// Notes for the user on columns that are left out.
    pub notes: Vec<String>,
}

impl ListedVideo {
    /// Creates an entry without metadata.
    #[must_use]
    pub fn new(uri: String) -> Self {
        ListedVideo { uri, ..ListedVideo::default() }
    }

    /// Creates the entry of an invalid row. Its name is the row's position in the list.
    fn bad_row(list: &str, position: &str, seen: &str) -> Self {
        let refused = EntryFault::new(EntryClass::BadRow, format!("{position}: {seen}"));
        ListedVideo {
            unread: Some(EntryError::Refused(refused)),
            ..ListedVideo::new(format!("{list}, {position}"))
        }
    }

    /// Adds the metadata of another entry for the same video; on conflict, this entry's values
    /// stay. Always returns true, for use with `dedup_by`.
    pub fn join(&mut self, other: &mut ListedVideo) -> bool {
        self.known = self.known.take().or(other.known.take());
        let theirs = std::mem::take(&mut other.about);
        let ours = std::mem::take(&mut self.about);
        // Of two values for a column, the later one stays.
        self.about = theirs.columns().chain(ours.columns()).collect();
        true
    }
}

/// A list's metadata on one video: values by column, without empty ones.
///
/// Most of a million videos have no metadata. The box keeps an empty value at eight bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[expect(clippy::box_collection, reason = "an empty value should be small")]
pub struct ListMetadata(Option<Box<BTreeMap<String, String>>>);

impl ListMetadata {
    /// Returns whether there is no metadata.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns a column's value.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0.as_ref()?.get(column).map(String::as_str)
    }

    /// Returns the columns' names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.iter().flat_map(|columns| columns.keys())
    }

    fn columns(self) -> impl Iterator<Item = (String, String)> {
        self.0.into_iter().flat_map(|columns| *columns)
    }
}

impl FromIterator<(String, String)> for ListMetadata {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(columns: T) -> Self {
        let columns: BTreeMap<_, _> = columns.into_iter().collect();
        ListMetadata((!columns.is_empty()).then(|| Box::new(columns)))
    }
}

/// Reads a list of videos.
///
/// `.csv` and `.parquet` files have a column `uri`, optionally `bytes` and `etag`, and any metadata
/// columns of numbers, dates and text. Any other file is text with one path or address per line. An
/// invalid row becomes an entry with its fault.
///
/// # Errors
/// Fails if the whole list is unusable: it cannot be read, or the column `uri` is missing.
pub fn read_list(path: &str, access: &Access) -> Result<List> {
    let list_error = |reason: String| Error::List { path: path.to_owned(), reason };
    let bytes = read(path, access).map_err(|cause| list_error(cause.to_string()))?;
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    let list = match extension.to_ascii_lowercase().as_str() {
        "csv" => parse_csv(path, &to_utf8(bytes)).map(List::from),
        "parquet" => parquet::read(path, bytes.into()),
        _ => parse_text(&to_utf8(bytes)).map(List::from),
    };
    list.map_err(list_error)
}

impl From<Vec<ListedVideo>> for List {
    fn from(videos: Vec<ListedVideo>) -> Self {
        List { videos, notes: Vec::new() }
    }
}

fn read(path: &str, access: &Access) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match address(path) {
        Some(_) => RemoteFile::open(path, access)?.read_to_end(&mut bytes)?,
        None => File::open(local_path(path))?.read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

/// Drops a byte order mark and converts UTF-16 to UTF-8: programs on Windows write both.
fn to_utf8(bytes: Vec<u8>) -> Vec<u8> {
    let from_utf16 = |unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> =
            bytes[2..].chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16(&units).map(String::into_bytes)
    };
    match &bytes[..] {
        [0xef, 0xbb, 0xbf, text @ ..] => text.to_vec(),
        [0xff, 0xfe, ..] => from_utf16(u16::from_le_bytes).unwrap_or(bytes),
        [0xfe, 0xff, ..] => from_utf16(u16::from_be_bytes).unwrap_or(bytes),
        _ => bytes,
    }
}

/// Parses one path or address per line. A line holds the bytes of a path, as `ls` writes them, and
/// need not be UTF-8.
fn parse_text(bytes: &[u8]) -> Result<Vec<ListedVideo>, String> {
    // No path has a NUL byte, so this is a binary file.
    if bytes.contains(&0) {
        return Err(
            "it is not text: expected one address per line, or a file named .csv or .parquet"
                .into(),
        );
    }
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    Ok(lines.map(|line| ListedVideo::new(bytes_text(line))).collect())
}

/// Parses a CSV file with a header.
fn parse_csv(list: &str, bytes: &[u8]) -> Result<Vec<ListedVideo>, String> {
    // `flexible`: a row with too few fields becomes one bad row and does not end the reading.
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(bytes);
    let header: Vec<String> =
        reader.byte_headers().map_err(|cause| cause.to_string())?.iter().map(bytes_text).collect();
    let index_of = |name: &str| header.iter().position(|column| column == name);
    let uri = index_of(URI).ok_or_else(|| missing_uri(header.iter().map(String::as_str)))?;
    let size = index_of(BYTES);
    let etag = index_of(ETAG);
    let mut rows = Vec::new();
    for record in reader.byte_records() {
        let record = record.map_err(|cause| cause.to_string())?;
        // A quoted field may hold line breaks, so the reader counts the lines.
        let line = format!("line {}", record.position().map_or(0, csv::Position::line));
        let bad = |seen: &str| ListedVideo::bad_row(list, &line, seen);
        if record.len() != header.len() {
            let seen = format!("it has {} fields, the header has {}", record.len(), header.len());
            rows.push(bad(&seen));
            continue;
        }
        let fields: Vec<String> = record.iter().map(bytes_text).collect();
        let text = |column: Option<usize>| {
            column.map(|column| fields[column].as_str()).filter(|text| !text.is_empty())
        };
        let bytes = text(size).map(|text| text.parse::<u64>().map_err(|_| text)).transpose();
        rows.push(match (text(Some(uri)), bytes) {
            (None, _) => bad("`uri` is empty"),
            (_, Err(seen)) => bad(&format!("`{BYTES}` is `{seen}`, expected a number of bytes")),
            (Some(uri), Ok(bytes)) => {
                let metadata = header
                    .iter()
                    .zip(&fields)
                    .filter(|(name, text)| !KNOWN.contains(&name.as_str()) && !text.is_empty());
                let about = metadata.map(|(name, text)| (name.clone(), text.clone())).collect();
                // Only both together identify an unchanged video.
                let known = bytes.zip(text(etag).map(str::to_owned));
                ListedVideo { known, about, ..ListedVideo::new(uri.to_owned()) }
            }
        });
    }
    Ok(rows)
}

/// Returns the message for a list without the column `uri`, with the columns it has.
fn missing_uri<'a>(columns: impl Iterator<Item = &'a str>) -> String {
    let columns: Vec<&str> = columns.take(8).collect();
    format!("it has no column `{URI}`; its columns: {}", columns.join(", "))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::{Column, Store, write_table};
    use super::*;

    fn row(uri: &str, known: Option<(u64, &str)>) -> ListedVideo {
        ListedVideo {
            known: known.map(|(bytes, etag)| (bytes, etag.to_owned())),
            ..ListedVideo::new(uri.into())
        }
    }

    #[test]
    fn text_csv_and_parquet_give_the_same_entries() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| {
            read_list(folder.path().join(name).to_str().unwrap(), &Access::default())
                .map(|list| list.videos)
        };
        std::fs::write(folder.path().join("a.txt"), "# clips\ns3://b/one.mp4\n\n  two.mp4\r\n")
            .unwrap();
        assert_eq!(read("a.txt").unwrap(), [row("s3://b/one.mp4", None), row("two.mp4", None)]);
        let about = |row: ListedVideo, about: &[(&str, &str)]| {
            let about = about
                .iter()
                .map(|(column, text)| ((*column).to_owned(), (*text).to_owned()))
                .collect();
            ListedVideo { about, ..row }
        };
        std::fs::write(
            folder.path().join("a.csv"),
            "split,uri,bytes,etag,year\nx,s3://b/one.mp4,7,e1,1999\ny,two.mp4,8,,\n",
        )
        .unwrap();
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
        let dated = [
            about(row("s3://b/one.mp4", Some((7, "e1"))), &[("year", "1999.0")]),
            row("two.mp4", Some((8, "e2"))),
        ];
        assert_eq!(read("a.parquet").unwrap(), dated);
    }

    /// Reads a list with these bytes. Returns its addresses, `!` and the reason for an invalid row,
    /// or the error.
    fn rows(name: &str, bytes: &[u8]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        match read_list(path.to_str().unwrap(), &Access::default()) {
            Err(error) => vec![format!("error: {error}")],
            Ok(list) => list
                .videos
                .into_iter()
                .map(|video| address_or_reason(video, &format!("{}, ", path.display())))
                .collect(),
        }
    }

    fn address_or_reason(video: ListedVideo, list: &str) -> String {
        match video.unread {
            Some(EntryError::Refused(refused)) => {
                format!("!{} {}", video.uri.replace(list, ""), refused.reason)
            }
            _ => video.uri,
        }
    }

    #[test]
    fn an_invalid_row_does_not_affect_the_other_rows() {
        let utf16 = |text: &str, bytes_of: fn(u16) -> [u8; 2]| {
            let units = "\u{feff}".encode_utf16().chain(text.encode_utf16());
            units.flat_map(bytes_of).collect::<Vec<u8>>()
        };
        // Name, content, and the beginning of each entry.
        let cases: [(&str, &[u8], &[&str]); 16] = [
            ("a.txt", b"\xef\xbb\xbfone.mp4\ntwo.mp4", &["one.mp4", "two.mp4"]),
            ("b.txt", &utf16("one.mp4\r\ntwo.mp4\r\n", u16::to_le_bytes), &["one.mp4", "two.mp4"]),
            ("c.txt", &utf16("one.mp4\r\n", u16::to_be_bytes), &["one.mp4"]),
            ("d.txt", b"caf\xe9.mp4\n\n  # no\n", &["caf\\xE9.mp4"]),
            ("e.txt", &[0xff, 0xfe, 0, 0xd8], &["error"]),
            ("f.txt", b"", &[]),
            ("a.csv", b"\xef\xbb\xbfuri\nx.mp4\n", &["x.mp4"]),
            (
                "b.csv",
                b"uri,bytes\nx.mp4,7\ny.mp4,many\nz.mp4,\n",
                &["x.mp4", "!line 3 line 3: `bytes` is `many`", "z.mp4"],
            ),
            (
                "c.csv",
                b"uri,bytes\n,7\ny.mp4,-1\nz.mp4,8\n",
                &["!line 2 line 2: `uri` is empty", "!line 3", "z.mp4"],
            ),
            (
                "d.csv",
                b"uri,a\nx.mp4\ny.mp4,1\nz.mp4,1,2\n",
                &["!line 2 line 2: it has 1 fields, the header has 2", "y.mp4", "!line 4"],
            ),
            ("e.csv", b"uri;bytes\nx.mp4;7\n", &["error"]),
            ("f.csv", b"URI\nx.mp4\n", &["error"]),
            ("g.csv", b"uri\ncaf\xe9.mp4\n", &["caf\\xE9.mp4"]),
            (
                "h.csv",
                b"uri,note\n\"a, b.mp4\",\"line\nbreak\"\n\"say \"\"hi\"\".mp4\",x\n",
                &["a, b.mp4", "say \"hi\".mp4"],
            ),
            ("i.csv", &utf16("uri\r\nx.mp4\r\n", u16::to_le_bytes), &["x.mp4"]),
            ("e.parquet", b"PAR0", &["error"]),
        ];
        for (name, bytes, expected) in cases {
            let found = rows(name, bytes);
            let is_alike = found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
            assert!(is_alike, "{name}: {found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn an_unusable_list_is_an_error_with_the_reason() {
        let fault = |name: &str, bytes: &[u8]| rows(name, bytes).remove(0);
        assert!(
            fault("a.csv", b"video;x\nx.mp4;1\n")
                .contains("it has no column `uri`; its columns: video;x")
        );
        assert!(fault("d.txt", &[1, 0, 0]).contains("it is not text"));
        assert!(fault("e.parquet", b"PAR0").contains("e.parquet"));
        assert!(
            read_list("nowhere.txt", &Access::default())
                .unwrap_err()
                .to_string()
                .contains("nowhere.txt")
        );
    }
}
