//! What all stages that train share: a killed run is taken up again, and a verdict is filed with its sentence first.

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
