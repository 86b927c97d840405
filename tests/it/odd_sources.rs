//! Odd entries in folders: each is a reject with its class, and all other videos are decoded.
//!
//! `odd_archives` and `odd_lists` test the same of members of archives and rows of lists.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::project::{Project, clip, wait};

/// The outcome of every entry: `frames` if it was decoded, else the class of its reject.
pub type Outcome = BTreeMap<String, String>;

/// Runs a pipeline with these settings of its `decode` stage. Returns the outcome of every entry.
pub fn outcome(project: &Project, settings: &str) -> Outcome {
    fs::write(
        project.path("pipeline.yaml"),
        pipeline(&format!("{settings}, size: 16, cut: null, min_frames: 1")),
    )
    .unwrap();
    project.run(&[]).success();
    let outcome = rows(project);
    project.run_changes_nothing(&[]);
    outcome
}

/// Returns a pipeline with only a `decode` stage.
fn pipeline(settings: &str) -> String {
    format!("name: odd\nworkspace: ws\nstages:\n  frames: {{ decode: {{ {settings} }} }}\n")
}

/// Returns the outcome of every entry, from the tables `videos` and `rejects`.
fn rows(project: &Project) -> Outcome {
    let rows = |sql: &str| project.query(sql).as_array().unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut outcome = Outcome::new();
    for row in rows("SELECT video, frames FROM videos") {
        let before = outcome.insert(text(&row["video"]), "frames".into());
        assert_eq!(before, None, "two videos have one name: {row}");
    }
    for row in rows("SELECT video, class, reason FROM rejects") {
        assert!(row["reason"].as_str().unwrap().len() > 10, "{row}");
        let before = outcome.insert(text(&row["video"]), text(&row["class"]));
        assert_eq!(before.as_deref(), Some("frames"), "no row of `videos`, or two rejects: {row}");
    }
    outcome
}

pub fn expected(rows: &[(&str, &str)]) -> Outcome {
    rows.iter().map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned())).collect()
}

/// Compares two outcomes and prints only the differences.
pub fn assert_same(found: Outcome, expected: Outcome) {
    let unexpected: Vec<_> =
        found.iter().filter(|row| expected.get(row.0) != Some(row.1)).collect();
    let missing: Vec<_> = expected.iter().filter(|row| found.get(row.0) != Some(row.1)).collect();
    assert!(
        unexpected.is_empty() && missing.is_empty(),
        "found {unexpected:#?}\nexpected {missing:#?}"
    );
}

/// The videos of twenty small folder trees. No two have the same number of frames.
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

/// The outcome of every entry of the trees.
const TREE_OUTCOMES: [(&str, &str); 31] = [
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
fn odd_entries_of_folders_are_rejected_and_all_other_videos_decoded() {
    let project = Project::new(0);
    let at = |name: &str| project.path("t").join(name);
    let put =
        |name: &[u8], frames: usize| clip(&project.path("t").join(OsStr::from_bytes(name)), frames);
    for (number, file) in TREES.iter().enumerate() {
        put(file, 5 + number);
    }
    // Symbolic links that form cycles.
    symlink("../loop", at("loop/again")).unwrap();
    symlink("../../..", at("back/x/y/up")).unwrap();
    symlink("self", at("two/self")).unwrap();
    symlink("../plain", at("two/other")).unwrap();
    // Links to nothing, to a video and to a folder.
    symlink("nowhere", at("link/dangling.y4m")).unwrap();
    symlink("1.y4m", at("link/2.y4m")).unwrap();
    symlink("../plain", at("link/folder.y4m")).unwrap();
    // Metadata that macOS writes beside a file.
    fs::write(at("mac/._1.y4m"), b"\0\x05\x16\x07 macOS").unwrap();
    fs::write(at("plain/empty.y4m"), b"").unwrap();
    fs::write(at("plain/junk.y4m"), b"no video").unwrap();
    fs::write(
        // A Git LFS pointer in place of the video.
        at("plain/pointer.y4m"),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    )
    .unwrap();
    assert!(Command::new("mkfifo").arg(at("plain/fifo.y4m")).status().unwrap().success());
    let _socket = UnixListener::bind(at("plain/socket.y4m")).unwrap();
    let found =
        outcome(&project, "videos: ['t/**/*.y4m', 't/case/*.Y4M', 't/brackets/clip [abc].y4m']");
    assert_same(found, expected(&TREE_OUTCOMES));
}

/// `lost+found` at the root of a disk is such a folder, for every user but root.
#[test]
fn an_unreadable_folder_is_rejected_and_all_other_videos_decoded() {
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
        // Root may read every folder unless it gives up this capability.
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
    wait(run.spawn().unwrap()).success();
    let wanted = [
        ("t/0.y4m", "frames"),
        ("t/closed/", "unreadable_folder"),
        ("t/open/2.y4m", "frames"),
        ("t/unreadable.y4m", "unreadable"),
    ];
    assert_same(rows(&project), expected(&wanted));
    fs::set_permissions(project.path("t/closed"), fs::Permissions::from_mode(0o755)).unwrap();
}
