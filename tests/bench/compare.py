#!/usr/bin/env python3
"""Ratios of lapo to its peers, measured in one run: A B A B, medians, one table.

    compare.py --lapo target/release/lapo [--part decode label train learn] [--rounds 3] [--out table.md]

decode   CPU seconds against the ffmpeg CLI decoding and area-scaling the same frames in one process
label    wall seconds, videos to labels, against PyAV + PyTorch + pyarrow (peer/label_videos.py); the IDM alone against PyTorch
train    wall seconds of a stage-1 step against PyTorch (peer/lapo_torch.py bench)
learn    held-out FDM error after --steps of `reference: true` against PyTorch (peer/train_probe.py) from the same seed, a round
         being a seed: both start with the same weights and draw the same batches;
         and the default recipe's error relative to copying the last frame, which has no peer

Below 1.00 is faster (or better) than the peer. Needs ffmpeg, and for label and train: torch, av, numpy, pyarrow, safetensors.
Nothing else should run meanwhile: PyTorch's threads spin, and lose much when disturbed.
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
QUICKSTART = dict(learning_rate=1e-3, vq=dict(revive_after=20, decay=0.99))
# GFLOP/s of a plain matrix product.
GEMM = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
a, times = torch.rand(1536, 1536), []
for _ in range(8):
    start = time.perf_counter()
    a @ a
    times.append(time.perf_counter() - start)
print(2 * 1536**3 / sorted(times)[4] / 1e9)
"""
PARTS = ["decode", "label", "train", "learn"]


def timed(command):
    """(wall seconds, CPU seconds, peak MiB, stdout) of a command that must succeed."""
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
    """Medians of two measurements taken in turns."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return [statistics.median(side) for side in zip(*pairs)]


def pipeline(folder, stages, seed):
    (folder / "p.yaml").write_text(json.dumps(dict(name="bench", workspace=str(folder / "ws"), seed=seed, stages=stages)))
    return folder / "p.yaml"


def fresh_run(lapo, folder, stages, threads, seed=0):
    """Runs a pipeline in an empty workspace."""
    subprocess.run(["rm", "-rf", folder / "ws"], check=True)
    return timed([lapo, "run", pipeline(folder, stages, seed), "--threads", threads, "--device", "cpu"])


def clips(folder, count, size, seconds):
    """Test clips with motion everywhere: a slow zoom into a fractal."""
    folder.mkdir()
    for i in range(count):
        source = f"mandelbrot=size={size}:rate=30:start_x={-0.7436 + i * 1e-4}"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-t", str(seconds), "-pix_fmt", "yuv420p",
                   "-c:v", "libx264", "-preset", "veryfast", folder / f"{i:03}.mp4"]
        subprocess.run(command, check=True)
    return sorted(folder.glob("*.mp4"))


def decode(args, folder):
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

        yield f"decode {what}", "CPU s", *alternate(args.rounds, ours, theirs), f"ffmpeg CLI; ours peaks at {max(peak):.0f} MiB"


def label(args, folder):
    here = folder / "label"
    videos = clips(here, 128, "256x256", 2)
    frames = {"decode": {"videos": [f"{here}/*.mp4"], "cut": None}}
    train = {"train_dynamics": {"frames": "frames", "steps": 1, "batch": 2}}
    labels = {"label": {"frames": "frames", "dynamics": "model", "fdm_error": False}}  # nor does the peer

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
    yield from idm(args, here, frames)


def idm(args, here, frames):
    """Microseconds a transition through the IDM alone, beside PyTorch's; and the share of a plain matrix product's speed that is."""
    for preset, idm_scale, mflop in (("tiny", 1, 68.4), ("small", 2, 249.9)):
        train = {"train_dynamics": {"frames": "frames", "steps": 1, "batch": 2, "preset": preset}}
        labels = {"label": {"frames": "frames", "dynamics": "model", "fdm_error": False}}
        gemm = []

        def ours():
            fresh_run(args.lapo, here, {"frames": frames, "model": train, "labels": labels}, args.threads)
            stage = json.loads(next((here / "ws/runs").glob("*.json")).read_text())["stages"][2]
            return stage["seconds"] / stage["done"]["transitions"] * 1e6

        def theirs():
            gemm.append(float(timed([args.python, "-c", GEMM, args.threads])[3]))
            command = [args.python, PEER / "lapo_torch.py", "bench", "--idm-scale", idm_scale, "--wm-scale", 2, "--batch", 128,
                       "--threads", args.threads, "--cpu"]
            return 1e6 / json.loads(timed(command)[3].splitlines()[0])["transitions_per_s"]

        us, peer = alternate(args.rounds, ours, theirs)
        share = mflop / us / statistics.median(gemm) * 1e3
        yield f"IDM forward, {preset}, batch 128", "us", us, peer, f"PyTorch eager; ours is {share:.0%} of a matrix product's FLOP/s"


def train(args, folder):
    here = folder / "train"
    clips(here, 4, "256x256", 4)

    def stages(steps, sizes):
        frames = {"decode": {"videos": [f"{here}/*.mp4"], "cut": None}}
        config = dict(frames="frames", steps=steps, batch=32, predict="frame", holdout=2, **sizes)
        return {"frames": frames, "model": {"train_dynamics": config}}

    for preset, idm, fdm in (("tiny", 1, 8), ("small", 2, 12)):
        def seconds(steps):
            fresh_run(args.lapo, here, stages(steps, dict(preset=preset)), args.threads)
            record = json.loads(next((here / "ws/runs").glob("*.json")).read_text())
            return record["stages"][1]["seconds"]

        def ours():
            return (seconds(12) - seconds(2)) / 10

        def theirs():
            command = [args.python, PEER / "lapo_torch.py", "bench", "--idm-scale", idm, "--wm-scale", fdm, "--batch", 32,
                       "--threads", args.threads, "--cpu"]
            out = timed(command)[3]
            return json.loads(out.strip().splitlines()[-1])["seconds"]

        yield f"training step, {preset}, batch 32", "s", *alternate(args.rounds, ours, theirs), "PyTorch eager"


def learn(args, folder):
    """Medians over seeds; the single numbers go to stderr."""
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
    found = [verdict(seed, **QUICKSTART) for seed in range(args.rounds)]
    errors, copying = ([f[key] * 1e3 for f in found] for key in ("fdm_error", "copy_error"))
    yield f"FDM error, quickstart, {args.steps} steps (x1000)", "MSE", max(errors), copying[0], "copying o[t]; ours is the worst seed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lapo", default="target/release/lapo", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--part", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--videos", type=Path, default=HERE.parent.parent / "data/maze", help="what `learn` learns from, with actions.parquet")
    parser.add_argument("--steps", type=int, default=300, help="of `learn`")
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
