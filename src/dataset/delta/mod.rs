//! Publishes a stage's Parquet table as a Delta Lake table: `<stage>/_delta_log/` lists the files
//! of each version. Start at [`publish`].
//!
//! `pl.scan_delta`, `deltalake` and Spark can read the newest version or an older one. Manifests
//! stay authoritative; the log repeats them. Version `n` of the stage is version `n - 1` of the
//! Delta table.
//!
//! Entries and checkpoints are created once and never changed. If a run is killed, the last entries
//! are missing, and the next [`publish`] creates them. The entry of a version without manifest
//! (garbage collection deleted it) changes nothing: its changes are in the next entry. Each entry's
//! `commitInfo.lapo` names the version of the stage in the log after this entry, so the next
//! publisher need not replay the log.

mod actions;
mod checkpoint;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use self::actions::{Action, Add, CommitInfo, Marker, MetaData, Protocol, Remove};
use super::error::Result;
use super::manifest::{self, Manifest};
use super::paths::Created;
use super::paths::FileInfo;
use super::store::Store;
use super::workspace;

/// A checkpoint is written beside every entry with a multiple of this number: readers start there
/// instead of at entry 0.
const CHECKPOINT_EVERY: u64 = 100;

/// A stage with a published table.
#[derive(Debug, Clone, Copy)]
pub struct DeltaTable<'a> {
    /// The workspace's store.
    pub store: &'a Store,
    /// The workspace's id. Together with the stage's name it determines the table's id.
    pub workspace: &'a str,
    /// The stage's name.
    pub stage: &'a str,
}

/// One version of a stage's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableVersion {
    /// The commit's time, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// The run of the commit.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The reason of the commit, in words.
    pub why: String,
    /// The Parquet files of the version, in the dataset's order; see [`Manifest::own_table`].
    pub files: Vec<FileInfo>,
}

/// Creates the missing log entries up to version `newest`, and a checkpoint if one is due.
///
/// `versions` returns a version of the stage, counted from 1, or `None` if garbage collection
/// deleted its manifest. It may be called for any version up to `newest`. Concurrent publishers are
/// harmless.
///
/// # Errors
/// Fails with errors of the store and of `versions`, and with
/// [`Error::ForeignLog`](super::Error::ForeignLog) if another program committed to the table.
/// Created entries stay, and the next call continues from there.
pub fn publish(table: DeltaTable<'_>, newest: u64, versions: &Versions<'_>) -> Result<()> {
    publish_with(table, newest, versions, CHECKPOINT_EVERY)
}

/// Publishes a stage up to its newest version, if its table is Parquet.
///
/// # Errors
/// Fails like [`publish`].
pub fn publish_stage(store: &Store, stage: &str, newest: &Manifest) -> Result<()> {
    let tables = &newest.totals.tables;
    if tables.is_empty() || tables.contains_key("shard.arrow") {
        return Ok(());
    }
    let id = workspace::require(store)?.id;
    let version = |number: u64| {
        // The newest manifest is at hand.
        let manifest = if number == newest.version {
            Some(newest.clone())
        } else {
            manifest::Manifest::read(store, stage, number)?
        };
        let Some(manifest) = manifest else { return Ok(None) };
        let files = match manifest.own_table() {
            Some(table) => manifest.tables(store, table)?,
            None => vec![],
        };
        let Manifest { committed_unix_ms, run, pipeline, why, .. } = manifest;
        Ok(Some(TableVersion { committed_unix_ms, run, pipeline, why, files }))
    };
    publish(DeltaTable { store, workspace: &id, stage }, newest.version, &version)
}

/// A function to look up versions of a stage. It returns `None` if garbage collection deleted the
/// manifest.
pub type Versions<'a> = dyn Fn(u64) -> Result<Option<TableVersion>> + 'a;

fn publish_with(
    table: DeltaTable<'_>,
    newest: u64,
    versions: &Versions<'_>,
    checkpoint_every: u64,
) -> Result<()> {
    let log = Log { table, versions, checkpoint_every };
    let names = table.store.list(&log.folder())?;
    let Some(last) = names.iter().filter_map(|name| number_of(name, ".json")).max() else {
        // No entry yet: publish from the first version.
        return log.extend(State::default(), 1..=newest);
    };
    // A killed run may have created the last due entry without its checkpoint.
    let due = last - last % checkpoint_every;
    if due > 0 && !names.iter().any(|name| number_of(name, ".checkpoint.parquet") == Some(due)) {
        checkpoint::write(&log, due, &log.state(due)?)?;
    }
    if last + 1 >= newest {
        // Checks that the last entry is lapo's: another program's entry would take the place of the
        // next one.
        return log.info(last).map(|_| ());
    }
    // Entry `last` has version `last + 1`.
    log.extend(log.state(last)?, last + 2..=newest)
}

