"""For every check of kernels a mistake that it has to notice."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from alignkit import Component
from alignkit.batches import Head
from alignkit.components import Config, NoConfig
from alignkit.ops import OPS
from alignkit.testing import KernelContract
from alignkit.testing.kernel_cases import CASES
from helpers.planted import Fault, checks_of, planted, plugin_of

Op = Callable[..., Any]
LINEAR, FUSED = OPS["linear_logprob"], OPS["fused_linear_policy_loss"]


class Sound:
    """The references under another name; each fault changes one thing."""

    def __init__(self, **ops: Op) -> None:
        self.ops = ops or {"linear_logprob": LINEAR, "fused_linear_policy_loss": FUSED}

    def unavailable(self, device: torch.device) -> Any:
        return None

    def preference(self, device: torch.device) -> Any:
        return 1

    def implementations(self) -> dict[str, Op]:
        return self.ops


class AsksForTheGPU(Sound):
    def unavailable(self, device: torch.device) -> Any:
        major, _ = torch.cuda.get_device_capability(device)
        return None if major >= 8 else "too old"


class NoReason(Sound):
    def unavailable(self, device: torch.device) -> Any:
        return device.type == "meta"


class HalfAPoint(Sound):
    def preference(self, device: torch.device) -> Any:
        return 0.5


class Below(Sound):
    def preference(self, device: torch.device) -> Any:
        return -1


class Block(Config):
    block: int


class OtherOps(Sound):
    def implementations(self) -> dict[str, Op]:
        return {**self.ops, "linear_cross_entropy": LINEAR}


class NoOps(Sound):
    def implementations(self) -> dict[str, Op]:
        return {}


def changed(op: Op, change: Callable[[Any], Any]) -> Op:
    """An op whose results are changed."""

    @wraps(op)
    def call(*arguments: Any, **options: Any) -> Any:
        return change(op(*arguments, **options))

    return call


def fewer_arguments(h_NH: Tensor, head: Head, targets_N: Tensor, temperature: float = 1.0) -> Any:
    return LINEAR(h_NH, head, targets_N, temperature)


def other_names(hidden: Tensor, head: Head, labels: Tensor, temperature: float = 1, with_entropy: bool = False,
                kept_NK: Any = None) -> Any:  # fmt: skip
    return LINEAR(hidden, head, labels, temperature, with_entropy, kept_NK)


@wraps(LINEAR)
def without_soft_cap(h_NH: Tensor, head: Head, *rest: Any, **options: Any) -> Any:
    return LINEAR(h_NH, head._replace(softcap=None), *rest, **options)


@wraps(LINEAR)
def narrow(h_NH: Tensor, head: Head, *rest: Any, **options: Any) -> Any:
    """Rounded to bfloat16 on the way, whatever came in."""
    return LINEAR(h_NH.bfloat16().to(h_NH.dtype), head, *rest, **options)


@wraps(LINEAR)
def bias_detached(h_NH: Tensor, head: Head, *rest: Any, **options: Any) -> Any:
    bias = None if head.bias_V is None else head.bias_V.detach()
    return LINEAR(h_NH, head._replace(bias_V=bias), *rest, **options)


class UnitSlope(torch.autograd.Function):
    """The gradient is made in the forward pass, and what follows the loss is forgotten."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return torch.ones_like(slopes[0])


def wrong_pairs(chosen: Tensor, rejected: Tensor, p: Tensor, margin: Tensor, weight: Tensor) -> Tensor:
    """The margin enters with the sign of the difference."""
    return OPS["pairwise_loss"](chosen, rejected, p, margin * (2 * p - 1).sign(), weight)


@wraps(LINEAR)
def exponential(h_NH: Tensor, head: Head, targets_N: Tensor, temperature: float = 1.0, **options: Any) -> Any:
    """No maximum is taken off."""
    z_NV = (torch.nn.functional.linear(h_NH, head.weight_VH, head.bias_V) * head.scale / temperature).float()
    logp_NV = z_NV - z_NV.exp().sum(-1, keepdim=True).log()
    logp_N = logp_NV.gather(-1, targets_N[:, None])[:, 0]
    return logp_N, -(logp_NV.exp() * logp_NV).sum(-1)


