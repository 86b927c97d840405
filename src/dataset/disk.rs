//! A local folder as a workspace, with atomic creates that survive a power cut. Start at
//! [`Folder::create`].
//!
//! A file counts as written once its bytes and every name on its path are on disk; see [`Durable`].

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::durable::Durable;
use super::error::{Error, Result, io_error};
use super::paths::Created;

/// A workspace's folder. It is created with the first file.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    durable: Durable,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { durable: Durable::new(root.clone()), root }
    }

    /// Returns the full path of a checked path.
    pub(super) fn place(&self, path: &object_store::path::Path) -> PathBuf {
        self.root.join(path.as_ref())
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the record of syncs, for tests.
    #[cfg(test)]
    pub(super) fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Creates a file: writes it under another name, syncs it and links it into place.
    ///
    /// `object_store`'s local `PutMode::Create` links before it syncs, so a power cut could leave
    /// an empty receipt. Hence this function.
    pub(super) fn create(
        &self,
        path: &object_store::path::Path,
        bytes: &[u8],
        lasts: Durability,
    ) -> Result<Created> {
        let target = self.place(path);
        self.durable.make_folder_of(&target)?;
        let staged = staged_beside(&target);
        let written = File::create_new(&staged).and_then(|mut file| {
            file.write_all(bytes)?;
            if lasts == Durability::UntilPowerIsCut {
                Ok(())
            } else {
                self.durable.sync(&file, &staged)
            }
        });
        // A hard link fails if the name exists. This makes the create atomic.
        let placed = written.and_then(|()| put_in_place(&staged, &target));
        // A left-over staged file is harmless: it is never listed or read.
        let _ = fs::remove_file(&staged);
        match placed {
            Ok(()) if lasts == Durability::UntilPowerIsCut => Ok(Created::New),
            Ok(()) => self.durable.sync_names(&target).map(|()| Created::New),
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(cause) => Err(io_error("create", &target)(cause)),
        }
    }

    /// Creates an empty file in place, for one writer.
    pub(super) fn begin(&self, path: &object_store::path::Path) -> Result<(File, PathBuf)> {
        let target = self.place(path);
        self.durable.make_folder_of(&target)?;
        let file = File::create_new(&target).map_err(io_error("create", &target))?;
        Ok((file, target))
    }

    /// Makes the bytes and the name of a file from [`Folder::begin`] durable.
    pub(super) fn finish(&self, file: &File, target: &Path) -> Result<()> {
        self.durable.sync_new(file, target)
    }
}

/// How durable a created file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It survives power cuts.
    Always,
    /// It survives the process, but not a power cut. For files without meaning after a restart,
    /// such as pins.
    UntilPowerIsCut,
}

/// Returns a unique name beside `target`. Listings leave out such names (`name#digits`).
fn staged_beside(target: &Path) -> PathBuf {
    let random = RandomState::new().build_hasher().finish();
    let mut name = target.file_name().unwrap_or_default().to_owned();
    // `object_store` uses the same form for its staged files.
    name.push(format!("#{random}"));
    target.with_file_name(name)
}

/// Gives a staged file its final name, unless the name is taken.
fn put_in_place(staged: &Path, target: &Path) -> io::Result<()> {
    link_or_move(fs::hard_link(staged, target), || {
        Ok(renameat_with(CWD, staged, CWD, target, RenameFlags::NOREPLACE)?)
    })
}

/// Falls back to a rename if hard links are not supported. FAT, exFAT and some FUSE file systems
/// have no hard links, but an atomic rename.
fn link_or_move(
    linked: io::Result<()>,
    move_instead: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let is = |cause: &io::Error, errors: &[Errno]| {
        Errno::from_io_error(cause).is_some_and(|error| errors.contains(&error))
    };
    match linked {
        // File systems without hard links return one of these.
        Err(cause) if is(&cause, &[Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS]) => {
            let cannot =
                |cause: &io::Error| is(cause, &[Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS]);
            move_instead().map_err(|cause| {
                if !cannot(&cause) {
                    return cause;
                }
                let reason =
                    "the file system supports neither hard links nor renames without replacing";
                io::Error::new(ErrorKind::Unsupported, reason)
            })
        }
        linked => linked,
    }
}

