#!/usr/bin/env python3
"""Measures labelling and training on a GPU.

    gpu.py prepare FOLDER   on a machine with cargo and libav: builds with `--features cuda`, decodes data/maze, packs both (about 20 MB)
    gpu.py run FOLDER OUT   on the machine with the GPU: measures. Needs a driver, CUDA's NVRTC, Python 3, and PyTorch to compare with.

`run` writes OUT/report.json and OUT/table.md: labelling (the paper's IDM, batch 1,024) and training steps (the paper's sizes, batch
128) in bf16 and f32, beside PyTorch eager, channels-last and compiled; the device's peak memory; and the share of the speed of a plain
matrix product. It also trains for ten minutes at the paper's sizes and writes the curve (OUT/metrics.parquet, OUT/verdict.json).

A rehearsal without a GPU takes minutes: LAPO_DEVICE=cpu LAPO_PRESET=tiny LAPO_SECONDS=1 LAPO_TRAINING_SECONDS=20 gpu.py run FOLDER OUT
"""

import json
import lzma
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEVICE = os.environ.get("LAPO_DEVICE", "cuda:0")
PRESET = os.environ.get("LAPO_PRESET", "paper")
SECONDS = float(os.environ.get("LAPO_SECONDS", 10))  # of each measurement
TRAINING_SECONDS = float(os.environ.get("LAPO_TRAINING_SECONDS", 600))
LABEL_BATCH, BATCH = (1024, 128) if DEVICE != "cpu" else (128, 32)


def prepare(folder):
    """Builds lapo with CUDA, decodes the frames and packs both into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    build = ["cargo", "build", "--release", "--locked"]
    subprocess.run(build, cwd=ROOT, check=True)
    decode = dict(name="gpu", workspace=str(folder / "ws"), stages=dict(frames=frames()))
    run_pipeline(target / "release/lapo", folder, decode)
    cuda = target / "cuda"
    subprocess.run([*build, "--no-default-features", "--features", "cuda", "--target-dir", cuda], cwd=ROOT, check=True)
    stripped = folder / "lapo"
    subprocess.run(["strip", "-o", stripped, cuda / "release/lapo"], check=True)
    (folder / "lapo.xz").write_bytes(lzma.compress(stripped.read_bytes(), preset=6))
    stripped.unlink()
    print(f"{folder}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 2**20:.0f} MiB; next: `gpu.py run` on the machine with the GPU")


def frames():
    """Returns the decode stage."""
    return {"decode": {"videos": [f"{ROOT}/data/maze/*.mp4"], "size": 64, "cut": None}}


def run_pipeline(lapo, folder, pipeline, *flags):
    (folder / "pipeline.yaml").write_text(json.dumps(pipeline))
    subprocess.run([lapo, "run", folder / "pipeline.yaml", *flags], check=True)


class PeakMemory:
    """Samples the memory used on the device while open. `peak` is the highest value, in MiB."""

    def __enter__(self):
        self.peak, self.open = 0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.open:
            if not shutil.which("nvidia-smi"):
                return
            out = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True)
            self.peak = max([self.peak, *(int(line) for line in out.stdout.split() if line.isdigit())])
            time.sleep(0.2)

    def __exit__(self, *_):
        self.open = False
        self.thread.join()


def run(folder, out):
    """Measures lapo and PyTorch in both precisions, then trains at the full size."""
    out.mkdir(parents=True, exist_ok=True)
    lapo = out / "lapo"
    lapo.write_bytes(lzma.decompress((folder / "lapo.xz").read_bytes()))
    lapo.chmod(0o755)
    subprocess.run([lapo, "doctor"], check=True)
    report, rows = {}, ["| precision | what | lapo | PyTorch eager | channels-last | compiled | lapo / best | share of matmul |", "|" + "---|" * 8]
    for precision in ("bf16", "f32"):
        bench = [lapo, "bench", "--reference", "--preset", PRESET, "--precision", precision, "--label-batch", LABEL_BATCH, "--batch", BATCH]
        with PeakMemory() as memory:
            ours = json.loads(capture([*bench, "--device", DEVICE, "--seconds", SECONDS, "--format", "json"]))
        ours["peak_mib"] = memory.peak
        torch = json.loads(capture(peer(precision)) or "{}")
        report[precision] = dict(lapo=ours, torch=torch)
        for row, key in ((ours["rows"][0], "transitions_per_s"), (ours["rows"][2], "steps_per_s")):
            theirs = [torch.get(mode, {}).get(key) for mode in ("eager", "channels-last", "compile")]
            best = max((t for t in theirs if t), default=None)
            cells = [precision, row["what"], f"{row['speed']:.1f} {row['unit']}", *(f"{t:.1f}" if t else "-" for t in theirs)]
            rows.append("| " + " | ".join([*cells, f"{row['speed'] / best:.2f}" if best else "-", f"{row['share']:.0%}"]) + " |")
        save(out, report, rows)
    precision = "bf16" if DEVICE != "cpu" else "f32"
    steps_per_s = report[precision]["lapo"]["rows"][2]["speed"]
    steps = max(60, int(steps_per_s * TRAINING_SECONDS))
    train = {"train_dynamics": dict(frames="frames", preset=PRESET, precision=precision, batch=BATCH, steps=steps)}
    shutil.copytree(folder / "ws", out / "ws", dirs_exist_ok=True)
    with PeakMemory() as memory:
        pipeline = dict(name="gpu", workspace=str(out / "ws"), stages=dict(frames=frames(), dynamics=train))
        run_pipeline(lapo, out, pipeline, "--device", DEVICE)
    report["training"] = dict(peak_mib=memory.peak, steps=steps)
    for name in ("metrics.parquet", "verdict.json"):
        shutil.copy(next((out / "ws/dynamics/data").glob(f"*/*/{name}")), out / name)
    report["training"]["verdict"] = json.loads((out / "verdict.json").read_text())
    save(out, report, rows)
    shutil.rmtree(out / "ws")
    lapo.unlink()


def peer(precision):
    """Returns the command that measures PyTorch."""
    idm, fdm = dict(tiny=(1, 8), small=(2, 12), paper=(4, 24))[PRESET]
    command = [sys.executable, HERE / "peer/torch_modes.py", "--idm-scale", idm, "--wm-scale", fdm, "--label-batch", LABEL_BATCH]
    flags = [*(["--bf16"] if precision == "bf16" else []), *(["--cpu"] if DEVICE == "cpu" else [])]
    return [*command, "--batch", BATCH, "--seconds", SECONDS, *flags]


def capture(command):
    """Returns the output of a command. If it fails, prints its error and returns an empty text."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        print(f"FAILED {command}\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
        if command[1] == "bench":
            sys.exit(1)
    return done.stdout if done.returncode == 0 else ""


def save(out, report, rows):
    (out / "report.json").write_text(json.dumps(report, indent=1))
    (out / "table.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows), flush=True)


if __name__ == "__main__":
    what, *folders = sys.argv[1:] or ["help"]
    if (what, len(folders)) not in (("prepare", 1), ("run", 2)):
        sys.exit(__doc__)
    {"prepare": prepare, "run": run}[what](*(Path(f).resolve() for f in folders))
