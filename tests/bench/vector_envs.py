"""Measures recorded frames per second of random play, beside Gymnasium's vector environments.

    python tests/bench/vector_envs.py target/release/lapo ENVIRONMENT [--imports MODULE,...]
        [--make JSON] [--frames 20000] [--rounds 3]

Runs with the Python of a virtual environment that has Gymnasium; lapo plays with the same one. All
three play the same environment with random actions on all cores, one environment for each, and have
every frame of `rgb_array` in the main process: plain Gymnasium as the observations of
`SyncVectorEnv` and `AsyncVectorEnv` (with shared memory), lapo as the shards of a `record` stage,
reduced to 64 x 64 and on disk. Starting Python and making the environments counts for all. Prints
frames per second and frames per CPU second, medians over rounds taken in turns, and the ratios of
lapo to the better one of the others. Wall time depends on what else the machine does.
"""

import argparse
import importlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

CORES = len(os.sched_getaffinity(0))


def plain(arguments, asynchronous):
    """Plays in this process with a vector environment; prints nothing."""
    import gymnasium
    import numpy

    def make():
        for module in arguments.imports:
            importlib.import_module(module)
        env = gymnasium.make(arguments.environment, render_mode="rgb_array", **arguments.make)
        shape = env.observation_space.shape
        shows = env.observation_space.dtype == numpy.uint8 and shape and len(shape) == 3 and min(shape[:2]) >= 16
        return env if shows else gymnasium.wrappers.AddRenderObservation(env, render_only=True)

    kind = gymnasium.vector.AsyncVectorEnv if asynchronous else gymnasium.vector.SyncVectorEnv
    envs = kind([make] * CORES)
    envs.action_space.seed(0)
    frames, _ = envs.reset(seed=0)
    sums = 0
    for _ in range(arguments.frames // CORES):
        frames = envs.step(envs.action_space.sample())[0]
        sums += int(frames[0, 0, 0, 0])
    assert frames.shape[0] == CORES and frames.dtype == numpy.uint8
    envs.close()


def measured(run):
    """Returns the wall and the CPU seconds of processes that `run` starts."""
    cpu = lambda: (lambda usage: usage.ru_utime + usage.ru_stime)(resource.getrusage(resource.RUSAGE_CHILDREN))
    began, used = time.monotonic(), cpu()
    run()
    return time.monotonic() - began, cpu() - used


def by_plain(arguments, asynchronous):
    """Returns frames per second and per CPU second of a process of its own."""
    run = lambda: subprocess.run([sys.executable, *sys.argv, "--only", "async" if asynchronous else "sync"], check=True, stdout=subprocess.DEVNULL)
    return [arguments.frames / seconds for seconds in measured(run)]


def by_lapo(arguments, length):
    """Returns recorded frames per second and per CPU second, and the frames of an episode. `length` is the mean number of frames of an episode, to record about as many."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        game = {"gymnasium": arguments.environment, "imports": arguments.imports, "make": arguments.make}
        episodes = max(CORES, round(arguments.frames / length))
        record = {"game": game, "player": "random", "episodes": episodes, "episodes_per_shard": -(-episodes // CORES), "min_frames": 1, "max_frames": 1000}
        pipeline = {"name": "bench", "workspace": "ws", "stages": {"play": {"record": record}}}
        (folder / "p.yaml").write_text(json.dumps(pipeline))
        environment = {**os.environ, "LAPO_GYMNASIUM": sys.prefix}
        run = lambda: subprocess.run([arguments.lapo, "run", "p.yaml", "--quiet"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = measured(run)
        query = [arguments.lapo, "query", "SELECT count(*) AS n FROM play", "--workspace", "ws", "--format", "json"]
        frames = json.loads(subprocess.run(query, cwd=folder, check=True, capture_output=True).stdout)[0]["n"]
        return [frames / each for each in seconds], frames / episodes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lapo", type=os.path.abspath)
    parser.add_argument("environment")
    parser.add_argument("--imports", type=lambda text: text.split(","), default=[])
    parser.add_argument("--make", type=json.loads, default={})
    parser.add_argument("--frames", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["sync", "async"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        return plain(arguments, arguments.only == "async")
    # A short recording shows how long episodes are.
    length = by_lapo(argparse.Namespace(**{**vars(arguments), "frames": 8}), 1)[1]
    rows = {"SyncVectorEnv": [], "AsyncVectorEnv": [], "lapo": []}
    for _ in range(arguments.rounds):
        rows["SyncVectorEnv"].append(by_plain(arguments, False))
        rows["AsyncVectorEnv"].append(by_plain(arguments, True))
        rows["lapo"].append(by_lapo(arguments, length)[0])
    for at, unit in enumerate(["frames/s", "frames per CPU second"]):
        medians = {name: statistics.median(row[at] for row in values) for name, values in rows.items()}
        best = max(value for name, value in medians.items() if name != "lapo")
        print(f"{arguments.environment}: " + ", ".join(f"{name} {value:.0f}" for name, value in medians.items()) + f" {unit}")
        print(f"{arguments.environment}: ratio of lapo {medians['lapo'] / best:.2f} in {unit}, {CORES} cores")


if __name__ == "__main__":
    main()
