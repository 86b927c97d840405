"""Compares `lapo query` with Python polars and DuckDB: the same queries on the same Parquet files, in one run.

    python tests/bench/query.py target/release/lapo [--also other/lapo ...] [--rows 5000000] [--files 250] [--many 70000] [--repeat 2]

Prints the CPU and wall seconds of whole processes, including their start, and their ratios to Python polars. Checks that all programs
return the same rows. `--many N` also counts and averages over N small label files. Needs numpy, pyarrow, polars and duckdb.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VIDEOS_PER_FILE, FRAMES_PER_VIDEO, DISTINCT_FILES = 20, 1000, 10
LATENT_DIM, CODES = 16, 8

QUESTIONS = {
    "group-by": "SELECT video, count(*) AS n, avg(fdm_error) AS e, max(motion) AS m FROM labels GROUP BY video ORDER BY video LIMIT 5",
    "filter on latents": "SELECT count(*) AS n, avg(motion) AS m FROM labels WHERE latent_code[1] = 3 AND latent_action[2] > 0.5",
    "join with frames": "SELECT count(*) AS n, avg(f.time_s) AS t, sum(l.motion) AS m FROM labels AS l "
    "JOIN frames AS f ON l.video = f.video AND l.frame_index = f.frame_index",
    "top-k": "SELECT video, frame_index, motion FROM labels ORDER BY motion DESC, video, frame_index LIMIT 20",
    "self-join": "SELECT a.episode AS episode, count(*) AS n, avg(b.motion) AS m FROM (SELECT * FROM labels WHERE row < {few}) AS a "
    "JOIN (SELECT * FROM labels WHERE row < {few}) AS b ON a.episode = b.episode GROUP BY a.episode ORDER BY a.episode",
}

POLARS = """
import json, sys, polars as pl
sql, labels, frames = sys.argv[1:]
paths = lambda listing: open(listing).read().split()
context = pl.SQLContext({"labels": pl.scan_parquet(paths(labels)), "frames": pl.scan_parquet(paths(frames))})
print(json.dumps(context.execute(sql).collect().to_dicts()))
"""

DUCKDB = """
import json, sys, duckdb
duckdb.sql("SET enable_progress_bar = false")  # or it mixes with the printed rows
sql, labels, frames = sys.argv[1:]
paths = lambda listing: open(listing).read().split()
for name, listing in (("labels", labels), ("frames", frames)):
    duckdb.sql(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({paths(listing)})")
answer = duckdb.sql(sql)
print(json.dumps([dict(zip(answer.columns, row)) for row in answer.fetchall()]))
"""


def label_rows(which, rng):
    """Returns a file of labels: 20 videos of 1,000 frames, with the columns of `lapo schema labels`."""
    rows = VIDEOS_PER_FILE * FRAMES_PER_VIDEO
    video = [f"crawl/part-{which:03d}/clip-{v:04d}.mp4" for v in range(VIDEOS_PER_FILE) for _ in range(FRAMES_PER_VIDEO)]
    frame = np.tile(np.arange(FRAMES_PER_VIDEO, dtype=np.int32), VIDEOS_PER_FILE)
    lists = lambda values, width: pa.ListArray.from_arrays(pa.array(np.arange(0, rows * width + 1, width, dtype=np.int32)), pa.array(values))
    return pa.table({
        "video": video,
        "episode": pa.array(np.full(rows, 0, np.int32)),
        "frame_index": frame,
        "time_s": frame / 15.0,
        "latent_action": lists(rng.normal(size=rows * LATENT_DIM).astype(np.float32), LATENT_DIM),
        "latent_code": lists(rng.integers(0, 64, rows * CODES).astype(np.int32), CODES),
        "fdm_error": rng.random(rows).astype(np.float32),
        "motion": rng.random(rows).astype(np.float32),
        "true_action": pa.array(rng.integers(0, 15, rows).astype(np.int32), mask=rng.random(rows) < 0.9),
        "shard": [f"frames/data/{which:032x}/a/shard.arrow"] * rows,
        "row": np.arange(rows, dtype=np.int32),
    })


def frame_rows(which):
    """Returns the frames of the labels in file `which`."""
    labels = label_rows(which, np.random.default_rng(which))
    digest = [f"{name}#" for name in labels["video"].to_pylist()]
    return labels.select(["video", "episode", "frame_index", "time_s"]).add_column(1, "video_digest", pa.array(digest))


def write(table, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", row_group_size=len(table), store_schema=False)


def make_workspace(folder, stages):
    """Turns a folder into a workspace. `stages`: name -> kind, [(path, rows)].

    Only this function depends on the format of workspaces.
    """
    put(folder / "lapo.json", {"format": 2, "id": "bench", "pipeline": "bench", "lapo": "bench", "created_unix_secs": 0})
    made = {"lapo": "", "commit": "", "libav": None, "device": "cpu", "host": "", "finished_unix_secs": 0}
    origin = json.dumps({"fields": {}, "inputs": [], "stats": {}, "made": made})
    for stage, (kind, files) in stages.items():
        infos = [{"path": path, "bytes": (folder / path).stat().st_size, "rows": rows, "blake3": "0" * 64} for path, rows in files]
        keys = [f"{place:032x}" for place in range(len(files))]
        same = lambda text: [text] * len(files)
        pack = {"key": keys, "attempt": same("a"), "stage": same(kind), "files": [json.dumps([info]) for info in infos], "videos": same("[]"),
                "rejects": same("[]"), "origin": same(origin)}
        path = f"{stage}/packs/00000001-bench.parquet"
        (folder / path).parent.mkdir()
        pq.write_table(pa.table(pack).replace_schema_metadata({"lapo.format": "2"}), folder / path, compression="zstd")
        rows = sum(info["rows"] for info in infos)
        sort = files[0][0].rsplit("/", 1)[1]
        totals = {"tasks": len(files), "files": len(files), "bytes": sum(info["bytes"] for info in infos), "rows": rows, "videos": 0,
                  "rejects": 0, "counts": {}, "tables": {sort: {"files": len(files), "rows": rows}}}
        packed = {"path": path, "bytes": (folder / path).stat().st_size, "rows": len(files), "blake3": "0" * 64}
        manifest = {"format": 2, "version": 1, "parent": None, "committed_unix_ms": 0, "run": "00000001", "pipeline": "bench", "kind": kind,
                    "why": "a benchmark", "settings": {}, "totals": totals, "changes": {"tasks_added": len(files), "tasks_dropped": 0},
                    "packs": [{"file": packed}]}
        put(folder / stage / "manifests" / "0000000001.json", manifest)


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def make_files(folder, stage, name, count, make):
    """Makes `count` files of a stage: ten are written, the others are links to them. Returns paths and numbers of rows."""
    files = []
    for place in range(count):
        path = folder / stage / "data" / f"{place:032x}" / "a" / f"{name}.parquet"
        which = place % DISTINCT_FILES
        if place < DISTINCT_FILES:
            table = make(which)
            rows = len(table)
            write(table, path)
        else:
            path.parent.mkdir(parents=True)
            os.link(folder / files[which][0], path)
        files.append((str(path.relative_to(folder)), rows))
    return files


def measure(command, repeat):
    """Runs a command a few times. Returns the least CPU and wall seconds, and the parsed output."""
    best = (float("inf"), float("inf"))
    for _ in range(repeat):
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{command[0]} exits {child.returncode}")
        best = min(best, (usage.ru_utime + usage.ru_stime, time.monotonic() - began))
    return *best, json.loads(out)


def alike(one, other):
    """Returns whether two answers are equal up to the rounding of sums."""
    close = lambda a, b: abs(a - b) <= 1e-4 * max(1, abs(a)) if isinstance(a, float) or isinstance(b, float) else a == b
    return len(one) == len(other) and all(close(a[name], b[name]) for a, b in zip(one, other) for name in a)


def compare(programs, questions, repeat):
    """Measures every query with every program and prints a line for each."""
    names = list(programs)
    print(f"{'CPU s (wall s)':<20}" + "".join(f"{name:>26}" for name in names))
    for question, sql in questions.items():
        seen = {name: measure(command(sql), repeat) for name, command in programs.items()}
        base_cpu, base_wall, base = seen["polars"]
        line = f"{question:<20}"
        for name, (cpu, wall, rows) in seen.items():
            line += f"{f'{cpu:.2f} ({wall:.2f}) {cpu / base_cpu:.1f}x ({wall / base_wall:.1f}x)':>26}"
            if not alike(base, rows):
                sys.exit(f"{question}: {name} returns {rows[:3]}, polars {base[:3]}")
        print(line, flush=True)


def many(binaries, folder, count, repeat):
    """Counts and averages over many label files of a few rows."""
    workspace = folder / "many"
    files = make_files(workspace, "labels", "labels", count, lambda which: label_rows(which, np.random.default_rng(which)).slice(0, 20))
    make_workspace(workspace, {"labels": ("label", files)})
    for binary in binaries:
        for sql in ("SELECT count(*) AS n FROM labels", "SELECT count(*) AS n, avg(motion) AS m FROM labels WHERE row >= 0"):
            cpu, wall, rows = measure([binary, "query", sql, "--workspace", str(workspace), "--format", "json"], repeat)
            assert rows[0]["n"] == 20 * count, rows
            print(f"{count} files: {sql}: {cpu:.2f} CPU s, {wall:.2f} s ({binary})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lapo")
    parser.add_argument("--also", nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--files", type=int, default=250)
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--few", type=int, default=4000, help="number of labels on each side of the self-join")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        workspace = folder / "ws"
        files = min(args.files, max(DISTINCT_FILES, args.rows // (VIDEOS_PER_FILE * FRAMES_PER_VIDEO)))
        labels = make_files(workspace, "labels", "labels", files, lambda which: label_rows(which, np.random.default_rng(which)))
        frames = make_files(workspace, "frames", "frames", DISTINCT_FILES, frame_rows)
        make_workspace(workspace, {"labels": ("label", labels), "frames": ("decode", frames)})
        listings = []
        for name, paths in (("labels", labels), ("frames", frames)):
            listing = folder / f"{name}.txt"
            listing.write_text("\n".join(str(workspace / path) for path, _ in paths))
            listings.append(str(listing))
        ours = lambda binary: lambda sql: [binary, "query", sql, "--workspace", str(workspace), "--format", "json"]
        theirs = lambda code: lambda sql: [sys.executable, "-c", code, sql, *listings]
        binaries = [args.lapo, *args.also]
        programs = {"polars": theirs(POLARS), "duckdb": theirs(DUCKDB), **{pathlib.Path(binary).name: ours(binary) for binary in binaries}}
        # Rows are numbered within each file, so the self-join takes the first ones of each.
        questions = {name: sql.format(few=max(1, args.few // files)) for name, sql in QUESTIONS.items()}
        print(f"{sum(rows for _, rows in labels)} labels in {files} files")
        compare(programs, questions, args.repeat)
        if args.many:
            many(binaries, folder, args.many, 1)


if __name__ == "__main__":
    main()
