"""The kernel `triton` keeps the contract of its kind, in Triton's interpreter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest

from alignkit.testing import KernelContract
from alignkit.testing.kernel_cases import CASES, Case, small
from alignkit_kernels import chunks, triton_rows


class TestTriton(KernelContract):
    component = "triton"
    # The interpreter takes a millisecond for every block, and the tests beside this one go through all cases.
    cases: ClassVar[Sequence[Case]] = (replace(small(CASES[0]), vocabulary=601),)

    @pytest.fixture(autouse=True)
    def small_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Five tokens in a chunk, and rows of several blocks."""
        monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 5 * 1003)
        monkeypatch.setattr(triton_rows, "STATISTICS_BLOCK", 512)
        monkeypatch.setattr(triton_rows, "GRADIENT_BLOCK", 512)
