//! Lists the files of a local workspace, in parallel. Start at [`files`].
//!
//! Other processes may change the folder meanwhile.

use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::error::{Result, io_error};
use super::paths::{StoredFile, location};

/// Returns the path of every file under the folder `prefix`, temporary files included.
pub(super) fn paths(root: &Path, prefix: &str) -> Result<Vec<String>> {
    walk(root.join(prefix), prefix.to_owned(), &|_, path| Ok(Some(path)))
}

/// Returns every file under the folder `prefix`, temporary files included. Files deleted meanwhile
/// are left out.
pub(super) fn files(root: &Path, prefix: &str) -> Result<Vec<StoredFile>> {
    walk(root.join(prefix), prefix.to_owned(), &|entry, path| match entry
        .metadata()
        .and_then(|m| Ok((m.len(), m.modified()?)))
    {
        Ok((bytes, modified)) => Ok(Some(StoredFile { path, bytes, modified, etag: None })),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(io_error("read the metadata of", entry.path())(cause)),
    })
}

/// Returns the names of the folders in a folder. It need not exist.
pub(super) fn folders(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", folder))?;
        let name = entry.file_name().into_string().ok().filter(|name| location(name).is_ok());
        names.extend(name.filter(|_| entry.path().is_dir()));
    }
    Ok(names)
}

/// Calls `visit` with every file under `folder` and its path in the workspace, in parallel.
/// `prefix` is the path of `folder` itself.
///
/// Names that are not UTF-8, or have a backslash or a control character, are never given by lapo.
/// They are skipped, with everything below.
fn walk<T: Send>(
    folder: PathBuf,
    prefix: String,
    visit: &(impl Fn(&DirEntry, String) -> Result<Option<T>> + Sync),
) -> Result<Vec<T>> {
    let mut files = Vec::new();
    let mut folders = Vec::new();
    let entries = match fs::read_dir(&folder) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", &folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(io_error("list", &folder))?;
        let Some(name) = entry.file_name().into_string().ok().filter(|name| location(name).is_ok())
        else {
            continue;
        };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => folders.push((entry.path(), path)),
            Ok(_) => files.push((entry, path)),
            // Deleted since the listing.
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => return Err(io_error("read the metadata of", entry.path())(cause)),
        }
    }
    // Entries hold their folder open. They are dropped before the folders below are opened, so that
    // a deep tree does not exhaust the file descriptors.
    let visited: Vec<Option<T>> =
        files.into_par_iter().map(|(entry, path)| visit(&entry, path)).collect::<Result<_>>()?;
    let below: Vec<Vec<T>> = folders
        .into_par_iter()
        .map(|(folder, path)| walk(folder, path, visit))
        .collect::<Result<_>>()?;
    Ok(visited.into_iter().flatten().chain(below.into_iter().flatten()).collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn invalid_names_are_skipped_and_hide_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &Path| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"four").unwrap();
        };
        write(&folder.path().join("a/b/two"));
        write(&folder.path().join("a/one"));
        for odd in
            [&b"a/\xff\xfe"[..], b"a/\xff/inside", b"a/back\\slash", b"a/new\nline", b"\xff/x"]
        {
            write(&folder.path().join(OsStr::from_bytes(odd)));
        }
        // A link is listed as a file, even without a target.
        std::os::unix::fs::symlink("nowhere", folder.path().join("a/link")).unwrap();
        let mut found = paths(folder.path(), "").unwrap();
        found.sort();
        assert_eq!(found, ["a/b/two", "a/link", "a/one"]);
        let sizes = |prefix| {
            files(folder.path(), prefix).unwrap().into_iter().map(|file| (file.path, file.bytes))
        };
        assert_eq!(sizes("a/b").collect::<Vec<_>>(), [("a/b/two".to_owned(), 4)]);
        assert_eq!(sizes("none").count(), 0);
        assert_eq!(super::folders(folder.path()).unwrap(), ["a"]);
    }
}
