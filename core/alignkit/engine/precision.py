"""Mixed precision for a whole step."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def mixed_precision(device: "torch.device", precision: str) -> Iterator[None]:
    """bfloat16 autocast if asked for. Projections and scalar heads switch it off for themselves.

    Without autocast's cache: it would keep the first cast of each weight for the whole step, blind to optimizer steps.
    On a CPU the float32 products that remain may use oneDNN's bfloat16 inputs with float32 sums, where it thinks that
    faster; what comes out stays float32. Where the processor has no units for that, the same switch has oneDNN compute
    them in float32, in half the time that MKL takes on some, and a float32 step has it too.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    if device.type == "cpu" and (precision == "bfloat16" or onednn_is_exact()):
        torch.set_float32_matmul_precision("medium")
    try:
        if precision == "bfloat16":
            with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
                yield
        else:
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def onednn_is_exact() -> bool:
    """Whether products that may use bfloat16 inputs are in float32 all the same on this processor; tried out."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for rows, inputs, outputs in ((1, 64, 64), (64, 256, 192), (500, 256, 2048)):
            x, w = (torch.linspace(1, n, n * inputs).sin().view(n, inputs) for n in (rows, outputs))
            exact = x.double() @ w.double().T
            if float((x @ w.T - exact).norm() / exact.norm()) > 1e-5:  # bfloat16 has errors of 2e-3
                return False
        return True
    finally:
        torch.set_float32_matmul_precision(before)
