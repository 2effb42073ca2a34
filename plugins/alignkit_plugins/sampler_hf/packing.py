"""Weights of linear layers in the form that the processor multiplies fastest, for the length of one rollout.

They are made anew for each rollout, since training changes the weights in between, and are gone behind it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignkit.batches import Head
from alignkit_plugins.sampler_hf.notices import say_once

ROWS = 32
"""Rows for which weights are laid out: the usual batch. Other numbers of rows run on the same layout."""
WORTH = 16
"""Forward passes from which on laying out weights pays: it takes as long as about two of them."""
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of a module's linear layers that read the same tensor in the models that call them so."""

Product = Callable[[Tensor], Tensor]


@contextmanager
def packed(module: nn.Module, device: torch.device, passes: int) -> Iterator[None]:
    """Inside, linear layers of `module` run on packed weights. A layer that does something else than usual is left."""
    changed: list[Any] = []
    try:
        if passes >= WORTH:
            for layers in _groups(module):
                product = _product(*_joined(layers), device)
                if product is not None:
                    shared = _Shared(layers, product, *_autocast(device))
                    for n, layer in enumerate(layers):
                        layer.forward = partial(shared.part, n) if len(layers) > 1 else shared.whole
                        changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


def _groups(module: nn.Module) -> list[list[Any]]:
    """Linear layers that can be replaced: siblings together, each other one alone, none twice."""
    from transformers.pytorch_utils import Conv1D

    def usual(layer: Any) -> bool:
        # The weight of a layer that is sharded over processes is a tensor of another type.
        return "forward" not in vars(layer) and type(layer.weight) is nn.Parameter

    found: dict[int, list[Any]] = {}
    for parent in module.modules():
        for names in SIBLINGS:
            layers: list[Any] = [parent._modules.get(name) for name in names]
            if all(type(layer) is nn.Linear and usual(layer) and id(layer) not in found for layer in layers) and (
                len({(layer.in_features, layer.weight.dtype, layer.bias is None) for layer in layers}) == 1
            ):
                found |= {id(layer): layers for layer in layers}
    for layer in module.modules():
        if type(layer) in (nn.Linear, Conv1D) and usual(layer):
            found.setdefault(id(layer), [layer])
    return list({id(layers): layers for layers in found.values()}.values())


def _joined(layers: list[Any]) -> tuple[Tensor, Tensor | None]:
    """Weight [O, I] and bias [O] of these layers as of one."""
    weights = [layer.weight.detach() for layer in layers]
    if len(layers) == 1:
        return weights[0] if type(layers[0]) is nn.Linear else weights[0].t(), layers[0].bias
    bias_O = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
    return torch.cat(weights), bias_O


class _Shared:
    """One product for layers that read the same tensor: the first called computes it, the others take their parts.

    Layers that are not called in turn with the very same tensor are found out and go on as they were made.
    """

    def __init__(self, layers: list[Any], product: Product, casts: bool, dtype: torch.dtype) -> None:
        self.layers = layers
        self.product = product
        self.casts, self.dtype = casts, dtype
        self.sizes = [layer.weight.shape[0] for layer in layers]
        self.apart = False
        self._input: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def whole(self, x: Tensor) -> Tensor:
        """The output of a layer without siblings."""
        return self.product(x.to(self.dtype) if self.casts else x) if self._applies(x) else self._plain(0, x)

    def part(self, n: int, x: Tensor) -> Tensor:
        """The output of layer `n`."""
        if self.apart or not self._applies(x):
            return self._plain(n, x)
        if not self._parts:
            self._input = x
            self._parts = dict(enumerate(torch.split(self.whole(x), self.sizes, -1)))
        elif x is not self._input or n not in self._parts:
            self.apart, self._input, self._parts = True, None, {}
            kind = type(self.layers[0]).__name__
            say_once(f"{kind} layers named like siblings read other inputs: each is multiplied by itself (slower)")
            return self._plain(n, x)
        found = self._parts.pop(n)
        if not self._parts:
            self._input = None
        return found

    def _applies(self, x: Tensor) -> bool:
        """Not to a part of the model that asks for full precision."""
        return not self.casts or torch.is_autocast_enabled(x.device.type)

    def _plain(self, n: int, x: Tensor) -> Tensor:
        layer = self.layers[n]
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]


def _autocast(device: torch.device) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)


def _product(weight_OI: Tensor, bias_O: Tensor | None, device: torch.device) -> Product | None:
    """x -> x W^T + b with W cast (under autocast) and laid out (on a CPU) once; None where neither changes anything."""
    casts, dtype = _autocast(device)
    cast_OI = weight_OI.to(dtype) if casts else weight_OI
    cast_O = bias_O.detach().to(cast_OI.dtype) if bias_O is not None else None
    if _can_pack(cast_OI):
        plain_OI = cast_OI.contiguous()
        packed_OI = torch.ops.mkldnn._reorder_linear_weight(plain_OI, ROWS)
        return partial(_packed_linear, packed_OI, cast_O)
    return partial(F.linear, weight=cast_OI, bias=cast_O) if casts and cast_OI is not weight_OI else None


def _packed_linear(weight_OI: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight_OI, bias_O, "none", [], "")
    return y


def _can_pack(weight_OI: Tensor) -> bool:
    """float32 with oneDNN on x86. bfloat16 gains too little from it."""
    mkldnn: Any = torch.backends.mkldnn
    if weight_OI.device.type != "cpu" or not mkldnn.is_available() or type(weight_OI) not in (Tensor, nn.Parameter):
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    return weight_OI.dtype == torch.float32 and _works()


@cache
def _works() -> bool:
    """Whether these operators, which torch keeps for its compiler, are there and do what they did; tried out."""
    weight_OI, bias_O, x = (torch.linspace(1, n, n).sin() for n in (48 * 32, 48, 5 * 32))
    weight_OI, x = weight_OI.view(48, 32), x.view(5, 1, 32)
    expected = F.linear(x, weight_OI, bias_O)
    try:
        found = _packed_linear(torch.ops.mkldnn._reorder_linear_weight(weight_OI, ROWS), bias_O, x)
    except (AttributeError, RuntimeError, TypeError) as error:
        say_once(f"oneDNN's packed weights cannot be used here, sampling is slower: {str(error).splitlines()[0]}")
        return False
    # A processor may use bfloat16 inputs, if it was allowed to; a wrong layout is wrong by more.
    if found.shape != expected.shape or float((found - expected).norm()) > 0.02 * float(expected.norm()):
        say_once("oneDNN's packed weights give wrong products here and are not used: sampling is slower")
        return False
    return True


def head_product(head: Head, passes: int) -> Product:
    """h -> logits, float32, in the dtype of the projection also under autocast, like `alignkit.ops`' `project`."""
    weight_VH = head.weight_VH.detach()
    packs = passes >= WORTH and _can_pack(weight_VH)
    with torch.autocast(weight_VH.device.type, enabled=False):
        product = _product(weight_VH, head.bias_V, weight_VH.device) if packs else None

    def logits(h_BH: Tensor) -> Tensor:
        with torch.autocast(weight_VH.device.type, enabled=False):
            h_BH = h_BH.to(weight_VH.dtype)
            z_BV = product(h_BH) if product is not None else F.linear(h_BH, weight_VH, head.bias_V)
            z_BV = z_BV * head.scale if head.scale != 1.0 else z_BV
            return (head.softcap * torch.tanh(z_BV / head.softcap) if head.softcap is not None else z_BV).float()

    return logits
