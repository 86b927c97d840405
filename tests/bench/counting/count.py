#!/usr/bin/env python3
"""Counts what a CUDA build asks of a GPU, on a machine without one.

    count.py LAPO [--preset paper] [--precision f32 bf16] [--batch 128] [--label-batch 1024] [--out counts.csv]

`driver.c` takes the place of the CUDA driver: it counts launches, copies and waits, and runs nothing. Kernels are compiled by the real
NVRTC, so a kernel that does not compile for an H100 fails here. Needs a compiler (`cc`), a lapo built with `--features cuda`, and
NVRTC 13 with its headers: CUDA_PATH, or `pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl`.

Each row is the difference between two runs of `lapo bench` with different numbers of calls, divided by the calls between them. The
last columns are two lower bounds of a call's time: launches at 5 us each, and floating-point operations at half the peak of an H100
(989 TFLOP/s in bf16, 495 in TF32). The first run takes minutes, because all kernels are compiled and tuned.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRST, LAST = 12, 22  # calls; the first ones also allocate and tune
PEAK = {"f32": 495e12, "bf16": 989e12}
COUNTS = ["launches", "uploads", "upload_bytes", "read_backs", "read_back_bytes", "synchronisations", "throttles", "stream_waits", "copies"]


def toolkit():
    """Returns the folder of NVRTC and its headers."""
    pip = next((Path(p) / "nvidia/cu13" for p in sys.path if (Path(p) / "nvidia/cu13/lib").is_dir()), "/usr/local/cuda")
    return Path(os.environ.get("CUDA_PATH", pip))


def environment(folder):
    """Builds the driver in a folder and returns the environment of a program that uses it."""
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", folder / "libcuda.so", HERE / "driver.c", "-lpthread"], check=True)
    cuda = toolkit()
    return {**os.environ, "CUDA_PATH": str(cuda), "LD_LIBRARY_PATH": f"{folder}:{cuda}/lib:{cuda}/lib64"}


def count(lapo, env, folder, flags, calls):
    """Runs a benchmark. Returns the driver's counts and the floating-point operations of a call."""
    report = folder / "report.json"
    command = [lapo, "bench", "--device", "cuda:0", "--format", "json", "--calls", str(calls), *flags]
    done = subprocess.run(command, env={**env, "COUNTING_REPORT": str(report)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}\n{done.stderr[-4000:]}")
    return json.loads(report.read_text()), json.loads(done.stdout)["rows"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lapo")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--precision", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--label-batch", type=int, default=1024)
    parser.add_argument("--only", nargs="+", default=["label", "train"], choices=["label", "train"])
    parser.add_argument("--recipe", nargs="+", default=["reference", "default"], choices=["reference", "default"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = environment(folder)
        for precision in args.precision:
            for recipe in args.recipe:
                for what in args.only:
                    flags = ["--preset", args.preset, "--precision", precision, "--only", what, "--batch", str(args.batch)]
                    flags += ["--label-batch", str(args.label_batch), *(["--reference"] if recipe == "reference" else [])]
                    count(args.lapo, env, folder, flags, FIRST)  # compiles and tunes
                    (low, _), (high, measured) = [count(args.lapo, env, folder, flags, calls) for calls in (FIRST, LAST)]
                    row = dict(what=what, preset=args.preset, recipe=recipe, precision=precision, kernels=high["kernels"], least_queued=high["least_queued"])
                    row |= {key: (high[key] - low[key]) / (LAST - FIRST) for key in COUNTS}
                    # A call of labelling is two passes: the IDM alone, then everything.
                    units = args.label_batch if what == "label" else 1
                    operations = sum(m["operations_per_unit"] for m in measured) * units
                    row |= dict(ms_of_launches=row["launches"] * 5e-3, ms_of_operations=operations / (PEAK[precision] / 2) * 1e3)
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
