//! Video names are unique within a version, so `(video, frame_index)` identifies one frame. Start
//! at [`check`].

use std::sync::Arc;

use super::super::pack::VideoFrames;
use super::{Error, HashMap, HashSet, Pack, Receipt, Result, Store};

/// Checks that no two videos with frames have the same name, among added tasks or between an added
/// and a kept one. Kept tasks are given by pack and row; they come from one version, so their names
/// already differ from each other.
///
/// # Errors
/// Fails for two videos of one name, and names it.
pub(super) fn check<'r>(
    store: &Store,
    stage: &str,
    packs: &[Pack],
    kept: impl Iterator<Item = (usize, usize)>,
    added: impl Iterator<Item = &'r Arc<Receipt>>,
) -> Result<()> {
    let twice = |video: &str| Error::NameTwice { stage: stage.to_owned(), video: video.to_owned() };
    let mut names = HashSet::default();
    for video in added.flat_map(|receipt| &receipt.videos).filter(|video| video.frames > 0) {
        if !names.insert(video.uri.as_str()) {
            return Err(twice(&video.uri));
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    // Group by pack, so each pack is read once.
    let mut rows = HashMap::<usize, Vec<usize>>::default();
    for (pack, row) in kept {
        rows.entry(pack).or_default().push(row);
    }
    for (pack, rows) in rows {
        let names_by_row = packs[pack].names(store)?;
        let mut videos = rows.into_iter().flat_map(|row| &names_by_row[row]);
        let is_taken = |video: &&VideoFrames| video.frames > 0 && names.contains(&*video.uri);
        if let Some(video) = videos.find(is_taken) {
            return Err(twice(&video.uri));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::super::VideoRecord;
    use super::super::super::faulty_store::faulty_store;
    use super::super::super::receipt::file_receipt;
    use super::super::super::receipt::tests::receipt;
    use super::super::tests::{by, by_key, key};
    use super::super::{Manifest, commit};
    use super::*;

    fn with_video(store: &Store, number: usize, uri: &str, frames: u64) -> Arc<Receipt> {
        let record = VideoRecord { uri: uri.to_owned(), frames, ..VideoRecord::default() };
        let receipt = Receipt { videos: vec![record], ..receipt(&key(number), "a") };
        file_receipt(store, "s", &receipt).unwrap();
        Arc::new(receipt)
    }

    #[test]
    fn two_videos_with_frames_never_share_a_name() {
        let store = faulty_store(&[]);
        let [a, b, again, swapped, empty] = [("a", 9), ("b", 9), ("a", 9), ("b", 9), ("a", 0)]
            .iter()
            .enumerate()
            .map(|(number, (name, frames))| with_video(&store, number, name, *frames))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let commit_of = |run: &str, receipts: &[&Arc<Receipt>]| {
            let receipts: Vec<_> = receipts.iter().map(|receipt| Arc::clone(receipt)).collect();
            let (order, fresh) = by_key(&receipts);
            let since = Manifest::newest(&store, "s").unwrap().map_or(0, |head| head.version);
            commit(&store, &by("s", run, since), &order, &fresh)
        };
        let refused = |run: &str, receipts: &[&Arc<Receipt>]| {
            let error = commit_of(run, receipts).unwrap_err();
            assert!(matches!(&error, Error::NameTwice { video, .. } if video == "a"), "{error}");
        };
        refused("1", &[&a, &again]);
        commit_of("1", &[&a, &b]).unwrap();
        refused("2", &[&a, &b, &again]);
        commit_of("2", &[&a, &b, &empty]).unwrap();
        // A task dropped in the same commit frees its name.
        commit_of("3", &[&again, &swapped]).unwrap();
        assert_eq!(Manifest::newest(&store, "s").unwrap().unwrap().version, 3);
    }
}
