//! Exported LeRobot datasets: read by pyarrow, ffmpeg, `lerobot-doctor` and LeRobot itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lapo::dataset::{FileInfo, Manifest, Store};

use crate::project::{PIPELINE, Project, clip};
use crate::python::passes;

/// Compares every table with the labels and shards, row by row, and every video with the pixels.
const CHECK: &str = r#"
import sys, json, glob, os, subprocess, numpy as np, pyarrow as pa, pyarrow.parquet as pq
root, zoom, shards, labels, actions = sys.argv[1], int(sys.argv[2]), *map(json.loads, sys.argv[3:])
info = json.load(open(root + "/meta/info.json"))
fps, features = info["fps"], info["features"]
camera = "observation.images.main"
data = pa.concat_tables(pq.read_table(p) for p in sorted(glob.glob(root + "/data/*/*.parquet")))
assert set(data.column_names) == set(features) - {camera}, data.column_names
n = info["total_frames"]
assert data.num_rows == n and data["index"].to_pylist() == list(range(n)) and fps == 15
hub = json.loads(data.schema.metadata[b"huggingface"])["info"]["features"]
assert set(hub) == set(data.column_names)
for name, feature in features.items():
    if name != camera:
        kind, width = data.schema.field(name).type, feature["shape"][0]
        assert (kind.list_size if pa.types.is_fixed_size_list(kind) else 1) == width, (name, kind)
tasks = pq.read_table(root + "/meta/tasks.parquet")
assert tasks.to_pydict() == {"task_index": [0], "task": ["test"]}
assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]

# Frames of the shards, in order, with their labels.
frame, pixels = [], []
for path in shards:
    table = pa.ipc.open_file(path).read_all()
    tensor = table["pixels"].combine_chunks()
    tensor = tensor if hasattr(tensor, "to_numpy_ndarray") else tensor.chunk(0)
    pixels.append(tensor.to_numpy_ndarray())
    frame += zip(table["video"].to_pylist(), table["frame_index"].to_pylist())
assert len(frame) == n and len({video for video, _ in frame}) == info["total_episodes"]
label = {}
for path in labels:
    for row in pq.read_table(path).to_pylist():
        label[row["video"], row["frame_index"]] = row
known = {}
for path in actions:
    for row in pq.read_table(path).to_pylist():
        known[row["video"], row["frame_index"]] = row
rows = data.to_pylist()
for at, row in zip(frame, rows):
    want = label.get(at)
    assert row["latent_action_valid"] == (want is not None), at
    if want is None:
        assert not any(row["latent_action"]) and not any(row["latent_code"])
        assert row["fdm_error"] == 0
    else:
        for name in ("latent_action", "latent_code", "fdm_error"):
            assert row[name] == want[name], (at, name)
    assert row["timestamp"] == np.float32(row["frame_index"] / fps) and row["task_index"] == 0
    if known:
        # An episode's last frame may repeat the action before it.
        want = known.get(at) or known[at[0], at[1] - 1]
        assert row["action"] == want["action"], at
assert sum(row["latent_action_valid"] for row in rows) == len(label) > 0

