#!/usr/bin/env python3
"""Compares the speed of lapo with its peers. Measures both in turns (A B A B) and prints the ratios of the medians as one table.

    compare.py --lapo target/release/lapo [--part decode label speed sample play learn] [--rounds 3] [--out table.md]

decode   CPU seconds against the ffmpeg CLI decoding and area-scaling the same frames in one process
label    wall seconds from videos to labels, against PyAV + PyTorch + pyarrow (peer/label_videos.py)
speed    an IDM forward pass and a stage-1 training step (`lapo bench`), against the fastest of PyTorch eager, channels-last and
         compiled (peer/torch_modes.py)
sample   random windows from memory-mapped shards, against numpy
play     frames of Procgen, against gym3
learn    held-out FDM error after --steps of `reference: true`, against PyTorch (peer/train_probe.py). Every round is a seed; both
         programs start from the same weights and draw the same batches. Also prints the error of the default recipe relative to
         copying the last frame; it has no peer.

A ratio below 1.00 means that lapo is faster (or better). Needs ffmpeg; label, speed and learn also need torch, av, numpy, pyarrow and
safetensors. Run nothing else meanwhile: PyTorch's threads spin and slow down a lot when disturbed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
PEER = HERE / "peer"
AREA = "area+accurate_rnd+full_chroma_int"
# Prints the microseconds per window.
SAMPLE = """
import sys, time, numpy as np
count = 5000
np.memmap(sys.argv[1], np.uint8, "w+", shape=(count, 64, 64, 3))[:] = 1
frames, rng, out = np.memmap(sys.argv[1], np.uint8, "r", shape=(count, 64, 64, 3)), np.random.default_rng(0), np.empty((32, 3, 64, 64, 3), np.uint8)
def batch():
    for place, start in zip(out, rng.integers(0, count - 3, 32)):
        place[:] = frames[start:start + 3]
times = []
for _ in range(1200):
    start = time.perf_counter()
    batch()
    times.append(time.perf_counter() - start)
print(sorted(times)[600] / 32 * 1e6)
"""
# Prints the frames per second of 64 mazes.
PLAY = """
import sys, time, numpy as np
from procgen import ProcgenGym3Env
env = ProcgenGym3Env(num=64, env_name="maze", distribution_mode="easy", rand_seed=0, num_threads=int(sys.argv[1]))
rng, times = np.random.default_rng(0), []
while sum(times) < 2:
    start = time.perf_counter()
    env.act(rng.integers(0, 15, 64).astype(np.int32))
    env.observe()
    times.append(time.perf_counter() - start)
