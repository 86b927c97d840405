//! Other programs read our files: pyarrow, polars, DuckDB, deltalake and TensorBoard, in Python.
//!
//! `LAPO_PYTHON` names a Python with `pyarrow`, `polars`, `duckdb`, `deltalake`, `numpy` and
//! `tensorboard`. Without it, these tests are skipped with a note.

use std::fs;
use std::path::Path;

use lapo::dataset::delta::{self, DeltaTable, TableVersion};
use lapo::dataset::{
    Column, Compression, FileInfo, FrameSize, LabelRows, LabelShape, LabelWriter, ShardLayout,
    ShardWriter, Store, VideoName, write_table,
};

use crate::python::passes;

const ROWS: usize = 600;

/// Opens the files with every reader and compares all columns with their formulas.
const CHECK: &str = r#"
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq, polars as pl, duckdb
plain, zstd, labels = sys.argv[1:]
n, h, w = 600, 6, 4
want = (np.arange(n)[:, None] * 7 + np.arange(h * w * 3)) % 256
for path in (plain, zstd):
    table = pa.ipc.open_file(path).read_all()
    assert table.schema.names == [
        "video", "video_digest", "episode", "frame_index", "time_s", "pixels"
    ], table.schema
    kind = table.schema.field("pixels").type
    assert kind.extension_name == "arrow.fixed_shape_tensor" and list(kind.shape) == [h, w, 3], kind
    assert list(kind.dim_names) == ["height", "width", "channel"]
    frames = table["pixels"].combine_chunks()
    frames = frames if hasattr(frames, "to_numpy_ndarray") else frames.chunk(0)
    frames = frames.to_numpy_ndarray()
    assert frames.shape == (n, h, w, 3) and (frames.reshape(n, -1) == want).all()
    assert table["video"].to_pylist() == ["a.mp4"] * 300 + ["b.mp4"] * 300
    assert table["frame_index"].to_pylist() == [i % 300 for i in range(n)]
    assert table.schema.metadata[b"lapo.format"] == b"2"
    frame = pl.read_ipc(path)
    digests = frame["video_digest"].cast(pl.String).to_list()
    assert frame.height == n and digests == ["da"] * 300 + ["db"] * 300
    pixels = frame["pixels"]
    pixels = pixels.ext.storage() if hasattr(pixels, "ext") else pixels
    assert (pixels.to_numpy().reshape(n, -1) == want).all()
    small = table.drop(["pixels"])
    last = duckdb.sql("select count(*), max(time_s) from small where video = 'b.mp4'")
    assert last.fetchall() == [(300, 29.9)]

action = (np.arange(n * 8) / 16).astype(np.float32).reshape(n, 8)
code = (np.arange(n * 4) % 64).reshape(n, 4)
known = [i if i % 3 else None for i in range(n)]
table = pq.read_table(labels)
assert (np.array(table["latent_action"].to_pylist(), np.float32) == action).all()
assert (np.array(table["latent_code"].to_pylist()) == code).all()
assert table["true_action"].to_pylist() == known
metadata = pq.read_metadata(labels)
assert metadata.metadata[b"lapo.model"] == b"digest" and metadata.created_by == "lapo"
assert metadata.metadata[b"lapo.list_size.latent_action"] == b"8"
assert b"ARROW:schema" not in metadata.metadata
frame = pl.scan_parquet(labels).filter(pl.col("row") >= 100).collect()
assert frame.height == n - 100 and frame["latent_action"].dtype == pl.List(pl.Float32)
assert (np.array(frame["latent_action"].to_list(), np.float32) == action[100:]).all()
assert (np.array(frame["latent_code"].to_list()) == code[100:]).all()
assert frame["video"].dtype == pl.String and frame.schema["row"] == pl.Int64
rows = duckdb.sql(
    "select latent_action, latent_code, true_action, video, shard "
    f"from '{labels}' order by row"
).fetchall()
assert (np.array([row[0] for row in rows], np.float32) == action).all()
assert (np.array([row[1] for row in rows]) == code).all()
assert [row[2] for row in rows] == known and rows[0][3:] == ("a.mp4", "frames/s.arrow")
print("read by pyarrow", pa.__version__, "polars", pl.__version__, "duckdb", duckdb.__version__)
"#;

/// Compares every reader's rows of a version with the files of this version.
const DELTA: &str = r#"
import sys, json, os, shutil, tempfile
import polars as pl, pyarrow.parquet as pq, pyarrow as pa, duckdb, deltalake
from deltalake import DeltaTable, QueryBuilder
table, versions = sys.argv[1], json.loads(sys.argv[2])
order = ["video", "frame_index"]

def rows(frame):
    return frame.select(sorted(frame.columns)).sort(order).to_dicts()

