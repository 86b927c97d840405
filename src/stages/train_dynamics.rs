//! Stage 1a: the IDM and the FDM learn together from frames alone (LAPO, section 4.1). In: shards; out: `model.safetensors`,
//! `metrics.parquet` and a verdict a person understands, `verdict.json`.
//!
//! Each step: draw a batch of windows `o[t-k..t+1]`; the IDM sees all of it and says in a few codes what happened between `o[t]` and
//! `o[t+1]`; the FDM sees all but the last frame, and these codes, and predicts the last frame. A killed run goes on from its newest
//! checkpoint and ends with the same weights, since a batch depends on nothing but (seed, step). The stage's fields are in `settings`,
//! what is said of the model in `verdict`.
//!
#![doc = include_str!("train_dynamics/recipe.md")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::plan::KeyFields;
use super::plan::key::digests;
use super::training::resume;
use super::{ArtifactKind, Done, Error, Kept, StageKind, StageTask, Workplace, write};
use crate::dataset::{FileInfo, Shards, WindowIndex};
use crate::train::ahead::Ahead;
use crate::train::metrics::Metrics;
use crate::train::{Batch, DynamicsTrainer, Supervision, dynamics_trainer};
use crate::train::{batch, checkpoint};

mod probe;
mod settings;
mod verdict;

use probe::TrueActions;
pub use settings::{SupervisionConfig, TrainDynamicsConfig};
pub use verdict::Verdict;
use verdict::judge;

/// What all `train_dynamics` stages have in common. Raise `version` when the same frames and settings give another model.
pub const KIND: StageKind = StageKind {
    key_inputs: &["frames", "without", "true_actions", "generation"],
    has_checkpoints: true,
    keeps_model: true,
    ..StageKind::new("train_dynamics", 7, &[ArtifactKind::Dynamics], "steps")
};
/// Steps between two rows of the metrics.
const LOG_EVERY: u64 = 10;
/// Most windows the verdict is based on, and most that a judgement on the way takes.
const VERDICT_WINDOWS: usize = 2048;
const GLANCE_WINDOWS: usize = 512;
/// A training shorter than this is judged at its end alone.
const FIRST_GLANCE: u64 = 100;
/// Fewest windows worth training on.
const LEAST_WINDOWS: usize = 2;

/// All shards of one version of a dataset, and how to learn from them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainDynamicsTask {
    /// The stage's settings.
    pub config: TrainDynamicsConfig,
    /// Seeds weights and batches.
    pub seed: u64,
    /// Size of a frame, as decoded.
    pub size: usize,
    /// The frames, in the dataset's order.
    pub shards: Vec<FileInfo>,
    /// Files of true actions, where there are some.
    pub actions: Vec<FileInfo>,
    /// The digests of videos that are left out; none where nothing is asked for.
    #[serde(default)]
    pub without: Option<Vec<String>>,
    /// How often the same training was asked for again, by `--refresh`.
    #[serde(default)]
    pub generation: u64,
    /// What the weights' file says of its origin (the task's key, the dataset's version).
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints; changes nothing in the result.
    pub checkpoint_secs: u64,
}

impl StageTask for TrainDynamicsTask {
    fn key(&self) -> KeyFields {
        let TrainDynamicsTask {
            config,
            seed,
            size,
            shards,
            actions,
            without,
            generation,
            provenance: _,
            checkpoint_secs: _,
        } = self;
        let TrainDynamicsConfig {
            steps,
            batch,
            optimizer,
            learning_rate,
            idm_learning_rate,
            decorrelation,
            warmup_steps,
            precision,
            holdout,
            supervision,
            reference,
            actions: measured,
            // The networks are in the key as they come out of these.
            preset: _,
            idm_scale: _,
            fdm_base: _,
            context: _,
            vq: _,
            predict: _,
            idm_head: _,
            fdm_action: _,
            fdm_bottom: _,
            // Inputs, and when a new model is made of them.
            frames: _,
            without: _,
            refresh: _,
        } = config;
        KeyFields::new(&KIND)
            .setting("steps", steps)
            .setting("batch", batch)
            .setting("optimizer", optimizer)
            .setting("learning_rate", learning_rate)
            .setting("idm_learning_rate", idm_learning_rate)
            .setting("decorrelation", decorrelation)
            .setting("warmup_steps", warmup_steps)
            .setting("precision", precision)
            .setting("holdout", holdout)
            .setting("supervision", supervision)
            .settings_of(config.dynamics(*size))
            // The same networks by the paper's optimiser and rates are another model.
            .setting_if(*reference, "reference", reference)
            .setting("seed", seed)
            .input("frames", digests(shards))
            .input("generation", generation)
            .setting_if(measured.is_some(), "measured", true)
            .input_if(measured.is_some(), "true_actions", digests(actions))
            .setting_if(without.is_some(), "no_copies", true)
            .input_if(without.is_some(), "without", without)
    }

