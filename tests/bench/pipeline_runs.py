"""Runs example pipelines with other settings and appends rows of results, for games.py and distractor_table.py.

Needs PyYAML.
"""

import argparse
import csv
import json
import os
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments(description):
    """Returns a parser with the arguments of both scripts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lapo", type=Path, default=ROOT / "target/release/lapo")
    parser.add_argument("--out", type=Path, required=True, help="folder of the workspaces and logs")
    parser.add_argument("--results", type=Path, help="file of the rows; default: the one in tests/bench/results")
    parser.add_argument("--minutes", type=float, default=5, help="CPU minutes of each training, with its judgements")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--machine", default=f"{os.cpu_count()} cores", help="what the rows say of the machine")
    return parser


def pipeline(file, workspace, seed, **variables):
    """Reads an example pipeline and replaces its variables."""
    import yaml

    text = (ROOT / "pipelines" / file).read_text()
    variables = yaml.safe_load(text)["vars"] | variables
    for name, value in variables.items():
        text = text.replace(f"${{{name}}}", str(value))
    # Read twice, so that numbers in quotes become numbers.
    stages = json.loads(json.dumps(yaml.safe_load(text)["stages"]), object_hook=numbers)
    return dict(name=workspace.name, workspace=str(workspace), seed=seed, stages=stages)


def numbers(fields):
    return {name: int(value) if isinstance(value, str) and value.isdecimal() else value for name, value in fields.items()}


def run(args, pipeline, *stages):
    """Runs stages of a pipeline. Returns the CPU seconds that this took."""
    spec = args.out / f"{Path(pipeline['workspace']).name}.json"
    spec.write_text(json.dumps(pipeline, indent=1))
    command = [args.lapo, "run", spec, "--threads", str(args.threads)] + [word for stage in stages for word in ("--only", stage)]
    with open(spec.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lapo failed: {spec.with_suffix('.log')}")
    return used.ru_utime + used.ru_stime


def query(args, pipeline, sql):
    """Returns the rows of a query."""
    command = [args.lapo, "query", sql, "--workspace", pipeline["workspace"], "--format", "json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def files(args, pipeline, stage, name):
    """Returns the paths of a stage's files of this name."""
    command = [args.lapo, "files", stage, "--all", "--workspace", pipeline["workspace"]]
    paths = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [path for path in paths if Path(path).name == name]


def train(args, pipeline, stage, kind):
    """Trains a stage for about `--minutes`. Returns its columns of the row.

    Two short trainings show what a step costs. They are done once for each `kind` of training. FOLDER/costs.json has what they and all
    trainings cost, so that a table can be resumed. A training that was killed counts from its last start.
    """
    known = args.out / "costs.json"
    costs = json.loads(known.read_text()) if known.exists() else {}
    settings = pipeline["stages"][stage]["train_dynamics"]

    def cost(name, steps):
        # A model that was trained on fewer recordings is not kept.
        settings.update(steps=steps, refresh="always")
        # A training that is done is the newest one after this, at no cost.
        costs.setdefault(name, run(args, pipeline, stage))
        known.write_text(json.dumps(costs, indent=1))
        return costs[name]

    short = {steps: f"{kind}, {steps} steps on {args.threads} threads" for steps in (10, 50)}
    few, more = (costs[name] if name in costs else cost(name, steps) for steps, name in short.items())
    each = (more - few) / 40
    steps = max(round((60 * args.minutes - (few - 10 * each)) / each), 10)
    seconds = cost(f"{Path(pipeline['workspace']).name}, {kind}, {steps} steps", steps)
    verdict = json.loads(Path(files(args, pipeline, stage, "verdict.json")[0]).read_text())
    return dict(
        minutes=f"{args.minutes:g}", cpu_seconds=round(seconds), steps=steps,
        fdm_error_over_copying=rounded(verdict["fdm_error"] / verdict["copy_error"]), information=rounded(verdict["information_used"]),
    )


def rounded(number):
    return f"{number:.4g}"


def version(args):
    """Returns the commit that the program was built from."""
    text = subprocess.run([args.lapo, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    commit, _, dirty = text.split("(")[1].split(")")[0].partition("-")
    return commit[:7] + ("-" + dirty if dirty else "")


def has(results, **key):
    """Returns whether a file of results has a row with these columns."""
    if not results.exists():
        return False
    with open(results, newline="") as file:
        return any(all(row[name] == str(value) for name, value in key.items()) for row in csv.DictReader(file))


def append(results, row):
    """Appends a row. The first one makes the file."""
    is_new = not results.exists()
    with open(results, "a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(time.strftime("%H:%M"), *row.values(), flush=True)