for version, files in enumerate(versions):
    assert files, version
    want = rows(pl.concat(pl.read_parquet(file, glob=False) for file in files))
    newest = version == len(versions) - 1
    for scan in [pl.scan_delta(table, version=version)] + [pl.scan_delta(table)] * newest:
        assert rows(scan.collect()) == want, version
    some = pl.scan_delta(table, version=version).filter(pl.col("frame_index") >= 3)
    some = some.select("latent_code", "video", "frame_index").collect()
    assert some.height == sum(row["frame_index"] >= 3 for row in want)
    lake = DeltaTable(table, version=version)
    assert rows(pl.from_arrow(lake.to_pyarrow_table())) == want, version
    assert sorted(lake.file_uris()) == sorted(files), version
    query = QueryBuilder().register("labels", lake)
    counted = pl.DataFrame(query.execute(
        "select count(*) as n, sum(latent_code[1]) as s, max(true_action) as t from labels"
    ).read_all())
    assert counted.row(0) == (
        len(want),
        sum(row["latent_code"][0] for row in want),
        max(row["true_action"] or -1 for row in want),
    ), counted
    plain = duckdb.execute(
        "select count(*), sum(latent_code[1]), max(true_action) from read_parquet(?)", [files]
    ).fetchall()
    assert plain[0] == counted.row(0), plain
    assert rows(pl.from_arrow(pa.concat_tables(pq.read_table(file) for file in files))) == want
lake = DeltaTable(table)
assert lake.version() == len(versions) - 1 and lake.metadata().name == "labels"
assert lake.metadata().created_time == 1700000000001
fields = {field.name: field.type for field in lake.schema().fields}
assert str(fields["frame_index"]) == 'PrimitiveType("long")', fields
assert str(fields["video"]) == 'PrimitiveType("string")', fields
history = lake.history()
assert [entry["operationParameters"]["why"] for entry in history] == [
    f"why {n}" for n in range(len(versions), 0, -1)
], history
assert history[0]["operationParameters"]["run"] == "run 4"
assert history[0]["timestamp"] == 1700000000004
print("read by deltalake", deltalake.__version__, "and polars", pl.__version__)
"#;

/// Reads a table with many versions, then again without the log entries before its checkpoint.
const LONG: &str = r#"
import sys, glob, os, polars as pl
from deltalake import DeltaTable
table, versions = sys.argv[1], int(sys.argv[2])
def check():
    lake = DeltaTable(table)
    assert lake.version() == versions - 1
    # Every version adds a file, whose only row is the number of the version.
    assert sorted(lake.to_pyarrow_table()["step"].to_pylist()) == list(range(versions))
    assert pl.scan_delta(table).collect()["step"].sort().to_list() == list(range(versions))
    old = DeltaTable(table, version=102).to_pyarrow_table()
    assert sorted(old["step"].to_pylist()) == list(range(103))
check()
early = [
    path for path in glob.glob(table + "/_delta_log/*.json")
    if int(os.path.basename(path)[:20]) < 100
]
assert len(early) == 100
[os.remove(path) for path in early]
check()
print(versions, "versions")
"#;

/// Compares TensorBoard's curve with the Parquet file.
const CURVE: &str = r#"
import sys, glob, pyarrow.parquet as pq
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
[events] = glob.glob(sys.argv[1] + "/data/*/*/*tfevents*")
board = EventAccumulator(events)
board.Reload()
[path] = glob.glob(sys.argv[1] + "/data/*/*/metrics.parquet")
table = pq.read_table(path).to_pydict()
steps = table.pop("step")
# A column without a value, such as an undefined property, is no curve.
table = {name: values for name, values in table.items() if any(v is not None for v in values)}
assert sorted(board.Tags()["scalars"]) == sorted(table), board.Tags()
for name, values in table.items():
    known = [(step, value) for step, value in zip(steps, values) if value is not None]
    assert [(event.step, event.value) for event in board.Scalars(name)] == known, name
print(len(steps), "steps of", len(table), "metrics")
"#;

#[test]
fn tensorboard_reads_the_training_curve() {
    let project = crate::project::Project::new(6);
    project.run(&["--set", "steps=40"]).success();
    let Some(printed) = passes(CURVE, [project.path("ws/model")]) else { return };
    assert_eq!(printed.split(' ').next(), Some("5"));
}

#[test]
fn python_readers_agree_on_shards_and_labels() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path().to_str().expect("a plain path")).expect("a workspace");
    let mut files = Vec::new();
    for (name, compression) in [("plain", Compression::None), ("zstd", Compression::Zstd)] {
        files.push(write_shard(&store, &format!("frames/{name}.arrow"), compression));
    }
    files.push(write_labels(&store));
    let paths = files.iter().map(|file| folder.path().join(file));
    passes(CHECK, paths);
}

