"""Whether a model may be run without padding: tried out once on three short rows, in evaluation mode."""

import logging
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from alignkit.batches import Row, TokenBatch
from alignkit.modeling.flat_layout import Segments

logger = logging.getLogger("alignkit")

# Windows of attention up to so many tokens are tried out; rows longer than a wider window stay padded.
WIDEST_TRIED = 1024
# Of the trial's longest row: so many tokens where there is no window, and so many more than the widest one.
LENGTH, BEYOND = 13, 8
# Relative difference of a token's hidden states.
TOLERANCE = 1e-4

# Runs a batch: hidden states [B, T, H].
Padded = Callable[[TokenBatch], Tensor]
Flat = Callable[[TokenBatch, Segments], Tensor]

# Model -> the longest row that may be run without padding; 0 for none.
_longest: "weakref.WeakKeyDictionary[nn.Module, float]" = weakref.WeakKeyDictionary()
_told: set[str] = set()


def longest_flat(model: Any, device: torch.device, padded: Padded, flat: Flat) -> float:
    """Tokens of the longest row for which `flat` is known to give what `padded` does; 0 if it does not."""
    if model not in _longest:
        windows = list(_windows(model.config))
        problem = _problem(model, _trial(model.config, windows, device), padded, flat)
        tried = _trial_length(model.config, windows)
        _longest[model] = 0 if problem else min((w for w in windows if w >= tried), default=math.inf)
        name = type(model).__name__
        if problem and name not in _told:
            logger.info("%s is run on padded rows: %s", name, problem)
            _told.add(name)
    return _longest[model]


def _problem(model: Any, batch: TokenBatch, padded: Padded, flat: Flat) -> str | None:
    """Why the model cannot be run without padding, or None."""
    segments = Segments(tuple(batch.mask_BT.sum(-1).tolist()), batch.ids_BT.device)
    with _exactly(model, batch.ids_BT.device):
        try:
            expected_NH, found_NH = padded(batch)[batch.mask_BT], flat(batch, segments)[batch.mask_BT]
        except (MemoryError, torch.OutOfMemoryError):  # says nothing about the model
            raise
        except Exception as error:  # whatever a model's own code says to a row that it does not expect
            return f"{type(error).__name__}: {error}"
    layers = model.config.get_text_config().num_hidden_layers
    if segments.calls != layers:
        return f"{segments.calls} of its {layers} layers compute attention through transformers' interface"
    difference_NH = found_NH - expected_NH
    apart = float((difference_NH.norm(dim=-1) / expected_NH.norm(dim=-1).clamp(min=1e-6)).max())
    return None if apart <= TOLERANCE else f"without padding its states differ by {apart:.1g}"


@contextmanager
def _exactly(model: Any, device: torch.device) -> Iterator[None]:
    """Without dropout, gradients and lower precision; every module's mode is put back."""
    training = [m for m in model.modules() if m.training]
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    for m in training:
        m.training = False
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False), _weights_in_float32():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for m in training:
            m.training = True


@contextmanager
def _weights_in_float32() -> Iterator[None]:
    """Inside, weights of 16 bits have 32 while their own module computes, so that one module's are twice in memory.

    With 16 bits rounding differs by as much as a little of one row that is mixed into the next, and what is found out
    would depend on the weights: after a resume it could be something else.
    """
    lent: list[list[tuple[nn.Parameter, Tensor]]] = []

    def lend(module: nn.Module, _: Any) -> None:
        own = [(p, p.data) for p in module.parameters(recurse=False) if p.dtype in (torch.bfloat16, torch.float16)]
        lent.append(own)
        for parameter, data in own:
            parameter.data = data.float()

    def take_back(*_: Any) -> None:
        for parameter, data in lent.pop():
            parameter.data = data

    hooks = [register_module_forward_pre_hook(lend), register_module_forward_hook(take_back, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        while lent:
            take_back()


def _trial(config: Any, windows: Sequence[int], device: torch.device) -> TokenBatch:
    """A short row, the longest, and a single token: what leaks from one into the next shows."""
    vocabulary = config.get_text_config().vocab_size
    lengths = (3, _trial_length(config, windows), 1)
    rows = [Row([(7 * t + 5 * b) % vocabulary for t in range(n)], [False] * n) for b, n in enumerate(lengths)]
    return TokenBatch.from_rows(rows, 0, device)


def _trial_length(config: Any, windows: Sequence[int]) -> int:
    """Tokens of the longest row."""
    longest = max((w + BEYOND for w in windows if w <= WIDEST_TRIED), default=LENGTH)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(longest, positions) if positions else longest


def _windows(config: Any) -> Iterator[int]:
    """Sizes in a config, or in those inside it, that say how far a token's attention goes."""
    for name, value in config.to_dict().items():
        sized = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if sized and ("window" in name or "chunk" in name) and "layers" not in name:
            yield value
    for name in getattr(config, "sub_configs", ()):
        part = getattr(config, name, None)
        if part is not None:
            yield from _windows(part)
