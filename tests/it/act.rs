//! `lapo act`: the guide's Python client gets the library's actions over stdin, TCP and a Unix
//! socket. Bad input is an error with words.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lapo::dataset::{Manifest, Shard, Store};
use lapo::models::weights::Weights;
use lapo::models::{Device, LoadedDecoder, PolicyConfig, actor};
use lapo::stages::draw_action;
use lapo::train::{OptimConfig, policy_trainer};
use rand::SeedableRng;
use serde_json::{Value, json};

use crate::project::{CommandOutput, Project, wait};
use crate::python::passes;

const STAGES: &str = "
  policy: { train_policy: { labels: labels, steps: 4, batch: 8 } }
  decoder: { train_decoder: { labels: labels, actions: actions, transitions: [32], draws: 1,
      steps: 20, hidden: [8] } }
";

/// Stages with the actions of `actions.csv`, which are continuous.
const CONTINUOUS: &str = "
  angles: { import_actions: { frames: frames, file: actions.csv } }
  pointer: { train_decoder: { labels: labels, actions: angles, transitions: [32], draws: 1,
      steps: 20, hidden: [8] } }
  spread: { train_decoder: { labels: labels, actions: angles, transitions: [32], draws: 1,
      steps: 20, hidden: [8], head: gaussian } }
";

/// Creates a project with a trained policy and decoder.
fn project() -> Project {
    let project = crate::actions::project(9, "actions.parquet", "");
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap() + STAGES;
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    project.run(&[]).success();
    fs::write(project.path("policy.safetensors"), weights(&project, "policy")).unwrap();
    fs::write(project.path("decoder.safetensors"), weights(&project, "decoder")).unwrap();
    project
}

fn weights(project: &Project, stage: &str) -> Vec<u8> {
    project.files(stage, ".safetensors").remove(0)
}

fn shards(project: &Project) -> Vec<(lapo::dataset::FileInfo, Shard)> {
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let manifest = Manifest::newest(&store, "frames").unwrap().unwrap();
    let files = manifest.files(&store).unwrap();
    let shards = files.into_iter().filter(|file| file.path.ends_with("shard.arrow"));
    shards.map(|file| (file.clone(), Shard::open_file(&store, &file).unwrap())).collect()
}

/// Returns the library's answer to each frame of a file: action, scores, latent action. Actions are
/// chosen as `evaluate` does at this temperature.
fn expected(policy: &[u8], decoder: &[u8], frames: &[u8], temperature: f64) -> Vec<Value> {
    let policy = actor(&Device::Cpu, policy).unwrap();
    let decoder = LoadedDecoder::load(decoder).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let length = policy.config().frame_shape().iter().product();
    let answer = |frame: &[u8]| {
        let latent_action = policy.latent_action(frame).unwrap();
        let scores = decoder.decode(&latent_action).unwrap();
        let action = draw_action(decoder.config.outputs, &scores, temperature, &mut rng);
        json!({ "action": action, "logits": scores, "latent_action": latent_action })
    };
    frames.chunks_exact(length).map(answer).collect()
}

/// Returns the guide's Python, with the binary on the path and the project as the folder.
fn client(page: &str, number: usize) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide").join(page);
    let page = fs::read_to_string(page).unwrap();
    let block = page.split("```python\n").nth(number).unwrap().split("```").next().unwrap();
    assert!(block.lines().filter(|line| !line.is_empty()).count() <= 20, "{block}");
    let binary = Path::new(env!("CARGO_BIN_EXE_lapo")).parent().unwrap();
    format!(
        "import os, sys\nos.environ['PATH'] = {:?} + ':' + os.environ['PATH']\n\
         os.chdir(sys.argv[1])\n{block}\n",
        binary.display().to_string()
    )
}

/// Compares every answer with the library's: the same numbers, to the last bit.
const DRIVE: &str = r#"
import signal, time
import numpy as np

def same(answer, want, keys):
    assert set(answer) == set(keys), answer
    for key in keys:
        assert (np.float32(answer[key]) == np.float32(want[key])).all(), (key, answer, want)

weights = ["--policy", "policy.safetensors", "--decoder", "decoder.safetensors", "--device", "cpu"]
frames = np.fromfile("frames.bin", np.uint8).reshape(-1, 16, 16, 3)
names = ["best", "drawn", "pointed", "spread"]
want, drawn, pointed, spread = (json.load(open(f"{name}.json")) for name in names)
assert len(frames) == len(want) > 30 and len({w["action"] for w in drawn}) > 1

