#!/usr/bin/env python3
"""Two steps of PPO in plain PyTorch.

A small IMPALA network with two heads, a random rollout, advantages as the sum in their definition, the clipped losses, clipping of the
gradient norm, and Adam with a learning rate for each head. Writes the weights before and after, the rollout, and the metrics of every
step:

  ppo_torch.py ../../golden/online/ppo.safetensors
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

from lapo_torch import ImpalaStage

SIZE, ACTIONS, STEPS, ENVS = 16, 5, 6, 4
GAMMA, GAE_LAMBDA, CLIP_COEF, ENT_COEF, VF_COEF, MAX_GRAD_NORM = 0.9, 0.8, 0.2, 0.01, 0.5, 0.5
LEARNING_RATES = dict(policy_head=1e-3, value_head=2e-3, trunk=5e-4)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [3, 16, 32, 32]
        self.conv_stack = nn.Sequential(*(ImpalaStage(a, b) for a, b in zip(widths, widths[1:])))
        self.fc = nn.Linear(32 * (SIZE // 8) ** 2, 256)
        self.policy_head, self.value_head = nn.Linear(256, ACTIONS), nn.Linear(256, 1)

    def forward(self, frames):
        x = F.relu(self.conv_stack(frames / 255 - 0.5).flatten(1))
        features = F.relu(self.fc(x))
        return torch.distributions.Categorical(logits=self.policy_head(features)), self.value_head(features)[:, 0]


def advantages(rewards, values, dones, last_values):
    """Returns A[t] = sum over k of (gamma lambda)^k delta[t+k], up to the end of the episode, without recursion."""
    out = torch.zeros(STEPS, ENVS)
    following = torch.cat([values[1:], last_values[None]])
    for env in range(ENVS):
        for t in range(STEPS):
            for k in range(STEPS - t):
                done = dones[t + k, env].item()
                delta = rewards[t + k, env] + (0 if done else GAMMA * following[t + k, env]) - values[t + k, env]
                out[t, env] += (GAMMA * GAE_LAMBDA) ** k * delta
                if done:
                    break
    return out


def main():
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    net = Network()
    low = torch.rand((STEPS + 1) * ENVS, 3, 4, 4)
    frames = (F.interpolate(low, size=SIZE, mode="bicubic").clamp(0, 1) * 255).floor()
    with torch.no_grad():
        policy, value = net(frames[: STEPS * ENVS])
    actions = policy.sample()
    # Log-probabilities and values of an older network, so that both losses are clipped somewhere.
    log_probs = (policy.log_prob(actions) + 0.3 * torch.randn(STEPS * ENVS)).view(STEPS, ENVS)
    values, rewards = (value + 0.3 * torch.randn(STEPS * ENVS)).view(STEPS, ENVS), torch.randn(STEPS, ENVS)
    dones, last_values = torch.rand(STEPS, ENVS) < 0.25, torch.randn(ENVS)
    adv = advantages(rewards, values, dones, last_values)
    returns = adv + values
    out = {f"agent.rl.{k}": v.clone() for k, v in net.state_dict().items()}
    out |= dict(frames=frames.permute(0, 2, 3, 1).contiguous(), actions=actions.float(), log_probs=log_probs, values=values)
    out |= dict(rewards=rewards, ends=dones.float(), last_values=last_values, advantages=adv, returns=returns)

    heads = [*net.policy_head.parameters(), *net.value_head.parameters()]
    trunk = [p for p in net.parameters() if all(p is not head for head in heads)]
    groups = [(net.policy_head.parameters(), "policy_head"), (net.value_head.parameters(), "value_head"), (trunk, "trunk")]
    adam = torch.optim.Adam([dict(params=list(p), lr=LEARNING_RATES[name]) for p, name in groups], eps=1e-5)
    mb_inds = torch.randperm(STEPS * ENVS)
    steps = []
    for part in mb_inds.chunk(2):
        policy, value = net(frames[part])
        a = adv.flatten()[part]
        a = (a - a.mean()) / (a.std() + 1e-8)
        ratio = (policy.log_prob(actions[part]) - log_probs.flatten()[part]).exp()
        pg_loss = -torch.min(a * ratio, a * ratio.clamp(1 - CLIP_COEF, 1 + CLIP_COEF)).mean()
        old, target = values.flatten()[part], returns.flatten()[part]
        clipped = old + (value - old).clamp(-CLIP_COEF, CLIP_COEF)
        v_loss = 0.5 * torch.max((value - target) ** 2, (clipped - target) ** 2).mean()
        entropy = policy.entropy().mean()
        adam.zero_grad()
        (pg_loss - ENT_COEF * entropy + VF_COEF * v_loss).backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), MAX_GRAD_NORM)
        adam.step()
        approx_kl, clip_frac = (ratio - 1 - ratio.log()).mean(), ((ratio - 1).abs() > CLIP_COEF).float().mean()
        steps.append([x.item() for x in (pg_loss, v_loss, entropy, approx_kl, clip_frac, norm)])
    out |= dict(places=mb_inds.float(), steps=torch.tensor(steps))
    out |= {f"after.rl.{k}": v.clone() for k, v in net.state_dict().items()}
    save_file(out, args.out)
    print(torch.tensor(steps))


if __name__ == "__main__":
    main()
