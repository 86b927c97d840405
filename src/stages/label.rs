//! Labels every transition with its latent action (LAPO, section 4.1).
//!
//! A task labels one shard with a trained IDM and writes a Parquet file with a row per transition.
//! Windows never cross an episode, so `n` frames in `e` episodes have `n - (context + 1) e` rows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::{
    KeyFields, Model, NewTask, PendingTasks, PlanInputs, Reason, ReceiptIndex, StagePlan, no_file,
};
use super::{
    ArtifactKind, Error, FieldFault, FieldFaults, Input, LaneState, Lanes, LatentActions, Needs,
    Speed, Stage, StageKind, StageTask, Streaming, TaskContext, TaskOutput,
};
use crate::dataset::{
    self, Actions, DEFAULT_FILE_MIB, DEVICE_KEY, FileInfo, LabelRows, LabelShape, LabelWriter,
    PRECISION_KEY, Receipt, Shard, Shards, Window, WindowIndex,
};
use crate::models::{Device, LabelOutputs, Labeller, Precision, labeller};

/// Labels every transition of a dataset with its latent action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelConfig {
    /// The `decode` or `record` stage with the frames to label.
    pub frames: String,
    /// The `train_dynamics` or `import_dynamics` stage whose IDM infers the latent actions.
    pub dynamics: String,
    /// The `record` or `import_actions` stage with true actions of these frames. Discrete ones are
    /// written beside the latent actions, as `true_action`. Default: none.
    #[serde(default)]
    pub actions: Option<String>,
    /// The `deduplicate` stage whose near-duplicates get no labels. Default: all get labels.
    #[serde(default)]
    pub without: Option<String>,
    /// Whether to compute the FDM's prediction error on every transition, a measure of the label's
    /// quality. It costs as much as the latent action itself. Default true.
    #[serde(default = "default_fdm_error")]
    pub fdm_error: bool,
    /// Precision of the networks: `f32` (default), or `bf16`, which is faster on GPUs and much
    /// slower on CPUs.
    #[serde(default)]
    pub precision: Precision,
    /// Size in MiB up to which a commit joins small label files into one. Larger files suit queries
    /// and readers of the Delta Lake table. A change computes no label again. Default 128.
    #[serde(default = "default_file_mib")]
    pub file_mib: u64,
}

fn default_file_mib() -> u64 {
    DEFAULT_FILE_MIB
}

fn default_fdm_error() -> bool {
    true
}

/// The properties of all `label` stages. Raise `version` when the same shard, model and settings
/// give other bytes.
pub const KIND: StageKind = StageKind {
    key_inputs: &["frames", "without", "model", "true_actions"],
    row: "transition",
    lanes: Lanes::PerGpu,
    memory_cure: "take a GPU with more free memory, set `fdm_error: false` of this stage, or label \
                  with `--device cpu`",
    independent: true,
    speed: Some(Speed { of: "transitions", unit: "transitions/s labelled" }),
    ..StageKind::new("label", 2, &[ArtifactKind::Labels], "transitions")
};
/// The number of windows in a batch.
const BATCH: usize = 1024;

/// A shard and its model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabelTask {
    /// The stage's settings.
    pub config: LabelConfig,
    /// The frames.
    pub shard: FileInfo,
    /// The weights. Their `blake3` is the model's digest.
    pub model: FileInfo,
    /// The true actions of the shard's frames, if the stage has `actions`.
    pub actions: Option<FileInfo>,
    /// The digests of videos without labels.
    #[serde(default)]
    pub without: Vec<String>,
}

impl Stage for LabelConfig {
    type Task = LabelTask;

