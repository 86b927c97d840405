//! The members of a tar archive: which are videos, and why the others are not read.
//!
//! In: an archive. Out: a [`Member`] for every video in it, and for everything else that is not read. Start at [`list`].
//!
//! Members count as files do in a folder, whatever their endings: the decoder says what is no video. Links stand for the member that they lead to.
//! Not told are folders, and what only goes with a video: WebDataset's sidecars, which have its name but for the ending (`0001.json`
//! beside `0001.mp4`), and macOS' (`._0001.mp4`). Of a name that occurs twice the last member counts, as for `tar -x`.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use tar::{Entry, EntryType};

use super::Member;
use crate::dataset::local_name::bytes_text;
use crate::dataset::refused::{EntryClass, Refused};

/// What names of videos end in. It decides nothing but what is a sidecar.
const VIDEOS: [&str; 28] = [
    "3g2", "3gp", "asf", "avi", "avif", "dv", "f4v", "flv", "gif", "h264", "ivf", "m2ts", "m4v",
    "mkv", "mov", "mp4", "mpeg", "mpeg4", "mpg", "mts", "mxf", "nut", "ogv", "qt", "ts", "vob",
    "webm", "wmv",
];
/// Links from link to link, at most.
const LINKS: usize = 32;
/// Beginnings of compressed files and of other archives.
const MAGIC: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"PK\x03\x04", "ZIP"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!", "RAR"),
];

/// A member as the archive has it.
struct Found {
    member: Member,
    /// Its path without `.` and empty parts.
    path: String,
    /// Where it leads to, if it is a link.
    link: Option<String>,
}

/// Lists an archive.
///
/// # Errors
/// Where it cannot be read. An archive that is broken or empty is a member without a name, which says so.
pub(super) fn list(mut archive: impl Read + Seek) -> io::Result<Vec<Member>> {
    let bytes = archive.seek(SeekFrom::End(0))?;
    archive.rewind()?;
    if let Some(refused) = no_archive(&mut archive, bytes)? {
        return Ok(vec![Member::refused(String::new(), refused)]);
    }
    archive.rewind()?;
    let (found, broken) = scan(archive, bytes)?;
    let mut members = taken(found);
    members.extend(broken.map(|refused| Member::refused(String::new(), refused)));
    if members.is_empty() {
        members.push(Member::refused(
            String::new(),
            Refused::new(EntryClass::EmptyArchive, "the archive holds no file"),
        ));
    }
    Ok(members)
}

/// Returns why a file is no tar archive, where its first bytes say so.
fn no_archive(archive: &mut impl Read, bytes: u64) -> io::Result<Option<Refused>> {
    if bytes == 0 {
        return Ok(Some(Refused::new(EntryClass::EmptyFile, "it has 0 bytes")));
    }
    let mut first = Vec::new();
    archive.take(8).read_to_end(&mut first)?;
    let kind = MAGIC.iter().find(|(magic, _)| first.starts_with(magic));
    Ok(kind.map(|(_, kind)| {
        Refused::new(
            EntryClass::CompressedArchive,
            format!("it is a {kind} file, no plain tar archive"),
        )
    }))
}

