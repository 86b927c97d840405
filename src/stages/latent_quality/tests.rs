//! Planted leaks and healthy models, built by hand and trained, on five seeds each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::dataset::{
    Compression, FrameSize, ShardLayout, ShardWriter, Shards, Store, VideoName, WindowIndex,
};
use crate::models::{Device, DynamicsConfig, FdmAction, IdmHead, Predict, VqConfig};
use crate::train::batch::{WindowSampler, gather};
use crate::train::{
    Batch, DynamicsTrainer, Evaluator, OptimConfig, StepSettings, dynamics_trainer,
};

const SIDE: usize = 16;
const FRAME: usize = SIDE * SIDE * 3;
/// Frames of a window.
const TIME: usize = 3;
/// Frames of an episode.
const LENGTH: usize = 16;
/// Windows in a training step.
const BATCH: usize = 16;
/// Training steps.
const STEPS: u64 = 100;

/// A world that makes the frames of an episode.
type World = fn(&mut ChaCha8Rng) -> Vec<Vec<u8>>;

/// Draws a random picture: a grid of colours, with blurred edges.
fn picture(rng: &mut ChaCha8Rng, cells: usize) -> Vec<u8> {
    let colours: Vec<f32> = (0..cells * cells * 3).map(|_| rng.random_range(0.0..255.0)).collect();
    let at = |row: usize, column: usize, channel: usize| {
        colours[(row.min(cells - 1) * cells + column.min(cells - 1)) * 3 + channel]
    };
    let value = |i: usize| {
        let (pixel, channel) = (i / 3, i % 3);
        let scale = (cells - 1) as f32 / (SIDE - 1) as f32;
        let (y, x) = ((pixel / SIDE) as f32 * scale, (pixel % SIDE) as f32 * scale);
        let (row, column) = (y as usize, x as usize);
        let (down, right) = (y - row as f32, x - column as f32);
        let top = at(row, column, channel) * (1.0 - right) + at(row, column + 1, channel) * right;
        let low =
            at(row + 1, column, channel) * (1.0 - right) + at(row + 1, column + 1, channel) * right;
        (top * (1.0 - down) + low * down) as u8
    };
    (0..FRAME).map(value).collect()
}

/// An agent of 4 x 4 pixels walks at random on a background that differs from episode to episode.
fn walk(rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let background = picture(rng, 4);
    walk_on(&background, rng)
}

/// The same on the same background in all episodes.
fn fixed(rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    walk_on(&picture(&mut ChaCha8Rng::seed_from_u64(99), 4), rng)
}

fn walk_on(background: &[u8], rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let mut place = [rng.random_range(0..=12_i32), rng.random_range(0..=12_i32)];
    let mut frames = Vec::new();
    for _ in 0..LENGTH {
        let mut frame = background.to_vec();
        for (row, column) in (0..4).flat_map(|row| (0..4).map(move |column| (row, column))) {
            let pixel = (place[0] + row) as usize * SIDE + (place[1] + column) as usize;
            frame[pixel * 3..][..3].copy_from_slice(&[255, 255, 255]);
        }
        frames.push(frame);
        let step = [[0, 2], [0, -2], [2, 0], [-2, 0]][rng.random_range(0..4)];
        for (place, step) in place.iter_mut().zip(step) {
            *place = (*place + step).clamp(0, 12);
        }
    }
    frames
}

/// Every frame is another picture, so a latent action must hold the next one.
fn slides(rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    (0..LENGTH).map(|_| picture(rng, 2)).collect()
}

/// The shards of a world's episodes.
struct Episodes {
    shards: Shards,
    _folder: tempfile::TempDir,
}

impl Episodes {
    fn new(world: World, count: usize, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let size = FrameSize { height: SIDE as u32, width: SIDE as u32 };
        let video = VideoName { uri: "a.mp4".into(), digest: "a".into() };
        let layout = ShardLayout { size, compression: Compression::None, videos: vec![video] };
        let path = "f/data/k/a/s";
        let mut writer = ShardWriter::create(&store, path, &layout).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        writer.begin_video(0).unwrap();
        for episode in 0..count {
            for (at, frame) in world(&mut rng).iter().enumerate() {
                let index = (episode * LENGTH + at) as u32;
                writer.push(episode as u32, index, 0.0, frame).unwrap();
            }
        }
        writer.finish().unwrap();
        let shards = Shards::open(&store, vec![path.to_owned()]).unwrap();
        Episodes { shards, _folder: folder }
    }

    fn index(&self) -> WindowIndex {
        WindowIndex::new(&self.shards, TIME)
    }

    /// The last fifth is held out.
    fn measure(&self, networks: &dyn WindowNetworks) -> LatentQuality {
        let [_, held_out] = self.index().split(&self.shards.split(5));
        measure(networks, &self.shards, &held_out, 0).unwrap()
    }

