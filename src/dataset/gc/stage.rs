//! The survey of one stage. Start at [`Stage::survey`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::data_folder;
use super::super::error::{Error, Result};
use super::super::manifest::{Manifest, manifest_path};
use super::super::paths::{StoredFile, is_key};
use super::super::receipt::find_receipts;
use super::super::store::Store;
use super::{Garbage, GarbageReason, Keep, Live, garbage_of};

/// Returns the run in the path of a pack or of joined tables: `<stage>/packs/<run>-...`.
pub(super) fn run_of(path: &str) -> Option<&str> {
    path.split('/').nth(2)?.split_once('-').map(|(run, _)| run)
}

/// The kind of a file in a stage's folder.
#[derive(Debug, PartialEq, Eq)]
enum FileKind<'a> {
    Manifest(u64),
    Receipt(&'a str),
    Pack,
    /// The folder's name, `<run>-...`.
    Joined(&'a str),
    Data {
        key: &'a str,
        attempt: &'a str,
    },
    Checkpoint(&'a str),
    /// A file being created, or left over from a killed process.
    Staged,
}

/// Returns the kind of a file by its path below the stage's folder; `None` for files not written by
/// lapo.
fn classify(path: &str) -> Option<FileKind<'_>> {
    let mut parts = path.splitn(4, '/');
    let (folder, first, second, rest) = (parts.next()?, parts.next()?, parts.next(), parts.next());
    let is_staged =
        |name: &str| name.rsplit_once('#').is_some_and(|(_, digits)| digits.parse::<u64>().is_ok());
    match (folder, second, rest) {
        ("manifests" | "receipts" | "packs", None, None) if is_staged(first) => {
            Some(FileKind::Staged)
        }
        ("manifests", None, None) => {
            let number = first.strip_suffix(".json").filter(|digits| digits.len() == 10)?;
            Some(FileKind::Manifest(number.parse().ok()?))
        }
        ("receipts", None, None) => {
            first.strip_suffix(".json").filter(|key| is_key(key)).map(FileKind::Receipt)
        }
        ("packs", None, None) => first.ends_with(".parquet").then_some(FileKind::Pack),
        ("tables", Some(file), None) if first.contains('-') && file.ends_with(".parquet") => {
            Some(FileKind::Joined(first))
        }
        ("data", Some(attempt), Some(_)) if is_key(first) && is_attempt(attempt) => {
            Some(FileKind::Data { key: first, attempt })
        }
        ("checkpoints", Some(_), _) if is_key(first) => Some(FileKind::Checkpoint(first)),
        _ => None,
    }
}

fn is_attempt(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The files and manifests of one stage.
pub(super) struct Stage<'a> {
    name: String,
    keep: &'a Keep,
    live: &'a Live<'a>,
    files: Vec<StoredFile>,
    /// Every version with its file's time of change, oldest first.
    pub(super) manifests: Vec<(Manifest, SystemTime)>,
}

/// A folder deleted or kept as a whole.
struct Folder {
    garbage: Garbage,
    /// The last change of any file in it.
    modified: SystemTime,
    is_needed: bool,
}

/// Folders by reason and path.
type Folders = BTreeMap<(GarbageReason, String), Folder>;

impl<'a> Stage<'a> {
    pub(super) fn read(
        store: &Store,
        name: &str,
        keep: &'a Keep,
        live: &'a Live<'a>,
    ) -> Result<Self> {
        let files = store.files(name)?;
        let mut manifests = Vec::new();
        for file in &files {
            if let Some(FileKind::Manifest(version)) = classify(&file.path[name.len() + 1..]) {
                // `None`: another collector deleted it since the listing.
                let manifest = Manifest::read(store, name, version)?;
                manifests.extend(manifest.map(|manifest| (manifest, file.modified)));
            }
        }
        Ok(Stage { name: name.to_owned(), keep, live, files, manifests })
    }

    /// Adds the stage's unused files to `garbage`.
    pub(super) fn survey(&self, store: &Store, garbage: &mut Vec<Garbage>) -> Result<()> {
        let (old, kept): (Vec<_>, Vec<_>) =
            (0..self.manifests.len()).partition(|index| self.is_old_version(*index));
        let kept = kept.iter().map(|index| &self.manifests[*index].0);
        let needed = Needed::read(store, &self.name, kept)?;
        let old_manifests: HashSet<String> = old
            .iter()
            .map(|index| manifest_path(&self.name, self.manifests[*index].0.version))
            .collect();
        let mut unused_receipts = HashSet::new();
        let mut folders = Folders::new();
        let mut attempts = HashMap::<&str, HashSet<&str>>::new();
        for file in &self.files {
            let Some(kind) = classify(&file.path[self.name.len() + 1..]) else { continue };
            match kind {
                FileKind::Manifest(_) if old_manifests.contains(&file.path) => {
                    garbage.push(self.garbage_of(GarbageReason::Version, file));
                }
                FileKind::Receipt(key) if self.is_unused_receipt(key, file, &needed) => {
                    unused_receipts.insert(key);
                    garbage.push(self.garbage_of(GarbageReason::Receipt, file));
                }
                FileKind::Pack if self.is_unused_pack(file, &needed) => {
                    garbage.push(self.garbage_of(GarbageReason::Pack, file));
                }
                FileKind::Staged if self.keep.is_abandoned(file) => {
                    garbage.push(self.garbage_of(GarbageReason::Staged, file));
                }
                FileKind::Data { key, attempt } => {
                    attempts.entry(key).or_default().insert(attempt);
                    self.add_to_folder(&mut folders, kind, file, &needed);
                }
                kind => self.add_to_folder(&mut folders, kind, file, &needed),
            }
        }
        let filed_data = self.filed_data(store, &attempts, &needed)?;
        garbage.extend(self.unused_folders(folders, &filed_data, &unused_receipts));
        Ok(())
    }

    /// Returns whether a version is not among the newest, was superseded long enough ago, and is
    /// not pinned.
    fn is_old_version(&self, index: usize) -> bool {
        let Some(kept_versions) = self.keep.versions else { return false };
        let version = self.manifests[index].0.version;
        // Committers' clocks may be wrong: the later of the stated and the file's time counts.
        let superseded = self.manifests.get(index + 1).map(|(next, written)| {
            (UNIX_EPOCH + Duration::from_millis(next.committed_unix_ms)).max(*written)
        });
        index + kept_versions < self.manifests.len()
            && superseded.is_some_and(|superseded| self.keep.is_past(superseded))
            && !self.live.holds(&self.name, version)
    }

    fn is_unused_receipt(&self, key: &str, file: &StoredFile, needed: &Needed) -> bool {
        self.keep.versions.is_some()
            && !needed.keys.contains(key)
            && !self.is_pinned(key)
            && self.keep.is_old(file)
    }

    fn is_unused_pack(&self, file: &StoredFile, needed: &Needed) -> bool {
        !needed.packs.contains(&file.path)
            && self.keep.is_old(file)
            && !self.live.is_of_live_run(&file.path)
    }

    fn is_pinned(&self, key: &str) -> bool {
        self.live.keys.contains(&(self.name.as_str(), key))
    }

    /// Adds a file to its folder's size and age. Files deleted one by one are ignored.
    fn add_to_folder(
        &self,
        folders: &mut Folders,
        kind: FileKind,
        file: &StoredFile,
        needed: &Needed,
    ) {
        let (reason, path, is_needed) = match kind {
            FileKind::Joined(name) => (
                GarbageReason::Joined,
                format!("{}/tables/{name}", self.name),
                needed.joined.contains(&file.path) || self.live.is_of_live_run(&file.path),
            ),
            FileKind::Checkpoint(key) => (
                GarbageReason::Checkpoint,
                format!("{}/checkpoints/{key}", self.name),
                self.is_pinned(key),
            ),
            FileKind::Data { key, attempt } => (
                GarbageReason::Attempt,
                format!("{}/data/{key}/{attempt}", self.name),
                self.is_pinned(key) || needed.has_task(key, attempt),
            ),
            _ => return,
        };
        let folder = folders.entry((reason, path.clone())).or_insert_with(|| Folder {
            garbage: Garbage { path, files: 0, bytes: 0, ..self.garbage_of(reason, file) },
            modified: file.modified,
            is_needed,
        });
        folder.garbage.files += 1;
        folder.garbage.bytes += file.bytes;
        folder.modified = folder.modified.max(file.modified);
    }

    /// Returns the unused ones of these folders. `filed_data` has the folders named by receipts.
    fn unused_folders(
        &self,
        folders: Folders,
        filed_data: &HashSet<String>,
        unused_receipts: &HashSet<&str>,
    ) -> Vec<Garbage> {
        let mut unused = Vec::new();
        for ((reason, path), Folder { mut garbage, modified, is_needed }) in folders {
            let key = path.split('/').nth(2).unwrap_or_default();
            let is_filed = reason == GarbageReason::Attempt && filed_data.contains(&path);
            if is_needed || (is_filed && !unused_receipts.contains(key)) {
                continue;
            }
            // Data of an unused receipt go with it; everything else must be old enough itself.
            if is_filed {
                garbage.what = GarbageReason::Data;
                unused.push(garbage);
            } else if self.keep.is_past(modified) {
                unused.push(garbage);
            }
        }
        unused
    }

    /// Returns the data folders named by receipts. A receipt is read only if its task has data not
    /// named by any kept version.
    fn filed_data(
        &self,
        store: &Store,
        attempts: &HashMap<&str, HashSet<&str>>,
        needed: &Needed,
    ) -> Result<HashSet<String>> {
        let mut keys: Vec<String> = attempts
            .iter()
            .filter(|(key, attempts)| attempts.iter().any(|one| !needed.has_task(key, one)))
            .map(|(key, _)| (*key).to_owned())
            .collect();
        keys.sort_unstable();
        let receipts = find_receipts(store, &self.name, &keys)?.into_iter().flatten();
        Ok(receipts
            .map(|receipt| data_folder(&self.name, &receipt.key, &receipt.attempt))
            .collect())
    }

    fn garbage_of(&self, reason: GarbageReason, file: &StoredFile) -> Garbage {
        garbage_of(&self.name, reason, file)
    }
}

/// The tasks and files of kept versions.
#[derive(Default)]
pub(super) struct Needed {
    pub(super) keys: HashSet<String>,
    /// Key and attempt.
    tasks: HashSet<(String, String)>,
    pub(super) packs: HashSet<String>,
    /// Files of joined tables.
    pub(super) joined: HashSet<String>,
}

impl Needed {
    /// Reads the tasks and files of versions.
    pub(super) fn read<'m>(
        store: &Store,
        stage: &str,
        manifests: impl Iterator<Item = &'m Manifest>,
    ) -> Result<Self> {
        let mut needed = Self::default();
        let mut entries_by_pack = HashMap::new();
        for manifest in manifests {
            match needed.add(store, manifest, &mut entries_by_pack) {
                // Another collector deleted this version since: it needs nothing.
                Err(Error::Missing { .. })
                    if Manifest::read(store, stage, manifest.version)?.is_none() => {}
                added => added?,
            }
        }
        needed.keys = needed.tasks.iter().map(|(key, _)| key.clone()).collect();
        Ok(needed)
    }

    fn has_task(&self, key: &str, attempt: &str) -> bool {
        self.tasks.contains(&(key.to_owned(), attempt.to_owned()))
    }

    /// Adds one version. Versions share packs, so each pack is read once.
    fn add(
        &mut self,
        store: &Store,
        manifest: &Manifest,
        entries_by_pack: &mut HashMap<String, Vec<(String, String)>>,
    ) -> Result<()> {
        self.joined.extend(manifest.joined.iter().map(|joined| joined.file.path.clone()));
        for pack in &manifest.packs {
            let path = &pack.file.path;
            self.packs.insert(path.clone());
            if !entries_by_pack.contains_key(path) {
                entries_by_pack.insert(path.clone(), pack.entries(store)?);
            }
            self.tasks.extend(pack.kept(entries_by_pack[path].clone()));
        }
        Ok(())
    }
}
