//! Whether a pipeline makes sense: in: what was written; out: [`Checked`], or every fault at once. Nothing is written here.

use std::collections::BTreeMap;

use super::fault::{Fault, Faults, similar};
use super::locate::Part;
use super::parse::parse;
use super::spec::{PipelineSpec, StageSpec};

mod places;

use crate::dataset::{Access, ListedVideo};
use crate::stages::{Input, LatentActions};
pub use places::workspace_fault;
use places::{files, matches, workspace};

/// A pipeline that makes sense: its inputs exist and fit, and there is an order to run it in.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What was written.
    pub spec: PipelineSpec,
    /// The text it was written in.
    pub text: String,
    /// Stages in an order that has every stage after its inputs; otherwise as written.
    pub order: Vec<usize>,
    /// What each `decode` stage's patterns match, sorted.
    pub videos: BTreeMap<String, Vec<ListedVideo>>,
    /// What is to be said of each stage's lists.
    pub notes: Notes,
}

/// Sentences for people, by stage.
pub type Notes = BTreeMap<String, Vec<String>>;

/// Reads and checks a pipeline's text.
pub fn check(
    file: &str,
    text: &str,
    set: &[(String, String)],
    access: &Access,
) -> Result<Checked, Vec<Fault>> {
    let mut faults = Faults::new(file, text);
    let spec = parse(&mut faults, set);
    let checked = spec.map(|spec| {
        fields(&mut faults, &spec);
        inputs(&mut faults, &spec);
        of_the_same_frames(&mut faults, &spec);
        networks(&mut faults, &spec);
        of_one_model(&mut faults, &spec);
        workspace(&mut faults, &spec);
        let order = order(&mut faults, &spec);
        let mut notes = Notes::new();
        let videos = matches(&mut faults, &spec, access, &mut notes);
        files(&mut faults, &spec);
        Checked { spec, text: text.into(), order, videos, notes }
    });
    faults.into_result()?;
    checked.ok_or_else(Vec::new)
}

fn path(stage: &str, spec: &StageSpec, field: &str) -> Vec<String> {
    ["stages", stage, spec.kind().name]
        .into_iter()
        .chain(field.split('.'))
        .map(String::from)
        .collect()
}

fn fields(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        for (field, message, cure) in stage.validate() {
            faults.at(&path(name, stage, field), Part::Value, message, Some(cure.into()));
        }
    }
}

/// Every input names a stage that makes the right thing.
fn inputs(faults: &mut Faults, spec: &PipelineSpec) {
    let names: Vec<&str> = spec.stages.iter().map(|(name, _)| name.as_str()).collect();
    for (name, stage) in &spec.stages {
        for Input { field, stage: wanted, artifact, .. } in stage.inputs() {
            let at = path(name, stage, field);
            let right = spec.stages.iter().filter(|(_, other)| other.kind().makes(artifact));
            let right: Vec<&str> = right.map(|(name, _)| name.as_str()).collect();
            let offer = if right.is_empty() {
                "this pipeline has none".into()
            } else {
                format!("there is: {}", right.join(", "))
            };
            match spec.stage(wanted) {
                None => {
                    let cure =
                        similar(wanted, &names).map_or(offer, |k| format!("did you mean `{k}`?"));
                    faults.at(
                        &at,
                        Part::Value,
                        format!("there is no stage `{wanted}`"),
                        Some(cure),
                    );
                }
                Some(other) if !other.kind().makes(artifact) => {
                    let message = format!(
                        "`{wanted}` is a `{}` stage, expected one that makes {artifact}",
                        other.kind().name
                    );
                    faults.at(&at, Part::Value, message, Some(offer));
                }
                Some(_) => {}
            }
        }
    }
}

/// True actions that labels are set beside, and near-duplicates that are left out, must be of the same frames.
fn of_the_same_frames(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        let inputs = stage.inputs();
        let Some(frames) =
            inputs.iter().find(|input| input.field == FRAMES).map(|input| input.stage)
        else {
            continue;
        };
        for Input { field, stage: wanted, .. } in
            inputs.into_iter().filter(|input| input.same_frames)
        {
            let of = spec.stage(wanted).and_then(|found| found.about_frames_of(wanted));
            if let Some(of) = of.filter(|of| *of != frames) {
                let message = format!("`{wanted}` knows of `{of}`, the frames are `{frames}`");
                faults.at(
                    &path(name, stage, field),
                    Part::Value,
                    message,
                    Some("name a stage that knows the same frames".into()),
                );
            }
        }
    }
}

