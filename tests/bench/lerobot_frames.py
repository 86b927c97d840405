#!/usr/bin/env python3
"""Compares decoded frames with those of LeRobot itself, episode by episode.

usage: lerobot_frames.py ROOT SHARD.arrow...

Frames that are smaller than LeRobot's are compared with the means of its pixels. Every episode must
reach 40 dB, and every true action stand at its frame. Needs a Python with `lerobot` (tried with
0.4.4).
"""

import sys

import numpy as np
import pyarrow as pa
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def smaller(frame, side):
    """Returns the means of squares of pixels: [side, side, 3]."""
    block = frame.shape[0] // side
    return frame.astype(float).reshape(side, block, side, block, 3).mean((1, 3))


def main(root, shards):
    dataset = LeRobotDataset("lapo/recorded", root=root)
    rows = {}
    for path in shards:
        table = pa.ipc.open_file(path).read_all()
        pixels = table["pixels"].combine_chunks()
        pixels = pixels if hasattr(pixels, "to_numpy_ndarray") else pixels.chunk(0)
        frames = zip(table["video"].to_pylist(), table["frame_index"].to_pylist())
        for (video, frame), own in zip(frames, pixels.to_numpy_ndarray()):
            camera, episode = video.rsplit("/", 2)[1:]
            rows[camera, int(episode.removeprefix("episode_")), frame] = own
    cameras = dataset.meta.video_keys
    assert len(rows) == len(cameras) * len(dataset), (len(rows), len(dataset))
    errors = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        at = (sample["episode_index"].item(), sample["frame_index"].item())
        for camera in cameras:
            own = rows[camera, *at]
            theirs = (sample[camera].numpy().transpose(1, 2, 0) * 255).round()
            error = ((smaller(theirs, own.shape[0]) - own) ** 2).mean()
            errors.setdefault((camera, at[0]), []).append(error)
    psnr = [10 * np.log10(255 ** 2 / max(np.mean(of), 1e-9)) for of in errors.values()]
    assert min(psnr) >= 40, min(psnr)
    print(f"{len(psnr)} videos, {len(rows)} frames, at least {min(psnr):.1f} dB")


main(sys.argv[1], sys.argv[2:])
