//! `lapo bench`: measures how fast this machine labels, trains and plays.
//!
//! A plain matrix product on the same device serves as the upper bound. By default, frames are
//! noise and weights are freshly initialised; neither changes the speed. `tests/bench/compare.py`
//! compares these numbers with PyTorch's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::{Args as ClapArgs, ValueEnum};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::compute_args::set_threads;
use super::device_choice::{parse_devices, print_note};
use super::flags::{Format, GameArgs, at_least_one};
use super::stdout::print;
use crate::dataset::{Access, Manifest, Shards, Store, WindowIndex};
use crate::envs::{Game, Levels, Mode, Procgen, ProcgenConfig, ProcgenPackage, VecEnv};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::models::gpu_failure::catch_gpu_failure;
use crate::models::{
    Device, DynamicsConfig, LabelOutputs, Precision, Preset, cost, labeller, roofline,
};
use crate::stages;
use crate::train::{
    Batch, OptimConfig, OptimizerKind, ReadBack, StepSettings, batch, dynamics_trainer,
};

mod rows;

use rows::{Row, json, table};

/// Arguments of `lapo bench`.
#[derive(Clone, Debug, ClapArgs)]
pub struct BenchArgs {
    /// Size of the networks: tiny, small or paper
    #[arg(long, default_value = "tiny", value_parser = parse_word::<Preset>)]
    pub preset: Preset,
    /// Use the paper's networks unchanged, for comparison with other implementations
    #[arg(long)]
    pub reference: bool,
    /// Number format of the networks: f32 or bf16
    #[arg(long, default_value = "f32", value_parser = parse_word::<Precision>)]
    pub precision: Precision,
    /// Windows per batch of labelling
    #[arg(long, default_value_t = 128)]
    pub label_batch: usize,
    /// Windows per training step
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Train on frames of a decode or record stage instead of noise, and also measure random
    /// access to them: WORKSPACE/STAGE
    #[arg(long)]
    pub frames: Option<String>,
    /// Minimum duration of each measurement, in seconds
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Exact number of calls per measurement, without a warm-up, for profilers
    #[arg(long, value_parser = at_least_one(), conflicts_with = "seconds")]
    pub calls: Option<usize>,
    /// Only compile and tune the kernels of the measurements, and print how long that took
    #[arg(long, conflicts_with_all = ["seconds", "calls"])]
    pub warm_up: bool,
    /// The measurements
    #[arg(long, value_enum, value_delimiter = ',', default_value = "label,train,sample,play")]
    pub only: Vec<Measurement>,
    /// Number of CPU cores to use [default: all]
    #[arg(long, value_parser = at_least_one())]
    pub threads: Option<usize>,
    /// Device for networks: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto", env = "LAPO_DEVICE")]
    pub device: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    #[command(flatten)]
    pub games: GameArgs,
}

/// A kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measurement {
    /// Labelled transitions: the IDM alone, then with codes and the FDM's error.
    Label,
    /// Training steps of IDM and FDM.
    Train,
    /// Random windows of `--frames`.
    Sample,
    /// Steps of a game, if Procgen is installed.
    Play,
}

/// Steps of a training between two logged ones, which are read from the device.
const READ_EVERY: u64 = 10;

/// Prints a row per measurement, or how long the warm-up took.
pub fn run(args: &BenchArgs, access: &Access) -> Result<()> {
    let device = parse_devices(&args.device, None, print_note)?[0];
    let threads = set_threads(args.threads)?;
    let measured = catch_gpu_failure(device, || match args.warm_up {
        true => warm_up(args, device, access),
        false => measure_all(args, device, threads, access),
    });
    let failed = |source| stages::Error::Gpu { source, memory_cure: MEMORY_CURE };
    print(&(measured.map_err(failed)?? + "\n"))
}

/// The hint if a GPU is out of memory.
const MEMORY_CURE: &str = "lower --batch and --label-batch, or take a smaller --preset";

/// Makes a few calls of everything that runs on the device. Returns how long they took.
fn warm_up(args: &BenchArgs, device: Device, access: &Access) -> Result<String> {
    let began = Instant::now();
    let device_only = [Measurement::Label, Measurement::Train];
    let only = args.only.iter().copied().filter(|wanted| device_only.contains(wanted)).collect();
    measure(&BenchArgs { calls: Some(3), only, ..args.clone() }, device, 1, access)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(match args.format {
        Format::Json => {
            serde_json::json!({ "device": device.to_string(), "seconds": seconds }).to_string()
        }
        Format::Table => format!("{device}: kernels are compiled and tuned; took {seconds:.1} s"),
    })
}

