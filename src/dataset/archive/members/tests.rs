//! Listings of archives made entry by entry.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Cursor;

use tar::{Builder, Header};

use super::*;

/// An entry to write into an archive.
enum TestEntry {
    File(&'static str, &'static [u8]),
    Link(EntryType, &'static str, &'static str),
    Empty(EntryType, &'static str),
    /// A sparse file, as written by `tar -S --format=gnu`.
    SparseGnu(&'static str),
    /// A sparse file, as written by `tar -S --format=pax`.
    SparsePax(&'static str),
}
use TestEntry::{Empty, File, Link, SparseGnu, SparsePax};

fn archive(entries: &[TestEntry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        match entry {
            File(name, bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, *bytes).unwrap();
            }
            Link(kind, name, to) => {
                header.set_entry_type(*kind);
                header.set_size(0);
                builder.append_link(&mut header, name, to).unwrap();
            }
            Empty(kind, name) => {
                header.set_entry_type(*kind);
                header.set_size(0);
                builder.append_data(&mut header, name, &b""[..]).unwrap();
            }
            SparseGnu(name) => {
                header.set_entry_type(EntryType::GNUSparse);
                header.set_size(4);
                let gnu = header.as_gnu_mut().unwrap();
                gnu.set_real_size(4);
                gnu.sparse[0].set_offset(0);
                gnu.sparse[0].set_length(4);
                builder.append_data(&mut header, name, &b"hole"[..]).unwrap();
            }
            SparsePax(name) => {
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

/// Lists an archive, one text per member: its name and content, or its name and class.
fn listed(bytes: &[u8]) -> Vec<String> {
    let content = |member: &Member| {
        String::from_utf8_lossy(&bytes[member.at as usize..][..member.bytes as usize]).into_owned()
    };
    let describe = |member: Member| match &member.refused {
        Some(refused) => format!("{} !{}", member.name, refused.class.as_str()),
        None => format!("{}={}", member.name, content(&member)),
    };
    list(Cursor::new(bytes)).unwrap().into_iter().map(describe).collect()
}

/// A name, the entries of an archive, and the expected listing.
type Case = (&'static str, Vec<TestEntry>, &'static [&'static str]);

fn assert_listing((name, entries, expected): Case) {
    assert_eq!(listed(&archive(&entries)), expected, "{name}");
}

#[test]
fn every_member_is_a_video_or_has_a_reason_for_being_refused() {
    let hard = EntryType::Link;
    let soft = EntryType::Symlink;
    let cases: [Case; 7] = [
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
            vec![File("1.mp4", b"a"), Link(hard, "2.mp4", "1.mp4"), Link(soft, "3.mp4", "2.mp4")],
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
    ];
    for case in cases {
        assert_listing(case);
    }
}

#[test]
fn entries_other_than_files_are_refused_and_folders_are_left_out() {
    let cases: [Case; 5] = [
        (
            "sparse files",
            vec![SparseGnu("1.mp4"), SparsePax("2.mp4"), File("3.mp4", b"c")],
            &["1.mp4 !sparse_member", "2.mp4 !sparse_member", "3.mp4=c"],
        ),
        (
            "pipes",
            vec![Empty(EntryType::Fifo, "1.mp4"), Empty(EntryType::Char, "2.mp4")],
            &["1.mp4 !not_a_file", "2.mp4 !not_a_file"],
        ),
        (
            "folders",
            vec![Empty(EntryType::Directory, "x.mp4/"), File("x.mp4/1.mp4", b"a")],
            &["x.mp4/1.mp4=a"],
        ),
        ("empty", vec![], &[" !empty_archive"]),
        ("only folders", vec![Empty(EntryType::Directory, "x/")], &[" !empty_archive"]),
    ];
    for case in cases {
        assert_listing(case);
    }
}

#[test]
fn an_archive_that_breaks_off_keeps_the_members_before() {
    let whole = archive(&[File("1.mp4", b"a"), File("2.mp4", &[b'b'; 2000]), File("3.mp4", b"c")]);
    assert_eq!(listed(&whole[..2000]), ["1.mp4=a", "2.mp4 !broken_archive"]);
    let mut broken = whole;
    broken[1024..1536].fill(b'x');
    assert_eq!(listed(&broken), ["1.mp4=a", " !broken_archive"]);
}

#[test]
fn compressed_and_broken_archives_are_recognised_by_their_first_bytes() {
    let cases: [(&[u8], &str); 5] = [
        (b"", " !empty_file"),
        (b"\x1f\x8b\x08 and so on", " !compressed_archive"),
        (b"PK\x03\x04 and so on", " !compressed_archive"),
        (b"\x28\xb5\x2f\xfd and so on", " !compressed_archive"),
        (&[b'x'; 4096], " !broken_archive"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(listed(bytes), [expected]);
    }
}
