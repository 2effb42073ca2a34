"""Every built-in kernel keeps the contract of its kind, where it can run."""

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
import torch._inductor.config

from alignkit.manager import PluginManager
from alignkit.testing import KernelContract
from alignkit.testing.kernel_cases import CASES
from alignkit_kernels import chunks


class TestChunked(KernelContract):
    component = "chunked"

    @pytest.fixture(autouse=True)
    def small_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Five tokens in a chunk; with chunks of the usual size so few tokens are left to the eager op."""
        monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 5 * 1003)


class TestChunkedOfUsualSize(KernelContract):
    component = "chunked"


@pytest.mark.slow
class TestCompiled(KernelContract):
    component = "compiled"
    # A compiler sums in another order, and each form of the projection is compiled anew.
    slack: ClassVar = {torch.float32: 2.0}
    cases: ClassVar = tuple(case for case in CASES if case.name in ("odd vocabulary", "bfloat16", "soft cap and scale"))

    @pytest.fixture(autouse=True)
    def compiled_anew(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """The cache on disk does not tell autocast apart, and would give the graph of another check."""
        with torch._inductor.config.patch(force_disable_caches="autocast" in request.node.name):
            torch._dynamo.reset()
            yield


class TestTriton(KernelContract):
    """Skips on a CPU; `tests/kernels/interpreted` runs the same checks with Triton's interpreter."""

    component = "triton"


@pytest.mark.gpu
class TestTritonOnAGPU(KernelContract):
    component = "triton"
    device = "cuda"


def test_none_is_left_out() -> None:
    manager = PluginManager()
    manager.load()
    tested = {c.component for c in KernelContract.__subclasses__() if c.__module__ == __name__}
    builtin = {r.component.name for r in manager.all("kernel") if r.distribution == "alignkit"}
    assert tested == builtin
