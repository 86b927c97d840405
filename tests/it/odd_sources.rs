//! Folders, archives and lists give entries: an odd one is a row with its class, and costs no other one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tar::{Builder, EntryType, Header};

use crate::project::{Project, clip, said};

/// What became of every entry: `frames` of a video that was decoded, or the class of its reject.
type Outcome = BTreeMap<String, String>;

/// A project whose `decode` stage has these settings, run: every row of `videos` and `rejects`.
fn outcome(project: &Project, settings: &str) -> Outcome {
    fs::write(
        project.path("pipeline.yaml"),
        pipeline(&format!("{settings}, size: 16, cut: null, min_frames: 1")),
    )
    .unwrap();
    project.run(&[]).good();
    let outcome = rows(project);
    project.run_changes_nothing(&[]);
    outcome
}

/// A pipeline that only decodes.
fn pipeline(settings: &str) -> String {
    format!("name: odd\nworkspace: ws\nstages:\n  frames: {{ decode: {{ {settings} }} }}\n")
}

/// Every row of `videos` and `rejects`.
fn rows(project: &Project) -> Outcome {
    let rows = |sql: &str| project.query(sql).as_array().unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut outcome = Outcome::new();
    for row in rows("SELECT video, frames FROM videos") {
        let before = outcome.insert(text(&row["video"]), "frames".into());
        assert_eq!(before, None, "two videos of one name: {row}");
    }
    for row in rows("SELECT video, class, reason FROM rejects") {
        assert!(row["reason"].as_str().unwrap().len() > 10, "{row}");
        let before = outcome.insert(text(&row["video"]), text(&row["class"]));
        assert_eq!(before.as_deref(), Some("frames"), "no row of `videos`, or two rejects: {row}");
    }
    outcome
}

fn expected(rows: &[(&str, &str)]) -> Outcome {
    rows.iter().map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned())).collect()
}

/// Compares, and shows only what differs.
fn same(found: Outcome, expected: Outcome) {
    let (more, less): (Vec<_>, Vec<_>) = (
        found
            .iter()
            .filter(|row| !expected.contains_key(row.0) || expected[row.0] != *row.1)
            .collect(),
        expected.iter().filter(|row| found.get(row.0) != Some(row.1)).collect(),
    );
    assert!(more.is_empty() && less.is_empty(), "found {more:#?}\nexpected {less:#?}");
}

/// The videos of twenty small trees; each has a number of frames of its own.
const TREES: [&[u8]; 24] = [
    b"plain/1.y4m",
    b"loop/1.y4m",
    b"back/x/y/1.y4m",
    b"two/1.y4m",
    b"hidden/.1.y4m",
    b"hidden/.x/2.y4m",
    b"hidden/3.y4m",
    b"mac/1.y4m",
    b"byte\xff/1.y4m",
    b"bytes/caf\xe9.y4m",
    b"bytes/caf\xc3\xa9.y4m",
    b"bytes/\\xE9.y4m",
    b"brackets/clip [abc].y4m",
    b"brackets/clip a.y4m",
    b"folder.y4m/inner.y4m",
    b"spaces/ a  b .y4m",
    b"new\nline/1.y4m",
    b"percent/%20#?.y4m",
    b"star/*.y4m",
    b"link/1.y4m",
    b"deep/1/2/3/4/5/6/7/8/1.y4m",
    b"case/1.Y4M",
    b"tar/not.tar.y4m",
    b"unicode/\xf0\x9f\x8e\xac.y4m",
];

/// What becomes of their entries.
const OF_TREES: [(&str, &str); 31] = [
    ("t/plain/1.y4m", "frames"),
    ("t/plain/empty.y4m", "empty_file"),
    ("t/plain/junk.y4m", "unknown_format"),
    ("t/plain/pointer.y4m", "git_lfs_pointer"),
    ("t/plain/fifo.y4m", "not_a_file"),
    ("t/plain/socket.y4m", "not_a_file"),
    ("t/loop/1.y4m", "frames"),
    ("t/back/x/y/1.y4m", "frames"),
    ("t/two/1.y4m", "frames"),
    ("t/hidden/3.y4m", "frames"),
    ("t/mac/1.y4m", "frames"),
    ("t/byte\\xFF/1.y4m", "frames"),
    ("t/bytes/caf\\xE9.y4m", "frames"),
    ("t/bytes/caf\u{e9}.y4m", "frames"),
    ("t/bytes/\\x5CxE9.y4m", "frames"),
    ("t/brackets/clip [abc].y4m", "frames"),
    ("t/brackets/clip a.y4m", "frames"),
    ("t/folder.y4m", "not_a_file"),
    ("t/folder.y4m/inner.y4m", "frames"),
    ("t/spaces/ a  b .y4m", "frames"),
    ("t/new\nline/1.y4m", "frames"),
    ("t/percent/%20#?.y4m", "frames"),
    ("t/star/*.y4m", "frames"),
    ("t/link/1.y4m", "frames"),
    ("t/link/2.y4m", "frames"),
    ("t/link/dangling.y4m", "unreadable"),
    ("t/link/folder.y4m", "not_a_file"),
    ("t/deep/1/2/3/4/5/6/7/8/1.y4m", "frames"),
    ("t/case/1.Y4M", "frames"),
    ("t/tar/not.tar.y4m", "frames"),
    ("t/unicode/\u{1f3ac}.y4m", "frames"),
];

