//! LeRobot datasets as a source of videos and true actions: against ffmpeg's own frames, against the
//! dataset's tables, and against LeRobot itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lapo::dataset::{Manifest, Store};

use crate::project::{CommandOutput, Project};
use crate::python::passes;
use crate::s3_server::server;

const WRITE: &str = include_str!("lerobot_dataset.py");

const PIPELINE: &str = "
name: robot
workspace: ws
holdout: 3
stages:
  frames: { decode: { lerobot: robot, size: 64, videos_per_shard: 4 } }
  actions:
    import_actions: { frames: frames, lerobot: robot, state: observation.state }
";

/// Compares frames with those of ffmpeg, and actions with the dataset's tables.
const CHECK: &str = r#"
import sys, json, glob, numpy as np, pyarrow as pa, pyarrow.parquet as pq
root, shards, actions = sys.argv[1], *map(json.loads, sys.argv[2:])
info = json.load(open(root + "/meta/info.json"))
data = pa.concat_tables(pq.read_table(p) for p in sorted(glob.glob(root + "/data/*/*.parquet")))
data = data.to_pylist()
length = {}
for row in data:
    length[row["episode_index"]] = length.get(row["episode_index"], 0) + 1
joined = info["codebase_version"] == "v3.0"
seen = set()
for path in shards:
    table = pa.ipc.open_file(path).read_all()
    pixels = table["pixels"].combine_chunks()
    pixels = pixels if hasattr(pixels, "to_numpy_ndarray") else pixels.chunk(0)
    pixels, video = pixels.to_numpy_ndarray(), np.array(table["video"].to_pylist())
    for name in dict.fromkeys(video):
        rows = np.nonzero(video == name)[0]
        camera, episode = name.split("/")[1:]
        episode = int(episode.removeprefix("episode_"))
        n, first = length[episode], 0
        file = f"{root}/videos/chunk-000/{camera}/episode_{episode:06d}.rgb"
        if joined:
            file = f"{root}/videos/{camera}/chunk-000/file-{episode // 3:03d}.rgb"
            first = sum(length[e] for e in range(episode // 3 * 3, episode))
        own = np.fromfile(file, np.uint8).reshape(-1, 64, 64, 3)[first:first + n]
        assert (pixels[rows] == own).all(), (name, np.abs(pixels[rows].astype(int) - own).max())
        part = table.take(pa.array(rows))
        assert part["frame_index"].to_pylist() == list(range(n)), name
        assert np.allclose(part["time_s"].to_pylist(), np.arange(n) / info["fps"]), name
        assert set(part["episode"].to_pylist()) == {0}
        seen.add((camera, episode))
cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
assert seen == {(camera, episode) for camera in cameras for episode in length}
rows = {}
for path in actions:
    for row in pq.read_table(path).to_pylist():
        rows[row["video"], row["frame_index"]] = row
assert len(rows) == len(cameras) * len(data)
for row in data:
    for camera in cameras:
        name = f"robot/{camera}/episode_{row['episode_index']:06d}"
        found = rows[name, row["frame_index"]]
        assert found["action"] == row["action"] and found["reward"] == row["next.reward"]
        assert found["state"] == row["observation.state"]
"#;

/// A project with the dataset `robot`, or `None` if ffmpeg or Python is missing.
fn project(version: &str, episodes: usize, fault: &str) -> Option<Project> {
    let project = Project { folder: tempfile::tempdir().unwrap() };
    fs::write(project.path("pipeline.yaml"), PIPELINE).unwrap();
    write(&project, version, episodes, fault).then_some(project)
}

/// Writes the dataset `robot` anew.
fn write(project: &Project, version: &str, episodes: usize, fault: &str) -> bool {
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        println!("skipped: no ffmpeg command line");
        return false;
    }
    let root = project.path("robot");
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    let episodes = episodes.to_string();
    let mut arguments = vec![root.to_str().unwrap(), version, &episodes];
    arguments.extend((!fault.is_empty()).then_some(fault));
    passes(WRITE, arguments).is_some()
}

/// Returns the paths of a stage's files with this end.
fn paths(project: &Project, stage: &str, end: &str) -> Vec<PathBuf> {
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    let files = Manifest::newest(&store, stage).unwrap().unwrap().files(&store).unwrap();
    let files = files.into_iter().filter(|file| file.path.ends_with(end));
    files.map(|file| project.path("ws").join(file.path)).collect()
}

fn check(project: &Project) {
    let json = |stage, end| {
        let paths = paths(project, stage, end);
        serde_json::to_string(&paths).unwrap()
    };
    let root = project.path("robot").display().to_string();
    passes(CHECK, [root, json("frames", ".arrow"), json("actions", ".parquet")]);
}

/// Returns the class of each rejected video, and its reason.
fn rejects(project: &Project) -> BTreeMap<String, (String, String)> {
    let query = "SELECT video, class, reason FROM rejects";
    let printed = project.lapo(&["query", query, "--workspace", "ws", "--format", "json"]);
    let rows: Vec<BTreeMap<String, String>> =
        serde_json::from_str(&printed.success().stdout).unwrap();
    let row = |row: BTreeMap<String, String>| {
        (row["video"].clone(), (row["class"].clone(), row["reason"].clone()))
    };
    rows.into_iter().map(row).collect()
}

#[test]
fn episodes_of_both_versions_equal_their_frames_actions_and_states() {
    for (version, kind) in [("v3.0", ""), ("v3.0", "one_stream"), ("v2.1", "")] {
        let Some(project) = project(version, 5, kind) else { return };
        let output = project.run(&[]).success();
        assert!(output.stdout.contains("0 rejects"), "{output:#?}");
        check(&project);
        let query = "SELECT count(*) AS n FROM videos WHERE task = 'pull' AND camera LIKE '%.top'";
        let found = project.lapo(&["query", query, "--workspace", "ws", "--format", "json"]);
        assert_eq!(found.success().stdout.trim(), r#"[{"n":2}]"#);
        project.run_changes_nothing(&[]);
        project.lapo(&["verify", "--workspace", "ws"]).success();
    }
}

#[test]
fn more_episodes_in_a_rewritten_file_are_the_only_new_work() {
    for version in ["v3.0", "v2.1"] {
        let Some(project) = project(version, 5, "") else { return };
        project.run(&[]).success();
        let before = paths(&project, "frames", ".arrow");
        // Version 3.0 writes the file of episodes 3 and 4 again, with episode 5.
        assert!(write(&project, version, 8, ""));
        let output = project.run(&[]).success();
        assert!(output.stdout.contains("(6 new)"), "{output:#?}");
        let now = paths(&project, "frames", ".arrow");
        assert!(before.iter().all(|path| now.contains(path)), "{before:?} {now:?}");
        check(&project);
    }
}

#[test]
fn one_camera_may_be_named_by_its_last_part() {
    let Some(project) = project("v3.0", 2, "") else { return };
    let one = PIPELINE.replace("lerobot: robot, size", "lerobot: robot, cameras: [top], size");
    fs::write(project.path("pipeline.yaml"), &one).unwrap();
    project.run(&[]).success();
    let printed = project.lapo(&["query", "SELECT video FROM videos", "--workspace", "ws"]);
    let printed = printed.success().stdout;
    assert!(printed.contains(".top/") && !printed.contains(".wrist/"), "{printed}");
    let other = one.replace("[top]", "[side]");
    fs::write(project.path("pipeline.yaml"), other).unwrap();
    let output = project.run(&[]);
    assert_eq!(output.code, 1, "{output:#?}");
    for part in ["no camera is called `side`", "observation.images.wrist"] {
        assert!(output.stderr.contains(part), "{output:#?}");
    }
}

#[test]
fn a_dataset_that_contradicts_itself_is_an_error_with_file_and_cure() {
    let cases = [
        ("gap", "v3.0", ["meta/episodes", "episode 2 follows where 1 is expected", "copy"]),
        ("gap", "v2.1", ["meta/episodes.jsonl", "episode 2 follows where 1 is expected", "copy"]),
        ("no_fps", "v3.0", ["meta/info.json", "`fps` is 0", "rate of the videos"]),
        ("version", "v2.1", ["meta/info.json", "`codebase_version` is v2.0", "convert"]),
        ("lance", "v3.0", ["meta/info.json", "`storage_format` is \"lance\"", "conversion"]),
        ("outside", "v3.0", ["meta/info.json", "`video_path` is `../", "as `lerobot` does"]),
        ("undeclared", "v3.0", ["data/chunk-000/", "has a column `effort`", "remove the column"]),
        ("nan_action", "v2.1", ["data/chunk-000/", "frame 3 of episode 1", "`partial: true`"]),
        ("missing_row", "v3.0", ["data/chunk-000/", "frame 5 of episode 1 follows", "copy"]),
        ("none", "v3.0", ["`robot`: it is not a LeRobot dataset", "meta/info.json", "name"]),
    ];
    for (fault, version, parts) in cases {
        let Some(project) = project(version, 3, fault) else { return };
        if fault == "none" {
            fs::remove_dir_all(project.path("robot")).unwrap();
        }
        let output = project.run(&[]);
        assert_ne!(output.code, 0, "{fault}: {output:#?}");
        for part in parts {
            assert!(output.stderr.contains(part), "{fault}: {part}: {output:#?}");
        }
        assert!(!project.path("ws/actions/manifests").exists(), "{fault}");
    }
}

#[test]
fn actions_that_are_not_finite_may_be_left_out() {
    let Some(project) = project("v3.0", 4, "nan_action") else { return };
    let partial = PIPELINE.replace("lerobot: robot, state", "lerobot: robot, partial: true, state");
    fs::write(project.path("pipeline.yaml"), partial).unwrap();
    project.run(&[]).success();
    let query = "SELECT count(*) AS n FROM actions WHERE video LIKE '%.top/episode_000001'";
    let found = project.lapo(&["query", query, "--workspace", "ws", "--format", "json"]);
    // 14 frames, one of them without a finite action.
    assert_eq!(found.success().stdout.trim(), r#"[{"n":13}]"#);
}

#[test]
fn an_episode_that_is_not_where_the_dataset_says_is_a_reject_and_the_rest_is_decoded() {
    let top = |episodes: &[usize]| -> Vec<String> {
        let name = |n: &usize| format!("robot/observation.images.top/episode_{n:06}");
        episodes.iter().map(name).collect()
    };
    let both = |episodes: &[usize]| {
        let names = top(episodes);
        let other = names.iter().map(|name| name.replace(".top", ".wrist"));
        names.iter().cloned().chain(other).collect::<Vec<_>>()
    };
    let cases = [
        ("missing_video", "v3.0", "missing_video", "does not exist; copy", top(&[0, 1, 2])),
        ("missing_video", "v2.1", "missing_video", "does not exist; copy", top(&[0])),
        ("cut_video", "v3.0", "unreadable", "", top(&[0, 1, 2])),
        ("drift", "v3.0", "bad_episode", "0.7 frames off; set `from_timestamp`", both(&[1])),
        ("wrong_fps", "v2.1", "bad_episode", "20.000 frames per second", both(&[1])),
    ];
    for (fault, version, class, reason, expected) in cases {
        let Some(project) = project(version, 4, fault) else { return };
        project.run(&[]).success();
        let rejects = rejects(&project);
        let mut names: Vec<&String> = rejects.keys().collect();
        let mut expected: Vec<&String> = expected.iter().collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "{fault} {version}: {rejects:#?}");
        for (found, why) in rejects.values() {
            assert!(found == class && why.contains(reason), "{fault}: {found}: {why}");
        }
        let query = "SELECT sum(frames) AS n FROM videos WHERE frames > 0";
        project.lapo(&["query", query, "--workspace", "ws"]).success();
    }
}

/// Returns the files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path) } else { vec![path] }
    };
    fs::read_dir(folder).unwrap().flat_map(of).collect()
}

