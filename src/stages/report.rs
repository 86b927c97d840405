//! The last step, for people: everything that stages made becomes one HTML page. In: the files of any of them; out: `report.html`, which
//! asks for nothing from elsewhere, and the tables behind it that no other stage has, `map.parquet` and `pairs.parquet`.
//!
//! Under every figure stands the query that finds its numbers in the datasets; a figure is drawn from the very rows its query returns
//! (`numbers`; `tests/it/report.rs` asks them all). The sections, in the page's order: `facts` (what ran, on which data), `training`
//! (curves), `codes` (how often each code is used), `map` (latent actions in two dimensions, by `pca` and `umap`), `world` (predicted
//! frames, and what each code does), `earned` (decoding and returns), `online` (learning in the game).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plan::key::digests;
use super::plan::{Given, KeyFields, NewTask, Reason, StagePlan, Waiting};
use super::{
    ArtifactKind, Done, Error, FieldFault, Input, Kept, Needs, Stage, StageKind, StageTask,
    Workplace, write,
};
use crate::dataset::{self, FileInfo, Reject};

mod codes;
mod earned;
mod facts;
mod map;
mod numbers;
mod online;
mod page;
mod pca;
mod pictures;
mod plots;
mod training;
mod umap;
mod world;

use codes::Survey;
use page::Section;

/// Shows what other stages made, on one HTML page. Name the stages to show; a section appears where all it needs is named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportConfig {
    /// The `decode` or `record` stage whose frames are counted and shown.
    #[serde(default)]
    pub frames: Option<String>,
    /// The `train_dynamics` or `import_dynamics` stage: training curves; with `frames`, predicted frames beside real ones.
    #[serde(default)]
    pub dynamics: Option<String>,
    /// The `label` stage: how often codes are used, a map of latent actions; with `frames` and `dynamics`, what each code does.
    #[serde(default)]
    pub labels: Option<String>,
    /// The stage that knows what was truly done, which colours the map: `record` or `import_actions`.
    #[serde(default)]
    pub actions: Option<String>,
    /// The `train_policy` stage: training curves.
    #[serde(default)]
    pub policy: Option<String>,
    /// The `train_decoder` stage: how well latent actions are decoded, from how many transitions.
    #[serde(default)]
    pub decoder: Option<String>,
    /// The `evaluate` stage: what the policy earned.
    #[serde(default)]
    pub evaluation: Option<String>,
    /// `finetune` stages: what their agents earned while they learnt, on one chart.
    #[serde(default)]
    pub agents: Vec<String>,
    /// Most latent actions on the map. Default 2000; the time for it grows with their square.
    #[serde(default = "default_points")]
    pub points: usize,
    /// Transitions whose predicted frame is shown. Default 8.
    #[serde(default = "default_pairs")]
    pub pairs: usize,
    /// Latent actions, the commonest first, of which is shown what they do. Default 6.
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

/// What all `report` stages have in common. Raise `version` when the same inputs give another page.
pub const KIND: StageKind =
    StageKind { key_inputs: &["results"], ..StageKind::new("report", 3, &[], "sections") };
/// How many sections a page may have.
const SECTIONS: u64 = 7;
/// Most points of a map: their distances fill a quarter of a GiB.
const MOST_POINTS: usize = 8192;

/// Everything the page shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportTask {
    /// The stage's settings.
    pub config: ReportConfig,
    /// The pipeline's name.
    pub pipeline: String,
    /// This stage's own name: its tables are called so.
    pub name: String,
    /// The stages that are shown, each once.
    pub sources: Vec<Source>,
}

/// A stage that is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub stage: String,
    /// Its kind, such as `label`.
    pub kind: String,
    /// Its settings, as they come out of presets and overrides.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The keys of its tasks.
    pub tasks: Vec<String>,
    /// Sums over its tasks: `frames`, `transitions`, ...
    pub stats: BTreeMap<String, f64>,
    /// Its files, in the dataset's order.
    pub files: Vec<FileInfo>,
    /// What it could not use.
    pub rejects: Vec<Reject>,
}

