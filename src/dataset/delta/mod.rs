//! A stage's own Parquet table as a Delta Lake table: `<stage>/_delta_log/` says which files each version holds.
//!
//! In: the versions of a stage. Out: one log entry a version, so that `pl.scan_delta`, `deltalake` and Spark read the newest version or
//! an older one. Start at [`publish`].
//!
//! Manifests stay the truth, and the log repeats them. Version `n` of the stage is version `n - 1` of the Delta table. Entries and
//! checkpoints are created once and never changed. A killed run leaves the last entries missing, and the next [`publish`] creates them.
//! An entry for a version whose manifest was collected changes nothing: its changes are in the next entry. Each entry says in its
//! `commitInfo.lapo` which version the log holds after it, so that the next one needs no replay.

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
use super::place::Created;
use super::place::FileInfo;
use super::store::Store;
use super::workspace;

/// A checkpoint is written beside every entry whose number is a multiple of this: readers start there instead of at entry 0.
const CHECKPOINT_EVERY: u64 = 100;

/// A stage whose own table is published.
#[derive(Debug, Clone, Copy)]
pub struct DeltaTable<'a> {
    /// Where the workspace is.
    pub store: &'a Store,
    /// The workspace's id: with the stage's name it decides the table's id.
    pub workspace: &'a str,
    /// The stage's name.
    pub stage: &'a str,
}

/// One version of a stage's own table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableVersion {
    /// When it was committed, in milliseconds since 1970.
    pub committed_unix_ms: u64,
    /// The run that committed it.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// Why it was committed, for people.
    pub why: String,
    /// The Parquet files it holds, in the dataset's order; see [`Manifest::own_table`].
    pub files: Vec<FileInfo>,
}

/// Creates the log entries that are missing, up to version `newest`, and a checkpoint where one is due.
///
/// `versions` returns a version of the stage, counted from 1, or `None` once its manifest was collected. It may be called for any version
/// up to `newest`, and two publishers at once are harmless.
///
/// # Errors
/// Those of the store and of `versions`; [`Error::ForeignLog`](super::Error::ForeignLog) where another program committed to the table. What was created stays, and
/// the next call goes on from there.
pub fn publish(table: DeltaTable<'_>, newest: u64, versions: &Versions<'_>) -> Result<()> {
    publish_with(table, newest, versions, CHECKPOINT_EVERY)
}

/// Publishes a stage up to its newest version, if its own table is Parquet.
///
/// # Errors
/// Those of [`publish`].
pub fn publish_stage(store: &Store, stage: &str, newest: &Manifest) -> Result<()> {
    let tables = &newest.totals.tables;
    if tables.is_empty() || tables.contains_key("shard.arrow") {
        return Ok(());
    }
    let id = workspace::require(store)?.id;
    let version = |number: u64| {
        let older =
            if number == newest.version { None } else { manifest::at(store, stage, number)? };
        let Some(manifest) = (if number == newest.version { Some(newest) } else { older.as_ref() })
        else {
            return Ok(None);
        };
        let Manifest { committed_unix_ms, run, pipeline, why, .. } = manifest.clone();
        let files = manifest.own_table().map_or(Ok(vec![]), |sort| manifest.tables(store, sort))?;
        Ok(Some(TableVersion { committed_unix_ms, run, pipeline, why, files }))
    };
    publish(DeltaTable { store, workspace: &id, stage }, newest.version, &version)
}

/// Returns a version of a stage, or `None` once its manifest was collected.
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
        return log.extend(State::default(), 1..=newest);
    };
    let due = last - last % checkpoint_every;
    if due > 0 && !names.iter().any(|name| number_of(name, ".checkpoint.parquet") == Some(due)) {
        checkpoint::write(&log, due, &log.state(due)?)?;
    }
    if last + 1 >= newest {
        // Another program's entry would hide the next one of ours.
        return log.info(last).map(|_| ());
    }
    log.extend(log.state(last)?, last + 2..=newest)
}

/// What the log says after one of its entries.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    /// The version of the stage whose files these are; 0 for none.
    holds: u64,
    files: Vec<FileInfo>,
    /// The file that the schema was read from, unless the state comes from the log alone, which knows no order.
    first: Option<String>,
    /// When the version of the last entry was committed.
    committed_unix_ms: u64,
    /// The schema, once there is an entry.
    metadata: Option<MetaData>,
}

struct Log<'a> {
    table: DeltaTable<'a>,
    versions: &'a Versions<'a>,
    checkpoint_every: u64,
}