def raw_ratio(logp_N: Tensor, old_logp_N: Tensor, advantages_N: Tensor, clip_low: float, clip_high: float,
              dual_clip: float | None = None) -> Any:  # fmt: skip
    ratio_N = (5 * (logp_N - old_logp_N)).exp()
    return -advantages_N * ratio_N, {"ratio": ratio_N, "clipped": 0 * ratio_N, "approx_kl": ratio_N - 1}


@wraps(LINEAR)
def longest_first(h_NH: Tensor, *rest: Any, **options: Any) -> Any:
    """A batch without tokens has no maximum."""
    assert float(h_NH.detach().abs().max()) >= 0
    return LINEAR(h_NH, *rest, **options)


@wraps(LINEAR)
def kept_forgotten(*arguments: Any, kept_NK: Any = None, **options: Any) -> Any:
    return LINEAR(*arguments, **options)


@wraps(LINEAR)
def always_entropy(
    h_NH: Tensor, head: Head, targets_N: Tensor, temperature: float = 1.0, *rest: Any, **more: Any
) -> Any:
    return LINEAR(h_NH, head, targets_N, temperature, with_entropy=True)


@wraps(LINEAR)
def frozen_states_forgotten(h_NH: Tensor, head: Head, *rest: Any, **options: Any) -> Any:
    """Takes it that hidden states always learn, and gives up on the projection where they do not."""
    if not h_NH.requires_grad and torch.is_grad_enabled():
        head = head._replace(weight_VH=head.weight_VH.detach())
    return LINEAR(h_NH, head, *rest, **options)


@wraps(FUSED)
def gradient_in_forward(h_NH: Tensor, *rest: Any, **options: Any) -> Any:
    """Asks autograd inside, which has nothing to give under no_grad."""
    with torch.enable_grad():
        return FUSED(h_NH.detach().requires_grad_() if not torch.is_grad_enabled() else h_NH, *rest, **options)


@wraps(FUSED)
def attached_figures(h_NH: Tensor, head: Head, targets_N: Tensor, *rest: Any, **options: Any) -> Any:
    loss, figures = FUSED(h_NH, head, targets_N, *rest, **options)
    logp_N, _ = LINEAR(h_NH, head, targets_N, options.get("temperature", 1.0))
    return loss, {**figures, "logp": logp_N}


@wraps(LINEAR)
def scales_in_place(h_NH: Tensor, head: Head, *rest: Any, **options: Any) -> Any:
    with torch.no_grad():
        head.weight_VH.mul_(head.scale * 1.01)
    return LINEAR(h_NH, head, *rest, **options)


def loss_in_place(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, clip: float | None) -> Tensor:
    returns_N -= old_values_N
    return OPS["value_loss"](values_N, old_values_N, returns_N + old_values_N, clip)


@wraps(LINEAR)
def noisy(*arguments: Any, **options: Any) -> Any:
    logp_N, entropy_N = LINEAR(*arguments, **options)
    return logp_N + 1e-5 * torch.rand_like(logp_N), entropy_N


