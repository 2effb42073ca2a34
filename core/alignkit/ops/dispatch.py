"""Which implementation of each op a run uses: chosen once, logged and recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from alignkit.errors import AlignkitError, UserError
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
    references. Ops that a kernel does not offer are eager, the fused one then made of the kernel's own parts.
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
    kernel: Kernel = registered.build(registered.component.config(), None)
    return kernel


def usable_kernels(
    manager: "PluginManager", device: "torch.device"
) -> tuple[list[tuple[str, int, "Kernel"]], dict[str, str]]:
    """Name, preference and object of every kernel that can run on `device`; and name -> why another one cannot.

    A broken kernel is one that cannot run: nobody named it.
    """
    usable: list[tuple[str, int, Kernel]] = []
    missed: dict[str, str] = {}
    for registered in manager.all("kernel"):
        name = registered.component.name
        try:
            kernel: Kernel = registered.build(registered.component.config(), None)
            problem, preference = kernel.unavailable(device), kernel.preference(device)
        except AlignkitError as error:
            problem, preference = error.what, 0
        except Exception as error:
            problem, preference = f"{type(error).__name__}: {error}", 0
        if problem is None and name in {other for other, _, _ in usable}:
            problem = f"another plugin than {registered.distribution} has a kernel of this name too"
        if problem is None:
            usable.append((name, preference, kernel))
        else:
            missed[name] = problem
    return usable, missed


def _best_ops(manager: "PluginManager", device: "torch.device") -> Ops:
    """What `auto` means on `device`; the reason names what cannot run."""
    usable, missed = usable_kernels(manager, device)
    reason = "; ".join([f"auto on {device.type}", *(f"not {name}: {problem}" for name, problem in missed.items())])
    best = max(usable, key=lambda found: found[1], default=None)
    if best is None or best[1] <= 0:
        return Ops(**OPS, choice=dict.fromkeys(OPS, EAGER), reason=reason)
    return _ops_of(best[0], best[2], reason)


def _ops_of(name: str, kernel: "Kernel", reason: str) -> Ops:
    own = dict(kernel.implementations())
    unknown = sorted(set(own) - set(OPS))
    if unknown:
        raise UserError(f"kernel {name!r} offers unknown ops {unknown}", where="kernels")
    choice = {op: name if op in own else EAGER for op in OPS}
    ops = {**OPS, **own}
    if "fused_linear_policy_loss" not in own:  # then it is made of the kernel's parts
        ops["fused_linear_policy_loss"] = partial(
            fused_linear_policy_loss,
            linear_logprob=ops["linear_logprob"],
            linear_kl=ops["linear_kl"],
            policy_loss=ops["policy_loss"],
        )
    return Ops(**ops, choice=choice, reason=reason)
