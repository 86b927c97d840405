#!/usr/bin/env python3
"""Measures an IDM forward pass and a stage-1 training step in PyTorch: eager, channels-last and torch.compile, in f32 (TF32 on a GPU) or
bf16.

    torch_modes.py --idm-scale 1 --wm-scale 8 [--label-batch 128] [--batch 32] [--threads 2] [--cpu] [--modes eager channels-last compile]

Prints one line of JSON: transitions_per_s and steps_per_s by mode, and the peak memory of the GPU.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time

import torch
from lapo_torch import Fdm, Idm, config, stage1_loss


def median_seconds(work, seconds, device):
    """Returns the median duration of repeated calls, after three calls to warm up."""
    def once():
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(3):
        once()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 3:
        times.append(once())
    return statistics.median(times)


def prepare(mode, args, device):
    """Prepares the networks in one mode. Returns a function that measures labelling and training for some seconds."""
    torch.manual_seed(0)
    memory = torch.channels_last if mode != "eager" else torch.contiguous_format
    cfg = config(args.idm_scale, args.wm_scale, 1)
    idm, fdm = (net(cfg).to(device).to(memory_format=memory) for net in (Idm, Fdm))
    frames = lambda batch: torch.rand(batch, 3, 3, 64, 64, device=device) - 0.5
    half = lambda: torch.autocast(device, torch.bfloat16) if args.bf16 else contextlib.nullcontext()
    optimiser = torch.optim.Adam([*idm.parameters(), *fdm.parameters()], lr=3e-4)
    # Compiles the networks, not the whole step, as the published code does: the moving averages of VQ are Python side effects.
    if mode == "compile":
        idm.forward, fdm.forward = torch.compile(idm.forward), torch.compile(fdm.forward)
    label_frames, train_frames = frames(args.label_batch), frames(args.batch)

    def label():
        with torch.no_grad(), half():
            idm(label_frames)

    def step():
        with half():
            parts = stage1_loss(idm, fdm, train_frames)
            loss = parts["wm_loss"] + parts["vq_loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*idm.parameters(), *fdm.parameters()], 2.0)
        optimiser.step()

    def measure(seconds):
        idm.eval(), fdm.eval()
        found = dict(transitions_per_s=args.label_batch / median_seconds(label, seconds, device))
        idm.train(), fdm.train()
        found["steps_per_s"] = 1 / median_seconds(step, seconds, device)
        if device == "cuda":
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        return found

    return measure


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--idm-scale", type=int, default=1)
    parser.add_argument("--wm-scale", type=int, default=8)
    parser.add_argument("--label-batch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--serve", action="store_true", help="print `ready`, then measure the mode named in each line of stdin")
    parser.add_argument("--modes", nargs="*", default=["eager", "channels-last", "compile"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device = "cpu" if args.cpu else "cuda"
    if not args.serve:
        print(json.dumps({mode: prepare(mode, args, device)(args.seconds) for mode in args.modes}))
        return
    measures = {mode: prepare(mode, args, device) for mode in args.modes}
    for measure in measures.values():
        measure(0)
    print("ready", flush=True)
    for mode in map(str.strip, sys.stdin):
        print(json.dumps(measures[mode](args.seconds)), flush=True)


if __name__ == "__main__":
    main()