# Episodes: whole, in order, at their places.
episodes = pq.read_table(sorted(glob.glob(root + "/meta/episodes/*/*.parquet"))).to_pylist()
assert [e["episode_index"] for e in episodes] == list(range(info["total_episodes"]))
at, played = 0, {}
for e in episodes:
    assert (e["dataset_from_index"], e["dataset_to_index"]) == (at, at + e["length"])
    assert {frame[i][0] for i in range(at, at + e["length"])} == {frame[at][0]}
    own = rows[at:at + e["length"]]
    assert [r["frame_index"] for r in own] == list(range(e["length"]))
    assert {r["episode_index"] for r in own} == {e["episode_index"]} and e["tasks"] == ["test"]
    place = [e[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")]
    film = root + "/" + info["video_path"].format(
        video_key=camera, chunk_index=place[0], file_index=place[1])
    before = played.setdefault(film, [])
    assert e[f"videos/{camera}/from_timestamp"] == len(before) / fps
    assert e[f"videos/{camera}/to_timestamp"] == (len(before) + e["length"]) / fps
    before += range(at, at + e["length"])
    assert e["stats/latent_action/count"] == [e["length"]]
    values = np.array([r["latent_action"] for r in own])
    assert np.allclose(e["stats/latent_action/mean"], values.mean(0), atol=1e-6)
    assert np.array(e[f"stats/{camera}/mean"]).shape == (3, 1, 1)
    at += e["length"]
group = pq.ParquetFile(glob.glob(root + "/data/*/*.parquet")[0])
assert group.num_row_groups == len(episodes)

# Statistics of the whole dataset, as numpy computes them.
stats = json.load(open(root + "/meta/stats.json"))
assert set(stats) == set(features)
for name in set(features) - {camera}:
    values = np.array([row[name] for row in rows], np.float64).reshape(n, -1)
    for stat, of in [("min", values.min(0)), ("max", values.max(0)), ("mean", values.mean(0)),
                     ("std", values.std(0)), ("q01", np.quantile(values, 0.01, axis=0)),
                     ("q99", np.quantile(values, 0.99, axis=0))]:
        assert np.allclose(stats[name][stat], of, rtol=1e-5, atol=1e-5), (name, stat)
    assert stats[name]["count"] == [n]
assert np.array(stats[camera]["q50"]).shape == (3, 1, 1)
assert 0 <= np.min(stats[camera]["min"]) and np.max(stats[camera]["max"]) <= 1

# Videos: exact times, no frame that depends on a later one, the index first, the shards' pixels.
pixels = np.concatenate(pixels)
assert len(played) > 1 and sum(map(len, played.values())) == n
for film, own in played.items():
    probe = json.loads(subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-show_frames", "-of", "json", film],
        capture_output=True, check=True).stdout)
    [stream], shown = probe["streams"], probe["frames"]
    side = pixels.shape[1] * zoom
    assert [stream[key] for key in ("codec_name", "pix_fmt", "avg_frame_rate", "width")] == [
        "h264", "yuv420p", "15/1", side], stream
    assert features[camera]["shape"] == [side, side, 3] and stream["has_b_frames"] == 0
    num, den = map(int, stream["time_base"].split("/"))
    assert [f["pts"] * num * fps for f in shown] == [i * den for i in range(len(own))]
    kinds = [f["pict_type"] for f in shown]
    assert "B" not in kinds and kinds[0] == "I" and "PPP" not in "".join(kinds)
    head = open(film, "rb").read()
    assert head.index(b"moov") < head.index(b"mdat")
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", film, "-f", "rawvideo", "-pix_fmt",
                          "rgb24", "-"], capture_output=True, check=True).stdout
    decoded = np.frombuffer(raw, np.uint8).reshape(len(own), side, side, 3)[:, ::zoom, ::zoom]
    error = ((decoded.astype(float) - pixels[own]) ** 2).mean()
    psnr = 10 * np.log10(255 ** 2 / error)
    assert psnr >= 30, psnr
    print("PSNR", round(psnr, 1))

doctor = subprocess.run([os.path.dirname(sys.executable) + "/lerobot-doctor", "check", root,
                         "--ci", "--fail-on", "fail"], capture_output=True, text=True)
assert doctor.returncode == 0, doctor.stdout + doctor.stderr
"#;

/// Checks that the rows of the first dataset are the first rows of the second.
const APPENDED: &str = r#"
import sys, glob, pyarrow.parquet as pq
def rows(root, part):
    return pq.read_table(sorted(glob.glob(f"{root}/{part}/*/*.parquet"))).to_pylist()
for part in ("data", "meta/episodes"):
    old, new = rows(sys.argv[1], part), rows(sys.argv[2], part)
    assert len(new) > len(old) and new[:len(old)] == old, part
assert len(new) == len(old) + 3
"#;

/// Creates a project with an `export` stage.
fn project(videos: usize, settings: &str) -> Project {
    let project = Project::new(videos);
    let actions = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze/actions.parquet");
    let more = format!(
        "  actions: {{ import_actions: {{ frames: frames, file: {}, partial: true }} }}
  robot: {{ export: {{ format: lerobot, frames: frames, labels: labels{settings} }} }}
",
        actions.display()
    );
    fs::write(project.path("pipeline.yaml"), format!("{PIPELINE}{more}")).unwrap();
    project
}

/// Returns the files of the newest version of a stage.
fn files(project: &Project, stage: &str) -> Vec<FileInfo> {
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    Manifest::newest(&store, stage).unwrap().unwrap().files(&store).unwrap()
}

/// Returns the paths of a stage's files with this end, as JSON.
fn paths(project: &Project, stage: &str, end: &str) -> String {
    let files = files(project, stage).into_iter().filter(|file| file.path.ends_with(end));
    let paths = files.map(|file| project.path("ws").join(file.path).display().to_string());
    serde_json::Value::from_iter(paths).to_string()
}

/// Returns the root of the exported dataset: the folder above that of `info.json`, which
/// `lapo files` prints.
fn root(project: &Project) -> PathBuf {
    let printed = project.lapo(&["files", "robot", "--workspace", "ws"]).success().stdout;
    let info = printed.lines().find(|path| path.ends_with("/meta/info.json")).unwrap();
    Path::new(info).parent().unwrap().parent().unwrap().to_owned()
}

/// Checks an exported dataset against the stages it was made from.
fn check(project: &Project, zoom: u32, has_actions: bool) {
    let actions = if has_actions { paths(project, "actions", ".parquet") } else { "[]".into() };
    passes(
        CHECK,
        [
            root(project).display().to_string(),
            zoom.to_string(),
            paths(project, "frames", ".arrow"),
            paths(project, "labels", ".parquet"),
            actions,
        ],
    );
}