#[test]
fn odd_trees_give_a_row_for_each_odd_entry_and_all_other_videos() {
    let project = Project::new(0);
    let at = |name: &str| project.path("t").join(name);
    let put =
        |name: &[u8], frames: usize| clip(&project.path("t").join(OsStr::from_bytes(name)), frames);
    for (number, file) in TREES.iter().enumerate() {
        put(file, 5 + number);
    }
    symlink("../loop", at("loop/again")).unwrap();
    symlink("../../..", at("back/x/y/up")).unwrap();
    symlink("self", at("two/self")).unwrap();
    symlink("../plain", at("two/other")).unwrap();
    symlink("nowhere", at("link/dangling.y4m")).unwrap();
    symlink("1.y4m", at("link/2.y4m")).unwrap();
    symlink("../plain", at("link/folder.y4m")).unwrap();
    fs::write(at("mac/._1.y4m"), b"\0\x05\x16\x07 macOS").unwrap();
    fs::write(at("plain/empty.y4m"), b"").unwrap();
    fs::write(at("plain/junk.y4m"), b"no video").unwrap();
    fs::write(
        at("plain/pointer.y4m"),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    )
    .unwrap();
    assert!(Command::new("mkfifo").arg(at("plain/fifo.y4m")).status().unwrap().success());
    let _socket = UnixListener::bind(at("plain/socket.y4m")).unwrap();
    let found =
        outcome(&project, "videos: ['t/**/*.y4m', 't/case/*.Y4M', 't/brackets/clip [abc].y4m']");
    same(found, expected(&OF_TREES));
}