impl ReportConfig {
    /// The stages it names, each once.
    pub fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<&str> = Vec::new();
        for Input { stage, .. } in self.inputs() {
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
        let mut faults = Vec::new();
        if self.inputs().is_empty() {
            faults.push((
                "frames",
                "is missing, and so is every other stage to show".into(),
                "name at least one, e.g. `labels: labels`",
            ));
        }
        if self.points > MOST_POINTS {
            faults.push(("points", format!("is {}", self.points), "expected at most 8192"));
        }
        faults
    }

    fn needs(&self) -> Needs {
        // The distances of up to 8,192 points of the map fill a quarter of a GiB.
        Needs { gpu: false, cores: 2, memory_mib: 2048 }
    }

    /// Adds one task: a page is made of everything at once.
    fn plan(&self, given: &Given, plan: &mut StagePlan) -> dataset::Result<()> {
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
            plan.wait(Waiting { tasks: 1, videos: 0 }, Reason::new_input(&waited.stage));
            return Ok(());
        }
        let inputs = stages.iter().flat_map(|stage| stage.tasks.keys()).collect();
        plan.add(NewTask::new(task, inputs, SECTIONS), given.known);
        Ok(())
    }
}

impl StageTask for ReportTask {
    fn key(&self) -> KeyFields {
        // The stage's own name is in the page, but a report of another name is another stage.
        let ReportTask { config, pipeline, name: _, sources } = self;
        let results: Vec<_> = sources
            .iter()
            .map(|Source { stage, tasks, files, .. }| json!([stage, tasks, digests(files)]))
            .collect();
        KeyFields::new(&KIND)
            .setting("lapo", env!("CARGO_PKG_VERSION"))
            .setting("pipeline", pipeline)
            // All settings: the page shows the names of the stages, too.
            .setting("of", config)
            .input("results", results)
    }

    fn run(&self, place: &Workplace, _: &mut Kept) -> Result<Done, Error> {
        run(self, place)
    }
}

impl Source {
    /// Returns what a report shows of a stage.
    fn of(plan: &StagePlan) -> Self {
        let mut stats = BTreeMap::new();
        for (name, value) in plan.tasks.receipts().flat_map(|receipt| &receipt.stats) {
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

    /// The files whose names end so.
    fn files(&self, end: &str) -> Vec<FileInfo> {
        self.files.iter().filter(|file| file.path.ends_with(end)).cloned().collect()
    }

    fn paths(&self, end: &str) -> Vec<String> {
        self.files(end).into_iter().map(|file| file.path).collect()
    }

    /// The files of true actions: `record` and `import_actions` name them alike.
    fn action_paths(&self) -> Vec<String> {
        self.files
            .iter()
            .filter(|file| file.holds_actions())
            .map(|file| file.path.clone())
            .collect()
    }
}

/// What sections are made from.
struct Inputs<'a> {
    task: &'a ReportTask,
    place: &'a Workplace<'a>,
}

impl<'a> Inputs<'a> {
    /// The stage that a field of the settings names.
    fn of(&self, field: &str) -> Option<&'a Source> {
        self.all(field).into_iter().next()
    }

    /// The stages that a field of the settings names.
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
        Ok(serde_json::from_slice(&self.place.store.require(path)?).map_err(corrupt)?)
    }
}

/// Makes the page.
fn run(task: &ReportTask, place: &Workplace) -> Result<Done, Error> {
    let inputs = Inputs { task, place };
    let survey = Survey::of(&inputs)?;
    let makers: [&dyn Fn() -> Result<Option<Section>, Error>; SECTIONS as usize] = [
        &|| facts::section(&inputs),
        &|| training::section(&inputs),
        &|| codes::section(&inputs, survey.as_ref()),
        &|| map::section(&inputs, survey.as_ref()),
        &|| world::section(&inputs, survey.as_ref()),
        &|| earned::section(&inputs),
        &|| online::section(&inputs),
    ];
    let mut sections = Vec::new();
    for make in makers {
        place.go_on()?;
        sections.extend(make()?);
        place.progress.advance(1);
    }
    let path = format!("{}/report.html", place.folder);
    let mut file = place.store.new_file(&path)?;
    write(&mut file, page::page(&task.pipeline, &sections).as_bytes())?;
    let mut files = vec![file.finish(0)?];
    files.extend(sections.into_iter().flat_map(|section| section.files));
    place.progress.say(&format!("the page is {path} in the workspace"));
    Ok(Done { files, ..Done::default() })
}
