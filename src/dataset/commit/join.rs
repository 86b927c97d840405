//! Which tables of a version are joined into larger ones. Start at [`Joining::next`].
//!
//! Tables of like size are joined, as packs are: a file joins the next larger one unless that is more than twice all the smaller ones. So a
//! version has few small files, and a row is rewritten O(log n) times until its file is full. A joined table stays as long as the
//! version has all its tasks; of one that lost a task, the rest is joined anew.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rayon::prelude::*;

use super::super::joined::{Joined, are_whole, join};
use super::super::manifest::sort_of;
use super::super::place::FileInfo;
use super::{Before, Commit, HashMap, HashSet, Receipt, Result, Slot, Store, fresh_name};

/// A joined table whose tasks lie in more stretches of the dataset's order is joined anew.
const MOST_STRETCHES: usize = 64;

/// A commit in which tables are joined.
pub(super) struct Joining<'a> {
    pub store: &'a Store,
    pub by: &'a Commit<'a>,
    pub before: &'a Before<'a>,
    pub order: &'a [String],
    pub slots: &'a [Slot],
    pub added: &'a HashMap<String, Arc<Receipt>>,
}

/// Tables that may be joined with others: those of one task, or a joined one.
#[derive(Debug, Clone)]
struct Part {
    /// The places of its tasks in the dataset's order, ascending.
    places: Vec<usize>,
    files: Vec<FileInfo>,
    /// The bytes of the tasks' own tables.
    bytes: u64,
    is_joined: bool,
}

impl Part {
    fn joined(&self) -> Option<Joined> {
        self.is_joined.then(|| Joined::new(self.files[0].clone(), &self.places, self.bytes))
    }
}

impl Joining<'_> {
    /// The joined tables of the next version; new ones are written.
    pub fn next(&self) -> Result<Vec<Joined>> {
        let kept = self.kept()?;
        let sorts = self.sorts(&kept);
        if sorts.is_empty() {
            return Ok(vec![]);
        }
        let mut covered = HashMap::<&str, Vec<bool>>::default();
        sorts.iter().for_each(|sort| _ = covered.insert(sort, vec![false; self.slots.len()]));
        for (sort, part) in &kept {
            let covered = covered.get_mut(sort.as_str()).expect("it is among the sorts");
            part.places.iter().for_each(|place| covered[*place] = true);
        }
        let mut parts = HashMap::<String, Vec<Part>>::default();
        for (place, files) in self.loose(&covered)? {
            for sort in &sorts {
                let files: Vec<FileInfo> = files
                    .iter()
                    .filter(|file| sort_of(&file.path).as_ref() == Some(sort))
                    .cloned()
                    .collect();
                if !files.is_empty() && !covered[sort.as_str()][place] {
                    let bytes = files.iter().map(|file| file.bytes).sum();
                    parts.entry(sort.clone()).or_default().push(Part {
                        places: vec![place],
                        files,
                        bytes,
                        is_joined: false,
                    });
                }
            }
        }
        kept.into_iter().for_each(|(sort, part)| parts.entry(sort).or_default().push(part));
        let mut joined = Vec::new();
        for (sort, parts) in parts {
            joined.extend(self.join(&sort, parts)?);
        }
        joined.sort_by_key(|joined| joined.tasks[0]);
        Ok(joined)
    }

    /// The joined tables of the version before that are whole and all of whose tasks the next version has, each with its sort.
    fn kept(&self) -> Result<Vec<(String, Part)>> {
        let Some(before) = self.before.manifest.filter(|before| !before.joined.is_empty()) else {
            return Ok(vec![]);
        };
        let places: HashMap<(usize, usize), usize> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(place, slot)| Some((slot.place()?, place)))
            .collect();
        let rows = self.before.rows();
        let place_now = |old: usize| places.get(&rows.get(old)?.place()?).copied();
        let whole = are_whole(self.store, self.by.stage, before)?;
        let kept = before.joined.iter().zip(whole).filter(|(_, is_whole)| *is_whole).filter_map(
            |(joined, _)| {
                let mut places = joined.places().map(place_now).collect::<Option<Vec<usize>>>()?;
                places.sort_unstable();
                let (files, bytes) = (vec![joined.file.clone()], joined.parts_bytes);
                let is_scattered =
                    Joined::new(joined.file.clone(), &places, bytes).tasks.len() > MOST_STRETCHES;
                (!is_scattered)
                    .then_some((joined.sort()?, Part { places, files, bytes, is_joined: true }))
            },
        );
        Ok(kept.collect())
    }

    /// The sorts of tables that the next version may have.
    fn sorts(&self, kept: &[(String, Part)]) -> HashSet<String> {
        let before = self
            .before
            .manifest
            .into_iter()
            .flat_map(|before| before.totals.tables.keys().cloned());
        let added = self
            .added
            .values()
            .flat_map(|receipt| &receipt.files)
            .filter_map(|file| sort_of(&file.path));
        let kept = kept.iter().map(|(sort, _)| sort.clone());
        before.chain(added).chain(kept).filter(|sort| sort.ends_with(".parquet")).collect()
    }

    /// The files of every task that lacks a joined table of some sort, with the task's place.
    fn loose(&self, covered: &HashMap<&str, Vec<bool>>) -> Result<Vec<(usize, Vec<FileInfo>)>> {
        let mut read = HashMap::<usize, Vec<Vec<FileInfo>>>::default();
        let mut loose = Vec::new();
        for (place, slot) in self
            .slots
            .iter()
            .enumerate()
            .filter(|(place, _)| covered.values().any(|covered| !covered[*place]))
        {
            let files = match *slot {
                Slot::Fresh => self.added[&self.order[place]].files.clone(),
                Slot::Kept { pack, row } => {
                    let rows = match read.entry(pack) {
                        Entry::Occupied(rows) => rows.into_mut(),
                        Entry::Vacant(unread) => {
                            unread.insert(self.before.packs()[pack].files_of_all_rows(self.store)?)
                        }
                    };
                    std::mem::take(&mut rows[row])
                }
            };
            loose.push((place, files));
        }
        Ok(loose)
    }

    /// Joins tables of one sort, as far as they are small. Returns all that are joined.
    fn join(&self, sort: &str, parts: Vec<Part>) -> Result<Vec<Joined>> {
        let (small, full): (Vec<Part>, Vec<Part>) =
            parts.into_iter().partition(|part| part.bytes * 2 <= self.by.file_bytes);
        let groups: Vec<Vec<Part>> =
            alike(small).into_iter().flat_map(|group| cut(group, self.by.file_bytes)).collect();
        let join = |group: Vec<Part>| -> Result<Vec<Joined>> {
            if let [_, _, ..] = &group[..] {
                let files: Vec<FileInfo> =
                    group.iter().flat_map(|part| part.files.clone()).collect();
                let path =
                    format!("{}/tables/{}-{}/{sort}", self.by.stage, self.by.run, fresh_name());
                if let Some(file) = join(self.store, &path, &files)? {
                    let mut places: Vec<usize> =
                        group.iter().flat_map(|part| part.places.iter().copied()).collect();
                    places.sort_unstable();
                    return Ok(vec![Joined::new(
                        file,
                        &places,
                        group.iter().map(|part| part.bytes).sum(),
                    )]);
                }
            }
            Ok(group.iter().filter_map(Part::joined).collect())
        };
        let joined: Vec<Vec<Joined>> = groups.into_par_iter().map(join).collect::<Result<_>>()?;
        Ok(joined.into_iter().flatten().chain(full.iter().filter_map(Part::joined)).collect())
    }
}