/// A folder that may not be listed: `lost+found` at the root of a disk, for anyone but root.
#[test]
fn a_closed_folder_is_a_row_and_all_other_videos_are_decoded() {
    let project = Project::new(0);
    for (number, folder) in ["", "closed/", "open/"].iter().enumerate() {
        clip(&project.path(&format!("t/{folder}{number}.y4m")), 5 + number);
    }
    fs::write(project.path("t/unreadable.y4m"), "closed").unwrap();
    for path in ["t/closed", "t/unreadable.y4m"] {
        fs::set_permissions(project.path(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let mut run = project.command(&["run", "pipeline.yaml"]);
    if fs::read_dir(project.path("t/closed")).is_ok() {
        // Root is let in everywhere unless it gives up the right to.
        run = Command::new("setpriv");
        run.args([
            "--bounding-set=-dac_override,-dac_read_search",
            env!("CARGO_BIN_EXE_lapo"),
            "run",
            "pipeline.yaml",
        ]);
        run.current_dir(project.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }
    let settings = "videos: ['t/**/*.y4m'], size: 16, cut: null, min_frames: 1";
    fs::write(project.path("pipeline.yaml"), pipeline(settings)).unwrap();
    said(run.spawn().unwrap()).good();
    let wanted = [
        ("t/0.y4m", "frames"),
        ("t/closed/", "unreadable_folder"),
        ("t/open/2.y4m", "frames"),
        ("t/unreadable.y4m", "unreadable"),
    ];
    same(rows(&project), expected(&wanted));
    fs::set_permissions(project.path("t/closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A member of a test's archive.
enum Put<'a> {
    File(&'a str, usize),
    Bytes(&'a str, &'a [u8]),
    Link(EntryType, &'a str, &'a str),
    Sort(EntryType, &'a str),
    Sparse(&'a str),
}
use Put::{Bytes, File, Link, Sort, Sparse};

fn archive(path: &Path, puts: &[Put]) {
    let mut builder = Builder::new(Vec::new());
    let video = path.with_extension("video");
    for put in puts {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        match put {
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
            Sort(kind, name) => {
                header.set_entry_type(*kind);
                builder.append_data(&mut header, name, &b""[..]).unwrap();
            }
        }
    }
    fs::write(path, builder.into_inner().unwrap()).unwrap();
}

/// What becomes of the members of twenty archives.
const OF_ARCHIVES: [(&str, &str); 36] = [
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
fn odd_archives_give_a_row_for_each_member_that_is_not_read_and_all_other_videos() {
    let project = Project::new(0);
    fs::create_dir(project.path("t")).unwrap();
    let at = |name: &str| project.path("t").join(name);
    let long = format!("{}/1.mp4", "x".repeat(200));
    let archives: [(&str, &[Put]); 13] = [
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
            &[Sort(EntryType::Directory, "a/"), File("a/1.mp4", 18), File("b/1.mp4", 19)],
        ),
        ("holes.tar", &[Sparse("1.mp4"), File("2.mp4", 20)]),
        (
            "pipes.tar",
            &[Sort(EntryType::Fifo, "1.mp4"), Sort(EntryType::Char, "2.mp4"), File("3.mp4", 21)],
        ),
        ("empty.tar", &[]),
        ("nested.tar", &[Bytes("inner.tar", b"some tar"), File("1.mp4", 22)]),
        ("long.tar", &[File(&long, 23)]),
    ];
    for (name, puts) in archives {
        archive(&at(name), puts);
    }
    fs::write(at("zero.tar"), b"").unwrap();
    fs::write(at("gzip.tar"), b"\x1f\x8b\x08 gzip").unwrap();
    fs::write(at("gzip.tar.gz"), b"\x1f\x8b\x08 gzip").unwrap();
    fs::write(at("x.tgz"), b"\x1f\x8b\x08 gzip").unwrap();
    fs::write(at("x.zip"), b"PK\x03\x04").unwrap();
    fs::write(at("junk.tar"), "no archive\n".repeat(200)).unwrap();
    archive(&at("cut.tar"), &[File("1.mp4", 24), File("2.mp4", 25)]);
    let whole = fs::read(at("cut.tar")).unwrap();
    fs::write(at("cut.tar"), &whole[..whole.len() - 6000]).unwrap();
    fs::create_dir(at("folder.tar")).unwrap();
    let found = outcome(&project, "videos: ['t/*.tar', 't/*.tar.gz', 't/*.tgz', 't/*.zip']");
    let mut wanted = expected(&OF_ARCHIVES);
    wanted.insert(format!("t/long.tar/{long}"), "frames".into());
    same(found, wanted);
}

/// Thirty lists, each of videos of its own and of rows that make no sense.
#[test]
fn odd_lists_give_a_row_for_each_row_that_makes_no_sense_and_all_other_videos() {
    let project = Project::new(0);
    let (mut lists, mut rows) = (Vec::new(), Outcome::new());
    let mut add = |name: &str, text: &[u8], bad: &[&str]| {
        let number = lists.len();
        // A star stands for a video of the list's own.
        let stars = text.iter().filter(|byte| **byte == b'*').count();
        let mut out = Vec::new();
        let mut star = 0;
        for byte in text {
            match byte {
                b'*' => {
                    out.extend_from_slice(format!("v/{number}-{star}.y4m").as_bytes());
                    star += 1;
                }
                byte => out.push(*byte),
            }
        }
        for star in 0..stars {
            let video = format!("v/{number}-{star}.y4m");
            clip(&project.path(&video), 5 + number * 3 + star);
            rows.insert(video, "frames".into());
        }
        let path = format!("{number}{name}");
        rows.extend(bad.iter().map(|place| (format!("{path}, {place}"), "bad_row".into())));
        fs::write(project.path(&path), out).unwrap();
        lists.push(path);
    };
    let ends = ["\n", "\r\n", ""];
    for end in ends {
        add(".txt", format!("*\n\n# none\n  *  {end}").as_bytes(), &[]);
        add(".csv", format!("uri,bytes\n*,7\n*,{end}").as_bytes(), &[]);
        add(".csv", format!("a,uri\n1,*\n,\n3,*{end}").as_bytes(), &["line 3"]);
        add(
            ".csv",
            format!("uri,bytes,etag\n*,x,\n*,-1,e\n*,1.5,e\n*,8,e{end}").as_bytes(),
            &["line 2", "line 3", "line 4"],
        );
        add(".csv", format!("uri,a\n*\n*,1\n*,1,2{end}").as_bytes(), &["line 2", "line 4"]);
        add(
            ".csv",
            format!("\"uri\",\"a\"\n\"*\",\"b\nc\"\n\"*\",\"d\"\"e\"{end}").as_bytes(),
            &[],
        );
        add(".csv", format!("\u{feff}uri\n*\n\"\"\n*{end}").as_bytes(), &["line 3"]);
        add(".txt", format!("\u{feff}*\n*{end}").as_bytes(), &[]);
        add(".list", format!("*\n\t*{end}").as_bytes(), &[]);
        add(".CSV", format!("uri\n*{end}").as_bytes(), &[]);
    }
    // Rows that make no sense of videos that are there: those are not read.
    for (number, kept) in [(3, 3), (4, 1), (13, 3), (14, 1), (23, 3), (24, 1)] {
        rows.retain(|name, _| {
            !name.starts_with(&format!("v/{number}-")) || *name == format!("v/{number}-{kept}.y4m")
        });
    }
    let quoted: Vec<String> = lists.iter().map(|list| format!("'{list}'")).collect();
    same(outcome(&project, &format!("lists: [{}]", quoted.join(", "))), rows);
}
