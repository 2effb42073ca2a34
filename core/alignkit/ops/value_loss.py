"""PPO's clipped value loss (openai/baselines ppo2; lm-human-preferences train_policy.py)."""

import torch
from torch import Tensor


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, clip: float | None) -> Tensor:
    """1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) per token, [N]. `clip` None: 1/2 (V - R)^2."""
    squared_N = (values_N - returns_N).square()
    if clip is not None:
        near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
        squared_N = torch.maximum(squared_N, (near_N - returns_N).square())
    return 0.5 * squared_N
