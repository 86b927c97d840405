#!/usr/bin/env python3
"""Compares training recipes at equal compute by their latent actions: games x seeds x recipes, one row per training, one table.

    recipe.py --lapo target/release/lapo --out FOLDER maze=FOLDER bigfish=FOLDER [--minutes 5 15] [--seeds 0 1 2] [--jobs 2]

A game is a folder of videos and `actions.parquet` (video, frame_index, action). `--minutes` are CPU minutes; a short training of each
game and recipe determines the number of steps for them. `--steps` sets it directly.

FOLDER/results.jsonl has one line per training, with its curve. Trainings in this file are not run again, and a killed one continues from
its newest checkpoint, so an interrupted grid can be resumed.

`--recipe NAME=JSON` adds a recipe, given as fields of `train_dynamics`: `--recipe 'slow={"learning_rate": 5e-4}'`. The recipes `default`
and `paper` (`reference: true`) always exist. All recipes run unless `--only` names some. Without a game, only prints the table.
Needs pyarrow and scikit-learn.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

RECIPES = {"default": {}, "paper": {"reference": True}}
NETWORKS = {"preset": "tiny", "fdm_base": 16, "batch": 32}
# Procgen has buttons without a use in a game. They have the effect of action 4, no button.
ALIKE = {action: 4 for action in range(9, 15)}


def run(args, game, recipe, seed, steps, name):
    """Trains once. Returns the row for results.jsonl, with verdict, curve and cost."""
    videos, workspace = args.games[game], args.out / game
    train = {"frames": "frames", "steps": steps, "actions": "actions", **NETWORKS, **args.recipes[recipe]}
    frames = {"videos": [f"{videos}/*.mp4"], "size": args.size}
    actions = {"frames": "frames", "file": f"{videos}/actions.parquet"}
    pipeline = dict(name=game, workspace=str(workspace), seed=seed, stages=dict(frames={"decode": frames}, actions={"import_actions": actions}))
    spec = args.out / f"{game}-{name}.yaml"
    lapo(args, spec, pipeline)  # decodes first, because decoding is not part of the cost
    pipeline["stages"][name] = {"train_dynamics": train}
    cpu_seconds, wall_seconds = lapo(args, spec, pipeline)
    folder = max((workspace / name / "data").iterdir(), key=lambda path: path.stat().st_mtime)
    pipeline["stages"][f"{name}-labels"] = {"label": {"frames": "frames", "dynamics": name, "fdm_error": False}}
    lapo(args, spec, pipeline)
    verdict = json.loads(next(folder.rglob("verdict.json")).read_text())
    return dict(
        game=game, recipe=recipe, fields=train, seed=seed, steps=steps, size=args.size, cpu_seconds=round(cpu_seconds, 1),
        wall_seconds=round(wall_seconds, 1), verdict=verdict, curve=curve(next(folder.rglob("metrics.parquet"))),
        outside=outside(workspace / f"{name}-labels", videos),
    )


def lapo(args, spec, pipeline):
    """Runs a pipeline. Returns its CPU and wall seconds, including those of earlier runs that were killed before the last stage ended.

    The steps after their newest checkpoint are done and counted twice.
    """
    spec.write_text(json.dumps(pipeline))
    spent = spec.with_name(f"{spec.stem}.{list(pipeline['stages'])[-1]}.spent")
    cpu, wall = json.loads(spent.read_text()) if spent.exists() else (0, 0)
    began = time.monotonic()
    with open(spec.with_suffix(".log"), "w") as log:
        process = subprocess.Popen([args.lapo, "run", spec, "--threads", str(args.threads), "--checkpoint-secs", "60"], stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    cpu, wall = cpu + used.ru_utime + used.ru_stime, wall + time.monotonic() - began
    if status:
        spent.write_text(json.dumps([cpu, wall]))
        raise SystemExit(f"lapo failed: {spec.with_suffix('.log')}")
    spent.unlink(missing_ok=True)
    return cpu, wall


def curve(path):
    """Returns the rows of a training curve with probe scores."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(path).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows if row.get("information_used") is not None]


def steps_per_minute(args, game, recipe, rows):
    """Returns the number of steps per CPU minute, and the CPU minutes of everything else."""
    known = [row for row in rows if row["minutes"] is None and (row["game"], row["recipe"]) == (game, recipe)]
    few, more = known or [keep(args, run(args, game, recipe, 99, steps, f"{recipe}-cost-{steps}"), None) for steps in (20, 120)]
    each = (more["cpu_seconds"] - few["cpu_seconds"]) / (more["steps"] - few["steps"])
    return 60 / each, (few["cpu_seconds"] - few["steps"] * each) / 60


def keep(args, row, minutes):
    """Appends a training to results.jsonl. Trainings without minutes only measure the cost of a step."""
    row["minutes"] = minutes
    with open(args.out / "results.jsonl", "a") as out:
        out.write(json.dumps(row) + "\n")
    return row


