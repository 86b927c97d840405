//! What a folder needs to be a workspace: a create that is atomic and lasting.
//!
//! In: a workspace's folder and a path in it. Out: files that survive a power cut.
//! Start at [`create`].

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::{Error, Result};
use super::store::{Created, Stored};

/// Creates a file by writing it aside, syncing it and hard-linking it into place.
///
/// `object_store`'s local `PutMode::Create` links before anything is synced, so a power cut could leave
/// an empty receipt behind; hence this one.
pub(super) fn create(root: &Path, path: &str, bytes: &[u8]) -> Result<Created> {
    let target = root.join(path);
    make_folder_of(&target)?;
    let staged = staged_beside(&target);
    let written = File::create_new(&staged).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let linked = written.and_then(|()| fs::hard_link(&staged, &target));
    // A staged file that stays behind is never listed or read.
    let _ = fs::remove_file(&staged);
    match linked {
        Ok(()) => sync_folders(root, &target).map(|()| Created::New),
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => Ok(Created::Exists),
        Err(cause) => Err(io_error("create", &target)(cause)),
    }
}

/// A name beside `target` that nobody else uses and that listings leave out (`name#digits`).
fn staged_beside(target: &Path) -> PathBuf {
    let random = RandomState::new().build_hasher().finish();
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!("#{random}"));
    target.with_file_name(name)
}

/// Makes the folders above `target`.
pub(super) fn make_folder_of(target: &Path) -> Result<()> {
    let folder = target.parent().unwrap_or(target);
    fs::create_dir_all(folder).map_err(io_error("create the folder", folder))
}

/// Makes the names on the way from `root` to `target` survive a power cut.
pub(super) fn sync_folders(root: &Path, target: &Path) -> Result<()> {
    for folder in target.ancestors().skip(1) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))?;
        if folder == root {
            break;
        }
    }
    Ok(())
}

/// Every file under a folder of `root`, whole or not; a run that lives may delete some meanwhile.
pub(super) fn files(root: &Path, prefix: &str) -> Result<Vec<Stored>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.join(prefix)]);
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(io_error("list", &folder))?,
        };
        for entry in entries {
            let place = entry.map_err(io_error("list", &folder))?.path();
            match place.symlink_metadata() {
                Ok(found) if found.is_dir() => folders.push(place),
                Ok(found) => {
                    let path = place.strip_prefix(root).unwrap_or(&place).to_string_lossy().into_owned();
                    let modified = found.modified().map_err(io_error("look at", &place))?;
                    files.push(Stored { path, bytes: found.len(), modified, etag: None });
                }
                Err(cause) if cause.kind() == ErrorKind::NotFound => {}
                Err(cause) => return Err(io_error("look at", &place)(cause)),
            }
        }
    }
    Ok(files)
}

/// The names of the folders in a folder, which need not exist.
pub(super) fn folders(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", folder))?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The bytes of a file, where there is one.
pub(super) fn read(file: &Path) -> Result<Option<Bytes>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(io_error("read", file)(cause)),
    }
}

/// Opens a file that must be there.
pub(super) fn open(root: &Path, path: &str) -> Result<File> {
    let full = root.join(path);
    match File::open(&full) {
        Ok(file) => Ok(file),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Err(Error::Missing { path: path.into() }),
        Err(cause) => Err(io_error("open", &full)(cause)),
    }
}

/// Removes a file, where there is one.
pub(super) fn remove_file(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(io_error("delete", file)(cause)),
        _ => Ok(()),
    }
}

/// Removes a folder and all that is in it, where there is one.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(io_error("delete", folder)(cause)),
        _ => Ok(()),
    }
}

/// Tells which file an operating system error is about.
pub(super) fn io_error(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Io { action, path: path.as_ref().display().to_string(), cause }
}
