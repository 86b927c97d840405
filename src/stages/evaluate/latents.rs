//! Tests the latent actions of a world model on held-out windows: leaks, transfer to other clips,
//! additivity, codes and the motion of the camera. See [`latent_quality`].

use super::EvaluateTask;
use super::rollouts::Rollouts;
use crate::dataset::{Column, FileInfo, WindowIndex, write_table};
use crate::models::{LabelOutputs, Labeller};
use crate::stages::latent_quality::{self, LatentQuality, commonest_share};
use crate::stages::world_model::WorldModel;
use crate::stages::{Error, TaskContext};
use crate::train::batch;

/// The maximum number of windows whose codes are counted.
const WINDOWS: usize = 2048;
/// Windows that are labelled at once.
const PASS: usize = 64;

/// Tests the latent actions between frames of held-out videos.
pub(super) fn test(
    task: &EvaluateTask,
    model: &WorldModel,
    rollouts: &Rollouts,
) -> Result<LatentQuality, Error> {
    let config = model.labeller.config();
    let horizon = |interval| config.horizon.frames(interval);
    let [_, index] = WindowIndex::with_horizon(&model.shards, config.window(), horizon)
        .split(&model.shards.split(task.holdout));
    Ok(LatentQuality {
        information_db: rollouts.information_db(),
        commonest_code_share: commonest_code_share(model, &index)?,
        ..latent_quality::measure(model, &model.shards, &index, task.seed)?
    })
}

/// Returns the share of the commonest tuple of codes, if the model quantises.
fn commonest_code_share(model: &WorldModel, index: &WindowIndex) -> Result<Option<f64>, Error> {
    let labeller: &dyn Labeller = model.labeller.as_ref();
    let config = labeller.config();
    if !config.vq.quantises() {
        return Ok(None);
    }
    let mut codes = Vec::new();
    let mut frames = Vec::new();
    for windows in batch::spread(index, WINDOWS).chunks(PASS) {
        batch::gather(&model.shards, index, windows, &mut frames)?;
        let starts: Vec<usize> = (0..windows.len()).map(|i| i * config.window()).collect();
        let outputs = LabelOutputs { codes: true, ..LabelOutputs::default() };
        codes.extend(labeller.label(&frames, &starts, outputs)?.latent_code);
    }
    Ok(commonest_share(&codes, config.codes()))
}

/// Returns the sentence on a leak.
pub(super) fn sentence(latents: &LatentQuality) -> String {
    match (latents.leak_clause(), latents.leaks()) {
        (Some(leak), _) => leak,
        (None, Some(_)) => "latent actions do not leak the next frame".into(),
        (None, None) => "whether latent actions leak the next frame is unknown".into(),
    }
}

/// Writes the table with one row.
pub(super) fn write(latents: &LatentQuality, ctx: &TaskContext) -> Result<FileInfo, Error> {
    let columns = latents.row().map(|(name, value)| (name, Column::F64(vec![value])));
    Ok(write_table(ctx.store, &format!("{}/verdict.parquet", ctx.folder), &columns)?)
}
