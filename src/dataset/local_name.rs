//! Names of local files as text.
//!
//! In: a path, whose bytes need not be UTF-8. Out: text that says the same path, and the path of such a text. Start at [`path_text`].
//!
//! Datasets, plans and receipts hold names as text. A byte that is not UTF-8 is written as `\xE9`, and read back by [`local_path`]. A
//! backslash that would be read as such a byte is written as `\x5C`, so that two paths never have the same text.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Returns a path as text: the path itself where it is UTF-8, else with the other bytes escaped.
#[must_use]
pub fn path_text(path: &Path) -> String {
    bytes_text(path.as_os_str().as_bytes())
}

/// Returns the bytes of a path as text; see [`path_text`].
#[must_use]
pub fn bytes_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for (at, character) in chunk.valid().char_indices() {
            if character == '\\' && escaped(&chunk.valid().as_bytes()[at..]).is_some() {
                text.push_str("\\x5C");
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
    }
    text
}

/// Returns the path that a text names: the reverse of [`path_text`].
#[must_use]
pub fn local_path(text: &str) -> Cow<'_, Path> {
    let bytes = text.as_bytes();
    if !text.contains("\\x") {
        return Cow::Borrowed(Path::new(text));
    }
    let (mut path, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match escaped(&bytes[at..]) {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(PathBuf::from(OsString::from_vec(path)))
}

/// Returns the byte that an escape at the beginning of `text` stands for: one that is not ASCII, or a backslash.
fn escaped(text: &[u8]) -> Option<u8> {
    let digits = text
        .strip_prefix(b"\\x")?
        .get(..2)
        .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (!byte.is_ascii() || byte == b'\\').then_some(byte)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn every_path_has_a_text_of_its_own_that_names_it() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let pieces: [&[u8]; 12] = [
            b"a",
            b"\\",
            b"x",
            b"5C",
            b"5c",
            b"E9",
            b"\xe9",
            b"\xc3",
            b"\xa9",
            b"/",
            b"\xff",
            "\u{e9}".as_bytes(),
        ];
        let mut texts = std::collections::HashMap::new();
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.random_range(0..8))
                .flat_map(|_| pieces[rng.random_range(0..pieces.len())])
                .copied()
                .collect();
            let text = bytes_text(&bytes);
            assert_eq!(local_path(&text).as_os_str().as_bytes(), bytes, "{text}");
            assert_eq!(*texts.entry(text).or_insert_with(|| bytes.clone()), bytes);
        }
        assert_eq!(path_text(Path::new("v/caf\u{e9} \\ \\x41.mp4")), "v/caf\u{e9} \\ \\x41.mp4");
        assert_eq!(bytes_text(b"v/caf\xe9.mp4"), "v/caf\\xE9.mp4");
    }
}
