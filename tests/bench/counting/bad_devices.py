"""Checks what lapo says about devices that fail, on a machine without a GPU.

    python tests/bench/counting/bad_devices.py LAPO [--vulkan LAPO] --toolkit FOLDER --procgen FOLDER

LAPO is built with `--features cuda`, the one of `--vulkan` with `--features vulkan` (it needs Mesa's lavapipe). FOLDER of `--toolkit` has
NVIDIA's `include` and `lib` with NVRTC, as PyPI's nvidia-cuda-nvrtc, nvidia-cuda-runtime and nvidia-cuda-crt install them. The driver is
`driver.c`. Prints a Markdown table of each situation, its exit code and message, and fails if a message is not the expected one or
if Rust reports a panic.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PIPELINE = """
name: bad-devices
workspace: w
seed: 1
holdout: 0
stages:
  frames:
    record: {{ game: maze, player: expert, episodes: 4, size: 32, episodes_per_shard: 1 }}
  model:
    train_dynamics: {{ frames: frames, preset: tiny, steps: {steps}, batch: {batch} }}
  labels:
    label: {{ frames: frames, dynamics: model }}
"""


class Machine:
    """A machine with the driver of `driver.c`, or without one."""

    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.toolkit = pathlib.Path(args.toolkit)
        self.driver, self.empty, self.broken = folder / "driver", folder / "empty", folder / "broken"
        for made in (self.driver, self.empty, self.broken):
            made.mkdir()
        compiled = ["gcc", "-shared", "-fPIC", "-o", self.driver / "libcuda.so", HERE / "driver.c", "-lpthread"]
        subprocess.run([str(part) for part in compiled], check=True)
        (self.broken / "libcuda.so").write_text("not a library\n")

    def run(self, *command, driver=None, nvrtc=True, headers=True, lapo=None, **settings):
        """Runs lapo. Returns its exit code and what it writes to stderr."""
        libraries = [driver or self.driver] + [self.toolkit / "lib"] * nvrtc
        env = {name: value for name, value in os.environ.items() if not name.startswith(("COUNTING_", "LAPO_"))}
        env |= {
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "CUDA_PATH": str(self.toolkit if headers else self.empty),
            "XDG_CACHE_HOME": self.args.cache or str(self.folder / "cache"),
            "XDG_RUNTIME_DIR": str(self.empty),
            "RUST_BACKTRACE": "0",
            "LAPO_PROCGEN": self.args.procgen,
        }
        env |= {f"COUNTING_{name.upper()}": str(value) for name, value in settings.items()}
        ran = subprocess.run([lapo or self.args.lapo, *command], cwd=self.folder, env=env, capture_output=True, text=True)
        return ran.returncode, ran.stderr

    def bench(self, device, *flags, **settings):
        return self.run("bench", "--device", device, "--only", "label", "--calls", "1", "--threads", "1", *flags, **settings)

    def pipeline(self, steps, batch, *flags, device="cuda:0", **settings):
        (self.folder / "pipeline.yaml").write_text(PIPELINE.format(steps=steps, batch=batch))
        return self.run("run", "pipeline.yaml", "--device", device, *flags, **settings)


def situations(machine):
    """Yields each situation, its exit code and stderr, and what the message must contain."""
    nothing = machine.empty
    yield "no driver", machine.bench("cuda:0", driver=nothing), 1, "the NVIDIA driver (libcuda.so) is not installed"
    yield "`libcuda.so` is not a library", machine.bench("cuda:0", driver=machine.broken), 1, "was found, but cannot be loaded"
    yield "driver without a GPU", machine.bench("cuda:0", gpus=0), 1, "the NVIDIA driver finds no GPU, as on a login node"
    yield "`cuda:7` of one", machine.bench("cuda:7"), 1, "this machine has 1 NVIDIA GPU, cuda:0"
    yield "`cuda:7` of two", machine.bench("cuda:7", gpus=2), 1, "this machine has 2 NVIDIA GPUs, cuda:0 to cuda:1"
    yield "NVRTC in a folder that the linker does not search", machine.bench("cuda:0", nvrtc=False), 1, "to LD_LIBRARY_PATH"
    yield "no NVRTC", machine.bench("cuda:0", nvrtc=False, headers=False), 1, "the CUDA compiler (libnvrtc.so) was not found"
    yield "no CUDA headers", machine.bench("cuda:0", headers=False), 1, "has no cuda_runtime.h"
    yield "`auto`, no GPU", machine.pipeline(1, 4, "--only", "frames", device="auto", gpus=0), 0, "note: computes on the CPU: cuda:0:"
    out_of_memory = machine.pipeline(2, 4096, memory=0.25, twos=1)
    yield "out of memory while training", out_of_memory, 1, "cuda:0 is out of memory"
    yield "GPU lost while training", machine.pipeline(1000, 4, lost=200), 75, "cuda:0 stopped working: CUDA_ERROR_ECC_UNCORRECTABLE"
    if machine.args.vulkan:
        flags = ("bench", "--device", "vulkan:0", "--precision", "bf16")
        yield "no bf16", machine.run(*flags, lapo=machine.args.vulkan), 1, "it does not compute in bf16; set `precision: f32`"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lapo")
    parser.add_argument("--vulkan")
    parser.add_argument("--toolkit", required=True)
    parser.add_argument("--procgen", required=True)
    parser.add_argument("--cache", help="a folder that keeps compiled kernels between calls")
    args = parser.parse_args()
    failed = 0
    print("| situation | exit code | message |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for situation, (code, stderr), exit_code, expected in situations(Machine(args, pathlib.Path(folder))):
            is_line = re.compile("^(error|errors|note|  hint): |^cannot|out of memory|stopped working")
            lines = [line.strip() for line in stderr.splitlines() if is_line.search(line) and "the first run on a GPU" not in line]
            print(f"| {situation} | {code} | {'<br>'.join(lines).replace(folder, '...')} |", flush=True)
            if code != exit_code or expected not in stderr or "panicked" in stderr or "thread panicked" in stderr:
                failed += 1
                print(f"WRONG: expected {exit_code} and `{expected}`:\n{stderr}", file=sys.stderr)
    sys.exit(f"{failed} situations are wrong" if failed else 0)


if __name__ == "__main__":
    main()
