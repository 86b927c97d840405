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

use super::{Done, Error, Workplace, write};
use crate::dataset::{FileInfo, Reject};

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

/// The version of what this stage does: raise it when the same inputs give another page.
pub const VERSION: u32 = 3;
/// How many sections a page may have.
pub const SECTIONS: u64 = 7;
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
    /// The stages it names: field and stage.
    pub fn sources(&self) -> Vec<(&'static str, &str)> {
        let fields = [
            ("frames", &self.frames),
            ("dynamics", &self.dynamics),
            ("labels", &self.labels),
            ("actions", &self.actions),
            ("policy", &self.policy),
            ("decoder", &self.decoder),
            ("evaluation", &self.evaluation),
        ];
        let named = fields.into_iter().filter_map(|(field, stage)| Some((field, stage.as_deref()?)));
        named.chain(self.agents.iter().map(|stage| ("agents", stage.as_str()))).collect()
    }

    /// The stages it names, each once.
    pub fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<&str> = Vec::new();
        for (_, stage) in self.sources() {
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        stages
    }

    /// Faults of single fields: `(field, what is wrong, cure)`.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut faults = Vec::new();
        if self.sources().is_empty() {
            faults.push(("frames", "is missing, and so is every other stage to show".into(), "name at least one, e.g. `labels: labels`"));
        }
        if self.points > MOST_POINTS {
            faults.push(("points", format!("is {}", self.points), "expected at most 8192"));
        }
        faults
    }
}

impl Source {
    /// The files whose names end so.
    fn files(&self, end: &str) -> Vec<FileInfo> {
        self.files.iter().filter(|file| file.path.ends_with(end)).cloned().collect()
    }

    fn paths(&self, end: &str) -> Vec<String> {
        self.files(end).into_iter().map(|file| file.path).collect()
    }

    /// The files of true actions: `record` and `import_actions` name them alike.
    fn action_paths(&self) -> Vec<String> {
        self.files.iter().filter(|file| file.holds_actions()).map(|file| file.path.clone()).collect()
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
        let named = self.task.config.sources().into_iter().filter(|(known, _)| *known == field);
        named.filter_map(|(_, stage)| self.task.sources.iter().find(|source| source.stage == stage)).collect()
    }

    fn json(&self, path: &str) -> Result<serde_json::Value, Error> {
        let corrupt = |e: serde_json::Error| crate::dataset::Error::Corrupt { path: path.to_owned(), reason: e.to_string() };
        Ok(serde_json::from_slice(&self.place.store.require(path)?).map_err(corrupt)?)
    }
}

/// Makes the page.
pub fn run(task: &ReportTask, place: &Workplace) -> Result<Done, Error> {
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
