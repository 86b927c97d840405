//! Commits: finished tasks become the next version of a dataset. Start at [`commit`].
//!
//! Versions share packs. A pack stays if most of its rows are still used in their order; the manifest lists its dropped rows. New rows and
//! scattered rows are written to a new pack, together with small packs before them, so that a dataset of n tasks has O(log n) small packs.
//! Small tables of tasks are joined the same way (`join`).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::hashing::{HashMap, HashSet};
use super::manifest::{Changes, Manifest, at, head as head_of, manifest_path, versions};
use super::pack::{self, Pack};
use super::pins;
use super::place::{Created, location};
use super::receipt::{Receipt, file_again, read_receipts, receipt_path, to_json};
use super::store::Store;

mod join;
mod names;

use join::Joining;

/// Who commits what, and why.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// The stage's name.
    pub stage: &'a str,
    /// The stage's kind.
    pub kind: &'a str,
    /// The run's id: runs that began later have a greater one.
    pub run: &'a str,
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// Whether a version of another pipeline becomes this one's although its tasks are the same.
    pub take_over: bool,
    /// The reason, for people.
    pub why: &'a str,
    /// The settings that the tasks share.
    pub settings: &'a Map<String, Value>,
    /// The newest version when the run planned; 0 where there was none.
    pub since: u64,
    /// Now, in milliseconds since 1970.
    pub now_unix_ms: u64,
    /// The size at which joined tables are full.
    pub file_bytes: u64,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// This is the new version.
    New(Manifest),
    /// The newest version has just these tasks.
    Unchanged(Manifest),
    /// A run that began later has committed meanwhile: its version stays.
    Overtaken(Manifest),
}

impl Committed {
    /// The newest version.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::New(manifest) | Self::Unchanged(manifest) | Self::Overtaken(manifest) => manifest,
        }
    }
}

/// Makes the tasks `order` the newest version.
///
/// `fresh` holds receipts by key; of tasks that neither `fresh` nor the newest version has, the receipt is read. A receipt in `fresh` of
/// another attempt than the newest version's replaces it.
///
/// # Errors
/// Where a task has no receipt at all.
pub fn commit(
    store: &Store,
    by: &Commit,
    order: &[String],
    fresh: &HashMap<String, Arc<Receipt>>,
) -> Result<Committed> {
    // A task is part of a version once.
    let mut seen = HashSet::default();
    let order: Vec<String> = order.iter().filter(|key| seen.insert(*key)).cloned().collect();
    let order = order.as_slice();
    let mut newest = head_of(store, by.stage)?;
    loop {
        // Held, and still the newest: a collector keeps it, the number after it, so that no number is given twice, and this run's packs.
        let _held = match pins::committing(
            store,
            by.run,
            by.stage,
            newest.as_ref().map(|head| head.version),
        ) {
            Err(Error::Missing { .. }) => {
                newest = head_of(store, by.stage)?;
                continue;
            }
            held => held?,
        };
        if newest.as_ref().map(|head| head.version) != versions(store, by.stage)?.last().copied() {
            newest = head_of(store, by.stage)?;
            continue;
        }
        let before = Before::read(store, newest.as_ref())?;
        let slots = before.slots(order, fresh);
        let taken_over =
            newest.as_ref().is_some_and(|head| by.take_over && head.pipeline != by.pipeline);
        let damaged =
            newest.as_ref().map_or(Ok(vec![]), |head| head.damaged_tables(store, by.stage))?;
        if let Some(head) =
            newest.as_ref().filter(|_| before.is_same(&slots) && damaged.is_empty() && !taken_over)
        {
            return Ok(Committed::Unchanged(head.clone()));
        }
        if let Some(head) =
            newest.as_ref().filter(|head| head.version > by.since && *head.run > *by.run)
        {
            return Ok(Committed::Overtaken(head.clone()));
        }
        let next = before.next(store, by, order, slots, fresh)?;
        let path = manifest_path(by.stage, next.version);
        if store.create(&path, &to_json(&next))? == Created::New {
            return Ok(Committed::New(next));
        }
        // Another committer was faster. Its version is asked for by name: a listing may be late.
        let theirs = at(store, by.stage, next.version)?;
        newest = head_of(store, by.stage)?
            .filter(|listed| theirs.as_ref().is_none_or(|theirs| listed.version > theirs.version))
            .or(theirs);
    }
}