#[test]
fn a_dataset_in_a_bucket_gives_the_frames_and_actions_of_one_in_a_folder() {
    let Some(server) = server() else { return };
    for version in ["v3.0", "v2.1"] {
        let Some(project) = project(version, 4, "") else { return };
        let copies = project.path("our copies");
        let bucket = Store::open_with("s3://lapo/lerobot", &server.access(&copies)).unwrap();
        for file in files_below(&project.path("robot")) {
            let name = file.strip_prefix(project.path("robot")).unwrap().to_str().unwrap();
            bucket.create(&format!("{version}/{name}"), &fs::read(&file).unwrap()).unwrap();
        }
        project.run(&[]).success();
        let rows = |stage: &str, columns: &str| {
            let query = format!("SELECT {columns} FROM {stage} ORDER BY video, frame_index");
            let args = ["query", &query, "--workspace", "ws", "--format", "json"];
            let name = format!("s3://lapo/lerobot/{version}/");
            project.lapo(&args).success().stdout.replace(&name, "robot/")
        };
        let both = || {
            (
                rows("frames", "video, frame_index, time_s, episode"),
                rows("actions", "video, frame_index, action, reward, state"),
            )
        };
        let local = both();
        fs::remove_dir_all(project.path("ws")).unwrap();
        let remote = PIPELINE.replace("robot,", &format!("'s3://lapo/lerobot/{version}',"));
        assert_eq!(remote.matches("s3://").count(), 2);
        fs::write(project.path("pipeline.yaml"), remote).unwrap();
        server.lapo(&project, &["run", "pipeline.yaml"]).success();
        assert!(both() == local, "{version}");
        let again = server.lapo(&project, &["run", "pipeline.yaml"]).success();
        assert!(again.stdout.starts_with("0 tasks"), "{again:#?}");
    }
}

