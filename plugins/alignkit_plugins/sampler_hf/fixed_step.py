"""A decoding step whose tensors keep their shapes and addresses, so that a CUDA graph can hold it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignkit.errors import UserError, out_of_memory, said_by


class FixedStep:
    """`forward(ids_B1, positions_B1)` over inputs of its own; on a GPU captured once and then replayed.

    `counters` are the tensors by which the cache knows its length.
    """

    def __init__(
        self,
        forward: Callable[[Tensor, Tensor], Tensor],
        ids_B1: Tensor,
        positions_B1: Tensor,
        counters: Sequence[Tensor],
    ) -> None:
        self._forward = forward
        self.ids_B1, self.positions_B1 = ids_B1.clone(), positions_B1.clone()
        self._graph: Any = None
        if ids_B1.device.type == "cuda":
            self._capture(counters)
        else:
            self.rehearse(counters)

    def __call__(self, token_B: Tensor) -> Tensor:
        """Logits behind these tokens, [B, V], in memory that the next step may write again."""
        self.ids_B1.copy_(token_B[:, None])
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return self._logits_BV

    def _run(self) -> Tensor:
        logits_BV = self._forward(self.ids_B1, self.positions_B1)
        self.positions_B1.add_(1)
        return logits_BV

    def rehearse(self, counters: Sequence[Tensor]) -> None:
        """One step that is taken back: libraries make their workspaces in it, what it has written is written again."""
        before = [tensor.clone() for tensor in (*counters, self.positions_B1)]
        self._run()
        for tensor, old in zip((*counters, self.positions_B1), before, strict=True):
            tensor.copy_(old)

    def _capture(self, counters: Sequence[Tensor]) -> None:
        """Capturing runs nothing, so counters stay as they are. Raises UserError if a step waits for the GPU."""
        beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self.rehearse(counters)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        try:
            # a reward source that took too long may be at work on the GPU in a thread of its own
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._logits_BV = self._run()
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            # the end of the capture fails too, and says less than what made it fail
            raise UserError(
                f"a step of this model cannot be captured in a CUDA graph: {said_by(error.__context__ or error)}",
                where="decode",
                hint="set decode: eager",
            ) from error
