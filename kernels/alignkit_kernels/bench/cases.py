"""The ops with inputs of a shape: how to run them, what a perfect machine would need, and the true result."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Head
from alignkit.ops import OPS
from alignkit_kernels.bench.shapes import Shape

# Elements of float64 logits at a time, and tokens that are checked where each has its own results.
TRUTH_ELEMENTS = 2**24
CHECKED_TOKENS = 256
Results = list[Tensor]


@dataclass(frozen=True)
class Setting:
    """What one table is about."""

    shape: Shape
    dtype: torch.dtype
    device: torch.device
    masked: float = 0.0
    backward: bool = True
    seed: int = 0

    @property
    def kept(self) -> int:
        """Tokens that are not masked."""
        return max(1, round(self.shape.tokens * (1 - self.masked)))


@dataclass(frozen=True)
class Work:
    """The least that has to be done: multiplications and additions of matrix products, and bytes moved."""

    flops: float = 0.0
    bytes: float = 0.0


@dataclass
class Problem:
    """An op with its inputs.

    `call(op, *inputs)` gives values; `leaves` are the positions of inputs whose gradients are wanted too. `rows` are
    the positions of inputs that have one entry a token, by which the truth is computed in parts; `summed` says which
    results then add up, all others are put one behind the other.
    """

    op: str
    inputs: list[Any]
    work: Work
    call: Callable[..., Results]
    leaves: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    summed: frozenset[int] = frozenset()
    reference: Callable[..., Any] | None = None

    def run(self, op: Callable[..., Any]) -> Results:
        """Values, then gradients of `leaves`."""
        return self._run(op, self.inputs)

    def _run(self, op: Callable[..., Any], inputs: list[Any]) -> Results:
        if not self.leaves:
            with torch.no_grad():
                return self.call(op, *inputs)
        values = self.call(op, *inputs)
        leaves = [inputs[i] for i in self.leaves]
        slopes = [torch.ones_like(value) for value in values if value.requires_grad]
        gradients = torch.autograd.grad([v for v in values if v.requires_grad], leaves, slopes)
        return [*(v.detach() for v in values), *gradients]

    @property
    def checked(self) -> slice:
        """Tokens whose results are compared: all, or where nothing is summed over tokens the first few hundred."""
        return slice(None) if self.summed or not self.rows else slice(0, CHECKED_TOKENS)

    def truth(self, vocabulary: int) -> Results:
        """The reference, which is the eager op if no other is given, in float64; of the `checked` tokens."""
        inputs = [x[self.checked] if i in self.rows else x for i, x in enumerate(self.inputs)]
        count = len(inputs[self.rows[0]]) if self.rows else 1
        size = max(1, TRUTH_ELEMENTS // vocabulary) if self.rows else 1
        shared = {i: _double(x, i in self.leaves) for i, x in enumerate(inputs) if i not in self.rows}
        parts: list[Results] = []
        for start in range(0, count, size):
            mine = [
                _double(x[start : start + size], i in self.leaves) if i in self.rows else shared[i]
                for i, x in enumerate(inputs)
            ]
            found = self._run(self.reference or OPS[self.op], mine)
            if parts:
                for i in self.summed:
                    parts[0][i] += found[i]
                    found[i] = found[i].new_zeros(0)
            parts.append(found)
        joined = zip(*parts, strict=True)
        return [x[0] if i in self.summed or len(parts) == 1 else torch.cat(x) for i, x in enumerate(joined)]


def _double(x: Any, leaf: bool) -> Any:
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.detach().double().requires_grad_(leaf)
    return x


def error(found: Results, truth: Results) -> float:
    """Largest difference of any result, relative to the largest number in it; infinite for a number that is none.

    Raises ValueError for a result of another shape.
    """
    worst = 0.0
    for x, gold in zip(found, truth, strict=True):
        if x.shape != gold.shape:
            raise ValueError(f"a result has the shape {tuple(x.shape)} and should have {tuple(gold.shape)}")
        difference = float((x.double() - gold).abs().max())
        worst = max(worst, difference / (float(gold.abs().max()) or 1.0) if math.isfinite(difference) else math.inf)
    return worst


def make_problem(op: str, setting: Setting) -> Problem:
    """Random inputs of an op, the same for a seed."""
    return MAKERS[op](setting, _Numbers(setting))


class _Numbers:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.generator = torch.Generator(setting.device).manual_seed(setting.seed)

    def normal(self, *shape: int, factor: float = 1.0, dtype: torch.dtype | None = None, leaf: bool = False) -> Tensor:
        s = self._setting
        x = torch.randn(shape, generator=self.generator, device=s.device, dtype=torch.float32) * factor
        return x.to(dtype or s.dtype).requires_grad_(leaf and s.backward)

    def ids(self, count: int) -> Tensor:
        s = self._setting
        return torch.randint(0, s.shape.vocabulary, (count,), generator=self.generator, device=s.device)

    def weight(self, leaf: bool = True) -> Tensor:
        """A projection with logits of about standard deviation 2."""
        hidden = self._setting.shape.hidden
        return self.normal(self._setting.shape.vocabulary, hidden, factor=2 * hidden**-0.5, leaf=leaf)


def _token_logprob(s: Setting, numbers: _Numbers) -> Problem:
    n, v = s.kept, s.shape.vocabulary
    logits = numbers.normal(n, v, factor=2.0, leaf=True)
    passes = 3 if s.backward else 1  # read; read and write the gradient
    return Problem(
        "token_logprob",
        [logits, numbers.ids(n)],
        Work(bytes=passes * n * v * s.dtype.itemsize),
        lambda op, z, y: list(op(z, y))[:2],
        leaves=(0,) if s.backward else (),
        rows=(0, 1),
    )


def _linear_logprob(s: Setting, numbers: _Numbers) -> Problem:
    n = s.kept
    return Problem(
        "linear_logprob",
        [numbers.normal(n, s.shape.hidden, leaf=True), numbers.weight(), numbers.ids(n)],
        _products(s, 3 if s.backward else 1),
        lambda op, h, weight, y: list(op(h, Head(weight), y, with_entropy=True)),
        leaves=(0, 1) if s.backward else (),
        rows=(0, 2),
        summed=frozenset({3}),
    )


def _linear_kl(s: Setting, numbers: _Numbers) -> Problem:
    n = s.kept
    h, weight = numbers.normal(n, s.shape.hidden, leaf=True), numbers.weight()
    ref_h = h.detach() + numbers.normal(n, s.shape.hidden, factor=0.1)
    return Problem(
        "linear_kl",
        [h, weight, ref_h, weight.detach().clone()],
        _products(s, 4 if s.backward else 2),
        lambda op, h, weight, ref_h, ref_weight: [op(h, Head(weight), ref_h, Head(ref_weight))],
        leaves=(0, 1) if s.backward else (),
        rows=(0, 2),
        summed=frozenset({2}),
    )


def _fused(s: Setting, numbers: _Numbers) -> Problem:
    t = s.shape.tokens
    h, weight, y = numbers.normal(t, s.shape.hidden, leaf=True), numbers.weight(), numbers.ids(t)
    weights = torch.zeros(t, device=s.device)
    weights[torch.randperm(t, generator=torch.Generator().manual_seed(s.seed))[: s.kept].to(s.device)] = 1 / s.kept
    advantages = numbers.normal(t, dtype=torch.float32)
    with torch.no_grad():
        parts = zip(torch.split(h, 1024), torch.split(y, 1024), strict=True)
        logp = torch.cat([OPS["linear_logprob"](a, Head(weight), b)[0] for a, b in parts])
    old = logp + 0.1 * numbers.normal(t, dtype=torch.float32)
    return Problem(
        "fused_linear_policy_loss",
        [h, weight, y, advantages, weights, old],
        _products(s, 3 if s.backward else 1),
        lambda op, h, weight, y, a, w, old: [op(h, Head(weight), y, a, w, old_logp_N=old, entropy_coef=0.01)[0]],
        leaves=(0, 1) if s.backward else (),
        rows=(0, 2, 3, 4, 5),
        summed=frozenset({0, 2}),
    )


def _products(s: Setting, count: int) -> Work:
    return Work(flops=count * 2.0 * s.kept * s.shape.hidden * s.shape.vocabulary)


def _policy_loss(s: Setting, numbers: _Numbers) -> Problem:
    n = s.kept
    logp = numbers.normal(n, dtype=torch.float32, leaf=True)
    old = logp.detach() + 0.2 * numbers.normal(n, dtype=torch.float32)
    return _elementwise(s, "policy_loss", [logp, old, numbers.normal(n, dtype=torch.float32)], 1, (0.2, 0.2))


def _value_loss(s: Setting, numbers: _Numbers) -> Problem:
    n = s.kept
    values = numbers.normal(n, dtype=torch.float32, leaf=True)
    old, returns = (values.detach() + 0.3 * numbers.normal(n, dtype=torch.float32) for _ in range(2))
    return _elementwise(s, "value_loss", [values, old, returns], 1, (0.2,))


def _pairwise_loss(s: Setting, numbers: _Numbers) -> Problem:
    n = s.kept
    scores = [numbers.normal(n, dtype=torch.float32, leaf=True) for _ in range(2)]
    rest = [
        torch.rand(n, device=s.device, generator=numbers.generator),
        torch.zeros(n, device=s.device),
        torch.ones(n, device=s.device),
    ]
    return _elementwise(s, "pairwise_loss", [*scores, *rest], 2, ())


def _elementwise(s: Setting, op: str, inputs: list[Tensor], leaves: int, constants: tuple[float, ...]) -> Problem:
    """Reads each input and writes the loss; the backward pass writes a gradient for each leaf."""

    def call(function: Callable[..., Any], *tensors: Tensor) -> Results:
        found = function(*tensors, *constants)
        return [found[0] if isinstance(found, tuple) else found]

    arrays = len(inputs) + 1 + (leaves if s.backward else 0)
    work = Work(bytes=4.0 * arrays * len(inputs[0]))
    return Problem(op, list(inputs), work, call, leaves=tuple(range(leaves)) if s.backward else ())


def _gae(s: Setting, numbers: _Numbers) -> Problem:
    length = min(s.shape.length, s.shape.tokens)
    rows = max(1, s.shape.tokens // length)
    rewards, values = (numbers.normal(rows, length, dtype=torch.float32) for _ in range(2))
    ends = torch.randint(1, length + 1, (rows, 1), device=s.device, generator=numbers.generator)
    mask = torch.arange(length, device=s.device)[None] < ends
    return Problem(
        "gae",
        [rewards, values, mask],
        Work(bytes=(4.0 * 4 + 1) * rows * length),
        lambda op, r, v, m: list(op(r, v, m, 0.99, 0.95)),
    )


MAKERS: Mapping[str, Callable[[Setting, _Numbers], Problem]] = {
    "token_logprob": _token_logprob,
    "linear_logprob": _linear_logprob,
    "linear_kl": _linear_kl,
    "fused_linear_policy_loss": _fused,
    "policy_loss": _policy_loss,
    "value_loss": _value_loss,
    "gae": _gae,
    "pairwise_loss": _pairwise_loss,
}