fn has_ffmpeg() -> bool {
    let found = ["ffmpeg", "ffprobe"].iter().all(|program| {
        Command::new(program).arg("-version").output().is_ok_and(|done| done.status.success())
    });
    if !found {
        println!("skipped: no ffmpeg command line");
    }
    found
}

#[test]
fn an_exported_dataset_equals_frames_labels_and_actions() {
    let project = project(6, ", actions: actions, episodes_per_video: 3, zoom: 2");
    project.run(&["--set", "size=32"]).success();
    if has_ffmpeg() {
        check(&project, 2, true);
    }
    project.lapo(&["verify", "--workspace", "ws"]).success();
    // The exported Parquet files are no tables of the workspace.
    let robot = project.lapo(&["query", "SELECT * FROM robot", "--workspace", "ws"]);
    assert_ne!(robot.code, 0);
    assert!(!project.path("ws/robot/_delta_log").exists());
}

#[test]
fn new_videos_append_episodes_and_nothing_new_exports_nothing() {
    let project = project(8, ", fps: 15");
    project.run(&["--set", "size=32"]).success();
    let before = root(&project);
    project.run_changes_nothing(&["--set", "size=32"]);
    assert_eq!(root(&project), before);
    project.add(8..11);
    project.run(&["--set", "size=32"]).success();
    let now = root(&project);
    assert_ne!(now, before);
    passes(APPENDED, [&before, &now]);
}

#[test]
fn labels_and_actions_of_other_frames_are_an_error() {
    let project = project(4, "");
    let other = "  more: { decode: { videos: ['videos/*'], size: 32 } }
  mixed: { export: { format: lerobot, frames: more, labels: labels, actions: actions } }
";
    let text = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    fs::write(project.path("pipeline.yaml"), text + other).unwrap();
    let output = project.run(&[]);
    assert_eq!(output.code, 1, "{output:#?}");
    for stage in ["labels", "actions"] {
        let fault = format!("`{stage}` belongs to the frames of `frames`, not to `more`");
        assert!(output.stderr.contains(&fault), "{output:#?}");
    }
}

#[test]
fn a_frame_without_a_true_action_is_an_error_with_its_video() {
    let project = project(4, ", actions: few");
    let rows = "video,frame_index,action\nmaze_1_000.mp4,0,1\n";
    fs::write(project.path("few.csv"), rows).unwrap();
    let few = "  few: { import_actions: { frames: frames, file: few.csv, partial: true } }\n";
    let text = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    fs::write(project.path("pipeline.yaml"), text + few).unwrap();
    let output = project.run(&[]);
    assert_ne!(output.code, 0, "{output:#?}");
    for part in ["maze_1_000.mp4: frame 1 has no true action", "or leave out `actions`"] {
        assert!(output.stderr.contains(part), "{output:#?}");
    }
    // Nothing is half written.
    assert!(!project.path("ws/robot/manifests").exists());
    assert!(files_below(&project.path("ws/robot/data")) == 0);
}

/// Returns the number of files below a folder.
fn files_below(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |path: PathBuf| if path.is_dir() { files_below(&path) } else { 1 };
    entries.map(|entry| of(entry.unwrap().path())).sum()
}

#[test]
fn frames_without_a_common_whole_rate_need_fps() {
    let cases = [
        ("F25:2", "its frames are not at a constant whole rate (their mean is 12.500"),
        ("F30:1", "its frames are at 15 frames per second, those before it at 30"),
    ];
    for (rate, reason) in cases {
        let project = project(4, "");
        let path = project.path("videos/a_clip.y4m");
        clip(&path, 20);
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()[..50]).into_owned();
        assert!(text.contains("F15:1"));
        let mut bytes = fs::read(&path).unwrap();
        let at = text.find("F15:1").unwrap();
        bytes[at..at + 5].copy_from_slice(rate.as_bytes());
        fs::write(&path, bytes).unwrap();
        let output = project.run(&[]);
        assert_ne!(output.code, 0, "{output:#?}");
        assert!(output.stderr.contains(reason), "{output:#?}");
        assert!(output.stderr.contains("set `fps` of this stage"), "{output:#?}");
        let text = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
        let with_fps = text.replace("format: lerobot", "format: lerobot, fps: 15");
        fs::write(project.path("pipeline.yaml"), with_fps).unwrap();
        project.run(&[]).success();
    }
}

#[test]
fn lerobot_reads_every_sample_and_trains_on_latent_actions() {
    let Ok(python) = std::env::var("LAPO_LEROBOT") else {
        return println!("skipped: LAPO_LEROBOT names no Python with `lerobot`");
    };
    let project = project(55, ", actions: actions, episodes_per_video: 20");
    project.run(&["--set", "size=32"]).success();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/load_lerobot.py");
    let labels: Vec<String> = serde_json::from_str(&paths(&project, "labels", ".parquet")).unwrap();
    let output = Command::new(python)
        .arg(script)
        .arg(root(&project))
        .args(labels)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("LAPO_LEROBOT runs");
    assert!(output.status.success(), "{output:?}");
    println!("{}", String::from_utf8_lossy(&output.stdout));
}