/// Returns a row per measurement, as text.
fn measure_all(
    args: &BenchArgs,
    device: Device,
    threads: usize,
    access: &Access,
) -> Result<String> {
    let bound = roofline::matrix_product(&device, args.precision)?;
    let rows = measure(args, device, threads, access)?;
    Ok(match args.format {
        Format::Json => json(&rows, bound, &device, threads),
        Format::Table => table(&rows, bound, &format!("{device}, {threads} threads")),
    })
}

/// Returns a row per measurement.
fn measure(args: &BenchArgs, device: Device, threads: usize, access: &Access) -> Result<Vec<Row>> {
    let config = args.preset.dynamics();
    let config = if args.reference { config.reference() } else { config };
    let data = args.frames.as_ref().map(|frames| open(frames, &config, access)).transpose()?;
    let is_wanted = |measurement| args.only.contains(&measurement);
    let mut rows = Vec::new();
    if is_wanted(Measurement::Label) {
        rows.extend(measure_labelling(args, &device, &config)?);
    }
    if is_wanted(Measurement::Train) {
        rows.push(measure_training(args, &device, &config, data.as_ref())?);
    }
    if let Some(data) = data.as_ref().filter(|_| is_wanted(Measurement::Sample)) {
        rows.push(measure_sampling(args, data).map_err(stages::Error::from)?);
    }
    // Games are optional: without Procgen the row is missing.
    if is_wanted(Measurement::Play)
        && let Ok(package) = ProcgenPackage::find(&args.games.folders())
    {
        rows.push(measure_playing(args, &package, threads)?);
    }
    Ok(rows)
}

/// The frames of a stage, and the windows in them.
struct Data {
    shards: Shards,
    index: WindowIndex,
}

/// Opens the frames of `WORKSPACE/STAGE`, and checks that the networks can train on them.
fn open(frames: &str, config: &DynamicsConfig, access: &Access) -> Result<Data> {
    let usage = |what: String| Error::Usage {
        what,
        hint: "give a decode or record stage that has run: --frames WORKSPACE/STAGE".into(),
    };
    let (workspace, stage) = frames
        .rsplit_once('/')
        .ok_or_else(|| usage(format!("--frames {frames}: expected WORKSPACE/STAGE")))?;
    let store = Store::open_with(workspace, access)?;
    let head = Manifest::newest(&store, stage)?
        .ok_or_else(|| usage(format!("--frames {frames}: the stage has no dataset")))?;
    let files = head.files(&store)?.into_iter().map(|file| file.path);
    let paths = files.filter(|path| path.ends_with(".arrow")).collect();
    let shards = Shards::open(&store, paths)?;
    let index = WindowIndex::new(&shards, config.window());
    if index.is_empty() {
        Err(usage(format!("--frames {frames}: every episode is shorter than a window")))?;
    }
    if let Some(size) = shards.frame_size().filter(|size| size.height as usize != config.frame_size)
    {
        Err(usage(format!(
            "--frames {frames}: the frames are {} pixels high, expected {}",
            size.height, config.frame_size
        )))?;
    }
    Ok(Data { shards, index })
}

/// Measures labelled transitions per second, without and with codes and the FDM's error.
fn measure_labelling(
    args: &BenchArgs,
    device: &Device,
    config: &DynamicsConfig,
) -> Result<Vec<Row>, stages::Error> {
    let weights = dynamics_trainer(device, config, &OptimConfig::default(), None, 0)?
        .export(&BTreeMap::new())?;
    let labeller = labeller(device, &weights, args.precision)?;
    let count = args.label_batch;
    let time = config.window();
    // Overlapping windows: one starts at each of the first `count` frames.
    let frames = noise((count + time - 1) * config.frame_size.pow(2) * config.channels);
    let starts: Vec<usize> = (0..count).collect();
    let idm = cost::idm(config).forward;
    let fdm = cost::fdm(config).forward;
    let kinds = [
        ("IDM", LabelOutputs::default(), idm),
        ("IDM, codes and FDM error", LabelOutputs { codes: true, fdm_error: true }, idm + fdm),
    ];
    let mut rows = Vec::new();
    for (what, want, operations) in kinds {
        let passes = per_second(args, || labeller.label(&frames, &starts, want).map(|_| ()))?;
        rows.push(Row {
            what: format!("label, {}, {count} windows, {what}", args.preset),
            speed: passes * count as f64,
            unit: "transitions/s",
            operations,
        });
    }
    Ok(rows)
}

