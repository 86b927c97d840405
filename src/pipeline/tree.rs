//! Follows a pattern through folders on this machine.
//!
//! In: a [`PathPattern`]. Out: the entries that match, and the folders that cannot be listed. Start at [`walk`].
//!
//! Below `**` every folder is visited once, whatever links lead to it: it is known by device and inode. Folders come before links to
//! folders, so that a video is found under its own path where there is one.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::pattern::{Part, PathPattern};
use crate::dataset::local_path;

/// What a walk has found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Entries that match, of whatever sort.
    pub(super) files: Vec<PathBuf>,
    /// Folders that cannot be listed, and why.
    pub(super) closed: Vec<(PathBuf, io::Error)>,
}

/// Returns what a pattern matches.
pub(super) fn walk(pattern: &PathPattern) -> Walked {
    let mut walker = Walker::default();
    let root = if pattern.is_absolute { PathBuf::from("/") } else { PathBuf::new() };
    walker.follow(&root, &pattern.parts);
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
    /// Follows the rest of a pattern from a folder.
    fn follow(&mut self, folder: &Path, parts: &[Part]) {
        match parts {
            [] => {}
            [Part::Name(name), rest @ ..] => {
                let path = folder.join(local_path(name));
                match rest {
                    [] => self.named(path),
                    _ => self.follow(&path, rest),
                }
            }
            [Part::Folders, rest @ ..] => self.below(folder, rest),
            [Part::Like(..), ..] => {
                let entries = self.list(folder);
                self.like(folder, &entries, parts);
            }
        }
    }

    /// Takes the entries of a listed folder that match the first part, and follows the rest from them.
    fn like(&mut self, folder: &Path, entries: &[Entry], parts: &[Part]) {
        let Some((part, rest)) = parts.split_first() else { return };
        for entry in entries.iter().filter(|entry| part.matches(&entry.name.to_string_lossy())) {
            let path = folder.join(&entry.name);
            match rest {
                // A folder counts only where it is named like a file: `x.mp4/` is a broken video.
                [] if !entry.is_folder || path.extension().is_some() => {
                    self.walked.files.push(path)
                }
                [] => {}
                _ if entry.is_folder => self.follow(&path, rest),
                _ => {}
            }
        }
    }

    /// Follows the rest of a pattern from a folder and all below it.
    fn below(&mut self, folder: &Path, rest: &[Part]) {
        let (mut visited, mut folders, mut links) =
            (HashSet::new(), VecDeque::from([folder.to_owned()]), VecDeque::new());
        while let Some(folder) = folders.pop_front().or_else(|| links.pop_front()) {
            match identity(&folder) {
                Ok(identity) if !visited.insert(identity) => continue,
                Ok(_) => {}
                Err(cause) => {
                    self.close(&folder, cause);
                    continue;
                }
            }
            let entries = self.list(&folder);
            for entry in entries.iter().filter(|entry| {
                entry.is_folder && Part::Folders.matches(&entry.name.to_string_lossy())
            }) {
                let queue = if entry.is_link { &mut links } else { &mut folders };
                queue.push_back(folder.join(&entry.name));
            }
            match rest {
                [] => {
                    let files = entries.iter().filter(|entry| {
                        !entry.is_folder && Part::Folders.matches(&entry.name.to_string_lossy())
                    });
                    self.walked.files.extend(files.map(|entry| folder.join(&entry.name)));
                }
                [Part::Like(..), ..] => self.like(&folder, &entries, rest),
                _ => self.follow(&folder, rest),
            }
        }
    }

    /// Takes a path that is named as it is, if anything is there.
    fn named(&mut self, path: PathBuf) {
        let is_folder = match std::fs::symlink_metadata(&path) {
            Ok(_) => path.is_dir(),
            Err(cause) if is_absent(&cause) => return,
            Err(_) => false,
        };
        if !is_folder || path.extension().is_some() {
            self.walked.files.push(path);
        }
    }

    /// Lists a folder. One that cannot be listed is told, and counts as empty.
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
            self.close(folder, cause);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    fn close(&mut self, folder: &Path, cause: io::Error) {
        if !is_absent(&cause) {
            self.walked.closed.push((folder.to_owned(), cause));
        }
    }
}

/// Returns the device and the inode of a folder.
fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::fs::metadata(place).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Returns whether nothing is there.
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

    /// What a pattern matches below a folder, sorted, relative to it, other bytes escaped.
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
        // A link is the only way there.
        assert_eq!(found(path, "a/other/*.mp4"), ["a/other/2.mp4"]);
        fs::rename(path.join("z"), path.join(".z")).unwrap();
        symlink(".z", path.join("z")).unwrap();
        assert_eq!(found(path, "**/*.mp4"), ["a/1.mp4", "z/2.mp4"]);
    }

    #[test]
    fn hidden_names_match_where_the_pattern_says_so() {
        let folder = tree(&[b"v/1.mp4", b"v/._1.mp4", b".Trash/2.mp4", b"v/.x/3.mp4"]);
        assert_eq!(found(folder.path(), "**/*.mp4"), ["v/1.mp4"]);
        assert_eq!(found(folder.path(), "**"), ["v/1.mp4"]);
        assert_eq!(found(folder.path(), "v/.*.mp4"), ["v/._1.mp4"]);
        assert_eq!(found(folder.path(), ".Trash/*"), [".Trash/2.mp4"]);
        assert_eq!(found(folder.path(), ".*/*"), [".Trash/2.mp4"]);
    }

    #[test]
    fn names_that_are_not_utf8_are_kept_and_shown_escaped() {
        let folder = tree(&[b"v/caf\xe9.mp4", b"d\xe9j\xe0/in.mp4", b"v/ok.mp4"]);
        assert_eq!(
            found(folder.path(), "**/*.mp4"),
            ["d\\xE9j\\xE0/in.mp4", "v/caf\\xE9.mp4", "v/ok.mp4"]
        );
        assert_eq!(found(folder.path(), "v/caf?.mp4"), ["v/caf\\xE9.mp4"]);
        assert_eq!(found(folder.path(), "d\\xE9j\\xE0/*"), ["d\\xE9j\\xE0/in.mp4"]);
    }

    #[test]
    fn brackets_match_as_they_are_written_and_as_classes() {
        let folder =
            tree(&[b"v/clip [abc].mp4", b"v/clip a.mp4", b"[x]/1.mp4", b"v/[odd", b"x/2.mp4"]);
        assert_eq!(found(folder.path(), "v/clip [abc].mp4"), ["v/clip [abc].mp4", "v/clip a.mp4"]);
        assert_eq!(found(folder.path(), "[x]/*.mp4"), ["[x]/1.mp4", "x/2.mp4"]);
        assert_eq!(found(folder.path(), "v/[odd"), ["v/[odd"]);
    }

    #[test]
    fn a_folder_matches_only_where_it_is_named_like_a_file() {
        let folder = tree(&[b"v/x.mp4/inner", b"v/sub/1", b"v/2"]);
        assert_eq!(found(folder.path(), "v/*"), ["v/2", "v/x.mp4"]);
        assert_eq!(found(folder.path(), "v/*/*"), ["v/sub/1", "v/x.mp4/inner"]);
        assert_eq!(found(folder.path(), "v/**"), ["v/2", "v/sub/1", "v/x.mp4/inner"]);
        assert_eq!(found(folder.path(), "none/**/*"), Vec::<String>::new());
    }
}