def outside(labels, videos):
    """Probes the labels with scikit-learn, independently of lapo's probe.

    Returns the accuracy and the share of the most common action, over all actions (`all`) and with actions of equal effect merged
    (`alike`).
    """
    import numpy as np
    import pyarrow.parquet as parquet
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    true = parquet.read_table(videos / "actions.parquet").to_pydict()
    true = {(video, frame): action for video, frame, action in zip(true["video"], true["frame_index"], true["action"])}
    rows = [parquet.read_table(path, columns=["video", "frame_index", "latent_action"]) for path in labels.rglob("labels.parquet")]
    names = [(Path(video).name, frame) for part in rows for video, frame in zip(part["video"].to_pylist(), part["frame_index"].to_pylist())]
    latents = np.concatenate([np.stack(part["latent_action"].to_numpy()) for part in rows])
    held_out = set(sorted({video for video, _ in names})[::5])
    is_held_out = np.array([video in held_out for video, _ in names])
    latents = StandardScaler().fit(latents[~is_held_out]).transform(latents)
    found = {}
    for kind, alike in (("all", {}), ("alike", ALIKE)):
        actions = np.array([alike.get(true[name], true[name]) for name in names])
        probe = MLPClassifier((128, 128), early_stopping=True, random_state=0).fit(latents[~is_held_out], actions[~is_held_out])
        commonest = np.bincount(actions[is_held_out]).max() / is_held_out.sum()
        found[kind] = dict(accuracy=probe.score(latents[is_held_out], actions[is_held_out]), commonest=float(commonest))
    return found


def table(rows):
    print("| game | recipe | CPU-min | seeds | steps | error / copying | information used | probe (linear, MLP) | most common action | scikit-learn probe (most common) | actions of equal effect merged (most common) | perplexity | fewest codes |")
    print("|---" * 13 + "|")
    groups = {}
    for row in rows:
        if row["minutes"] is None:
            continue
        groups.setdefault((row["game"], row["recipe"], row["minutes"]), []).append(row)
    for (game, recipe, minutes), group in sorted(groups.items(), key=str):
        verdicts = [row["verdict"] for row in group]
        mean = lambda of: statistics.mean(map(of, verdicts))
        several = lambda of: "/".join(f"{of(verdict):.2f}" for verdict in verdicts)
        others = [
            f"{'/'.join('%.3f' % row['outside'][kind]['accuracy'] for row in group)} ({group[0]['outside'][kind]['commonest']:.3f})"
            for kind in ("all", "alike")
        ]
        cpu = statistics.mean(row["cpu_seconds"] for row in group) / 60
        print(
            f"| {game} | {recipe} | {cpu:.1f} | {len(group)} | {statistics.mean(row['steps'] for row in group):.0f} "
            f"| {several(lambda v: v['fdm_error'] / v['copy_error'])} | {several(lambda v: v['information_used'])} "
            f"| {mean(lambda v: v['probe']['linear']):.3f}, {several(lambda v: v['probe']['mlp'])} | {mean(lambda v: v['probe']['guessing']):.3f} "
            f"| {others[0]} | {others[1]} "
            f"| {min(min(v['perplexity'], default=0) for v in verdicts):.0f} | {min(min(v['codes_used'], default=0) for v in verdicts)} of {verdicts[0]['entries']} |"
        )


def pair(text):
    name, _, value = text.partition("=")
    return name, value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", nargs="*", type=pair, metavar="NAME=FOLDER")
    parser.add_argument("--lapo", type=Path, default="target/release/lapo")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="*", default=[5])
    parser.add_argument("--steps", type=int, help="training steps, instead of --minutes")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--recipe", type=pair, action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--only", nargs="+", help="recipes to run")
    parser.add_argument("--size", type=int, default=32, help="side of a frame")
    parser.add_argument("--jobs", type=int, default=1, help="concurrent trainings")
    parser.add_argument("--threads", type=int, default=2, help="threads per training")
    args = parser.parse_args()
    args.games = {name: Path(folder).resolve() for name, folder in args.games}
    args.recipes = RECIPES | {name: json.loads(fields) for name, fields in args.recipe}
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["game"], row["recipe"], row["seed"], row["minutes"]) for row in rows}
    budgets = [f"{args.steps} steps"] if args.steps else args.minutes
    names = args.only or list(args.recipes)
    if unknown := [name for name in names if name not in args.recipes]:
        parser.error(f"--only: no such recipe: {', '.join(unknown)} (games come first)")
    cells = [(game, recipe, seed, budget) for budget in budgets for seed in args.seeds for game in args.games for recipe in names]

    cells = [cell for cell in cells if cell not in done]

    def one(cell):
        game, recipe, seed, budget = cell
        steps = args.steps
        if not steps:
            each, other = paid[game, recipe]
            steps = max(round((budget - other) * each / 10) * 10, 10)
        name = f"{recipe}-{seed}-{budget}".replace(" ", "-").replace(".", "-")
        row = keep(args, run(args, game, recipe, seed, steps, name), budget)
        print(game, recipe, seed, budget, f"{row['cpu_seconds']} CPU-s:", row["verdict"]["sentence"], flush=True)
        return row

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        pairs = [] if args.steps else list(dict.fromkeys(cell[:2] for cell in cells))
        paid = dict(zip(pairs, pool.map(lambda pair: steps_per_minute(args, *pair, rows), pairs)))
        rows += pool.map(one, cells)
    table(rows)


if __name__ == "__main__":
    main()