print(64 / sorted(times)[len(times) // 2])
"""
PARTS = ["decode", "label", "speed", "sample", "play", "learn"]


def timed(command):
    """Runs a command. Returns (wall seconds, CPU seconds, peak MiB, stdout); exits if it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0), err.seek(0)
        if child.returncode:
            sys.exit(f"{command}\n{err.read()}")
        return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read()


def alternate(rounds, ours, theirs):
    """Takes two measurements in turns. Returns their medians."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return [statistics.median(side) for side in zip(*pairs)]


def pipeline(folder, stages, seed):
    """Writes a pipeline and returns its path."""
    (folder / "p.yaml").write_text(json.dumps(dict(name="bench", workspace=str(folder / "ws"), seed=seed, stages=stages)))
    return folder / "p.yaml"


def fresh_run(lapo, folder, stages, threads, seed=0):
    """Runs a pipeline in an empty workspace."""
    subprocess.run(["rm", "-rf", folder / "ws"], check=True)
    return timed([lapo, "run", pipeline(folder, stages, seed), "--threads", threads, "--device", "cpu"])


def clips(folder, count, size, seconds):
    """Makes test clips with motion everywhere: a slow zoom into a fractal."""
    folder.mkdir()
    for i in range(count):
        source = f"mandelbrot=size={size}:rate=30:start_x={-0.7436 + i * 1e-4}"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-t", str(seconds), "-pix_fmt", "yuv420p",
                   "-c:v", "libx264", "-preset", "veryfast", folder / f"{i:03}.mp4"]
        subprocess.run(command, check=True)
    return sorted(folder.glob("*.mp4"))


def decode(args, folder):
    """Measures the CPU seconds of decoding many short clips and one large one."""
    for what, count, size, seconds in (("128 short clips, 320x240", 128, "320x240", 2), ("one 1080p clip", 1, "1920x1080", 20)):
        here = folder / f"clips{count}"
        videos = clips(here, count, size, seconds)
        listing = here / "list.txt"
        listing.write_text("".join(f"file '{v}'\n" for v in videos))
        stages = {"frames": {"decode": {"videos": [f"{here}/*.mp4"], "cut": None}}}
        peak = []

        def ours():
            _, cpu, memory, _ = fresh_run(args.lapo, here, stages, args.threads)
            peak.append(memory)
            return cpu

        def theirs():
            command = ["ffmpeg", "-v", "error", "-f", "concat", "-safe", "0", "-i", listing, "-vf", f"scale=64:64:flags={AREA}",
                       "-pix_fmt", "rgb24", "-f", "rawvideo", "-y", here / "raw"]
            return timed(command)[1]

        yield f"decode {what}", "CPU s", *alternate(args.rounds, ours, theirs), f"ffmpeg CLI; lapo peaks at {max(peak):.0f} MiB"


def label(args, folder):
    """Measures the seconds from videos to labels."""
    here = folder / "label"
    videos = clips(here, 128, "256x256", 2)
    frames = {"decode": {"videos": [f"{here}/*.mp4"], "cut": None}}
    train = {"train_dynamics": {"frames": "frames", "steps": 1, "batch": 2, "reference": True}}  # the networks of the peer
    labels = {"label": {"frames": "frames", "dynamics": "model", "fdm_error": False}}  # the peer computes no FDM error

    def stage_seconds(record, kinds):
        return sum(s["seconds"] for s in record["stages"] if s["kind"] in kinds)

    def ours():
        fresh_run(args.lapo, here, {"frames": frames, "model": train, "labels": labels}, args.threads)
        record = json.loads(next((here / "ws/runs").glob("*.json")).read_text())
        return stage_seconds(record, ("decode", "label"))

    def theirs():
        out = timed([args.python, PEER / "label_videos.py", here / "peer.parquet", *videos, "--threads", args.threads])[3]
        return float(re.search(r"in ([\d.]+) s", out)[1])

    yield "videos to labels, 128 clips, tiny", "s", *alternate(args.rounds, ours, theirs), "PyAV + PyTorch + pyarrow"


def speed(args, _):
    """Measures the IDM and a training step. lapo and the modes of PyTorch take turns of seconds, so that changes of the machine's
    speed affect all alike.

    PyTorch stays running between its turns, because it compiles for a minute. The last column has lapo's share of the speed of a
    plain matrix product.
    """
    for preset, idm, fdm in (("tiny", 1, 8), ("small", 2, 12)):
        bench = [args.lapo, "bench", "--reference", "--preset", preset, "--threads", args.threads, "--device", "cpu", "--format", "json", "--seconds", 1.5]
        command = [args.python, PEER / "torch_modes.py", "--idm-scale", idm, "--wm-scale", fdm, "--threads", args.threads, "--cpu", "--serve",
                   "--seconds", 1.5]
        ours, theirs = [], {mode: [] for mode in ("eager", "channels-last", "compile")}
        with subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdout.readline() == "ready\n"
            for _ in range(args.rounds):
                for mode, found in theirs.items():
                    ours.append(json.loads(timed(bench)[3])["rows"])
                    print(mode, file=peer.stdin, flush=True)
                    found.append(json.loads(peer.stdout.readline()))
            peer.stdin.close()
        for what, row, key, scale, unit in ((f"IDM forward, {preset}, batch 128", 0, "transitions_per_s", 1e6, "us"),
                                            (f"training step, {preset}, batch 32", 2, "steps_per_s", 1, "s")):
            speeds = {mode: statistics.median(turn[key] for turn in turns) for mode, turns in theirs.items()}
            best = max(speeds, key=speeds.get)
            mine, share = (statistics.median(rows[row][k] for rows in ours) for k in ("speed", "share"))
            yield what, unit, scale / mine, scale / speeds[best], f"PyTorch, best: {best}; lapo at {share:.0%} of a matrix product's FLOP/s"


def sample(args, folder):
    """Measures the microseconds per random window on one core with a warm cache, against numpy over a memory-mapped array."""
    here = folder / "sample"
    here.mkdir()
    fresh_run(args.lapo, here, {"frames": {"decode": {"videos": [f"{args.videos.resolve()}/*.mp4"], "cut": None}}}, args.threads)

    def ours():
        bench = [args.lapo, "bench", "--frames", here / "ws/frames", "--seconds", 2, "--device", "cpu", "--format", "json"]
        return 1e6 / json.loads(timed(bench)[3])["rows"][3]["speed"]

    def theirs():
        return float(timed([args.python, "-c", SAMPLE, here / "raw"])[3])

    yield "random windows of 3 frames, one core", "us", *alternate(args.rounds, ours, theirs), "numpy memmap"


def play(args, _):
    """Measures the microseconds per frame of Procgen, against its Python package gym3. LAPO_PROCGEN names the environment of both."""
    venv = os.environ["LAPO_PROCGEN"]

    def ours():
        bench = [args.lapo, "bench", "--seconds", 2, "--threads", args.threads, "--device", "cpu", "--format", "json"]
        return 1e6 / json.loads(timed(bench)[3])["rows"][-1]["speed"]

    def theirs():
        return 1e6 / float(timed([f"{venv}/bin/python", "-c", PLAY, args.threads])[3])

    yield "Procgen, 64 mazes, random actions", "us", *alternate(args.rounds, ours, theirs), "gym3"


def learn(args, folder):
    """Trains with several seeds and compares the medians. Prints the single results to stderr."""
    here = folder / "learn"
    here.mkdir()
    frames = {"decode": {"videos": [f"{args.videos.resolve()}/*.mp4"], "cut": None}}

    def verdict(seed, **settings):
        config = dict(frames="frames", preset="tiny", steps=args.steps, batch=32, **settings)
        fresh_run(args.lapo, here, {"frames": frames, "model": {"train_dynamics": config}}, args.threads, seed)
        found = json.loads(next((here / "ws/model/data").glob("*/*/verdict.json")).read_text())
        print(seed, settings, found["sentence"], file=sys.stderr, flush=True)
        return found

    def peer(seed):
        command = [args.python, PEER / "train_probe.py", args.videos, "--steps", args.steps, "--batch", 32, "--seed", seed]
        found = json.loads(timed(command)[3].strip().splitlines()[-1])
        print(seed, found, file=sys.stderr, flush=True)
        return found["fdm_error"]

    seeds = [iter(range(args.rounds)), iter(range(args.rounds))]
    ours, theirs = alternate(args.rounds, lambda: verdict(next(seeds[0]), reference=True)["fdm_error"], lambda: peer(next(seeds[1])))
    yield f"FDM error, reference, {args.steps} steps (x1000)", "MSE", ours * 1e3, theirs * 1e3, "PyTorch, the same recipe"
    found = [verdict(seed) for seed in range(args.rounds)]
    errors, copying = ([f[key] * 1e3 for f in found] for key in ("fdm_error", "copy_error"))
    yield f"FDM error, default recipe, {args.steps} steps (x1000)", "MSE", max(errors), copying[0], "copying the last frame; lapo has its worst seed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lapo", default="target/release/lapo", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--part", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--videos", type=Path, default=HERE.parent.parent / "data/maze", help="folder of videos with actions.parquet for `learn`")
    parser.add_argument("--steps", type=int, default=300, help="training steps of `learn`")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.lapo = args.lapo.resolve()
    rows = ["| what | unit | lapo | peer | ratio | peer is |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for part in args.part:
            for what, unit, ours, theirs, peer in globals()[part](args, Path(folder)):
                rows.append(f"| {what} | {unit} | {ours:.3f} | {theirs:.3f} | {ours / theirs:.2f} | {peer} |")
                print(rows[-1], flush=True)
    print("\n".join(rows))
    if args.out:
        args.out.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
