"""Tasks of dm_control as Gymnasium environments, with motion that is not the agent's.

`pipelines/distractors.yaml` records them. The module registers `DistractedControl-v0`:

    gymnasium.make("DistractedControl-v0", task="walker_walk", distractors="video")

| `distractors` | what moves besides the agent |
|---|---|
| `clean` | nothing |
| `video` | the background: everything behind the agent is a recording of data/ |
| `shake` | the camera: its three angles follow a smooth random walk |
| `colour` | the colours of the agent and the floor follow a smooth random walk |
| `all` | all three |

An episode follows from its seed: start, recording, camera and colours. Distractors have random
numbers of their own and do not touch the physics, so that the same seed and the same actions give
the same states under every distractor.

Needs dm_control, a MuJoCo below 4 (dm_control 1.0.50 does not load with 4.0), OSMesa (package
libosmesa6) and the program ffmpeg.
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

# MuJoCo reads both when it is imported. Recording has a process for each core.
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("LP_NUM_THREADS", "1")

import gymnasium
import mujoco
import numpy as np
from dm_control import suite

DATA = Path(__file__).resolve().parents[2] / "data"
# A frame shows the effect of this many control steps with the same action: 0.04 or 0.05 seconds.
REPEATS = {"cheetah_run": 4, "walker_walk": 2, "hopper_hop": 2}
KINDS = ("video", "shake", "colour")
DISTRACTORS = {"clean": (), "all": KINDS} | {kind: (kind,) for kind in KINDS}
SIDE = 64
GEOM = int(mujoco.mjtObj.mjOBJ_GEOM)
# Bounds of the walks: radians of the camera's angles (0.1 is about 8 pixels), shares of a colour.
SHAKE, COLOUR = 0.1, 0.4


def check(name, value, known):
    if value not in known:
        raise ValueError(f"`{name}` is {value}, expected one of {', '.join(known)}")


class Walk:
    """A smooth random walk of `size` numbers between `-bound` and `bound`."""

    def __init__(self, rng, size, bound):
        self.rng, self.bound = rng, bound
        self.at = rng.uniform(-bound, bound, size)
        self.velocity = np.zeros(size)

    def step(self):
        noise = self.rng.normal(0, 0.05 * self.bound, self.at.shape)
        self.velocity = 0.8 * self.velocity + noise
        at = self.at + self.velocity
        self.at = np.clip(at, -self.bound, self.bound)
        # It turns round at its bounds.
        self.velocity[self.at != at] *= -1


@functools.cache
def recording(path):
    """Returns the frames of a recording, `[time, SIDE, SIDE, 3]`."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-vf", f"scale={SIDE}:{SIDE}:flags=area"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, SIDE, SIDE, 3)


class Background:
    """A part of a recording of data/, mirrored at random and played to and fro."""

    def __init__(self, rng):
        paths = sorted([*DATA.glob("coinrun/*.mp4"), *DATA.glob("bigfish/*.mp4")])
        if not paths:
            raise FileNotFoundError(f"{DATA} has no recordings of coinrun and bigfish")
        self.frames = recording(paths[rng.integers(len(paths))])
        if rng.integers(2):
            self.frames = self.frames[:, :, ::-1]
        # There and back again, so that it never jumps.
        self.period = 2 * len(self.frames) - 2
        self.at = int(rng.integers(self.period))

    def step(self):
        self.at = (self.at + 1) % self.period

    def frame(self):
        return self.frames[min(self.at, self.period - self.at)]


class DistractedControl(gymnasium.Env):
    """A task of dm_control in pictures. Its episodes have `steps` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, task="cheetah_run", distractors="clean", steps=100, render_mode=None):
        check("task", task, REPEATS)
        check("distractors", distractors, DISTRACTORS)
        self.repeat, self.kinds, self.steps = REPEATS[task], DISTRACTORS[distractors], steps
        if "video" in self.kinds and not shutil.which("ffmpeg"):
            raise gymnasium.error.DependencyNotInstalled("install the program `ffmpeg`")
        self.random = np.random.RandomState(0)
        arguments = {"random": self.random, "time_limit": float("inf")}
        self.control = suite.load(*task.split("_"), task_kwargs=arguments)
        self.model, self.data = self.control.physics.model.ptr, self.control.physics.data.ptr
        self.colours = self.model.mat_rgba[:, :3].copy()
        # Shadows and reflections take ten times as long as the rest of a frame.
        self.model.vis.quality.shadowsize = 0
        self.renderer = mujoco.Renderer(self.model, SIDE, SIDE)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.renderer.scene.flags[flag] = False
        action = self.control.action_spec()
        low, high = action.minimum.astype(np.float32), action.maximum.astype(np.float32)
        self.action_space = gymnasium.spaces.Box(low, high)
        self.observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        episode = int(self.np_random.integers(1 << 31))
        self.random.seed(episode)
        self.control.reset()
        # Each kind has its own random numbers, so that it is the same alone and with others.
        rngs = {kind: np.random.default_rng([episode, i]) for i, kind in enumerate(KINDS)}
        self.moving = {kind: self.start(kind, rngs[kind]) for kind in self.kinds}
        self.taken = 0
        return self.see()

    def start(self, kind, rng):
        if kind == "video":
            return Background(rng)
        return Walk(rng, 3, SHAKE) if kind == "shake" else Walk(rng, self.colours.shape, COLOUR)

    def step(self, action):
        reward = sum(self.control.step(action).reward for _ in range(self.repeat))
        self.taken += 1
        for kind in self.moving.values():
            kind.step()
        picture, state = self.see()
        return picture, reward, False, self.taken == self.steps, state

    def see(self):
        self.picture = self.draw()
        return self.picture, {"state": self.control.physics.get_state()}

    def render(self):
        return self.picture

    def close(self):
        self.renderer.close()

    def draw(self):
        if "colour" in self.moving:
            self.model.mat_rgba[:, :3] = np.clip(self.colours + self.moving["colour"].at, 0, 1)
        self.renderer.update_scene(self.data, camera=0)
        if "shake" in self.moving:
            turn(self.renderer.scene.camera, *self.moving["shake"].at)
        picture = self.renderer.render()
        if "video" not in self.moving:
            return picture
        self.renderer.enable_segmentation_rendering()
        ids, kinds = np.moveaxis(self.renderer.render(), -1, 0)
        self.renderer.disable_segmentation_rendering()
        # The floor belongs to body 0, the world.
        agent = (kinds == GEOM) & (self.model.geom_bodyid[ids] > 0)
        return np.where(agent[..., None], picture, self.moving["video"].frame())


def turn(cameras, yaw, pitch, roll):
    """Turns the cameras of a scene by small angles."""
    for camera in cameras:
        forward, up = camera.forward.astype(float), camera.up.astype(float)
        right = np.cross(forward, up)
        forward = forward + yaw * right + pitch * up
        forward /= np.linalg.norm(forward)
        up = up + roll * right
        up -= forward * (forward @ up)
        camera.forward, camera.up = forward, up / np.linalg.norm(up)


gymnasium.register("DistractedControl-v0", entry_point=DistractedControl)
