//! `lapo export`: onnxruntime computes from an ONNX file what lapo computes from the weights.

use std::fs;
use std::path::Path;

use lapo::dataset::{Manifest, Shard, Store};
use lapo::models::metadata::AGENT_FORMAT;
use lapo::models::weights::Weights;
use lapo::models::{
    AgentConfig, DecoderConfig, Device, LoadedDecoder, Outputs, PolicyConfig, Preset, actor, agent,
};
use lapo::train::{OptimConfig, policy_trainer};
use serde_json::{Map, Value, json};

use crate::project::{PIPELINE, Project};
use crate::python::passes;

/// Both recipes at two sizes, another context, and a model that never quantises.
pub const MODELS: [(&str, &str); 5] = [
    ("tiny", "preset: tiny"),
    ("tiny_reference", "preset: tiny, reference: true"),
    ("small", "preset: small, context: 2"),
    ("small_reference", "preset: small, reference: true"),
    ("continuous", "vq: { warmup: 1 }"),
];

/// Creates a project with the frames of `games` recordings.
pub fn project(games: usize) -> Project {
    let project = Project::new(games);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze/actions.parquet");
    fs::copy(data, project.path("actions.parquet")).unwrap();
    project
}

/// Runs a pipeline of `stages` over the frames.
pub fn run(project: &Project, stages: &str) {
    let yaml = format!(
        "name: test\nworkspace: ws\nseed: 7\nholdout: 3\nstages:\n  \
         frames: {{ decode: {{ videos: ['videos/*'], size: 16, videos_per_shard: 20 }} }}\n{stages}"
    );
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    project.run(&[]).success();
}

/// Returns the files of a stage whose names end with `suffix`, with their digests.
pub fn files(project: &Project, stage: &str, suffix: &str) -> Vec<(String, String)> {
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let manifest = Manifest::newest(&store, stage).unwrap().unwrap();
    let files = manifest.files(&store).unwrap().into_iter();
    let files = files.filter(|file| file.path.ends_with(suffix));
    files.map(|file| (format!("ws/{}", file.path), file.blake3)).collect()
}

/// Returns the full path of the only such file.
pub fn file(project: &Project, stage: &str, suffix: &str) -> String {
    let files = files(project, stage, suffix);
    assert_eq!(files.len(), 1, "{files:?}");
    project.path(&files[0].0).to_str().unwrap().to_owned()
}

/// Exports and returns what the command prints.
fn export(project: &Project, args: &[&str]) -> String {
    project.lapo(&[&["export"], args].concat()).success().stdout
}

#[test]
fn onnxruntime_infers_the_latent_actions_and_codes_of_the_labels() {
    let project = project(64);
    let stages = MODELS.map(|(name, settings)| {
        format!(
            "  {name}: {{ train_dynamics: {{ frames: frames, steps: 5, batch: 16, \
             {settings} }} }}\n  \
             labels_{name}: {{ label: {{ frames: frames, dynamics: {name}, fdm_error: false }} }}\n"
        )
    });
    run(&project, &stages.concat());
    let full = |path: &String| project.path(path).to_str().unwrap().to_owned();
    let shards: serde_json::Map<_, _> = files(&project, "frames", ".arrow")
        .iter()
        .map(|(path, digest)| (digest.clone(), full(path).into()))
        .collect();
    let case = |(name, _): (&str, &str)| {
        let weights = file(&project, name, ".safetensors");
        let digest = files(&project, name, ".safetensors")[0].1.clone();
        let onnx = format!("{name}.onnx");
        let printed = export(&project, &[&weights, "--to", &onnx]);
        let time = if name == "small" { 4 } else { 3 };
        assert!(printed.starts_with(&format!("{onnx}: dynamics, opset 17, ")), "{printed}");
        let ports = format!(
            "\n  input frames: uint8 [batch, {time}, 16, 16, 3]\n  \
             output latent_action: float [batch, 128]\n  output latent_code: int64 [batch, 8]\n"
        );
        assert!(printed.ends_with(&ports), "{printed}");
        let labels = files(&project, &format!("labels_{name}"), "labels.parquet");
        let labels: Vec<_> = labels.iter().map(|(path, _)| full(path)).collect();
        json!({"onnx": full(&onnx), "weights": weights, "digest": digest, "labels": labels,
            "shards": shards})
    };
    let cases = json!(MODELS.map(case)).to_string();
    if let Some(printed) = passes(include_str!("onnx_dynamics.py"), [cases]) {
        println!("{printed}");
    }
}

