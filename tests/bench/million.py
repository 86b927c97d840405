"""A workspace of a million videos: what a plan, a commit of one new shard and a count cost, in seconds, memory and bytes.

    python tests/bench/million.py target/release/lapo [--videos 1000000] [--per-shard 8] [--folder FOLDER]

The listing is made up; one clip is decoded, learnt from and labelled really, and all other results are links to what that gave, with
receipts of their own. Plans and commits are the program's own, by the contract for other engines. With --folder the workspace stays there,
and a later run with the same numbers measures it again without making it. Wants pyarrow.
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
# ext4 gives a file 65,000 names at most.
MOST_LINKS = 60_000
# A process of its own, since a child's peak is at least that of whoever starts it.
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
        """Lists the made-up videos and then `extra` ones."""
        rows = range(self.videos)
        uris = [f"s3://bucket/crawl/part-{i // 10_000:05d}/clip-{i:07d}.mp4" for i in rows] + [str(path) for path in extra]
        sizes = [1_000_000 + i for i in rows] + [path.stat().st_size for path in extra]
        etags = [f'"{i:032x}"' for i in rows] + ["" for _ in extra]
        pq.write_table(pa.table({"uri": uris, "bytes": sizes, "etag": etags}), self.folder / "clips.parquet")
        text = PIPELINE.format(source="lists: ['clips.parquet']", per_shard=self.per_shard, more=more)
        (self.folder / "pipeline.yaml").write_text(text)

    def run(self, *args, folder=None):
        """Runs the program; what it cost, and what it said."""
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
        """Runs the pipeline on some clips, for results to multiply."""
        folder = self.folder / "template"
        folder.mkdir()
        source = f"videos: {[str(clip) for clip in clips]}"
        text = PIPELINE.format(source=source, per_shard=len(clips), more="")
        (folder / "pipeline.yaml").write_text(text)
        self.run("run", "pipeline.yaml", folder=folder)

    def template(self, stage):
        (path,) = (self.folder / "template/ws" / stage / "receipts").glob("*.json")
        return json.loads(path.read_text())

    def link(self, source, target):
        copy, count = self.links.get(source, (source, 0))
        if count == MOST_LINKS:
            copy, count = target, 0
            shutil.copyfile(source, target)
        else:
            os.link(copy, target)
        self.links[source] = (copy, count + 1)

    def file(self, job, receipt):
        """Files what a worker would for a job: `receipt`'s results under the job's key."""
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
            told = [{name: video[name] for name in ("digest", "uri", "bytes", "modified")} for video in job["task"]["decode"]["videos"]]
            videos = [dict(receipt["videos"][0], **video) for video in told]
        made = dict(receipt, key=job["key"], attempt=attempt, fields=job["fields"], files=files, inputs=job["inputs"], videos=videos)
        made["stats"] = dict(receipt["stats"], **job["stats"])
        (workspace / job["stage"] / "receipts").mkdir(exist_ok=True)
        (workspace / job["stage"] / "receipts" / f"{job['key']}.json").write_text(json.dumps(made))

    def plan_out(self):
        """A plan for other engines; its folder and what it cost."""
        self.plans += 1
        name = f"plans/{self.plans}-{os.getpid()}"
        cost, said = self.run("plan", "pipeline.yaml", "--out", name, "--format", "json")
        return self.folder / name, json.loads(said)["partitions"], cost

    def work(self, plan):
        """Does a plan's jobs."""
        templates = {}
        for path in sorted((plan / "jobs").glob("*.jsonl")):
            with path.open() as lines:
                for line in lines:
                    job = json.loads(line)
                    if job["stage"] not in templates:
                        templates[job["stage"]] = self.template(job["stage"])
                    self.file(job, templates[job["stage"]])

    def small_files(self):
        """The sizes of all files that are no results of tasks."""
        workspace = self.folder / "ws"
        folders = [workspace / stage / kind for stage in ("frames", "model", "labels", "policy") for kind in SMALL]
        paths = [path for folder in [*folders, workspace / "runs", workspace / "pins"] for path in folder.glob("*")]
        return {path: path.stat().st_size for path in paths}

    def commit(self, plan):
        """Commits a plan: what it cost, in words."""
        before = self.small_files()
        cost, _ = self.run("commit", "--plan", str(plan))
        after = self.small_files()
        written = sum(size for path, size in after.items() if path not in before)
        return f"{cost}, {written / 1e3:.1f} kB written"

    def plan(self, what):
        cost, said = self.run("plan", "pipeline.yaml", "--format", "json")
        stages = ", ".join(f"{stage['stage']} {stage['new']} new and {stage['reused']} done" for stage in json.loads(said))
        print(f"plan, {what}: {cost} ({stages})", flush=True)

    def make(self, clips):
        """The workspace, wave by wave."""
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
        # Of a folder that was measured before some clips are in the dataset.
        done = len(list((self.folder / "ws/frames/manifests").glob("*.json"))) - 1
        self.write_pipeline(clips[:done])
        self.plan("all done")
        # A setting of the labels changes: all are to be made.
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
            cost, said = self.run("query", sql, "--workspace", "ws")
            print(f"{sql}: {cost}: {' '.join(said.split())}")
        print(f"datasets: {self.run('datasets', '--workspace', 'ws')[0]}", flush=True)


def main():
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("lapo", type=pathlib.Path)
    asked.add_argument("--videos", type=int, default=100_000)
    asked.add_argument("--per-shard", type=int, default=8)
    asked.add_argument("--folder", type=pathlib.Path)
    asked = asked.parse_args()
    clips = sorted((pathlib.Path(__file__).resolve().parents[2] / "data/maze").glob("*.mp4"))
    with tempfile.TemporaryDirectory() as made:
        folder = (asked.folder or pathlib.Path(made)).resolve()
        bench = Bench(asked.lapo.resolve(), folder, asked.videos, asked.per_shard)
        print(f"{asked.videos} videos, {asked.per_shard} a shard, {os.cpu_count()} cores", flush=True)
        if not (folder / "ws").exists():
            folder.mkdir(exist_ok=True)
            bench.make(clips[:4])
        bench.measure(clips[4:])


if __name__ == "__main__":
    main()