class SharedBuffer:
    """Hidden states are copied to a buffer that the next call uses again."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def __call__(self, h_NH: Tensor, head: Head, targets_N: Tensor, temperature: float = 1.0,
                 with_entropy: bool = False, kept_NK: Any = None) -> Any:  # fmt: skip
        if self.buffer is None or self.buffer.shape != h_NH.shape:
            self.buffer = torch.empty_like(h_NH, requires_grad=False)
        self.buffer.copy_(h_NH.detach())
        logits_NV = Projection.apply(h_NH, self.buffer, head.weight_VH, head.bias_V) * head.scale
        logp_N, entropy_N, _ = OPS["token_logprob"](logits_NV, targets_N, temperature)
        return logp_N, entropy_N


class Projection(torch.autograd.Function):
    """h W^T + b with the gradient of W from a buffer."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, buffer: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.buffer, ctx.weight = buffer, weight
        return torch.nn.functional.linear(h, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (d_NV,) = slopes
        return d_NV @ ctx.weight, None, d_NV.T @ ctx.buffer, d_NV.sum(0)


@wraps(FUSED)
def writes_gradients(h_NH: Tensor, *rest: Any, **options: Any) -> Any:
    """Clears what an earlier micro-batch left."""
    h_NH.grad = None
    return FUSED(h_NH, *rest, **options)


@wraps(LINEAR)
def under_autocast(h_NH: Tensor, head: Head, targets_N: Tensor, temperature: float = 1.0, with_entropy: bool = False,
                   kept_NK: Any = None) -> Any:  # fmt: skip
    """A plain projection, which autocast lowers."""
    z_NV = torch.nn.functional.linear(h_NH, head.weight_VH, head.bias_V).float() * head.scale
    logp_N, entropy_N, _ = OPS["token_logprob"](z_NV, targets_N, temperature)
    return logp_N, entropy_N


def fault(check: str, build: Callable[[], Any], name: str = "", config: type[Config] = NoConfig) -> Fault:
    component = Component("broken", lambda c, _: build(), config, "broken on purpose")
    return Fault(check, component, {"options": {"block": 3}} if config is Block else {}, name)


def ops(check: str, name: str = "", **broken: Op) -> Fault:
    return fault(check, lambda: Sound(**broken), name)


FAULTS = (
    fault("test_says_whether_it_can_run", AsksForTheGPU, "raises"),
    fault("test_says_whether_it_can_run", NoReason, "true"),
    fault("test_preference_is_a_whole_number", HalfAPoint, "half"),
    fault("test_preference_is_a_whole_number", Below, "below"),
    fault("test_needs_no_options", Sound, config=Block),
    fault("test_offers_known_ops", OtherOps, "other"),
    fault("test_offers_known_ops", NoOps, "none"),
    ops("test_signatures_are_those_of_the_reference", "fewer", linear_logprob=fewer_arguments),
    ops("test_signatures_are_those_of_the_reference", "names", linear_logprob=other_names),
    ops("test_values_are_those_of_the_reference", "soft_cap", linear_logprob=without_soft_cap),
    ops("test_values_are_those_of_the_reference", "narrow", linear_logprob=narrow),
    ops(
        "test_values_are_those_of_the_reference",
        "double",
        linear_logprob=changed(LINEAR, lambda r: (r[0].double(), r[1])),
    ),
    ops("test_values_are_those_of_the_reference", "pairs", pairwise_loss=wrong_pairs),
    ops("test_gradients_are_those_of_the_reference", "bias", linear_logprob=bias_detached),
    ops(
        "test_gradients_are_those_of_the_reference",
        "slope",
        fused_linear_policy_loss=changed(FUSED, lambda r: (UnitSlope.apply(r[0]), r[1])),
    ),
    ops(
        "test_gradients_are_those_of_the_reference",
        "value_loss",
        value_loss=changed(OPS["value_loss"], lambda x: UnitSlope.apply(x)),
    ),
    ops("test_extreme_numbers_stay_finite", "logits", linear_logprob=exponential),
    ops("test_extreme_numbers_stay_finite", "ratio", policy_loss=raw_ratio),
    ops("test_batch_without_tokens", linear_logprob=longest_first),
    ops("test_kept_ids", linear_logprob=kept_forgotten),
    ops("test_entropy_is_zero_where_nobody_asks", linear_logprob=always_entropy),
    ops("test_frozen_tensors_change_nothing", linear_logprob=frozen_states_forgotten),
    ops("test_works_without_gradients", fused_linear_policy_loss=gradient_in_forward),
    ops("test_diagnostics_carry_no_gradient", "fused", fused_linear_policy_loss=attached_figures),
    ops("test_diagnostics_carry_no_gradient", "ratio", policy_loss=raw_ratio),
    ops("test_inputs_are_not_changed", "weight", linear_logprob=scales_in_place),
    ops("test_inputs_are_not_changed", "loss", value_loss=loss_in_place),
    ops("test_same_each_time", linear_logprob=noisy),
    fault("test_two_calls_before_one_backward", lambda: Sound(linear_logprob=SharedBuffer())),
    ops("test_gradients_add_up", fused_linear_policy_loss=writes_gradients),
    ops("test_autocast_around_it_narrows_nothing", linear_logprob=under_autocast),
)
globals().update(planted(KernelContract, FAULTS))


class TestSound(KernelContract):
    """What the faults are made of has none."""

    component = "sound"
    cases = CASES[:3]
    plugin = plugin_of(KernelContract, Component("sound", lambda c, _: Sound(**OPS), NoConfig, "the references"))
    # Made in memory, so that no process can import it.
    test_registration_imports_nothing_heavy = None


class TestSoundInBfloat16(TestSound):
    """A kernel may be for one type alone."""

    dtypes = (torch.bfloat16,)
    cases = CASES


def test_every_check_has_a_fault() -> None:
    assert checks_of(KernelContract) == {f.check for f in FAULTS}
