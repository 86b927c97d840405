"""Serves Gymnasium environments to lapo over its standard input and output.

The first line of the input is a request in JSON; the first line of the output describes the
environments, or says why there are none. After that both are binary, in native byte order. A
command is a byte: `s` (step) is followed by an action of each environment, `r` (new episodes) by
nothing, `p` (replay) by the length of a text (u32) and the text: JSON with the number of the
episode of each environment and the actions taken in it so far.

The answer is a byte of 0, rewards (f64), ends (u8: 0 none, 1 terminated, 2 truncated) and frames;
or a byte of 1, the length of a text (u32) and the text: what failed.
"""

import importlib
import json
import os
import struct
import sys
import threading
import time

# Only answers go to the pipe: what an environment prints goes to the standard error.
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
commands = sys.stdin.buffer

# The step from the seed of an episode to that of the next one. Rust has the same numbers.
SEED_STEP = 2654435761
SEEDS = 1 << 31
# A smaller observation is not a picture of the environment, such as MiniGrid's 7 x 7 symbols.
LEAST_SIDE = 16
# Words in the errors of renderers that find no display.
DISPLAY = ("display", "opengl", "glfw", "egl", "osmesa", "gladload", "x11")
DISPLAY_CURE = (
    "it needs a display or a software renderer: set MUJOCO_GL=egl or MUJOCO_GL=osmesa "
    "(package libosmesa6), or SDL_VIDEODRIVER=dummy, or run under `xvfb-run`"
)


class Unusable(Exception):
    """What is wrong, and its cure."""


