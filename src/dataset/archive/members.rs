//! Lists the members of a tar archive: its videos, and why other members are not read. Start at
//! [`list`].
//!
//! A member with any file name counts as a video, as files of a folder do; the decoder rejects the
//! rest. Links stand for their targets. If a name occurs twice, the last member counts, as for
//! `tar -x`.
//!
//! Folders and sidecars of videos are left out: WebDataset's (`0001.json` beside `0001.mp4`) and
//! macOS' (`._0001.mp4`).

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use tar::{Entry, EntryType};

use super::Member;
use crate::dataset::entry_faults::{EntryClass, EntryFault};
use crate::dataset::path_text::bytes_text;

/// File name extensions of videos. They only decide whether other members are sidecars.
const VIDEO_EXTENSIONS: [&str; 28] = [
    "3g2", "3gp", "asf", "avi", "avif", "dv", "f4v", "flv", "gif", "h264", "ivf", "m2ts", "m4v",
    "mkv", "mov", "mp4", "mpeg", "mpeg4", "mpg", "mts", "mxf", "nut", "ogv", "qt", "ts", "vob",
    "webm", "wmv",
];
/// The longest chain of links to follow. It ends loops of links.
const MAX_LINKS: usize = 32;
/// First bytes of compressed files and of other archive formats.
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

/// A file or link as stored in the archive, before links are resolved.
struct RawMember {
    member: Member,
    /// Its path without `.` and empty parts.
    path: String,
    /// The target as written, if it is a link.
    link: Option<String>,
}

/// Lists an archive.
///
/// # Errors
/// Fails if the archive cannot be read. A broken or empty archive is no error: the list then
/// contains a member without a name and with the reason.
pub(super) fn list(mut archive: impl Read + Seek) -> io::Result<Vec<Member>> {
    let bytes = archive.seek(SeekFrom::End(0))?;
    archive.rewind()?;
    if let Some(refused) = not_plain_tar(&mut archive, bytes)? {
        return Ok(vec![Member::refused(String::new(), refused)]);
    }
    archive.rewind()?;
    let (entries, broken) = scan(archive, bytes)?;
    let mut members = resolve(&entries);
    members.extend(broken.map(|refused| Member::refused(String::new(), refused)));
    if members.is_empty() {
        members.push(Member::refused(
            String::new(),
            EntryFault::new(EntryClass::EmptyArchive, "the archive holds no file"),
        ));
    }
    Ok(members)
}

/// Returns why a file is not a plain tar archive, if its first bytes show it.
fn not_plain_tar(archive: &mut impl Read, bytes: u64) -> io::Result<Option<EntryFault>> {
    if bytes == 0 {
        return Ok(Some(EntryFault::new(EntryClass::EmptyFile, "it has 0 bytes")));
    }
    let mut first = Vec::new();
    archive.take(8).read_to_end(&mut first)?;
    // tar itself has its magic bytes at offset 257, and old formats have none. So only known other
    // formats are rejected here.
    let kind = MAGIC.iter().find(|(magic, _)| first.starts_with(magic));
    Ok(kind.map(|(_, kind)| {
        EntryFault::new(
            EntryClass::CompressedArchive,
            format!("it is a {kind} file, expected a plain tar archive"),
        )
    }))
}

