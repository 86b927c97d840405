//! Validates paths within a workspace, and describes its files. Start at [`location`].
//!
//! **Every path is checked here before it reaches a disk or an object store, and the store uses
//! only the checked path.** Plans and receipts can be edited by hand, so an absolute path or a `..`
//! in one must not reach a file outside the workspace.

use std::time::{SystemTime, UNIX_EPOCH};

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// The number of hexadecimal digits in a task's key.
const KEY_DIGITS: usize = 32;

/// The result of [`Store::create`](super::Store::create).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The file now holds exactly these bytes.
    New,
    /// The file exists with other bytes, from another writer. It is unchanged.
    Exists,
}

/// A file of a store, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// The path, relative to the store.
    pub path: String,
    /// The size in bytes.
    pub bytes: u64,
    /// The time of the last change.
    pub modified: SystemTime,
    /// The object store's etag; `None` in a folder.
    pub etag: Option<String>,
}

impl StoredFile {
    /// Returns whether this is the temporary file of an interrupted create.
    pub(super) fn is_staged(&self) -> bool {
        is_staged(&self.path)
    }

    /// Returns a text that changes with the content: the etag, or without one the modification time
    /// in nanoseconds since 1970.
    #[must_use]
    pub fn version(&self) -> String {
        if let Some(etag) = &self.etag {
            return etag.clone();
        }
        self.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
    }
}

/// An immutable file, as a receipt lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileInfo {
    /// The path, relative to the workspace.
    pub path: String,
    /// The size in bytes.
    pub bytes: u64,
    /// The number of rows; 0 for files without rows.
    pub rows: u64,
    /// The BLAKE3 digest of the content, in hexadecimal.
    pub blake3: String,
}

impl FileInfo {
    /// Returns whether the file holds true actions, by its name.
    #[must_use]
    pub fn holds_actions(&self) -> bool {
        self.path.rsplit('/').next().is_some_and(|name| name.starts_with("actions"))
    }

    /// Checks the size of the file on disk, in bytes.
    pub(super) fn check_size(&self, found: u64) -> Result<()> {
        if found == self.bytes {
            Ok(())
        } else {
            Err(Error::Damaged { path: self.path.clone(), expected: self.bytes, found })
        }
    }

    /// Checks the digest of the content on disk.
    pub(super) fn check_digest(&self, found: blake3::Hash) -> Result<()> {
        let found = found.to_hex();
        if *found == *self.blake3 {
            return Ok(());
        }
        let expected = &self.blake3;
        let reason = format!("its BLAKE3 digest is {found}, expected {expected} by its receipt");
        Err(Error::Corrupt { path: self.path.clone(), reason })
    }
}

/// Returns whether a path is that of a create's temporary file (`name#digits`).
pub(super) fn is_staged(path: &str) -> bool {
    path.contains('#')
}

/// Checks the path of a file in a workspace.
///
/// A path consists of names joined by `/`. A leading or trailing `/`, `.`, `..`, empty names,
/// backslashes and control characters are refused, and never repaired.
pub(super) fn location(path: &str) -> Result<Path> {
    if path.is_empty() {
        return Err(Error::Path { path: path.to_owned(), reason: "it is empty".into() });
    }
    folder(path)
}

/// Checks the path of a folder in a workspace; `""` is the workspace itself.
pub(super) fn folder(path: &str) -> Result<Path> {
    let refused = |reason: String| Err(Error::Path { path: path.to_owned(), reason });
    if path.starts_with('/') {
        return refused("it is absolute, expected a path relative to the workspace".into());
    }
    if let Some(c) = path.chars().find(|&c| c == '\\' || c.is_control()) {
        return refused(format!("it holds the character {c:?}"));
    }
    // The path `""` splits into one empty name: the workspace itself.
    match path.split('/').find(|name| matches!(*name, "" | "." | "..")) {
        Some("") if !path.is_empty() => return refused("a name in it is empty".into()),
        Some(name) if !name.is_empty() => return refused(format!("it holds `{name}`")),
        _ => {}
    }
    object(path)
}

/// Returns the path of any object. Unlike a workspace's file, a video in a bucket may have any
/// name.
pub(super) fn object(key: &str) -> Result<Path> {
    Path::parse(key)
        .map_err(|cause| Error::Path { path: key.to_owned(), reason: cause.to_string() })
}

/// Returns whether a text is a valid name of a stage: letters, digits, `_` and `-`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Returns whether a text is a valid key of a task: 32 lowercase hexadecimal digits.
#[must_use]
pub fn is_key(text: &str) -> bool {
    text.len() == KEY_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::path::{Component, Path as OsPath};

    use rand::{Rng, SeedableRng};

    use super::*;

    /// Paths that must never reach storage.
    const REFUSED: [&str; 20] = [
        "/",
        "/abs",
        "//abs",
        "/abs/x.json",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        ".",
        "./x",
        "a/./x",
        "a//x",
        "a/",
        "//",
        "a\\x",
        "..\\x",
        "a\0x",
        "a/\nx",
        "a\u{7f}",
        "a/\u{85}x",
    ];

    #[test]
    fn paths_that_could_leave_the_workspace_are_errors_with_the_path() {
        for path in REFUSED {
            let error = location(path).unwrap_err();
            assert!(
                matches!(&error, Error::Path { path: named, .. } if named == path),
                "{path:?}: {error}"
            );
            assert!(folder(path).is_err(), "{path:?}");
            assert!(!error.is_transient() && error.hint().is_some(), "{error}");
        }
        // The empty path is a folder, but no file.
        assert!(location("").is_err());
        assert_eq!(folder("").unwrap(), Path::ROOT);
        for path in
            ["a", "frames/data/k/a/shard.arrow", "a/..b", "...", "a/b c", "k4.json#12", "ä/ö"]
        {
            assert_eq!(location(path).unwrap().as_ref(), path);
        }
    }

    #[test]
    fn random_texts_are_refused_or_stay_unchanged_below_the_root() {
        let pieces = [
            "/", "/", "..", ".", "a", "b", "\\", "\0", "\n", "#", "%2e", "%2F", " ", "~", "C:",
            "-", "é", "\u{2028}",
        ];
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let root = OsPath::new("/work/space");
        let mut accepted = 0;
        for _ in 0..100_000 {
            let text: String = (0..rng.random_range(0..8))
                .map(|_| pieces[rng.random_range(0..pieces.len())])
                .collect();
            let Ok(checked) = location(&text) else { continue };
            accepted += 1;
            assert_eq!(checked.as_ref(), text);
            // The operating system's view: only plain names below the root.
            let full = root.join(checked.as_ref());
            let names = full.strip_prefix(root).unwrap().components();
            assert!(
                names.clone().count() > 0
                    && names.clone().all(|part| matches!(part, Component::Normal(_))),
                "{text:?}"
            );
            assert_eq!(names.as_path().to_str(), Some(text.as_str()));
        }
        assert!(accepted > 10_000, "only {accepted} texts were accepted");
    }

    #[test]
    fn only_valid_names_and_keys_are_accepted() {
        assert!(["frames", "a-b_9", "0"].iter().all(|name| is_name(name)));
        assert!(
            ["", "a/b", "..", "a.b", "a b", "ä", "a#1", "a\n"].iter().all(|name| !is_name(name))
        );
        assert!(is_key("0123456789abcdef0123456789abcdef"));
        let long = "0".repeat(33);
        for key in [
            "",
            "0123456789abcdef",
            "0123456789ABCDEF0123456789abcdef",
            &long,
            "../3456789abcdef0123456789abcdef",
        ] {
            assert!(!is_key(key), "{key}");
        }
    }
}