    fn kind(&self) -> &'static StageKind {
        &KIND
    }

    fn inputs(&self) -> Vec<Input<'_>> {
        let needed = [
            Input::new("frames", &self.frames, ArtifactKind::Frames),
            Input::new("dynamics", &self.dynamics, ArtifactKind::Dynamics),
        ];
        let beside = [
            Input::given("actions", &self.actions, ArtifactKind::Actions),
            Input::given("without", &self.without, ArtifactKind::Copies),
        ];
        needed
            .into_iter()
            .chain(beside.into_iter().flatten().map(Input::of_the_same_frames))
            .collect()
    }

    fn validate(&self) -> Vec<FieldFault> {
        let mut faults = FieldFaults::default();
        faults.expect_value(
            (1..=1_048_576).contains(&self.file_mib),
            "file_mib",
            self.file_mib,
            "expected MiB from 1 to 1,048,576",
        );
        faults.into_vec()
    }

    fn needs(&self) -> Needs {
        // The networks and a batch of windows. The shard is read in place.
        Needs { gpu: true, cores: 2, memory_mib: 1024 }
    }

    /// Adds a task for each shard. All tasks are new when the model is.
    fn plan(&self, given: &PlanInputs, plan: &mut StagePlan) -> dataset::Result<()> {
        let frames = given.plan(&self.frames);
        let dynamics = given.plan(&self.dynamics);
        let actions = given.plan_if(self.actions.as_ref());
        let copies = given.plan_if(self.without.as_ref());
        plan.set_settings(&self.task(no_file(), no_file()).key().into_fields());
        let is_new = |plan: &&StagePlan| plan.new_tasks() > 0;
        // With new frames true actions are new as well. The reason is then the frames.
        let missing =
            actions.filter(|actions| is_new(actions) && !is_new(&frames)).map(|_| "true actions");
        let missing = missing.or(copies.filter(is_new).map(|_| "near-duplicates"));
        let Some(model) = dynamics.model().filter(|_| missing.is_none()) else {
            let tasks = frames.new_tasks() + frames.tasks.reused();
            plan.wait(
                PendingTasks { tasks, videos: 0 },
                Reason::new_input(missing.unwrap_or("model")),
            );
            return Ok(());
        };
        let true_actions = actions.map(StagePlan::action_files).unwrap_or_default();
        let copies = copies.map(StagePlan::copies).unwrap_or_default();
        for (i, shard) in frames.tasks.receipts().enumerate() {
            // The shard is the first file of its receipt.
            let Some(file) = shard.files.first() else { continue };
            let digests = shard.videos.iter().map(|video| &video.digest);
            let without =
                digests.filter(|digest| copies.contains(digest.as_str())).cloned().collect();
            // Files of true actions are in the order of the shards.
            let actions = true_actions.get(i).cloned();
            let task =
                LabelTask { actions, without, ..self.task(file.clone(), model.weights.clone()) };
            plan.add(task.planned(shard, model), given.known);
        }
        // The shards of new frames are not known yet, only their number.
        if is_new(&frames) {
            plan.wait(
                PendingTasks { tasks: frames.new_tasks(), videos: 0 },
                Reason::new_input("frames"),
            );
        }
        Ok(())
    }

    fn file_mib(&self) -> Option<u64> {
        Some(self.file_mib)
    }

    fn about_frames_of<'a>(&'a self, _own: &'a str) -> Option<&'a str> {
        Some(&self.frames)
    }

    fn latent_actions(&self) -> Option<LatentActions<'_>> {
        Some(LatentActions::Model(&self.dynamics))
    }

    /// Labels follow their shards, except with `actions` or `without`: true actions and
    /// near-duplicates are complete only when all frames are.
    fn streams(&self) -> Option<Streaming<'_>> {
        let waits = self.actions.is_some() || self.without.is_some();
        (!waits).then_some(Streaming { shards: &self.frames, model: &self.dynamics })
    }

    fn plan_shard(&self, shard: &Receipt, model: Model, plan: &mut StagePlan) {
        if let Some(file) = shard.files.first() {
            let task = self.task(file.clone(), model.weights.clone());
            // Planned without receipts, since the shard was made only now.
            plan.add(task.planned(shard, model), &ReceiptIndex::default());
        }
    }
}

impl LabelConfig {
    /// Creates the task of a shard without true actions and with all its videos.
    fn task(&self, shard: FileInfo, model: FileInfo) -> LabelTask {
        LabelTask { config: self.clone(), shard, model, actions: None, without: vec![] }
    }
}