    /// Trains on the episodes before.
    fn train(&self, config: &DynamicsConfig, steps: u64, seed: u64) -> Box<dyn DynamicsTrainer> {
        let optim = OptimConfig::default();
        let mut trainer = dynamics_trainer(&Device::Cpu, config, &optim, None, seed).unwrap();
        let [training, _] = self.index().split(&self.shards.split(5));
        let mut draws = WindowSampler::new(seed, trainer.drawn(), training.len(), 0);
        let mut frames = Vec::new();
        for step in 0..steps {
            gather(&self.shards, &training, &draws.next(BATCH), &mut frames).unwrap();
            let quantise = config.vq.quantises() && step * 10 >= steps * 3;
            let rate = 2e-3 * (1.0 - 0.9 * step as f64 / steps as f64);
            let pace = StepSettings {
                learning_rate: rate,
                idm_learning_rate: 0.3 * rate,
                quantise,
                decorrelation: if config.vq.quantises() && !quantise { 0.03 } else { 0.0 },
            };
            trainer.step(&batch(&frames, BATCH), pace).unwrap();
        }
        trainer
    }
}

fn batch(frames: &[u8], windows: usize) -> Batch<'_> {
    Batch { frames, batch: windows, time: TIME, height: SIDE, width: SIDE, actions: &[] }
}

/// The networks of a training.
struct Trained<'a>(&'a dyn Evaluator, bool);

impl WindowNetworks for Trained<'_> {
    fn infer(&self, windows: &[u8], count: usize) -> Result<Vec<f32>, Error> {
        Ok(self.0.latent_action(&batch(windows, count))?)
    }

    fn predict(&self, windows: &[u8], count: usize, action: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(self.0.predict(&batch(windows, count), action, self.1)?)
    }
}

/// Small networks, which train in seconds.
fn config() -> DynamicsConfig {
    DynamicsConfig { frame_size: SIDE, fdm_base: 4, ..DynamicsConfig::default() }
}

/// A planted leak: the latent action is the next frame in few cells, and the FDM paints it.
struct Paints {
    cells: usize,
}

impl WindowNetworks for Paints {
    fn infer(&self, windows: &[u8], count: usize) -> Result<Vec<f32>, Error> {
        let (cells, each) = (self.cells, SIDE / self.cells);
        let mut latent_action = vec![0.0; count * cells * cells * 3];
        for (window, to) in windows
            .chunks_exact(windows.len() / count)
            .zip(latent_action.chunks_exact_mut(cells * cells * 3))
        {
            for (i, byte) in window[window.len() - FRAME..].iter().enumerate() {
                let (row, column) = (i / 3 / SIDE / each, i / 3 % SIDE / each);
                to[(row * cells + column) * 3 + i % 3] +=
                    (f32::from(*byte) / 255.0 - 0.5) / (each * each) as f32;
            }
        }
        Ok(latent_action)
    }

    fn predict(&self, _: &[u8], count: usize, action: &[f32]) -> Result<Vec<f32>, Error> {
        let (cells, each) = (self.cells, SIDE / self.cells);
        let at = |i: usize| {
            let (row, column) = (i / 3 / SIDE / each, i / 3 % SIDE / each);
            (row * cells + column) * 3 + i % 3
        };
        let frames = action.chunks_exact(action.len() / count);
        Ok(frames.flat_map(|cells| (0..FRAME).map(|i| cells[at(i)]).collect::<Vec<_>>()).collect())
    }
}

/// A model of [`walk`] by hand: the latent action is the agent's step, and the FDM moves it.
struct Steps;

/// Returns the row and the column of the agent, the only white pixels.
fn place(frame: &[u8]) -> Option<[i32; 2]> {
    let at = frame.chunks_exact(3).position(|pixel| pixel == [255, 255, 255])?;
    Some([(at / SIDE) as i32, (at % SIDE) as i32])
}

impl WindowNetworks for Steps {
    fn infer(&self, windows: &[u8], count: usize) -> Result<Vec<f32>, Error> {
        let step = |window: &[u8]| {
            let [last, next] = [2, 1].map(|back| window.len() - back * FRAME);
            let before = place(&window[last..][..FRAME]).unwrap_or_default();
            let after = place(&window[next..]).unwrap_or_default();
            [after[0] - before[0], after[1] - before[1]].map(|step| step as f32)
        };
        Ok(windows.chunks_exact(windows.len() / count).flat_map(step).collect())
    }

    fn predict(&self, windows: &[u8], count: usize, action: &[f32]) -> Result<Vec<f32>, Error> {
        let mut predicted = Vec::new();
        for (window, step) in
            windows.chunks_exact(windows.len() / count).zip(action.chunks_exact(2))
        {
            let last = &window[window.len() - 2 * FRAME..][..FRAME];
            let place = place(last).unwrap_or_default();
            let mut frame: Vec<f32> =
                last.iter().map(|byte| f32::from(*byte) / 255.0 - 0.5).collect();
            // Grey where the agent was.
            for (square, value) in [([0.0, 0.0], 0.0), ([step[0], step[1]], 0.5)] {
                for (row, column) in (0..4).flat_map(|row| (0..4).map(move |column| (row, column)))
                {
                    let row = (place[0] + row + square[0] as i32).clamp(0, SIDE as i32 - 1);
                    let column = (place[1] + column + square[1] as i32).clamp(0, SIDE as i32 - 1);
                    let pixel = row as usize * SIDE + column as usize;
                    frame[pixel * 3..][..3].fill(value);
                }
            }
            predicted.extend(frame);
        }
        Ok(predicted)
    }
}

