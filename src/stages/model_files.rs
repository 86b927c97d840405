//! The files of a trained model: weights, metrics and a verdict.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Error, TaskContext, write};
use crate::dataset::FileInfo;
use crate::train::metrics::Metrics;

/// Writes a model's weights, its curve and `verdict.json`. Returns the files, the weights first.
pub(super) fn write_model(
    ctx: &TaskContext,
    name: &str,
    weights: &[u8],
    verdict: &str,
    metrics: &Metrics,
) -> Result<Vec<FileInfo>, Error> {
    let path = |name: &str| format!("{}/{name}", ctx.folder);
    let mut model = ctx.store.new_file(&path(name))?;
    write(&mut model, weights)?;
    let mut report = ctx.store.new_file(&path("verdict.json"))?;
    write(&mut report, verdict.as_bytes())?;
    let [table, events] = metrics.write(ctx.store, &ctx.folder)?;
    Ok(vec![model.finish(0)?, table, report.finish(0)?, events])
}

/// Returns a verdict as JSON: the fields of `first`, such as its sentence, then those of the verdict.
pub(super) fn verdict_json(first: Value, verdict: &impl Serialize) -> String {
    let mut value = first;
    if let (Some(all), Value::Object(fields)) = (value.as_object_mut(), json!(verdict)) {
        all.extend(fields);
    }
    format!("{value:#}\n")
}

/// Returns a ratio, or `None` if it is undefined or infinite.
pub(super) fn ratio(part: f64, whole: f64) -> Option<f64> {
    Some(part / whole).filter(|ratio| ratio.is_finite() && whole.is_finite())
}
