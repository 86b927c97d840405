//! Input files of the user, which must not change between planning and running.

use std::path::Path;

use super::Error;

/// Checks that a file still has the digest it had when the run was planned, so that its result is
/// not stored under the key of its old content.
///
/// # Errors
/// [`Error::Changed`] if it has another digest or cannot be read.
pub(super) fn check_unchanged(path: &Path, digest: &str) -> Result<(), Error> {
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
    if read.is_ok() && hasher.finalize().to_hex().as_str() == digest {
        return Ok(());
    }
    Err(Error::Changed { file: path.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_since_planning_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let planned = blake3::hash(b"").to_hex();
        check_unchanged(file.path(), &planned).expect("it has not changed");
        std::fs::write(file.path(), "later").expect("the file is writable");
        assert!(matches!(check_unchanged(file.path(), &planned), Err(Error::Changed { .. })));
    }
}