/// Returns the first `count` frames of the decoded videos.
pub fn frames(project: &Project, count: usize) -> Vec<u8> {
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let mut pixels = Vec::new();
    for (path, _) in files(project, "frames", ".arrow") {
        let shard = Shard::open(&store, path.strip_prefix("ws/").unwrap()).unwrap();
        (0..shard.rows()).for_each(|row| pixels.extend(shard.pixels(row)));
    }
    pixels.truncate(count * 16 * 16 * 3);
    assert_eq!(pixels.len(), count * 16 * 16 * 3);
    pixels
}

/// Writes values for the script and returns the path.
pub fn floats(project: &Project, name: &str, values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    write(project, name, &bytes)
}

pub fn write(project: &Project, name: &str, bytes: &[u8]) -> String {
    fs::write(project.path(name), bytes).unwrap();
    project.path(name).to_str().unwrap().to_owned()
}

/// Returns a policy of a preset with initial weights, for frames of 16 x 16.
pub fn policy(preset: Preset) -> Vec<u8> {
    let sizes = PolicyConfig { frame_size: 16, ..preset.policy(&preset.dynamics()) };
    let trainer = policy_trainer(&Device::Cpu, &sizes, &OptimConfig::default(), 3).unwrap();
    trainer.export(&Default::default()).unwrap()
}

/// Returns values that look random, of the size of weights.
fn weights(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7919 + seed * 104_729) as f32 * 0.37).sin() * 0.2).collect()
}

/// Returns a decoder to actions of two axes.
fn continuous_decoder(latent_dim: usize, outputs: Outputs) -> Vec<u8> {
    let mut file = Weights::default();
    let config = DecoderConfig { latent_dim, hidden: vec![8], outputs };
    file.describe("lapo-decoder/1", &config);
    add_decoder(&mut file, "decoder", &config);
    file.to_bytes()
}

/// Writes the actions that a decoder's ONNX form should output, and returns the files by output.
fn action_outputs(
    project: &Project,
    case: &str,
    decoder: &[u8],
    latent_action: &[f32],
) -> Map<String, Value> {
    let decoder = LoadedDecoder::load(decoder).unwrap();
    let decoded = decoder.decode(latent_action).unwrap();
    let columns = |from: usize, to: usize| {
        let rows = decoded.chunks_exact(decoder.config.outputs.width());
        rows.flat_map(|row| row[from..to].to_vec()).collect::<Vec<f32>>()
    };
    let outputs = match decoder.config.outputs {
        Outputs::Discrete { actions } => vec![("logits", columns(0, actions))],
        Outputs::Continuous { axes } => vec![("action", columns(0, axes))],
        Outputs::Gaussian { axes } => {
            vec![("action", columns(0, axes)), ("log_std", columns(axes, 2 * axes))]
        }
    };
    let write = |(name, values): (&str, Vec<f32>)| {
        (name.to_owned(), floats(project, &format!("{case}_{name}.bin"), &values).into())
    };
    outputs.into_iter().map(write).collect()
}

fn add_decoder(file: &mut Weights, prefix: &str, config: &DecoderConfig) {
    let hidden = config.hidden[0];
    let outputs = config.outputs.width();
    for (layer, [input, output]) in
        [[config.latent_dim, hidden], [hidden, outputs]].iter().enumerate()
    {
        let name = format!("{prefix}.layers.{layer}");
        file.put(format!("{name}.weight"), &[*output, *input], &weights(input * output, layer));
        file.put(format!("{name}.bias"), &[*output], &weights(*output, layer + 9));
    }
}

/// Returns an agent that has the convolutions of a policy, and a supervised path.
fn agent_of(policy: &[u8]) -> Vec<u8> {
    let policy = Weights::parse(policy).unwrap();
    let sizes = policy.policy_config().unwrap();
    let decoder = DecoderConfig {
        latent_dim: sizes.latent_dim,
        hidden: vec![8],
        outputs: Outputs::Discrete { actions: 5 },
    };
    let mut file = Weights::default();
    for (name, shape) in policy.shapes_under("policy.") {
        let values = policy.get(&format!("policy.{name}"), &shape).unwrap();
        if let Some(layer) = name.strip_prefix("fc.") {
            file.put(format!("agent.supervised.fc.{layer}"), &shape, &weights(values.len(), 5));
        }
        if let Some(layer) = name.strip_prefix("policy_head.") {
            file.put(format!("agent.supervised.latent_head.{layer}"), &shape, &values);
        } else {
            file.put(format!("agent.rl.{name}"), &shape, &values);
        }
    }
    file.put("agent.rl.policy_head.weight", &[5, 256], &weights(5 * 256, 1));
    file.put("agent.rl.policy_head.bias", &[5], &weights(5, 2));
    add_decoder(&mut file, "agent.supervised.decoder", &decoder);
    let network = PolicyConfig { latent_dim: 5, ..sizes };
    file.describe(AGENT_FORMAT, &AgentConfig { network, decoder: Some(decoder) });
    file.to_bytes()
}

