//! What several stages share: a killed training is taken up again, a world model is opened beside its frames, a verdict is filed with its
//! sentence first, a file of the user's is what it was when the run was planned.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Error, Workplace};
use crate::dataset::Shards;
use crate::models::{Labeller, Precision, Predictor, labeller, predictor};
use crate::train::metrics::Metrics;
use crate::train::{Result as TrainResult, checkpoint};

/// Takes up the newest checkpoint, if there is one; returns the step to go on with and the curve so far.
pub(super) fn resume(
    place: &Workplace,
    restore: impl FnOnce(&[u8]) -> TrainResult<()>,
) -> Result<(u64, Metrics), Error> {
    let Some((step, bytes)) = checkpoint::newest(place.store, &place.scratch)? else {
        return Ok((0, Metrics::default()));
    };
    let metrics = take_up(place, step, &bytes, restore)?;
    place.progress.resume(step);
    Ok((step, metrics))
}

/// Goes back to the checkpoint before a step, which must be there.
pub(super) fn go_back(
    place: &Workplace,
    step: u64,
    restore: impl FnOnce(&[u8]) -> TrainResult<()>,
) -> Result<(), Error> {
    let bytes = place.store.require(&checkpoint::path(&place.scratch, step))?;
    take_up(place, step, &bytes, restore).map(|_| ())
}

fn take_up(
    place: &Workplace,
    step: u64,
    checkpoint: &[u8],
    restore: impl FnOnce(&[u8]) -> TrainResult<()>,
) -> Result<Metrics, Error> {
    let fault =
        |reason: String| Error::Checkpoint { file: checkpoint::path(&place.scratch, step), reason };
    let (metrics, state) = Metrics::unpack(checkpoint).map_err(fault)?;
    restore(state).map_err(|e| fault(e.to_string()))?;
    Ok(metrics)
}

/// A world model with the IDM it was trained with, and frames that both can read.
pub(super) struct WorldModel {
    pub labeller: Box<dyn Labeller>,
    pub predictor: Box<dyn Predictor>,
    pub shards: Shards,
}

impl WorldModel {
    pub(super) fn open(
        place: &Workplace,
        file: &str,
        shards: Vec<String>,
    ) -> Result<WorldModel, Error> {
        let weights = place.store.require(file)?;
        let (labeller, predictor) = (
            labeller(&place.device, &weights, Precision::F32)?,
            predictor(&place.device, &weights)?,
        );
        let shards = Shards::open(place.store, shards)?;
        let (seen, expected) = (
            shards.frame_size().map_or(0, |size| size.height as usize),
            labeller.config().frame_size,
        );
        match seen == expected {
            true => Ok(WorldModel { labeller, predictor, shards }),
            false => Err(Error::FrameSize { file: file.to_owned(), seen, expected }),
        }
    }
}

/// A verdict as JSON: first what people read, then its fields.
pub(super) fn verdict_json(first: Value, verdict: &impl Serialize) -> String {
    let mut value = first;
    if let (Some(all), Value::Object(fields)) = (value.as_object_mut(), json!(verdict)) {
        all.extend(fields);
    }
    format!("{value:#}\n")
}

/// Returns a ratio, or `None` where it says nothing: of something to nothing, or of numbers that are not finite.
pub(super) fn ratio(part: f64, whole: f64) -> Option<f64> {
    Some(part / whole).filter(|ratio| ratio.is_finite() && whole.is_finite())
}

/// A file that changed since it was hashed must not be filed under its old hash.
pub(super) fn unchanged(path: &Path, digest: &str) -> Result<(), Error> {
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
    match read.is_ok() && hasher.finalize().to_hex().as_str() == digest {
        true => Ok(()),
        false => Err(Error::Changed { file: path.display().to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_changed_are_not_filed_as_what_they_were() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let planned = blake3::hash(b"").to_hex();
        unchanged(file.path(), &planned).expect("it has not changed");
        std::fs::write(file.path(), "later").expect("it is ours");
        assert!(matches!(unchanged(file.path(), &planned), Err(Error::Changed { .. })));
    }
}
