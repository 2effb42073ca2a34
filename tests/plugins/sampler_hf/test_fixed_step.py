"""A step that is captured in a CUDA graph, with stand-ins for the graph: no GPU is needed."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit_plugins.sampler_hf.fixed_step import FixedStep


class Streams:
    """CUDA's streams and a graph whose capture ends with an error if what was captured has failed, as CUDA's does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capturing = False
        self.modes: list[str] = []
        for name in ("Stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, lambda: self)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def wait_stream(self, other: Any) -> None:
        """Nothing to wait for."""

    @contextmanager
    def graph(self, _: Any, capture_error_mode: str = "global") -> Iterator[None]:
        self.capturing = True
        self.modes.append(capture_error_mode)
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from None
        finally:
            self.capturing = False


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    return Streams(monkeypatch)


def captured(streams: Streams, error: Exception | None = None) -> None:
    """Capture a step that fails with `error`, if given, where nothing may wait for the GPU."""

    def forward(ids_B1: Tensor, positions_B1: Tensor) -> Tensor:
        if streams.capturing and error is not None:
            raise error
        return (ids_B1 + positions_B1).float()

    counters = [torch.tensor(3)]
    step = FixedStep(forward, torch.ones(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.long), counters)
    step._capture(counters)


def test_a_model_that_cannot_be_captured_is_said_with_what_it_did(streams: Streams) -> None:
    with pytest.raises(UserError, match="operation not permitted when stream is capturing") as found:
        captured(streams, RuntimeError("CUDA error: operation not permitted when stream is capturing"))
    assert found.value.hint == "set decode: eager"


def test_memory_that_runs_out_meanwhile_is_left_to_the_engine(streams: Streams) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        captured(streams, torch.OutOfMemoryError("CUDA out of memory"))


def test_what_other_threads_do_on_the_gpu_meanwhile_does_no_harm(streams: Streams) -> None:
    captured(streams)
    assert streams.modes == ["thread_local"]
