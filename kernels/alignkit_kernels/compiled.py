"""The eager references through torch.compile: what a user has without any kernel of ours."""

import os
import shutil
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, cast

import torch

from alignkit.kl import KLTerm
from alignkit.ops import OPS


class Compiled:
    """Satisfies `alignkit.protocols.Kernel`."""

    def unavailable(self, device: torch.device) -> str | None:
        """On a CPU the compiler of torch needs one for C++."""
        # What torch would take first. Its own search imports the whole compiler, and every run asks this at its start.
        if device.type != "cpu" or shutil.which(os.environ.get("CXX", "g++")):
            return None
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "torch.compile needs a C++ compiler, such as g++, and there is none"
        return None

    def preference(self, device: torch.device) -> int:
        """Only when named: each new shape may be compiled for a minute."""
        return 0

    def implementations(self) -> Mapping[str, Callable[..., Any]]:
        """All ops, compiled at their first call; `gae` is a loop over time that would be unrolled for a minute."""
        return {name: compiled(op) for name, op in OPS.items() if name != "gae"}


def compiled(op: Callable[..., Any]) -> Callable[..., Any]:
    """The op with sizes as variables and numbers as constants.

    A number that is a variable may be replaced by another call's where it bounds a `clamp`, without a word
    (pytorch/pytorch issue 194976): the clip range would be a wrong one. Of the numbers only the KL coefficient changes
    in a run, so it becomes a tensor.

    The backward pass is traced under the autocast that is on around the call, and would narrow what the op keeps in
    float32; the ops are alike with and without it, so it is off.
    """
    function = torch.compile(op, dynamic=True)

    @wraps(op)
    def call(*arguments: Any, **options: Any) -> Any:
        term = options.get("kl")
        if isinstance(term, KLTerm):
            options["kl"] = KLTerm(cast("float", torch.as_tensor(term.coef)), term.estimator, term.gradient)
        device = next(x.device for x in (*arguments, *options.values()) if isinstance(x, torch.Tensor))
        with torch.autocast(device.type, enabled=False), torch._dynamo.config.patch(specialize_float=True):
            return function(*arguments, **options)

    return call