/// Adds training, labels of one camera and the extended dataset.
const EXTENDED: &str = "
  model: { train_dynamics: { frames: frames, steps: 4, batch: 4 } }
  labels: { label: { frames: frames, dynamics: model } }
  labelled: { export: { format: lerobot, frames: frames, labels: labels, extend: robot, camera: top } }
";

/// Checks that a dataset is another one with its labels as further columns.
const CHECK_EXTENDED: &str = r#"
import sys, os, json, glob, subprocess, numpy as np, pyarrow.parquet as pq
old, new, labels, camera = *sys.argv[1:3], json.loads(sys.argv[3]), sys.argv[4]
names = ["latent_action", "latent_code", "fdm_error", "latent_action_valid"]
label = {}
for path in labels:
    for row in pq.read_table(path).to_pylist():
        if f"/{camera}/" in row["video"]:
            label[row["video"].rsplit("/", 1)[1], row["frame_index"]] = row
valid = 0
for path in sorted(glob.glob(old + "/data/*/*.parquet")):
    before, now = pq.read_table(path), pq.ParquetFile(path.replace(old, new))
    assert now.num_row_groups == len(set(before["episode_index"].to_pylist()))
    now = now.read()
    assert now.column_names == before.column_names + names
    assert now.select(before.column_names).equals(before)
    for row in now.to_pylist():
        want = label.get((f"episode_{row['episode_index']:06d}", row["frame_index"]))
        assert row["latent_action_valid"] == (want is not None)
        valid += want is not None
        for name in names[:3]:
            assert row[name] == want[name] if want else not np.any(row[name]), name