/// Measures training steps of IDM and FDM per second, on windows of `data` or else on noise.
fn measure_training(
    args: &BenchArgs,
    device: &Device,
    config: &DynamicsConfig,
    data: Option<&Data>,
) -> Result<Row, stages::Error> {
    let rule = OptimizerKind::of_dynamics(args.reference);
    let optim = OptimConfig { rule, precision: args.precision, ..OptimConfig::default() };
    let mut trainer = dynamics_trainer(device, config, &optim, None, 0)?;
    let time = config.window();
    let side = config.frame_size;
    let batch = args.batch;
    let mut frames = noise(batch * time * side * side * config.channels);
    let mut draws = data.map(|data| batch::WindowSampler::new(0, 0, data.index.len(), 0));
    // A training reads a GPU at every tenth step, so a timed call is that many steps.
    let at_once = if device.reads_late() && args.calls.is_none() { READ_EVERY } else { 1 };
    let calls = per_second(args, || -> Result<(), stages::Error> {
        for _ in 0..at_once {
            if let (Some(draws), Some(data)) = (&mut draws, data) {
                batch::gather(&data.shards, &data.index, &draws.next(batch), &mut frames)?;
            }
            let batch =
                Batch { frames: &frames, batch, time, height: side, width: side, actions: &[] };
            let is_read = (trainer.steps() + 1).is_multiple_of(READ_EVERY);
            let read_back = if is_read { ReadBack::Always } else { ReadBack::IfCheap };
            trainer.step_accumulated(&[batch], StepSettings::even(1e-4), read_back)?;
        }
        Ok(())
    })?;
    let steps = calls * at_once as f64;
    let operations = (cost::idm(config).training + cost::fdm(config).training) * batch as u64;
    Ok(Row {
        what: format!("train, {}, batch {batch}", args.preset),
        speed: steps,
        unit: "steps/s",
        operations,
    })
}

/// Measures how many random windows per second one core copies out of mapped shards.
fn measure_sampling(args: &BenchArgs, data: &Data) -> Result<Row, crate::dataset::Error> {
    let windows = data.index.len();
    let time = data.index.frames_per_window();
    let mut draws = batch::WindowSampler::new(0, 0, windows, 0);
    let mut out = Vec::new();
    let batches = per_second(args, || {
        batch::gather(&data.shards, &data.index, &draws.next(args.batch), &mut out)
    })?;
    Ok(Row {
        what: format!("sample, one core, {windows} windows of {time} frames"),
        speed: batches * args.batch as f64,
        unit: "windows/s",
        operations: 0,
    })
}

/// Measures the steps of a game per second, summed over all environments, with random actions.
fn measure_playing(
    args: &BenchArgs,
    package: &ProcgenPackage,
    threads: usize,
) -> Result<Row, crate::envs::Error> {
    let game = Game::Maze;
    let count = 64;
    let config = ProcgenConfig {
        game,
        mode: Mode::Easy,
        levels: Levels::default(),
        seed: 0,
        count,
        threads,
    };
    let mut env = Procgen::new(package, &config)?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let space = env.action_space().clone();
    let steps = per_second(args, || {
        env.step(&(0..count).map(|_| space.random(&mut rng)).collect::<Vec<_>>())
    })?;
    Ok(Row {
        what: format!("play, {game}, {count} environments"),
        speed: steps * count as f64,
        unit: "frames/s",
        operations: 0,
    })
}

/// Repeats work for a time, after two calls as a warm-up, or as often as `--calls`. Returns the
/// calls per second, by the median call.
fn per_second<E>(args: &BenchArgs, mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    // First calls also choose kernels and allocate memory.
    for _ in 0..if args.calls.is_none() { 2 } else { 0 } {
        work()?;
    }
    let began = Instant::now();
    let mut times = Vec::new();
    let is_over = |taken: usize| match args.calls {
        Some(calls) => taken >= calls,
        None => taken >= 3 && began.elapsed() >= Duration::from_secs_f64(args.seconds),
    };
    while !is_over(times.len()) {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    // Unlike the mean, the median ignores pauses caused by other processes.
    times.sort_by(f64::total_cmp);
    // A coarse clock may measure 0 for very short work.
    Ok(1.0 / times[times.len() / 2].max(1e-9))
}

/// Parses a value by its name in YAML.
fn parse_word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let word: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        serde::de::IntoDeserializer::into_deserializer(text);
    T::deserialize(word).map_err(|error| error.to_string())
}

/// Returns random bytes, always the same ones.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(0).fill_bytes(&mut noise);
    noise
}