def end_with_parent():
    """Ends the process once lapo is gone, even if a step hangs."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def widen_pipe():
    """Lets a whole frame into the pipe at once, where the system allows it."""
    try:
        import fcntl

        fcntl.fcntl(answers.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
    except (ImportError, AttributeError, OSError):
        pass


def load(request):
    try:
        import gymnasium
        import numpy
    except ImportError as error:
        cure = f"install it: `{sys.executable} -m pip install gymnasium`, or name another virtual "
        raise Unusable(f"cannot import Gymnasium: {error}", cure + "environment with `--gymnasium`")
    version = gymnasium.__version__
    if int(version.split(".")[0]) < 1:
        raise Unusable(f"gymnasium is {version}, expected at least 1.0", "upgrade `gymnasium`")
    for module in request["imports"]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Unusable(
                f"cannot import {module}: {error}",
                "install it in this Python, or correct `imports`; PYTHONPATH may name its folder",
            )
    return gymnasium, numpy


def make(gymnasium, request):
    try:
        return gymnasium.make(request["id"], render_mode="rgb_array", **request["make"])
    except Exception as error:
        what = f"cannot make it: {type(error).__name__}: {error}"
        cure = "check its name and `make`; name the package that registers it in `imports`"
        if isinstance(error, (ImportError, gymnasium.error.DependencyNotInstalled)):
            cure = "install the missing package in this Python"
        raise Unusable(what, cure_of(error, cure))


def describe_actions(gymnasium, space):
    if isinstance(space, gymnasium.spaces.Discrete):
        return {"actions": int(space.n)}
    if isinstance(space, gymnasium.spaces.Box) and space.dtype.kind == "f" and space.low.size > 0:
        bounds = lambda values: [float(x) if abs(x) < 1e30 else None for x in values.flatten()]
        return {"low": bounds(space.low), "high": bounds(space.high)}
    raise Unusable(
        f"its actions are {space}, expected Discrete or a Box of floats",
        "register a wrapped environment with such actions, and name its module in `imports`",
    )


class Env:
    """An environment; the seed of episode `n`, if it has one, depends on nothing but `n`."""

    def __init__(self, gymnasium, numpy, request, number):
        self.numpy = numpy
        self.env = make(gymnasium, request)
        self.space = self.env.action_space
        self.actions = describe_actions(gymnasium, self.space)
        seen = self.env.observation_space
        self.observes = (
            isinstance(seen, gymnasium.spaces.Box)
            and seen.dtype == numpy.uint8
            and len(seen.shape) == 3
            and seen.shape[2] == 3
            and min(seen.shape[:2]) >= LEAST_SIDE
        )
        self.seed, self.count = request["seed"], request["count"]
        self.seeds_each = request["seeds_each"]
        self.number = number
        self.shape = None
        self.see(self.begin(number))
        self.shape = self.frame.shape

    def begin(self, number):
        self.number = number
        is_seeded = self.seeds_each or number < self.count
        seed = (self.seed + SEED_STEP * number) % SEEDS if is_seeded else None
        return self.env.reset(seed=seed)[0]

    def reset(self):
        self.see(self.begin(self.number + self.count))

    def see(self, observation):
        frame = observation if self.observes else self.env.render()
        if frame is None:
            modes = self.env.metadata.get("render_modes", [])
            raise Unusable(
                f"it renders no picture; its render modes are {modes}, expected `rgb_array`",
                "choose an environment that renders `rgb_array`, or wrap it so that its "
                "observation is a picture",
            )
        frame = self.numpy.ascontiguousarray(frame)
        if frame.dtype != self.numpy.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise Unusable(
                f"a frame is {frame.dtype} of shape {frame.shape}, "
                "expected uint8 of [rows, columns, 3]",
                "choose an environment that renders `rgb_array`",
            )
        if self.shape is not None and frame.shape != self.shape:
            raise Unusable(
                f"a frame has the shape {frame.shape}, expected {self.shape} as the first one",
                "wrap the environment so that its frames keep their size",
            )
        self.frame = frame

    def act(self, action):
        if "actions" in self.actions:
            action = int(action[0]) + int(self.space.start)
        else:
            action = action.astype(self.space.dtype).reshape(self.space.shape)
        return self.env.step(action)

    def step(self, action):
        observation, reward, terminated, truncated, _ = self.act(action)
        reward = float(reward)
        if not self.numpy.isfinite(reward):
            what = f"a reward is {reward}, expected a finite number"
            raise Unusable(what, "wrap the environment so that it gives finite rewards")
        end = 1 if terminated else 2 if truncated else 0
        if end:
            self.reset()
        else:
            self.see(observation)
        return reward, end

    def replay(self, number, actions):
        observation = self.begin(number)
        for action in actions:
            observation, _, terminated, truncated, _ = self.act(action)
            if terminated or truncated:
                raise Unusable(
                    "an episode ends earlier when its actions are taken again",
                    "start the stage anew: the environment does not repeat itself from its seed",
                )
        self.see(observation)


def serve(envs, numpy):
    width = len(envs[0].actions.get("low", [0]))
    kind = numpy.dtype("u4" if "actions" in envs[0].actions else "f4")
    steps = [(0.0, 0)] * len(envs)
    while True:
        answers.write(b"\0")
        answers.write(numpy.array([reward for reward, _ in steps], "f8").tobytes())
        answers.write(bytes(end for _, end in steps))
        for env in envs:
            answers.write(env.frame.data)
        answers.flush()
        steps = [(0.0, 0)] * len(envs)
        command = commands.read(1)
        if command == b"s":
            size = len(envs) * width * kind.itemsize
            data = commands.read(size)
            if len(data) < size:
                return
            actions = numpy.frombuffer(data, kind).reshape(len(envs), width)
            steps = [env.step(action) for env, action in zip(envs, actions)]
        elif command == b"r":
            for env in envs:
                env.reset()
        elif command == b"p":
            (size,) = struct.unpack("=I", commands.read(4))
            for env, (number, actions) in zip(envs, json.loads(commands.read(size))):
                env.replay(number, numpy.array(actions, kind).reshape(-1, width))
        else:
            return  # lapo has ended.


def cure_of(error, otherwise):
    text = f"{type(error).__name__} {error}".lower()
    return DISPLAY_CURE if any(word in text for word in DISPLAY) else otherwise


def text(error):
    if isinstance(error, Unusable):
        what, cure = error.args
    else:
        what = f"{type(error).__name__}: {error}"
        cure = cure_of(error, "play it in Python to see why")
    return json.dumps({"error": what, "cure": cure}).encode()


def fps_of(env):
    try:
        return min(max(round(float(env.metadata["render_fps"])), 1), 1000)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def main():
    end_with_parent()
    widen_pipe()
    request = json.loads(commands.readline())
    try:
        gymnasium, numpy = load(request)
        envs = [Env(gymnasium, numpy, request, number) for number in range(request["count"])]
        if any(env.shape != envs[0].shape for env in envs):
            raise Unusable("its environments differ in frame size", "set the size in `make`")
    except Exception as error:
        answers.write(text(error) + b"\n")
        answers.flush()
        return
    about = {"shape": list(envs[0].shape), "fps": fps_of(envs[0].env), **envs[0].actions}
    answers.write(json.dumps(about).encode() + b"\n")
    try:
        serve(envs, numpy)
    except Exception as error:
        message = text(error)
        answers.write(b"\1" + struct.pack("=I", len(message)) + message)
        answers.flush()


main()
