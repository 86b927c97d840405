//! Lists of videos that people keep: text, CSV or Parquet. In: a path or an address; out: an address a row, and what the list says of it.
//!
//! Start at [`read_list`]. Size and etag are believed, so that nothing is asked of a store for videos that are known: a list of a million
//! needs no request. What else a list says (licence, split, channel) stays with the video: SQL's table `videos` has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::access::{Access, address};
use super::error::{Error, Result};
use super::local_name::{bytes_text, local_path};
use super::refused::{EntryClass, Refused};
use super::remote_file::RemoteFile;

mod parquet;

/// The column of addresses.
const URI: &str = "uri";
/// The column of sizes in bytes.
const BYTES: &str = "bytes";
/// The column of etags.
const ETAG: &str = "etag";
/// What decides where a video is and whether it changed; the rest is about it.
const KNOWN: [&str; 3] = [URI, BYTES, ETAG];

/// An entry of a list, a folder or a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedVideo {
    /// Where the video is.
    pub uri: String,
    /// Its size and etag, where the list says both.
    pub known: Option<(u64, String)>,
    /// What else the list says of it, by column.
    pub about: About,
    /// Why it cannot be read, where that is known already.
    pub unread: Option<Unread>,
}

/// Why an entry cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// As it is, it never can be.
    Refused(Refused),
    /// Reading it failed in passing: what was read of it, or of what is below it, stays.
    Passing(String),
}

/// What a list holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Its rows, those that make no sense among them.
    pub videos: Vec<ListedVideo>,
    /// What of it is left out, for people.
    pub notes: Vec<String>,
}

impl ListedVideo {
    /// Returns an entry of which nothing but its place is known.
    #[must_use]
    pub fn new(uri: String) -> Self {
        ListedVideo { uri, ..ListedVideo::default() }
    }

    /// Returns a row that makes no sense, under the name of its place in the list.
    fn bad_row(list: &str, place: &str, seen: &str) -> Self {
        let refused = Refused::new(EntryClass::BadRow, format!("{place}: {seen}"));
        ListedVideo {
            unread: Some(Unread::Refused(refused)),
            ..ListedVideo::new(format!("{list}, {place}"))
        }
    }

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
/// they have of numbers, dates and text; anything else is text, an address a line. A row that makes no sense is one of the rows.
///
/// # Errors
/// Names the list and what is wrong with all of it: it cannot be read, or the column of addresses is missing.
pub fn read_list(path: &str, access: &Access) -> Result<List> {
    let wrong = |reason: String| Error::List { path: path.to_owned(), reason };
    let bytes = read(path, access).map_err(|cause| wrong(cause.to_string()))?;
    let kind = path.rsplit_once('.').map_or("", |(_, kind)| kind).to_ascii_lowercase();
    let list = match kind.as_str() {
        "csv" => of_csv(path, &plain(bytes)).map(List::from),
        "parquet" => parquet::read(path, bytes.into()),
        _ => of_text(&plain(bytes)).map(List::from),
    };
    list.map_err(wrong)
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

/// Returns text without its byte order mark, and UTF-16 as UTF-8: what Windows' programs write.
fn plain(bytes: Vec<u8>) -> Vec<u8> {
    let wide = |of: fn([u8; 2]) -> u16| {
        let units: Vec<u16> =
            bytes[2..].chunks_exact(2).map(|pair| of([pair[0], pair[1]])).collect();
        String::from_utf16(&units).map(String::into_bytes)
    };
    match &bytes[..] {
        [0xef, 0xbb, 0xbf, text @ ..] => text.to_vec(),
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes).unwrap_or(bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes).unwrap_or(bytes),
        _ => bytes,
    }
}

/// A line is the bytes of a path, as `ls` writes them: they need not be UTF-8.
fn of_text(bytes: &[u8]) -> Result<Vec<ListedVideo>, String> {
    if bytes.contains(&0) {
        return Err(
            "it is not text; expected an address a line, or a file named .csv or .parquet".into()
        );
    }
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    Ok(lines.map(|line| ListedVideo::new(bytes_text(line))).collect())
}

fn of_csv(list: &str, bytes: &[u8]) -> Result<Vec<ListedVideo>, String> {
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(bytes);
    let head: Vec<String> =
        reader.byte_headers().map_err(|cause| cause.to_string())?.iter().map(bytes_text).collect();
    let place = |name: &str| head.iter().position(|column| column == name);
    let uri = place(URI).ok_or_else(|| no_uri(head.iter().map(String::as_str)))?;
    let (size, etag) = (place(BYTES), place(ETAG));
    let mut rows = Vec::new();
    for record in reader.byte_records() {
        let record = record.map_err(|cause| cause.to_string())?;
        let line = format!("line {}", record.position().map_or(0, csv::Position::line));
        let bad = |seen: &str| ListedVideo::bad_row(list, &line, seen);
        if record.len() != head.len() {
            rows.push(bad(&format!("it has {} fields, the head has {}", record.len(), head.len())));
            continue;
        }
        let fields: Vec<String> = record.iter().map(bytes_text).collect();
        let text =
            |at: Option<usize>| at.map(|at| fields[at].as_str()).filter(|text| !text.is_empty());
        let bytes = text(size).map(|text| text.parse::<u64>().map_err(|_| text)).transpose();
        rows.push(match (text(Some(uri)), bytes) {
            (None, _) => bad("`uri` is empty"),
            (_, Err(seen)) => bad(&format!("`{BYTES}` is `{seen}`, expected a number of bytes")),
            (Some(uri), Ok(bytes)) => {
                let others = head
                    .iter()
                    .zip(&fields)
                    .filter(|(name, text)| !KNOWN.contains(&name.as_str()) && !text.is_empty());
                let about = others.map(|(name, text)| (name.clone(), text.clone())).collect();
                let known = bytes.zip(text(etag).map(str::to_owned));
                ListedVideo { known, about, ..ListedVideo::new(uri.to_owned()) }
            }
        });
    }
    Ok(rows)
}

/// Says that the column of addresses is missing, and which columns there are.
fn no_uri<'a>(columns: impl Iterator<Item = &'a str>) -> String {
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
    fn text_csv_and_parquet_say_the_same() {
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

    /// Reads a list of these bytes: what it names, `!` and the reason for each row that makes no sense, or the error.
    fn rows(name: &str, bytes: &[u8]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        match read_list(path.to_str().unwrap(), &Access::default()) {
            Err(error) => vec![format!("error: {error}")],
            Ok(list) => list
                .videos
                .into_iter()
                .map(|video| said(video, &format!("{}, ", path.display())))
                .collect(),
        }
    }

    fn said(video: ListedVideo, list: &str) -> String {
        match video.unread {
            Some(Unread::Refused(refused)) => {
                format!("!{} {}", video.uri.replace(list, ""), refused.reason)
            }
            _ => video.uri,
        }
    }

    #[test]
    fn a_row_that_makes_no_sense_costs_itself() {
        let utf16 = |text: &str, of: fn(u16) -> [u8; 2]| {
            "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(of).collect::<Vec<u8>>()
        };
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
                &["!line 2 line 2: it has 1 fields, the head has 2", "y.mp4", "!line 4"],
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
            let alike = found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
            assert!(alike, "{name}: {found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_all_of_a_list_is_said() {
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
