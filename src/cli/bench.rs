//! `lapo bench`: how fast this machine labels, trains and plays, beside what it could do.
//!
//! Frames are noise and weights are fresh, neither of which changes the time. `tests/bench/compare.py` sets these numbers beside
//! PyTorch's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::args::{Format, Games, at_least_one};
use super::{Error, print};
use crate::dataset::{self, Access, Shards, Store, WindowIndex};
use crate::envs::{Game, Levels, Mode, Package, Procgen, ProcgenConfig, VecEnv};
use crate::error::Result;
use crate::models::{Device, DynamicsConfig, Precision, Preset, Want, cost, labeller, roofline};
use crate::stages;
use crate::train::{Batch, OptimConfig, Pace, Rule, batch, dynamics_trainer};

#[derive(Debug, ClapArgs)]
pub struct Bench {
    /// Sizes of the networks: tiny, small or paper
    #[arg(long, default_value = "tiny", value_parser = word::<Preset>)]
    pub preset: Preset,
    /// The paper's networks instead of ours, for comparison with other implementations
    #[arg(long)]
    pub reference: bool,
    /// How precisely they compute: f32 or bf16
    #[arg(long, default_value = "f32", value_parser = word::<Precision>)]
    pub precision: Precision,
    /// Windows labelled at once
    #[arg(long, default_value_t = 128)]
    pub label_batch: usize,
    /// Windows of a training step
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Train on these frames instead of noise, and copy random windows out of them: WORKSPACE/STAGE
    #[arg(long)]
    pub frames: Option<String>,
    /// Seconds a measurement takes, at least
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Cores to use [default: all]
    #[arg(long, value_parser = at_least_one())]
    pub threads: Option<usize>,
    /// What computes: auto, cpu or cuda:N
    #[arg(long, default_value = "auto", env = "LAPO_DEVICE")]
    pub device: String,
    /// How to print it: table or json
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Where games are.
    #[command(flatten)]
    pub games: Games,
}

/// One measurement.
struct Row {
    what: String,
    /// In a second.
    speed: f64,
    unit: &'static str,
    /// Operations a unit.
    operations: u64,
}

/// Prints a row per measurement.
pub fn run(args: &Bench, access: &Access) -> Result<()> {
    let device: Device = args.device.parse()?;
    let threads = super::run::use_threads(args.threads)?;
    let config = args.preset.dynamics();
    let config = if args.reference { config.reference() } else { config };
    let data = args.frames.as_ref().map(|frames| open(frames, &config, access)).transpose()?;
    let bound = roofline::matrix_product(&device, args.precision)?;
    let mut rows = label(args, &device, &config)?;
    rows.push(train(args, &device, &config, data.as_ref())?);
    if let Some(data) = &data {
        rows.push(sample(args, data).map_err(stages::Error::from)?);
    }
    if let Ok(package) = Package::find(&args.games.folders()) {
        rows.push(play(args, &package, threads)?);
    }
    let text = match args.format {
        Format::Json => json(&rows, bound, &device, threads),
        _ => table(&rows, bound, &format!("{device}, {threads} threads")),
    };
    print(&(text + "\n"))
}

/// A workspace's frames and the windows in them.
struct Data {
    shards: Shards,
    index: WindowIndex,
}

fn open(frames: &str, config: &DynamicsConfig, access: &Access) -> Result<Data> {
    let usage = |what: String| Error::Usage {
        what,
        hint: "say --frames WORKSPACE/STAGE, a decode or record stage that has run".into(),
    };
    let (workspace, stage) = frames
        .rsplit_once('/')
        .ok_or_else(|| usage(format!("--frames {frames} names no stage")))?;
    let store = Store::open_with(workspace, access)?;
    let head = dataset::head(&store, stage)?
        .ok_or_else(|| usage(format!("--frames {frames}: the stage has no dataset")))?;
    let files = head.files(&store)?.into_iter().map(|file| file.path);
    let paths = files.filter(|path| path.ends_with(".arrow")).collect();
    let shards = Shards::open(&store, paths)?;
    let index = WindowIndex::new(&shards, config.window());
    if index.is_empty() {
        Err(usage(format!("--frames {frames}: no episode is as long as a window")))?;
    }
    if let Some(size) = shards.frame_size().filter(|size| size.height as usize != config.frame_size)
    {
        Err(usage(format!(
            "--frames {frames}: frames of {} pixels, expected {}",
            size.height, config.frame_size
        )))?;
    }
    Ok(Data { shards, index })
}

impl Row {
    /// Of the operations a plain matrix product does in the same time.
    fn share(&self, bound: f64) -> Option<f64> {
        (self.operations > 0).then(|| self.speed * self.operations as f64 / bound)
    }
}

fn json(rows: &[Row], bound: f64, device: &Device, threads: usize) -> String {
    let row = |row: &Row| json!({ "what": row.what, "speed": row.speed, "unit": row.unit, "share": row.share(bound) });
    let rows: Vec<_> = rows.iter().map(row).collect();
    json!({ "device": device.to_string(), "threads": threads, "matrix_product_gflops": bound / 1e9, "rows": rows }).to_string()
}

