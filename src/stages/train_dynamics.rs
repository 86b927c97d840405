//! Stage 1a: the IDM and the FDM learn together from frames alone (LAPO, section 4.1). In: shards; out: `model.safetensors`,
//! `metrics.parquet` and a verdict a person understands, `verdict.json`.
//!
//! Each step: draw a batch of windows `o[t-k..t+1]`; the IDM sees all of it and says in a few codes what happened between `o[t]` and
//! `o[t+1]`; the FDM sees all but the last frame, and these codes, and predicts the last frame. A killed run goes on from its newest
//! checkpoint and ends with the same weights, since a batch depends on nothing but (seed, step). The stage's fields are in `settings`,
//! what is said of the model in `verdict`.

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Done, Error, Workplace, write};
use crate::dataset::{FileInfo, Shards, WindowIndex};
use crate::train::metrics::Metrics;
use crate::train::{Batch, DynamicsTrainer, OptimConfig, dynamics_trainer};
use crate::train::{batch, checkpoint};

mod settings;
mod verdict;

pub use settings::{Refresh, TrainDynamicsConfig};
pub use verdict::Verdict;
use verdict::judge;

/// The version of what this stage does: raise it when the same frames and settings give another model.
pub const VERSION: u32 = 5;
/// Steps between two rows of the metrics.
const LOG_EVERY: u64 = 10;
/// Batches that lie ready before they are needed.
const AHEAD: usize = 2;
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
    /// What the weights' file says of its origin (the task's key, the dataset's version).
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints; changes nothing in the result.
    pub checkpoint_secs: u64,
}

/// Trains to the last step and judges the result.
pub fn run(task: &TrainDynamicsTask, place: &Workplace) -> Result<Done, Error> {
    let config = task.config.dynamics(task.size);
    let data = Data::open(task, place)?;
    let optim = OptimConfig { precision: task.config.precision, ..OptimConfig::default() };
    let mut trainer = dynamics_trainer(&place.device, &config, &optim, task.seed)?;
    let mut metrics = Metrics::default();
    let first = resume(trainer.as_mut(), &mut metrics, place)?;
    let waited = train(trainer.as_mut(), &mut metrics, task, &data, first, place)?;

    let verdict = judge(trainer.as_ref(), &config, task, &data)?;
    place.progress.say(&verdict.sentence());
    let file = |name: &str| format!("{}/{name}", place.folder);
    let mut model = place.store.new_file(&file("model.safetensors"))?;
    write(&mut model, &trainer.export(&task.provenance)?)?;
    let mut report = place.store.new_file(&file("verdict.json"))?;
    write(&mut report, verdict.json().as_bytes())?;
    let files = vec![model.finish(0)?, metrics.write(place.store, &file("metrics.parquet"))?, report.finish(0)?];
    place.store.delete_all(&place.scratch)?;
    let mut stats = verdict.stats();
    stats.insert("waited_for_frames".into(), waited);
    Ok(Done { files, stats, ..Done::default() })
}

/// The shards, and the windows to learn from and to judge by.
struct Data {
    shards: Shards,
    training: WindowIndex,
    held_out: WindowIndex,
}

impl Data {
    fn open(task: &TrainDynamicsTask, place: &Workplace) -> Result<Data, Error> {
        let shards = Shards::open(place.store, task.shards.iter().map(|file| file.path.clone()).collect())?;
        if let Some(size) = shards.frame_size().filter(|size| size.height as usize != task.size) {
            let file = task.shards.first().map_or_else(String::new, |file| file.path.clone());
            return Err(Error::FrameSize { file, seen: size.height as usize, expected: task.size });
        }
        let (time, every) = (task.config.context + 2, task.config.holdout);
        let all = WindowIndex::new(&shards, time);
        let is_held_out = |episode: usize| every > 0 && episode.is_multiple_of(every);
        let training = all.subset(|episode| !is_held_out(episode));
        let held_out = if every == 0 { all.subset(|_| true) } else { all.subset(is_held_out) };
        for (split, windows) in [("training", training.len()), ("held-out", held_out.len())] {
            if windows < LEAST_WINDOWS {
                let (episodes, needed) = (all.episodes(), LEAST_WINDOWS);
                return Err(Error::TooFewWindows { split, windows, episodes, time, needed });
            }
        }
        Ok(Data { shards, training, held_out })
    }
}

/// Takes up the newest checkpoint, if there is one; returns the step to go on with.
fn resume(trainer: &mut dyn DynamicsTrainer, metrics: &mut Metrics, place: &Workplace) -> Result<u64, Error> {
    let Some((step, bytes)) = checkpoint::newest(place.store, &place.scratch)? else { return Ok(0) };
    let file = checkpoint::path(&place.scratch, step);
    let fault = |reason: String| Error::Checkpoint { file: file.clone(), reason };
    let (rows, state) = Metrics::unpack(&bytes).map_err(fault)?;
    trainer.restore(state).map_err(|e| fault(e.to_string()))?;
    *metrics = rows;
    place.progress.advance(step);
    Ok(step)
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
    let draws = batch::Draws::new(task.seed, trainer.drawn(), data.training.len(), first * config.batch as u64);
    let (began, mut waited) = (Instant::now(), Duration::ZERO);
    std::thread::scope(|scope| {
        let (send, batches) = sync_channel(AHEAD);
        scope.spawn(move || draw_ahead(draws, data, config.batch, &send));
        for step in first..config.steps {
            let asked = Instant::now();
            let frames = batches.recv().expect("batches are drawn for as long as they are received")?;
            waited += asked.elapsed();
            let pace = config.pace(step);
            let out = trainer.step(&as_batch(&frames, config.batch, task), pace)?;
            if step % LOG_EVERY == 0 || step + 1 == config.steps {
                place.progress.note(&format!("fdm {:.3}x copying, perplexity {:.0?}", out.relative_loss, out.perplexity));
                metrics.push(step, pace.learning_rate, &out);
            }
            place.progress.advance(1);
            if saved.elapsed() >= pause && step + 1 < config.steps {
                checkpoint::save(place.store, &place.scratch, step + 1, &metrics.pack(&trainer.save()?))?;
                saved = Instant::now();
            }
        }
        Ok(waited.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9))
    })
}

/// Copies batches out of the shards, ahead of the networks, until nobody receives them.
fn draw_ahead(mut draws: batch::Draws, data: &Data, size: usize, send: &SyncSender<Result<Vec<u8>, crate::dataset::Error>>) {
    loop {
        let mut frames = Vec::new();
        let gathered = batch::gather(&data.shards, &data.training, &draws.next(size), &mut frames);
        if send.send(gathered.map(|()| frames)).is_err() {
            return;
        }
    }
}

fn as_batch<'a>(frames: &'a [u8], windows: usize, task: &TrainDynamicsTask) -> Batch<'a> {
    Batch { frames, batch: windows, time: task.config.context + 2, height: task.size, width: task.size }
}
