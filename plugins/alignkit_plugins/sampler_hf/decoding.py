"""One batch from its prompts to its completions: prompts padded on the left, then one cached pass per token."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.errors import Fault
from alignkit.protocols import Policy
from alignkit.records import Sampling
from alignkit_plugins.sampler_hf.drawing import draw, kept_ids
from alignkit_plugins.sampler_hf.packing import Product


class Completion(NamedTuple):
    """Ids, cut after the first stop id, their log-probs, and what top-k and top-p left, [T, K] or None."""

    ids: list[int]
    logps: list[float]
    kept_TK: Tensor | None


class Pace(NamedTuple):
    """Tokens between two looks at which rows have ended, and the share of them at which they leave the batch.

    A look makes the host wait for the device; leaving copies the cache (and makes a captured graph anew).
    """

    look_every: int
    leave_at: float


CPU, GPU = Pace(1, 0.25), Pace(8, 0.5)


def sample_batch(
    policy: Policy,
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    uniform_BT: Tensor,
    logits_of: Product,
    captured: bool,
) -> list[Completion]:
    """One completion per prompt. `uniform_BT` decides the draws, `captured` asks for steps of fixed shape."""
    device = policy.device
    pace = CPU if device.type == "cpu" else GPU
    # transformers is not imported before something is drawn: checks of a recipe build the sampler too.
    from alignkit_plugins.sampler_hf.stepping import Stepper

    stepper = Stepper(policy, prompt_ids, sampling.max_length, logits_of, captured)
    record = _Record(len(prompt_ids))
    uniform_BT = uniform_BT.to(device)
    stop_S = torch.tensor(sorted(policy.stop_ids), device=device)
    alive_B = torch.ones(len(prompt_ids), dtype=torch.bool, device=device)
    logits_BV = stepper.prefill()
    for t in range(sampling.max_length):
        token_B, logp_B, kept_BV = draw(logits_BV, sampling, uniform_BT[:, t])
        record.add(token_B, logp_B, kept_BV)
        alive_B = alive_B & ~torch.isin(token_B, stop_S)
        if t + 1 == sampling.max_length:
            break
        if (t + 1) % pace.look_every == 0:
            rows = alive_B.nonzero().squeeze(1)
            if len(rows) == 0:
                break
            if stepper.can_keep and len(alive_B) - len(rows) >= pace.leave_at * len(alive_B):
                record.keep(rows)
                stepper.keep(rows)
                token_B, uniform_BT, alive_B = token_B[rows], uniform_BT[rows], alive_B[rows]
        logits_BV = stepper.step(token_B)
    return record.completions(policy.stop_ids)


class _Record:
    """What was drawn. It waits on the device and is fetched when rows leave and at the end."""

    def __init__(self, rows: int) -> None:
        self.rows = list(range(rows))
        self.ids: list[list[int]] = [[] for _ in self.rows]
        self.logps: list[list[float]] = [[] for _ in self.rows]
        self.kept: list[list[Tensor]] = [[] for _ in self.rows]
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._waiting_kept: list[Tensor] = []

    def add(self, token_B: Tensor, logp_B: Tensor, kept_BV: Tensor | None) -> None:
        """One more token of each row that is left."""
        self._waiting.append((token_B, logp_B))
        if kept_BV is not None:
            self._waiting_kept.append(kept_ids(kept_BV).cpu())

    def keep(self, rows: Tensor) -> None:
        """From here on tokens belong to these of the rows."""
        self._fetch()
        self.rows = [self.rows[b] for b in rows.tolist()]

    def completions(self, stop_ids: frozenset[int]) -> list[Completion]:
        """Of all rows, each up to its first stop id."""
        self._fetch()
        found = []
        for ids, logps, kept in zip(self.ids, self.logps, self.kept, strict=True):
            n = next((t + 1 for t, token in enumerate(ids) if token in stop_ids), len(ids))
            found.append(Completion(ids[:n], logps[:n], _stacked(kept[:n]) if kept else None))
        return found

    def _fetch(self) -> None:
        tokens_BT = torch.stack([token_B for token_B, _ in self._waiting], dim=1).tolist()
        logp_BT = torch.stack([logp_B for _, logp_B in self._waiting], dim=1)
        if not bool(torch.isfinite(logp_BT).all()):
            raise Fault("the policy's logits are not finite", hint="the model has diverged: lower the learning rate")
        for row, tokens, logps in zip(self.rows, tokens_BT, logp_BT.tolist(), strict=True):
            self.ids[row] += tokens
            self.logps[row] += logps
        for kept_BK in self._waiting_kept:
            for row, kept_K in zip(self.rows, kept_BK, strict=True):
                self.kept[row].append(kept_K)
        self._waiting, self._waiting_kept = [], []


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """[K_t] of each token as one [T, K], padded with -1."""
    found: Any = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=-1)
    return found  # type: ignore[no-any-return]