/// Returns the files and links in order, and the fault if the archive breaks off.
fn scan(archive: impl Read + Seek, bytes: u64) -> io::Result<(Vec<RawMember>, Option<EntryFault>)> {
    let mut found: Vec<RawMember> = Vec::new();
    for entry in tar::Archive::new(archive).entries_with_seek()? {
        match entry.and_then(|mut entry| read_entry(&mut entry, bytes)) {
            Ok(member) => found.extend(member),
            // The `tar` crate reports broken headers as `Other`.
            Err(cause)
                if cause.kind() == ErrorKind::Other || cause.kind() == ErrorKind::UnexpectedEof =>
            {
                let place = found.last().map_or("at its beginning".to_owned(), |last| {
                    format!("after `{}`", last.member.name)
                });
                return Ok((
                    found,
                    Some(EntryFault::new(
                        EntryClass::BrokenArchive,
                        format!("the archive is broken {place}: {cause}"),
                    )),
                ));
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok((found, None))
}

/// Reads one entry. Returns `None` for folders and for metadata of the archive.
fn read_entry<R: Read>(
    entry: &mut Entry<'_, R>,
    archive_bytes: u64,
) -> io::Result<Option<RawMember>> {
    let mut name = bytes_text(&entry.path_bytes());
    let kind = entry.header().entry_type();
    // Old tar formats mark a folder only by a slash at the end.
    let is_folder = kind == EntryType::Directory || name.ends_with('/');
    if is_folder || matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
        return Ok(None);
    }
    let at = entry.raw_file_position();
    let bytes = entry.size();
    let link = matches!(kind, EntryType::Link | EntryType::Symlink)
        .then(|| entry.link_name_bytes())
        .flatten()
        .map(|link| bytes_text(&link));
    let mut refused = match kind {
        // `tar` itself does not notice a member cut short.
        EntryType::Regular | EntryType::Continuous if at.saturating_add(bytes) > archive_bytes => {
            Some((EntryClass::BrokenArchive, "the archive ends within it".to_owned()))
        }
        EntryType::Regular | EntryType::Continuous | EntryType::Link | EntryType::Symlink => None,
        EntryType::GNUSparse => Some((EntryClass::SparseMember, "it is a sparse file".to_owned())),
        EntryType::Fifo | EntryType::Char | EntryType::Block => {
            Some((EntryClass::NotAFile, "it is a pipe or device".to_owned()))
        }
        other => Some((
            EntryClass::NotAFile,
            format!("it has the unknown entry type {:?}", char::from(other.as_byte())),
        )),
    };
    // The pax format stores a sparse file as a regular file with another name and these headers.
    for extension in entry.pax_extensions()?.into_iter().flatten().flatten() {
        if extension.key_bytes().starts_with(b"GNU.sparse.") {
            refused = Some((EntryClass::SparseMember, "it is a sparse file".to_owned()));
        }
        if extension.key_bytes() == b"GNU.sparse.name" {
            name = bytes_text(extension.value_bytes());
        }
    }
    let path = normalize("", &name).unwrap_or_else(|| name.clone());
    let refused = refused.map(|(class, seen)| EntryFault::new(class, seen));
    Ok(Some(RawMember { member: Member { name, at, bytes, refused }, path, link }))
}

/// Resolves links, drops sidecars and refuses all but the last member of a name.
fn resolve(found: &[RawMember]) -> Vec<Member> {
    // Later entries overwrite earlier ones of the same path.
    let last: HashMap<String, usize> =
        found.iter().enumerate().map(|(i, one)| (one.path.clone(), i)).collect();
    let videos: HashSet<&str> =
        found.iter().filter(|one| is_video(&one.path)).map(|one| key(&one.path)).collect();
    let mut members = Vec::new();
    for (i, one) in found.iter().enumerate() {
        let name = base(&one.path);
        let folder = &one.path[..one.path.len() - name.len()];
        // `._0001.mp4` holds macOS metadata of `0001.mp4` in the same folder.
        let is_mac_sidecar = name
            .strip_prefix("._")
            .is_some_and(|owner| last.contains_key(&format!("{folder}{owner}")));
        let is_sidecar = !is_video(&one.path) && videos.contains(key(&one.path));
        if is_mac_sidecar || is_sidecar {
            continue;
        }
        let Member { name: shown, at, bytes, refused } = one.member.clone();
        members.push(if last[&one.path] != i {
            let seen = "a later member has the same name";
            Member::refused(
                format!("{shown} (at byte {at})"),
                EntryFault::new(EntryClass::Replaced, seen),
            )
        } else if name.starts_with('.') {
            Member::refused(
                shown,
                EntryFault::new(EntryClass::Hidden, "its name begins with a dot"),
            )
        } else if let Some(link) = &one.link {
            match target(one, found, &last) {
                Some(target) => Member { name: shown, ..target.member.clone() },
                None => Member::refused(
                    shown,
                    EntryFault::new(
                        EntryClass::BrokenLink,
                        format!("it is a link to `{link}`, and the archive has no such file"),
                    ),
                ),
            }
        } else {
            Member { name: shown, at, bytes, refused }
        });
    }
    members
}

/// Returns the target of a link, or the member itself if it is none.
fn target<'f>(
    link: &'f RawMember,
    found: &'f [RawMember],
    last: &HashMap<String, usize>,
) -> Option<&'f RawMember> {
    let mut at = link;
    for _ in 0..MAX_LINKS {
        let Some(to) = &at.link else { return Some(at) };
        // A symbolic link is relative to its folder, a hard link to the archive's root. Some
        // writers mix them up, so both places are tried.
        let folder = &at.path[..at.path.len() - base(&at.path).len()];
        let places = [normalize(folder, to), normalize("", to)];
        let next = places.into_iter().flatten().find_map(|place| last.get(&place))?;
        at = &found[*next];
    }
    None
}

/// Joins a folder and a path, without `.`, `..` and empty parts. Returns `None` for a path outside
/// the archive.
fn normalize(folder: &str, path: &str) -> Option<String> {
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

/// Returns the file name of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the common part of a video's and its sidecars' paths: up to the first dot of the name.
fn key(path: &str) -> &str {
    let name = base(path);
    &path[..path.len() - name.len() + name.find('.').unwrap_or(name.len())]
}

fn is_video(path: &str) -> bool {
    base(path).rsplit_once('.').is_some_and(|(_, extension)| {
        VIDEO_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
    })
}

#[cfg(test)]
mod tests;