/// Where the receipt of a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// A row of one of the newest version's packs.
    Kept { pack: usize, row: usize },
    /// Not in the newest version.
    Fresh,
}

/// The newest version when a commit looks.
struct Before<'a> {
    manifest: Option<&'a Manifest>,
    /// Key and attempt of every row, pack by pack.
    entries: Vec<Vec<(String, String)>>,
}

impl<'a> Before<'a> {
    fn read(store: &Store, manifest: Option<&'a Manifest>) -> Result<Self> {
        let packs = manifest.map_or(&[][..], |manifest| &manifest.packs);
        Ok(Self {
            manifest,
            entries: packs.iter().map(|pack| pack.entries(store)).collect::<Result<_>>()?,
        })
    }

    fn packs(&self) -> &'a [Pack] {
        self.manifest.map_or(&[], |manifest| &manifest.packs)
    }

    /// Every row that is part of the version, in order.
    fn rows(&self) -> Vec<Slot> {
        let rows = |(pack, entries): (usize, &Vec<(String, String)>)| {
            self.packs()[pack]
                .kept((0..entries.len()).collect())
                .into_iter()
                .map(move |row| Slot::Kept { pack, row })
                .collect::<Vec<_>>()
        };
        self.entries.iter().enumerate().flat_map(rows).collect()
    }

    /// Where the receipt of each task is.
    fn slots(&self, order: &[String], fresh: &HashMap<String, Arc<Receipt>>) -> Vec<Slot> {
        let mut places = HashMap::default();
        for slot in self.rows() {
            if let Slot::Kept { pack, row } = slot {
                let (key, attempt) = &self.entries[pack][row];
                places.insert(key.as_str(), (slot, attempt.as_str()));
            }
        }
        let place = |key: &String| match places.get(key.as_str()) {
            Some((slot, attempt))
                if fresh.get(key).is_none_or(|receipt| receipt.attempt == *attempt) =>
            {
                *slot
            }
            _ => Slot::Fresh,
        };
        order.iter().map(place).collect()
    }

    fn is_same(&self, slots: &[Slot]) -> bool {
        self.rows() == slots
    }

    /// Writes the packs of the next version.
    fn next(
        &self,
        store: &Store,
        by: &Commit,
        order: &[String],
        slots: Vec<Slot>,
        fresh: &HashMap<String, Arc<Receipt>>,
    ) -> Result<Manifest> {
        let added = self.added(store, by.stage, order, &slots, fresh)?;
        names::check(
            store,
            by.stage,
            self.packs(),
            slots.iter().filter_map(Slot::place),
            added.values(),
        )?;
        let dropped = self.dropped(store, &slots)?;
        let mut totals = self.manifest.map(|manifest| manifest.totals.clone()).unwrap_or_default();
        dropped.iter().for_each(|receipt| totals.remove(receipt));
        added.values().for_each(|receipt| totals.add(receipt));
        let parent = self.manifest.map(|manifest| manifest.version);
        let joined =
            Joining { store, by, before: self, order, slots: &slots, added: &added }.next()?;
        Ok(Manifest {
            format: super::FORMAT,
            version: parent.unwrap_or(0) + 1,
            parent,
            committed_unix_ms: by.now_unix_ms,
            run: by.run.to_owned(),
            pipeline: by.pipeline.to_owned(),
            kind: by.kind.to_owned(),
            why: by.why.to_owned(),
            settings: by.settings.clone(),
            totals,
            changes: Changes {
                tasks_added: added.len() as u64,
                tasks_dropped: dropped.len() as u64,
            },
            packs: self.write(store, by, order, &slots, &added)?,
            joined,
        })
    }

    /// The receipts of tasks that the version before did not have. One that no longer lies in its own file is filed again.
    fn added(
        &self,
        store: &Store,
        stage: &str,
        order: &[String],
        slots: &[Slot],
        fresh: &HashMap<String, Arc<Receipt>>,
    ) -> Result<HashMap<String, Arc<Receipt>>> {
        let keys =
            order.iter().zip(slots).filter(|(_, slot)| **slot == Slot::Fresh).map(|(key, _)| key);
        let (at_hand, filed): (Vec<&String>, Vec<&String>) =
            keys.partition(|key| fresh.contains_key(*key));
        let mut added: HashMap<String, Arc<Receipt>> =
            at_hand.into_iter().map(|key| (key.clone(), fresh[key].clone())).collect();
        file_again(store, stage, added.values())?;
        let paths: Vec<String> = filed.iter().map(|key| receipt_path(stage, key)).collect();
        let read = read_receipts(store, &paths).map_err(|error| match error {
            Error::Missing { path } => {
                Error::MissingReceipt { stage: stage.to_owned(), key: key_of(&path) }
            }
            error => error,
        })?;
        added.extend(read.into_iter().map(|receipt| (receipt.key.clone(), Arc::new(receipt))));
        // A receipt may have been edited: no version lists a file outside the workspace.
        added
            .values()
            .flat_map(|receipt| &receipt.files)
            .try_for_each(|file| location(&file.path).map(|_| ()))?;
        Ok(added)
    }

    /// The receipts of tasks that only the version before has.
    fn dropped(&self, store: &Store, slots: &[Slot]) -> Result<Vec<Arc<Receipt>>> {
        let kept: HashSet<(usize, usize)> = slots.iter().filter_map(Slot::place).collect();
        let mut gone = vec![Vec::new(); self.entries.len()];
        self.rows()
            .iter()
            .filter_map(Slot::place)
            .filter(|place| !kept.contains(place))
            .for_each(|(pack, row)| gone[pack].push(row));
        let mut dropped = Vec::new();
        for (pack, rows) in gone.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let receipts = self.packs()[pack].all_receipts(store)?;
            dropped.extend(rows.into_iter().map(|row| receipts[row].clone()));
        }
        Ok(dropped)
    }

    /// The receipt in a row of a pack; `read` holds the packs that were read.
    fn receipt(
        &self,
        store: &Store,
        pack: usize,
        row: usize,
        read: &mut HashMap<usize, Vec<Arc<Receipt>>>,
    ) -> Result<Arc<Receipt>> {
        if let Some(rows) = read.get(&pack) {
            return Ok(rows[row].clone());
        }
        let rows = self.packs()[pack].all_receipts(store)?;
        Ok(read.entry(pack).or_insert(rows)[row].clone())
    }

    fn write(
        &self,
        store: &Store,
        by: &Commit,
        order: &[String],
        slots: &[Slot],
        added: &HashMap<String, Arc<Receipt>>,
    ) -> Result<Vec<Pack>> {
        let rows: Vec<usize> = self.entries.iter().map(Vec::len).collect();
        let (mut packs, mut read) = (Vec::new(), HashMap::default());
        for piece in pieces(slots, &rows) {
            match piece {
                Piece::Keep { pack, slots: range } => {
                    let kept: HashSet<usize> =
                        slots[range].iter().filter_map(Slot::place).map(|(_, row)| row).collect();
                    let dropped = (0..rows[pack])
                        .filter(|row| !kept.contains(row))
                        .map(|row| row as u32)
                        .collect();
                    packs.push(Pack { file: self.packs()[pack].file.clone(), dropped });
                }
                Piece::Write(range) => {
                    let mut receipts = Vec::with_capacity(range.len());
                    for at in range {
                        receipts.push(match slots[at] {
                            Slot::Fresh => added[&order[at]].clone(),
                            Slot::Kept { pack, row } => {
                                self.receipt(store, pack, row, &mut read)?
                            }
                        });
                    }
                    let path = format!("{}/packs/{}-{}.parquet", by.stage, by.run, fresh_name());
                    packs.push(pack::write(store, &path, &receipts)?);
                }
            }
        }
        Ok(packs)
    }
}