/// Returns the entries that are files or links, in order, and what is wrong where the archive breaks off.
fn scan(archive: impl Read + Seek, bytes: u64) -> io::Result<(Vec<Found>, Option<Refused>)> {
    let mut found: Vec<Found> = Vec::new();
    for entry in tar::Archive::new(archive).entries_with_seek()? {
        match entry.and_then(|mut entry| look(&mut entry, bytes)) {
            Ok(one) => found.extend(one),
            Err(cause)
                if cause.kind() == ErrorKind::Other || cause.kind() == ErrorKind::UnexpectedEof =>
            {
                let before = found.last().map_or("at its beginning".to_owned(), |last| {
                    format!("behind `{}`", last.member.name)
                });
                return Ok((
                    found,
                    Some(Refused::new(
                        EntryClass::BrokenArchive,
                        format!("the archive is broken {before}: {cause}"),
                    )),
                ));
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok((found, None))
}

/// Looks at one entry; folders and what describes the archive are none.
fn look<R: Read>(entry: &mut Entry<'_, R>, archive_bytes: u64) -> io::Result<Option<Found>> {
    let mut name = bytes_text(&entry.path_bytes());
    let kind = entry.header().entry_type();
    let is_folder = kind == EntryType::Directory || name.ends_with('/');
    if is_folder || matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
        return Ok(None);
    }
    let (at, bytes) = (entry.raw_file_position(), entry.size());
    let link = matches!(kind, EntryType::Link | EntryType::Symlink)
        .then(|| entry.link_name_bytes())
        .flatten()
        .map(|link| bytes_text(&link));
    let mut refused = match kind {
        EntryType::Regular | EntryType::Continuous if at.saturating_add(bytes) > archive_bytes => {
            Some((EntryClass::BrokenArchive, "the archive ends within it".to_owned()))
        }
        EntryType::Regular | EntryType::Continuous | EntryType::Link | EntryType::Symlink => None,
        EntryType::GNUSparse => {
            Some((EntryClass::SparseMember, "it is stored with holes".to_owned()))
        }
        EntryType::Fifo | EntryType::Char | EntryType::Block => {
            Some((EntryClass::NotAFile, "it is a pipe or device".to_owned()))
        }
        other => Some((
            EntryClass::NotAFile,
            format!("it is an entry of the unknown kind {:?}", char::from(other.as_byte())),
        )),
    };
    // The newer way to store holes looks like a plain file of another name.
    for extension in entry.pax_extensions()?.into_iter().flatten().flatten() {
        if extension.key_bytes().starts_with(b"GNU.sparse.") {
            refused = Some((EntryClass::SparseMember, "it is stored with holes".to_owned()));
        }
        if extension.key_bytes() == b"GNU.sparse.name" {
            name = bytes_text(extension.value_bytes());
        }
    }
    let path = normal("", &name).unwrap_or_else(|| name.clone());
    let refused = refused.map(|(class, seen)| Refused::new(class, seen));
    Ok(Some(Found { member: Member { name, at, bytes, refused }, path, link }))
}

/// Follows links, drops sidecars, and leaves one member of every name.
fn taken(found: Vec<Found>) -> Vec<Member> {
    let last: HashMap<String, usize> =
        found.iter().enumerate().map(|(i, one)| (one.path.clone(), i)).collect();
    let videos: HashSet<&str> =
        found.iter().filter(|one| is_video(&one.path)).map(|one| key(&one.path)).collect();
    let mut members = Vec::new();
    for (i, one) in found.iter().enumerate() {
        let name = base(&one.path);
        let beside = |name: &str| {
            last.contains_key(&format!(
                "{}{name}",
                &one.path[..one.path.len() - base(&one.path).len()]
            ))
        };
        if name.strip_prefix("._").is_some_and(beside)
            || !is_video(&one.path) && videos.contains(key(&one.path))
        {
            continue;
        }
        let Member { name: shown, at, bytes, refused } = one.member.clone();
        members.push(if last[&one.path] != i {
            let seen = "a later member has the same name";
            Member::refused(
                format!("{shown} (at byte {at})"),
                Refused::new(EntryClass::Replaced, seen),
            )
        } else if name.starts_with('.') {
            Member::refused(shown, Refused::new(EntryClass::Hidden, "its name begins with a dot"))
        } else if let Some(link) = &one.link {
            match target(one, &found, &last) {
                Some(target) => Member { name: shown, ..target.member.clone() },
                None => Member::refused(
                    shown,
                    Refused::new(
                        EntryClass::BrokenLink,
                        format!("it is a link to `{link}`, no file of the archive"),
                    ),
                ),
            }
        } else {
            Member { name: shown, at, bytes, refused }
        });
    }
    members
}

/// Returns the member that a link leads to.
fn target<'f>(
    link: &'f Found,
    found: &'f [Found],
    last: &HashMap<String, usize>,
) -> Option<&'f Found> {
    let mut at = link;
    for _ in 0..LINKS {
        let Some(to) = &at.link else { return Some(at) };
        // A symbolic link is relative to its folder, a hard one to the archive's root; writers differ in what they call them.
        let folder = &at.path[..at.path.len() - base(&at.path).len()];
        let places = [normal(folder, to), normal("", to)];
        let next = places.into_iter().flatten().find_map(|place| last.get(&place))?;
        at = &found[*next];
    }
    None
}

