//! What others read of our files: pyarrow, polars and DuckDB, each in a real Python.
//!
//! In: a shard and labels this crate writes. Out: the same values, seen from Python. The variable `LAPO_PYTHON` names
//! a Python with `pyarrow`, `polars`, `duckdb`, `numpy` and `tensorboard` (`fleet` wants `prometheus_client`); without it these tests say
//! so and are skipped.

use std::process::Command;

use lapo::dataset::{Compression, FrameSize, LabelRows, LabelShape, LabelWriter, ShardLayout, ShardWriter, Store, VideoName};

const ROWS: usize = 600;

/// Every reader opens both files and checks every column against the formulas they were written from.
const CHECK: &str = r#"
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq, polars as pl, duckdb
plain, zstd, labels = sys.argv[1:]
n, h, w = 600, 6, 4
want = (np.arange(n)[:, None] * 7 + np.arange(h * w * 3)) % 256
for path in (plain, zstd):
    table = pa.ipc.open_file(path).read_all()
    assert table.schema.names == ["video", "video_digest", "episode", "frame_index", "time_s", "pixels"], table.schema
    kind = table.schema.field("pixels").type
    assert kind.extension_name == "arrow.fixed_shape_tensor" and list(kind.shape) == [h, w, 3], kind
    assert list(kind.dim_names) == ["height", "width", "channel"]
    frames = table["pixels"].combine_chunks()
    frames = frames.to_numpy_ndarray() if hasattr(frames, "to_numpy_ndarray") else frames.chunk(0).to_numpy_ndarray()
    assert frames.shape == (n, h, w, 3) and (frames.reshape(n, -1) == want).all()
    assert table["video"].to_pylist() == ["a.mp4"] * 300 + ["b.mp4"] * 300
    assert table["frame_index"].to_pylist() == [i % 300 for i in range(n)]
    assert table.schema.metadata[b"lapo.format"] == b"1"
    frame = pl.read_ipc(path)
    assert frame.height == n and frame["video_digest"].cast(pl.String).to_list() == ["da"] * 300 + ["db"] * 300
    pixels = frame["pixels"]
    pixels = pixels.ext.storage() if hasattr(pixels, "ext") else pixels
    assert (pixels.to_numpy().reshape(n, -1) == want).all()
    small = table.drop(["pixels"])
    assert duckdb.sql("select count(*), max(time_s) from small where video = 'b.mp4'").fetchall() == [(300, 29.9)]

action = (np.arange(n * 8) / 16).astype(np.float32).reshape(n, 8)
code = (np.arange(n * 4) % 64).reshape(n, 4)
known = [i if i % 3 else None for i in range(n)]
table = pq.read_table(labels)
assert (np.array(table["latent_action"].to_pylist(), np.float32) == action).all()
assert (np.array(table["latent_code"].to_pylist()) == code).all()
assert table["true_action"].to_pylist() == known
metadata = pq.read_metadata(labels)
assert metadata.metadata[b"lapo.model"] == b"digest" and metadata.created_by == "lapo"
frame = pl.scan_parquet(labels).filter(pl.col("row") >= 100).collect()
assert frame.height == n - 100 and frame["latent_action"].dtype == pl.Array(pl.Float32, 8)
assert (frame["latent_action"].to_numpy() == action[100:]).all() and (frame["latent_code"].to_numpy() == code[100:]).all()
rows = duckdb.sql(f"select latent_action, latent_code, true_action, video, shard from '{labels}' order by row").fetchall()
assert (np.array([row[0] for row in rows], np.float32) == action).all()
assert (np.array([row[1] for row in rows]) == code).all()
assert [row[2] for row in rows] == known and rows[0][3:] == ("a.mp4", "frames/s.arrow")
print("read by pyarrow", pa.__version__, "polars", pl.__version__, "duckdb", duckdb.__version__)
"#;

