"""Measures a plan, a commit of one new shard and a count in a workspace of a million videos: seconds, memory and bytes written.

    python tests/bench/million.py target/release/lapo [--videos 1000000] [--per-shard 8] [--folder FOLDER]

The list of videos is invented. A few clips are really decoded, trained on and labelled; all other results are links to theirs, with
receipts of their own. lapo itself plans and commits, with `plan --out` and `commit`. With --folder the workspace is kept, and a later
run with the same numbers measures it again without making it. Needs pyarrow.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq

PIPELINE = """
name: million
workspace: ws
stages:
  frames: {{ decode: {{ {source}, size: 16, identity: etag, videos_per_shard: {per_shard}, shard_mib: 1000000 }} }}
  model: {{ train_dynamics: {{ frames: frames, preset: tiny, steps: 1, batch: 4 }} }}
  labels: {{ label: {{ frames: frames, dynamics: model{more} }} }}
  policy: {{ train_policy: {{ labels: labels, steps: 1, batch: 4 }} }}
"""
# ext4 allows at most 65,000 links to a file.
MOST_LINKS = 60_000
# Runs in a small process, because the peak memory of a child is at least that of its parent.
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
SMALL = ["manifests", "packs", "_delta_log"]


class Bench:
    def __init__(self, lapo, folder, videos, per_shard):
        self.lapo, self.folder, self.videos, self.per_shard, self.plans, self.links = lapo, folder, videos, per_shard, 0, {}

    def write_pipeline(self, extra=(), more=""):
        """Lists the invented videos, then the clips in `extra`."""
        rows = range(self.videos)
        uris = [f"s3://bucket/crawl/part-{i // 10_000:05d}/clip-{i:07d}.mp4" for i in rows] + [str(path) for path in extra]
        sizes = [1_000_000 + i for i in rows] + [path.stat().st_size for path in extra]
        etags = [f'"{i:032x}"' for i in rows] + ["" for _ in extra]
        pq.write_table(pa.table({"uri": uris, "bytes": sizes, "etag": etags}), self.folder / "clips.parquet")
        text = PIPELINE.format(source="lists: ['clips.parquet']", per_shard=self.per_shard, more=more)
        (self.folder / "pipeline.yaml").write_text(text)

    def run(self, *args, folder=None):
        """Runs lapo. Returns its cost, as text, and its output."""
        with tempfile.TemporaryDirectory() as folder_of_cost:
            cost = pathlib.Path(folder_of_cost) / "cost.json"
            begun = time.monotonic()
            command = [sys.executable, "-c", MEASURED, cost, self.lapo, *args]
            ran = subprocess.run(command, cwd=folder or self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            seconds = time.monotonic() - begun
            code, cpu, kib = json.loads(cost.read_text())
        if code:
            sys.exit(f"{args} failed with {code}:\n{ran.stdout}")
        return f"{seconds:.2f} s ({cpu:.2f} s of a core), {kib / 2**20:.2f} GiB", ran.stdout

    def learn(self, clips):
        """Runs the pipeline on some clips; other tasks link to their results."""
        folder = self.folder / "template"
        folder.mkdir()
        source = f"videos: {[str(clip) for clip in clips]}"
        text = PIPELINE.format(source=source, per_shard=len(clips), more="")
        (folder / "pipeline.yaml").write_text(text)
        self.run("run", "pipeline.yaml", folder=folder)

    def template(self, stage):
        """Returns the receipt of the real result of a stage."""
        (path,) = (self.folder / "template/ws" / stage / "receipts").glob("*.json")
        return json.loads(path.read_text())

    def link(self, source, target):
        """Links a file, and copies it whenever it has the most links that the file system allows."""
        copy, count = self.links.get(source, (source, 0))
        if count == MOST_LINKS:
            copy, count = target, 0
            shutil.copyfile(source, target)
        else:
            os.link(copy, target)
        self.links[source] = (copy, count + 1)

    def file(self, job, receipt):
        """Writes the files and the receipt of a job, with the results of `receipt`."""
        attempt, data = "a", f"{job['stage']}/data/{job['key']}/a"
        workspace = self.folder / "ws"
        (workspace / data).mkdir(parents=True)
        files = []
        for file in receipt["files"]:
            name = file["path"].rsplit("/", 1)[1]
            self.link(self.folder / "template/ws" / file["path"], workspace / data / name)
            digest = file["blake3"] if name.endswith(".safetensors") else hashlib.sha256(f"{job['key']}{name}".encode()).hexdigest()
            files.append(dict(file, path=f"{data}/{name}", blake3=digest))
        videos = []
        if job["kind"] == "decode":
            identities = [{name: video[name] for name in ("digest", "uri", "bytes", "modified")} for video in job["task"]["decode"]["videos"]]
            videos = [dict(receipt["videos"][0], **video) for video in identities]
        made = dict(receipt, key=job["key"], attempt=attempt, fields=job["fields"], files=files, inputs=job["inputs"], videos=videos)
        made["stats"] = dict(receipt["stats"], **job["stats"])
        (workspace / job["stage"] / "receipts").mkdir(exist_ok=True)
        (workspace / job["stage"] / "receipts" / f"{job['key']}.json").write_text(json.dumps(made))

    def plan_out(self):
        """Writes a plan with partitions. Returns its folder, number of partitions and cost."""
        self.plans += 1
        name = f"plans/{self.plans}-{os.getpid()}"
        cost, output = self.run("plan", "pipeline.yaml", "--out", name, "--format", "json")
        return self.folder / name, json.loads(output)["partitions"], cost

    def work(self, plan):
        """Does all jobs of a plan."""
        templates = {}
        for path in sorted((plan / "jobs").glob("*.jsonl")):
            with path.open() as lines:
                for line in lines:
                    job = json.loads(line)
                    if job["stage"] not in templates:
                        templates[job["stage"]] = self.template(job["stage"])
                    self.file(job, templates[job["stage"]])

    def small_files(self):
        """Returns the sizes of manifests, packs, Delta logs, run records and pins."""
        workspace = self.folder / "ws"
        folders = [workspace / stage / kind for stage in ("frames", "model", "labels", "policy") for kind in SMALL]
        paths = [path for folder in [*folders, workspace / "runs", workspace / "pins"] for path in folder.glob("*")]
        return {path: path.stat().st_size for path in paths}

    def commit(self, plan):
        """Commits a plan. Returns its cost, as text."""
        before = self.small_files()
        cost, _ = self.run("commit", "--plan", str(plan))
        after = self.small_files()
        written = sum(size for path, size in after.items() if path not in before)
        return f"{cost}, {written / 1e3:.1f} kB written"

    def plan(self, what):
        """Plans and prints the cost."""
        cost, output = self.run("plan", "pipeline.yaml", "--format", "json")
        stages = ", ".join(f"{stage['stage']} {stage['new']} new and {stage['reused']} done" for stage in json.loads(output))
        print(f"plan, {what}: {cost} ({stages})", flush=True)

    def make(self, clips):
        """Makes the workspace, one plan after another."""
        self.learn(clips)
        self.write_pipeline()
        while True:
            plan, partitions, cost = self.plan_out()
            if partitions == 0:
                return
            begun = time.monotonic()
            self.work(plan)
            worked = time.monotonic() - begun
            print(f"made: {partitions} tasks; planned in {cost}; worked {worked:.0f} s; committed in {self.commit(plan)}", flush=True)

    def measure(self, clips):
        """Measures plans, commits, a run and queries."""
        # Earlier measurements of a kept folder have added some of the clips.
        done = len(list((self.folder / "ws/frames/manifests").glob("*.json"))) - 1
        self.write_pipeline(clips[:done])
        self.plan("all done")
        # A changed setting makes all labels new.
        self.write_pipeline(clips[:done], more=", fdm_error: false")
        self.plan("all labels new")
        self.write_pipeline(clips[: done + 1])
        self.plan("one new video")
        while True:
            plan, partitions, cost = self.plan_out()
            if partitions == 0:
                break
            self.work(plan)
            print(f"one new shard: planned in {cost}; committed in {self.commit(plan)}", flush=True)
        self.write_pipeline(clips[: done + 2])
        before = self.small_files()
        cost, _ = self.run("run", "pipeline.yaml")
        after = self.small_files()
        written = sum(size for path, size in after.items() if path not in before)
        print(f"run with one new video: {cost}, {written / 1e3:.1f} kB of versions and records")
        for sql in ["SELECT count(*) FROM labels", "SELECT count(*) FROM frames"]:
            cost, output = self.run("query", sql, "--workspace", "ws")
            print(f"{sql}: {cost}: {' '.join(output.split())}")
        print(f"datasets: {self.run('datasets', '--workspace', 'ws')[0]}", flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("lapo", type=pathlib.Path)
    args.add_argument("--videos", type=int, default=100_000)
    args.add_argument("--per-shard", type=int, default=8)
    args.add_argument("--folder", type=pathlib.Path)
    args = args.parse_args()
    clips = sorted((pathlib.Path(__file__).resolve().parents[2] / "data/maze").glob("*.mp4"))
    with tempfile.TemporaryDirectory() as made:
        folder = (args.folder or pathlib.Path(made)).resolve()
        bench = Bench(args.lapo.resolve(), folder, args.videos, args.per_shard)
        print(f"{args.videos} videos, {args.per_shard} a shard, {os.cpu_count()} cores", flush=True)
        if not (folder / "ws").exists():
            folder.mkdir(exist_ok=True)
            bench.make(clips[:4])
        bench.measure(clips[4:])


if __name__ == "__main__":
    main()
