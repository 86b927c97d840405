"""Serves Gymnasium environments to lapo over its standard input and output.

The first line of the input is a request in JSON; the first line of the output describes the
environments, or says why there are none. After that both are binary, in native byte order:
a command `s` (step) is followed by an action of each environment, `r` (reset) by nothing. The
answer is a byte of 0, rewards (f64), ends (u8: 0 none, 1 terminated, 2 truncated) and frames; or a
byte of 1, the length of a text (u32) and the text: what failed.
"""

import importlib
import json
import os
import struct
import sys

# Only answers go to the pipe: what an environment prints goes to the standard error.
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
commands = sys.stdin.buffer


class Unusable(Exception):
    """What is wrong, and its cure."""


def load(request):
    try:
        import gymnasium
        import numpy
    except ImportError as error:
        raise Unusable(f"cannot import it: {error}", "install `gymnasium` in this Python")
    version = gymnasium.__version__
    if int(version.split(".")[0]) < 1:
        raise Unusable(f"gymnasium is {version}, expected at least 1.0", "upgrade `gymnasium`")
    for module in request["imports"]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Unusable(f"cannot import {module}: {error}", "install it in this Python")
    return gymnasium, numpy


def make(gymnasium, request):
    try:
        return gymnasium.make(request["id"], render_mode="rgb_array", **request["make"])
    except Exception as error:
        raise Unusable(
            f"cannot make it: {type(error).__name__}: {error}",
            "check its name and `make`; name the package that registers it in `imports`",
        )


def describe_actions(gymnasium, space):
    if isinstance(space, gymnasium.spaces.Discrete):
        return {"actions": int(space.n)}
    if isinstance(space, gymnasium.spaces.Box) and space.dtype.kind == "f":
        bounds = lambda values: [float(x) if abs(x) < 1e30 else None for x in values.flatten()]
        return {"low": bounds(space.low), "high": bounds(space.high)}
    raise Unusable(f"its actions are {space}", "expected `Discrete`, or `Box` of floats")


class Env:
    def __init__(self, gymnasium, numpy, request, seed):
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
        )
        self.shape = None
        self.reset(seed)
        self.shape = self.frame.shape

    def reset(self, seed=None):
        self.see(self.env.reset(seed=seed)[0])

    def see(self, observation):
        frame = observation if self.observes else self.env.render()
        frame = self.numpy.ascontiguousarray(frame)
        if frame.dtype != self.numpy.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise Unusable(
                f"a frame is {frame.dtype} of shape {frame.shape}, "
                "expected uint8 of [rows, columns, 3]",
                "choose an environment that renders `rgb_array`",
            )
        if self.shape is not None and frame.shape != self.shape:
            raise Unusable(
                f"a frame has shape {frame.shape}, expected {self.shape} as the first one",
                "choose an environment whose frames keep their size",
            )
        self.frame = frame

    def step(self, action):
        if "actions" in self.actions:
            action = int(action[0]) + int(self.space.start)
        else:
            action = action.astype(self.space.dtype).reshape(self.space.shape)
        observation, reward, terminated, truncated, _ = self.env.step(action)
        if not self.numpy.isfinite(reward):
            raise Unusable(f"a reward is {reward}", "rewards must be finite")
        end = 1 if terminated else 2 if truncated else 0
        if end:
            self.reset()
        else:
            self.see(observation)
        return float(reward), end


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
            steps = [(0.0, 0)] * len(envs)
        else:
            return  # lapo has ended.


def text(error):
    what = error.args[0] if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
    cure = error.args[1] if isinstance(error, Unusable) else "play it in Python to see why"
    return json.dumps({"error": what, "cure": cure}).encode()


def main():
    request = json.loads(commands.readline())
    try:
        gymnasium, numpy = load(request)
        envs = [Env(gymnasium, numpy, request, seed) for seed in request["seeds"]]
        if any(env.shape != envs[0].shape for env in envs):
            raise Unusable("its environments differ in frame size", "set the size in `make`")
    except Exception as error:
        answers.write(text(error) + b"\n")
        answers.flush()
        return
    about = {"shape": list(envs[0].shape), **envs[0].actions}
    answers.write(json.dumps(about).encode() + b"\n")
    try:
        serve(envs, numpy)
    except Exception as error:
        message = text(error)
        answers.write(b"\1" + struct.pack("=I", len(message)) + message)
        answers.flush()


main()
