"""Decodes and labels many clips in one process and compares its memory and speed at the beginning and at the end.

    python tests/bench/soak.py target/release/lapo [--clips 50000]

The clips are hard links to the recordings in `data/maze`. Speed is the rate of new receipts: a tenth of each stage's tasks near the
beginning against a tenth at the end, by the modification times of the files. Run nothing else meanwhile.
"""

import argparse
import os
import pathlib
import subprocess
import tempfile
import time

PIPELINE = """
name: soak
workspace: ws
stages:
  frames: { decode: { videos: ['clips/*.mp4'], size: 32 } }
  dynamics: { train_dynamics: { frames: frames, preset: tiny, fdm_base: 16, batch: 32, steps: 20 } }
  labels: { label: { frames: frames, dynamics: dynamics, fdm_error: false } }
"""


def resident_mib(pid):
    """Returns the memory of a process without mapped files."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))


def rates(folder):
    """Returns the tasks per second of a stage in its second and its last tenth, and in both halves."""
    filed = sorted(entry.stat().st_mtime for entry in os.scandir(folder / "receipts"))
    tenth = len(filed) // 10
    half = 5 * tenth
    tenths = tenth / (filed[2 * tenth] - filed[tenth]), tenth / (filed[-1] - filed[-1 - tenth])
    return *tenths, half / (filed[half] - filed[0]), half / (filed[-1] - filed[-1 - half])


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("lapo", type=pathlib.Path)
    args.add_argument("--clips", type=int, default=50_000)
    args.add_argument("--folder", help="for the workspace; must be on the file system of the recordings, because the clips are hard links")
    args = args.parse_args()
    recordings = sorted((pathlib.Path(__file__).resolve().parents[2] / "data/maze").glob("*.mp4"))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = pathlib.Path(folder)
        (folder / "clips").mkdir()
        for i in range(args.clips):
            os.link(recordings[i % len(recordings)], folder / f"clips/{i:06d}.mp4")
        (folder / "pipeline.yaml").write_text(PIPELINE)
        with open(folder / "log", "w") as log:
            process = subprocess.Popen([args.lapo.resolve(), "run", "pipeline.yaml"], cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
            memory = {"frames": [], "dynamics": [], "labels": []}
            while process.poll() is None:
                stage = next((stage for stage in ("labels", "dynamics", "frames") if (folder / "ws" / stage).exists()), "frames")
                try:
                    memory[stage].append(resident_mib(process.pid))
                except (FileNotFoundError, StopIteration):
                    break
                time.sleep(0.5)
            print(process.communicate()[0].strip())
        for stage in ("frames", "labels"):
            first, last, *halves = rates(folder / "ws" / stage)
            taken = memory[stage][len(memory[stage]) // 10 :]
            tenth = max(len(taken) // 10, 1)
            early, late = sum(taken[:tenth]) / tenth, sum(taken[-tenth:]) / tenth
            print(f"{stage}: {first:.1f} tasks/s early, {last:.1f} late ({last / first:.3f}), halves {halves[0]:.1f}, {halves[1]:.1f} ({halves[1] / halves[0]:.3f}); own memory {early:.0f} MiB early, {late:.0f} late")


if __name__ == "__main__":
    main()
