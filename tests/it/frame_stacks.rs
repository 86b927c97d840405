//! Policies that see several frames: they learn velocity, and every part shows them the same frames.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use lapo::dataset::{ActionRows, Manifest, Shard, Store};
use lapo::envs::Action;
use lapo::models::{Device, FrameStack, LoadedDecoder, PolicyConfig, actor};
use lapo::stages::draw_action;
use lapo::train::batch::generator;
use lapo::train::{CloningBatch, OptimConfig, policy_trainer};
use rand::Rng;
use serde_json::{Value, json};

use crate::project::{PIPELINE, Project, wait};
use crate::python::passes;
use crate::test_device::test_device;

const SIDE: usize = 16;
const BATCH: usize = 32;

/// Draws stacks of a square that moves to the left or to the right, and its direction.
fn moving_squares(frames: usize, step: u64) -> (Vec<u8>, Vec<f32>) {
    let mut rng = generator(step, "squares", 0);
    let mut pixels = Vec::new();
    let mut directions = Vec::new();
    for _ in 0..BATCH {
        let direction: i32 = if rng.random() { 2 } else { -2 };
        let (x, y) = (rng.random_range(0..16), rng.random_range(2..14));
        for frame in 0..frames {
            let left = x - direction * (frames - 1 - frame) as i32;
            for at in 0..SIDE * SIDE * 3 {
                let (row, column) = ((at / 3 / SIDE) as i32, (at / 3 % SIDE) as i32);
                let inside = (row - y).abs() < 2 && (column - left).rem_euclid(16) < 4;
                pixels.push(if inside { 230 } else { 30 });
            }
        }
        directions.push(direction as f32 / 2.0);
    }
    (pixels, directions)
}

/// Returns the error of a policy of the direction, on squares it was not trained on.
fn error_of(frames: usize) -> f32 {
    let config = PolicyConfig { scale: 1, latent_dim: 1, frame_size: SIDE, channels: 3, frames };
    let mut policy = policy_trainer(&test_device(), &config, &OptimConfig::default(), 5).unwrap();
    for step in 0..120 {
        let (frames, latent_action) = moving_squares(frames, step);
        policy.step(CloningBatch { frames: &frames, latent_action: &latent_action }, 1e-3).unwrap();
    }
    let mut error = 0.0;
    for step in 1000..1004 {
        let (frames, expected) = moving_squares(frames, step);
        let predicted = policy.act(&frames).unwrap();
        error += predicted.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    }
    error / (4 * BATCH) as f32
}

#[test]
fn two_frames_show_a_direction_that_one_does_not() {
    // The mean of both directions has an error of 1.
    let (one, two) = (error_of(1), error_of(2));
    println!("error with one frame {one}, with two {two}");
    assert!(one > 0.8 && two < 0.2, "{one}, {two}");
}

const STAGES: &str = "  actions: { import_actions: { frames: frames, file: actions.parquet, \
     partial: true } }\n  \
     policy: { train_policy: { labels: labels, frames: 3, steps: 10, batch: 8 } }\n  \
     decoder: { train_decoder: { labels: labels, actions: actions, transitions: [32], draws: 1, \
     steps: 20, hidden: [8] } }\n";

/// Creates a project with a trained policy of three frames and a decoder.
fn project(more: &str) -> Project {
    let project = Project::new(9);
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze/actions.parquet");
    fs::copy(data, project.path("actions.parquet")).unwrap();
    fs::write(project.path("pipeline.yaml"), format!("{PIPELINE}{STAGES}{more}")).unwrap();
    project
}

fn weights(project: &Project, stage: &str) -> Vec<u8> {
    project.files(stage, ".safetensors").remove(0)
}

