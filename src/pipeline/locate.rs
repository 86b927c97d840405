//! Finds the place of a key path in a YAML file: `["stages", "labels", "label", "frame"]` is at
//! line 12, column 7.
//!
//! The YAML parser reveals a position only through an error. So [`locate`] walks the file with a
//! visitor that follows the path and fails on purpose when it arrives. It runs once per fault,
//! after all checks.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The part of an entry to point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The key.
    Key,
    /// The value after the key.
    Value,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// Returns the place of `path` in `text`, or else of its longest existing prefix.
pub fn locate(text: &str, path: &[String], part: Part) -> Option<Place> {
    (0..=path.len()).rev().find_map(|length| {
        // A prefix stands for a missing entry, so point at the key of its parent.
        let part = if length == path.len() { part } else { Part::Key };
        let walk = Walk { path: &path[..length], part };
        let error = walk.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
        let at = error.location()?;
        Some(Place { line: at.line(), column: at.column() })
    })
}

/// Follows a path through a document, and fails at its end.
struct Walk<'a> {
    path: &'a [String],
    part: Part,
}

/// The message of the deliberate error. Only the position of the error is used.
const ARRIVED: &str = "arrived";

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((head, rest)) = self.path.split_first() else {
            return Err(A::Error::custom(ARRIVED));
        };
        let wants_key = rest.is_empty() && self.part == Part::Key;
        // Other entries are skipped without looking inside.
        while let Some(found) = map.next_key_seed(Key { wanted: head, stop: wants_key })? {
            if found {
                map.next_value_seed(Walk { path: rest, part: self.part })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((head, rest)) = self.path.split_first() else {
            return Err(A::Error::custom(ARRIVED));
        };
        // The path leads into a mapping, but the file has a list here.
        let Ok(wanted) = head.parse::<usize>() else { return Ok(()) };
        for _ in 0..wanted {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(Walk { path: rest, part: self.part })?;
        // The parser requires that every element is read.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.leaf()
    }
    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.leaf()
    }
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.leaf()
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.leaf()
    }
    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.leaf()
    }
}

impl Walk<'_> {
    /// A scalar is either the end of the path or not on it.
    fn leaf<E: serde::de::Error>(self) -> Result<(), E> {
        if self.path.is_empty() { Err(E::custom(ARRIVED)) } else { Ok(()) }
    }
}

/// Compares a key with the wanted one. With `stop`, fails at the wanted key to reveal its position.
struct Key<'a> {
    wanted: &'a str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.stop {
            Err(E::custom(ARRIVED))
        } else {
            Ok(key == self.wanted)
        }
    }
    fn visit_bool<E: serde::de::Error>(self, key: bool) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }
    fn visit_i64<E: serde::de::Error>(self, key: i64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }
    fn visit_u64<E: serde::de::Error>(self, key: u64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }
    fn visit_f64<E: serde::de::Error>(self, key: f64) -> Result<bool, E> {
        self.visit_str(&key.to_string())
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<bool, E> {
        self.visit_str("~")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: x
stages:
  frames:
    decode:
      videos: [\"a\", 7]
      size: big
";

    fn check(path: &str, part: Part, expect: (usize, usize)) {
        let path: Vec<String> = path.split('.').map(String::from).collect();
        let place = locate(TEXT, &path, part).expect("every path has a nearest place");
        assert_eq!((place.line, place.column), expect, "{path:?} {part:?}");
    }

    #[test]
    fn keys_values_and_list_items_are_found() {
        check("name", Part::Key, (1, 1));
        check("name", Part::Value, (1, 7));
        check("stages.frames.decode.size", Part::Key, (6, 7));
        check("stages.frames.decode.size", Part::Value, (6, 13));
        check("stages.frames.decode.videos.1", Part::Value, (5, 21));
    }

    #[test]
    fn a_missing_key_has_the_place_of_its_parent() {
        check("stages.frames.decode.fps", Part::Value, (4, 5));
        check("workspace", Part::Value, (1, 1));
    }
}