/// The field that names the stage of the frames.
const FRAMES: &str = "frames";

/// Inputs that act together must have the same latent actions, those of one model.
fn of_one_model(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        let inputs = stage.inputs().into_iter().filter(|input| input.same_model);
        let known: Vec<_> = inputs
            .filter_map(|input| Some((input.field, input.stage, model(spec, input.stage)?)))
            .collect();
        let Some((_, first, of)) = known.first() else { continue };
        for (field, wanted, other) in known.iter().filter(|(.., other)| other != of) {
            let message = format!(
                "`{wanted}` knows the latent actions of `{other}`, `{first}` those of `{of}`"
            );
            let cure =
                "they mean something to one model only: name stages that learnt from the same one";
            faults.at(&path(name, stage, field), Part::Value, message, Some(cure.into()));
        }
    }
}

/// The stage of the model whose latent actions a stage knows.
fn model<'a>(spec: &'a PipelineSpec, name: &'a str) -> Option<&'a str> {
    match spec.stage(name)?.latent_actions()? {
        LatentActions::Own => Some(name),
        LatentActions::Model(model) => Some(model),
        LatentActions::Labels(labels) => match spec.stage(labels)?.latent_actions()? {
            LatentActions::Model(model) => Some(model),
            _ => None,
        },
    }
}

/// There must be such networks for frames of this size.
fn networks(faults: &mut Faults, spec: &PipelineSpec) {
    for (name, stage) in &spec.stages {
        let inputs = stage.inputs();
        let frames = inputs.iter().find(|input| input.field == FRAMES).map(|input| input.stage);
        let frames = frames.and_then(|frames| Some((frames, spec.stage(frames)?)));
        let size = frames.and_then(|(_, frames)| frames.frame_size());
        let Some((field, seen, expected)) = stage.network_fault(size.unwrap_or(64)) else {
            continue;
        };
        let (at, message) = match frames {
            Some((frames, of)) if field == "frame_size" => {
                (path(frames, of, "size"), format!("is {seen}, and `{name}` learns from it"))
            }
            _ => (path(name, stage, field), format!("is {seen}")),
        };
        faults.at(&at, Part::Value, message, Some(format!("expected {expected}")));
    }
}

