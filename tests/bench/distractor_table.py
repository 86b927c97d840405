#!/usr/bin/env python3
"""What motion that is not the agent's does to latent actions: tasks x distractors x recipes x seeds at equal CPU time, one row each.

    distractor_table.py --out FOLDER [--minutes 30] [--tasks cheetah_run] [--distractors clean all] [--recipes default paper] [--seeds 0 1 2]

Runs the stages of `pipelines/distractors.yaml`. Rows go to `tests/bench/results/distractors.csv`; what has a row for the same minutes is
left out, so an interrupted table can be resumed. All recipes of a task and seed have the same recordings, and clean and distracted ones
have the same actions and states.

A recipe is fields of `train_dynamics`: `--recipe 'labelled={"supervision": {"labels": 392}}'` adds one with the true actions of 2.5% of
the training transitions. `decoder_r2` and `decoder_mse` are of decoders trained on 128 labelled transitions, means of three draws. The
mean squared error is (1 - R2) times the variance of the true actions. LAPO_GYMNASIUM names a virtual environment with the packages of
distractors.py. Needs PyYAML and pyarrow.
"""

import json
import os
import statistics
from pathlib import Path

from pipeline_runs import ROOT, append, arguments, files, has, pipeline, query, rounded, run, train, version

TASKS = ["cheetah_run", "walker_walk", "hopper_hop"]
DISTRACTORS = ["clean", "all", "video", "shake", "colour"]
RECIPES = {"default": {}, "paper": {"reference": True}}


def row(args, task, distractors, recipe, seed):
    """Records and trains a task. Returns its row."""
    chain = "clean" if distractors == "clean" else "distracted"
    workspace = args.out / f"{task}-{distractors}-{seed}"
    spec = pipeline("distractors.yaml", workspace, seed, task=task, distractors=distractors, episodes=args.episodes)
    spec["stages"] = {name: stage for name, stage in spec["stages"].items() if name.startswith(chain)}
    spec["stages"][f"{chain}_dynamics"]["train_dynamics"].update(args.recipe_fields[recipe])
    run(args, spec, chain)
    trained = train(args, spec, f"{chain}_dynamics", recipe)
    run(args, spec, f"{chain}_labels", f"{chain}_decoder", f"{chain}_score")
    probe = query(args, spec, f"SELECT linear, mlp FROM {chain}_score")[0]
    decoder = statistics.mean(row["r2"] for row in query(args, spec, f"SELECT r2 FROM {chain}_decoder"))
    frames = query(args, spec, f"SELECT count(*) AS n FROM {chain}")[0]["n"]
    fields = json.dumps(args.recipe_fields[recipe])
    added = "" if recipe in RECIPES else f"--recipe '{recipe}={fields}' "
    return dict(
        task=task, distractors=distractors, recipe=recipe, seed=seed, frames=frames, **trained,
        r2_linear=rounded(probe["linear"]), r2_mlp=rounded(probe["mlp"]), decoder_r2=rounded(decoder),
        decoder_mse=rounded((1 - decoder) * variance(files(args, spec, chain, "actions.parquet"))), machine=args.machine,
        command=f"tests/bench/distractor_table.py --tasks {task} --distractors {distractors} --recipes {recipe} --seeds {seed} "
        f"{added}--minutes {args.minutes:g} --threads {args.threads} --episodes {args.episodes}",
        commit=version(args),
    )


def variance(paths):
    """Returns the variance of the true actions, averaged over axes."""
    import pyarrow.parquet as parquet

    actions = [action for path in paths for action in parquet.read_table(path)["action"].to_pylist()]
    return statistics.mean(statistics.pvariance(axis) for axis in zip(*actions))


def recipe(text):
    name, _, fields = text.partition("=")
    return name, json.loads(fields)


def main():
    parser = arguments(__doc__)
    parser.set_defaults(minutes=30, seeds=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK")
    parser.add_argument("--distractors", nargs="+", choices=DISTRACTORS, default=["clean", "all"], metavar="KIND")
    parser.add_argument("--recipe", type=recipe, action="append", default=[], metavar="NAME=JSON", help="adds a recipe")
    parser.add_argument("--recipes", nargs="+", help="the recipes to train; default: all")
    args = parser.parse_args()
    args.recipe_fields = RECIPES | dict(args.recipe)
    names = args.recipes or list(args.recipe_fields)
    if unknown := set(names) - set(args.recipe_fields):
        parser.error(f"no such recipe: {', '.join(unknown)}")
    args.out.mkdir(parents=True, exist_ok=True)
    # lapo finds the environment's module here.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    results = args.results or ROOT / "tests/bench/results/distractors.csv"
    for seed in args.seeds:
        for task in args.tasks:
            for distractors in args.distractors:
                for name in names:
                    key = dict(task=task, distractors=distractors, recipe=name, seed=seed, minutes=f"{args.minutes:g}")
                    if not has(results, **key):
                        append(results, row(args, task, distractors, name, seed))


if __name__ == "__main__":
    main()