/// Returns up to 8 names in a folder, without hidden ones; none if the folder does not exist.
pub(super) fn first_names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", folder))?,
    };
    let names =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    Ok(names.filter(|name| !name.starts_with('.') && name != "lost+found").take(8).collect())
}

/// Returns the time of a file's last change, or `None` if it does not exist.
pub(super) fn modified(file: &Path) -> Result<Option<std::time::SystemTime>> {
    match fs::metadata(file).and_then(|found| found.modified()) {
        Ok(modified) => Ok(Some(modified)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(io_error("look at", file)(cause)),
    }
}

/// Returns the size of a file, or `None` if it does not exist. Symbolic links are not followed, as
/// in listings.
pub(super) fn size(file: &Path) -> Result<Option<u64>> {
    match fs::symlink_metadata(file) {
        Ok(found) => Ok(Some(found.len())),
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(cause) => Err(io_error("look at", file)(cause)),
    }
}

/// Returns the bytes of a file, or `None` if it does not exist.
pub(super) fn read(file: &Path) -> Result<Option<Bytes>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(io_error("read", file)(cause)),
    }
}

/// Opens an existing file. Errors name it `path`.
pub(super) fn open(full: &Path, path: &str) -> Result<File> {
    match File::open(full) {
        Ok(file) => Ok(file),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            Err(Error::Missing { path: path.into() })
        }
        Err(cause) => Err(io_error("open", full)(cause)),
    }
}

/// Deletes a file, if it exists.
pub(super) fn remove_file(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(io_error("delete", file)(cause)),
        _ => Ok(()),
    }
}

/// Deletes a folder with all its files, if it exists.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(io_error("delete", folder)(cause)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::process::Command;

    use super::super::paths::location;
    use super::*;

    #[test]
    fn a_file_system_without_hard_links_and_a_read_only_folder_have_different_hints() {
        let error = |errno: Errno| Err(io::Error::from(errno));
        for errno in [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS] {
            link_or_move(error(errno), || Ok(())).unwrap();
            let taken = link_or_move(error(errno), || error(Errno::EXIST)).unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
            let neither = link_or_move(error(errno), || error(Errno::INVAL)).unwrap_err();
            let neither = io_error("create", "a/receipts/k.json")(neither);
            let text = neither.to_string();
            let hint = neither.hint().unwrap();
            assert!(
                text.contains("a/receipts/k.json")
                    && hint.contains("hard links")
                    && hint.contains("another disk"),
                "{text}; {hint}"
            );
        }
        let forbidden =
            link_or_move(error(Errno::ACCESS), || unreachable!("a rename would fail, too"))
                .unwrap_err();
        assert!(io_error("create", "a")(forbidden).hint().unwrap().contains("writable"));
    }

    #[test]
    fn a_rename_never_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let [staged, target] = ["k.json#1", "k.json"].map(|name| folder.path().join(name));
        let place = || {
            link_or_move(Err(Errno::PERM.into()), || {
                Ok(renameat_with(CWD, &staged, CWD, &target, RenameFlags::NOREPLACE)?)
            })
        };
        fs::write(&staged, b"one").unwrap();
        place().unwrap();
        fs::write(&staged, b"two").unwrap();
        assert_eq!(place().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"one");
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a test reports that it is skipped")]
    fn a_fat_disk_can_hold_a_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let script = "dd if=/dev/zero of=image bs=1M count=4 && mkfs.vfat image \
                      && mkdir disk && mount -o loop image disk";
        let made = Command::new("sh").args(["-c", script]).current_dir(folder.path()).output();
        if !made.is_ok_and(|made| made.status.success()) {
            println!(
                "skipped: formatting and mounting a disk needs root, mkfs.vfat and a loop device"
            );
            return;
        }
        let disk = folder.path().join("disk");
        let store = Folder::new(disk.join("ws"));
        let path = location("frames/receipts/k.json").unwrap();
        let created = [b"one", b"two"].map(|bytes| store.create(&path, bytes, Durability::Always));
        let found = read(&store.place(&path));
        assert!(Command::new("umount").arg(&disk).status().unwrap().success());
        assert_eq!(created.map(Result::unwrap), [Created::New, Created::Exists]);
        assert_eq!(found.unwrap().unwrap(), "one");
    }
}
