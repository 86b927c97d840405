//! What several stages share: a killed training is taken up again, a verdict is filed with its sentence first, a file of the user's is
//! what it was when the run was planned.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Error, Workplace};
use crate::train::metrics::Metrics;
use crate::train::{Result as TrainResult, checkpoint};

/// Takes up the newest checkpoint, if there is one; returns the step to go on with and the curve so far.
pub(super) fn resume(place: &Workplace, restore: impl FnOnce(&[u8]) -> TrainResult<()>) -> Result<(u64, Metrics), Error> {
    let Some((step, bytes)) = checkpoint::newest(place.store, &place.scratch)? else { return Ok((0, Metrics::default())) };
    let file = checkpoint::path(&place.scratch, step);
    let fault = |reason: String| Error::Checkpoint { file: file.clone(), reason };
    let (metrics, state) = Metrics::unpack(&bytes).map_err(fault)?;
    restore(state).map_err(|e| fault(e.to_string()))?;
    place.progress.advance(step);
    Ok((step, metrics))
}

/// A verdict as JSON: first what people read, then its fields.
pub(super) fn verdict_json(first: Value, verdict: &impl Serialize) -> String {
    let mut value = first;
    if let (Some(all), Value::Object(fields)) = (value.as_object_mut(), json!(verdict)) {
        all.extend(fields);
    }
    format!("{value:#}\n")
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