/// Returns the frames of every episode of a stage.
fn episodes(project: &Project, stage: &str) -> Vec<Vec<Vec<u8>>> {
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let files = Manifest::newest(&store, stage).unwrap().unwrap().files(&store).unwrap();
    let shards = files.into_iter().filter(|file| file.path.ends_with("shard.arrow"));
    let of_shard = |file| {
        let shard = Shard::open_file(&store, &file).unwrap();
        let frames = |run: lapo::dataset::EpisodeRun| {
            let rows = run.first_row..run.first_row + run.len;
            rows.map(|row| shard.pixels(row).to_vec()).collect()
        };
        shard.episodes().into_iter().map(frames).collect::<Vec<_>>()
    };
    shards.flat_map(of_shard).collect()
}

/// Returns the stack of every frame of an episode, the slow way.
fn stacks(episode: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let frame = |at: usize, before: usize| episode[at.saturating_sub(before)].clone();
    (0..episode.len()).map(|at| [2, 1, 0].map(|before| frame(at, before)).concat()).collect()
}

/// Compares the ONNX file with lapo's answers.
const CHECK: &str = r#"
import sys, json, numpy as np, onnx, onnxruntime as ort
model, frames, latent = sys.argv[1:4]
onnx.checker.check_model(onnx.load(model), full_check=True)
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
assert session.get_inputs()[0].shape[1:] == [3, 16, 16, 3], session.get_inputs()[0].shape
stacks = np.fromfile(frames, np.uint8).reshape(-1, 3, 16, 16, 3)
want = np.fromfile(latent, np.float32).reshape(len(stacks), -1)
answer = session.run(["latent_action"], {"frames": stacks})[0]
assert len(stacks) > 30 and np.abs(answer - want).max() < 1e-4, np.abs(answer - want).max()
assert np.abs(want - want.mean(0)).max() > 1e-3
"#;

#[test]
fn act_and_onnx_answer_a_stack_as_the_library_does() {
    let graphs = "  graphs: { export: { format: onnx, policy: policy, decoder: decoder } }\n";
    let project = project(graphs);
    project.run(&[]).success();
    project.run_changes_nothing(&[]);
    let policy = actor(&Device::Cpu, &weights(&project, "policy")).unwrap();
    assert_eq!(policy.config().frames, 3);
    let shown: Vec<_> = episodes(&project, "frames").into_iter().take(3).collect();
    let all: Vec<u8> = shown.iter().flat_map(|episode| stacks(episode).concat()).collect();
    let latent = policy.latent_action(&all).unwrap();
    fs::write(project.path("frames.bin"), &all).unwrap();
    let bytes: Vec<u8> = latent.iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(project.path("latent.bin"), bytes).unwrap();
    fs::write(project.path("policy.onnx"), project.files("graphs", "policy.onnx").remove(0))
        .unwrap();
    let paths = ["policy.onnx", "frames.bin", "latent.bin"].map(|name| project.path(name));
    passes(CHECK, paths);

    let answers = act(&project, &shown);
    let number = |value: &Value| value.as_f64().unwrap() as f32;
    let answered = answers.iter().map(|answer| {
        answer["latent_action"].as_array().unwrap().iter().map(number).collect::<Vec<f32>>()
    });
    // One by one, as `act` does: sums of a batch may be rounded differently.
    let stacks = all.chunks_exact(policy.config().stack_bytes());
    let expected = stacks.map(|stack| policy.latent_action(stack).unwrap());
    assert!(answered.eq(expected));
}

/// Shows episodes to `lapo act`, a reset before each but the first, and returns the answers.
fn act(project: &Project, episodes: &[Vec<Vec<u8>>]) -> Vec<Value> {
    fs::write(project.path("policy.safetensors"), weights(project, "policy")).unwrap();
    fs::write(project.path("decoder.safetensors"), weights(project, "decoder")).unwrap();
    let request = |frame: &[u8]| [&(frame.len() as u32).to_le_bytes()[..], frame].concat();
    let of_episode = |episode: &Vec<Vec<u8>>| -> Vec<u8> {
        episode.iter().flat_map(|frame| request(frame)).collect()
    };
    let requests = episodes.iter().map(of_episode).collect::<Vec<_>>().join(&request(b"")[..]);
    let args = [
        "act",
        "--policy",
        "policy.safetensors",
        "--decoder",
        "decoder.safetensors",
        "--latent",
        "--device",
        "cpu",
    ];
    let mut child = project.command(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&requests).unwrap());
    let output = wait(child).success();
    writer.join().unwrap();
    let mut lines = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    let about: Value = lines.next().unwrap();
    assert_eq!(about["frames"], 3, "{about}");
    let (resets, answers): (Vec<Value>, Vec<Value>) =
        lines.partition(|line: &Value| line.get("reset").is_some());
    assert_eq!(resets, vec![json!({ "reset": true }); episodes.len() - 1]);
    answers
}