policy = start(*weights, "--latent")
count = len(want[0]["logits"])
assert policy.model == {
    "protocol": 1, "frame": [16, 16, 3], "frames": 1, "kind": "discrete", "actions": count
}
for frame, answer in zip(frames, want):
    same(policy.act(frame), answer, ["action", "logits", "latent_action"])
random = start(*weights, "--temperature", "2", "--seed", "7")
for frame, answer in zip(frames, drawn):
    same(random.act(frame), answer, ["action", "logits"])
# Each pixel is four equal ones.
large = start(*weights, "--size", "32x32")
for frame, answer in zip(frames, want):
    same(large.act(frame.repeat(2, 0).repeat(2, 1)), answer, ["action", "logits"])
weights[3] = "pointer.safetensors"
pointer = start(*weights)
assert pointer.model["kind"] == "continuous" and pointer.model["actions"] == 2
for frame, answer in zip(frames, pointed):
    same(pointer.act(frame), {"action": answer["logits"]}, ["action"])
weights[3] = "spread.safetensors"
pointer = start(*weights, "--temperature", "0.5", "--seed", "7")
assert pointer.model["kind"] == "continuous" and pointer.model["actions"] == 2
for frame, answer in zip(frames, spread):
    row = answer["logits"]
    row = {"action": answer["action"], "mean": row[:2], "log_std": row[2:]}
    same(pointer.act(frame), row, ["action", "mean", "log_std"])
    assert row["action"] != row["mean"]
weights[3] = "decoder.safetensors"

def listen(address):
    command = ["lapo", "act", *weights, "--listen", address]
    process = subprocess.Popen(command, stdout=-1)
    line = process.stdout.readline().decode()
    assert line.startswith("listening on "), line
    return process, line.split()[-1]

