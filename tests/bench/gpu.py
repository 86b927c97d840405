#!/usr/bin/env python3
"""Tests and measures lapo on a GPU, in eight minutes.

    gpu.py prepare FOLDER   on a machine with cargo and libav: builds with `--features cuda`, decodes data/maze, packs all (about 60 MB)
    gpu.py run FOLDER OUT   on the machine with the GPU. Needs a driver, CUDA's NVRTC, Python 3, and PyTorch to compare with.

`run` writes OUT/report.json and OUT/table.md, and begins with the tests: goldens, gradients of all operations, dynamics and policies on
the device in f32. Then it measures labelling (the paper's IDM, batch 1,024) and training steps (the paper's sizes, batch 128) in bf16
and f32, beside PyTorch eager, channels-last and compiled; the device's peak memory and how busy it was; and the share of the speed of a
plain matrix product. At last it finetunes an agent, and spends the rest of the time on a training at the paper's sizes, whose curve and
verdict it keeps (OUT/metrics.parquet, OUT/verdict.json). Whatever fails is a line of the report, and the rest goes on. `finetune` needs
the Procgen package, in a folder that LAPO_PROCGEN names.

A rehearsal without a GPU: LAPO_DEVICE=cpu LAPO_PRESET=tiny LAPO_SECONDS=1 LAPO_BUDGET=120 gpu.py run FOLDER OUT
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START = time.monotonic()
DEVICE = os.environ.get("LAPO_DEVICE", "cuda:0")
PRESET = os.environ.get("LAPO_PRESET", "paper")
SECONDS = float(os.environ.get("LAPO_SECONDS", 5))  # of each measurement
BUDGET = float(os.environ.get("LAPO_BUDGET", 480))  # seconds in all
IS_CPU = DEVICE == "cpu"
LABEL_BATCH, BATCH = (128, 32) if IS_CPU else (1024, 128)
FINETUNE_STEPS = 4096 * (2 if IS_CPU else 48)  # whole rollouts
TESTS = {"lapo-models-tests": ["conv::tests::devices::", "frames::"], "lapo-tests": ["golden::", "dynamics::", "policy::a_policy_learns"]}


def left():
    """Returns the seconds that are left of the budget."""
    return BUDGET - (time.monotonic() - START)


def prepare(folder):
    """Builds lapo and its tests with CUDA, decodes the frames and packs everything into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
    decode = dict(name="gpu", workspace=str(folder / "ws"), stages=dict(frames=frames()))
    run_pipeline(target / "release/lapo", folder, decode)
    flags = ["--release", "--locked", "--no-default-features", "--features", "cuda", "--target-dir", target / "cuda"]
    tests = ["cargo", "test", *flags, "--no-run", "-p", "lapo-models", "-p", "lapo", "--lib", "--test", "it", "--message-format", "json"]
    built = subprocess.run(tests, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    artifacts = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
    binary = {a["target"]["name"]: a["executable"] for a in artifacts if a.get("executable")}
    binaries = {"lapo": target / "cuda/release/lapo", "lapo-tests": binary["it"], "lapo-models-tests": binary["lapo_models"]}
    with tarfile.open(folder / "lapo.tar.xz", "w:xz", preset=9) as archive:
        for name, path in binaries.items():
            subprocess.run(["strip", "-o", folder / name, path], check=True)
            archive.add(folder / name, name)
            (folder / name).unlink()
    print(f"{folder}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 2**20:.0f} MiB; next: `gpu.py run` on the machine with the GPU")


def frames():
    """Returns the decode stage."""
    return {"decode": {"videos": [f"{ROOT}/data/maze/*.mp4"], "size": 64, "cut": None}}


def run_pipeline(lapo, folder, pipeline, *flags):
    (folder / "pipeline.yaml").write_text(json.dumps(pipeline))
    subprocess.run([lapo, "run", folder / "pipeline.yaml", *flags], check=True)


class Watch:
    """Samples the device while open. `result` has its peak memory, in MiB, and the mean share of time in which it ran a kernel."""

    def __enter__(self):
        self.memory, self.busy, self.open = [], [], True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        query = ["nvidia-smi", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
        while self.open and shutil.which("nvidia-smi"):
            out = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[:1]
            for memory, busy in (line.split(",") for line in out):
                self.memory.append(int(memory))
                self.busy.append(int(busy))
            time.sleep(0.2)

    def __exit__(self, *_):
        self.open = False
        self.thread.join()
        self.result = dict(peak_mib=max(self.memory, default=None), busy=sum(self.busy) / len(self.busy) / 100 if self.busy else None)


class Report:
    """The report so far, written after every part."""

    def __init__(self, out):
        self.out, self.content, self.failures = out, {}, []
        self.rows = ["| precision | what | lapo | PyTorch eager | channels-last | compiled | lapo / best | share of matmul |", "|" + "---|" * 8]

    def part(self, name, work, *args):
        """Runs a part. A failure becomes a row."""
        start = time.monotonic()
        try:
            self.content[name] = work(*args)
        except Exception as error:
            self.failures.append(f"{name} failed: {error}")
        self.content.setdefault("seconds", {})[name] = round(time.monotonic() - start, 1)
        (self.out / "report.json").write_text(json.dumps({**self.content, "failures": self.failures}, indent=1))
        (self.out / "table.md").write_text("\n".join([*self.rows, "", *self.failures]) + "\n")
        print(f"{name}: {self.content['seconds'][name]} s, {left():.0f} s left", flush=True)


def run(folder, out):
    """Tests lapo, measures it and PyTorch in both precisions, then trains at the full size."""
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "lapo.tar.xz") as archive:
        archive.extractall(out / "bin", filter="data")
    lapo = out / "bin/lapo"
    report = Report(out)
    report.part("doctor", lambda: capture([lapo, "doctor"]).splitlines())
    report.part("tests", tests, out)
    precisions = ["f32"] if IS_CPU else ["bf16", "f32"]
    for precision in precisions:
        report.part(precision, measure, lapo, precision, report.rows)
    report.part("finetune", finetune, lapo, out)
    shutil.copytree(folder / "ws", out / "ws", dirs_exist_ok=True)
    speed = report.content.get(precisions[0], {}).get("steps_per_s")
    if speed:
        report.part("training", train, lapo, out, precisions[0], int(speed * max(10, left() - 30)))
    shutil.rmtree(out / "ws")
    shutil.rmtree(out / "bin")
    print((out / "table.md").read_text())
    if report.failures:
        sys.exit(1)


def tests(out):
    """Runs the tests of networks on the device. Returns their outcomes."""
    env = {**os.environ, "LAPO_TEST_DEVICE": DEVICE, "LAPO_GOLDEN_DIR": str(ROOT / "tests/golden"), "RUST_MIN_STACK": str(2**24)}
    outcome, failed = {}, []
    for name, filters in TESTS.items():
        command = [out / "bin" / name, "--test-threads", "4", "--nocapture", *filters]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=max(30, left() / 3))
        (out / f"{name}.log").write_text(done.stdout + done.stderr)
        outcome[name] = done.stdout.strip().splitlines()[-1:]
        if done.returncode:
            failed += [line for line in done.stdout.splitlines() if line.endswith("FAILED")] or [f"{name}: status {done.returncode}"]
    if failed:
        raise RuntimeError("; ".join(failed))
    return outcome