/// Joins a folder and a path, without `.`, `..` and empty parts; `None` where it leads out of the archive.
fn normal(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop()?,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns what a video and its sidecars share: the path up to the first dot of the name.
fn key(path: &str) -> &str {
    let name = base(path);
    &path[..path.len() - name.len() + name.find('.').unwrap_or(name.len())]
}

fn is_video(path: &str) -> bool {
    let ending = base(path)
        .rsplit_once('.')
        .map_or(String::new(), |(_, ending)| ending.to_ascii_lowercase());
    VIDEOS.contains(&ending.as_str())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Cursor;

    use tar::{Builder, Header};

    use super::*;

    /// Something to put into an archive.
    enum Put {
        File(&'static str, &'static [u8]),
        Link(EntryType, &'static str, &'static str),
        Sort(EntryType, &'static str),
        /// A file that is stored with holes, as `tar -S --format=gnu` does.
        Sparse(&'static str),
        /// A file that is stored with holes, as `tar -S --format=pax` does.
        Holes(&'static str),
    }
    use Put::{File, Holes, Link, Sort, Sparse};

    fn archive(puts: &[Put]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for put in puts {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            match put {
                File(name, bytes) => {
                    header.set_size(bytes.len() as u64);
                    builder.append_data(&mut header, name, *bytes).unwrap();
                }
                Link(kind, name, to) => {
                    header.set_entry_type(*kind);
                    header.set_size(0);
                    builder.append_link(&mut header, name, to).unwrap();
                }
                Sort(kind, name) => {
                    header.set_entry_type(*kind);
                    header.set_size(0);
                    builder.append_data(&mut header, name, &b""[..]).unwrap();
                }
                Sparse(name) => {
                    header.set_entry_type(EntryType::GNUSparse);
                    header.set_size(4);
                    let gnu = header.as_gnu_mut().unwrap();
                    gnu.set_real_size(4);
                    gnu.sparse[0].set_offset(0);
                    gnu.sparse[0].set_length(4);
                    builder.append_data(&mut header, name, &b"hole"[..]).unwrap();
                }
                Holes(name) => {
                    builder
                        .append_pax_extensions([
                            ("GNU.sparse.major", &b"1"[..]),
                            ("GNU.sparse.name", name.as_bytes()),
                        ])
                        .unwrap();
                    header.set_size(4);
                    builder.append_data(&mut header, "GNUSparseFile.0/x", &b"hole"[..]).unwrap();
                }
            }
        }
        builder.into_inner().unwrap()
    }

    /// What a listing says, a text per member: its name and content, or its class.
    fn said(bytes: &[u8]) -> Vec<String> {
        let content = |member: &Member| {
            String::from_utf8_lossy(&bytes[member.at as usize..][..member.bytes as usize])
                .into_owned()
        };
        let say = |member: Member| match &member.refused {
            Some(refused) => format!("{} !{}", member.name, refused.class.as_str()),
            None => format!("{}={}", member.name, content(&member)),
        };
        list(Cursor::new(bytes)).unwrap().into_iter().map(say).collect()
    }

    #[test]
    fn every_member_is_a_video_or_a_row_that_says_why_not() {
        let (hard, soft) = (EntryType::Link, EntryType::Symlink);
        let cases: [(&str, Vec<Put>, &[&str]); 12] = [
            (
                "endings",
                vec![File("1.mpeg4", b"a"), File("2.xyz", b"b"), File("3", b"c")],
                &["1.mpeg4=a", "2.xyz=b", "3=c"],
            ),
            (
                "sidecars",
                vec![
                    File("x/1.mp4", b"a"),
                    File("x/1.json", b"{}"),
                    File("x/1.seg.txt", b"s"),
                    File("1.json", b"j"),
                ],
                &["x/1.mp4=a", "1.json=j"],
            ),
            (
                "macOS",
                vec![File("x/._1.mp4", b"m"), File("x/1.mp4", b"a"), File(".b.mp4", b"b")],
                &["x/1.mp4=a", ".b.mp4 !hidden"],
            ),
            (
                "links",
                vec![
                    File("1.mp4", b"a"),
                    Link(hard, "2.mp4", "1.mp4"),
                    Link(soft, "3.mp4", "2.mp4"),
                ],
                &["1.mp4=a", "2.mp4=a", "3.mp4=a"],
            ),
            (
                "links in folders",
                vec![Link(soft, "x/2.mp4", "../y/1.mp4"), File("./y/1.mp4", b"a")],
                &["x/2.mp4=a", "y/1.mp4=a"],
            ),
            (
                "broken links",
                vec![
                    Link(soft, "1.mp4", "/etc/passwd"),
                    Link(soft, "2.mp4", "../../x"),
                    Link(hard, "3.mp4", "3.mp4"),
                ],
                &["1.mp4 !broken_link", "2.mp4 !broken_link", "3.mp4 !broken_link"],
            ),
            (
                "twice",
                vec![File("1.mp4", b"old"), File("2.mp4", b"b"), File("./1.mp4", b"new")],
                &["1.mp4 (at byte 512) !replaced", "2.mp4=b", "1.mp4=new"],
            ),
            (
                "holes",
                vec![Sparse("1.mp4"), Holes("2.mp4"), File("3.mp4", b"c")],
                &["1.mp4 !sparse_member", "2.mp4 !sparse_member", "3.mp4=c"],
            ),
            (
                "pipes",
                vec![Sort(EntryType::Fifo, "1.mp4"), Sort(EntryType::Char, "2.mp4")],
                &["1.mp4 !not_a_file", "2.mp4 !not_a_file"],
            ),
            (
                "folders",
                vec![Sort(EntryType::Directory, "x.mp4/"), File("x.mp4/1.mp4", b"a")],
                &["x.mp4/1.mp4=a"],
            ),
            ("empty", vec![], &[" !empty_archive"]),
            ("only folders", vec![Sort(EntryType::Directory, "x/")], &[" !empty_archive"]),
        ];
        for (what, puts, expected) in cases {
            assert_eq!(said(&archive(&puts)), expected, "{what}");
        }
    }

    #[test]
    fn an_archive_that_breaks_off_keeps_what_is_before() {
        let whole =
            archive(&[File("1.mp4", b"a"), File("2.mp4", &[b'b'; 2000]), File("3.mp4", b"c")]);
        assert_eq!(said(&whole[..2000]), ["1.mp4=a", "2.mp4 !broken_archive"]);
        let mut broken = whole;
        broken[1024..1536].fill(b'x');
        assert_eq!(said(&broken), ["1.mp4=a", " !broken_archive"]);
    }

    #[test]
    fn what_is_no_plain_archive_is_told_by_its_bytes() {
        let cases: [(&[u8], &str); 5] = [
            (b"", " !empty_file"),
            (b"\x1f\x8b\x08 and so on", " !compressed_archive"),
            (b"PK\x03\x04 and so on", " !compressed_archive"),
            (b"\x28\xb5\x2f\xfd and so on", " !compressed_archive"),
            (&[b'x'; 4096], " !broken_archive"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(said(bytes), [expected]);
        }
    }
}
