//! Finds the files of a [`PathPattern`] on this machine. Start at [`walk`].
//!
//! Below `**` every folder is visited once, whatever links lead to it; folders are identified by
//! device and inode. Real folders are visited before links to folders, so that a video is found
//! under its own path if it has one.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::pattern::{PathPattern, Segment};
use crate::dataset::local_path;

/// The result of a walk.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Matching entries of any file type.
    pub(super) files: Vec<PathBuf>,
    /// Unlistable folders, with the cause.
    pub(super) unlisted: Vec<(PathBuf, io::Error)>,
}

/// Returns the matching entries of a pattern.
pub(super) fn walk(pattern: &PathPattern) -> Walked {
    let mut walker = Walker::default();
    let root = if pattern.is_absolute { PathBuf::from("/") } else { PathBuf::new() };
    walker.follow(&root, &pattern.segments);
    walker.walked
}

/// An entry of a folder.
struct Entry {
    name: OsString,
    is_folder: bool,
    is_link: bool,
}

#[derive(Default)]
struct Walker {
    walked: Walked,
}

impl Walker {
    /// Matches the remaining segments, starting in a folder.
    fn follow(&mut self, folder: &Path, segments: &[Segment]) {
        match segments {
            [] => {}
            [Segment::Name(name), rest @ ..] => {
                let path = folder.join(local_path(name));
                match rest {
                    [] => self.add_literal(path),
                    _ => self.follow(&path, rest),
                }
            }
            [Segment::AnyFolders, rest @ ..] => self.walk_below(folder, rest),
            [Segment::Glob(..), ..] => {
                let entries = self.list(folder);
                self.match_entries(folder, &entries, segments);
            }
        }
    }

    /// Matches the entries of a folder against the first segment, and walks on with the rest.
    fn match_entries(&mut self, folder: &Path, entries: &[Entry], segments: &[Segment]) {
        let Some((segment, rest)) = segments.split_first() else { return };
        for entry in entries.iter().filter(|entry| segment.matches(&entry.name.to_string_lossy())) {
            let path = folder.join(&entry.name);
            match rest {
                // A folder only matches if its name has an extension: `x.mp4/` is a broken video.
                [] if !entry.is_folder || path.extension().is_some() => {
                    self.walked.files.push(path)
                }
                [] => {}
                _ if entry.is_folder => self.follow(&path, rest),
                _ => {}
            }
        }
    }

    /// Matches the remaining segments in a folder and in all folders below it.
    fn walk_below(&mut self, folder: &Path, rest: &[Segment]) {
        let mut visited = HashSet::new();
        let mut folders = VecDeque::from([folder.to_owned()]);
        let mut links = VecDeque::new();
        // Links wait until no real folder is left, so that real paths win.
        while let Some(folder) = folders.pop_front().or_else(|| links.pop_front()) {
            match identity(&folder) {
                // A link, or a loop of links, has led here before.
                Ok(identity) if !visited.insert(identity) => continue,
                Ok(_) => {}
                Err(cause) => {
                    self.record_unlisted(&folder, cause);
                    continue;
                }
            }
            let entries = self.list(&folder);
            for entry in entries.iter().filter(|entry| {
                entry.is_folder && Segment::AnyFolders.matches(&entry.name.to_string_lossy())
            }) {
                let queue = if entry.is_link { &mut links } else { &mut folders };
                queue.push_back(folder.join(&entry.name));
            }
            match rest {
                [] => {
                    let files = entries.iter().filter(|entry| {
                        !entry.is_folder
                            && Segment::AnyFolders.matches(&entry.name.to_string_lossy())
                    });
                    self.walked.files.extend(files.map(|entry| folder.join(&entry.name)));
                }
                [Segment::Glob(..), ..] => self.match_entries(&folder, &entries, rest),
                _ => self.follow(&folder, rest),
            }
        }
    }

    /// Adds a path without wildcards if it exists.
    fn add_literal(&mut self, path: PathBuf) {
        let is_folder = match std::fs::symlink_metadata(&path) {
            Ok(_) => path.is_dir(),
            Err(cause) if is_absent(&cause) => return,
            // Without permission to look, assume a file: decoding it reports the cause.
            Err(_) => false,
        };
        if !is_folder || path.extension().is_some() {
            self.walked.files.push(path);
        }
    }

