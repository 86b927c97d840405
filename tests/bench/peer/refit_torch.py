#!/usr/bin/env python3
"""The decoder's training in LAPO's published online training, in plain PyTorch, at toy size.

Three epochs of Adam over all pairs, in batches of eight in a given order: latent actions as they are, a constant learning rate, no clipping.
Writes the pairs, the orders, and the weights before and after:

  refit_torch.py ../../golden/online/refit.safetensors
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

PAIRS, DIM, HIDDEN, ACTIONS, EPOCHS, BATCH = 20, 6, (12, 8), 4, 3, 8


def main():
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    widths = [DIM, *HIDDEN, ACTIONS]
    layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
    # Far from mean 0 and deviation 1, so that a normalisation or a limit on the gradients would change the result.
    latent_action, actions = 30 * torch.randn(PAIRS, DIM) + 50, torch.randint(ACTIONS, (PAIRS,))
    out = {f"before.layers.{k}": v.clone() for k, v in layers.state_dict().items()}
    orders = torch.stack([torch.randperm(PAIRS) for _ in range(EPOCHS)])
    adam = torch.optim.Adam(layers.parameters())
    for order in orders:
        for part in order.split(BATCH):
            x = latent_action[part]
            for i, layer in enumerate(layers):
                x = layer(F.relu(x) if i else x)
            adam.zero_grad()
            loss = F.cross_entropy(x, actions[part], label_smoothing=0.05)
            loss.backward()
            adam.step()
            norm = sum(p.grad.square().sum() for p in layers.parameters()) ** 0.5
            print(loss.item(), norm.item())
    out |= dict(latent_action=latent_action, actions=actions.float(), orders=orders.float())
    out |= {f"after.layers.{k}": v.clone() for k, v in layers.state_dict().items()}
    save_file(out, args.out)


if __name__ == "__main__":
    main()