/// The table's state after one of the log's entries.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    /// The version of the stage with these files; 0 for none.
    holds: u64,
    files: Vec<FileInfo>,
    /// The file with the known schema. `None` if the state comes from the log alone: the log has no
    /// order of files.
    first: Option<String>,
    /// The commit time of the last entry's version.
    committed_unix_ms: u64,
    /// The table's metadata; `None` before the first entry.
    metadata: Option<MetaData>,
}

/// The log of one table.
struct Log<'a> {
    table: DeltaTable<'a>,
    versions: &'a Versions<'a>,
    checkpoint_every: u64,
}

impl Log<'_> {
    /// Creates the entries of these versions. `state` is the state before the first one.
    fn extend(&self, mut state: State, versions: RangeInclusive<u64>) -> Result<()> {
        let mut next = *versions.start();
        let newest = *versions.end();
        // Deleted versions at the end are left to a later publisher: their entries need the version
        // after them.
        while let Some((number, version)) = self.first_available(next..=newest)? {
            for deleted in next..number {
                state = self.create_unchanged(deleted, &state, &version)?;
            }
            let after = State {
                holds: number,
                files: version.files.clone(),
                first: first_path(&version.files),
                committed_unix_ms: version.committed_unix_ms,
                metadata: Some(self.metadata(&state, &version)?),
            };
            state = self.create(number, &state, after, &version)?;
            next = number + 1;
        }
        Ok(())
    }

    /// Creates the entry of a deleted version: it changes nothing. `next` is the first later
    /// version with a manifest.
    fn create_unchanged(&self, number: u64, state: &State, next: &TableVersion) -> Result<State> {
        let committed_unix_ms = next.committed_unix_ms;
        // The first entry must have a schema, even if it has no files.
        let metadata = state.metadata.is_none().then(|| self.metadata(state, next)).transpose()?;
        let after = State {
            committed_unix_ms,
            metadata: state.metadata.clone().or(metadata),
            ..state.clone()
        };
        let version = TableVersion { files: vec![], why: COLLECTED.to_owned(), ..next.clone() };
        self.create(number, state, after, &version)
    }

    /// Returns the first of these versions with a manifest.
    fn first_available(
        &self,
        versions: RangeInclusive<u64>,
    ) -> Result<Option<(u64, TableVersion)>> {
        for version in versions {
            if let Some(found) = (self.versions)(version)? {
                return Ok(Some((version, found)));
            }
        }
        Ok(None)
    }

    /// Creates the entry of a version, and its checkpoint if one is due. Returns the state after
    /// it. If another publisher was faster, its entry counts.
    fn create(
        &self,
        number: u64,
        before: &State,
        after: State,
        version: &TableVersion,
    ) -> Result<State> {
        let path = self.entry_path(number - 1);
        let state = match self.table.store.create(&path, &self.entry(before, &after, version)?)? {
            Created::New => after,
            // Another publisher's entry may differ, for a version deleted in between.
            Created::Exists => self.state(number - 1)?,
        };
        if (number - 1).is_multiple_of(self.checkpoint_every) && number > 1 {
            checkpoint::write(self, number - 1, &state)?;
        }
        Ok(state)
    }

    /// Returns the bytes of an entry leading from one state to another, one action a line.
    fn entry(&self, before: &State, after: &State, version: &TableVersion) -> Result<Vec<u8>> {
        let metadata = after.metadata.clone().expect("an entry has a schema");
        let mut actions = vec![Action::CommitInfo(CommitInfo::new(
            version,
            Marker { holds: after.holds, metadata: metadata.clone() },
        ))];
        // The protocol version is in the first entry only.
        if before.metadata.is_none() {
            actions.push(Action::Protocol(Protocol::default()));
        }
        if before.metadata.as_ref() != Some(&metadata) {
            actions.push(Action::MetaData(metadata));
        }
        let (removed, added) = difference(&before.files, &after.files);
        for file in removed {
            actions.push(Action::Remove(Remove::new(
                self.table.stage,
                file,
                version.committed_unix_ms,
            )?));
        }
        for file in added {
            actions.push(Action::Add(Add::new(self.table.stage, file, version.committed_unix_ms)?));
        }
        let mut bytes = Vec::new();
        for action in actions {
            serde_json::to_writer(&mut bytes, &action).expect("an action is JSON");
            bytes.push(b'\n');
        }
        Ok(bytes)
    }

    /// Returns the table's metadata at a version: new if the schema changed, else the metadata of
    /// the state before.
    fn metadata(&self, before: &State, version: &TableVersion) -> Result<MetaData> {
        let first = version.files.first();
        match (&before.metadata, first) {
            (Some(known), None) => return Ok(known.clone()),
            // The same file has the same schema.
            (Some(known), Some(first)) if before.first.as_ref() == Some(&first.path) => {
                return Ok(known.clone());
            }
            _ => {}
        }
        let schema = first.map_or_else(
            || Ok(schema::empty()),
            |first| schema::of_file(self.table.store, &first.path),
        )?;
        match &before.metadata {
            Some(known) if known.schema_string == schema => Ok(known.clone()),
            _ => Ok(MetaData::new(self.table, schema, version.committed_unix_ms)),
        }
    }

    /// Returns the state after an entry.
    fn state(&self, entry: u64) -> Result<State> {
        let CommitInfo { timestamp, lapo: Marker { holds, metadata }, .. } = self.info(entry)?;
        let (files, first) = match holds {
            0 => (vec![], None),
            holds => match (self.versions)(holds)? {
                Some(version) => (version.files.clone(), first_path(&version.files)),
                None => (self.replay(entry)?, None),
            },
        };
        Ok(State { holds, files, first, committed_unix_ms: timestamp, metadata: Some(metadata) })
    }

    /// Returns lapo's own note in an entry.
    fn info(&self, entry: u64) -> Result<CommitInfo> {
        actions::info(&self.entry_path(entry), &self.read(entry)?)
    }

    /// Returns the files listed in the log after an entry, replayed from the last checkpoint. Only
    /// needed for versions without manifest.
    fn replay(&self, last: u64) -> Result<Vec<FileInfo>> {
        let names = self.table.store.list(&self.folder())?;
        let checkpoint = names
            .iter()
            .filter_map(|name| number_of(name, ".checkpoint.parquet"))
            .filter(|number| *number <= last)
            .max();
        let mut files = BTreeMap::new();
        if let Some(checkpoint) = checkpoint {
            files.extend(
                checkpoint::read(self, checkpoint)?
                    .into_iter()
                    .map(|file| (file.path.clone(), file)),
            );
        }
        // Apply later entries in order: a file may be removed and added again.
        for entry in checkpoint.map_or(0, |checkpoint| checkpoint + 1)..=last {
            let path = self.entry_path(entry);
            for action in actions::parse(&path, &self.read(entry)?)? {
                match action {
                    Action::Add(add) => {
                        let file = add.file(self.table.stage, &path)?;
                        files.insert(file.path.clone(), file);
                    }
                    Action::Remove(remove) => {
                        files.remove(&remove.file_path(self.table.stage, &path)?);
                    }
                    _ => {}
                }
            }
        }
        Ok(files.into_values().collect())
    }

    fn read(&self, entry: u64) -> Result<bytes::Bytes> {
        self.table.store.require(&self.entry_path(entry))
    }

    fn folder(&self) -> String {
        format!("{}/_delta_log", self.table.stage)
    }

    fn entry_path(&self, entry: u64) -> String {
        format!("{}/{entry:020}.json", self.folder())
    }
}

