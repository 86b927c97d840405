//! Odd members of archives: each is a reject with its class, and all other videos are decoded.

use std::fs;
use std::path::Path;

use tar::{Builder, EntryType, Header};

use crate::odd_sources::{assert_same, expected, outcome};
use crate::project::{Project, clip};

/// A member of a test archive: name and content.
enum Member<'a> {
    /// A video with this number of frames.
    File(&'a str, usize),
    Bytes(&'a str, &'a [u8]),
    /// A hard or symbolic link to another name.
    Link(EntryType, &'a str, &'a str),
    /// A folder, pipe or device.
    Special(EntryType, &'a str),
    /// A file with holes, in GNU's format.
    Sparse(&'a str),
}
use Member::{Bytes, File, Link, Sparse, Special};

/// Writes a tar archive with these members.
fn write_archive(path: &Path, members: &[Member]) {
    let mut builder = Builder::new(Vec::new());
    let video = path.with_extension("video");
    for member in members {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        match member {
            File(name, frames) => {
                clip(&video, *frames);
                let bytes = fs::read(&video).unwrap();
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, &bytes[..]).unwrap();
            }
            Bytes(name, bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, *bytes).unwrap();
            }
            Link(kind, name, to) => {
                header.set_entry_type(*kind);
                builder.append_link(&mut header, name, to).unwrap();
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
            Special(kind, name) => {
                header.set_entry_type(*kind);
                builder.append_data(&mut header, name, &b""[..]).unwrap();
            }
        }
    }
    fs::write(path, builder.into_inner().unwrap()).unwrap();
}

/// Archives and their members.
const ARCHIVES: [(&str, &[Member]); 12] = [
    ("plain.tar", &[File("1.mp4", 6), File("2.mp4", 7)]),
    ("unknown.tar", &[File("1.mpeg4", 8), File("2.xyz", 9), File("none", 10)]),
    (
        "sidecars.tar",
        &[
            File("1.mp4", 11),
            Bytes("1.json", b"{}"),
            Bytes("1.caption.txt", b"a"),
            Bytes("readme.md", b"read me"),
        ],
    ),
    ("mac.tar", &[Bytes("._1.mp4", b"macOS"), File("1.mp4", 12), File(".2.mp4", 13)]),
    (
        "links.tar",
        &[
            File("1.mp4", 14),
            Link(EntryType::Link, "2.mp4", "1.mp4"),
            Link(EntryType::Symlink, "3.mp4", "1.mp4"),
        ],
    ),
    (
        "broken links.tar",
        &[
            File("1.mp4", 15),
            Link(EntryType::Symlink, "2.mp4", "/etc/passwd"),
            Link(EntryType::Link, "3.mp4", "9.mp4"),
        ],
    ),
    ("twice.tar", &[File("1.mp4", 16), File("1.mp4", 17)]),
    (
        "folders.tar",
        &[Special(EntryType::Directory, "a/"), File("a/1.mp4", 18), File("b/1.mp4", 19)],
    ),
    ("holes.tar", &[Sparse("1.mp4"), File("2.mp4", 20)]),
    (
        "pipes.tar",
        &[Special(EntryType::Fifo, "1.mp4"), Special(EntryType::Char, "2.mp4"), File("3.mp4", 21)],
    ),
    ("empty.tar", &[]),
    ("nested.tar", &[Bytes("inner.tar", b"some tar"), File("1.mp4", 22)]),
];

/// The outcome of every member of twenty archives.
const ARCHIVE_OUTCOMES: [(&str, &str); 36] = [
    ("t/plain.tar/1.mp4", "frames"),
    ("t/plain.tar/2.mp4", "frames"),
    ("t/unknown.tar/1.mpeg4", "frames"),
    ("t/unknown.tar/2.xyz", "frames"),
    ("t/unknown.tar/none", "frames"),
    ("t/sidecars.tar/1.mp4", "frames"),
    ("t/sidecars.tar/readme.md", "unknown_format"),
    ("t/mac.tar/1.mp4", "frames"),
    ("t/mac.tar/.2.mp4", "hidden"),
    ("t/links.tar/1.mp4", "frames"),
    ("t/links.tar/2.mp4", "frames"),
    ("t/links.tar/3.mp4", "frames"),
    ("t/broken links.tar/1.mp4", "frames"),
    ("t/broken links.tar/2.mp4", "broken_link"),
    ("t/broken links.tar/3.mp4", "broken_link"),
    ("t/twice.tar/1.mp4", "frames"),
    ("t/twice.tar/1.mp4 (at byte 512)", "replaced"),
    ("t/folders.tar/a/1.mp4", "frames"),
    ("t/folders.tar/b/1.mp4", "frames"),
    ("t/holes.tar/1.mp4", "sparse_member"),
    ("t/holes.tar/2.mp4", "frames"),
    ("t/pipes.tar/1.mp4", "not_a_file"),
    ("t/pipes.tar/2.mp4", "not_a_file"),
    ("t/pipes.tar/3.mp4", "frames"),
    ("t/empty.tar", "empty_archive"),
    ("t/nested.tar/inner.tar", "unknown_format"),
    ("t/nested.tar/1.mp4", "frames"),
    ("t/zero.tar", "empty_file"),
    ("t/gzip.tar", "compressed_archive"),
    ("t/gzip.tar.gz", "compressed_archive"),
    ("t/x.tgz", "compressed_archive"),
    ("t/x.zip", "compressed_archive"),
    ("t/junk.tar", "broken_archive"),
    ("t/cut.tar/1.mp4", "frames"),
    ("t/cut.tar/2.mp4", "broken_archive"),
    ("t/folder.tar", "not_a_file"),
];

#[test]
fn odd_members_of_archives_are_rejected_and_all_other_videos_decoded() {
    let project = Project::new(0);
    fs::create_dir(project.path("t")).unwrap();
    let at = |name: &str| project.path("t").join(name);
    let long = format!("{}/1.mp4", "x".repeat(200));
    for (name, members) in ARCHIVES {
        write_archive(&at(name), members);
    }
    fs::write(at("zero.tar"), b"").unwrap();
    fs::write(at("gzip.tar"), b"\x1f\x8b\x08 gzip").unwrap();
    fs::write(at("gzip.tar.gz"), b"\x1f\x8b\x08 gzip").unwrap();
    fs::write(at("x.tgz"), b"\x1f\x8b\x08 gzip").unwrap();
    fs::write(at("x.zip"), b"PK\x03\x04").unwrap();
    fs::write(at("junk.tar"), "no archive\n".repeat(200)).unwrap();
    write_archive(&at("long.tar"), &[File(&long, 23)]);
    // The last member of this archive is cut off.
    write_archive(&at("cut.tar"), &[File("1.mp4", 24), File("2.mp4", 25)]);
    let whole = fs::read(at("cut.tar")).unwrap();
    fs::write(at("cut.tar"), &whole[..whole.len() - 6000]).unwrap();
    fs::create_dir(at("folder.tar")).unwrap();
    let found = outcome(&project, "videos: ['t/*.tar', 't/*.tar.gz', 't/*.tgz', 't/*.zip']");
    let mut wanted = expected(&ARCHIVE_OUTCOMES);
    wanted.insert(format!("t/long.tar/{long}"), "frames".into());
    assert_same(found, wanted);
}
