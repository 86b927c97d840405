"""Measures 120 label tasks in turns: by `lapo run`, by `lapo worker` with the same partitions, and by `run` of another binary.

    python tests/bench/tasks.py target/release/lapo [--base OTHER/lapo] [--tasks 120] [--rounds 3]

Every task labels a shard of one clip with a tiny model, so the time goes to files, receipts and fsync, not to the network. Prints the
medians of the wall and CPU seconds of whole processes and their ratios to `lapo run`, and checks that all wrote the same number of
labels. The worker's `plan` and `commit` have rows of their own.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

FRAMES = {"size": 32, "videos_per_shard": 1}
STAGES = {
    "model": {"train_dynamics": {"frames": "frames", "preset": "tiny", "steps": 1, "batch": 4}},
    "labels": {"label": {"frames": "frames", "dynamics": "model"}},
}


def measured(folder, *command):
    """Runs a command in a folder. Returns its wall seconds, CPU seconds and output."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ran = subprocess.run([str(part) for part in command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode:
        sys.exit(f"{command} exits {ran.returncode}:\n{ran.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ran.stdout


def write_pipeline(folder, clips, stages):
    frames = {"decode": {"videos": [str(clip) for clip in clips], **FRAMES}}
    (folder / "p.yaml").write_text(json.dumps({"name": "tasks", "workspace": "ws", "stages": {"frames": frames, **stages}}))


def template(lapo, folder, clips):
    """Makes a workspace with shards and a model, without labels."""
    folder.mkdir()
    write_pipeline(folder, clips, {"model": STAGES["model"]})
    measured(folder, lapo, "run", "p.yaml", "--device", "cpu")
    write_pipeline(folder, clips, STAGES)
    return folder


def count(lapo, folder):
    """Returns the number of labels."""
    output = measured(folder, lapo, "query", "SELECT count(*) AS n FROM labels", "--workspace", "ws", "--format", "json")[2]
    return json.loads(output)[0]["n"]


def by_run(lapo, folder, _):
    """Measures `lapo run`."""
    return {"run": measured(folder, lapo, "run", "p.yaml", "--device", "cpu")[:2]}


def by_worker(lapo, folder, tasks):
    """Measures `lapo plan --out`, `lapo worker` with all partitions, and `lapo commit`."""
    plan = measured(folder, lapo, "plan", "p.yaml", "--out", "plan")[:2]
    partitions = [part for at in range(tasks) for part in ("--partition", at)]
    work = measured(folder, lapo, "worker", "--plan", "plan", "--device", "cpu", *partitions)[:2]
    commit = measured(folder, lapo, "commit", "--plan", "plan")[:2]
    return {"worker": work, "plan": plan, "commit": commit}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lapo", type=pathlib.Path)
    parser.add_argument("--base", type=pathlib.Path, help="another binary, to measure its `run`, too")
    parser.add_argument("--tasks", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    clips = sorted((pathlib.Path(__file__).resolve().parents[2] / "data/maze").glob("*.mp4"))[: args.tasks]
    sides = [("", args.lapo.resolve(), by_run), ("", args.lapo.resolve(), by_worker)]
    if args.base:
        sides += [("base ", args.base.resolve(), by_run)]
    seen, labels = {}, set()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        templates = {lapo: template(lapo, folder / f"template{at}", clips) for at, lapo in enumerate(dict.fromkeys(side[1] for side in sides))}
        for _ in range(args.rounds):
            for name, lapo, how in sides:
                here = folder / "here"
                shutil.copytree(templates[lapo], here)
                os.sync()
                for what, cost in how(lapo, here, len(clips)).items():
                    seen.setdefault(name + what, []).append(cost)
                labels.add(count(lapo, here))
                shutil.rmtree(here)
    if len(labels) != 1:
        sys.exit(f"the numbers of labels differ: {sorted(labels)}")
    medians = {name: [statistics.median(side) for side in zip(*costs)] for name, costs in seen.items()}
    print(f"{len(clips)} label tasks, {labels.pop()} labels, {os.cpu_count()} cores, medians of {args.rounds}")
    print(f"{'':<12}{'wall s':>16}{'CPU s':>16}")
    for name, (wall, cpu) in medians.items():
        ratios = [f"{value:.2f} ({value / base:.2f}x)" for value, base in zip((wall, cpu), medians["run"])]
        print(f"{name:<12}{ratios[0]:>16}{ratios[1]:>16}")


if __name__ == "__main__":
    main()
