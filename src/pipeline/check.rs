//! Checks a pipeline as a whole: [`check`] returns a [`Checked`] pipeline, or every fault at once.
//!
//! The checks run in this order:
//!
//! 1. [`parse`](super::parse) types the text;
//! 2. `rules` checks the settings, and how stages fit together;
//! 3. `order` sorts the stages;
//! 4. `paths` looks for videos and files.
//!
//! All of them report to [`Faults`], which finds lines and columns at the end. Nothing is written.

use std::collections::BTreeMap;

use super::fault::{Fault, Faults};
use super::parse::parse;
use super::spec::PipelineSpec;
use crate::dataset::{Access, ListedVideo};

mod order;
mod paths;
mod rules;

pub use paths::workspace_fault;

/// A valid pipeline: its inputs exist and fit together, and its stages can be ordered.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The settings.
    pub spec: PipelineSpec,
    /// The text of the file.
    pub text: String,
    /// Indices of the stages in execution order: every stage comes after its inputs, and otherwise
    /// in the file's order.
    pub order: Vec<usize>,
    /// The videos of each `decode` stage, from its patterns and lists, sorted by address.
    pub videos: BTreeMap<String, Vec<ListedVideo>>,
    /// Remarks on each stage's lists.
    pub notes: Notes,
}

/// Remarks for the user, by stage.
pub type Notes = BTreeMap<String, Vec<String>>;

/// Parses and checks the text of a pipeline file.
///
/// `set` overrides variables. `access` holds the credentials for object stores.
pub fn check(
    file: &str,
    text: &str,
    set: &[(String, String)],
    access: &Access,
) -> Result<Checked, Vec<Fault>> {
    let mut faults = Faults::new(file, text);
    let checked = parse(&mut faults, set).map(|spec| {
        rules::check(&mut faults, &spec);
        let order = order::order(&mut faults, &spec);
        let (videos, notes) = paths::check(&mut faults, &spec, access);
        Checked { spec, text: text.into(), order, videos, notes }
    });
    faults.into_result()?;
    // `parse` returns nothing only after it has reported a fault.
    checked.ok_or_else(Vec::new)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::pipeline::spec::StageSpec;

    /// Checks `text` and compares the faults, each as `line:column key: message`.
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
    fn stages_are_ordered_by_their_inputs() {
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
    fn a_policy_and_its_model_must_share_latent_actions() {
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
        let message =
            "`other` uses the latent actions of `other`, but `policy` uses those of `model`";
        faults(text, &[&format!("9:50 stages.agent.finetune.dynamics: {message}")]);
        faults(&text.replace("dynamics: other", "dynamics: model"), &[]);
    }

    #[test]
    fn all_faults_of_the_text_are_reported_with_their_places() {
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
    fn wrong_inputs_cycles_and_values_are_reported_together() {
        let text = "name: x
workspace: Cargo.toml
stages:
  frames: { decode: { videos: ['nowhere/*.mp4'], size: 1, limits: { deadline_secs: -1 } } }
  model: { train_dynamics: { frames: labels, batch: 0, vq: { entries: 1 } } }
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
                "stages.model.train_dynamics.batch",
                "stages.model.train_dynamics.vq.entries",
                "stages.labels.label.frames",
                "stages.again",
                "stages.again.train_dynamics.frames",
            ]
        );
    }

    #[test]
    fn every_pattern_and_list_without_a_video_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("none.txt").display().to_string();
        std::fs::write(&list, "# none yet\n").unwrap();
        let videos = "['Cargo.toml', 'away/*.mp4', 'gone/*.mp4']";
        let text = format!(
            "name: x
workspace: runs/x
stages:
  frames: {{ decode: {{ videos: {videos}, lists: [{list}] }} }}
"
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
