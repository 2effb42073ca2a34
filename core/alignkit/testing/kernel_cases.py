"""Inputs for the vocabulary ops, and the rule that every implementation is held to.

The truth is the eager reference in float64 on the same numbers. An implementation may be 1.5 times as far from it as
the eager op in its own dtype, or as far as one rounding takes it, whichever is more. One rounding is eps times the sum
of the magnitudes of what is added up, times the largest logit: a logit of size x is known to eps x, and so is the
logarithm of a probability.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.batches import Head
from alignkit.kl import KLTerm
from alignkit.ops import OPS
from alignkit.ops.linear_logprob import project

Results = dict[str, Tensor]
SLACK = 1.5
# Figures that are 0 or 1 and may fall to either side of a bound.
DISCRETE = {"clipped"}
# Of larger ones the gradients are too many to be kept.
KEPT_VOCABULARY = 5000


@dataclass(frozen=True)
class Case:
    """What varies."""

    name: str
    tokens: int = 24
    hidden: int = 24
    vocabulary: int = 1003
    dtype: torch.dtype = torch.float32
    bias: bool = True
    softcap: float | None = None
    scale: float = 1.0
    temperature: float = 1.0
    shift: float = 0.0
    spread: float = 1.0
    masked: str = "some"
    strided: bool = False


CASES = (
    Case("odd vocabulary"),
    Case("no bias", bias=False, temperature=0.7),
    Case("one more than a power of two", vocabulary=1025, temperature=0.7),
    Case("bfloat16", vocabulary=1152, dtype=torch.bfloat16),
    Case("float16", vocabulary=1025, dtype=torch.float16, bias=False),
    Case("soft cap and scale", softcap=5.0, scale=1.3, temperature=0.8),
    Case("all logits negative", shift=-60.0, vocabulary=1152),
    Case("large logits", spread=300.0),
    Case("one token", tokens=1),
    Case("every token masked", masked="all"),
    Case("no token masked", masked="none"),
    Case("not contiguous", strided=True),
)


class Inputs:
    """The tensors of a case, the same each time, as leaves of `dtype`."""

    def __init__(self, case: Case, dtype: torch.dtype | None = None, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        n, h, v = case.tokens, case.hidden, case.vocabulary
        self.case = case
        own, wide = case.dtype, torch.float32 if dtype is None else dtype

        def normal(*shape: int, factor: float = 1.0) -> Tensor:
            # rounded to the case's dtype first, so that every precision starts from the same numbers
            return (torch.randn(shape, generator=generator) * factor).to(own).to(device, dtype or own)

        def leaf(x: Tensor) -> Tensor:
            if case.strided and x.dim() == 2:
                x = x.T.contiguous().T
            return x.requires_grad_()

        self.h = leaf(normal(n, h, factor=case.spread))
        self.weight = leaf(normal(v, h, factor=h**-0.5))
        self.bias = (normal(v) + case.shift).detach().requires_grad_() if case.bias else None
        self.head = Head(self.weight, self.bias, case.softcap, case.scale)
        self.ref_h = normal(n, h + 8)
        self.ref_head = Head(normal(v, h + 8, factor=h**-0.5), None, None, 0.9)
        self.targets = torch.randint(0, v, (n,), generator=generator).to(device)
        self.advantages = torch.randn(n, generator=generator).to(device, wide)
        self.weights = torch.rand(n, generator=generator).to(device, wide) / n
        if case.masked == "some":
            self.weights[1::3] = 0
        elif case.masked == "all":
            self.weights[:] = 0
        self.logp_slopes, self.entropy_slopes = (torch.randn(n, generator=generator).to(device, wide) for _ in range(2))
        # near the truth, so that some ratios are clipped and some are not
        with torch.no_grad():
            gold, _ = OPS["linear_logprob"](
                self.h.double(),
                Head(self.weight.double(), None if self.bias is None else self.bias.double(), case.softcap, case.scale),
                self.targets,
                case.temperature,
            )
        noise, other = (torch.randn(n, generator=generator) * 0.3 for _ in range(2))
        self.old, self.ref = ((gold + x.to(device)).to(wide) for x in (noise, other))

    def gradients(self) -> Results:
        """Of the leaves that have one."""
        leaves = {"dh": self.h, "dW": self.weight, "db": self.bias}
        return {name: x.grad for name, x in leaves.items() if x is not None and x.grad is not None}


Forward = Callable[[Callable[..., Any], Inputs], tuple[Results, Tensor]]


@dataclass(frozen=True)
class Run:
    """One use of an op. `forward` gives its values, and the number whose gradients are looked at."""

    op: str
    forward: Forward

    def __call__(self, implementation: Callable[..., Any], inputs: Inputs) -> Results:
        """Values and gradients."""
        values, loss = self.forward(implementation, inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        return {**values, **inputs.gradients()}


def linear_logprob(op: Callable[..., Any], inputs: Inputs) -> tuple[Results, Tensor]:
    """Both results, each token's with a factor of its own."""
    logp, entropy = op(inputs.h, inputs.head, inputs.targets, inputs.case.temperature, with_entropy=True)
    loss = (logp * inputs.logp_slopes).sum() + (entropy * inputs.entropy_slopes).sum()
    return {"logp": logp.detach(), "entropy": entropy.detach()}, loss


