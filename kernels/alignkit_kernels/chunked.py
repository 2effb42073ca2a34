"""The vocabulary ops in plain torch, a chunk of tokens at a time: for the CPU and devices that Triton does not know."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from alignkit_kernels.chunks import CHUNK_ELEMENTS
from alignkit_kernels.vocabulary import VocabularyOps


class Chunked:
    """Satisfies `alignkit.protocols.Kernel`."""

    def unavailable(self, device: torch.device) -> str | None:
        """Runs wherever torch does."""
        return None

    def preference(self, device: torch.device) -> int:
        """Never with the logits of all tokens, and faster than eager where there are many; slower where they are few
        beside the hidden size or in 16 bits."""
        return 1

    def implementations(self) -> Mapping[str, Callable[..., Any]]:
        """The ops that are implemented."""
        return VocabularyOps("torch", eager_below=CHUNK_ELEMENTS["cpu"]).implementations()
