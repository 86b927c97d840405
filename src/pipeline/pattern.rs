//! Glob patterns for paths and object keys: `data/**/*.mp4`.
//!
//! [`PathPattern::new`] splits a pattern into segments. [`super::tree`] walks folders with them,
//! and [`PathPattern::matches`] compares them with an object key.
//!
//! The rules are the rules of Python and bash:
//!
//! - `*`, `?` and `[...]` match within one segment, `**` matches folders at any depth.
//! - Names with a leading dot are hidden: only a segment with a leading dot matches them.
//! - A segment with brackets also matches its own literal text, because many programs put brackets
//!   into file names: `clip [abc].mp4`.

use glob::{MatchOptions, Pattern};

/// One segment of a pattern, between two slashes.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    /// A literal name.
    Name(String),
    /// A name with wildcards. With `None` the wildcards are malformed and only the literal name
    /// matches.
    Glob(String, Option<Pattern>),
    /// `**`: any number of folders.
    AnyFolders,
}

impl Segment {
    /// Returns whether a name matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        let visible = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        match self {
            Segment::Name(text) => text == name,
            Segment::Glob(text, pattern) => {
                // A name with brackets also matches literally.
                text == name
                    || pattern.as_ref().is_some_and(|pattern| pattern.matches_with(name, visible))
            }
            Segment::AnyFolders => !name.starts_with('.'),
        }
    }
}

/// A parsed pattern.
#[derive(Clone, Debug)]
pub(super) struct PathPattern {
    /// Its segments, without empty ones and `.`.
    pub(super) segments: Vec<Segment>,
    /// Whether it starts at the root folder.
    pub(super) is_absolute: bool,
    /// The error of malformed wildcards. The pattern may still match a literal name.
    pub(super) fault: Option<String>,
}

impl PathPattern {
    /// Parses a pattern.
    pub(super) fn new(text: &str) -> Self {
        let mut segments = Vec::new();
        let mut fault = None;
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            match part {
                // `**/**` is the same as `**`.
                "**" if matches!(segments.last(), Some(Segment::AnyFolders)) => {}
                "**" => segments.push(Segment::AnyFolders),
                name if !name.contains(['*', '?', '[']) => {
                    segments.push(Segment::Name(name.to_owned()))
                }
                glob => {
                    let pattern = Pattern::new(glob).map_err(|cause| {
                        fault = Some(format!("`{text}` is not a pattern: {cause}"))
                    });
                    segments.push(Segment::Glob(glob.to_owned(), pattern.ok()));
                }
            }
        }
        PathPattern { segments, is_absolute: text.starts_with('/'), fault }
    }

    /// Returns the literal folder of all matches, joined by `/`. Listing starts there.
    pub(super) fn folder(&self) -> String {
        let names =
            self.segments[..self.segments.len().saturating_sub(1)].iter().map_while(|part| {
                match part {
                    Segment::Name(name) => Some(name.as_str()),
                    _ => None,
                }
            });
        names.collect::<Vec<_>>().join("/")
    }

    /// Returns whether an object key matches. Empty segments and `.` in the key are ignored; such
    /// keys are reported as odd elsewhere.
    pub(super) fn matches(&self, key: &str) -> bool {
        let names: Vec<&str> = key.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        matches(&self.segments, &names)
    }
}

/// Matches segments against the names of a key, recursively.
fn matches(segments: &[Segment], names: &[&str]) -> bool {
    match (segments, names) {
        ([], []) => true,
        // `v/**` does not match the folder `v` itself.
        ([Segment::AnyFolders], []) => false,
        // A trailing `**` matches all files below.
        ([Segment::AnyFolders], [.., _]) => {
            names.iter().all(|name| Segment::AnyFolders.matches(name))
        }
        ([Segment::AnyFolders, rest @ ..], _) => {
            // Try every depth that `**` can cover.
            let depths = names.iter().take_while(|name| Segment::AnyFolders.matches(name)).count();
            (0..=depths).any(|depth| matches(rest, &names[depth..]))
        }
        ([segment, rest @ ..], [name, names @ ..]) => segment.matches(name) && matches(rest, names),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_like_paths_in_python_glob() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            (
                "v/*.mp4",
                &["v/a.mp4", "v//odd.mp4"],
                &["v/.a.mp4", "v/b/a.mp4", "a.mp4", "v/a.mp4/x"],
            ),
            (
                "**/*.mp4",
                &["a.mp4", "v/a.mp4", "v/w/a.mp4"],
                &[".trash/a.mp4", "v/.t/a.mp4", "v/._a.mp4"],
            ),
            ("v/**", &["v/a", "v/b/c"], &["v", "w/a", "v/.a", "v/.b/c"]),
            ("v/.*", &["v/.a"], &["v/a"]),
            (".v/*", &[".v/a"], &["v/a"]),
            ("v/clip [abc].mp4", &["v/clip [abc].mp4", "v/clip a.mp4"], &["v/clip abc.mp4"]),
            ("v/[x", &["v/[x"], &["v/x"]),
            ("a/**/b/**/c", &["a/b/c", "a/x/b/y/z/c"], &["a/c", "b/c"]),
            ("**/**/c", &["c", "x/c"], &["x/d"]),
        ];
        for (pattern, good, bad) in cases {
            let pattern = PathPattern::new(pattern);
            for key in good {
                assert!(pattern.matches(key), "{pattern:?} {key}");
            }
            for key in bad {
                assert!(!pattern.matches(key), "{pattern:?} {key}");
            }
        }
        assert!(
            PathPattern::new("v/[x").fault.is_some() && PathPattern::new("v/[x]").fault.is_none()
        );
        assert_eq!(PathPattern::new("a/b/*.mp4").folder(), "a/b");
        assert_eq!(PathPattern::new("a/b.mp4").folder(), "a");
    }
}