impl Slot {
    fn place(&self) -> Option<(usize, usize)> {
        match *self {
            Slot::Kept { pack, row } => Some((pack, row)),
            Slot::Fresh => None,
        }
    }
}

fn key_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).trim_end_matches(".json").to_owned()
}

fn fresh_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// A part of the next version, as a range of its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Rows of a pack that stays.
    Keep { pack: usize, slots: std::ops::Range<usize> },
    /// Rows of a pack to be written.
    Write(std::ops::Range<usize>),
}

/// More dropped rows than this, and a pack is written anew.
const MOST_DROPPED: usize = 1024;

/// Cuts the tasks of a version into packs that stay and packs to be written; `rows` says how many rows each pack has.
fn pieces(slots: &[Slot], rows: &[usize]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut kept = HashSet::default();
    let mut at = 0;
    while at < slots.len() {
        let end = run_of(slots, at);
        let piece = match slots[at] {
            Slot::Kept { pack, .. } if is_worth(end - at, rows[pack]) && kept.insert(pack) => {
                Piece::Keep { pack, slots: at..end }
            }
            _ => Piece::Write(at..end),
        };
        match (pieces.last_mut(), piece) {
            (Some(Piece::Write(before)), Piece::Write(range)) => before.end = range.end,
            (_, piece) => pieces.push(piece),
        }
        at = end;
    }
    merged(pieces).into_iter().flat_map(split).collect()
}

