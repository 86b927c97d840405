//! The parent of a new version, and the next version made from it. Start at [`Parent::next`].

use std::sync::Arc;

use super::super::FORMAT;
use super::super::manifest::Changes;
use super::super::pack;
use super::super::paths::location;
use super::super::receipt::{read_receipts, receipt_path, recreate_missing_receipts};
use super::join::TableJoin;
use super::pack_layout::{Piece, lay_out};
use super::{
    Commit, Error, HashMap, HashSet, Manifest, Pack, Receipt, Result, Store, fresh_name,
    unique_names,
};

/// The place of a task's receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// A row in a pack of the parent.
    Kept { pack: usize, row: usize },
    /// Not in the parent.
    Fresh,
}

/// The newest version at the time of a commit; empty for the first commit.
pub(super) struct Parent<'a> {
    pub(super) manifest: Option<&'a Manifest>,
    /// Key and attempt of every row, dropped ones included, pack by pack.
    entries: Vec<Vec<(String, String)>>,
}

impl<'a> Parent<'a> {
    /// Reads the keys and attempts of a version.
    pub(super) fn read(store: &Store, manifest: Option<&'a Manifest>) -> Result<Self> {
        let packs = manifest.map_or(&[][..], |manifest| &manifest.packs);
        Ok(Self {
            manifest,
            entries: packs.iter().map(|pack| pack.entries(store)).collect::<Result<_>>()?,
        })
    }

    pub(super) fn packs(&self) -> &'a [Pack] {
        self.manifest.map_or(&[], |manifest| &manifest.packs)
    }

    /// Returns every row of the version, in order.
    pub(super) fn rows(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        for (pack, entries) in self.entries.iter().enumerate() {
            let rows = self.packs()[pack].kept((0..entries.len()).collect());
            slots.extend(rows.into_iter().map(|row| Slot::Kept { pack, row }));
        }
        slots
    }

    /// Returns the place of each task's receipt. A receipt in `fresh` of another attempt than the
    /// parent's counts as new.
    pub(super) fn slots(
        &self,
        order: &[String],
        fresh: &HashMap<String, Arc<Receipt>>,
    ) -> Vec<Slot> {
        let mut places = HashMap::default();
        for slot in self.rows() {
            if let Slot::Kept { pack, row } = slot {
                let (key, attempt) = &self.entries[pack][row];
                places.insert(key.as_str(), (slot, attempt.as_str()));
            }
        }
        let slot_of = |key: &String| match places.get(key.as_str()) {
            Some((slot, attempt))
                if fresh.get(key).is_none_or(|receipt| receipt.attempt == *attempt) =>
            {
                *slot
            }
            _ => Slot::Fresh,
        };
        order.iter().map(slot_of).collect()
    }

    /// Returns whether the version has exactly these receipts, in this order.
    pub(super) fn is_same(&self, slots: &[Slot]) -> bool {
        self.rows() == slots
    }

    /// Writes the packs and joined tables of the next version. Returns its manifest, not yet
    /// created.
    pub(super) fn next(
        &self,
        store: &Store,
        by: &Commit,
        order: &[String],
        slots: &[Slot],
        fresh: &HashMap<String, Arc<Receipt>>,
    ) -> Result<Manifest> {
        let added = self.added(store, by.stage, order, slots, fresh)?;
        let kept = slots.iter().filter_map(Slot::place);
        // Check before writing: a refused commit leaves no files.
        unique_names::check(store, by.stage, self.packs(), kept, added.values())?;
        let dropped = self.dropped(store, slots)?;
        // Totals are updated, not recounted: a commit of one task must not read a million receipts.
        let mut totals = self.manifest.map(|manifest| manifest.totals.clone()).unwrap_or_default();
        for receipt in &dropped {
            totals.remove(receipt);
        }
        for receipt in added.values() {
            totals.add(receipt);
        }
        let parent = self.manifest.map(|manifest| manifest.version);
        let joined = TableJoin { store, by, parent: self, order, slots, added: &added }.run()?;
        Ok(Manifest {
            format: FORMAT,
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
            packs: self.write_packs(store, by, order, slots, &added)?,
            joined,
        })
    }

    /// Returns the receipts of tasks not in the parent. A missing receipt file is created again.
    fn added(
        &self,
        store: &Store,
        stage: &str,
        order: &[String],
        slots: &[Slot],
        fresh: &HashMap<String, Arc<Receipt>>,
    ) -> Result<HashMap<String, Arc<Receipt>>> {
        let mut added = HashMap::default();
        let mut unread = Vec::new();
        for (key, _) in order.iter().zip(slots).filter(|(_, slot)| **slot == Slot::Fresh) {
            match fresh.get(key) {
                Some(receipt) => _ = added.insert(key.clone(), receipt.clone()),
                None => unread.push(receipt_path(stage, key)),
            }
        }
        // Garbage collection may have deleted a receipt since the task finished.
        recreate_missing_receipts(store, stage, added.values())?;
        let read = read_receipts(store, &unread).map_err(|error| match error {
            Error::Missing { path } => {
                Error::MissingReceipt { stage: stage.to_owned(), key: key_of(&path) }
            }
            error => error,
        })?;
        added.extend(read.into_iter().map(|receipt| (receipt.key.clone(), Arc::new(receipt))));
        // A receipt may have been edited by hand. A version must not list a file outside the
        // workspace.
        for file in added.values().flat_map(|receipt| &receipt.files) {
            location(&file.path)?;
        }
        Ok(added)
    }

    /// Returns the receipts of tasks only in the parent.
    fn dropped(&self, store: &Store, slots: &[Slot]) -> Result<Vec<Arc<Receipt>>> {
        let kept: HashSet<(usize, usize)> = slots.iter().filter_map(Slot::place).collect();
        let mut gone = vec![Vec::new(); self.entries.len()];
        let places = self.rows().into_iter().filter_map(|slot| slot.place());
        for (pack, row) in places.filter(|place| !kept.contains(place)) {
            gone[pack].push(row);
        }
        let mut dropped = Vec::new();
        for (pack, rows) in gone.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let receipts = self.packs()[pack].all_receipts(store)?;
            dropped.extend(rows.into_iter().map(|row| receipts[row].clone()));
        }
        Ok(dropped)
    }

    /// Returns the receipt in a row of a pack. `read` caches packs.
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

    /// Returns the packs of the next version. It keeps packs of the parent and writes new ones.
    fn write_packs(
        &self,
        store: &Store,
        by: &Commit,
        order: &[String],
        slots: &[Slot],
        added: &HashMap<String, Arc<Receipt>>,
    ) -> Result<Vec<Pack>> {
        let rows: Vec<usize> = self.entries.iter().map(Vec::len).collect();
        let mut packs = Vec::new();
        let mut read = HashMap::default();
        for piece in lay_out(slots, &rows) {
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
                    // The run in the name keeps garbage collection away from uncommitted packs.
                    let path = format!("{}/packs/{}-{}.parquet", by.stage, by.run, fresh_name());
                    packs.push(pack::write(store, &path, &receipts)?);
                }
            }
        }
        Ok(packs)
    }
}

impl Slot {
    /// Returns the pack and the row of a receipt in the parent.
    pub(super) fn place(&self) -> Option<(usize, usize)> {
        match *self {
            Slot::Kept { pack, row } => Some((pack, row)),
            Slot::Fresh => None,
        }
    }
}

/// Returns the key in the path of a receipt.
fn key_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).trim_end_matches(".json").to_owned()
}
