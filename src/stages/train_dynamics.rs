//! Stage 1a: the IDM and the FDM learn together from frames alone (LAPO, section 4.1). In: shards; out: `model.safetensors`,
//! `metrics.parquet` and a verdict a person understands, `verdict.json`.
//!
//! Each step: draw a batch of windows `o[t-k..t+1]`; the IDM sees all of it and says in a few codes what happened between `o[t]` and
//! `o[t+1]`; the FDM sees all but the last frame, and these codes, and predicts the last frame. A killed run goes on from its newest
//! checkpoint and ends with the same weights, since a batch depends on nothing but (seed, step). The stage's fields are in `settings`,
//! what is said of the model in `verdict`.
//!
//! ## What the default recipe gains
//!
//! At equal CPU time, `tests/bench/recipe.py`: `tiny` with `fdm_base: 16`, frames of 32 x 32, batch 32, one thread, on held-out episodes;
//! several numbers are seeds 0, 1, 2. *Information* is the FDM's error with shuffled latent actions over its error with their own. The
//! probes are the verdict's linear one and scikit-learn's (128-128) on the labels; *alike* counts buttons without a use in the game as no
//! button; in brackets the share of the commonest. *Codes* are the least perplexity of a codebook and the fewest of its 64 codes in use.
//! Mazes (200 episodes) were walked with 70 % random moves; in 27 % of the transitions nothing moves, the walls being where they are, so
//! that no latent action can tell more than .82 of the moves; bigfish (200) and coinrun (60) were played at random. `muon` is the default
//! with `decorrelation: 0`, `adam` that with `optimizer: adam`, which was the default before; *to the end* is the default decorrelated
//! while codes are used, too. Errors are rounded up, all else down. A processor without AVX-512:
//!
//! | game | CPU-min | recipe | steps | error over copying | information | linear | MLP | alike | codes |
//! |---|---|---|---|---|---|---|---|---|---|
//! | maze | 5 | default, seeds 0, 1 | 1,450 | .18, .20 | 5.7, 5.0 | .79, .79 | .78, .80 (.28) | | 49, 64 |
//! | maze | 15 | default, seed 0 | 4,350 | .10 | 11.2 | .80 | .79 (.28) | | 52, 64 |
//! | maze | 15 | to the end, seed 0 | 4,350 | .10 | 10.3 | .78 | .78 (.28) | | 55, 64 |
//! | maze | 5 | muon | 1,450 | .20, .19, .16 | 5.1, 5.3, 6.1 | .79, .79, .78 | .79, .80, .80 (.28) | | 46, 60 |
//! | maze | 15 | muon, seeds 0, 1 | 4,350 | .15, .13 | 6.9, 8.3 | .80, .79 | .80, .79 (.28) | | 49, 64 |
//! | maze | 26 | adam, seed 0 | 7,520 | .10 | 10.0 | .80 | .79 (.28) | | 51, 64 |
//! | bigfish | 5 | default, seed 1 | 1,450 | .34 | 1.4 | .27 | .29 (.08) | .66 (.47) | 55, 64 |
//! | bigfish | 14 | default, seed 1 | 4,350 | .30 | 1.6 | .34 | .35 (.08) | .72 (.47) | 54, 64 |
//! | bigfish | 15 | to the end | 4,350 | .30, .30, .30 | 1.5, 1.6, 1.4 | .34, .35, .35 | .35, .35, .35 (.08) | .73, .73, .72 (.47) | 46, 64 |
//! | bigfish | 5 | muon | 1,450 | .34, .34, .35 | 1.4, 1.4, 1.3 | .28, .22, .22 | .29, .23, .24 (.08) | .67, .62, .62 (.47) | 41, 59 |
//! | bigfish | 13 | muon, seed 0 | 3,730 | .30 | 1.5 | .33 | .34 (.08) | .71 (.47) | 53, 64 |
//! | bigfish | 15 | muon, seed 1 | 4,350 | .33 | 1.2 | .12 | .13 (.08) | .51 (.47) | 8, 42 |
//! | bigfish | 12 | adam | 4,350 | .33, .33, .33 | 1.5, 1.4, 1.4 | .29, .29, .29 | .30, .30, .29 (.08) | .68, .67, .67 (.47) | 52, 64 |
//! | bigfish | 28 | adam, seed 0 | 7,460 | .31 | 1.5 | .31 | .31 (.08) | .69 (.47) | 50, 62 |
//! | coinrun | 15 | to the end, seed 1 | 4,350 | .05 | 32.4 | .17 | .18 (.08) | .55 (.49) | 49, 64 |
//! | coinrun | 5 | muon | 1,450 | .07, .06, .06 | 20.5, 22.7, 21.9 | .16, .17, .17 | .16, .16, .17 (.08) | .55, .55, .54 (.49) | 52, 64 |
//! | coinrun | 13 | muon, seed 0 | 4,350 | .05 | 31.3 | .16 | .18 (.08) | .55 (.49) | 48, 64 |
//! | coinrun | 10 | adam, seed 0 | 2,610 | .07 | 21.0 | .17 | .17 (.08) | .55 (.49) | 51, 64 |
//! | coinrun | 31 | adam, seed 0 | 7,920 | .05 | 32.6 | .18 | .17 (.08) | .55 (.49) | 46, 64 |
//!
//! Other recordings, as many episodes of each, on a processor with AVX-512, where a step takes half of the time. `tenth` is `adam` with
//! `idm_learning_rate: 2e-4`, `paper` is `reference: true`.
//!
//! | game | CPU-min | recipe | steps | error over copying | information | linear | MLP | alike | codes |
//! |---|---|---|---|---|---|---|---|---|---|
//! | maze | 5 | adam, seed 0 | 2,480 | .11 | 8.4 | .80 | .81 (.31) | | 52, 63 |
//! | maze | 5 | tenth | 2,480 | .12, .12, .13 | 7.9, 7.9, 7.3 | .79, .77, .78 | .81, .80, .82 (.31) | | 50, 64 |
//! | maze | 5 | paper | 2,100 | 5.4, 4.5, 4.6 | 1.2, 1.1, 1.1 | .28, .28, .27 | .31, .28, .26 (.31) | | 3, 4 |
//! | maze | 14-16 | tenth | 7,520 | .06, .07, .07 | 14.8, 14.6, 13.7 | .81, .81, .79 | .81, .80, .81 (.31) | | 49, 64 |
//! | maze | 16 | paper, seeds 0, 2 | 6,420 | 2.3, 1.8 | 1.1, 1.1 | .27, .29 | .28, .27 (.31) | | 3, 4 |
//! | maze | 61 | tenth, seed 0 | 30,210 | .04 | 24.8 | .81 | .81 (.31) | | 51, 63 |
//! | bigfish | 5 | adam, seed 0 | 2,460 | .33 | 1.5 | .31 | .34 (.08) | .72 (.48) | 54, 64 |
//! | bigfish | 5 | tenth | 2,460 | .35, .34, .35 | 1.3, 1.4, 1.4 | .28, .27, .28 | .30, .30, .29 (.08) | .67, .68, .66 (.48) | 53, 64 |
//! | bigfish | 5 | paper | 1,940 | 2.0, 2.0, 1.9 | 1.2, 1.3, 1.4 | .06, .06, .07 | .08, .06, .06 (.08) | .48, .40, .36 (.48) | 6, 7 |
//! | bigfish | 14-16 | tenth | 7,460 | .30, .29, .29 | 1.6, 1.6, 1.7 | .34, .33, .34 | .36, .35, .36 (.08) | .74, .73, .73 (.48) | 54, 64 |
//! | bigfish | 15 | paper, seeds 0, 2 | 5,910 | 1.1, 1.1 | 1.3, 1.6 | .06, .07 | .07, .08 (.08) | .33, .29 (.48) | 7, 9 |
//! | coinrun | 5 | tenth | 2,610 | .08, .08, .08 | 15.3, 16.5, 15.4 | .17, .15, .16 | .17, .17, .17 (.08) | .53, .53, .54 (.49) | 54, 64 |
//! | coinrun | 5 | paper | 1,800 | .20, .21, .20 | 4.3, 3.3, 3.8 | .13, .14, .13 | .14, .15, .15 (.08) | .52, .53, .53 (.49) | 10, 15 |
//! | coinrun | 15-17 | tenth | 7,920 | .05, .05, .05 | 25.0, 26.8, 25.7 | .16, .15, .16 | .17, .18, .17 (.08) | .54, .52, .54 (.49) | 53, 64 |
//! | coinrun | 14 | paper | 5,480 | .11, .11, .11 | 7.6, 6.5, 6.3 | .15, .15, .16 | .16, .16, .17 (.08) | .53, .54, .54 (.49) | 14, 23 |
//!
//! On the way, seed 1 of bigfish, the default: the information is 1.11, 1.16, 1.31, 1.49, 1.47, 1.64 and the verdict's linear probe .12,
//! .14, .18, .23, .32, .35 after 134, 270, 542, 1,086, 2,174 and 4,349 steps. More is hardly to be had from coinrun's frames: an IDM that
//! learns from the true actions of 12,000 transitions of the same videos (`supervision: { labels: 12000, batch: 32, weight: 3 }`, 1,200
//! steps) tells .17. In 26 trainings of `adam`, of 300 to 7,920 steps, on all 16 games of Procgen no codebook used fewer than 49 of its 64
//! codes; the fewest are miner's, after 300 steps. `data/maze`, 300 steps: 0.220, 3.2, a probe of .93 (.38); `muon` 0.242, 2.7, .92; `adam`
//! 0.256, 2.7, .92; `tenth` 0.303, 2.1, .86.
//!
//! `muon` is ahead of `adam` after 300 steps on each of the 13 games that are not above: .88 of its error on average, more information.
//!
//! Why latent actions are decorrelated: their 128 numbers come to say the same. Of how many dimensions they are (the exponential of their
//! covariance's spectral entropy) goes with what a probe tells: 1.2 where `muon` fails on bigfish, 4 to 6 with `adam`, 8.9 with the default,
//! 13 to the end; on mazes 6 with `muon`, 12 to the end. Bigfish, 1,200 steps of a training of 4,350, before codes are used, seeds 1, 0:
//!
//! | | error over copying | information | linear probe |
//! |---|---|---|---|
//! | `decorrelation: 0.03` | .35, .35 | 1.4, 1.4 | .27, .30 |
//! | 0.01; 0.1 | | | .19; .21 |
//! | 0 | | | .10 |
//! | 0, only the FDM by Muon | | | .18 |
//! | 0, a distance of 0.4 | .36, .35 | 1.4, 1.4 | .26, .27 |
//! | 0, `adam` | .41, .40 | 1.3, 1.3 | .19, .23 |
//! | 0.03 with `optimizer: adam` | .41, .41 | 1.2, 1.1 | .25, .18 |
//!
//! Muon for Adam (`optimizer`), nothing decorrelated, seed 0. *Distance* is how far a step moves the weights of convolutions, in learning
//! rates.
//!
//! | | maze, 300 steps | maze, 1,200 | bigfish, 300 | bigfish, 1,200 | coinrun, 1,200 |
//! |---|---|---|---|---|---|
//! | Adam | .48, 1.9, .66 | .20, 4.9, .79 | .55, 1.08, .15 | .41, 1.22, .22 | |
//! | distance 0.07 | .88, 1.2, .58 | | | | |
//! | 0.2 | .70, 1.3, .57 | | .65, 1.10, .13 | | |
//! | 0.4 | | | | .36, 1.37, .25 | |
//! | 0.6 | .38, 2.4, .77 | .18, 5.4, .77 | .49, 1.12, .17 | .35, 1.37, .29 | .07, 19.6, .17 |
//! | 1.5 | .59, 1.4, .31 | | .44, 1.12, .13 | | |
//! | 0.6, `idm_learning_rate: 3e-4` | | | | .35, 1.33, .26 | |
//! | 0.6, `idm_learning_rate: 1.2e-3` | | .23, 4.1, .74 | | .35, 1.32, .18 | |
//! | 1.2, `idm_learning_rate: 3e-4` | | | | .35, 1.26, .21 | |
//! | 0.6, also of linear layers | | | | .34, 1.36, .26 | |
//!
//! A step takes 1.08 times as long as Adam's. Half of the batch for twice the steps gains nothing (Adam, maze, 600 of 16: .45, 2.0, .60).
//!
//! Learning from 256 true actions too (`supervision`; `tenth`), 600 steps:
//!
//! | game | weight | error over copying | information | linear, MLP |
//! |---|---|---|---|---|
//! | maze | none, 0.02, 0.1 | .28, .24, .27 | 3.3, 3.8, 3.5 | .75 .77, .78 .77, .78 .77 |
//! | bigfish | none, 0.01, 0.02, 0.1, 1 | .47, .47, .47, .48, .48 | 1.12, 1.16, 1.15, 1.10, 1.06 | MLP .16, .17, .15, .12, .12 |
//! | coinrun | none, 0.1 | .14, .15 | 8.0, 7.7 | .16 .15, .15 .15 |
//!
//! Tried on bigfish without gain: an IDM twice as wide (the same numbers after 1,500 steps), a second frame of context (behind until 750
//! steps), four learnt attention maps beside the motion's (probe .29 for .31 after 1,500 steps).
//!
//! What each default is worth: one departure from `tenth` at a time, seed 0, 600 steps of the mazes and 1,200 of bigfish; error
//! over copying, information, the verdict's linear probe.
//!
//! | | maze | bigfish |
//! |---|---|---|
//! | none | .28, 3.3, .75 | .41, 1.20, .20 |
//! | `idm_head: flatten` | .60, 1.0, .29 | .41, 1.02, .06 |
//! | `fdm_action: tile` | .45, 1.8, .56 | .50, 1.16, .15 |
//! | `fdm_bottom: 1` (1.4 times the CPU time) | .28, 3.4, .77 | .40, 1.20, .21 |
//! | `predict: frame` | 2.2, 1.0, .36 | 1.3, 1.00, .06 |
//! | `learning_rate: 3e-4` | .58, 1.5, .61 | .56, 1.07, .11 |
//! | `idm_learning_rate: 2e-3`, all of the FDM's | .30, 2.9, .58 | .39, 1.28, .26 |
//! | `vq: { warmup: 0 }` | .29, 3.2, .74 | .41, 1.18, .19 |
//! | `vq: { decay: .999 }` | .28, 3.3, .77 | .41, 1.21, .20 |
//! | `vq: { start: uniform }` | .28, 3.3, .76 | .41, 1.20, .20 |
//! | `vq: { ema_start: zero }` | .28, 3.3, .75 | .41, 1.20, .20 |
//! | `vq: { revive_after: 0 }` | .27, 3.3, .75 | .41, 1.20, .20 |
//!
//! After 1,200 steps, seeds 0 and 1 (coinrun 0), `tenth`, then `adam`, an IDM's rate of 0.3:
//!
//! | | error over copying | information | linear probe |
//! |---|---|---|---|
//! | maze | .18, .20; .15, .22 | 5.2, 4.6; 6.3, 4.4 | .78, .77; .78, .80 |
//! | bigfish | .41, .40; .39, .40 | 1.20, 1.18; 1.29, 1.28 | .20, .17; .28, .24 |
//! | coinrun | .11; .10 | 11.1; 12.0 | .17; .17 |
//!
//! Both rates doubled spoil the mazes (.24, 3.7, .71); the FDM's alone doubled gives .16, 5.8, .79 there and .36, 1.39, .28 on bigfish;
//! codes after half of the steps change nothing (mazes .15, 6.4, .79).
//!
//! The codebooks' fields thus make no difference once the IDM's head and the prediction are these: no codebook used fewer than 48 codes in
//! any of these trainings. With the paper's networks, prediction and rates they keep 60 and 58 in use after 600 steps of the mazes, where
//! `paper` uses at most 5.
//!
//! In a PyTorch prototype on the mazes, told the true action for 40 to 60 CPU-seconds: a U-Net of eight channels halved three times gets to
//! 0.74 of copying and hardly uses the action (information 1.0 to 1.1), one of sixteen halved twice to 0.44 and 2.0. Tried and dropped
//! beside the latter: a residual network in place of the U-Net (0.55), with layer normalisation (0.68) or none (0.70), 24 channels (0.64).
//! And moving pixels by kernels made from the latent action: worse than copying for 200 steps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::training::resume;
use super::{Done, Error, Workplace, write};
use crate::dataset::{FileInfo, Shards, WindowIndex};
use crate::train::ahead::Ahead;
use crate::train::metrics::Metrics;
use crate::train::{Batch, DynamicsTrainer, Supervision, dynamics_trainer};
use crate::train::{batch, checkpoint};