/// A planted leak: the latent action is the change of every pixel, and the FDM adds it.
struct Adds;

impl WindowNetworks for Adds {
    fn infer(&self, windows: &[u8], count: usize) -> Result<Vec<f32>, Error> {
        let change = |window: &[u8]| {
            let [last, next] = [2, 1].map(|back| &window[window.len() - back * FRAME..][..FRAME]);
            pixels(next).iter().zip(pixels(last)).map(|(a, b)| a - b).collect::<Vec<_>>()
        };
        Ok(windows.chunks_exact(windows.len() / count).flat_map(change).collect())
    }

    fn predict(&self, windows: &[u8], count: usize, action: &[f32]) -> Result<Vec<f32>, Error> {
        let windows = windows.chunks_exact(windows.len() / count);
        let last = windows.flat_map(|window| pixels(&window[window.len() - 2 * FRAME..][..FRAME]));
        Ok(last.zip(action).map(|(last, change)| last + change).collect())
    }
}

#[test]
fn planted_leaks_are_called_leaks_and_a_model_of_steps_is_not() {
    for seed in 0..5 {
        for world in [walk, fixed] {
            let episodes = Episodes::new(world, 30, seed);
            for cells in [4, 8, 16] {
                let leak = episodes.measure(&Paints { cells });
                assert_eq!(leak.leaks(), Some(true), "{cells} cells, seed {seed}: {leak:?}");
            }
            let leak = episodes.measure(&Adds);
            assert_eq!(leak.leaks(), Some(true), "seed {seed}: {leak:?}");

            let steps = episodes.measure(&Steps);
            assert_eq!(steps.leaks(), Some(false), "seed {seed}: {steps:?}");
            // Steps add up, reverse and mean the same in every clip.
            assert!(steps.additivity > Some(0.999), "seed {seed}: {steps:?}");
            assert!(steps.reversibility > Some(0.999), "seed {seed}: {steps:?}");
            assert!(steps.cycle_consistency > Some(0.8), "seed {seed}: {steps:?}");
        }
    }
}

#[test]
fn latent_actions_of_equal_frames_have_no_properties() {
    let still: World = |_| vec![vec![77; FRAME]; LENGTH];
    let quality = Episodes::new(still, 10, 0).measure(&Steps);
    assert_eq!(quality.leaks(), None, "{quality:?}");
    let defined: Vec<_> = quality.row().into_iter().filter(|(_, value)| value.is_some()).collect();
    assert!(defined.is_empty(), "{defined:?}");
    // A single window has no other one to compare with.
    let one = Episodes::new(|rng| walk(rng)[..TIME].to_vec(), 1, 0);
    assert_eq!(one.measure(&Steps), LatentQuality::default());
}

#[test]
fn an_unrelated_window_is_of_another_episode_if_there_is_one() {
    let episodes = Episodes::new(walk, 4, 0);
    let index = episodes.index();
    let pairs = Clips::new(&episodes.shards, &index).pairs(40, 0);
    assert_eq!(pairs.len(), 40);
    assert!(pairs.iter().all(|(own, other)| index.episode(*own) != index.episode(*other)));
    let single = Episodes::new(walk, 1, 0);
    let one = single.index();
    let pairs = Clips::new(&single.shards, &one).pairs(40, 0);
    assert_eq!(pairs.len(), LENGTH + 1 - TIME);
    assert!(pairs.iter().all(|(own, other)| own.abs_diff(*other) == one.len() / 2));
}

/// Trains on a world and returns the properties of the latent actions.
fn trained(world: World, config: &DynamicsConfig, steps: u64, seed: u64) -> LatentQuality {
    let episodes = Episodes::new(world, 30, seed);
    let trainer = episodes.train(config, steps, seed);
    let evaluator = trainer.evaluator();
    episodes.measure(&Trained(evaluator.as_ref(), config.vq.quantises()))
}

/// The bottleneck is as wide as the frames need, and every frame is new, so the latent action can
/// only be a copy of it.
#[test]
fn a_model_trained_to_copy_the_next_frame_is_called_a_leak() {
    let config = DynamicsConfig {
        idm_head: IdmHead::Flatten,
        predict: Predict::Frame,
        fdm_bottom: 4,
        fdm_action: FdmAction::Tile,
        vq: VqConfig { warmup: 1.0, ..VqConfig::default() },
        ..config()
    };
    for seed in 0..5 {
        let quality = trained(slides, &config, STEPS, seed);
        assert_eq!(quality.leaks(), Some(true), "seed {seed}: {quality:?}");
    }
}

#[test]
fn healthy_trained_models_are_not_called_leaks() {
    for seed in 0..5 {
        let world: World = if seed % 2 == 1 { fixed } else { walk };
        let quality = trained(world, &config(), STEPS, seed);
        assert_eq!(quality.leaks(), Some(false), "seed {seed}: {quality:?}");
    }
}
