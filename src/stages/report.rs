//! Collects the results of other stages on one HTML page.
//!
//! `report.html` is self-contained. The stage also writes the tables behind two of its sections,
//! `map.parquet` and `pairs.parquet`.
//!
//! Each figure has the query for its numbers, and is drawn from exactly the rows returned by that
//! query (`numbers`; `tests/it/report.rs` runs all of them). The sections, in the page's order:
//!
//! | file | section |
//! |---|---|
//! | `summary` | the stages, their settings and their data |
//! | `training_curves` | training curves |
//! | `codes` | the use of each code |
//! | `map` | latent actions in two dimensions, by `pca` and `umap` |
//! | `predictions` | predicted frames, and the effect of each code |
//! | `returns` | decoding accuracy and returns |
//! | `learning_curves` | learning curves of agents |

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plan::key::digests;
use super::plan::{KeyFields, NewTask, PendingTasks, PlanInputs, Reason, StagePlan};
use super::{
    ArtifactKind, Error, FieldFault, FieldFaults, Input, LaneState, Needs, Stage, StageKind,
    StageTask, TaskContext, TaskOutput, write,
};
use crate::dataset::{self, FileInfo, Reject};

mod codes;
mod frame_images;
mod html;
mod latent_properties;
mod learning_curves;
mod map;
mod numbers;
mod page;
mod pca;
mod plots;
mod predictions;
mod returns;
mod summary;
mod training_curves;
mod umap;

use codes::Survey;
use page::Section;

/// Shows the results of other stages on one HTML page. A section appears if all of its stages are
/// named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportConfig {
    /// The `decode` or `record` stage. Shows its size and its frames.
    #[serde(default)]
    pub frames: Option<String>,
    /// The `train_dynamics` or `import_dynamics` stage. Shows training curves and, with `frames`,
    /// predicted frames beside real ones.
    #[serde(default)]
    pub dynamics: Option<String>,
    /// The `label` stage. Shows the use of codes and a map of latent actions and, with `frames` and
    /// `dynamics`, the effect of each code.
    #[serde(default)]
    pub labels: Option<String>,
    /// The `record` or `import_actions` stage with the true actions, which colour the map.
    #[serde(default)]
    pub actions: Option<String>,
    /// The `train_policy` stage. Shows training curves.
    #[serde(default)]
    pub policy: Option<String>,
    /// The `train_decoder` stage. Shows how well latent actions are decoded, by number of
    /// transitions.
    #[serde(default)]
    pub decoder: Option<String>,
    /// The `evaluate` stage. Shows the returns, the probe and the world model's rollouts.
    #[serde(default)]
    pub evaluation: Option<String>,
    /// The `finetune` stages. Shows their learning curves in one chart.
    #[serde(default)]
    pub agents: Vec<String>,
    /// Largest number of latent actions on the map, up to 8192. Default 2000. The time grows with
    /// its square.
    #[serde(default = "default_points")]
    pub points: usize,
    /// Number of transitions with a predicted frame. Default 8.
    #[serde(default = "default_pairs")]
    pub pairs: usize,
    /// Number of latent actions with rollouts, the most common first. Default 6.
    #[serde(default = "default_rollouts")]
    pub rollouts: usize,
}

fn default_points() -> usize {
    2000
}
fn default_pairs() -> usize {
    8
}
fn default_rollouts() -> usize {
    6
}

/// The properties of all `report` stages. Raise `version` when the same inputs give another page.
pub const KIND: StageKind =
    StageKind { key_inputs: &["results"], ..StageKind::new("report", 4, &[], "sections") };
/// The largest number of sections.
const SECTIONS: u64 = 7;
/// The largest number of points on a map. Their distances take a quarter of a GiB.
const MAX_POINTS: usize = 8192;

/// The contents of a page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportTask {
    /// The stage's settings.
    pub config: ReportConfig,
    /// The pipeline's name.
    pub pipeline: String,
    /// The stage's own name, and the name of its tables.
    pub name: String,
    /// The stages on the page, each once.
    pub sources: Vec<Source>,
}

/// A stage on the page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub stage: String,
    /// Its kind, such as `label`.
    pub kind: String,
    /// Its settings, after presets and overrides.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The keys of its tasks.
    pub tasks: Vec<String>,
    /// Sums over its tasks, such as `frames` and `transitions`.
    pub stats: BTreeMap<String, f64>,
    /// Its files, in the dataset's order.
    pub files: Vec<FileInfo>,
    /// The videos it rejected.
    pub rejects: Vec<Reject>,
}

impl ReportConfig {
    /// Returns the stages the settings name, each once.
    pub fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<&str> = Vec::new();
        for Input { stage, .. } in self.inputs() {
            // One stage may be named in several fields, such as `frames` and `actions`.
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        stages
    }
}