impl Log<'_> {
    /// Creates the entries of these versions, the first of which follows on `state`.
    fn extend(&self, mut state: State, versions: RangeInclusive<u64>) -> Result<()> {
        let (mut next, newest) = versions.into_inner();
        // Trailing versions that were collected are left to a publisher that knows what came after them.
        while let Some((known, version)) = self.first_known(next..=newest)? {
            for collected in next..known {
                state = self.create_collected(collected, &state, &version)?;
            }
            let TableVersion { ref files, committed_unix_ms, .. } = version;
            let (first, metadata) = (first_path(files), Some(self.metadata(&state, &version)?));
            let after =
                State { holds: known, files: files.clone(), first, committed_unix_ms, metadata };
            state = self.create(known, &state, after, &version)?;
            next = known + 1;
        }
        Ok(())
    }

    /// Creates the entry of a version that was collected; `next` is the version after it that is there.
    fn create_collected(&self, number: u64, state: &State, next: &TableVersion) -> Result<State> {
        let committed_unix_ms = next.committed_unix_ms;
        // The first entry must state a schema, whatever else it says.
        let metadata = state.metadata.is_none().then(|| self.metadata(state, next)).transpose()?;
        let after = State {
            committed_unix_ms,
            metadata: state.metadata.clone().or(metadata),
            ..state.clone()
        };
        self.create(
            number,
            state,
            after,
            &TableVersion { files: vec![], why: COLLECTED.to_owned(), ..next.clone() },
        )
    }

    /// Finds the first of some versions that was not collected.
    fn first_known(&self, versions: RangeInclusive<u64>) -> Result<Option<(u64, TableVersion)>> {
        for version in versions {
            if let Some(found) = (self.versions)(version)? {
                return Ok(Some((version, found)));
            }
        }
        Ok(None)
    }

    /// Creates the entry of a version, and its checkpoint if one is due. Returns what the log says then: where another publisher was
    /// faster, its entry counts.
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
            Created::Exists => self.state(number - 1)?,
        };
        if (number - 1).is_multiple_of(self.checkpoint_every) && number > 1 {
            checkpoint::write(self, number - 1, &state)?;
        }
        Ok(state)
    }

    /// Returns the bytes of an entry that leads from one state to another: an action a line.
    fn entry(&self, before: &State, after: &State, version: &TableVersion) -> Result<Vec<u8>> {
        let metadata = after.metadata.clone().expect("an entry has a schema");
        let mut actions = vec![Action::CommitInfo(CommitInfo::new(
            version,
            Marker { holds: after.holds, metadata: metadata.clone() },
        ))];
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

    /// Returns the table's metadata at a version: new where the schema is, else that of the state before.
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

    /// Returns what the log says after an entry.
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

    /// Returns what we noted in an entry.
    fn info(&self, entry: u64) -> Result<CommitInfo> {
        actions::info(&self.entry_path(entry), &self.read(entry)?)
    }

    /// Returns the files that the log lists after an entry, by reading it from the checkpoint before: for versions that were collected.
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
        for entry in checkpoint.map_or(0, |checkpoint| checkpoint + 1)..=last {
            let path = self.entry_path(entry);
            for action in actions::parse(&path, &self.read(entry)?)? {
                match action {
                    Action::Add(add) => {
                        let file = add.file(self.table.stage, &path)?;
                        files.insert(file.path.clone(), file);
                    }
                    Action::Remove(remove) => {
                        _ = files.remove(&remove.file_path(self.table.stage, &path)?)
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

/// The reason in an entry of a version that was collected before the entry was written.
const COLLECTED: &str =
    "this version was collected before it was published: its changes are in the next one";

fn first_path(files: &[FileInfo]) -> Option<String> {
    files.first().map(|file| file.path.clone())
}

/// Returns the number of a file of the log, if its name is that of an entry or a checkpoint.
fn number_of(path: &str, suffix: &str) -> Option<u64> {
    let number = path.rsplit('/').next()?.strip_suffix(suffix)?;
    (number.len() == 20).then(|| number.parse().ok())?
}

/// Returns the files that only the first list has, and those that only the second one has.
fn difference<'a>(
    before: &'a [FileInfo],
    after: &'a [FileInfo],
) -> (Vec<&'a FileInfo>, Vec<&'a FileInfo>) {
    // Most versions extend the one before: what both begin with needs no look-up.
    let same = before.iter().zip(after).take_while(|(one, other)| one.path == other.path).count();
    let paths =
        |files: &'a [FileInfo]| files.iter().map(|file| file.path.as_str()).collect::<HashSet<_>>();
    let (had, has) = (paths(&before[same..]), paths(&after[same..]));
    let removed = before[same..].iter().filter(|file| !has.contains(file.path.as_str())).collect();
    let added = after[same..].iter().filter(|file| !had.contains(file.path.as_str())).collect();
    (removed, added)
}