mod probe;
mod settings;
mod verdict;

use probe::TrueActions;
pub use settings::{Refresh, SupervisionConfig, TrainDynamicsConfig};
pub use verdict::Verdict;
use verdict::judge;

/// The version of what this stage does: raise it when the same frames and settings give another model.
pub const VERSION: u32 = 7;
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
    /// What the weights' file says of its origin (the task's key, the dataset's version).
    pub provenance: BTreeMap<String, String>,
    /// Seconds between two checkpoints; changes nothing in the result.
    pub checkpoint_secs: u64,
}

/// Trains to the last step and judges the result.
pub fn run(task: &TrainDynamicsTask, place: &Workplace) -> Result<Done, Error> {
    let config = task.config.dynamics(task.size);
    let data = Data::open(task, place)?;
    let mut trainer = dynamics_trainer(&place.device, &config, &task.config.optim(), data.supervision(task), task.seed)?;
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
    actions: Option<TrueActions>,
    /// Training windows whose true action is learnt from, and that action.
    labelled: Vec<(usize, u32)>,
}

impl Data {
    fn open(task: &TrainDynamicsTask, place: &Workplace) -> Result<Data, Error> {
        let shards = Shards::open(place.store, task.shards.iter().map(|file| file.path.clone()).collect())?;
        if let Some(size) = shards.frame_size().filter(|size| size.height as usize != task.size) {
            let file = task.shards.first().map_or_else(String::new, |file| file.path.clone());
            return Err(Error::FrameSize { file, seen: size.height as usize, expected: task.size });
        }
        let (time, every) = (task.config.context + 2, task.config.holdout);
        let all = WindowIndex::new(&shards, time).without(&shards, task.without.as_deref().unwrap_or_default())?;
        let is_held_out = |episode: usize| every > 0 && episode.is_multiple_of(every);
        let training = all.subset(|episode| !is_held_out(episode));
        let held_out = if every == 0 { all.subset(|_| true) } else { all.subset(is_held_out) };
        for (split, windows) in [("training", training.len()), ("held-out", held_out.len())] {
            if windows < LEAST_WINDOWS {
                let (episodes, needed) = (all.episodes(), LEAST_WINDOWS);
                return Err(Error::TooFewWindows { split, windows, episodes, time, needed });
            }
        }
        let actions = task.config.actions.is_some().then(|| TrueActions::read(task, place.store)).transpose()?;
        let mut data = Data { shards, training, held_out, actions, labelled: Vec::new() };
        data.labelled = data.draw_labelled(task)?;
        Ok(data)
    }

