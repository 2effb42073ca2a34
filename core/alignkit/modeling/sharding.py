"""One model over several processes: its weights, gradients and moments in parts (FSDP2), and whole where it must be.

Sharded are modules whose owner runs them through `modeling.backbone.run_backbone` and said so (`may_shard`). Any other
is held whole by each process, and `sum_gradients` adds up what the processes found.
"""

import copy
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from alignkit.modeling.backbone import decoder_layers
from alignkit.processes import count, on_first, several, summed

_MAY = "_may_shard"  # an attribute, so that a copy of the module may as well
# A sharded module and its like without weights, which are lent to it where the whole is needed.
_plain: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


class Owner(Protocol):
    """A policy, scorer or critic."""

    module: Any

    def save(self, folder: Path) -> None:
        """Write a model folder."""
        ...


def may_shard(module: nn.Module) -> None:
    """Note that its owner runs the module through `run_backbone` and reads its head behind that."""
    setattr(module, _MAY, True)


def shard(module: nn.Module) -> None:
    """With several processes, leave each its part of the weights; must come before an optimizer is made.

    Gradients are added up over processes, as the parts of one batch. Frozen and trainable weights in one module (LoRA)
    stay whole: what is trained is small.
    """
    if not several() or not getattr(module, _MAY, False) or module in _plain or not decoder_layers(module):
        return
    if len({p.requires_grad for p in module.parameters()}) > 1:
        return
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    device = next(module.parameters()).device
    plain = _without_weights(module)
    mesh = _mesh(device.type, count())
    for layer in decoder_layers(module):
        fully_shard(layer, mesh=mesh)
    vars(module)["forward_backbone"] = types.MethodType(_forward_backbone, module)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "forward_backbone")
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    _plain[module] = plain


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has divided it."""
    return module in _plain


@cache
def _mesh(device: str, processes: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (processes,))


def _forward_backbone(self: Any, **arguments: Any) -> Any:
    return self.base_model(**arguments)


def _without_weights(module: nn.Module) -> nn.Module:
    """A copy of the module whose parameters take no memory."""
    empty = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, dict(empty))


def reshard(module: nn.Module) -> None:
    """Drop the gathered weights that a forward pass without a backward leaves behind: parameters are parts again."""
    if not is_sharded(module):
        return
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def whole(*owners: Any) -> Iterator[None]:
    """Inside, the owners' modules are plain ones with all their weights, gathered once: for sampling and saving.

    All processes come here together. Nothing is gathered for modules that are not sharded.
    """
    from torch.distributed.fsdp import FSDPModule

    lent: list[tuple[Any, nn.Module]] = []
    for owner in owners:
        module = getattr(owner, "module", None)
        if module is None or not isinstance(module, nn.Module) or not is_sharded(module):
            continue
        plain = _plain[module]
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.unshard()
        _lend(module, plain)
        plain.train(module.training)
        owner.module = plain
        lent.append((owner, module))
    try:
        yield
    finally:
        for owner, module in lent:
            owner.module = module
            _take_back(_plain[module])
            reshard(module)


def _lend(module: nn.Module, plain: nn.Module) -> None:
    """Give `plain` the gathered parameters and the buffers of `module`."""
    for (_, target), (_, source) in zip(plain.named_modules(), module.named_modules(), strict=True):
        for name, parameter in source._parameters.items():
            target._parameters[name] = parameter
        for name, buffer in source._buffers.items():
            target._buffers[name] = buffer


def _take_back(plain: nn.Module) -> None:
    for target in plain.modules():
        for name, parameter in target._parameters.items():
            if parameter is not None:
                target._parameters[name] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)


def save_model(owner: Owner, folder: Path, *others: Any) -> None:
    """`owner.save(folder)`, of several processes by the first; `others` are owners of what `save` reads beside it."""
    with whole(owner, *others):
        on_first(lambda: owner.save(folder))


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the processes' gradients of weights that each holds whole; those of sharded ones are already."""
    if not several():
        return
    import torch.distributed as dist

    held = [p for p in parameters if p.requires_grad and not is_part(p)]
    if not held:
        return
    # An expert may have had a token on one process only; a weight that none has used gets no gradient, nor decay.
    used = summed(torch.tensor([p.grad is not None for p in held], dtype=torch.float32)).tolist()
    for parameter, by_any in zip(held, used, strict=True):
        if by_any:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def is_part(tensor: Tensor) -> bool:
    """Whether it is one process's part of a tensor (a DTensor, whose module takes half a second to import)."""
    return hasattr(tensor, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be a part."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Global 2-norm of tensors, some of which may be parts."""
    norms = [
        full(torch.nn.utils.get_total_norm(kind))
        for kind in ([t for t in tensors if is_part(t)], [t for t in tensors if not is_part(t)])
        if kind
    ]
    return norms[0] if len(norms) == 1 else torch.stack([n.float() for n in norms]).square().sum().sqrt()


def part_on_host(part: Any, to_host: Callable[[Tensor], Tensor]) -> Tensor:
    """The same part of the same tensor with its memory on the CPU."""
    from torch.distributed.tensor import DTensor

    mesh = _mesh("cpu", part.device_mesh.size())
    return DTensor.from_local(
        to_host(part.to_local()), mesh, part.placements, run_check=False, shape=part.shape, stride=part.stride()
    )


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may be a part."""
    return tensor.to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every entry is, on all processes."""
    return all(bool(full(torch.isfinite(t).all())) for t in tensors)
