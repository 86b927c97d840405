//! Converts local paths to text and back, without loss. Start at [`path_text`].
//!
//! Datasets, plans and receipts hold paths as text, but a path need not be UTF-8. Any other byte is
//! escaped, such as `\xE9`, and [`local_path`] reads it back. A backslash is escaped as `\x5C` if
//! it would read as an escape, so that two paths never have the same text.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Returns a path as text. Bytes outside UTF-8 are escaped.
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
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02X}"));
        }
    }
    text
}

/// Returns the path of a text: the inverse of [`path_text`].
#[must_use]
pub fn local_path(text: &str) -> Cow<'_, Path> {
    let bytes = text.as_bytes();
    if !text.contains("\\x") {
        return Cow::Borrowed(Path::new(text));
    }
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
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

/// Returns the byte of an escape at the beginning of `text`, if there is one.
fn escaped(text: &[u8]) -> Option<u8> {
    let digits = text
        .strip_prefix(b"\\x")?
        .get(..2)
        .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    // `path_text` never escapes other ASCII bytes: `\x41` is a name of four characters.
    (!byte.is_ascii() || byte == b'\\').then_some(byte)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn every_path_has_its_own_text_and_reads_back() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        // Pieces that join to escapes, halves of escapes, and broken UTF-8.
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
            // Both directions: the text reads back, and no other path has it.
            assert_eq!(local_path(&text).as_os_str().as_bytes(), bytes, "{text}");
            assert_eq!(*texts.entry(text).or_insert_with(|| bytes.clone()), bytes);
        }
        assert_eq!(path_text(Path::new("v/caf\u{e9} \\ \\x41.mp4")), "v/caf\u{e9} \\ \\x41.mp4");
        assert_eq!(bytes_text(b"v/caf\xe9.mp4"), "v/caf\\xE9.mp4");
    }
}