impl Stage for ReportConfig {
    type Task = ReportTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let inputs = [
            Input::given("frames", &self.frames, ArtifactKind::Frames),
            Input::given("dynamics", &self.dynamics, ArtifactKind::Dynamics),
            Input::given("labels", &self.labels, ArtifactKind::Labels),
            Input::given("actions", &self.actions, ArtifactKind::Actions),
            Input::given("policy", &self.policy, ArtifactKind::Policy),
            Input::given("decoder", &self.decoder, ArtifactKind::Decoder),
            Input::given("evaluation", &self.evaluation, ArtifactKind::Evaluation),
        ];
        let agents =
            self.agents.iter().map(|stage| Input::new("agents", stage, ArtifactKind::Agent));
        inputs.into_iter().flatten().chain(agents).collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        faults.expect(
            !self.inputs().is_empty(),
            "frames",
            "is missing, and so is every other stage to show",
            "name at least one, e.g. `labels: labels`",
        );
        faults.expect_value(
            self.points <= MAX_POINTS,
            "points",
            self.points,
            "expected at most 8192",
        );
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // The distances of up to 8,192 points of the map take a quarter of a GiB.
        Needs { gpu: false, cores: 2, memory_mib: 2048 }
    }

    /// Adds one task, since a page shows everything at once.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let stages: Vec<&StagePlan> =
            self.stages().into_iter().map(|stage| given.plan(stage)).collect();
        let task = ReportTask {
            config: self.clone(),
            pipeline: given.pipeline.to_owned(),
            name: plan.stage.clone(),
            sources: stages.iter().map(|stage| Source::of(stage)).collect(),
        };
        plan.set_settings(&task.key().into_fields());
        if let Some(waited) = stages.iter().find(|stage| stage.new_tasks() > 0) {
            plan.wait(PendingTasks { tasks: 1, videos: 0 }, Reason::new_input(&waited.stage));
            return Ok(());
        }
        let inputs = stages.iter().flat_map(|stage| stage.tasks.keys()).collect();
        plan.add(NewTask::new(task, inputs, SECTIONS), given.known);
        Ok(())
    }
}

impl StageTask for ReportTask {
    fn key(&self) -> KeyFields {
        // The stage's own name is on the page, but a report with another name is another stage.
        let ReportTask { config, pipeline, name: _, sources } = self;
        let results: Vec<_> = sources
            .iter()
            .map(|Source { stage, tasks, files, .. }| json!([stage, tasks, digests(files)]))
            .collect();
        KeyFields::new(&KIND)
            .setting("lapo", env!("CARGO_PKG_VERSION"))
            .setting("pipeline", pipeline)
            // All settings, since the page also shows the names of the stages.
            .setting("of", config)
            .input("results", results)
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

impl Source {
    /// Collects the results of a stage.
    fn of(plan: &StagePlan) -> Self {
        let mut stats = BTreeMap::new();
        for (name, value) in plan.tasks.receipts().flat_map(|receipt| &receipt.stats) {
            // Statistics of tasks add up: counts and seconds.
            // A time, which differs from run to run: the page must not.
            if name == "waited_for_frames" {
                continue;
            }
            *stats.entry(name.clone()).or_default() += value;
        }
        Source {
            stage: plan.stage.clone(),
            kind: plan.kind.name.to_owned(),
            settings: plan.settings.clone(),
            tasks: plan.tasks.keys(),
            stats,
            files: plan.tasks.files(""),
            rejects: plan.tasks.receipts().flat_map(|receipt| receipt.rejects.clone()).collect(),
        }
    }

    /// Returns the files with names ending in `end`.
    fn files(&self, end: &str) -> Vec<FileInfo> {
        self.files.iter().filter(|file| file.path.ends_with(end)).cloned().collect()
    }

    fn paths(&self, end: &str) -> Vec<String> {
        self.files(end).into_iter().map(|file| file.path).collect()
    }

    /// Returns the files of true actions, of `record` or `import_actions`.
    fn action_paths(&self) -> Vec<String> {
        self.files
            .iter()
            .filter(|file| file.holds_actions())
            .map(|file| file.path.clone())
            .collect()
    }
}

/// The inputs of all sections.
struct Inputs<'a> {
    task: &'a ReportTask,
    ctx: &'a TaskContext<'a>,
}

impl<'a> Inputs<'a> {
    /// Returns the stage in a field of the settings.
    fn of(&self, field: &str) -> Option<&'a Source> {
        self.all(field).into_iter().next()
    }

    /// Returns all stages in a field of the settings.
    fn all(&self, field: &str) -> Vec<&'a Source> {
        let named = self.task.config.inputs().into_iter().filter(|input| input.field == field);
        let named = named.map(|input| input.stage.to_owned());
        named
            .filter_map(|stage| self.task.sources.iter().find(|source| source.stage == stage))
            .collect()
    }

    fn json(&self, path: &str) -> Result<serde_json::Value, Error> {
        let corrupt = |e: serde_json::Error| crate::dataset::Error::Corrupt {
            path: path.to_owned(),
            reason: e.to_string(),
        };
        Ok(serde_json::from_slice(&self.ctx.store.require(path)?).map_err(corrupt)?)
    }
}

/// Makes the page.
fn run(task: &ReportTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let inputs = Inputs { task, ctx };
    // The labels are read once for three sections.
    let survey = Survey::of(&inputs)?;
    let makers: [&dyn Fn() -> Result<Option<Section>, Error>; SECTIONS as usize] = [
        &|| summary::section(&inputs),
        &|| training_curves::section(&inputs),
        &|| codes::section(&inputs, survey.as_ref()),
        &|| map::section(&inputs, survey.as_ref()),
        &|| predictions::section(&inputs, survey.as_ref()),
        &|| returns::section(&inputs),
        &|| learning_curves::section(&inputs),
    ];
    let mut sections = Vec::new();
    for make in makers {
        ctx.check_stop()?;
        sections.extend(make()?);
        ctx.progress.advance(1);
    }
    let path = format!("{}/report.html", ctx.folder);
    let mut file = ctx.store.new_file(&path)?;
    write(&mut file, page::page(&task.pipeline, &sections).as_bytes())?;
    let mut files = vec![file.finish(0)?];
    files.extend(sections.into_iter().flat_map(|section| section.files));
    ctx.progress.say(&format!("wrote the report to {path} in the workspace"));
    Ok(TaskOutput { files, ..TaskOutput::default() })
}