impl LabelTask {
    /// Returns the task with the keys of its inputs.
    fn planned(self, shard: &Receipt, model: Model) -> NewTask {
        let inputs = vec![shard.key.clone(), model.key.to_owned()];
        let units = self.shard.rows;
        NewTask::new(self, inputs, units)
    }
}

impl StageTask for LabelTask {
    fn key(&self) -> KeyFields {
        let LabelTask { config, shard, model, actions, without } = self;
        // Joining small files changes no label.
        let LabelConfig {
            fdm_error,
            precision,
            frames: _,
            dynamics: _,
            actions: _,
            without: _,
            file_mib: _,
        } = config;
        KeyFields::new(&KIND)
            .setting("fdm_error", fdm_error)
            .setting("precision", precision)
            .input("frames", &shard.blake3)
            .input("model", &model.blake3)
            .input_if(
                actions.is_some(),
                "true_actions",
                actions.as_ref().map(|actions| &actions.blake3),
            )
            .input_if(!without.is_empty(), "without", without)
    }

    /// Labels the shard. Uses the model of the previous task on this lane if it is the same one.
    fn run(&self, ctx: &TaskContext, kept: &mut LaneState) -> Result<TaskOutput, Error> {
        let is_loaded = kept
            .as_ref()
            .and_then(|kept| kept.downcast_ref::<Label>())
            .is_some_and(|label| label.serves(self));
        if !is_loaded {
            // The old model is freed first: both may not fit on the device.
            *kept = None;
            *kept = Some(Box::new(Label::new(self, ctx)?));
        }
        match kept.as_ref().and_then(|kept| kept.downcast_ref::<Label>()) {
            Some(label) => label.run(self, ctx),
            None => Err(Error::Invariant {
                what: "the lane kept a value that is not a labeller".into(),
            }),
        }
    }
}

/// The frames and true actions of a shard.
struct Source<'a> {
    shard: &'a Shard,
    actions: &'a Actions,
}

/// A labeller on a device, kept from task to task.
struct Label {
    digest: String,
    precision: Precision,
    labeller: Box<dyn Labeller>,
}

impl Label {
    /// Loads the weights onto the device.
    fn new(task: &LabelTask, ctx: &TaskContext) -> Result<Label, Error> {
        let precision = task.config.precision;
        let weights = ctx.store.require_file(&task.model)?;
        let labeller = labeller(&ctx.device, &weights, precision)?;
        Ok(Label { digest: task.model.blake3.clone(), precision, labeller })
    }

    /// Returns whether this labeller has the task's model and precision.
    fn serves(&self, task: &LabelTask) -> bool {
        (&self.digest, self.precision) == (&task.model.blake3, task.config.precision)
    }

    /// Labels one shard.
    fn run(&self, task: &LabelTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
        let shards = Shards::open_files(ctx.store, std::slice::from_ref(&task.shard))?;
        let shard = shards.shard(0)?;
        let config = self.labeller.config();
        let seen = shard.frame_size().height as usize;
        let expected = config.frame_size;
        if seen != expected {
            return Err(Error::FrameSize { file: task.shard.path.clone(), seen, expected });
        }
        let shape = LabelShape { latent_dim: config.latent_dim(), codes: config.codes() };
        let path = format!("{}/labels.parquet", ctx.folder);
        let provenance = self.provenance(task, ctx.device);
        let provenance: Vec<(&str, &str)> =
            provenance.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let mut labels = LabelWriter::create(ctx.store, &path, shape, &provenance)?;
        let horizon = |interval| config.horizon.frames(interval);
        let index = WindowIndex::with_horizon(&shards, config.window(), horizon)
            .without(&shards, &task.without)?;
        let paths: Vec<String> = task.actions.iter().map(|file| file.path.clone()).collect();
        let actions = Actions::read(ctx.store, &paths)?;
        let source = Source { shard: &shard, actions: &actions };
        for first in (0..index.len()).step_by(BATCH) {
            let last = (first + BATCH).min(index.len());
            let windows: Vec<Window> = (first..last).map(|window| index.locate(window)).collect();
            self.label_windows(task, &source, &windows, &mut labels)?;
            ctx.check_stop()?;
            ctx.progress.advance((last - first) as u64);
        }
        let mut stats = BTreeMap::from([("transitions".to_string(), index.len() as f64)]);
        if ctx.device != Device::Cpu {
            stats.insert(format!("tasks_on_{}", ctx.device.class()), 1.0);
        }
        Ok(TaskOutput { files: vec![labels.finish()?], stats, ..TaskOutput::default() })
    }

