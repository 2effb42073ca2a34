"""The eager references through torch.compile: what a user has without any kernel of ours."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from alignkit.ops import OPS


class Compiled:
    """Satisfies `alignkit.protocols.Kernel`."""

    def unavailable(self, device: torch.device) -> str | None:
        """On a CPU the compiler of torch needs one for C++."""
        if device.type != "cpu":
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
        return {name: torch.compile(op, dynamic=True) for name, op in OPS.items() if name != "gae"}
