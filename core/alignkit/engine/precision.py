"""Mixed precision for a whole step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def mixed_precision(device: "torch.device", precision: str) -> Iterator[None]:
    """bfloat16 autocast if asked for. Projections and scalar heads switch it off for themselves.

    Without autocast's cache: it would keep the first cast of each weight for the whole step, blind to optimizer steps.
    On a CPU the float32 products that remain may use oneDNN's bfloat16 inputs with float32 sums, where it thinks that
    faster; what comes out stays float32. On some processors it computes them in float32 all the same, in half the time.
    """
    import torch

    if precision != "bfloat16":
        yield
        return
    before = torch.get_float32_matmul_precision()
    if device.type == "cpu":
        torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