/// Groups tables of like size: none is more than twice as large as all smaller ones of its group.
fn alike(mut parts: Vec<Part>) -> Vec<Vec<Part>> {
    parts.sort_by_key(|part| (part.bytes, part.places[0]));
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

/// Cuts a group, in the dataset's order, into groups of at most `most` bytes.
fn cut(mut group: Vec<Part>, most: u64) -> Vec<Vec<Part>> {
    group.sort_by_key(|part| part.places[0]);
    let (mut cut, mut bytes) = (vec![Vec::new()], 0);
    for part in group {
        if bytes > 0 && bytes + part.bytes > most {
            cut.push(Vec::new());
            bytes = 0;
        }
        bytes += part.bytes;
        cut.last_mut().expect("there is one").push(part);
    }
    cut
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::super::faults::faulty_store;
    use super::super::super::receipt::file_receipt;
    use super::super::super::receipt::tests::receipt;
    use super::super::super::{Column, data_folder, read_columns, write_table};
    use super::super::tests::{by, by_key, commit_all, key};
    use super::super::{Committed, at, commit, head_of};
    use super::*;

    /// A task with a table of two files, and one with none; the rows name the task.
    fn made(store: &Store, number: usize, attempt: &str, rows: &[usize]) -> Arc<Receipt> {
        let key = key(number);
        let table = |(at, rows): (usize, &usize)| {
            let path = format!("{}/labels-{at}.parquet", data_folder("s", &key, attempt));
            let text: Vec<String> =
                (0..*rows).map(|row| format!("{number} {attempt} {at} {row}")).collect();
            write_table(store, &path, &[("row", Column::Text(text))]).unwrap()
        };
        let files = rows.iter().enumerate().map(table).collect();
        let receipt = Receipt { files, ..receipt(&key, attempt) };
        file_receipt(store, "s", &receipt).unwrap();
        Arc::new(receipt)
    }

    fn rows_of(store: &Store, files: &[FileInfo]) -> Vec<String> {
        let rows = |file: &FileInfo| {
            read_columns(store, &file.path, &["row"]).unwrap().take_text("row").unwrap()
        };
        let mut rows: Vec<String> = files.iter().flat_map(rows).collect();
        rows.sort_unstable();
        rows
    }

    #[test]
    fn whatever_comes_and_goes_the_tables_of_every_version_hold_each_row_once() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        for store in (0..10).map(|_| faulty_store(&[])) {
            let (mut now, mut versions, mut next) = (Vec::<Arc<Receipt>>::new(), Vec::new(), 0);
            for run in 0..10 {
                let share = [0.0, 0.05, 0.6][random.random_range(0..3)];
                now.retain(|_| !random.random_bool(share));
                for _ in 0..random.random_range(0..12) {
                    let place = if random.random_bool(0.7) {
                        now.len()
                    } else {
                        random.random_range(0..=now.len())
                    };
                    let rows: Vec<usize> = (0..random.random_range(0..3))
                        .map(|_| random.random_range(0..30))
                        .collect();
                    now.insert(place, made(&store, next, "a", &rows));
                    next += 1;
                }
                if random.random_bool(0.2) {
                    // A joined table is damaged: it is joined again.
                    let joined = store.list("s/tables").unwrap();
                    joined.iter().take(1).for_each(|path| store.delete(path).unwrap());
                }
                let file_bytes = [1 << 10, 1 << 20][random.random_range(0..2)];
                let since = head_of(&store, "s").unwrap().map_or(0, |head| head.version);
                let (order, fresh) = by_key(&now);
                commit(
                    &store,
                    &Commit { file_bytes, ..by("s", &format!("{run}"), since) },
                    &order,
                    &fresh,
                )
                .unwrap();
                let newest = head_of(&store, "s").unwrap();
                versions.extend(newest.map(|newest| (newest.version, now.clone())));
                check(&store, versions.last());
            }
            versions
                .iter()
                .filter(|(version, _)| is_whole(&store, *version))
                .for_each(|version| check(&store, Some(version)));
        }
    }

    fn is_whole(store: &Store, version: u64) -> bool {
        at(store, "s", version).unwrap().unwrap().damaged_tables(store, "s").unwrap().is_empty()
    }

    fn check(store: &Store, version: Option<&(u64, Vec<Arc<Receipt>>)>) {
        let Some((version, receipts)) = version else { return };
        assert!(is_whole(store, *version));
        let tables =
            at(store, "s", *version).unwrap().unwrap().tables(store, "labels.parquet").unwrap();
        let own: Vec<FileInfo> =
            receipts.iter().flat_map(|receipt| receipt.files.clone()).collect();
        assert_eq!(rows_of(store, &tables), rows_of(store, &own));
        tables.iter().for_each(|file| store.verify(file).unwrap());
    }

    #[test]
    fn a_hundred_small_commits_leave_few_files_and_write_each_row_a_few_times() {
        let store = faulty_store(&[]);
        let (mut now, mut written) = (Vec::new(), 0);
        for run in 0..100 {
            now.push(made(&store, run, "a", &[100]));
            let committed = commit_all(&store, "s", &format!("{run:03}"), &now);
            let Committed::New(manifest) = committed else { panic!("{committed:?}") };
            let files = manifest.tables(&store, "labels.parquet").unwrap();
            assert!(files.len() <= 8, "{} files after {run} commits", files.len());
            let is_new = |file: &&FileInfo| file.path.contains(&format!("tables/{run:03}-"));
            written += files.iter().filter(is_new).map(|file| file.rows).sum::<u64>();
        }
        assert!(written < 60_000, "{written} rows were written for 10,000");
    }

    #[test]
    fn full_files_stay_and_only_the_one_that_lost_a_task_is_joined_anew() {
        let store = faulty_store(&[]);
        let mut now: Vec<Arc<Receipt>> =
            (0..40).map(|number| made(&store, number, "a", &[50])).collect();
        let bytes = now[0].files[0].bytes;
        let full = Commit { file_bytes: bytes * 10, ..by("s", "1", 0) };
        let commit = |run: &str, now: &[Arc<Receipt>]| {
            let (order, fresh) = by_key(now);
            let since = head_of(&store, "s").unwrap().map_or(0, |head| head.version);
            commit(&store, &Commit { run, since, ..full }, &order, &fresh)
                .unwrap()
                .manifest()
                .joined
                .clone()
        };
        let first = commit("1", &now);
        assert!((4..=5).contains(&first.len()), "{first:?}");
        now.remove(5);
        now.insert(17, made(&store, 99, "a", &[50]));
        let second = commit("2", &now);
        let kept = first.iter().filter(|old| second.iter().any(|new| new.file == old.file)).count();
        assert!(kept >= first.len() - 2, "{first:?} {second:?}");
        assert!(
            second.iter().any(|joined| joined.tasks.len() == 2),
            "the new task stands between those of one file: {second:?}"
        );
    }

    #[test]
    fn a_damaged_table_costs_no_commit() {
        let store = faulty_store(&[]);
        let now: Vec<Arc<Receipt>> = (0..3).map(|number| made(&store, number, "a", &[5])).collect();
        store.delete(&now[1].files[0].path).unwrap();
        let committed = commit_all(&store, "s", "1", &now);
        assert_eq!(committed.manifest().tables(&store, "labels.parquet").unwrap().len(), 3);
    }
}