/// The seed of [`PIPELINE`].
const SEED: u64 = 7;

#[test]
fn a_recorded_policy_sees_its_episodes_frames_with_and_without_noise() {
    if crate::procgen::venv().is_none() {
        return;
    }
    let played = "  played: { record: { game: maze, player: policy, policy: policy, decoder: \
                  decoder, episodes: 3, size: 16, max_frames: 40, noise: 0.3 } }\n  \
                  returns: { evaluate: { game: maze, policy: policy, decoder: decoder, \
                  episodes: 3, envs: 2 } }\n";
    let project = project(played);
    project.run(&[]).success();
    let policy = actor(&Device::Cpu, &weights(&project, "policy")).unwrap();
    let decoder = LoadedDecoder::load(&weights(&project, "decoder")).unwrap();
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let files = Manifest::newest(&store, "played").unwrap().unwrap().files(&store).unwrap();
    let files = files.into_iter().filter(|file| file.path.ends_with("actions.parquet"));
    let paths: Vec<String> = files.map(|file| file.path).collect();
    let recorded = ActionRows::read(&store, &paths).unwrap().discrete;
    // The random numbers of `record`: the game's seed, then noise and choice of each step.
    let mut rng = generator(SEED, "record", 0);
    _ = rng.random::<u32>();
    let mut chosen = Vec::new();
    for episode in episodes(&project, "played") {
        let mut stack = FrameStack::new(3);
        for (frame, slow) in episode.iter().zip(stacks(&episode)) {
            stack.push(frame);
            assert!(stack.pixels() == slow);
            let action = if rng.random_bool(0.3) {
                Action::Discrete([1, 7, 3, 5][rng.random_range(0..4)])
            } else {
                let scores = decoder.decode(&policy.latent_action(&slow).unwrap()).unwrap();
                draw_action(decoder.config.outputs, &scores, 1.0, &mut rng)
            };
            chosen.push(action);
        }
    }
    assert!(
        recorded.len() > 20 && Action::discrete(&recorded) == chosen,
        "{recorded:?} {chosen:?}"
    );
    assert!(!project.query("SELECT * FROM returns").as_array().unwrap().is_empty());
}

#[test]
fn stacks_where_they_cannot_be_used_are_faults() {
    let agent = "  agent: { finetune: { game: maze, policy: policy, dynamics: model } }\n";
    let project = project(agent);
    let fault = |message: &str| {
        let output = project.lapo(&["check", "pipeline.yaml"]);
        assert_ne!(output.code, 0);
        assert!(output.stderr.contains(message), "{output:#?}");
    };
    fault("`policy` sees 3 frames, expected 1");
    let text = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    for wrong in ["frames: 0, steps", "frames: 9, steps"] {
        let text = text.replace(agent, "").replace("frames: 3, steps", wrong);
        fs::write(project.path("pipeline.yaml"), text).unwrap();
        fault("expected a number from 1 to 8");
    }
    let again = "  again: { train_policy: { labels: labels, init_from: policy, frames: 2 } }\n";
    fs::write(project.path("pipeline.yaml"), text.replace(agent, again)).unwrap();
    fault("set `frames: 2` in `policy`, or name another policy");
    fs::write(project.path("pipeline.yaml"), text.replace("frames: 3, ", "")).unwrap();
    project.lapo(&["check", "pipeline.yaml"]).success();
}
