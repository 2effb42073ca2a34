"""Which implementation of each op a run uses: chosen once, logged and recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.ops.gae import gae
from alignkit.ops.linear_kl import linear_kl
from alignkit.ops.linear_logprob import linear_logprob
from alignkit.ops.pairwise_loss import pairwise_loss
from alignkit.ops.policy_loss import policy_loss
from alignkit.ops.value_loss import value_loss

if TYPE_CHECKING:
    import torch

    from alignkit.manager import PluginManager
    from alignkit.protocols import Kernel

OPS: dict[str, Callable[..., Any]] = {
    "linear_logprob": linear_logprob,
    "linear_kl": linear_kl,
    "policy_loss": policy_loss,
    "value_loss": value_loss,
    "gae": gae,
    "pairwise_loss": pairwise_loss,
}


@dataclass(frozen=True)
class Ops:
    """The chosen functions, called as `ops.gae(…)`; `choice` says which kernel each came from and why."""

    linear_logprob: Callable[..., Any]
    linear_kl: Callable[..., Any]
    policy_loss: Callable[..., Any]
    value_loss: Callable[..., Any]
    gae: Callable[..., Any]
    pairwise_loss: Callable[..., Any]
    choice: dict[str, str]
    reason: str


def choose_ops(manager: "PluginManager", name: str, device: "torch.device") -> Ops:
    """Resolve `kernels:` of a recipe. Raises UserError for a choice that cannot run. `auto` is the eager reference."""
    if name in ("eager", "auto"):
        return Ops(**OPS, choice=dict.fromkeys(OPS, "eager"), reason="asked for" if name == "eager" else "auto")
    registered = manager.get("kernel", name, where="kernels")
    kernel: Kernel = registered.component.build(registered.component.config(), None)
    problem = kernel.unavailable(device)
    if problem is not None:
        raise UserError(f"kernel {name!r} cannot run here: {problem}", where="kernels", hint="use kernels: auto")
    own = dict(kernel.implementations())
    unknown = sorted(set(own) - set(OPS))
    if unknown:
        raise UserError(f"kernel {name!r} offers unknown ops {unknown}", where="kernels")
    choice = {op: name if op in own else "eager" for op in OPS}
    return Ops(**{**OPS, **own}, choice=choice, reason="asked for")
