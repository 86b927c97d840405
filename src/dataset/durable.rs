//! Makes new files durable with as few syncs as the file system allows. Start at
//! [`Durable::sync_names`].

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::error::{Result, io_error};

/// File systems with ordered metadata, by the type in `statfs`. ext2 shares its number with ext4;
/// ext4's code serves it and syncs new names itself.
#[cfg(target_os = "linux")]
const ORDERED: [u64; 8] = [
    0xEF53,      // ext4
    0x5846_5342, // XFS
    0x9123_683E, // btrfs
    0xF2F5_2010, // F2FS
    0x2FC1_2FC1, // ZFS
    0x794C_7630, // overlayfs, with an upper layer of one of these
    0x6969,      // NFS: the server makes names durable before it answers
    0x0102_1994, // tmpfs: nothing survives a power cut anyway
];
/// The most folders to remember as durable.
const MAX_REMEMBERED: usize = 4096;

/// Makes the files of a workspace's folder durable.
#[derive(Debug)]
pub(super) struct Durable {
    root: PathBuf,
    names: OnceLock<Names>,
    /// Every synced path, in order.
    #[cfg(test)]
    synced: Mutex<Vec<PathBuf>>,
}

/// Which names a sync makes durable besides the file or folder itself.
#[derive(Debug)]
enum Names {
    /// All names above. The file system writes metadata in the order of the changes, so syncing a
    /// new file or its folder includes the names of all folders above it. A data file costs 1 sync,
    /// a create 2.
    Ordered,
    /// None, as in POSIX: each folder with a new name must be synced. A data file in two new
    /// folders costs 4 syncs.
    Each(Mutex<KnownFolders>),
}

/// Folders with known state.
#[derive(Debug, Default)]
struct KnownFolders {
    /// Folders with durable names, up to the root.
    durable: HashSet<PathBuf>,
    /// Folders above the root created by this process.
    above: HashSet<PathBuf>,
}

impl Durable {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            names: OnceLock::new(),
            #[cfg(test)]
            synced: Mutex::default(),
        }
    }

    fn names(&self) -> &Names {
        self.names.get_or_init(|| {
            if has_ordered_metadata(&self.root) {
                Names::Ordered
            } else {
                Names::Each(Mutex::default())
            }
        })
    }

    /// Creates the folders above `target`.
    pub(super) fn make_folder_of(&self, target: &Path) -> Result<()> {
        let folder = target.parent().unwrap_or(target);
        let made = make_folders(folder).map_err(io_error("create the folder", folder))?;
        if let Names::Each(known) = self.names() {
            let mut known = lock(known);
            for folder in made {
                // A folder deleted and created again has a new name to sync.
                known.durable.remove(&folder);
                if !folder.starts_with(&self.root) {
                    known.above.insert(folder);
                }
            }
        }
        Ok(())
    }

    /// Makes the bytes and the name of a new file durable.
    pub(super) fn sync_new(&self, file: &File, target: &Path) -> Result<()> {
        self.sync(file, target).map_err(io_error("sync", target))?;
        match self.names() {
            Names::Ordered => Ok(()),
            Names::Each(_) => self.sync_names(target),
        }
    }

    /// Makes the name of `target` and of all folders above it durable.
    pub(super) fn sync_names(&self, target: &Path) -> Result<()> {
        let folder = target.parent().unwrap_or(target);
        self.sync_folder(folder)?;
        let Names::Each(known) = self.names() else { return Ok(()) };
        let mut now_durable = Vec::new();
        for folder in folder.ancestors() {
            let Some(above) = folder.parent() else { break };
            // An existing folder may be new, too: another process may have just created it. So this
            // process syncs every folder once.
            let is_done = {
                let known = lock(known);
                let is_ours = folder.starts_with(&self.root) || known.above.contains(folder);
                !is_ours || known.durable.contains(folder)
            };
            if is_done {
                break;
            }
            match self.sync_folder(above) {
                // Folders above the workspace may be unreadable for this user.
                Err(error)
                    if error.io_kind() == Some(ErrorKind::PermissionDenied)
                        && !above.starts_with(&self.root) => {}
                synced => synced?,
            }
            now_durable.push(folder.to_owned());
        }
        let mut known = lock(known);
        if known.durable.len() + now_durable.len() > MAX_REMEMBERED {
            // Forgetting folders only costs extra syncs.
            known.durable.clear();
        }
        known.durable.extend(now_durable);
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> Result<()> {
        match File::open(folder).and_then(|file| self.sync(&file, folder)) {
            // File systems without support for syncing folders return this error.
            Err(cause) if cause.kind() == ErrorKind::InvalidInput => Ok(()),
            synced => synced.map_err(io_error("sync", folder)),
        }
    }

    /// Calls fsync: the only place in this module. Tests count `_path`.
    pub(super) fn sync(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_all()?;
        #[cfg(test)]
        lock(&self.synced).push(_path.to_owned());
        Ok(())
    }
}