    /// Lists a folder. An unlistable folder is recorded and counts as empty.
    fn list(&mut self, folder: &Path) -> Vec<Entry> {
        let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let mut entries = Vec::new();
        let listed = std::fs::read_dir(place).and_then(|found| {
            for entry in found {
                let entry = entry?;
                let is_link = entry.file_type()?.is_symlink();
                let is_folder =
                    if is_link { entry.path().is_dir() } else { entry.file_type()?.is_dir() };
                entries.push(Entry { name: entry.file_name(), is_folder, is_link });
            }
            Ok(())
        });
        if let Err(cause) = listed {
            self.record_unlisted(folder, cause);
        }
        // The order of `read_dir` differs between file systems.
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Records an unlistable folder, unless it does not exist.
    fn record_unlisted(&mut self, folder: &Path, cause: io::Error) {
        if !is_absent(&cause) {
            self.walked.unlisted.push((folder.to_owned(), cause));
        }
    }
}

/// Returns the device and inode of a folder.
fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::fs::metadata(place).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Returns whether the cause is a path that does not exist.
fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Returns the sorted matches below a folder, relative to it, with non-UTF-8 bytes escaped.
    fn found(folder: &Path, pattern: &str) -> Vec<String> {
        let walked = walk(&PathPattern::new(&format!("{}/{pattern}", folder.display())));
        let relative =
            |path: &PathBuf| crate::dataset::path_text(path.strip_prefix(folder).unwrap());
        let mut found: Vec<String> = walked.files.iter().map(relative).collect();
        found.sort();
        found
    }

    fn tree(files: &[&[u8]]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(OsStr::from_bytes(file));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        folder
    }

    #[test]
    fn links_to_folders_are_followed_once_and_loops_end() {
        let folder = tree(&[b"a/1.mp4", b"z/2.mp4"]);
        let path = folder.path();
        symlink("..", path.join("a/up")).unwrap();
        symlink(".", path.join("a/here")).unwrap();
        symlink("../z", path.join("a/other")).unwrap();
        symlink("../a", path.join("z/back")).unwrap();
        assert_eq!(found(path, "**/*.mp4"), ["a/1.mp4", "z/2.mp4"]);
        // The folder is reachable only through the link.
        assert_eq!(found(path, "a/other/*.mp4"), ["a/other/2.mp4"]);
        fs::rename(path.join("z"), path.join(".z")).unwrap();
        symlink(".z", path.join("z")).unwrap();
        assert_eq!(found(path, "**/*.mp4"), ["a/1.mp4", "z/2.mp4"]);
    }

    #[test]
    fn hidden_names_match_only_patterns_that_begin_with_a_dot() {
        let folder = tree(&[b"v/1.mp4", b"v/._1.mp4", b".Trash/2.mp4", b"v/.x/3.mp4"]);
        assert_eq!(found(folder.path(), "**/*.mp4"), ["v/1.mp4"]);
        assert_eq!(found(folder.path(), "**"), ["v/1.mp4"]);
        assert_eq!(found(folder.path(), "v/.*.mp4"), ["v/._1.mp4"]);
        assert_eq!(found(folder.path(), ".Trash/*"), [".Trash/2.mp4"]);
        assert_eq!(found(folder.path(), ".*/*"), [".Trash/2.mp4"]);
    }

    #[test]
    fn names_that_are_not_utf8_are_escaped() {
        let folder = tree(&[b"v/caf\xe9.mp4", b"d\xe9j\xe0/in.mp4", b"v/ok.mp4"]);
        assert_eq!(
            found(folder.path(), "**/*.mp4"),
            ["d\\xE9j\\xE0/in.mp4", "v/caf\\xE9.mp4", "v/ok.mp4"]
        );
        assert_eq!(found(folder.path(), "v/caf?.mp4"), ["v/caf\\xE9.mp4"]);
        assert_eq!(found(folder.path(), "d\\xE9j\\xE0/*"), ["d\\xE9j\\xE0/in.mp4"]);
    }

    #[test]
    fn brackets_match_literally_and_as_classes() {
        let folder =
            tree(&[b"v/clip [abc].mp4", b"v/clip a.mp4", b"[x]/1.mp4", b"v/[odd", b"x/2.mp4"]);
        assert_eq!(found(folder.path(), "v/clip [abc].mp4"), ["v/clip [abc].mp4", "v/clip a.mp4"]);
        assert_eq!(found(folder.path(), "[x]/*.mp4"), ["[x]/1.mp4", "x/2.mp4"]);
        assert_eq!(found(folder.path(), "v/[odd"), ["v/[odd"]);
    }

    #[test]
    fn a_folder_matches_only_if_its_name_has_an_extension() {
        let folder = tree(&[b"v/x.mp4/inner", b"v/sub/1", b"v/2"]);
        assert_eq!(found(folder.path(), "v/*"), ["v/2", "v/x.mp4"]);
        assert_eq!(found(folder.path(), "v/*/*"), ["v/sub/1", "v/x.mp4/inner"]);
        assert_eq!(found(folder.path(), "v/**"), ["v/2", "v/sub/1", "v/x.mp4/inner"]);
        assert_eq!(found(folder.path(), "none/**/*"), Vec::<String>::new());
    }
}