    fn run(&self, place: &Workplace, _: &mut Kept) -> Result<Done, Error> {
        run(self, place)
    }
}

/// Trains to the last step and judges the result.
fn run(task: &TrainDynamicsTask, place: &Workplace) -> Result<Done, Error> {
    let config = task.config.dynamics(task.size);
    let data = Data::open(task, place)?;
    let mut trainer = dynamics_trainer(
        &place.device,
        &config,
        &task.config.optim(),
        data.supervision(task),
        task.seed,
    )?;
    let (first, mut metrics) = resume(place, |state| trainer.restore(state))?;
    let waited = train(trainer.as_mut(), &mut metrics, task, &data, first, place)?;

    let verdict = judge(trainer.as_ref(), task, &data, VERDICT_WINDOWS, config.vq.quantises())?;
    metrics.log(task.config.steps.saturating_sub(1), verdict.row());
    place.progress.say(&verdict.sentence());
    let file = |name: &str| format!("{}/{name}", place.folder);
    let mut model = place.store.new_file(&file("model.safetensors"))?;
    write(&mut model, &trainer.export(&task.provenance)?)?;
    let mut report = place.store.new_file(&file("verdict.json"))?;
    write(&mut report, verdict.json().as_bytes())?;
    let [table, events] = metrics.write(place.store, &place.folder)?;
    let files = vec![model.finish(0)?, table, report.finish(0)?, events];
    let mut stats = verdict.stats();
    stats.insert("waited_for_frames".into(), waited);
    Ok(Done { files, stats, ..Done::default() })
}

/// The shards, and the windows to learn from and to judge by.
struct Data {
    shards: Shards,
    training: WindowIndex,
    held_out: WindowIndex,
    actions: Option<TrueActions>,
    /// Training windows whose true action is learnt from, and that action.
    labelled: Vec<(usize, u32)>,
}

impl Data {
    fn open(task: &TrainDynamicsTask, place: &Workplace) -> Result<Data, Error> {
        let shards = Shards::open_files(place.store, &task.shards)?;
        if let Some(size) = shards.frame_size().filter(|size| size.height as usize != task.size) {
            let file = task.shards.first().map_or_else(String::new, |file| file.path.clone());
            return Err(Error::FrameSize { file, seen: size.height as usize, expected: task.size });
        }
        let (time, every) = (task.config.context + 2, task.config.holdout);
        let all = WindowIndex::new(&shards, time)
            .without(&shards, task.without.as_deref().unwrap_or_default())?;
        let is_held_out = |episode: usize| every > 0 && episode.is_multiple_of(every);
        let training = all.subset(|episode| !is_held_out(episode));
        let held_out = if every == 0 { all.subset(|_| true) } else { all.subset(is_held_out) };
        for (split, windows) in [("training", training.len()), ("held-out", held_out.len())] {
            if windows < LEAST_WINDOWS {
                let (episodes, needed) = (all.episodes(), LEAST_WINDOWS);
                return Err(Error::TooFewWindows { split, windows, episodes, time, needed });
            }
        }
        let actions = task
            .config
            .actions
            .is_some()
            .then(|| TrueActions::read(task, place.store))
            .transpose()?;
        let mut data = Data { shards, training, held_out, actions, labelled: Vec::new() };
        data.labelled = data.draw_labelled(task)?;
        Ok(data)
    }

