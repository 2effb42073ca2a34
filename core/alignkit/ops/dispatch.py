"""Which implementation of each op a run uses: chosen once, logged and recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.ops.fused_linear_policy_loss import fused_linear_policy_loss
from alignkit.ops.gae import gae
from alignkit.ops.linear_kl import linear_kl
from alignkit.ops.linear_logprob import linear_logprob
from alignkit.ops.pairwise_loss import pairwise_loss
from alignkit.ops.policy_loss import policy_loss
from alignkit.ops.token_logprob import token_logprob
from alignkit.ops.value_loss import value_loss

if TYPE_CHECKING:
    import torch

    from alignkit.manager import PluginManager
    from alignkit.protocols import Kernel

EAGER = "eager"
OPS: dict[str, Callable[..., Any]] = {
    "token_logprob": token_logprob,
    "linear_logprob": linear_logprob,
    "linear_kl": linear_kl,
    "fused_linear_policy_loss": fused_linear_policy_loss,
    "policy_loss": policy_loss,
    "value_loss": value_loss,
    "gae": gae,
    "pairwise_loss": pairwise_loss,
}


@dataclass(frozen=True)
class Ops:
    """The chosen functions, called as `ops.gae(…)`; `choice` says which kernel each came from and `reason` why."""

    token_logprob: Callable[..., Any]
    linear_logprob: Callable[..., Any]
    linear_kl: Callable[..., Any]
    fused_linear_policy_loss: Callable[..., Any]
    policy_loss: Callable[..., Any]
    value_loss: Callable[..., Any]
    gae: Callable[..., Any]
    pairwise_loss: Callable[..., Any]
    choice: dict[str, str]
    reason: str


def choose_ops(manager: "PluginManager", name: str, device: "torch.device") -> Ops:
    """Resolve `kernels:` of a recipe. Raises UserError for a choice that cannot run.

    `auto` takes the available kernel that recommends itself most for the device (`Kernel.preference`), or the eager
    references. Ops that a kernel does not offer are eager.
    """
    if name == EAGER:
        return Ops(**OPS, choice=dict.fromkeys(OPS, EAGER), reason="asked for")
    if name == "auto":
        return _best_ops(manager, device)
    kernel = build_kernel(manager, name)
    problem = kernel.unavailable(device)
    if problem is not None:
        raise UserError(f"kernel {name!r} cannot run here: {problem}", where="kernels", hint="use kernels: auto")
    return _ops_of(name, kernel, "asked for")


def build_kernel(manager: "PluginManager", name: str) -> "Kernel":
    """The kernel component of this name. Raises UserError where there is none."""
    registered = manager.get("kernel", name, where="kernels")
    kernel: Kernel = registered.component.build(registered.component.config(), None)
    return kernel


def _best_ops(manager: "PluginManager", device: "torch.device") -> Ops:
    """What `auto` means on `device`; the reason names the kernels that would be preferred and cannot run."""
    best: tuple[int, str, Kernel] | None = None
    missed = []
    for registered in manager.all("kernel"):
        name = registered.component.name
        kernel = build_kernel(manager, name)
        preference = kernel.preference(device)
        if preference <= 0:
            continue
        problem = kernel.unavailable(device)
        if problem is not None:
            missed.append(f"not {name}: {problem}")
        elif best is None or preference > best[0]:
            best = preference, name, kernel
    reason = "; ".join([f"auto on {device.type}", *missed])
    if best is None:
        return Ops(**OPS, choice=dict.fromkeys(OPS, EAGER), reason=reason)
    return _ops_of(best[1], best[2], reason)


def _ops_of(name: str, kernel: "Kernel", reason: str) -> Ops:
    own = dict(kernel.implementations())
    unknown = sorted(set(own) - set(OPS))
    if unknown:
        raise UserError(f"kernel {name!r} offers unknown ops {unknown}", where="kernels")
    choice = {op: name if op in own else EAGER for op in OPS}
    return Ops(**{**OPS, **own}, choice=choice, reason=reason)
