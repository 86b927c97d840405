"""Plans the capacity of a fleet: lapo really plans millions of videos, and a simulation runs the planned tasks on thousands of workers.

    python tests/bench/fleet.py target/release/lapo [--videos 10000000] [--workers 10000] [--per-shard 10,100,1000] [--seed 7] [--out fleet.csv]

The list of videos is invented. `lapo plan --out`, `lapo status` and `lapo commit` are measured on a local disk. The simulation reads the
tasks in the files `jobs/*.jsonl` of the plan, draws times, stragglers and deaths, and queues requests at the limits of the store: see
`Model`. With --out, rows are appended to a CSV file. Needs pyarrow, and for ten million videos 18 GB of memory and 5 GB of disk.
"""

import argparse
import csv
import heapq
import itertools
import json
import math
import pathlib
import random
import resource
import subprocess
import tempfile
from array import array
from collections import defaultdict, deque
from dataclasses import dataclass
from types import SimpleNamespace

import million
import pyarrow as pa
import pyarrow.parquet as pq

PIPELINE = """
name: fleet
workspace: ws
stages:
  frames: {{ decode: {{ lists: ['clips.parquet'], size: 64, fps: 15, identity: etag, videos_per_shard: {per_shard}, shard_mib: 1000000 }} }}
"""
HERE = pathlib.Path(__file__).resolve().parent
SCHEMA = pa.schema([("uri", pa.string()), ("bytes", pa.int64()), ("etag", pa.string())])
COMMIT_VIDEOS = 100_000  # videos of the measured commit, and of the smallest plan
SMALLER_PLANS = [300_000, 1_000_000]  # videos of more plans, to show how the cost grows
MEMORY_BYTES = 20_480_000_000  # limit of the address space of each process
STEP_VIDEOS = 10  # videos of one simulated step: less is finer and slower
STORM_SECONDS = 120  # reads of the workspace's prefix in this time are the storm of starting workers
READS, WRITES = "reads", "writes"  # prefixes: of the workspace with the plan
SMALL_OVERHEAD = 0.1  # an overhead below this share of the time for decoding limits nothing


@dataclass(frozen=True)
class Model:
    """The numbers of the simulation. Requests were counted with moto behind a proxy that logs them: an MP4 of 983 kB with its index at the end."""

    workers: int = 10_000  # of one core each
    container_median_seconds: float = 5.0  # assumed: the image is on the node already
    container_sigma: float = 0.3  # assumed
    frames_per_video: float = 150.0  # assumed: 10 s, of which the pipeline keeps 15 frames a second
    decoded_frames_per_second: float = 300.0  # measured: frames of 64 x 64 that a core makes
    decode_sigma: float = 0.5  # assumed
    heavy_share: float = 0.001  # assumed: videos that take much longer
    heavy_factor: float = 50.0  # assumed
    slow_share: float = 0.01  # assumed: straggling machines
    slow_factor: float = 4.0  # assumed: they decode at a quarter of the speed
    request_median_seconds: float = 0.020  # assumed
    request_sigma: float = 0.990  # assumed: a 99th percentile of 0.2 s, ln(0.2 / 0.02) / 2.3263
    bytes_per_second: float = 50e6  # assumed: a worker's throughput
    reads_per_second: float = 5_500.0  # documented by S3 for each prefix. S3 refuses more and lapo repeats them; here they wait in a queue
    writes_per_second: float = 3_500.0  # likewise
    reads_per_video: int = 10  # counted: a HEAD each for the decoder, the kind of file and the check for changes, and 7 ranges
    read_bytes_per_byte: float = 1.56  # counted: some ranges are read twice
    shard_bytes_per_video: int = 1_848_121  # measured: 150 frames of 64 x 64 x 3 bytes, uncompressed
    part_bytes: int = 8 << 20  # PART of src/dataset/remote.rs
    parts_at_once: int = 4  # PARTS there
    requests_at_once: int = 32  # REQUESTS there, REMOTE_THREADS of src/dataset/joined.rs
    tasks_per_jobs_file: int = 1000  # PER_FILE of src/pipeline/partitions.rs
    keys_per_page: int = 1000  # of a listing, by S3
    poll_seconds: float = 30.0  # assumed: the driver's pause between two listings
    replace_seconds: float = 60.0  # assumed: until another machine takes the place of a dead one
    restarts: int = 3  # default of the executors