/// The end of the rows of one pack that begin at `at` and stand in its order, or of the tasks that are in none.
fn run_of(slots: &[Slot], at: usize) -> usize {
    let goes_on = |pair: &[Slot]| match (pair[0], pair[1]) {
        (Slot::Kept { pack, row }, Slot::Kept { pack: next, row: later }) => {
            pack == next && row < later
        }
        (Slot::Fresh, Slot::Fresh) => true,
        _ => false,
    };
    at + 1 + slots[at..].windows(2).take_while(|pair| goes_on(pair)).count()
}

fn is_worth(kept: usize, rows: usize) -> bool {
    kept * 2 >= rows && rows - kept <= MOST_DROPPED
}

/// Merges small packs into the rows that are written behind them.
fn merged(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut merged: Vec<Piece> = Vec::new();
    for piece in pieces {
        let Piece::Write(mut range) = piece else {
            merged.push(piece);
            continue;
        };
        while let Some(before) = merged.last() {
            let (Piece::Keep { slots, .. } | Piece::Write(slots)) = before;
            if slots.len() > 2 * range.len() || slots.len() + range.len() > pack::MOST {
                break;
            }
            range.start = slots.start;
            merged.pop();
        }
        merged.push(Piece::Write(range));
    }
    merged
}

fn split(piece: Piece) -> Vec<Piece> {
    match piece {
        Piece::Write(range) => range
            .clone()
            .step_by(pack::MOST)
            .map(|first| Piece::Write(first..(first + pack::MOST).min(range.end)))
            .collect(),
        kept => vec![kept],
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(super) mod tests {
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::Totals;
    use super::super::faults::{Fault, faulty_store};
    use super::super::receipt::file_receipt;
    use super::super::receipt::tests::{made, receipt};
    use super::*;

    /// A task's key.
    pub fn key(number: usize) -> String {
        format!("{number:032x}")
    }

    /// Makes these receipts the newest version.
    pub fn commit_all(
        store: &Store,
        stage: &str,
        run: &str,
        receipts: &[Arc<Receipt>],
    ) -> Committed {
        let since = head_of(store, stage).unwrap().map_or(0, |head| head.version);
        let (order, fresh) = by_key(receipts);
        commit(store, &by(stage, run, since), &order, &fresh).unwrap()
    }

    pub fn by<'a>(stage: &'a str, run: &'a str, since: u64) -> Commit<'a> {
        static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        let (kind, pipeline, why) = ("decode", "p", "a test");
        Commit {
            stage,
            kind,
            run,
            pipeline,
            take_over: false,
            why,
            settings: &NONE,
            since,
            now_unix_ms: 0,
            file_bytes: 1 << 20,
        }
    }

    pub fn by_key(receipts: &[Arc<Receipt>]) -> (Vec<String>, HashMap<String, Arc<Receipt>>) {
        let order = receipts.iter().map(|receipt| receipt.key.clone()).collect();
        (order, receipts.iter().map(|receipt| (receipt.key.clone(), receipt.clone())).collect())
    }

    #[test]
    fn every_version_is_what_was_committed_whatever_came_and_went() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for store in (0..20).map(|_| faulty_store(&[])) {
            let (mut now, mut all, mut next) = (Vec::new(), Vec::new(), 0);
            for run in 0..12 {
                // Some go, some come back or are new, at the end or between; rarely all are put in another order.
                let share = [0.0, 0.05, 0.6][random.random_range(0..3)];
                now.retain(|_| !random.random_bool(share));
                for _ in 0..random.random_range(0..30) {
                    let at = if random.random_bool(0.8) {
                        now.len()
                    } else {
                        random.random_range(0..=now.len())
                    };
                    now.insert(at, made(&store, "s", &key(next), "a"));
                    next += 1;
                }
                if random.random_bool(0.1) {
                    now.shuffle(&mut random);
                }
                if !now.is_empty() && random.random_bool(0.3) {
                    // Damaged, and made again under its key.
                    let at = random.random_range(0..now.len());
                    store.delete(&receipt_path("s", &now[at].key)).unwrap();
                    now[at] = made(&store, "s", &now[at].key.clone(), &format!("again{run}"));
                }
                commit_all(&store, "s", &format!("{run}"), &now);
                let newest = head_of(&store, "s").unwrap();
                assert_eq!(
                    newest.as_ref().map(|newest| &newest.totals).unwrap_or(&Totals::default()),
                    &Totals::of(&now)
                );
                all.extend(newest.map(|newest| (newest.version, now.clone())));
            }
            for (version, expected) in all {
                let manifest = at(&store, "s", version).unwrap().unwrap();
                assert_eq!(manifest.receipts(&store).unwrap(), expected);
                let files: Vec<_> =
                    expected.iter().flat_map(|receipt| receipt.files.clone()).collect();
                assert_eq!(manifest.files(&store).unwrap(), files);
            }
        }
    }

    #[test]
    fn a_thousand_small_commits_make_few_packs_and_each_writes_little() {
        let store = faulty_store(&[]);
        let mut now: Vec<Arc<Receipt>> = Vec::new();
        let mut written = 0;
        for run in 0..1000 {
            now.push(Arc::new(receipt(&key(run), "a")));
            file_receipt(&store, "s", &now[run]).unwrap();
            let (order, fresh) = (
                now.iter().map(|receipt| receipt.key.clone()).collect::<Vec<_>>(),
                by_key(&now[run..]).1,
            );
            let committed =
                commit(&store, &by("s", &format!("{run:04}"), run as u64), &order, &fresh).unwrap();
            let Committed::New(manifest) = committed else { panic!("{committed:?}") };
            assert!(
                manifest.packs.len() <= 12,
                "{} packs after {run} commits",
                manifest.packs.len()
            );
            written += manifest.packs.last().unwrap().file.rows;
        }
        assert_eq!(head_of(&store, "s").unwrap().unwrap().receipts(&store).unwrap(), now);
        assert!(written < 12_000, "{written} rows were written for 1,000");
    }

    #[test]
    fn of_many_commits_at_once_every_version_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let local = Store::open(folder.path().to_str().unwrap()).unwrap();
        for store in [local, faulty_store(&[])] {
            std::thread::scope(|scope| {
                for i in 0..16 {
                    let store = &store;
                    scope.spawn(move || {
                        let receipt = made(store, "s", &key(i), "a");
                        let (order, fresh) = by_key(&[receipt]);
                        commit(store, &by("s", "1", 99), &order, &fresh).unwrap();
                    });
                }
            });
            assert_eq!(versions(&store, "s").unwrap(), (1..=16).collect::<Vec<_>>());
            for version in 1..=16 {
                let manifest = at(&store, "s", version).unwrap().unwrap();
                assert_eq!(
                    (manifest.parent.unwrap_or(0), manifest.receipts(&store).unwrap().len()),
                    (version - 1, 1)
                );
            }
        }
    }

    #[test]
    fn committing_what_is_there_writes_nothing_and_a_lost_reply_makes_one_version() {
        let store =
            faulty_store(&[Fault::LostReply, Fault::LostReply, Fault::LostReply, Fault::LostReply]);
        let receipts = [made(&store, "s", &key(1), "a")];
        assert!(matches!(commit_all(&store, "s", "1", &receipts), Committed::New(_)));
        let before = store.list("s").unwrap();
        assert!(matches!(commit_all(&store, "s", "2", &receipts), Committed::Unchanged(_)));
        assert_eq!(store.list("s").unwrap(), before);
        let taken = Commit { pipeline: "other", take_over: true, ..by("s", "3", 1) };
        let (order, fresh) = by_key(&receipts);
        assert_eq!(commit(&store, &taken, &order, &fresh).unwrap().manifest().pipeline, "other");
    }

    #[test]
    fn of_runs_that_overlap_the_one_that_began_last_is_the_dataset() {
        let store = faulty_store(&[]);
        let [old, new] = [1, 2].map(|number| made(&store, "s", &key(number), "a"));
        let commit = |run: &str, receipt: &Arc<Receipt>, since: u64| {
            let (order, fresh) = by_key(std::slice::from_ref(receipt));
            let committed = commit(&store, &by("s", run, since), &order, &fresh).unwrap();
            let overtaken = matches!(committed, Committed::Overtaken(_));
            (
                committed.manifest().version,
                committed.manifest().receipts(&store).unwrap()[0].key.clone(),
                overtaken,
            )
        };
        assert_eq!(commit("00000001", &old, 0), (1, key(1), false));
        assert_eq!(
            commit("00000002", &new, 0),
            (2, key(2), false),
            "it began later, and ends later"
        );
        assert_eq!(
            commit("00000001", &old, 0),
            (2, key(2), true),
            "it ends later, but began earlier"
        );
        assert_eq!(
            commit("00000001", &new, 0),
            (2, key(2), false),
            "its tasks are the newest version's"
        );
    }

    #[test]
    fn a_task_without_a_receipt_cannot_be_committed() {
        let store = faulty_store(&[]);
        let error = commit(&store, &by("s", "1", 0), &[key(1)], &HashMap::default()).unwrap_err();
        assert!(
            matches!(&error, Error::MissingReceipt { key: missing, .. } if *missing == key(1)),
            "{error}"
        );
        assert_eq!(head_of(&store, "s").unwrap(), None);
    }

    #[test]
    fn a_manifest_whose_number_is_not_its_name_is_an_error_and_no_endless_loop() {
        let store = faulty_store(&[]);
        let receipts = [1, 2].map(|number| made(&store, "s", &key(number), "a"));
        commit_all(&store, "s", "1", &receipts[..1]);
        let copy = store.require(&manifest_path("s", 1)).unwrap();
        store.create(&manifest_path("s", 3), &copy).unwrap();
        let (order, fresh) = by_key(&receipts);
        let error = commit(&store, &by("s", "2", 1), &order, &fresh).unwrap_err();
        assert!(matches!(error, Error::Misnamed { .. }), "{error}");
    }
}
