"""Gradients of a loss."""

import torch
from torch import Tensor


def accumulate_gradients(loss: Tensor) -> None:
    """Backward of `loss` outside of any autocast.

    The forward pass has chosen each product's precision, and its backward is computed in the same. Inside an autocast
    region those of the parts that stay in float32 (projections, scalar heads) would be rounded down after all.
    """
    with torch.autocast(loss.device.type, enabled=False):
        torch.autograd.backward(loss)