def measure(lapo, precision, rows):
    """Measures labels and training steps in a precision, and adds them to the table."""
    bench = [lapo, "bench", "--reference", "--preset", PRESET, "--precision", precision, "--label-batch", LABEL_BATCH, "--batch", BATCH]
    capture([*bench, "--device", DEVICE, "--warm-up"])
    with Watch() as watch:
        ours = json.loads(capture([*bench, "--device", DEVICE, "--seconds", SECONDS, "--format", "json"]))
    torch = peer(precision)
    by_name = {row["what"]: row for row in ours["rows"]}
    label, step = next(r for n, r in by_name.items() if n.startswith("label")), next(r for n, r in by_name.items() if n.startswith("train"))
    for row, key in ((label, "transitions_per_s"), (step, "steps_per_s")):
        theirs = [torch.get(mode, {}).get(key) for mode in ("eager", "channels-last", "compile")]
        best = max((t for t in theirs if t), default=None)
        cells = [precision, row["what"], f"{row['speed']:.1f} {row['unit']}", *(f"{t:.1f}" if t else "-" for t in theirs)]
        rows.append("| " + " | ".join([*cells, f"{row['speed'] / best:.2f}" if best else "-", f"{row['share']:.0%}"]) + " |")
    return dict(lapo=ours, torch=torch, steps_per_s=step["speed"], **watch.result)


def peer(precision):
    """Measures PyTorch. Returns nothing if it is not installed."""
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode:
        return {}
    idm, fdm = dict(tiny=(1, 8), small=(2, 12), paper=(4, 24))[PRESET]
    command = [sys.executable, HERE / "peer/torch_modes.py", "--idm-scale", idm, "--wm-scale", fdm, "--label-batch", LABEL_BATCH]
    flags = [*(["--bf16"] if precision == "bf16" else []), *(["--cpu"] if IS_CPU else [])]
    return json.loads(capture([*command, "--batch", BATCH, "--seconds", SECONDS, *flags]))


def finetune(lapo, out):
    """Finetunes an agent from random weights. Returns the environment's steps per second."""
    stage = {"finetune": dict(from_scratch=True, preset=PRESET, game="maze", levels=dict(start=0, count=100000), steps=FINETUNE_STEPS)}
    start = time.monotonic()
    run_pipeline(lapo, out, dict(name="finetune", workspace=str(out / "ws-finetune"), stages=dict(agent=stage)), "--device", DEVICE)
    seconds = time.monotonic() - start
    shutil.rmtree(out / "ws-finetune")
    return dict(steps=FINETUNE_STEPS, steps_per_s=FINETUNE_STEPS / seconds)


def train(lapo, out, precision, steps):
    """Trains for a number of steps. Keeps the curve and the verdict."""
    steps = max(60, steps)
    stage = {"train_dynamics": dict(frames="frames", preset=PRESET, precision=precision, batch=BATCH, steps=steps)}
    with Watch() as watch:
        pipeline = dict(name="gpu", workspace=str(out / "ws"), stages=dict(frames=frames(), dynamics=stage))
        run_pipeline(lapo, out, pipeline, "--device", DEVICE)
    for name in ("metrics.parquet", "verdict.json"):
        shutil.copy(next((out / "ws/dynamics/data").glob(f"*/*/{name}")), out / name)
    return dict(steps=steps, verdict=json.loads((out / "verdict.json").read_text()), **watch.result)


def capture(command):
    """Returns the output of a command."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=max(30, left()))
    if done.returncode:
        raise RuntimeError(f"{command[0]}: status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    what, *folders = sys.argv[1:] or ["help"]
    if (what, len(folders)) not in (("prepare", 1), ("run", 2)):
        sys.exit(__doc__)
    {"prepare": prepare, "run": run}[what](*(Path(f).resolve() for f in folders))