def logprob_alone(op: Callable[..., Any], inputs: Inputs) -> tuple[Results, Tensor]:
    """Without the entropy, as fine-tuning and the log-probs of rollouts take it."""
    logp, _ = op(inputs.h, inputs.head, inputs.targets, inputs.case.temperature)
    return {"logp": logp.detach()}, (logp * inputs.logp_slopes).sum()


def linear_kl(op: Callable[..., Any], inputs: Inputs) -> tuple[Results, Tensor]:
    """Each token's KL with a factor of its own."""
    kl = op(inputs.h, inputs.head, inputs.ref_h, inputs.ref_head, inputs.case.temperature)
    return {"kl": kl.detach()}, (kl * inputs.logp_slopes).sum()


def policy_loss(term: KLTerm | None, entropy_coef: float, on_policy: bool = False) -> Forward:
    """The fused op with these terms."""

    def forward(op: Callable[..., Any], inputs: Inputs) -> tuple[Results, Tensor]:
        loss, figures = op(
            inputs.h, inputs.head, inputs.targets, inputs.advantages, inputs.weights,
            old_logp_N=None if on_policy else inputs.old, temperature=inputs.case.temperature, clip_low=0.2,
            clip_high=0.3, dual_clip=None if on_policy else 2.0, entropy_coef=entropy_coef, kl=term,
            ref_logp_N=inputs.ref, reference=(inputs.ref_h, inputs.ref_head),
        )  # fmt: skip
        terms = (
            figures["policy_loss"] - entropy_coef * figures["entropy"] + (term.coef if term else 0.0) * figures["kl"]
        )
        torch.testing.assert_close(loss.detach(), (terms * inputs.weights).sum(), rtol=1e-4, atol=1e-5)
        return {"loss": loss.detach(), **figures}, loss * 3

    return forward


RUNS: Mapping[str, Run] = {
    "linear_logprob": Run("linear_logprob", linear_logprob),
    "linear_logprob without entropy": Run("linear_logprob", logprob_alone),
    "linear_kl": Run("linear_kl", linear_kl),
    "fused, clip only": Run("fused_linear_policy_loss", policy_loss(None, 0.0)),
    "fused, k3 and entropy": Run("fused_linear_policy_loss", policy_loss(KLTerm(0.3, "k3", "corrected"), 0.1)),
    "fused, full KL and entropy": Run("fused_linear_policy_loss", policy_loss(KLTerm(0.3, "full", "corrected"), 0.1)),
    "fused, cross-entropy": Run("fused_linear_policy_loss", policy_loss(None, 0.0, on_policy=True)),
}


class Truth(NamedTuple):
    """What an implementation is held to: the float64 results, the eager op's own, and the size of one rounding."""

    gold: Results
    eager: Results
    rounding: Mapping[str, float]