def end(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143

def play(policy):
    for frame, answer in zip(frames, want):
        same(policy.act(frame), answer, ["action", "logits"])
    for bad in [frames[0].tobytes()[1:], b"\xff\xd8\xff\xe0"]:
        try:
            policy.act(bad)
            raise AssertionError("a bad frame was answered")
        except ValueError as error:
            assert "expected" in str(error), error
    same(policy.act(frames[0]), want[0], ["action", "logits"])

process, address = listen("127.0.0.1:0")
host, port = address.split(":")
for client in range(3):
    policy = connect(host, int(port))
    play(policy)
    policy.reader.close()
end(process)

process, _ = listen("unix:act.sock")
assert os.stat("act.sock").st_mode & 0o777 == 0o600
taken = subprocess.run(["lapo", "act", *weights, "--listen", "unix:act.sock"], capture_output=True)
assert taken.returncode == 64 and b"another process listens on it" in taken.stderr, taken
for client in range(2):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect("act.sock")
    file = sock.makefile("rwb")
    if client == 0:
        file.write(b"\x09\0\0\0abc")  # goes away inside a frame
        file.flush()
    else:
        play(Policy(file, file))
    file.close()
    sock.close()
end(process)
assert not os.path.exists("act.sock")

# The file of a killed process is replaced.
process, _ = listen("unix:act.sock")
process.kill()
process.wait()
assert os.path.exists("act.sock")
process, _ = listen("unix:act.sock")
end(process)

policy = start(*weights)
times = []
for frame in frames:
    begin = time.perf_counter()
    policy.act(frame)
    times.append(time.perf_counter() - begin)
print(f"{1e3 * sorted(times)[len(times) // 2]:.2f} ms per action")
"#;

#[test]
fn the_guides_client_gets_the_actions_of_the_library() {
    let project = project();
    let actions = project.query("SELECT video, frame_index, action FROM actions");
    let as_unit_vector = |row: &Value| {
        let angle = row["action"].as_f64().unwrap();
        let video = row["video"].as_str().unwrap();
        format!("{video},{},{},{}\n", row["frame_index"], angle.cos(), angle.sin())
    };
    let rows: String = actions.as_array().unwrap().iter().map(as_unit_vector).collect();
    fs::write(
        project.path("actions.csv"),
        "video,frame_index,action_0,action_1\n".to_owned() + &rows,
    )
    .unwrap();
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap() + CONTINUOUS;
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    project.run(&[]).success();
    let [policy, decoder, pointer, spread] =
        ["policy", "decoder", "pointer", "spread"].map(|stage| weights(&project, stage));
    fs::write(project.path("pointer.safetensors"), &pointer).unwrap();
    fs::write(project.path("spread.safetensors"), &spread).unwrap();
    let (_, shard) = shards(&project).remove(0);
    let frames: Vec<u8> =
        (0..shard.rows().min(60)).flat_map(|row| shard.pixels(row).to_vec()).collect();
    fs::write(project.path("frames.bin"), &frames).unwrap();
    for (name, decoder, temperature) in [
        ("best", &decoder, 0.0),
        ("drawn", &decoder, 2.0),
        ("pointed", &pointer, 0.0),
        ("spread", &spread, 0.5),
    ] {
        let answers = expected(&policy, decoder, &frames, temperature);
        fs::write(project.path(&format!("{name}.json")), json!(answers).to_string()).unwrap();
    }
    let script = client("act.md", 1) + DRIVE;
    if let Some(printed) = passes(&script, [project.folder.path()]) {
        println!("{printed}");
    }
}

/// Plays a maze of the real package through `lapo act`, and keeps what it saw and did.
const PLAY: &str = r#"
import numpy as np
from procgen import ProcgenGym3Env
policy = start("--policy", "policy.safetensors", "--decoder", "decoder.safetensors",
               "--device", "cpu", "--size", "64x64")
env = ProcgenGym3Env(num=1, env_name="maze", distribution_mode="easy", start_level=3, rand_seed=5)
frames, actions = [], []
for step in range(150):
    frame = env.observe()[1]["rgb"][0]
    actions.append(policy.act(frame)["action"])
    frames.append(frame)
    env.act(np.array(actions[-1:], dtype=np.int32))
np.array(frames).tofile("frames.bin")
json.dump(actions, open("actions.json", "w"))
"#;

#[test]
fn a_python_loop_plays_procgen_as_the_library_does() {
    let Some(venv) = crate::procgen::venv() else { return };
    let project = project();
    let output = Command::new(venv.join("bin/python"))
        .args(["-c", &(client("act.md", 1) + PLAY)])
        .arg(project.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let played = fs::read(project.path("frames.bin")).unwrap();
    let mut frames = Vec::new();
    let size = lapo::stages::Size { width: 64, height: 64 };
    let scaler = lapo::stages::FrameScaler::new(size, 16, lapo::video::Fit::Stretch);
    played.chunks_exact(64 * 64 * 3).for_each(|frame| scaler.scale(frame, &mut frames));
    let [policy, decoder] = ["policy", "decoder"].map(|stage| weights(&project, stage));
    let best = expected(&policy, &decoder, &frames, 0.0);
    let best: Vec<&Value> = best.iter().map(|answer| &answer["action"]).collect();
    let actions: Vec<Value> =
        serde_json::from_slice(&fs::read(project.path("actions.json")).unwrap()).unwrap();
    assert_eq!(best.len(), 150);
    assert_eq!(actions.iter().collect::<Vec<_>>(), best);
}

/// Compares the frame of every label with the library's frames, and with the shard's own columns.
const FRAMES: &str = r#"
import numpy as np, polars as pl
for digest, path in paths.items():
    want = np.fromfile(f"{digest}.bin", np.uint8).reshape(-1, 16, 16, 3)
    assert len(want) == len(pixels[digest])
    table = pa.ipc.open_file(path).read_all()
    own = pl.scan_delta("runs/quickstart/labels").filter(pl.col("shard") == digest).collect()
    assert own.height > 10
    before = pa.total_allocated_bytes()
    for label in own.to_dicts():
        frame, row = frame_of(label), label["row"]
        assert frame.shape == (16, 16, 3) and (frame == want[row]).all()
        assert not frame.flags.owndata
        assert table["video"][row].as_py() == label["video"]
        assert table["frame_index"][row].as_py() == label["frame_index"]
    assert pa.total_allocated_bytes() - before < 16 * 16 * 3, "pixels were copied"
"#;

#[test]
fn the_guides_recipe_reads_the_frames_of_labels_in_place() {
    let project = Project::new(9);
    let yaml = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    fs::write(
        project.path("pipeline.yaml"),
        yaml.replace("workspace: ws", "workspace: runs/quickstart"),
    )
    .unwrap();
    project.run(&[]).success();
    std::os::unix::fs::symlink("runs/quickstart", project.path("ws")).unwrap();
    let shards = shards(&project);
    assert!(shards.len() > 1);
    for (file, shard) in shards {
        let pixels: Vec<u8> =
            (0..shard.rows()).flat_map(|row| shard.pixels(row).to_vec()).collect();
        fs::write(project.path(&format!("{}.bin", file.blake3)), pixels).unwrap();
    }
    passes(&(client("querying.md", 2) + FRAMES), [project.folder.path()]);
}

/// Runs `lapo act` on bytes of stdin.
fn act(project: &Project, args: &[&str], input: &[u8]) -> CommandOutput {
    let all = [&["act", "--device", "cpu"], args].concat();
    let mut child = project.command(&all).stdin(Stdio::piped()).spawn().unwrap();
    // A command that refuses its arguments reads nothing.
    _ = child.stdin.take().unwrap().write_all(input);
    wait(child)
}

fn request(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_le_bytes()[..], frame].concat()
}

/// Writes weights whose head gives NaN.
fn damage(policy: &[u8], to: PathBuf) {
    let mut weights = Weights::parse(policy).unwrap();
    let length = weights.policy_config().unwrap().latent_dim;
    weights.put("policy.policy_head.bias", &[length], &vec![f32::NAN; length]);
    fs::write(to, weights.to_bytes()).unwrap();
}

#[test]
fn bad_frames_are_answered_with_errors() {
    let project = project();
    let weights = ["--policy", "policy.safetensors", "--decoder", "decoder.safetensors"];
    let frame = vec![100; 16 * 16 * 3];
    let requests = [
        request(&frame[1..]),
        request(b""),
        request(b"\xff\xd8\xff\xe0"),
        request(b"\x89PNG\r\n\x1a\nbroken"),
        request(&frame),
    ]
    .concat();
    let output = act(&project, &weights, &requests).success();
    let lines: Vec<Value> =
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6, "{output:#?}");
    assert_eq!(lines[2], json!({ "reset": true }));
    for (line, problem) in [
        (1, "the frame has 767 bytes, expected 768 (16 x 16 x 3, raw RGB) or a PNG"),
        (3, "the frame is a JPEG, expected raw RGB or a PNG"),
        (4, "the PNG cannot be decoded: "),
    ] {
        assert!(lines[line]["error"].as_str().unwrap().starts_with(problem), "{output:#?}");
    }
    assert!(lines[5]["action"].is_u64() && lines[5]["latent_action"].is_null(), "{output:#?}");

    for (input, problem) in [
        (&request(&frame)[..100], "the input ended inside a frame: got 96 of 768 bytes"),
        (&[255; 8][..], "a frame has 4294967295 bytes, expected at most 268435456"),
    ] {
        let output = act(&project, &weights, input);
        let error = format!("error: cannot read stdin: {problem}\n");
        assert_eq!((output.code, &output.stderr), (1, &error), "{output:#?}");
        assert!(output.stdout.contains(problem), "{output:#?}");
    }
}

