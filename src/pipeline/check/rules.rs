//! Rules for the settings of stages and for how stages fit together.
//!
//! Each rule is one function. [`check`] lists them.

use crate::pipeline::fault::{Faults, similar};
use crate::pipeline::spec::{PipelineSpec, StageSpec};
use crate::stages::{Input, LatentActions};

/// The field with the name of the stage of the frames.
const FRAMES: &str = "frames";

/// Applies all rules.
pub(super) fn check(faults: &mut Faults, spec: &PipelineSpec) {
    settings_are_valid(faults, spec);
    inputs_exist_and_fit(faults, spec);
    inputs_are_of_the_same_frames(faults, spec);
    networks_fit_the_frames(faults, spec);
    inputs_share_latent_actions(faults, spec);
    policies_see_as_many_frames_as_needed(faults, spec);
    videos_are_held_out_where_needed(faults, spec);
}

/// Returns the key path of a setting, such as `stages.frames.decode.size`.
pub(super) fn settings_path(stage: &str, spec: &StageSpec, field: &str) -> Vec<String> {
    ["stages", stage, spec.kind().name]
        .into_iter()
        .chain(field.split('.'))
        .map(String::from)
        .collect()
}

/// Every setting must have a valid value.
fn settings_are_valid(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        for (field, message, hint) in stage.validate() {
            faults.at_value(&settings_path(name, stage, field), message, Some(hint.into()));
        }
    }
}

/// Every input must name a stage with the right artifact.
fn inputs_exist_and_fit(faults: &mut Faults, spec: &PipelineSpec) {
    let names: Vec<&str> = spec.stages.iter().map(|(name, _)| name.as_str()).collect();
    for (name, stage) in &spec.stages {
        for Input { field, stage: input, artifact, .. } in stage.inputs() {
            let fitting: Vec<&str> = spec
                .stages
                .iter()
                .filter(|(_, other)| other.kind().makes(artifact))
                .map(|(name, _)| name.as_str())
                .collect();
            let choices = if fitting.is_empty() {
                format!("no stage of this pipeline makes {artifact}")
            } else {
                format!("stages that make {artifact}: {}", fitting.join(", "))
            };
            let (message, hint) = match spec.stage(input) {
                Some(other) if other.kind().makes(artifact) => continue,
                Some(other) => {
                    let kind = other.kind().name;
                    let message = format!(
                        "`{input}` is a `{kind}` stage, expected one that makes {artifact}"
                    );
                    (message, choices)
                }
                None => {
                    let hint = similar(input, &names)
                        .map_or(choices, |name| format!("did you mean `{name}`?"));
                    (format!("there is no stage `{input}`"), hint)
                }
            };
            faults.at_value(&settings_path(name, stage, field), message, Some(hint));
        }
    }
}

/// True actions and near-duplicates must be of the same frames as the labels.
fn inputs_are_of_the_same_frames(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        let inputs = stage.inputs();
        let Some(frames) =
            inputs.iter().find(|input| input.field == FRAMES).map(|input| input.stage)
        else {
            continue;
        };
        for Input { field, stage: input, .. } in
            inputs.into_iter().filter(|input| input.same_frames)
        {
            let made_from = spec.stage(input).and_then(|found| found.about_frames_of(input));
            if let Some(other) = made_from.filter(|other| *other != frames) {
                let message =
                    format!("`{input}` belongs to the frames of `{other}`, not to `{frames}`");
                let hint = format!("name a stage that was made from the frames of `{frames}`");
                faults.at_value(&settings_path(name, stage, field), message, Some(hint));
            }
        }
    }
}

/// The networks must exist for the size of the frames.
fn networks_fit_the_frames(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        let inputs = stage.inputs();
        let frames = inputs.iter().find(|input| input.field == FRAMES).map(|input| input.stage);
        let frames = frames.and_then(|frames| Some((frames, spec.stage(frames)?)));
        let size = frames.and_then(|(_, frames)| frames.frame_size());
        let Some((field, seen, expected)) = stage.network_fault(size.unwrap_or(64)) else {
            continue;
        };
        let (path, message) = match frames {
            // The fault is in the stage that chose the size.
            Some((frames, decode)) if field == "frame_size" => {
                let message = format!("is {seen}, and `{name}` learns from it");
                (settings_path(frames, decode, "size"), message)
            }
            _ => (settings_path(name, stage, field), format!("is {seen}")),
        };
        faults.at_value(&path, message, Some(format!("expected {expected}")));
    }
}

/// Inputs of one stage must have the latent actions of one model.
fn inputs_share_latent_actions(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        let inputs = stage.inputs().into_iter().filter(|input| input.same_model);
        let models: Vec<_> = inputs
            .filter_map(|input| Some((input.field, input.stage, model_of(spec, input.stage)?)))
            .collect();
        // The first input sets the model for the others.
        let Some((_, first, expected)) = models.first() else { continue };
        for (field, input, model) in models.iter().filter(|(.., model)| model != expected) {
            let message = format!(
                "`{input}` uses the latent actions of `{model}`, but `{first}` uses those of \
                 `{expected}`"
            );
            let hint = "latent actions have a meaning for one model only: name stages that use \
                        the same one";
            faults.at_value(&settings_path(name, stage, field), message, Some(hint.into()));
        }
    }
}

/// Some stages need a policy that sees a certain number of frames.
fn policies_see_as_many_frames_as_needed(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        for Input { field, stage: input, artifact, policy_frames, .. } in stage.inputs() {
            let found = spec.stage(input).filter(|found| found.kind().makes(artifact));
            let seen = found.map(|found| found.policy_frames());
            let (Some(seen), Some(needed)) = (seen, policy_frames) else { continue };
            if seen != needed {
                let plural = if seen == 1 { "" } else { "s" };
                let message = format!("`{input}` sees {seen} frame{plural}, expected {needed}");
                let hint = format!("set `frames: {needed}` in `{input}`, or name another policy");
                faults.at_value(&settings_path(name, stage, field), message, Some(hint));
            }
        }
    }
}

/// Some settings need held-out videos.
fn videos_are_held_out_where_needed(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in spec.stages.iter().filter(|_| spec.holdout == 0) {
        if let Some(field) = stage.held_out_field() {
            let message = "has no videos to judge by: `holdout` of the pipeline is 0".to_owned();
            let hint = format!("set `holdout: 5`, or remove `{field}`");
            faults.at_value(&settings_path(name, stage, field), message, Some(hint));
        }
    }
}

/// Returns the model of a stage's latent actions.
fn model_of<'a>(spec: &'a PipelineSpec, name: &'a str) -> Option<&'a str> {
    match spec.stage(name)?.latent_actions()? {
        LatentActions::Own => Some(name),
        LatentActions::Model(model) => Some(model),
        // Labels refer to their model, so one more step reaches it.
        LatentActions::Labels(labels) => match spec.stage(labels)?.latent_actions()? {
            LatentActions::Model(model) => Some(model),
            _ => None,
        },
    }
}
