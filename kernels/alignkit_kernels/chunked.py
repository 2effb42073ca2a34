"""`linear_logprob` in chunks of tokens: memory for one chunk's logits instead of all, at one more projection."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alignkit.batches import Head
from alignkit.ops.linear_logprob import linear_logprob

CHUNK_TOKENS = 1024


class Chunked:
    """Satisfies `alignkit.protocols.Kernel`."""

    def unavailable(self, device: torch.device) -> str | None:
        """Runs wherever torch does."""
        return None

    def implementations(self) -> Mapping[str, Callable[..., Any]]:
        """The ops that are implemented."""
        return {"linear_logprob": chunked_linear_logprob}


def chunked_linear_logprob(
    h_NH: Tensor,
    head: Head,
    targets_N: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    kept_NK: Tensor | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """The eager op on `chunk_tokens` rows at a time; the logits of a chunk are computed again in the backward."""
    if len(h_NH) <= chunk_tokens:
        return linear_logprob(h_NH, head, targets_N, temperature, with_entropy, kept_NK)
    kept = [None] * -(-len(h_NH) // chunk_tokens) if kept_NK is None else torch.split(kept_NK, chunk_tokens)
    parts = [
        checkpoint(linear_logprob, h, head, y, temperature, with_entropy, k, use_reentrant=False)
        for h, y, k in zip(torch.split(h_NH, chunk_tokens), torch.split(targets_N, chunk_tokens), kept, strict=True)
    ]
    return torch.cat([logp for logp, _ in parts]), torch.cat([entropy for _, entropy in parts])