assert valid == len(label) > 0
for path in sorted(glob.glob(old + "/meta/episodes/*/*.parquet")):
    before, now = pq.read_table(path), pq.read_table(path.replace(old, new))
    assert now.select(before.column_names).equals(before)
    assert all(f"stats/{name}/mean" in now.column_names for name in names)
films = glob.glob(old + "/videos/**/*.mp4", recursive=True) + [old + "/meta/tasks.parquet"]
for path in films:
    assert open(path, "rb").read() == open(path.replace(old, new), "rb").read(), path
before, now = (json.load(open(root + "/meta/info.json")) for root in (old, new))
for name in names:
    assert now["features"].pop(name)["shape"]
assert before == now
before, now = (json.load(open(root + "/meta/stats.json")) for root in (old, new))
assert {name: now[name] for name in before} == before and set(now) == set(before) | set(names)
doctor = subprocess.run([os.path.dirname(sys.executable) + "/lerobot-doctor", "check", new,
                         "--ci", "--fail-on", "fail"], capture_output=True, text=True)
assert doctor.returncode == 0, doctor.stdout + doctor.stderr
"#;

/// Returns the root of an exported dataset.
fn root(project: &Project, stage: &str) -> PathBuf {
    let info = paths(project, stage, "/meta/info.json").remove(0);
    info.parent().unwrap().parent().unwrap().to_owned()
}

