#!/usr/bin/env python3
"""Writes a LeRobot dataset of version 3.0 with LeRobot itself, from recorded videos.

usage: write_lerobot.py ROOT ACTIONS.parquet VIDEO... [--codec h264]

Each video is an episode with two cameras: `front` shows it, `wrist` its middle, twice as large and
mirrored. `action` is the true action as a vector of two numbers, `observation.state` the action
before. An existing dataset is continued. Needs a Python with `lerobot` (tried with 0.4.4).
"""

import argparse
import os

import av
import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.lerobot_dataset import LeRobotDataset

SIDE = 128


def frames(path):
    """Returns the frames of a video, half as large: [frame, SIDE, SIDE, 3]."""
    with av.open(path) as file:
        all_frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    return all_frames[:, ::2, ::2].copy()


def wrist(frame):
    quarter = SIDE // 4
    middle = frame[quarter:-quarter, quarter:-quarter]
    return middle.repeat(2, axis=0).repeat(2, axis=1)[:, ::-1].copy()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("actions")
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--codec", default="libsvtav1")
    args = parser.parse_args()
    camera = {"dtype": "video", "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]}
    vector = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    features = {"observation.images.front": camera, "observation.images.wrist": camera,
                "action": vector, "observation.state": vector}
    if os.path.exists(args.root):
        dataset = LeRobotDataset("lapo/recorded", root=args.root)
    else:
        dataset = LeRobotDataset.create("lapo/recorded", fps=15, features=features,
                                        root=args.root, vcodec=args.codec)
    table = pq.read_table(args.actions).to_pylist()
    action_of = {(row["video"], row["frame_index"]): row["action"] for row in table}
    for path in args.videos:
        before = np.zeros(2, np.float32)
        name = os.path.basename(path)
        for number, frame in enumerate(frames(path)):
            number_of_keys = action_of.get((name, number), 4)
            action = np.array([number_of_keys // 3 - 1, number_of_keys % 3 - 1], np.float32)
            dataset.add_frame({
                "observation.images.front": frame, "observation.images.wrist": wrist(frame),
                "action": action, "observation.state": before, "task": f"solve {name[:6]}",
            })
            before = action
        dataset.save_episode()
    dataset.finalize()
    print(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames")


main()