/// The reason in the entry of a deleted version.
const COLLECTED: &str =
    "this version was collected before it was published: its changes are in the next one";

fn first_path(files: &[FileInfo]) -> Option<String> {
    files.first().map(|file| file.path.clone())
}

/// Returns the number of an entry or a checkpoint, by its file name.
fn number_of(path: &str, suffix: &str) -> Option<u64> {
    let number = path.rsplit('/').next()?.strip_suffix(suffix)?;
    (number.len() == 20).then(|| number.parse().ok())?
}

/// Returns the files only in `before`, and the files only in `after`.
fn difference<'a>(
    before: &'a [FileInfo],
    after: &'a [FileInfo],
) -> (Vec<&'a FileInfo>, Vec<&'a FileInfo>) {
    // Most versions extend the one before: the common start needs no look-up.
    let same = before.iter().zip(after).take_while(|(one, other)| one.path == other.path).count();
    let paths =
        |files: &'a [FileInfo]| files.iter().map(|file| file.path.as_str()).collect::<HashSet<_>>();
    let had = paths(&before[same..]);
    let has = paths(&after[same..]);
    let removed = before[same..].iter().filter(|file| !has.contains(file.path.as_str())).collect();
    let added = after[same..].iter().filter(|file| !had.contains(file.path.as_str())).collect();
    (removed, added)
}
