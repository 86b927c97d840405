//! Joins the small tables of a version into larger ones. Start at [`TableJoin::run`].
//!
//! Tables of similar size are joined, as packs are: a file joins the next larger one unless that is
//! more than twice as large as all smaller ones together. So a version has few small files, and a
//! row is rewritten O(log n) times until its file is full. A joined table stays as long as the
//! version has all its tasks. If it loses a task, its other tasks are joined anew.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rayon::prelude::*;

use super::super::joined::{JoinedTable, join};
use super::super::paths::FileInfo;
use super::super::table::table_name;
use super::{Commit, HashMap, HashSet, Parent, Receipt, Result, Slot, Store, fresh_name};

/// A joined table is rewritten if its tasks are scattered over more stretches of the dataset's
/// order.
const MAX_STRETCHES: usize = 64;

/// The new version and its parent, as far as the join needs them.
pub(super) struct TableJoin<'a> {
    pub store: &'a Store,
    pub by: &'a Commit<'a>,
    pub parent: &'a Parent<'a>,
    /// The keys of the new version.
    pub order: &'a [String],
    /// The place of each receipt, by position in `order`.
    pub slots: &'a [Slot],
    /// Receipts of tasks not in the parent.
    pub added: &'a HashMap<String, Arc<Receipt>>,
}

/// Tables to join with others: the tables of one task, or an already joined table.
#[derive(Debug, Clone)]
struct Part {
    /// The positions of its tasks in the dataset's order, ascending.
    positions: Vec<usize>,
    files: Vec<FileInfo>,
    /// The size of the tasks' own tables.
    bytes: u64,
    is_joined: bool,
}

impl Part {
    /// Returns a task's tables of one name, if it has any.
    fn of_task(position: usize, name: &str, files: &[FileInfo]) -> Option<Self> {
        let is_named = |file: &&FileInfo| table_name(&file.path).as_deref() == Some(name);
        let files: Vec<FileInfo> = files.iter().filter(is_named).cloned().collect();
        let bytes = files.iter().map(|file| file.bytes).sum();
        (!files.is_empty()).then(|| Self {
            positions: vec![position],
            files,
            bytes,
            is_joined: false,
        })
    }

    /// Returns the joined table, if the part is one.
    fn joined(&self) -> Option<JoinedTable> {
        self.is_joined.then(|| JoinedTable::new(self.files[0].clone(), &self.positions, self.bytes))
    }
}