#[test]
fn an_extended_dataset_is_the_same_with_labels_as_further_columns() {
    let Some(project) = project("v3.0", 8, "") else { return };
    fs::write(project.path("pipeline.yaml"), format!("{PIPELINE}{EXTENDED}")).unwrap();
    let check = || {
        let labels = serde_json::to_string(&paths(&project, "labels", ".parquet")).unwrap();
        let old = project.path("robot").display().to_string();
        let new = root(&project, "labelled").display().to_string();
        passes(CHECK_EXTENDED, [old, new, labels, "observation.images.top".into()]);
    };
    project.run(&[]).success();
    check();
    project.run_changes_nothing(&[]);
    // Three more episodes: the model stays, and the dataset is written again with them.
    let model = paths(&project, "model", ".safetensors");
    assert!(write(&project, "v3.0", 11, ""));
    project.run(&[]).success();
    assert_eq!(paths(&project, "model", ".safetensors"), model);
    check();
}

#[test]
fn a_dataset_that_cannot_be_extended_is_an_error() {
    let several = ["the frames show several cameras: observation.images.top", "set `camera`"];
    let cases: [(&str, &str, &str, [&str; 2]); 4] = [
        ("v3.0", ", camera: top", "", several),
        ("v3.0", "camera: top", "camera: side", ["no camera is called `side`", "its cameras are"]),
        ("v2.1", "", "", ["of version 2.1", "convert"]),
        ("v3.0", "extend: robot, camera: top", "camera: top", ["not `extend`", "set `extend`"]),
    ];
    for (version, from, to, parts) in cases {
        let Some(project) = project(version, 4, "") else { return };
        let extended = EXTENDED.replace(from, to);
        fs::write(project.path("pipeline.yaml"), format!("{PIPELINE}{extended}")).unwrap();
        let output = project.run(&[]);
        assert_ne!(output.code, 0, "{output:#?}");
        for part in parts {
            assert!(output.stderr.contains(part), "{part}: {output:#?}");
        }
        assert!(!project.path("ws/labelled/manifests").exists());
    }
}

/// Writes some recorded games as a dataset with two cameras, by LeRobot itself, or returns false
/// without it.
fn record(project: &Project, games: std::ops::Range<usize>) -> bool {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze");
    let games = games.map(|game| data.join(format!("maze_1_{game:03}.mp4")));
    let mut arguments = vec![project.path("robot"), data.join("actions.parquet")];
    arguments.extend(games);
    lerobot("write_lerobot.py", &arguments).is_some()
}

#[test]
fn lerobot_s_own_dataset_comes_back_with_labels_and_grows() {
    let project = Project { folder: tempfile::tempdir().unwrap() };
    if !record(&project, 0..52) {
        return;
    }
    let extended = EXTENDED.replace("camera: top", "camera: front");
    // At the cameras' own size, and at half of it.
    let text = format!("{PIPELINE}{extended}").replace("size: 64", "size: 128");
    let small = "  small: { decode: { lerobot: robot, size: 64 } }\n";
    fs::write(project.path("pipeline.yaml"), text + small).unwrap();
    let check = || {
        for stage in ["frames", "small"] {
            let shards = paths(&project, stage, ".arrow");
            let arguments = [vec![project.path("robot")], shards].concat();
            println!("{}", lerobot("lerobot_frames.py", &arguments).unwrap().stdout);
        }
        let labels = paths(&project, "labels", ".parquet");
        let camera = ["--camera", "observation.images.front"].map(PathBuf::from).to_vec();
        let arguments = [vec![root(&project, "labelled")], labels, camera].concat();
        println!("{}", lerobot("load_lerobot.py", &arguments).unwrap().stdout);
    };
    project.run(&[]).success();
    check();
    let model = paths(&project, "model", ".safetensors");
    assert!(record(&project, 52..55));
    let output = project.run(&[]).success();
    println!("{}", output.stdout);
    assert_eq!(paths(&project, "model", ".safetensors"), model);
    check();
}

/// Runs a script with the Python of LeRobot, or returns `None` without one.
fn lerobot(script: &str, arguments: &[PathBuf]) -> Option<CommandOutput> {
    let Ok(python) = std::env::var("LAPO_LEROBOT") else {
        println!("skipped: LAPO_LEROBOT names no Python with `lerobot`");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench").join(script);
    let output = Command::new(python)
        .arg(script)
        .args(arguments)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("LAPO_LEROBOT runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = CommandOutput {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    Some(output.success())
}
