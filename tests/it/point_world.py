"""A point that moves by a continuous action, drawn on a picture of 24 rows and 32 columns.

The first pixel has the episode's seed, below 256, so that a reader can play the episode again.
"""

import os
import time

import gymnasium
import numpy as np


class Point(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, axes=2, falls_at=None, hangs=None, render_mode=None):
        self.observation_space = gymnasium.spaces.Box(0, 1, (2,))
        # The first axis has bounds, all others have none.
        low, high = np.full(axes, -np.inf, np.float32), np.full(axes, np.inf, np.float32)
        low[0], high[0] = -0.5, 2.0
        self.action_space = gymnasium.spaces.Box(low, high)
        self.falls_at, self.hangs = falls_at, hangs

    def reset(self, seed=None, options=None):
        # Few different starts, so that the seed fits into a pixel.
        self.seed = 0 if seed is None else seed % 256
        super().reset(seed=self.seed)
        self.at = self.np_random.uniform(0, 1, 2)
        self.steps = 0
        return self.at.astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == self.falls_at:
            print("the point fell off", flush=True)
            os._exit(9)
        if self.hangs:
            with open(self.hangs, "w") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(1000)
        self.at = np.clip(self.at + 0.1 * np.asarray(action, np.float64)[:2], 0, 1)
        away = float(np.abs(self.at - 0.5).sum())
        return self.at.astype(np.float32), -away, away < 0.02, self.steps == 10, {}

    def render(self):
        frame = np.zeros((24, 32, 3), np.uint8)
        row, column = (self.at * [19, 27]).astype(int)
        frame[row : row + 4, column : column + 4] = (20, 200, 250)
        frame[0, 0] = self.seed
        return frame


gymnasium.register("Point-v0", entry_point=Point)