fn table(rows: &[Row], bound: f64, machine: &str) -> String {
    let mut text = format!("{machine}: a plain matrix product does {:.0} GFLOP/s\n", bound / 1e9);
    text += &format!("{:<56} {:>12} {:<14} {:>12} {:>7}", "what", "speed", "", "GFLOP/s", "share");
    for row in rows {
        let share =
            row.share(bound).map_or_else(String::new, |share| format!("{:.0} %", share * 100.0));
        let flops = if row.operations > 0 {
            format!("{:.1}", row.speed * row.operations as f64 / 1e9)
        } else {
            String::new()
        };
        text += &format!(
            "\n{:<56} {:>12.1} {:<14} {flops:>12} {share:>7}",
            row.what, row.speed, row.unit
        );
    }
    text
}

/// Transitions labelled in a second, without and with the world model's error.
fn label(
    args: &Bench,
    device: &Device,
    config: &DynamicsConfig,
) -> Result<Vec<Row>, stages::Error> {
    let weights = dynamics_trainer(device, config, &OptimConfig::default(), None, 0)?
        .export(&BTreeMap::new())?;
    let labeller = labeller(device, &weights, args.precision)?;
    let (count, time) = (args.label_batch, config.window());
    let frames = noise((count + time - 1) * config.frame_size.pow(2) * config.channels);
    let starts: Vec<usize> = (0..count).collect();
    let (idm, fdm) = (cost::idm(config).forward, cost::fdm(config).forward);
    let kinds = [
        ("IDM", Want::default(), idm),
        ("IDM, codes and FDM error", Want { codes: true, fdm_error: true }, idm + fdm),
    ];
    let row = |(what, want, operations): (&str, Want, u64)| -> Result<Row, stages::Error> {
        let passes =
            per_second(args.seconds, || labeller.label(&frames, &starts, want).map(|_| ()))?;
        let what = format!("label, {}, {count} windows, {what}", args.preset);
        Ok(Row { what, speed: passes * count as f64, unit: "transitions/s", operations })
    };
    kinds.into_iter().map(row).collect()
}

/// Steps of IDM and FDM together in a second; windows are drawn from `data`, if there are any.
fn train(
    args: &Bench,
    device: &Device,
    config: &DynamicsConfig,
    data: Option<&Data>,
) -> Result<Row, stages::Error> {
    let rule = Rule::of_dynamics(args.reference);
    let optim = OptimConfig { rule, precision: args.precision, ..OptimConfig::default() };
    let mut trainer = dynamics_trainer(device, config, &optim, None, 0)?;
    let (time, side, batch) = (config.window(), config.frame_size, args.batch);
    let mut frames = noise(batch * time * side * side * config.channels);
    let mut draws = data.map(|data| batch::Draws::new(0, 0, data.index.len(), 0));
    let steps = per_second(args.seconds, || -> Result<(), stages::Error> {
        if let (Some(draws), Some(data)) = (&mut draws, data) {
            batch::gather(&data.shards, &data.index, &draws.next(batch), &mut frames)?;
        }
        trainer.step(
            &Batch { frames: &frames, batch, time, height: side, width: side, actions: &[] },
            Pace::even(1e-4),
        )?;
        Ok(())
    })?;
    let operations = (cost::idm(config).training + cost::fdm(config).training) * batch as u64;
    Ok(Row {
        what: format!("train, {}, batch {batch}", args.preset),
        speed: steps,
        unit: "steps/s",
        operations,
    })
}

/// Random windows a second that one core copies out of mapped shards.
fn sample(args: &Bench, data: &Data) -> Result<Row, dataset::Error> {
    let (windows, time) = (data.index.len(), data.index.frames_per_window());
    let (mut draws, size, mut out) = (batch::Draws::new(0, 0, windows, 0), args.batch, Vec::new());
    let batches = per_second(args.seconds, || {
        batch::gather(&data.shards, &data.index, &draws.next(size), &mut out)
    })?;
    Ok(Row {
        what: format!("sample, one core, {windows} windows of {time} frames"),
        speed: batches * size as f64,
        unit: "windows/s",
        operations: 0,
    })
}

/// Steps of a game a second, all environments together, random actions.
fn play(args: &Bench, package: &Package, threads: usize) -> Result<Row, crate::envs::Error> {
    let (game, count) = (Game::Maze, 64);
    let config = ProcgenConfig {
        game,
        mode: Mode::Easy,
        levels: Levels::default(),
        seed: 0,
        count,
        threads,
    };
    let (mut env, mut rng) = (Procgen::new(package, &config)?, ChaCha8Rng::seed_from_u64(0));
    let most = env.actions() as u32;
    let steps = per_second(args.seconds, || {
        env.step(&(0..count).map(|_| rng.next_u32() % most).collect::<Vec<_>>())
    })?;
    Ok(Row {
        what: format!("play, {game}, {count} environments"),
        speed: steps * count as f64,
        unit: "frames/s",
        operations: 0,
    })
}

/// How often in a second: runs twice to warm up, then for so long; the median run counts.
fn per_second<E>(seconds: f64, mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    (0..2).try_for_each(|_| work())?;
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_secs_f64(seconds) || times.len() < 3 {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    // The clock may be too coarse to see the shortest work.
    Ok(1.0 / times[times.len() / 2].max(1e-9))
}

/// A word that YAML knows, too.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let word: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        serde::de::IntoDeserializer::into_deserializer(text);
    T::deserialize(word).map_err(|error| error.to_string())
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(0).fill_bytes(&mut noise);
    noise
}