@dataclass(frozen=True)
class Scenario:
    """One way to run a wave. By default a worker does one task and ends, as with `partitions_per_worker: 1`."""

    name: str
    stagger_seconds: float = 60.0  # the longest wait before the first start
    mtbf_hours: float = 200.0  # mean time between failures of a worker
    one_prefix: bool = False  # whether all videos share one prefix's limit, as in a bucket that S3 has not split; else each folder has its own
    starts_per_worker: int = 0  # shares have so many tasks that each worker starts about this often; 0: one task


SCENARIOS = [
    Scenario("at once", stagger_seconds=0.0),
    Scenario("staggered"),
    Scenario("spot", mtbf_hours=5.0),
    Scenario("few starts", starts_per_worker=4),
    Scenario("one prefix", one_prefix=True),
]


class Planner(million.Bench):
    """Runs lapo on invented videos."""

    def write_pipeline(self):
        """Writes the list in pieces, and the pipeline."""
        with pq.ParquetWriter(self.folder / "clips.parquet", SCHEMA) as writer:
            for begin in range(0, self.videos, 100_000):
                rows = range(begin, min(begin + 100_000, self.videos))
                uris = [f"s3://bucket/crawl/part-{i // 10_000:05d}/clip-{i:08d}.mp4" for i in rows]
                writer.write_table(pa.table([uris, [1_000_000 + i % 1000 for i in rows], [f'"{i:032x}"' for i in rows]], schema=SCHEMA))
        (self.folder / "pipeline.yaml").write_text(PIPELINE.format(per_shard=self.per_shard))

    def measure_plan(self):
        """Plans, and asks for the status. Returns the plan's folder and the cost."""
        self.write_pipeline()
        plan, tasks, cost = self.plan_out()
        status, _ = self.run("status", "--plan", str(plan))
        seconds, _, peak_gb = parse_cost(cost)
        plan_gb = sum(path.stat().st_size for path in plan.rglob("*") if path.is_file()) / 1e9
        planned = {"videos": self.videos, "videos_per_shard": self.per_shard, "tasks": tasks, "plan_seconds": seconds, "plan_peak_gb": peak_gb}
        planned |= {"plan_gb": plan_gb, "status_seconds": parse_cost(status)[0]}
        print(f"planned: {planned}", flush=True)
        return plan, planned

    def core_seconds_per_receipt(self):
        """Commits invented receipts. Returns the seconds of a core for each."""
        self.learn(sorted((HERE.parents[1] / "data/maze").glob("*.mp4"))[:4])
        plan, planned = self.measure_plan()
        self.work(plan)
        cost = self.commit(plan)
        print(f"committed: {planned['tasks']} receipts of {self.videos} videos in {cost}", flush=True)
        return parse_cost(cost)[1] / planned["tasks"]


def parse_cost(text):
    """Returns seconds, seconds of a core and GB of the cost that `million.Bench.run` returns."""
    words = text.replace("(", "").split()
    return float(words[0]), float(words[2]), float(words[7]) * 2**30 / 1e9


class Tasks:
    """The tasks of a plan, in steps of at most `STEP_VIDEOS` videos. Steps are columns: videos, bytes, seconds of decoding, number of the folder."""

    def __init__(self):
        self.first_step, self.jobs_file_bytes = array("l", [0]), []
        self.videos, self.bytes, self.decode_seconds, self.folder = array("l"), array("d"), array("d"), array("l")

    def __len__(self):
        return len(self.first_step) - 1

    def add_step(self, *values):
        for column, value in zip((self.videos, self.bytes, self.decode_seconds, self.folder), values):
            column.append(value)

    def end_task(self):
        self.first_step.append(len(self.videos))


