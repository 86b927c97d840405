//! Stage 1b: every transition gets its latent action (LAPO, section 4.1). In: one shard and a trained IDM + FDM; out: one Parquet
//! file, a row for each transition.
//!
//! Windows never cross an episode, so a shard of `n` frames in `e` episodes gives `n - (context + 1) e` rows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Done, Error, Workplace};
use crate::dataset::{Actions, DEFAULT_FILE_MIB, FileInfo, LabelRows, LabelShape, LabelWriter, Shard, Shards, Store, WindowIndex};
use crate::models::{Device, Labeller, Precision, Want, labeller};

/// Labels every transition of a dataset with its latent action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelConfig {
    /// The `decode` or `record` stage whose frames are labelled.
    pub frames: String,
    /// The `train_dynamics` stage whose IDM labels them.
    pub dynamics: String,
    /// The stage that knows true actions of these frames, `record` or `import_actions`: they are set beside the latent ones, as
    /// `true_action`, where they are discrete. Default none.
    #[serde(default)]
    pub actions: Option<String>,
    /// The `deduplicate` stage whose near-copies get no labels. Default none: all videos get labels.
    #[serde(default)]
    pub without: Option<String>,
    /// Whether to compute the world model's error on every transition, the label's own quality sign. It costs as much again as the
    /// latent action. Default true.
    #[serde(default = "default_fdm_error")]
    pub fdm_error: bool,
    /// How precisely the networks compute: `f32`, or `bf16`, which is for GPUs and much slower without one. Default `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// The size, in MiB, up to which small label files are joined into one when they are committed, for those who query the labels or read
    /// them as a Delta Lake table. No label is computed again when it changes. Default 128.
    #[serde(default = "default_file_mib")]
    pub file_mib: u64,
}

fn default_file_mib() -> u64 {
    DEFAULT_FILE_MIB
}

impl LabelConfig {
    /// Faults: the field, what is wrong with it, the cure.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        match self.file_mib {
            1..=1_048_576 => vec![],
            other => vec![("file_mib", format!("is {other}"), "expected MiB from 1 to 1,048,576")],
        }
    }
}

fn default_fdm_error() -> bool {
    true
}

/// The version of what this stage does: raise it when the same shard, model and settings give other bytes.
pub const VERSION: u32 = 1;
/// Windows whose frames are copied together.
const BATCH: usize = 1024;

/// One shard and the model to label it with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabelTask {
    /// The stage's settings.
    pub config: LabelConfig,
    /// The frames.
    pub shard: FileInfo,
    /// The weights; its `blake3` is the model's digest.
    pub model: FileInfo,
    /// The true actions of the shard's frames, where they are asked for.
    pub actions: Option<FileInfo>,
    /// The digests of videos that are left out.
    #[serde(default)]
    pub without: Vec<String>,
}

/// The worker: a model on a device, kept from task to task.
pub struct Label {
    digest: String,
    precision: Precision,
    labeller: Box<dyn Labeller>,
}

impl Label {
    /// Loads the weights onto the device.
    pub fn new(store: &Store, model: &FileInfo, device: &Device, precision: Precision) -> Result<Label, Error> {
        let weights = store.require_file(model)?;
        let labeller = labeller(device, &weights, precision)?;
        Ok(Label { digest: model.blake3.clone(), precision, labeller })
    }

    /// Whether this worker holds the task's model already, at the task's precision.
    pub fn serves(&self, task: &LabelTask) -> bool {
        (&self.digest, self.precision) == (&task.model.blake3, task.config.precision)
    }

