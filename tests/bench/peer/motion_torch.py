#!/usr/bin/env python3
"""lapo's own networks (idm_head: motion, fdm_action: modulate, fdm_bottom: 8, predict: change) in plain PyTorch.

Writes random weights, one batch, and the results of the networks, the losses and a few optimiser steps to a golden file, as
`lapo_torch.py golden` does for the networks of the paper:

  motion_torch.py ../../golden/motion.safetensors
"""

import argparse
import json

import torch
import torch.nn.functional as F
from torch import nn

from lapo_torch import ImpalaStage, Quantizer, UnetResidual, conv3

SIZE, BOTTOM, SCALE, BASE, LATENT = 32, 8, 1, 4, 128
VQ = dict(codebooks=2, dim=16, entries=64, commitment=0.05, decay=0.99)


class Motion(nn.Module):
    """The scale of frame differences, and the normalisation of latent actions (without an affine part)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.zeros(1))
        self.norm = nn.BatchNorm1d(LATENT)
        self.norm.weight.requires_grad_(False), self.norm.bias.requires_grad_(False)


class Idm(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [9, 16 * SCALE, 32 * SCALE, 32 * SCALE]
        self.conv_stack = nn.Sequential(*(ImpalaStage(a, b) for a, b in zip(widths, widths[1:])))
        self.fc, self.policy_head = nn.Linear(widths[-1], 256), nn.Linear(256, LATENT)
        self.motion, self.vq = Motion(), Quantizer(latents=4, **VQ)

    def forward(self, obs):
        before, last, after = obs.unbind(1)
        scale = self.motion.scale
        maps = F.relu(self.conv_stack(torch.cat([scale * (last - before), last, scale * (after - last)], 1)))
        change = (after - last).pow(2).sum(1, keepdim=True)
        weight = F.avg_pool2d(change, SIZE // maps.shape[-1], divisor_override=1)
        weight = weight / (weight.sum((2, 3), keepdim=True) + 1e-6)
        features = F.relu(self.fc((maps * weight).sum((2, 3))))
        la = self.motion.norm(self.policy_head(features))
        return la, *self.vq(la)


class Level(nn.Module):
    """A level of the U-Net: convolution, normalisation, scale and shift by the action, residual block."""

    def __init__(self, conv, width, pool):
        super().__init__()
        self.conv, self.norm, self.res, self.pool = conv, nn.BatchNorm2d(width), UnetResidual(width), pool
        self.modulate = nn.Linear(LATENT, 2 * width)

    def forward(self, x, action):
        scale, shift = self.modulate(action)[:, :, None, None].chunk(2, 1)
        x = self.res(self.norm(self.conv(x)) * (1 + scale) + shift)
        return F.relu(F.max_pool2d(x, 2) if self.pool else x)


class Fdm(nn.Module):
    def __init__(self):
        super().__init__()
        past, widths = 6, [BASE, 2 * BASE]  # 32 -> 16 -> 8
        down = lambda a, b: Level(conv3(a, b), b, True)
        up = lambda a, b: Level(nn.ConvTranspose2d(a, b, 2, 2), b, False)
        self.down = nn.ModuleList([down(past, widths[0]), down(widths[0], widths[1]), conv3(widths[1], 4 * BASE)])
        self.up = nn.ModuleList([up(4 * BASE + widths[1], widths[0]), up(widths[0] + widths[0], BASE)])
        self.final_conv = nn.Sequential(conv3(BASE + past, BASE), UnetResidual(BASE), nn.ReLU(), nn.Conv2d(BASE, 3, 1))

    def forward(self, past, action):
        frames = past.flatten(1, 2)
        first = self.down[0](frames, action)
        second = self.down[1](first, action)
        x = self.up[0](torch.cat([self.down[2](second), second], 1), action)
        x = self.up[1](torch.cat([x, first], 1), action)
        return past[:, -1] + torch.tanh(self.final_conv(torch.cat([x, frames], 1)))


def losses(idm, fdm, obs):
    la, la_q, vq_loss, perplexity, codes = idm(obs)
    pred = fdm(obs[:, :-1], la_q)
    wm_loss = F.mse_loss(pred, obs[:, -1])
    relative = wm_loss / F.mse_loss(obs[:, -2], obs[:, -1])
    return dict(la=la, la_q=la_q, codes=codes, vq_loss=vq_loss, perplexity=perplexity, pred=pred, wm_loss=wm_loss), relative


def main():
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    idm, fdm = Idm(), Fdm()
    # smooth moving blobs, as in lapo_torch.py
    low = torch.rand(args.batch, 3, 3, 8, 8)
    image = F.interpolate(low.flatten(0, 1), size=SIZE, mode="bicubic").clamp(0, 1)
    frames = (image * 255).to(torch.uint8).view(args.batch, 3, 3, SIZE, SIZE)
    obs = frames.float() / 255 - 0.5
    idm.vq.ema_count.fill_(1.0)
    idm.motion.scale.fill_(0.25 / (obs[:, 2] - obs[:, 1]).pow(2).mean().sqrt().item())
    # running statistics other than the initial ones, so that eval mode is tested too
    for module in [*idm.modules(), *fdm.modules()]:
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.uniform_(-0.2, 0.2), module.running_var.uniform_(0.5, 1.5)

    out = {"obs": frames}
    for name, net in [("idm", idm), ("wm", fdm)]:
        out |= {f"{name}.{k}": v.clone() for k, v in net.state_dict().items()}
    idm.eval(), fdm.eval()
    with torch.no_grad():
        out |= {f"eval.{k}": v.clone() for k, v in losses(idm, fdm, obs)[0].items()}
    params = [p for p in [*idm.parameters(), *fdm.parameters()] if p.requires_grad]
    opt = torch.optim.Adam(params, lr=args.lr)
    idm.train(), fdm.train()
    steps = []
    for _ in range(args.steps):
        parts, relative = losses(idm, fdm, obs)
        opt.zero_grad()
        (relative + parts["vq_loss"]).backward()
        norm = nn.utils.clip_grad_norm_(params, 2.0)
        opt.step()
        steps.append([parts["wm_loss"].item(), parts["vq_loss"].item(), parts["perplexity"].item(), norm.item()])
    out["train.steps"] = torch.tensor(steps)
    idm.eval(), fdm.eval()
    with torch.no_grad():
        after = losses(idm, fdm, obs)[0]
        out |= {f"after.{k}": after[k].clone() for k in ("la", "codes", "wm_loss", "vq_loss")}
        out["after.vq.embedding"], out["after.vq.ema_count"] = idm.vq.embedding.clone(), idm.vq.ema_count.clone()
        out["after.down0.running_mean"] = fdm.down[0].norm.running_mean.clone()
        out["after.down0.running_var"] = fdm.down[0].norm.running_var.clone()
    vq = dict(VQ, positions=4, warmup=0.0, start="uniform", ema_start="warm", revive_after=0)
    config = dict(idm_scale=SCALE, fdm_base=BASE, context=1, frame_size=SIZE, channels=3, vq=vq, idm_head="motion",
                  fdm_action="modulate", fdm_bottom=BOTTOM, predict="change")
    meta = dict(format="lapo-dynamics/2", config=json.dumps(config), lr=str(args.lr), seed=str(args.seed))
    save_file({k: v.contiguous() for k, v in out.items()}, args.out, metadata=meta)
    print(f"{args.out}: {len(out)} tensors, wm_loss {steps[0][0]:.6f} -> {steps[-1][0]:.6f}")


if __name__ == "__main__":
    main()
