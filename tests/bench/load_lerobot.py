#!/usr/bin/env python3
"""Loads an exported dataset with LeRobot itself, and trains a policy on its latent actions.

usage: load_lerobot.py ROOT LABELS.parquet... [--camera NAME] [--steps N]

ROOT is the folder of `meta` and `data`; LABELS are the files of the label stage, of which those of
one camera count. Reads every
sample, compares its latent action with the labels, and takes some training steps of ACT on
`latent_action` in place of `action`. Needs a Python with `lerobot` (tried with 0.4.4).
"""

import argparse
import time

import numpy as np
import pyarrow.parquet as pq
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import dataset_to_policy_features
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

CHUNK = 8


def check_samples(dataset, paths, camera):
    """Reads every sample. Valid samples must be the labels, in the order of their episodes."""
    labels = [row for path in paths for row in pq.read_table(path).to_pylist()]
    if any(f"/{camera}/" in row["video"] for row in labels):
        labels = [row for row in labels if f"/{camera}/" in row["video"]]
        labels.sort(key=lambda row: (row["video"], row["frame_index"]))
    labels = np.array([row["latent_action"] for row in labels], np.float32)
    started, valid = time.time(), 0
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["index"].item() == index and isinstance(sample["task"], str), index
        for key in dataset.meta.video_keys:
            assert torch.isfinite(sample[key]).all() and sample[key].shape[0] == 3, index
        if sample["latent_action_valid"].item():
            assert (sample["latent_action"].numpy() == labels[valid]).all(), index
            valid += 1
        else:
            assert not sample["latent_action"].any(), index
    assert valid == len(labels) > 0, (valid, len(labels))
    rate = len(dataset) / (time.time() - started)
    print(f"{dataset.num_episodes} episodes, {len(dataset)} samples, {valid} labels equal, "
          f"{rate:.0f} samples/s")


def train(root, meta, camera, steps):
    """Trains ACT on latent actions. Returns the first and the last loss."""
    times = [i / meta.fps for i in range(CHUNK)]
    dataset = LeRobotDataset("lapo/export", root=root, delta_timestamps={"latent_action": times})
    image = dataset_to_policy_features(meta.features)[camera]
    width = meta.features["latent_action"]["shape"]
    # ACT needs a state or an environment state beside images: a constant stands for it.
    config = ACTConfig(
        input_features={
            camera: image,
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(1,)),
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=tuple(width))},
        chunk_size=CHUNK, n_action_steps=CHUNK, dim_model=64, n_heads=2, dim_feedforward=128,
        n_encoder_layers=1, n_vae_encoder_layers=1, pretrained_backbone_weights=None, device="cpu",
    )
    torch.manual_seed(0)
    policy = ACTPolicy(config)
    policy.train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    stats = meta.stats["latent_action"]
    mean, std = (torch.tensor(np.array(stats[name]), dtype=torch.float32)
                 for name in ("mean", "std"))
    losses = []
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    while len(losses) < steps:
        for batch in loader:
            images = batch[camera]
            loss, _ = policy.forward({
                camera: images,
                "observation.state": torch.zeros(len(images), 1),
                "action": (batch["latent_action"] - mean) / (std + 1e-6),
                "action_is_pad": batch["latent_action_is_pad"],
            })
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    assert np.isfinite(losses).all(), losses
    third = max(1, steps // 3)
    print(f"ACT: loss {np.mean(losses[:third]):.3f} -> {np.mean(losses[-third:]):.3f} "
          f"in {steps} steps")
    return np.mean(losses[:third]), np.mean(losses[-third:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("labels", nargs="+")
    parser.add_argument("--camera", help="default: the only one")
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    dataset = LeRobotDataset("lapo/export", root=arguments.root)
    camera = arguments.camera or dataset.meta.video_keys[0]
    check_samples(dataset, arguments.labels, camera)
    before, after = train(arguments.root, dataset.meta, camera, arguments.steps)
    assert after < before, (before, after)


if __name__ == "__main__":
    main()
