//! Exported WebDatasets: read by Python's `tarfile`, numpy and `webdataset`, and decoded again.

use std::fs;
use std::path::Path;

use lapo::dataset::{FileInfo, Manifest, Store};

use crate::project::{PIPELINE, Project};
use crate::python::passes;

/// Compares every sample with the shards, labels and actions.
const READ: &str = r#"
import sys, json, io, tarfile, numpy as np, pyarrow as pa, pyarrow.parquet as pq, webdataset
archives, shards, labels, actions, frame_format = *map(json.loads, sys.argv[1:5]), sys.argv[5]
for path in archives:
    with tarfile.open(path) as archive:
        for member in archive:
            assert member.isreg() and (member.mtime, member.uid, member.gid) == (0, 0, 0)
            assert member.mode == 0o644 and len(member.name) < 100

def by_frame(tables):
    return {(r["video"], r["frame_index"]): r for p in tables for r in pq.read_table(p).to_pylist()}
label, known = by_frame(labels), by_frame(actions)
frame, pixels = [], []
for path in shards:
    table = pa.ipc.open_file(path).read_all()
    tensor = table["pixels"].combine_chunks()
    tensor = tensor if hasattr(tensor, "to_numpy_ndarray") else tensor.chunk(0)
    pixels.append(tensor.to_numpy_ndarray())
    frame += zip(table["video"].to_pylist(), table["frame_index"].to_pylist())
pixels = np.concatenate(pixels)

at, used = 0, 0
reader = webdataset.WebDataset(archives, shardshuffle=False).decode()
for number, sample in enumerate(reader):
    about = sample["json"]
    video, n = about["video"], about["frames"]
    name = video.rsplit("/", 1)[-1].rsplit(".", 1)[0].replace(".", "_").replace(" ", "_")
    assert sample["__key__"] == f"{number:06}-{name}", sample["__key__"]
    assert about["fps"] == 15 and about["task"] == "test" and about["episode"] == 0
    assert [(video, about["first_frame"] + i) for i in range(n)] == frame[at:at + n]
    if frame_format == "npy":
        assert (sample["frames.npy"] == pixels[at:at + n]).all() and "mp4" not in sample
        assert sample["frames.npy"].dtype == np.uint8
    else:
        assert b"ftyp" in sample["mp4"][:16] and "frames.npy" not in sample
    valid = sample["latent_action_valid.npy"]
    assert valid.dtype == bool and valid.shape == (n,)
    for i in range(n):
        want = label.get(frame[at + i])
        assert valid[i] == (want is not None)
        used += int(valid[i])
        for column in ("latent_action", "latent_code", "fdm_error"):
            got = sample[column + ".npy"]
            assert len(got) == n
            if want is None:
                assert not got[i].any()
            else:
                assert (got[i] == np.asarray(want[column], got.dtype)).all(), column
        if known:
            # The last frame may repeat the action before it.
            want = known.get(frame[at + i]) or known[video, frame[at + i][1] - 1]
            assert sample["action.npy"][i] == want["action"]
    assert sample["latent_action.npy"].dtype == np.float32
    assert sample["latent_code.npy"].dtype == np.int64
    assert sample["latent_action.npy"].ndim == sample["latent_code.npy"].ndim == 2
    assert not known or sample["action.npy"].dtype == np.int64
    at += n
assert at == len(frame) > 0 and used == len(label) > 0
"#;

/// Creates a project with an `export` stage.
fn project(videos: usize, settings: &str) -> Project {
    let project = Project::new(videos);
    let actions = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze/actions.parquet");
    let more = format!(
        "  actions: {{ import_actions: {{ frames: frames, file: {}, partial: true }} }}
  clips: {{ export: {{ format: webdataset, frames: frames, labels: labels{settings} }} }}
",
        actions.display()
    );
    fs::write(project.path("pipeline.yaml"), format!("{PIPELINE}{more}")).unwrap();
    project
}

fn files(project: &Project, stage: &str) -> Vec<FileInfo> {
    let store = Store::open(project.path("ws").to_str().unwrap()).unwrap();
    Manifest::newest(&store, stage).unwrap().unwrap().files(&store).unwrap()
}

/// Returns the paths of a stage's files with this end.
fn paths(project: &Project, stage: &str, end: &str) -> Vec<String> {
    let files = files(project, stage).into_iter().filter(|file| file.path.ends_with(end));
    files.map(|file| project.path("ws").join(file.path).display().to_string()).collect()
}