#[test]
fn bad_weights_and_flags_are_refused() {
    let project = project();
    let weights = ["--policy", "policy.safetensors", "--decoder", "decoder.safetensors"];
    let small = PolicyConfig { scale: 1, latent_dim: 6, frame_size: 16, channels: 3, frames: 1 };
    let small = policy_trainer(&Device::Cpu, &small, &OptimConfig::default(), 0).unwrap();
    fs::write(project.path("small.safetensors"), small.export(&Default::default()).unwrap())
        .unwrap();
    damage(&self::weights(&project, "policy"), project.path("nan.safetensors"));
    fs::write(project.path("text.safetensors"), "no weights").unwrap();
    let with = |policy: &'static str, decoder: &'static str| {
        vec!["--policy", policy, "--decoder", decoder]
    };
    let good = || weights.to_vec();
    let and = |more: &[&'static str]| [good(), more.to_vec()].concat();
    for (args, code, problem) in [
        (with("small.safetensors", "decoder.safetensors"), 1, "but the policy predicts 6 values"),
        (with("nan.safetensors", "decoder.safetensors"), 1, "the weights are damaged: the network"),
        (with("text.safetensors", "decoder.safetensors"), 1, "cannot read text.safetensors: "),
        (with("none.safetensors", "decoder.safetensors"), 1, "cannot read none.safetensors: "),
        (with("decoder.safetensors", "decoder.safetensors"), 1, "found `lapo-decoder/1`"),
        (vec!["--agent", "policy.safetensors"], 1, "found `lapo-policy/1`"),
        (vec!["--policy", "policy.safetensors"], 64, "--decoder"),
        (vec![], 64, "--policy"),
        (and(&["--temperature=-1"]), 64, "--temperature"),
        (and(&["--temperature", "nan"]), 64, "--temperature is NaN"),
        (and(&["--size", "16"]), 64, "--size 16: expected WIDTHxHEIGHT"),
        (and(&["--listen", "0.0.0.0:0"]), 64, "0.0.0.0 is not a loopback address"),
        (and(&["--listen", "unix:text.safetensors"]), 64, "the path exists and is no socket"),
        (and(&["--listen", "unix:no/folder"]), 1, "cannot read no/folder: "),
    ] {
        let output = act(&project, &args, b"");
        assert_eq!(output.code, code, "{args:?}: {output:#?}");
        assert!(output.stderr.contains(problem) && output.stdout.is_empty(), "{output:#?}");
    }
    assert_eq!(fs::read(project.path("text.safetensors")).unwrap(), b"no weights");
}