impl TableJoin<'_> {
    /// Returns the joined tables of the new version. New ones are written.
    pub fn run(&self) -> Result<Vec<JoinedTable>> {
        let kept = self.kept()?;
        let names = self.table_names(&kept);
        if names.is_empty() {
            return Ok(vec![]);
        }
        // By table name: whether a kept joined table has the task, by position.
        let mut covered: HashMap<&str, Vec<bool>> =
            names.iter().map(|name| (name.as_str(), vec![false; self.slots.len()])).collect();
        for (name, part) in &kept {
            let covered = covered.get_mut(name.as_str()).expect("`names` has the names of `kept`");
            for position in &part.positions {
                covered[*position] = true;
            }
        }
        let mut parts = HashMap::<String, Vec<Part>>::default();
        for (position, files) in self.uncovered_files(&covered)? {
            for name in names.iter().filter(|name| !covered[name.as_str()][position]) {
                if let Some(part) = Part::of_task(position, name, &files) {
                    parts.entry(name.clone()).or_default().push(part);
                }
            }
        }
        for (name, part) in kept {
            parts.entry(name).or_default().push(part);
        }
        let mut joined = Vec::new();
        for (name, parts) in parts {
            joined.extend(self.join_parts(&name, parts)?);
        }
        // `parts` has no order: restore the dataset's.
        joined.sort_by_key(|joined| joined.tasks[0]);
        Ok(joined)
    }

    /// Returns the undamaged joined tables of the parent without dropped tasks, each with its table
    /// name.
    fn kept(&self) -> Result<Vec<(String, Part)>> {
        let Some(manifest) = self.parent.manifest.filter(|parent| !parent.joined.is_empty()) else {
            return Ok(vec![]);
        };
        let positions: HashMap<(usize, usize), usize> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(position, slot)| Some((slot.place()?, position)))
            .collect();
        let rows = self.parent.rows();
        // The new position of the task at an old position, unless it was dropped.
        let new_position = |old: usize| positions.get(&rows.get(old)?.place()?).copied();
        let intact = manifest.intact_tables(self.store, self.by.stage)?;
        let mut kept = Vec::new();
        for (joined, _) in manifest.joined.iter().zip(intact).filter(|(_, is_intact)| *is_intact) {
            let positions: Option<Vec<usize>> = joined.places().map(new_position).collect();
            let (Some(mut positions), Some(name)) = (positions, joined.sort()) else { continue };
            positions.sort_unstable();
            let part = Part {
                positions,
                files: vec![joined.file.clone()],
                bytes: joined.parts_bytes,
                is_joined: true,
            };
            if part.joined().is_some_and(|joined| joined.tasks.len() <= MAX_STRETCHES) {
                kept.push((name, part));
            }
        }
        Ok(kept)
    }

    /// Returns the names of all tables of the new version, such as `labels.parquet`.
    fn table_names(&self, kept: &[(String, Part)]) -> HashSet<String> {
        let parent = self.parent.manifest.into_iter();
        let in_parent = parent.flat_map(|parent| parent.totals.tables.keys().cloned());
        let added_files = self.added.values().flat_map(|receipt| &receipt.files);
        let in_added = added_files.filter_map(|file| table_name(&file.path));
        let in_kept = kept.iter().map(|(name, _)| name.clone());
        let names = in_parent.chain(in_added).chain(in_kept);
        names.filter(|name| name.ends_with(".parquet")).collect()
    }

    /// Returns the files of each task not covered by every joined table, with its position.
    fn uncovered_files(
        &self,
        covered: &HashMap<&str, Vec<bool>>,
    ) -> Result<Vec<(usize, Vec<FileInfo>)>> {
        let mut read = HashMap::<usize, Vec<Vec<FileInfo>>>::default();
        let mut uncovered = Vec::new();
        for (position, slot) in self.slots.iter().enumerate() {
            if covered.values().all(|covered| covered[position]) {
                continue;
            }
            let files = match *slot {
                Slot::Fresh => self.added[&self.order[position]].files.clone(),
                Slot::Kept { pack, row } => {
                    let rows = match read.entry(pack) {
                        Entry::Occupied(rows) => rows.into_mut(),
                        Entry::Vacant(unread) => {
                            unread.insert(self.parent.packs()[pack].files_of_all_rows(self.store)?)
                        }
                    };
                    // Each row has one position, so its files are needed once.
                    std::mem::take(&mut rows[row])
                }
            };
            uncovered.push((position, files));
        }
        Ok(uncovered)
    }

    /// Joins the small ones of these tables, all of one name. Returns all joined tables, old and
    /// new.
    fn join_parts(&self, name: &str, parts: Vec<Part>) -> Result<Vec<JoinedTable>> {
        let (small, full): (Vec<Part>, Vec<Part>) =
            // A table above half the limit counts as full: it is not joined again.
            parts.into_iter().partition(|part| part.bytes * 2 <= self.by.file_bytes);
        // Groups are independent, so they are joined in parallel.
        let groups: Vec<Vec<Part>> = group_by_size(small)
            .into_iter()
            .flat_map(|group| split_at_size(group, self.by.file_bytes))
            .collect();
        let joined: Vec<Vec<JoinedTable>> = groups
            .into_par_iter()
            .map(|group| self.join_group(name, &group))
            .collect::<Result<_>>()?;
        Ok(joined.into_iter().flatten().chain(full.iter().filter_map(Part::joined)).collect())
    }

    /// Joins a group into one table. A group of one part, or with tables of different columns,
    /// stays as it is.
    fn join_group(&self, name: &str, group: &[Part]) -> Result<Vec<JoinedTable>> {
        if group.len() > 1 {
            let files: Vec<FileInfo> = group.iter().flat_map(|part| part.files.clone()).collect();
            let path = format!("{}/tables/{}-{}/{name}", self.by.stage, self.by.run, fresh_name());
            if let Some(file) = join(self.store, &path, &files)? {
                let mut positions: Vec<usize> =
                    group.iter().flat_map(|part| part.positions.iter().copied()).collect();
                positions.sort_unstable();
                let bytes = group.iter().map(|part| part.bytes).sum();
                return Ok(vec![JoinedTable::new(file, &positions, bytes)]);
            }
        }
        Ok(group.iter().filter_map(Part::joined).collect())
    }
}

/// Groups tables of similar size: no table is more than twice as large as all smaller ones of its
/// group together.
fn group_by_size(mut parts: Vec<Part>) -> Vec<Vec<Part>> {
    // Smallest first: each group starts with its smallest table.
    parts.sort_by_key(|part| (part.bytes, part.positions[0]));
    let mut groups: Vec<(u64, Vec<Part>)> = Vec::new();
    for part in parts {
        let bytes = part.bytes;
        match groups.last_mut() {
            Some((sum, group)) if bytes <= 2 * *sum => {
                *sum += bytes;
                group.push(part);
            }
            _ => groups.push((bytes, vec![part])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Splits a group, in the dataset's order, into groups of at most `max_bytes`. A single table may
/// be larger.
fn split_at_size(mut group: Vec<Part>, max_bytes: u64) -> Vec<Vec<Part>> {
    // Each file gets tasks close to each other in the dataset.
    group.sort_by_key(|part| part.positions[0]);
    let mut groups = vec![Vec::new()];
    let mut bytes = 0;
    for part in group {
        if bytes > 0 && bytes + part.bytes > max_bytes {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += part.bytes;
        groups.last_mut().expect("`groups` is never empty").push(part);
    }
    groups
}

#[cfg(test)]
mod tests;