/// Checks the archives against the stages they were made from.
fn check(project: &Project, frame_format: &str, has_actions: bool) {
    let json = |stage, end| serde_json::Value::from(paths(project, stage, end)).to_string();
    let actions = if has_actions { json("actions", ".parquet") } else { "[]".into() };
    let tables = [json("clips", ".tar"), json("frames", ".arrow"), json("labels", ".parquet")];
    let [archives, shards, labels] = tables;
    passes(READ, [archives, shards, labels, actions, frame_format.to_owned()]);
}

#[test]
fn samples_equal_frames_labels_and_actions() {
    let project = project(6, ", actions: actions, zoom: 2");
    project.run(&["--set", "size=32"]).success();
    check(&project, "mp4", true);
    project.lapo(&["verify", "--workspace", "ws"]).success();
    project.run_changes_nothing(&["--set", "size=32"]);
}

#[test]
fn arrays_of_frames_are_lossless_and_unsafe_names_are_told() {
    let project = project(3, ", frame_format: npy");
    let rename = |from: &str, to: &str| {
        fs::rename(project.path("videos").join(from), project.path("videos").join(to)).unwrap();
    };
    rename("maze_1_001.mp4", "a maze.v2.mp4");
    let output = project.run(&[]).success();
    assert!(output.stderr.contains("the keys of videos/a maze.v2.mp4 have `_`"), "{output:#?}");
    check(&project, "npy", false);
}

#[test]
fn the_same_frames_give_the_same_archives_and_samples_never_span_two() {
    let settings = ", frame_format: npy, archive_mib: 1";
    let [one, other] = [(); 2].map(|()| {
        let project = project(30, settings);
        project.run(&["--set", "size=32"]).success();
        project
    });
    check(&one, "npy", false);
    let digests = |project| -> Vec<(u64, String)> {
        files(project, "clips").into_iter().map(|file| (file.rows, file.blake3)).collect()
    };
    assert_eq!(digests(&one), digests(&other));
    let archives = files(&one, "clips");
    assert!(archives.len() > 1, "{archives:?}");
    assert!(archives.iter().rev().skip(1).all(|file| file.bytes >= 1 << 20), "{archives:?}");
}

#[test]
fn exported_archives_are_decoded_again_frame_by_frame() {
    let exported = project(5, ", zoom: 2");
    exported.run(&["--set", "size=32"]).success();
    let again = Project::new(0);
    let archives = paths(&exported, "clips", ".tar");
    let yaml = format!(
        "name: again\nworkspace: ws\nstages:\n  frames: {{ decode: {{ videos: {archives:?}, size: \
         32 }} }}\n"
    );
    fs::write(again.path("pipeline.yaml"), yaml).unwrap();
    let output = again.run(&[]).success();
    assert!(output.stdout.contains("5 videos (5 new)"), "{output:#?}");
    assert!(output.stdout.contains(" 0 rejects"), "{output:#?}");
    let rows = |project: &Project| -> u64 {
        files(project, "frames").iter().filter(|f| f.path.ends_with(".arrow")).map(|f| f.rows).sum()
    };
    assert_eq!(rows(&again), rows(&exported));
}

#[test]
fn settings_of_another_format_are_faults_with_a_cure() {
    let project = project(1, ", episodes_per_video: 3, policy: model");
    let output = project.lapo(&["check", "pipeline.yaml"]);
    assert_ne!(output.code, 0);
    for part in [
        "is no setting of `format: webdataset`",
        "`webdataset` takes `frames`, `labels`, `actions`, `fps`, `task`",
        "stages.clips.export.episodes_per_video",
        "stages.clips.export.policy",
    ] {
        assert!(output.stderr.contains(part), "{part}: {output:#?}");
    }
    let text = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    let text = text.replace("frames: frames, labels: labels, episodes_per_video: 3, ", "");
    let text = text.replace("policy: model", "frame_format: npy, zoom: 2");
    fs::write(project.path("pipeline.yaml"), text).unwrap();
    let output = project.lapo(&["check", "pipeline.yaml"]);
    for part in ["name the stage with the frames", "name the stage with the labels", "remove it"] {
        assert!(output.stderr.contains(part), "{part}: {output:#?}");
    }
}