def truth(run: str, case: Case, device: str = "cpu") -> Truth:
    """Of one use of an op with the inputs of a case; small ones are kept."""
    return _kept_truth(run, case, device) if case.vocabulary <= KEPT_VOCABULARY else _truth(run, case, device)


def _truth(run: str, case: Case, device: str) -> Truth:
    execute = RUNS[run]
    gold = execute(OPS[execute.op], Inputs(case, torch.float64))
    eager = execute(OPS[execute.op], Inputs(case, device=device))
    one = torch.finfo(case.dtype).eps * largest_logit(case)
    return Truth(gold, eager, {key: x * one for key, x in magnitudes(execute, gold, case).items()})


_kept_truth = cache(_truth)


def differences(found: Results, expected: Truth, slack: float = SLACK) -> list[str]:
    """Where an implementation breaks the rule."""
    if found.keys() != expected.eager.keys():
        return [f"results are {', '.join(found)}; those of the reference are {', '.join(expected.eager)}"]
    problems = []
    for key, gold in expected.gold.items():
        eager, x = expected.eager[key], found[key]
        if x.dtype != eager.dtype or x.shape != gold.shape:
            problems.append(f"{key} is {x.dtype} {list(x.shape)}, not {eager.dtype} {list(gold.shape)}")
        elif key not in DISCRETE:
            error, own = distance(x, gold), distance(eager, gold)
            limit = max(slack * own, expected.rounding[key])
            if not error <= limit:
                problems.append(f"{key} is off by {error:.3g}, eager by {own:.3g}, limit {limit:.3g}")
    return problems


def check(implementations: Mapping[str, Callable[..., Any]], run: str, case: Case, device: str = "cpu") -> None:
    """Raise AssertionError where an implementation breaks the rule."""
    found = RUNS[run](implementations[RUNS[run].op], Inputs(case, device=device))
    problems = differences(found, truth(run, case, device))
    assert not problems, f"{run}, {case.name}: {'; '.join(problems)}"


def magnitudes(execute: Run, gold: Results, case: Case) -> dict[str, float]:
    """Of each result the largest sum of its terms' magnitudes."""
    found = {key: size(truth) for key, truth in gold.items()}
    inputs = Inputs(case, torch.float64)
    if "loss" in gold:
        found["loss"] = float(inputs.weights.sum()) * max(found[key] for key in ("policy_loss", "entropy", "kl"))
    # One more hidden dimension for each token, which is 1 for that token and has no weight: its weight's gradient is
    # dL/dz of the token.
    h, weight = inputs.h.detach(), inputs.weight.detach()
    n = len(h)
    inputs.h = torch.cat([h, torch.eye(n, dtype=h.dtype)], 1).requires_grad_()
    inputs.weight = torch.cat([weight, weight.new_zeros(len(weight), n)], 1).requires_grad_()
    inputs.head = inputs.head._replace(weight_VH=inputs.weight)
    d_VN = execute(OPS[execute.op], inputs)["dW"][:, -n:].abs()
    terms = {"dh": d_VN.T @ weight.abs(), "dW": d_VN @ h.abs(), "db": d_VN.sum(1)}
    return found | {key: size(x) for key, x in terms.items() if key in gold}


def size(x: Tensor) -> float:
    """Largest magnitude."""
    return float(x.abs().max()) if x.numel() else 0.0


def largest_logit(case: Case) -> float:
    """Of any token, at the sampling temperature, and at least 1."""
    inputs = Inputs(case, torch.float64)
    with torch.no_grad():
        return max(1.0, size(project(inputs.h, inputs.head) / case.temperature))


def distance(found: Tensor, truth: Tensor) -> float:
    """Largest absolute difference; infinite where a number is not finite and should be."""
    if not truth.numel():
        return 0.0
    difference = (found.cpu().double() - truth).abs().max()
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


def small(case: Case) -> Case:
    """The same for an interpreter that takes a millisecond for every block."""
    return replace(case, tokens=min(case.tokens, 12))