/// A policy and a decoder, trained for a few steps.
const POLICY_AND_DECODER: &str = "  actions: { import_actions: { frames: frames, \
     file: actions.parquet, partial: true } }\n  \
     model: { train_dynamics: { frames: frames, steps: 5, batch: 16 } }\n  \
     labels: { label: { frames: frames, dynamics: model, fdm_error: false } }\n  \
     policy: { train_policy: { labels: labels, steps: 20, batch: 8 } }\n  \
     decoder: { train_decoder: { labels: labels, actions: actions, transitions: [32], \
     draws: 1, steps: 20 } }\n";

#[test]
fn onnxruntime_acts_as_policies_decoders_and_agents_do() {
    let project = project(60);
    run(&project, POLICY_AND_DECODER);
    let pixels = frames(&project, 1000);
    let input = write(&project, "frames.bin", &pixels);
    let trained = fs::read(file(&project, "policy", ".safetensors")).unwrap();
    let mut cases = Vec::new();
    let decoders = [
        ("discrete", "logits", fs::read(file(&project, "decoder", ".safetensors")).unwrap()),
        ("continuous", "action", continuous_decoder(128, Outputs::Continuous { axes: 2 })),
        ("gaussian", "action", continuous_decoder(128, Outputs::Gaussian { axes: 2 })),
    ];
    let policies = [
        ("tiny", trained.clone(), 1000),
        ("small", policy(Preset::Small), 1000),
        ("paper", policy(Preset::Paper), 100),
    ];
    for (preset, bytes, count) in &policies {
        let some = write(&project, &format!("{preset}.bin"), &pixels[..count * 16 * 16 * 3]);
        let weights = write(&project, &format!("{preset}.safetensors"), bytes);
        let network = actor(&Device::Cpu, bytes).unwrap();
        let latent = network.latent_action(&pixels[..count * 16 * 16 * 3]).unwrap();
        let expected = floats(&project, &format!("{preset}_latent.bin"), &latent);
        let onnx = project.path(&format!("{preset}.onnx")).to_str().unwrap().to_owned();
        export(&project, &[&weights, "--to", &onnx]);
        cases.push(json!({"onnx": onnx, "kind": "policy", "input": some, "count": count,
            "outputs": {"latent_action": expected}}));
        for (name, output, decoder) in &decoders {
            let path = write(&project, &format!("{name}.safetensors"), decoder);
            let mut expected_of_policy =
                action_outputs(&project, &format!("{preset}_{name}"), decoder, &latent);
            let expected_alone = expected_of_policy.clone();
            expected_of_policy.insert("latent_action".into(), expected.clone().into());
            let onnx = project.path(&format!("{preset}_{name}.onnx"));
            let onnx = onnx.to_str().unwrap();
            let printed = export(&project, &[&weights, "--decoder", &path, "--to", onnx]);
            assert!(printed.contains(&format!("\n  output {output}: float [batch, ")), "{printed}");
            cases.push(json!({"onnx": onnx, "kind": "policy_decoder", "input": some,
                "count": count, "outputs": expected_of_policy}));
            let alone = project.path(&format!("{preset}_{name}_alone.onnx"));
            let alone = alone.to_str().unwrap();
            export(&project, &[&path, "--to", alone]);
            cases.push(json!({"onnx": alone, "kind": "decoder", "input": expected,
                "count": count, "outputs": expected_alone}));
        }
    }
    let bytes = agent_of(&trained);
    let logits = agent(&Device::Cpu, &bytes).unwrap().logits(&pixels).unwrap();
    let weights = write(&project, "agent.safetensors", &bytes);
    let onnx = project.path("agent.onnx").to_str().unwrap().to_owned();
    export(&project, &[&weights, "--to", &onnx]);
    cases.push(json!({"onnx": onnx, "kind": "agent", "input": input, "count": 1000,
        "outputs": {"logits": floats(&project, "logits.bin", &logits)}}));
    if let Some(printed) = passes(include_str!("onnx_frames.py"), [json!(cases).to_string()]) {
        println!("{printed}");
    }
}