    fn draw_labelled(&self, task: &TrainDynamicsTask) -> Result<Vec<(usize, u32)>, Error> {
        let (Some(actions), Some(supervision)) = (&self.actions, &task.config.supervision) else {
            return Ok(Vec::new());
        };
        let labelled = actions.draw(&self.shards, &self.training, supervision.labels, task.seed)?;
        if labelled.len() < supervision.labels {
            let file = task.actions.first().map_or_else(String::new, |file| file.path.clone());
            return Err(Error::TooFewLabels {
                file,
                found: labelled.len(),
                asked: supervision.labels,
            });
        }
        Ok(labelled)
    }

    /// The windows of a step whose true actions teach the model, and these.
    fn labelled(&self, task: &TrainDynamicsTask, step: u64) -> (Vec<usize>, Vec<u32>) {
        let count = task.config.supervision.as_ref().map_or(0, |supervision| supervision.batch);
        let mut rng = batch::generator(task.seed, "supervised", step);
        (0..count).map(|_| self.labelled[rng.random_range(0..self.labelled.len())]).unzip()
    }

    fn supervision(&self, task: &TrainDynamicsTask) -> Option<Supervision> {
        let weight = task.config.supervision.as_ref()?.weight;
        let most = self.labelled.iter().map(|(_, action)| *action).max()?;
        Some(Supervision { actions: most as usize + 1, weight })
    }
}

/// The loop; returns the share of its time in which the networks waited for frames.
fn train(
    trainer: &mut dyn DynamicsTrainer,
    metrics: &mut Metrics,
    task: &TrainDynamicsTask,
    data: &Data,
    first: u64,
    place: &Workplace,
) -> Result<f64, Error> {
    let config = &task.config;
    let (pause, mut saved) = (Duration::from_secs(task.checkpoint_secs), Instant::now());
    let mut draws = batch::Draws::new(
        task.seed,
        trainer.drawn(),
        data.training.len(),
        first * config.batch as u64,
    );
    let (began, mut waited) = (Instant::now(), Duration::ZERO);
    std::thread::scope(|scope| {
        let copy = move |(windows, actions): (Vec<usize>, Vec<u32>)| {
            let mut frames = Vec::new();
            batch::gather(&data.shards, &data.training, &windows, &mut frames)
                .map(|()| (frames, actions))
        };
        let mut decided = first;
        let decide = || {
            let (labelled, actions) = data.labelled(task, decided);
            decided += 1;
            ([draws.next(config.batch), labelled].concat(), actions)
        };
        let mut batches = Ahead::start(scope, decide, copy);
        for step in first..config.steps {
            let asked = Instant::now();
            let (frames, actions) = batches.wait()?;
            waited += asked.elapsed();
            let pace = config.pace(step);
            let batch = Batch {
                actions: &actions,
                ..as_batch(&frames, config.batch + actions.len(), task)
            };
            let out = place.device.run(|| trainer.step(&batch, pace))?;
            let glance = is_glance(step + 1, config.steps);
            if step % LOG_EVERY == 0 || step + 1 == config.steps || glance {
                place.progress.note(&format!(
                    "fdm {:.3}x copying, perplexity {:.0?}",
                    out.relative_loss, out.perplexity
                ));
                metrics.push(step, pace, &out);
            }
            if glance {
                let verdict = judge(trainer, task, data, GLANCE_WINDOWS, pace.quantise)?;
                place.progress.say(&format!("after {} steps: {}", step + 1, verdict.sentence()));
                metrics.log(step, verdict.row());
            }
            place.progress.advance(1);
            if place.stop.is_set() || (saved.elapsed() >= pause && step + 1 < config.steps) {
                checkpoint::save(
                    place.store,
                    &place.scratch,
                    step + 1,
                    &metrics.pack(&trainer.save()?),
                    None,
                )?;
                saved = Instant::now();
            }
            place.go_on()?;
        }
        Ok(waited.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9))
    })
}

/// Whether a training is judged after so many of its steps: at a half of them, a quarter, and so on.
fn is_glance(taken: u64, steps: u64) -> bool {
    taken >= FIRST_GLANCE && (1..u64::BITS).any(|halvings| steps >> halvings == taken)
}

fn as_batch<'a>(frames: &'a [u8], windows: usize, task: &TrainDynamicsTask) -> Batch<'a> {
    Batch {
        frames,
        batch: windows,
        time: task.config.context + 2,
        height: task.size,
        width: task.size,
        actions: &[],
    }
}
