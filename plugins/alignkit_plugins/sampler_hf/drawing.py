"""Drawing tokens: restrict the distribution, invert its cumulative sum at one uniform number, keep the log-prob."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alignkit.records import Sampling

BLOCK = 128
"""Entries of the vocabulary whose probabilities are added up first; only one block's cumulative sum is taken."""
BELOW_ONE = 1 - 2**-52


def uniforms(seed: int, rows: Sequence[int], length: int) -> Tensor:
    """Uniform numbers in [0, 1) for each row and token, [B, T], float64.

    Counter-based (Philox): those of a row follow from the seed and the row's number alone, so that what is drawn does
    not depend on which rows share a batch, on their order or on when a row leaves it.
    """
    key = seed % 2**64
    return torch.from_numpy(
        np.stack([np.random.Generator(np.random.Philox(key=[key, row])).random(length) for row in rows])
    )


def restricted(sampling: Sampling) -> bool:
    """Whether tokens are drawn from a part of the distribution."""
    return sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)


def draw(logits_BV: Tensor, sampling: Sampling, uniform_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """One token per row, its log-prob, and what was restricted: all log-probs, -inf outside, [B, V].

    The distribution is softmax(logits / temperature), then top-k, then top-p; the last result is None where these leave
    all. Temperature 0 takes the largest logit, with log-prob 0. Logits that are not finite give log-probs that are not.
    """
    if sampling.temperature == 0:
        token_B = logits_BV.argmax(-1)
        return token_B, torch.zeros(token_B.shape, device=logits_BV.device), None
    if sampling.temperature != 1:
        logits_BV = logits_BV / sampling.temperature
    kept_BV = restrict(logits_BV, sampling) if restricted(sampling) else None
    probs_BV = torch.softmax(logits_BV, dim=-1) if kept_BV is None else kept_BV.exp()
    token_B = inverse_cdf(probs_BV, uniform_B)
    drawn_B = (probs_BV if kept_BV is None else kept_BV).gather(-1, token_B[:, None]).squeeze(-1)
    return token_B, drawn_B.log() if kept_BV is None else drawn_B, kept_BV


def restrict(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Log-probs of what top-k and then top-p leave, -inf elsewhere."""
    logp_BV = torch.log_softmax(logits_BV, dim=-1)
    if sampling.top_k and sampling.top_k < logp_BV.shape[-1]:
        smallest_B1 = logp_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logp_BV = torch.log_softmax(logp_BV.masked_fill(logp_BV < smallest_B1, float("-inf")), dim=-1)
    if sampling.top_p < 1:
        sorted_BV, order_BV = logp_BV.sort(descending=True, dim=-1)
        before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
        drop_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(-1, order_BV, before_BV >= sampling.top_p)
        logp_BV = torch.log_softmax(logp_BV.masked_fill(drop_BV, float("-inf")), dim=-1)
    return logp_BV


def kept_ids(logp_BV: Tensor) -> Tensor:
    """Ids with a finite log-prob, most probable first, padded with -1, [B, K]."""
    width = int(torch.isfinite(logp_BV).sum(-1).max())
    values_BK, ids_BK = logp_BV.topk(width, dim=-1)
    return ids_BK.masked_fill(~torch.isfinite(values_BK), -1)


def inverse_cdf(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The index where each row's cumulative distribution passes its uniform number, [B].

    In two levels, a block and then an entry of it, so that no cumulative sum runs over the vocabulary: a tenth of the
    time of `torch.multinomial` on a CPU, which draws a random number for each entry. Sums of blocks are accumulated in
    float64, so that tails of large vocabularies keep their probability; an entry of probability 0 is never drawn.
    """
    V = probs_BV.shape[1]
    whole = V - V % BLOCK
    parts = [probs_BV[:, :whole].view(len(probs_BV), -1, BLOCK).sum(-1)] if whole else []
    if whole < V:
        parts.append(probs_BV[:, whole:].sum(-1, keepdim=True))
    sums_BN = torch.cat(parts, dim=1).double()
    block_B1, share_B1 = _falls_in(sums_BN, uniform_B[:, None])
    index_BE = block_B1 * BLOCK + torch.arange(BLOCK, device=probs_BV.device)
    entries_BE = probs_BV.gather(1, index_BE.clamp(max=V - 1)).double().masked_fill(index_BE >= V, 0.0)
    return (block_B1 * BLOCK + _falls_in(entries_BE, share_B1)[0]).squeeze(1).clamp(max=V - 1)


def _falls_in(weights_BN: Tensor, share_B1: Tensor) -> tuple[Tensor, Tensor]:
    """The index at which the cumulative weights pass `share` of their total, and how far into it that is, in [0, 1).

    Never an index of weight 0: the share stays below 1 by more than rounding, so the product stays below the total.
    """
    cdf_BN = weights_BN.cumsum(-1)
    target_B1 = share_B1.clamp(max=BELOW_ONE) * cdf_BN[:, -1:]
    index_B1 = torch.searchsorted(cdf_BN, target_B1, right=True).clamp(max=weights_BN.shape[1] - 1)
    weight_B1 = weights_BN.gather(1, index_B1)
    before_B1 = cdf_BN.gather(1, index_B1) - weight_B1
    return index_B1, ((target_B1 - before_B1) / weight_B1).clamp(0.0, BELOW_ONE)
