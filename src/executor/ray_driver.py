"""Runs shares of a plan as tasks of Ray: the entry point of the job that `lapo run --executor ray` submits.

The environment variable LAPO_WORK holds the work as JSON: `lapo` (program and arguments), `stage`, `count`, `shares` (ranges such as
"0-3,7"), `attempt`, `cores`, `gpus`, `memory_mib`, `base` (folder to start in), `max_workers` (or null).
"""

import ctypes
import json
import os
import signal
import subprocess

import ray


def numbers(ranges):
    """Returns the numbers of ranges such as "0-3,7"."""
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def end_with_parent():
    """Ends the worker when its task ends: Ray kills only its own processes."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run_share(work, share):
    """Runs one worker and returns its exit code. Its output is in the log of the job."""
    command = [*work["lapo"], "--share", f"{work['stage']}:{share}/{work['count']}"]
    environment = {**os.environ, "LAPO_ATTEMPT": str(work["attempt"])}
    base = work["base"] if os.path.isdir(work["base"]) else None
    return subprocess.run(command, cwd=base, env=environment, preexec_fn=end_with_parent).returncode


def needs(work):
    """Returns what a task of the stage needs, the most important first."""
    return {"GPU": work["gpus"], "CPU": work["cores"], "memory": work["memory_mib"] << 20}


def resources(work):
    """Returns the resources of a task: what its stage needs, at most what the largest node has."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # The node that has most of what is needed: cores and memory of two nodes would fit none.
    best = max(nodes, key=lambda node: [min(node.get(name, 0), needed) for name, needed in needs(work).items()])
    gpus, cores, memory = (int(min(best.get(name, 0), needed)) for name, needed in needs(work).items())
    if cores < work["cores"]:
        print(f"stage {work['stage']}: {cores} cores instead of {work['cores']}: no node has more", flush=True)
    if gpus < work["gpus"]:
        print(f"stage {work['stage']}: it runs on CPUs: no node has a GPU", flush=True)
    return {"num_cpus": max(cores, 1), "num_gpus": gpus, "memory": memory}


def main():
    work = json.loads(os.environ["LAPO_WORK"])
    ray.init(address="auto", log_to_driver=True)
    # Ray tries again what is lost with a node. lapo itself tries again what fails.
    task = ray.remote(run_share).options(max_retries=3, **resources(work))
    open_tasks, failed = {}, 0
    shares = numbers(work["shares"])
    most = work["max_workers"] or 10_000
    while True:
        for share in shares:
            open_tasks[task.remote(work, share)] = share
            if len(open_tasks) >= most:
                break
        if not open_tasks:
            break
        for done in ray.wait(list(open_tasks), num_returns=1)[0]:
            share = open_tasks.pop(done)
            try:
                code = ray.get(done)
            except ray.exceptions.RayError as error:
                code = f"{type(error).__name__}: {error}"
            if code != 0:
                failed += 1
                print(f"share {work['stage']}:{share}/{work['count']} ended with {code}", flush=True)
    print(f"{failed} shares failed", flush=True)


main()
