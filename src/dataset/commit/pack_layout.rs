//! Which packs stay in the next version, and which rows are written to new ones. Start at
//! [`lay_out`].

use super::super::pack;
use super::{HashSet, Slot};

/// A range of tasks in the next version. Each range is a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Rows of a pack to keep.
    Keep { pack: usize, slots: std::ops::Range<usize> },
    /// Rows of a new pack.
    Write(std::ops::Range<usize>),
}

/// A pack with more dropped rows is rewritten: the manifest lists each dropped row.
const MAX_DROPPED: usize = 1024;

/// Divides the tasks of a version into packs to keep and packs to write. `rows` has the number of
/// rows of each old pack.
pub(super) fn lay_out(slots: &[Slot], rows: &[usize]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut kept = HashSet::default();
    let mut at = 0;
    while at < slots.len() {
        let end = end_of_run(slots, at);
        // A pack is kept once: of two runs of the same pack, the second one is rewritten.
        let piece = match slots[at] {
            Slot::Kept { pack, .. }
                if is_worth_keeping(end - at, rows[pack]) && kept.insert(pack) =>
            {
                Piece::Keep { pack, slots: at..end }
            }
            _ => Piece::Write(at..end),
        };
        match (pieces.last_mut(), piece) {
            // Neighbouring ranges to write go to one pack.
            (Some(Piece::Write(before)), Piece::Write(range)) => before.end = range.end,
            (_, piece) => pieces.push(piece),
        }
        at = end;
    }
    merge_small(pieces).into_iter().flat_map(split).collect()
}

/// Returns the end of the run of tasks from `at`: ascending rows of one pack, or tasks without a
/// pack.
fn end_of_run(slots: &[Slot], at: usize) -> usize {
    let goes_on = |pair: &[Slot]| match (pair[0], pair[1]) {
        (Slot::Kept { pack, row }, Slot::Kept { pack: next, row: later }) => {
            pack == next && row < later
        }
        (Slot::Fresh, Slot::Fresh) => true,
        _ => false,
    };
    at + 1 + slots[at..].windows(2).take_while(|pair| goes_on(pair)).count()
}

/// Returns whether at least half of a pack's rows are in use, and few enough are dropped.
fn is_worth_keeping(kept: usize, rows: usize) -> bool {
    kept * 2 >= rows && rows - kept <= MAX_DROPPED
}

/// Merges each new pack with the packs before it, as long as these are at most twice as large. Pack
/// sizes so grow geometrically, and a row is rewritten O(log n) times.
fn merge_small(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut merged: Vec<Piece> = Vec::new();
    for piece in pieces {
        let Piece::Write(mut range) = piece else {
            merged.push(piece);
            continue;
        };
        // Each merge may make the one before small in comparison, hence the loop.
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

/// Splits a new pack at the maximum number of rows.
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