    /// Labels one shard.
    pub fn run(&self, task: &LabelTask, place: &Workplace) -> Result<Done, Error> {
        let shards = Shards::open_files(place.store, std::slice::from_ref(&task.shard))?;
        let shard = shards.shard(0)?;
        let config = self.labeller.config();
        let (seen, expected) = (shard.frame_size().height as usize, config.frame_size);
        if seen != expected {
            return Err(Error::FrameSize { file: task.shard.path.clone(), seen, expected });
        }
        let shape = LabelShape { latent_dim: config.latent_dim(), codes: config.codes() };
        let path = format!("{}/labels.parquet", place.folder);
        let provenance = self.provenance(task);
        let provenance: Vec<(&str, &str)> = provenance.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let mut labels = LabelWriter::create(place.store, &path, shape, &provenance)?;
        let index = WindowIndex::new(&shards, config.window()).without(&shards, &task.without)?;
        let paths: Vec<String> = task.actions.iter().map(|file| file.path.clone()).collect();
        let actions = Actions::read(place.store, &paths)?;
        for first in (0..index.len()).step_by(BATCH) {
            let last = (first + BATCH).min(index.len());
            self.label_windows(task, (&shard, &actions), &index, first..last, &mut labels)?;
            place.go_on()?;
            place.progress.advance((last - first) as u64);
        }
        let stats = BTreeMap::from([("transitions".to_string(), index.len() as f64)]);
        Ok(Done { files: vec![labels.finish()?], stats, ..Done::default() })
    }

    /// One batch: gathers each frame once, labels, writes the rows.
    fn label_windows(
        &self,
        task: &LabelTask,
        (shard, actions): (&Shard, &Actions),
        index: &WindowIndex,
        windows: std::ops::Range<usize>,
        labels: &mut LabelWriter,
    ) -> Result<(), Error> {
        let time = self.labeller.config().window();
        let rows: Vec<usize> = windows.map(|window| index.locate(window).row).collect();
        let (frames, starts) = frames_once(shard, &rows, time);
        let want = Want { codes: true, fdm_error: task.config.fdm_error };
        let out = self.labeller.label(&frames, &starts, want)?;
        let now: Vec<usize> = rows.iter().map(|row| row + time - 2).collect();
        let true_action = |row: &usize| actions.discrete(shard.video(*row), shard.frame_index(*row)).map(|action| action as i32);
        let true_action: Vec<Option<i32>> = now.iter().map(true_action).collect();
        labels.push(&LabelRows {
            video: &now.iter().map(|row| shard.video(*row)).collect::<Vec<_>>(),
            episode: &now.iter().map(|row| shard.episode(*row)).collect::<Vec<_>>(),
            frame_index: &now.iter().map(|row| shard.frame_index(*row)).collect::<Vec<_>>(),
            time_s: &now.iter().map(|row| shard.time_s(*row)).collect::<Vec<_>>(),
            latent_action: &out.latent_action,
            latent_code: &out.latent_code,
            fdm_error: task.config.fdm_error.then_some(&out.fdm_error),
            motion: &out.motion,
            true_action: &true_action,
            shard: &task.shard.blake3,
            row: &now.iter().map(|row| *row as u32).collect::<Vec<_>>(),
        })?;
        Ok(())
    }

    /// What the file says of its own origin.
    fn provenance(&self, task: &LabelTask) -> [(&'static str, String); 4] {
        [
            ("lapo.model", self.digest.clone()),
            ("lapo.config", serde_json::json!(self.labeller.config()).to_string()),
            ("lapo.shard", task.shard.blake3.clone()),
            ("lapo.label_version", VERSION.to_string()),
        ]
    }
}

/// The frames of windows that start at `rows`, each frame once, and where each window starts among them.
fn frames_once(shard: &Shard, rows: &[usize], time: usize) -> (Vec<u8>, Vec<usize>) {
    let bytes = shard.frame_size().bytes();
    let mut frames = Vec::with_capacity((rows.len() + time) * bytes);
    let mut starts = Vec::with_capacity(rows.len());
    let mut before = None;
    for &row in rows {
        let missing = if before.is_some_and(|b| b + 1 == row) { row + time - 1..row + time } else { row..row + time };
        missing.for_each(|r| frames.extend_from_slice(shard.pixels(r)));
        starts.push(frames.len() / bytes - time);
        before = Some(row);
    }
    (frames, starts)
}
