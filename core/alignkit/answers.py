"""What strangers' components give back, looked at where it is taken over.

A wrong form would else fail a few lines later, in code of ours, with a traceback that names nobody.
"""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import Fault

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.batches import Head, TokenBatch
    from alignkit.protocols import Policy, StepOutput

HINT = "alignkit.protocols says what is expected; alignkit.testing checks it"


def checked_figures(found: Any, who: str) -> dict[str, Any]:
    """A mapping from names to figures. Raises Fault, with `who`, for anything else."""
    if not isinstance(found, Mapping):
        raise Fault(f"{who} returned {_kind(found)}, not a dict of figures", hint=HINT)
    return dict(found)


def checked_metrics(found: Any, who: str) -> dict[str, float]:
    """The same where every figure has to be one number, to be logged."""
    figures = checked_figures(found, who)
    for name, value in figures.items():
        if not isinstance(name, str) or not (isinstance(value, Real) or getattr(value, "numel", int)() == 1):
            raise Fault(f"{who} returned {_kind(value)} as figure {name!r}, not a number", hint=HINT)
    return figures


def checked_advantages(found: Any, like_BT: "Tensor", who: str) -> "tuple[Tensor, Tensor]":
    """Advantages and returns, both of the shape of `like_BT`. Raises Fault, with `who`, for anything else."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Fault(f"{who} returned {_kind(found)}, not advantages and returns", hint=HINT)
    for name, part in zip(("advantages", "returns"), found, strict=True):
        _require_shape(part, tuple(like_BT.shape), f"{who} returned {name} that are")
    return found[0], found[1]


def checked_hidden(policy: "Policy", batch: "TokenBatch") -> "tuple[Tensor, Head]":
    """`policy.hidden(batch)`. Raises Fault for what are no hidden states of the batch's targets."""
    from alignkit.batches import Head

    who = f"hidden() of the policy {type(policy).__qualname__} ({type(policy).__module__})"
    found: Any = policy.hidden(batch)
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Head):
        raise Fault(f"{who} returned {_kind(found)}, not hidden states and a Head", hint=HINT)
    h_NH, head = found
    _require_shape(h_NH, (len(batch.targets_N), head.weight_VH.shape[1]), f"{who} returned states that are")
    return h_NH, head


def checked_output(found: Any, folder: Path, who: str) -> "StepOutput":
    """What a step returns. Raises Fault, with `who`, for another form, and for a part that it did not write."""
    from alignkit.protocols import StepOutput

    if not isinstance(found, StepOutput):
        raise Fault(f"{who} returned {_kind(found)}, not a StepOutput", hint=HINT)
    checked_figures(found.outputs, f"{who}: outputs")
    checked_figures(found.summary, f"{who}: summary")
    for part, place in found.outputs.items():
        if not isinstance(place, str) or not (folder / place).exists():
            raise Fault(f"{who} names {place!r} as its part {part!r}, which is not there", where=folder, hint=HINT)
    return found


def _require_shape(found: Any, shape: tuple[int, ...], said: str) -> None:
    from torch import Tensor

    if not isinstance(found, Tensor):
        raise Fault(f"{said} {_kind(found)}, not a tensor", hint=HINT)
    if tuple(found.shape) != shape:
        raise Fault(f"{said} of shape {tuple(found.shape)}, not {shape}", hint=HINT)


def _kind(value: Any) -> str:
    """How a message calls what came back: a stranger's object may be of any length."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return "None" if value is None else f"a {type(value).__name__}{size}"