/// Publishes the versions of a stage as a Delta Lake table.
fn publish(store: &Store, stage: &str, versions: &[Vec<FileInfo>]) {
    let at = |version: u64| {
        let files = versions.get(version as usize - 1)?;
        let [run, why] = ["run", "why"].map(|name| format!("{name} {version}"));
        Some(TableVersion {
            committed_unix_ms: 1_700_000_000_000 + version,
            run,
            pipeline: "p".into(),
            why,
            files: files.clone(),
        })
    };
    let table = DeltaTable { store, workspace: "readers", stage };
    delta::publish(table, versions.len() as u64, &|version| Ok(at(version)))
        .expect("a published table");
}

#[test]
fn every_version_of_labels_is_a_version_of_a_delta_lake_table() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path().to_str().expect("a plain path")).expect("a workspace");
    // These names must be percent-encoded in the log.
    let files: Vec<FileInfo> = ["k1/a", "k 2/a%20b", "k=3/ä+b", "k4/a"]
        .iter()
        .enumerate()
        .map(|(at, name)| {
            write_few_labels(&store, &format!("labels/data/{name}/labels.parquet"), at)
        })
        .collect();
    // One video, a second one, both relabelled, and an older file restored.
    let versions = [vec![0], vec![0, 1], vec![2, 3], vec![1, 3, 2]]
        .map(|version| version.into_iter().map(|at: usize| files[at].clone()).collect());
    publish(&store, "labels", &versions);
    let absolute =
        |file: &FileInfo| folder.path().join(&file.path).to_str().expect("a plain path").to_owned();
    let paths: Vec<Vec<String>> = versions
        .iter()
        .map(|version: &Vec<FileInfo>| version.iter().map(absolute).collect())
        .collect();
    passes(DELTA, [absolute_path(folder.path(), "labels"), serde_json::json!(paths).to_string()]);
}

#[test]
fn a_long_delta_log_is_read_from_its_checkpoint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path().to_str().expect("a plain path")).expect("a workspace");
    let file = |at: u64| {
        write_table(
            &store,
            &format!("steps/data/{at}/a/metrics.parquet"),
            &[("step", Column::U64(vec![at]))],
        )
    };
    let files: Vec<FileInfo> = (0..105).map(|at| file(at).expect("a table")).collect();
    let versions: Vec<Vec<FileInfo>> =
        (1..=files.len()).map(|count| files[..count].to_vec()).collect();
    publish(&store, "steps", &versions);
    assert!(
        fs::exists(folder.path().join("steps/_delta_log/00000000000000000100.checkpoint.parquet"))
            .expect("a folder")
    );
    passes(LONG, [absolute_path(folder.path(), "steps"), "105".to_owned()]);
}

fn absolute_path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("a plain path").to_owned()
}

/// Writes a few labels of video number `at`.
fn write_few_labels(store: &Store, path: &str, at: usize) -> FileInfo {
    let rows = 5 + at;
    let counts: Vec<u32> = (0..rows as u32).collect();
    let video = format!("video {at}.mp4");
    let errors = vec![0.1; rows];
    let mut writer = LabelWriter::create(store, path, LabelShape { latent_dim: 2, codes: 3 }, &[])
        .expect("a label file");
    let labels = LabelRows {
        video: &vec![&video[..]; rows],
        video_digest: &vec!["d"; rows],
        episode: &vec![0; rows],
        frame_index: &counts,
        time_s: &vec![0.5; rows],
        horizon: &vec![1; rows],
        latent_action: &(0..rows * 2).map(|i| (i + at) as f32 / 16.0).collect::<Vec<_>>(),
        latent_code: &(0..rows * 3).map(|i| ((i + at) % 64) as u16).collect::<Vec<_>>(),
        fdm_error: (at != 2).then_some(&errors),
        motion: &vec![0.1; rows],
        true_action: &(0..rows as i32).map(|i| (i % 3 != 0).then_some(i)).collect::<Vec<_>>(),
        shard: "frames/s.arrow",
        row: &counts,
    };
    writer.push(&labels).expect("labels");
    writer.finish().expect("finished labels")
}

/// Writes a shard with two videos of 300 frames.
fn write_shard(store: &Store, path: &str, compression: Compression) -> String {
    let names = [("a.mp4", "da"), ("b.mp4", "db")];
    let videos =
        names.map(|(uri, digest)| VideoName { uri: uri.into(), digest: digest.into() }).to_vec();
    let size = FrameSize { height: 6, width: 4 };
    let mut writer = ShardWriter::create(store, path, &ShardLayout { size, compression, videos })
        .expect("a shard");
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

/// Writes labels for the first video.
fn write_labels(store: &Store) -> String {
    let shape = LabelShape { latent_dim: 8, codes: 4 };
    let counts: Vec<u32> = (0..ROWS as u32).collect();
    let mut writer =
        LabelWriter::create(store, "labels/l.parquet", shape, &[("lapo.model", "digest")])
            .expect("a label file");
    let labels = LabelRows {
        video: &vec!["a.mp4"; ROWS],
        video_digest: &vec!["da"; ROWS],
        episode: &vec![0; ROWS],
        frame_index: &counts,
        time_s: &vec![0.5; ROWS],
        horizon: &vec![1; ROWS],
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