/// Depth-first order; a stage that is met again while its own inputs are visited is part of a cycle.
fn order(faults: &mut Faults, spec: &PipelineSpec) -> Vec<usize> {
    fn visit(
        at: usize,
        spec: &PipelineSpec,
        trail: &mut Vec<usize>,
        order: &mut Vec<usize>,
        cycles: &mut Vec<Vec<usize>>,
    ) {
        if let Some(start) = trail.iter().position(|t| *t == at) {
            cycles.push(trail[start..].to_vec());
            return;
        }
        if order.contains(&at) {
            return;
        }
        trail.push(at);
        for input in spec.stages[at].1.inputs() {
            if let Some(input) = spec.stages.iter().position(|(name, _)| name == input.stage) {
                visit(input, spec, trail, order, cycles);
            }
        }
        trail.pop();
        order.push(at);
    }
    let (mut order, mut cycles) = (Vec::new(), Vec::new());
    (0..spec.stages.len()).for_each(|at| visit(at, spec, &mut Vec::new(), &mut order, &mut cycles));
    for cycle in cycles {
        let names: Vec<&str> =
            cycle.iter().chain(cycle.first()).map(|i| spec.stages[*i].0.as_str()).collect();
        let at = ["stages".to_string(), names[0].to_string()];
        faults.at(
            &at,
            Part::Key,
            format!("a cycle: {}", names.join(" -> ")),
            Some("a stage cannot wait for itself".into()),
        );
    }
    order
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Checks `text` and compares the faults, one `line:column key: message` each.
    fn faults(text: &str, expect: &[&str]) {
        let found = check("p.yaml", text, &[], &Access::default()).err().unwrap_or_default();
        let found: Vec<String> = found
            .iter()
            .map(|f| {
                format!(
                    "{}:{} {}: {}",
                    f.place.unwrap().line,
                    f.place.unwrap().column,
                    f.key,
                    f.message
                )
            })
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn a_good_pipeline_is_ordered_by_its_inputs() {
        let text = "
name: x
workspace: runs/x
stages:
  labels: { label: { frames: frames, dynamics: dynamics } }
  dynamics: { train_dynamics: { frames: frames, refresh: { growth: 0.25 } } }
  frames: { decode: { videos: ['Cargo.toml'] } }
";
        let checked = check("p.yaml", text, &[], &Access::default()).unwrap();
        assert_eq!(checked.order, [2, 1, 0]);
    }

    #[test]
    fn a_policy_acts_through_the_model_that_labelled_for_it() {
        let text = "name: x
workspace: runs/x
stages:
  frames: { decode: { videos: ['Cargo.toml'] } }
  model: { train_dynamics: { frames: frames } }
  other: { train_dynamics: { frames: frames, steps: 5 } }
  labels: { label: { frames: frames, dynamics: model } }
  policy: { train_policy: { labels: labels } }
  agent: { finetune: { policy: policy, dynamics: other, game: maze } }
";
        let message = "`other` knows the latent actions of `other`, `policy` those of `model`";
        faults(text, &[&format!("9:50 stages.agent.finetune.dynamics: {message}")]);
        faults(&text.replace("dynamics: other", "dynamics: model"), &[]);
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_places() {
        let text = "name: x
workspace: runs/x
sed: 7
stages:
  frames:
    decode: { videos: ['nowhere/*.mp4'], size: big, ftp: 3 }
  model:
    train_dynamic: { frames: frames }
  labels:
    label: { frames: frame, dynamics: frames }
";
        faults(
            text,
            &[
                "3:1 sed: unknown key `sed`",
                "6:48 stages.frames.decode.size: invalid type: string \"big\", expected u32",
                "6:53 stages.frames.decode.ftp: unknown key `ftp`",
                "8:5 stages.model.train_dynamic: `train_dynamic` is not a kind of stage",
            ],
        );
    }

    #[test]
    fn wrong_inputs_cycles_and_values_are_told_at_once() {
        let text = "name: x
workspace: Cargo.toml
stages:
  frames: { decode: { videos: ['nowhere/*.mp4'], size: 1, limits: { deadline_secs: -1 } } }
  model: { train_dynamics: { frames: labels, holdout: 1, vq: { entries: 1 } } }
  labels: { label: { frames: frame, dynamics: model } }
  again: { train_dynamics: { frames: again } }
";
        let found = check("p.yaml", text, &[], &Access::default()).err().unwrap();
        let keys: Vec<&str> = found.iter().map(|f| f.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "workspace",
                "stages.frames.decode.videos.0",
                "stages.frames.decode.size",
                "stages.frames.decode.limits",
                "stages.model",
                "stages.model.train_dynamics.frames",
                "stages.model.train_dynamics.holdout",
                "stages.model.train_dynamics.vq.entries",
                "stages.labels.label.frames",
                "stages.again",
                "stages.again.train_dynamics.frames",
            ]
        );
    }

    #[test]
    fn every_pattern_and_list_that_names_no_video_is_a_fault_although_others_do() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("none.txt").display().to_string();
        std::fs::write(&list, "# none yet\n").unwrap();
        let videos = "['Cargo.toml', 'away/*.mp4', 'gone/*.mp4']";
        let text = format!(
            "name: x\nworkspace: runs/x\nstages:\n  frames: {{ decode: {{ videos: {videos}, lists: [{list}] }} }}\n"
        );
        let expect = [
            "4:46 stages.frames.decode.videos.1: no video matches away/*.mp4".to_owned(),
            "4:60 stages.frames.decode.videos.2: no video matches gone/*.mp4".to_owned(),
            format!("4:83 stages.frames.decode.lists.0: {list} lists no video"),
        ];
        faults(&text, &expect.each_ref().map(String::as_str));
    }

    #[test]
    fn variables_fill_values_and_keep_their_type() {
        let text = "
name: x-${n}
workspace: runs/${n}
vars: { n: a, size: 32, file: Cargo.toml }
stages:
  frames: { decode: { videos: ['${file}'], size: '${size}' } }
";
        let set = [("n".to_string(), "b".to_string())];
        let checked = check("p.yaml", text, &set, &Access::default()).unwrap();
        assert_eq!(checked.spec.workspace, "runs/b");
        let StageSpec::Decode(config) = &checked.spec.stages[0].1 else { panic!("a decode stage") };
        assert_eq!(config.size, 32);
        let unknown =
            check("p.yaml", text, &[("m".into(), "b".into())], &Access::default()).err().unwrap();
        assert_eq!(unknown[0].message, "--set m: no such variable");
    }
}