#[test]
fn an_export_that_cannot_work_is_an_error_and_writes_nothing() {
    let project = Project::new(0);
    write(&project, "policy.safetensors", &policy(Preset::Tiny));
    write(
        &project,
        "decoder.safetensors",
        &continuous_decoder(128, Outputs::Continuous { axes: 2 }),
    );
    write(&project, "short.safetensors", &continuous_decoder(16, Outputs::Continuous { axes: 2 }));
    write(&project, "notes.safetensors", b"these are no weights, only words");
    let mut other = Weights::default();
    other.describe("lapo-policy/9", &json!({}));
    write(&project, "newer.safetensors", &other.to_bytes());
    write(&project, "taken.onnx", b"mine");
    let refused = |args: &[&str], message: &str, hint: &str| {
        let output = project.lapo(&[&["export"], args].concat());
        assert_eq!(output.code, 64, "{output:#?}");
        assert!(output.stderr.contains(message) && output.stderr.contains(hint), "{output:#?}");
        let names: Vec<_> = fs::read_dir(project.path("")).unwrap().collect();
        assert_eq!(names.len(), 8, "{names:?}");
        assert_eq!(fs::read(project.path("taken.onnx")).unwrap(), b"mine");
    };
    refused(
        &["notes.safetensors", "--to", "a.onnx"],
        "notes.safetensors: the weights are not a valid safetensors file",
        "hint: give a .safetensors file",
    );
    refused(
        &["newer.safetensors", "--to", "a.onnx"],
        "found `lapo-policy/9`, expected one of `lapo-dynamics/2`, `lapo-policy/1`",
        "hint: `lapo inspect FILE`",
    );
    refused(
        &["policy.safetensors", "--decoder", "short.safetensors", "--to", "a.onnx"],
        "policy.safetensors with short.safetensors: the decoder reads latent actions of length 16, \
         but the policy's have 128",
        "hint: give a decoder trained on labels of the policy's model",
    );
    refused(
        &["policy.safetensors", "--decoder", "policy.safetensors", "--to", "a.onnx"],
        "the weights are of kind `policy`, expected `decoder`",
        "hint: --decoder takes a decoder",
    );
    refused(
        &["decoder.safetensors", "--decoder", "decoder.safetensors", "--to", "a.onnx"],
        "the weights are of kind `decoder`, expected `policy`",
        "only a policy can have one",
    );
    refused(
        &["policy.safetensors", "--to", "policy.safetensors", "--force"],
        "--to policy.safetensors: expected a name that ends with .onnx",
        "such as --to policy.onnx",
    );
    refused(&["policy.safetensors", "--to", "taken.onnx"], "the file exists", "with --force");
    let output = project.lapo(&["export", "none.safetensors", "--to", "a.onnx"]);
    assert!(output.stderr.contains("cannot read none.safetensors"), "{output:#?}");
    let output = project.lapo(&["export", "policy.safetensors", "--to", "none/a.onnx"]);
    assert!(output.stderr.contains("cannot write none/a.onnx"), "{output:#?}");

    export(&project, &["policy.safetensors", "--to", "taken.onnx", "--force"]);
    assert!(fs::read(project.path("taken.onnx")).unwrap().len() > 1000);
}

/// Networks of a stage, as files of the workspace.
#[test]
fn the_stage_writes_the_files_of_the_command() {
    let project = project(60);
    let stage = "  graphs: { export: { format: onnx, dynamics: model, policy: policy, \
                 decoder: decoder } }\n  alone: { export: { format: onnx, decoder: decoder } }\n";
    run(&project, &format!("{POLICY_AND_DECODER}{stage}"));
    let weights = |stage| file(&project, stage, ".safetensors");
    let exported = |args: &[&str]| {
        export(&project, &[args, &["--to", "a.onnx", "--force"]].concat());
        fs::read(project.path("a.onnx")).unwrap()
    };
    let made = |stage, name| fs::read(file(&project, stage, name)).unwrap();
    assert!(made("graphs", "/idm.onnx") == exported(&[&weights("model")]));
    let with_decoder = [&weights("policy"), "--decoder", &weights("decoder")];
    assert!(made("graphs", "/policy.onnx") == exported(&with_decoder));
    assert!(made("alone", "/decoder.onnx") == exported(&[&weights("decoder")]));
    assert_eq!(files(&project, "graphs", ".onnx").len(), 2);
    project.run_changes_nothing(&[]);
}

#[test]
fn a_stage_without_networks_or_with_a_setting_of_datasets_is_a_fault() {
    let project = Project::new(1);
    let faults = |settings: &str| {
        let text = format!("{PIPELINE}  graphs: {{ export: {{ format: onnx{settings} }} }}\n");
        fs::write(project.path("pipeline.yaml"), text).unwrap();
        let output = project.lapo(&["check", "pipeline.yaml"]);
        assert_ne!(output.code, 0, "{output:#?}");
        output.stderr
    };
    let empty = faults("");
    assert!(empty.contains("name a stage with a network: `dynamics`, `policy`"), "{empty}");
    let foreign = faults(", dynamics: model, frames: frames, zoom: 2");
    for part in ["export.frames", "export.zoom", "is no setting of `format: onnx`"] {
        assert!(foreign.contains(part), "{foreign}");
    }
    let wrong = faults(", policy: model");
    assert!(wrong.contains("expected one that makes a latent policy"), "{wrong}");
}