    fn draw_labelled(&self, task: &TrainDynamicsTask) -> Result<Vec<(usize, u32)>, Error> {
        let (Some(actions), Some(supervision)) = (&self.actions, &task.config.supervision) else { return Ok(Vec::new()) };
        let labelled = actions.draw(&self.shards, &self.training, supervision.labels, task.seed)?;
        if labelled.len() < supervision.labels {
            let file = task.actions.first().map_or_else(String::new, |file| file.path.clone());
            return Err(Error::TooFewLabels { file, found: labelled.len(), asked: supervision.labels });
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
    let mut draws = batch::Draws::new(task.seed, trainer.drawn(), data.training.len(), first * config.batch as u64);
    let (began, mut waited) = (Instant::now(), Duration::ZERO);
    std::thread::scope(|scope| {
        let copy = move |(windows, actions): (Vec<usize>, Vec<u32>)| {
            let mut frames = Vec::new();
            batch::gather(&data.shards, &data.training, &windows, &mut frames).map(|()| (frames, actions))
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
            let batch = Batch { actions: &actions, ..as_batch(&frames, config.batch + actions.len(), task) };
            let out = place.device.run(|| trainer.step(&batch, pace))?;
            let glance = is_glance(step + 1, config.steps);
            if step % LOG_EVERY == 0 || step + 1 == config.steps || glance {
                place.progress.note(&format!("fdm {:.3}x copying, perplexity {:.0?}", out.relative_loss, out.perplexity));
                metrics.push(step, pace, &out);
            }
            if glance {
                let verdict = judge(trainer, task, data, GLANCE_WINDOWS, pace.quantise)?;
                place.progress.say(&format!("after {} steps: {}", step + 1, verdict.sentence()));
                metrics.log(step, verdict.row());
            }
            place.progress.advance(1);
            if saved.elapsed() >= pause && step + 1 < config.steps {
                checkpoint::save(place.store, &place.scratch, step + 1, &metrics.pack(&trainer.save()?), None)?;
                saved = Instant::now();
            }
        }
        Ok(waited.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9))
    })
}

/// Whether a training is judged after so many of its steps: at a half of them, a quarter, and so on.
fn is_glance(taken: u64, steps: u64) -> bool {
    taken >= FIRST_GLANCE && (1..u64::BITS).any(|halvings| steps >> halvings == taken)
}

fn as_batch<'a>(frames: &'a [u8], windows: usize, task: &TrainDynamicsTask) -> Batch<'a> {
    Batch { frames, batch: windows, time: task.config.context + 2, height: task.size, width: task.size, actions: &[] }
}