/// TensorBoard's own reader and the Parquet file tell the same curve.
const CURVE: &str = r#"
import sys, glob, pyarrow.parquet as pq
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
[events] = glob.glob(sys.argv[1] + "/data/*/*/*tfevents*")
board = EventAccumulator(events)
board.Reload()
[path] = glob.glob(sys.argv[1] + "/data/*/*/metrics.parquet")
table = pq.read_table(path).to_pydict()
steps = table.pop("step")
assert sorted(board.Tags()["scalars"]) == sorted(table), board.Tags()
for name, values in table.items():
    known = [(step, value) for step, value in zip(steps, values) if value is not None]
    assert [(event.step, event.value) for event in board.Scalars(name)] == known, name
print(len(steps), "steps of", len(table), "metrics")
"#;

#[test]
fn tensorboard_shows_the_curve() {
    let Ok(python) = std::env::var("LAPO_PYTHON") else {
        eprintln!("skipped: LAPO_PYTHON names no Python with tensorboard");
        return;
    };
    let project = crate::project::Project::new(6);
    project.run(&["--set", "steps=40"]).good();
    let said = Command::new(python).args(["-c", CURVE]).arg(project.path("ws/model")).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(String::from_utf8_lossy(&said.stdout).split(' ').next(), Some("5"));
}

#[test]
fn python_readers_see_what_was_written() {
    let Ok(python) = std::env::var("LAPO_PYTHON") else {
        eprintln!("skipped: LAPO_PYTHON names no Python with pyarrow, polars, duckdb and numpy");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path().to_str().expect("a plain path")).expect("a workspace");
    let mut files = Vec::new();
    for (name, compression) in [("plain", Compression::None), ("zstd", Compression::Zstd)] {
        files.push(write_shard(&store, &format!("frames/{name}.arrow"), compression));
    }
    files.push(write_labels(&store));
    let paths = files.iter().map(|file| folder.path().join(file));
    let output = Command::new(python).arg("-c").arg(CHECK).args(paths).output().expect("LAPO_PYTHON runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
}

fn write_shard(store: &Store, path: &str, compression: Compression) -> String {
    let names = [("a.mp4", "da"), ("b.mp4", "db")];
    let videos = names.map(|(uri, digest)| VideoName { uri: uri.into(), digest: digest.into() }).to_vec();
    let size = FrameSize { height: 6, width: 4 };
    let mut writer = ShardWriter::create(store, path, &ShardLayout { size, compression, videos }).expect("a shard");
    for row in 0..ROWS {
        if row % 300 == 0 {
            writer.begin_video(row / 300).expect("a declared video");
        }
        let pixels: Vec<u8> = (0..size.bytes()).map(|i| (row * 7 + i) as u8).collect();
        let frame = (row % 300) as u32;
        writer.push(frame / 100, frame, f64::from(frame) / 10.0, &pixels).expect("a frame");
    }
    writer.finish().expect("a finished shard").path
}

fn write_labels(store: &Store) -> String {
    let shape = LabelShape { latent_dim: 8, codes: 4 };
    let counts: Vec<u32> = (0..ROWS as u32).collect();
    let mut writer = LabelWriter::create(store, "labels/l.parquet", shape, &[("lapo.model", "digest")]).expect("a label file");
    let labels = LabelRows {
        video: &vec!["a.mp4"; ROWS],
        episode: &vec![0; ROWS],
        frame_index: &counts,
        time_s: &vec![0.5; ROWS],
        latent_action: &(0..ROWS * 8).map(|i| i as f32 / 16.0).collect::<Vec<_>>(),
        latent_code: &(0..ROWS * 4).map(|i| (i % 64) as u16).collect::<Vec<_>>(),
        fdm_error: Some(&vec![0.1; ROWS]),
        motion: &vec![0.1; ROWS],
        true_action: &(0..ROWS as i32).map(|i| (i % 3 != 0).then_some(i)).collect::<Vec<_>>(),
        shard: "frames/s.arrow",
        row: &counts,
    };
    writer.push(&labels).expect("labels");
    writer.finish().expect("finished labels").path
}