def read_tasks(plan, model, seed):
    """Streams the jobs of a plan and draws the decode time of every video: the same for all sizes of shards."""
    tasks, folders, rng = Tasks(), {}, random.Random(seed)
    median = model.frames_per_video / model.decoded_frames_per_second
    for path in sorted((plan / "jobs").glob("*.jsonl")):
        tasks.jobs_file_bytes.append(path.stat().st_size)
        with path.open() as lines:
            for job in map(json.loads, lines):
                videos = job["task"]["decode"]["videos"]
                assert job["units"] == len(videos), f"{path}: a task of {job['units']} units has {len(videos)} videos"
                for step in (videos[at : at + STEP_VIDEOS] for at in range(0, len(videos), STEP_VIDEOS)):
                    factors = (model.heavy_factor if rng.random() < model.heavy_share else 1.0 for _ in step)
                    seconds = sum(median * factor * rng.lognormvariate(0.0, model.decode_sigma) for factor in factors)
                    folder = folders.setdefault(step[0]["uri"].rsplit("/", 1)[0], len(folders))
                    tasks.add_step(len(step), sum(video["bytes"] for video in step), seconds, folder)
                tasks.end_task()
    return tasks


class Wave:
    """The simulation of one wave. `heap` has events: time, number, function, argument."""

    def __init__(self, model, scenario, tasks, seed):
        self.model, self.scenario, self.tasks, self.rng = model, scenario, tasks, random.Random(seed)
        self.now, self.heap, self.numbers = 0.0, [], itertools.count()
        per_share = -(-len(tasks) // (scenario.starts_per_worker * model.workers)) if scenario.starts_per_worker else 1
        self.shares = -(-len(tasks) // per_share)
        self.pending, self.dead, self.idle, self.restarts = deque(range(self.shares)), [], [], [0] * self.shares
        self.done, self.left, self.ends, self.starts = bytearray(len(tasks)), 0, array("d"), 0
        # By prefix, the time until which the tokens of its bucket are taken. A bucket holds those of one second, and serves in order of arrival.
        self.taken_until = defaultdict(lambda: -1.0)
        self.requests, self.storm, self.storm_wait = 0, [0] * STORM_SECONDS, 0.0
        self.seconds = dict.fromkeys(["busy", "starts", "tasks", "lost", "store", "replaced"], 0.0)
        # The sum of some latencies is the difference of two entries of a running sum.
        drawn = (self.rng.lognormvariate(math.log(model.request_median_seconds), model.request_sigma) for _ in range(1 << 20))
        self.latencies = array("d", itertools.accumulate(drawn, initial=0.0))

    def run(self):
        """Runs until every task is done, or left after too many restarts."""
        for _ in range(self.model.workers):
            # `attempt` yields the seconds of its steps, `dies` is when the machine dies if it lasts, `credited` until when time is counted.
            self.replace(SimpleNamespace(slow=1.0, started=False, share=0, attempt=None, dies=0.0, credited=0.0))
        self.after(self.model.poll_seconds, self.poll, None)
        while len(self.ends) + self.left < len(self.tasks):
            time, _, function, argument = heapq.heappop(self.heap)
            assert time >= self.now, f"time goes back from {self.now} to {time}"
            self.now = time
            function(argument)
        assert len(self.ends) == self.done.count(1) == len(self.tasks) - self.left, "a task is not done exactly once"
        parts = self.seconds["starts"] + self.seconds["tasks"] + self.seconds["lost"]
        assert math.isclose(self.seconds["busy"], parts, rel_tol=1e-6), f"the busy time is not the sum of its parts: {self.seconds}"

    def after(self, seconds, function, argument):
        """Adds an event."""
        heapq.heappush(self.heap, (self.now + seconds, next(self.numbers), function, argument))

    def replace(self, worker):
        """Draws the speed of a new machine, and gives it work."""
        worker.slow = self.model.slow_factor if self.rng.random() < self.model.slow_share else 1.0
        self.begin_share(worker)

    def begin_share(self, worker):
        """Gives a free worker the next pending share."""
        if not self.pending:
            return self.idle.append(worker)
        worker.share, worker.credited, worker.attempt = self.pending.popleft(), self.now, self.attempt(worker)
        # Failures have no memory, so a death may be drawn anew for every share.
        worker.dies = self.now + self.rng.expovariate(1.0) * self.scenario.mtbf_hours * 3600
        self.starts += 1
        self.advance(worker)

    def advance(self, worker):
        """Begins a worker's next step, which ends, or its machine dies before."""
        seconds = next(worker.attempt, None)
        if seconds is None:
            return self.begin_share(worker)
        lived = min(seconds, worker.dies - self.now)
        self.seconds["busy"] += lived
        self.after(lived, self.advance if lived == seconds else self.die, worker)

    def attempt(self, worker):
        """Yields the seconds of the steps of one attempt at a share: the start, then the unfinished tasks one after another."""
        longest = 0.0 if worker.started else self.scenario.stagger_seconds
        worker.started = True
        yield self.rng.uniform(0.0, longest) + self.model.container_median_seconds * self.rng.lognormvariate(0.0, self.model.container_sigma)
        yield self.open_seconds(self.tasks_of(worker.share))
        self.credit(worker, "starts")
        for task in self.tasks_of(worker.share):
            if not self.done[task]:
                steps = range(self.tasks.first_step[task], self.tasks.first_step[task + 1])
                for step in steps:
                    yield self.read_seconds(step) + self.tasks.decode_seconds[step] * worker.slow
                yield self.file_seconds(sum(self.tasks.videos[step] for step in steps))
                self.credit(worker, "tasks")
                self.done[task] += 1
                self.ends.append(self.now)

    def tasks_of(self, share):
        """Returns a share's tasks, like `Share::range` of src/executor/engine.rs."""
        return range(share * len(self.tasks) // self.shares, (share + 1) * len(self.tasks) // self.shares)

    def credit(self, worker, part):
        """Counts the time since the last call for this attempt as `part`."""
        self.seconds[part] += self.now - worker.credited
        worker.credited = self.now

    def die(self, worker):
        """Ends a machine. Its finished tasks stay, since they have receipts."""
        self.credit(worker, "lost")
        self.dead.append(worker.share)
        self.seconds["replaced"] += self.model.replace_seconds
        self.after(self.model.replace_seconds, self.replace, worker)

    def poll(self, _):
        """Lists all receipts, then restarts the shares that were dead when the listing began."""
        dead, self.dead = self.dead, []
        self.after(self.listing_seconds(), self.restart, dead)

    def restart(self, dead):
        """Queues dead shares again, and gives them to idle workers."""
        for share in dead:
            self.restarts[share] += 1
            if self.restarts[share] <= self.model.restarts:
                self.pending.append(share)
            else:
                self.left += sum(not self.done[task] for task in self.tasks_of(share))
        for _ in range(min(len(self.idle), len(self.pending))):
            self.begin_share(self.idle.pop())
        self.after(self.model.poll_seconds, self.poll, None)

    def request_seconds(self, prefix, count, in_series, size=0.0):
        """Returns the seconds of some requests: the queue at the prefix's token bucket, the latencies of those in series, and the transfer."""
        rate = self.model.writes_per_second if prefix == WRITES else self.model.reads_per_second
        self.taken_until[prefix] = max(self.taken_until[prefix], self.now - 1.0) + count / rate
        wait = max(0.0, self.taken_until[prefix] - self.now)
        self.requests += count
        if prefix in (READS, WRITES) and self.now < STORM_SECONDS:
            self.storm[int(self.now)] += count if prefix == READS else 0
            self.storm_wait = max(self.storm_wait, wait)
        at = int(self.rng.random() * (len(self.latencies) - in_series))
        seconds = wait + self.latencies[at + in_series] - self.latencies[at] + size / self.model.bytes_per_second
        self.seconds["store"] += seconds
        return seconds

    def open_seconds(self, tasks):
        """`partitions::work`: reads `plan.json`, `lapo.json`, places and jobs, looks for a receipt of every task, and records the attempt."""
        files = range(tasks[0] // self.model.tasks_per_jobs_file, tasks[-1] // self.model.tasks_per_jobs_file + 1)
        # Of a jobs file only the worker's lines: a HEAD and a range.
        own = len(tasks) / min(self.model.tasks_per_jobs_file, len(self.tasks)) / len(files)
        reads = self.request_seconds(
            READS,
            2 + 3 * len(files) + len(tasks),
            2 + 3 * len(files) + math.ceil(len(tasks) / self.model.requests_at_once),
            sum(self.tasks.jobs_file_bytes[file] * own for file in files),
        )
        return reads + self.request_seconds(WRITES, 2, 2)

    def read_seconds(self, step):
        """Reads the videos of a step. A range is requested when the decoder gets there, so nothing overlaps."""
        prefix = 0 if self.scenario.one_prefix else self.tasks.folder[step]
        count = self.tasks.videos[step] * self.model.reads_per_video
        return self.request_seconds(prefix, count, count, self.tasks.bytes[step] * self.model.read_bytes_per_byte)

    def file_seconds(self, videos):
        """`Remote::upload`: puts `shard.arrow`, in parts if it is large, and `quality.parquet`, each with a HEAD; then creates the receipt."""
        size = videos * self.model.shard_bytes_per_video
        parts = math.ceil(size / self.model.part_bytes)
        puts, in_series = (1, 1) if parts == 1 else (parts + 2, 2 + math.ceil(parts / self.model.parts_at_once))
        return self.request_seconds(WRITES, puts + 2, in_series + 2, size) + self.request_seconds(READS, 2, 2)

    def listing_seconds(self):
        """Lists all receipts and the two records of each attempt, one page after another."""
        pages = (len(self.ends) + 2 * self.starts) // self.model.keys_per_page + 2
        return self.request_seconds(READS, pages, pages)

    def row(self, planned, core_seconds):
        """Returns the results. The limit is the largest overhead, in seconds of the fleet."""
        workers, ideal = self.model.workers, sum(self.tasks.decode_seconds) / self.model.workers
        tail = self.now - self.ends[math.ceil(0.99 * len(self.ends)) - 1]  # the time of the last 1% of the tasks
        # A commit is a core's work, a GET of every receipt, and a HEAD and a GET of its `quality.parquet`.
        mean = self.model.request_median_seconds * math.exp(self.model.request_sigma**2 / 2)
        commit = len(self.ends) * (core_seconds + 3 * mean / self.model.requests_at_once)
        listing = self.listing_seconds()
        overheads = {"planner": planned["plan_seconds"], "commit": listing + commit, "tail": tail, "store": self.seconds["store"] / workers}
        overheads |= {"starts": self.seconds["starts"] / workers, "failures": (self.seconds["lost"] + self.seconds["replaced"]) / workers}
        limit = max(overheads, key=overheads.get) if max(overheads.values()) > SMALL_OVERHEAD * ideal else "none"
        shown = ", ".join(f"{name} {seconds:.0f}" for name, seconds in ({"decoding": ideal} | overheads).items())
        print(f"{planned['videos_per_shard']} a shard, {self.scenario.name}: seconds of the fleet: {shown}", flush=True)
        row = planned | {"workers": workers, "scenario": self.scenario.name}
        row |= {"storm_requests_per_second": max(self.storm), "storm_wait_seconds": self.storm_wait, "requests_per_second": self.requests / self.now}
        row |= {"starts_per_second": self.starts / self.now, "wave_hours": self.now / 3600, "utilisation": ideal / self.now, "tail_seconds": tail}
        row |= {"redone_percent": 100 * self.seconds["lost"] / self.seconds["busy"], "tasks_left": self.left, "listing_seconds": listing}
        row |= {"commit_seconds": commit, "total_hours": (planned["plan_seconds"] + self.now + listing + commit) / 3600, "limit": limit}
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}


def check_closed_form():
    """Compares a wave without chance and limits with its closed form: ten tasks of a worker, one after another."""
    model = Model(workers=100, container_sigma=0.0, slow_share=0.0, request_sigma=0.0, reads_per_second=math.inf, writes_per_second=math.inf)
    tasks = Tasks()
    tasks.jobs_file_bytes.append(1_000_000)
    for _ in range(1000):
        tasks.add_step(4, 4e6, 2.0, 0)
        tasks.end_task()
    wave = Wave(model, Scenario("constant", stagger_seconds=0.0, mtbf_hours=math.inf), tasks, 0)
    wave.run()
    # Requests: 8 at the start, 40 for four videos, and 3 writes and 2 reads for a shard of one part. A job is a thousandth of its file.
    expected = 10 * (5.0 + 2.0 + (8 + 40 + 5) * 0.020 + (1_000 + 4e6 * 1.56 + 4 * 1_848_121) / 50e6)
    assert math.isclose(wave.now, expected, rel_tol=1e-9), f"the wave took {wave.now} s, expected {expected} s"
    print(f"closed form: {expected:.6f} s, simulated: {wave.now:.6f} s", flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("lapo", type=pathlib.Path)
    for name, default in [("--videos", 10_000_000), ("--workers", 10_000), ("--per-shard", "10,100,1000"), ("--seed", 7)]:
        args.add_argument(name, type=type(default), default=default)
    args.add_argument("--decode-rate", type=float, default=300.0, help="frames a second that a core decodes")
    args.add_argument("--out", type=pathlib.Path)
    args = args.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    model, sizes, rows = Model(workers=args.workers, decoded_frames_per_second=args.decode_rate), [int(size) for size in args.per_shard.split(",")], []
    check_closed_form()
    with tempfile.TemporaryDirectory() as folder:
        core_seconds = Planner(args.lapo.resolve(), pathlib.Path(folder), min(args.videos, COMMIT_VIDEOS), sizes[0]).core_seconds_per_receipt()
    for videos, per_shard in [*((videos, sizes[0]) for videos in SMALLER_PLANS if videos < args.videos), *((args.videos, size) for size in sizes)]:
        with tempfile.TemporaryDirectory() as folder:
            plan, planned = Planner(args.lapo.resolve(), pathlib.Path(folder), videos, per_shard).measure_plan()
            tasks = read_tasks(plan, model, args.seed) if videos == args.videos else None
        for scenario in SCENARIOS if tasks else []:
            assert sum(tasks.videos) == videos and len(tasks) == planned["tasks"], "the plan has other videos or tasks"
            wave = Wave(model, scenario, tasks, args.seed)
            wave.run()
            rows.append(wave.row(planned, core_seconds))
    lines = [list(map(str, line)) for line in [rows[0], *(row.values() for row in rows)]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    print("\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines))
    means = {size: round(sum(row["total_hours"] for row in rows if row["videos_per_shard"] == size) / len(SCENARIOS), 2) for size in sizes}
    print(f"advice: videos_per_shard: {min(means, key=means.get)}. Hours from plan to commit, mean of the scenarios: {means}")
    if args.out:
        commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        command = f"tests/bench/fleet.py --videos {args.videos} --workers {args.workers} --per-shard {args.per_shard} --seed {args.seed} --decode-rate {args.decode_rate:g}"
        with args.out.open("a", newline="") as file:
            header = [] if file.tell() else [[*rows[0], "command", "commit"]]
            csv.writer(file, lineterminator="\n").writerows(header + [[*row.values(), command, commit] for row in rows])


if __name__ == "__main__":
    main()