/// Returns whether the file system of an existing folder writes metadata in order.
fn has_ordered_metadata(folder: &Path) -> bool {
    #[cfg(target_os = "linux")]
    // An unknown file system gets POSIX guarantees only.
    return rustix::fs::statfs(folder)
        .is_ok_and(|found| ORDERED.contains(&u64::try_from(found.f_type).unwrap_or(0)));
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// Creates a folder and its missing parents. Returns the new ones, the highest first.
pub(super) fn make_folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let make = || match fs::create_dir(folder) {
        Ok(()) => Ok(vec![folder.to_owned()]),
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(Vec::new()),
        Err(cause) => Err(cause),
    };
    match (make(), folder.parent()) {
        (Err(cause), Some(above)) if cause.kind() == ErrorKind::NotFound => {
            let mut made = make_folders(above)?;
            made.extend(make()?);
            Ok(made)
        }
        (made, _) => made,
    }
}

/// Locks a mutex. A poisoned lock is fine: no thread leaves a half-done change under it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeSet;

    use rand::{Rng, SeedableRng};

    use super::super::disk::{Durability, Folder};
    use super::super::paths::location;
    use super::*;

    impl Durable {
        /// Treats the file system like one with only POSIX guarantees.
        pub fn expect_no_order(&self) {
            self.names.set(Names::Each(Mutex::default())).unwrap();
        }

        /// Returns all paths synced since the last call.
        pub fn take_synced(&self) -> Vec<PathBuf> {
            std::mem::take(&mut lock(&self.synced))
        }
    }

    /// Returns every file and folder below `folder`.
    fn tree(folder: &Path) -> BTreeSet<PathBuf> {
        let mut paths = BTreeSet::new();
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                paths.extend(tree(&path));
            }
            paths.insert(path);
        }
        paths
    }

    /// A simulated disk with POSIX guarantees: a name survives a power cut if its folder was synced
    /// after the name was created.
    #[derive(Default)]
    struct Disk {
        durable: BTreeSet<PathBuf>,
    }

    impl Disk {
        fn update(&mut self, base: &Path, synced: &[PathBuf]) {
            let now = tree(base);
            self.durable.retain(|path| now.contains(path));
            let is_synced = |path: &PathBuf| {
                synced.iter().any(|folder| Some(folder.as_path()) == path.parent())
            };
            self.durable.extend(now.iter().filter(|path| is_synced(path)).cloned());
        }

        fn survives(&self, base: &Path, file: &Path) -> bool {
            file.ancestors()
                .take_while(|path| *path != base)
                .all(|path| self.durable.contains(path))
        }
    }

    #[test]
    fn finished_files_survive_a_power_cut_on_a_disk_without_ordered_metadata() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let names = ["a", "b", "data", "receipts"];
        for _ in 0..60 {
            let folder = tempfile::tempdir().unwrap();
            // Neither the root nor its parent folder exists.
            let store = Folder::new(folder.path().join("new/ws"));
            store.durable().expect_no_order();
            let mut disk = Disk::default();
            for number in 0..12 {
                let depth = rng.random_range(0..4);
                let above: String = (0..depth)
                    .map(|_| format!("{}/", names[rng.random_range(0..names.len())]))
                    .collect();
                let path = location(&format!("{above}file{number}")).unwrap();
                if rng.random() {
                    store.create(&path, b"x", Durability::Always).unwrap();
                } else {
                    let (file, target) = store.begin(&path).unwrap();
                    store.finish(&file, &target).unwrap();
                }
                disk.update(folder.path(), &store.durable().take_synced());
                assert!(disk.survives(folder.path(), &store.place(&path)), "{path}");
                if rng.random_range(0..4) == 0 {
                    // A folder deleted and created again has a new name.
                    let _ = fs::remove_dir_all(
                        store.place(&location(names[rng.random_range(0..names.len())]).unwrap()),
                    );
                    disk.update(folder.path(), &[]);
                }
            }
        }
    }

    /// Writes the files of five label tasks. Returns the syncs of each task after the first one.
    fn syncs_of_a_task(store: &Folder) -> Vec<usize> {
        let count = |task: usize| {
            let data = format!("labels/data/k{task}/a{task}/labels.parquet");
            let (file, target) = store.begin(&location(&data).unwrap()).unwrap();
            store.finish(&file, &target).unwrap();
            let receipt = location(&format!("labels/receipts/k{task}.json")).unwrap();
            store.create(&receipt, b"{}", Durability::Always).unwrap();
            store.durable().take_synced().len()
        };
        (0..5).map(count).skip(1).collect()
    }

    #[test]
    fn a_task_with_one_file_costs_3_syncs_with_ordered_metadata_and_6_without() {
        let folder = tempfile::tempdir().unwrap();
        let [ordered, other] =
            ["ordered", "other"].map(|name| Folder::new(folder.path().join(name)));
        ordered.durable().names.set(Names::Ordered).unwrap();
        other.durable().expect_no_order();
        assert_eq!(syncs_of_a_task(&ordered), [3; 4]);
        assert_eq!(syncs_of_a_task(&other), [6; 4]);
    }
}
