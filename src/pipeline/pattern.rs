//! Glob patterns of paths and of objects' keys: `data/**/*.mp4`.
//!
//! In: a pattern's text. Out: its parts, which [`super::tree`] follows through folders, and whether they match a key. Start at
//! [`PathPattern::new`].
//!
//! The rules are those of Python's and bash's globs. `*`, `?` and `[...]` match within one part, `**` matches folders at any depth. A part
//! that begins with a dot is hidden: only a part of the pattern that begins with a dot matches it. A part with brackets also matches the
//! name that is written like it, since many programs put brackets into names: `clip [abc].mp4`.

use glob::{MatchOptions, Pattern};

/// One part of a pattern, between two slashes.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// A name without wildcards.
    Name(String),
    /// A name with wildcards; `None`: the wildcards make no sense, and only the name as it is written matches.
    Like(String, Option<Pattern>),
    /// `**`: any number of folders.
    Folders,
}

impl Part {
    /// Returns whether a name matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        let visible = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        match self {
            Part::Name(text) => text == name,
            Part::Like(text, pattern) => {
                text == name
                    || pattern.as_ref().is_some_and(|pattern| pattern.matches_with(name, visible))
            }
            Part::Folders => !name.starts_with('.'),
        }
    }
}

/// A pattern.
#[derive(Clone, Debug)]
pub(super) struct PathPattern {
    /// Its parts; those that are empty or `.` are left out.
    pub(super) parts: Vec<Part>,
    /// Whether it begins at the root.
    pub(super) is_absolute: bool,
    /// What is wrong with its wildcards. The pattern may still name a file as it is written.
    pub(super) fault: Option<String>,
}

impl PathPattern {
    /// Reads a pattern.
    pub(super) fn new(text: &str) -> Self {
        let (mut parts, mut fault) = (Vec::new(), None);
        for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
            match part {
                "**" if matches!(parts.last(), Some(Part::Folders)) => {}
                "**" => parts.push(Part::Folders),
                name if !name.contains(['*', '?', '[']) => parts.push(Part::Name(name.to_owned())),
                like => {
                    let pattern = Pattern::new(like).map_err(|cause| {
                        fault = Some(format!("`{text}` is not a pattern: {cause}"))
                    });
                    parts.push(Part::Like(like.to_owned(), pattern.ok()));
                }
            }
        }
        PathPattern { parts, is_absolute: text.starts_with('/'), fault }
    }

    /// Returns the names that every match begins with, joined by `/`: the folder to be listed.
    pub(super) fn folder(&self) -> String {
        let names =
            self.parts[..self.parts.len().saturating_sub(1)].iter().map_while(|part| match part {
                Part::Name(name) => Some(name.as_str()),
                _ => None,
            });
        names.collect::<Vec<_>>().join("/")
    }

    /// Returns whether an object's key matches. Empty parts and `.` in the key are passed over: a key that holds them is odd, and told.
    pub(super) fn matches(&self, key: &str) -> bool {
        let names: Vec<&str> = key.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        matches(&self.parts, &names)
    }
}

fn matches(parts: &[Part], names: &[&str]) -> bool {
    match (parts, names) {
        ([], []) => true,
        ([Part::Folders], []) => false,
        // At the end `**` stands for all files below.
        ([Part::Folders], [.., _]) => names.iter().all(|name| Part::Folders.matches(name)),
        ([Part::Folders, rest @ ..], _) => {
            let depths = names.iter().take_while(|name| Part::Folders.matches(name)).count();
            (0..=depths).any(|depth| matches(rest, &names[depth..]))
        }
        ([part, parts @ ..], [name, names @ ..]) => part.matches(name) && matches(parts, names),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_as_pythons_glob_would_match_paths() {
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
            good.iter().for_each(|key| assert!(pattern.matches(key), "{pattern:?} {key}"));
            bad.iter().for_each(|key| assert!(!pattern.matches(key), "{pattern:?} {key}"));
        }
        assert!(
            PathPattern::new("v/[x").fault.is_some() && PathPattern::new("v/[x]").fault.is_none()
        );
        assert_eq!(PathPattern::new("a/b/*.mp4").folder(), "a/b");
        assert_eq!(PathPattern::new("a/b.mp4").folder(), "a");
    }
}
