"""Registers the kernel components and the command `bench`."""

from collections.abc import Iterable
from typing import Any

from alignkit import Component, hookimpl
from alignkit.components import NoConfig


def build_chunked(config: NoConfig, context: Any) -> Any:
    """Make the component."""
    from alignkit_kernels.chunked import Chunked

    return Chunked()


def build_compiled(config: NoConfig, context: Any) -> Any:
    """Make the component."""
    from alignkit_kernels.compiled import Compiled

    return Compiled()


def build_triton(config: NoConfig, context: Any) -> Any:
    """Make the component."""
    from alignkit_kernels.triton_component import TritonKernel

    return TritonKernel()


@hookimpl
def alignkit_kernels() -> Iterable[Component]:
    """The built-in kernels."""
    return [
        Component(
            name="chunked",
            build=build_chunked,
            summary="plain torch, a chunk of tokens at a time: never the logits of all tokens in memory",
        ),
        Component(name="compiled", build=build_compiled, summary="the eager references through torch.compile"),
        Component(
            name="triton",
            build=build_triton,
            summary="matrix products of the device's library, everything between them in Triton: for GPUs",
        ),
    ]


def build_bench(config: NoConfig, context: Any) -> Any:
    """The subcommand."""
    from alignkit_kernels.bench.command import command

    return command


@hookimpl
def alignkit_commands() -> Iterable[Component]:
    """`alignkit bench`."""
    return [Component(name="bench", build=build_bench, summary="compare the implementations of the ops on your shapes")]