    /// Labels windows and writes their labels.
    fn label_windows(
        &self,
        task: &LabelTask,
        source: &Source,
        windows: &[Window],
        labels: &mut LabelWriter,
    ) -> Result<(), Error> {
        let Source { shard, actions } = source;
        let time = self.labeller.config().window();
        let (frames, starts) = frames_once(shard, windows, time);
        // The FDM runs only if its error is wanted.
        let want = LabelOutputs { codes: true, fdm_error: task.config.fdm_error };
        let out = self.labeller.label(&frames, &starts, want)?;
        // The latent action leads from a window's last frame but one to its last.
        let now: Vec<usize> = windows.iter().map(|window| window.row + time - 2).collect();
        let true_action = |row: &usize| {
            actions.discrete(shard.video(*row), shard.frame_index(*row)).map(|action| action as i32)
        };
        let true_action: Vec<Option<i32>> = now.iter().map(true_action).collect();
        labels.push(&LabelRows {
            video: &now.iter().map(|row| shard.video(*row)).collect::<Vec<_>>(),
            video_digest: &now.iter().map(|row| shard.video_digest(*row)).collect::<Vec<_>>(),
            episode: &now.iter().map(|row| shard.episode(*row)).collect::<Vec<_>>(),
            frame_index: &now.iter().map(|row| shard.frame_index(*row)).collect::<Vec<_>>(),
            time_s: &now.iter().map(|row| shard.time_s(*row)).collect::<Vec<_>>(),
            horizon: &windows.iter().map(|window| window.ahead as u32).collect::<Vec<_>>(),
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

    /// Returns the metadata of the file: the model, its settings, the shard, the code's version
    /// and, since they round in their own way, the class of a GPU and its precision.
    fn provenance(&self, task: &LabelTask, device: Device) -> Vec<(&'static str, String)> {
        let mut provenance = vec![
            ("lapo.model", self.digest.clone()),
            ("lapo.config", serde_json::json!(self.labeller.config()).to_string()),
            ("lapo.shard", task.shard.blake3.clone()),
            ("lapo.label_version", KIND.version.to_string()),
        ];
        if device != Device::Cpu {
            provenance.push((DEVICE_KEY, device.class().to_owned()));
            provenance.push((PRECISION_KEY, self.precision.name().to_owned()));
        }
        provenance
    }
}

/// Returns the frames of windows, and the place of the first frame of each window among them.
/// Frames of consecutive windows are stored once.
fn frames_once(shard: &Shard, windows: &[Window], time: usize) -> (Vec<u8>, Vec<usize>) {
    let bytes = shard.frame_size().bytes();
    let mut frames = Vec::with_capacity((windows.len() + time) * bytes);
    let mut starts = Vec::with_capacity(windows.len());
    let mut before = None;
    for &Window { row, ahead, .. } in windows {
        let last = row + time - 2 + ahead;
        // The window after the previous one adds only its last frame.
        let follows = ahead == 1 && before.is_some_and(|before| before + 1 == row);
        let past = if follows { row..row } else { row..row + time - 1 };
        for frame in past.chain([last]) {
            frames.extend_from_slice(shard.pixels(frame));
        }
        // The frames of this window are now the last ones.
        starts.push(frames.len() / bytes - time);
        before = Some(row);
    }
    (frames, starts)
}
