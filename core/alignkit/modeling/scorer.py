"""A transformer with one scalar head: reward model and critic.

The folder is a plain one-label sequence classifier for transformers. Scores are read here at the true last token of
each row, told by the mask and not by comparing ids with the pad id, so that pad may equal the end token.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Row, TokenBatch
from alignkit.errors import UserError
from alignkit.modeling import folders
from alignkit.modeling.backbone import hidden_states
from alignkit.modeling.encoding import TextEncoder
from alignkit.modeling.sharding import may_shard
from alignkit.processes import summed
from alignkit.records import Content
from alignkit.training.batching import micro_batches, shared


class SequenceScorer:
    """Wraps a transformers `…ForSequenceClassification` with one label and a linear head named `score`."""

    def __init__(self, module: Any, encoder: TextEncoder) -> None:
        if not isinstance(getattr(module, "score", None), torch.nn.Linear) or module.score.out_features != 1:
            raise UserError(
                f"{type(module).__name__} has no one-label linear head named 'score'",
                where=encoder.name,
                hint="use a decoder whose sequence classifier follows transformers' generic form",
            )
        self.module = module
        self.encoder = encoder
        self.gradient_checkpointing = False
        may_shard(module)

    @classmethod
    def load(
        cls, path: str, device: torch.device, new_head: bool = False, overrides: Mapping[str, Any] | None = None
    ) -> "SequenceScorer":
        """Load a saved scorer; with `new_head` the folder may also be a language model. Weights in float32.

        `overrides` change fields of the model's config, such as dropout rates.
        """
        from transformers import AutoModelForSequenceClassification

        module = folders.load_model(
            AutoModelForSequenceClassification,
            path,
            new=("score.",) if new_head else (),
            num_labels=1,
            dtype=torch.float32,
            **(overrides or {}),
        )
        scorer = cls(module.to(device), folders.load_encoder(path, module))
        scorer.module.config.pad_token_id = scorer.encoder.pad_id
        return scorer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.module.device)

    def init_head(self, generator: torch.Generator | None) -> None:
        """New head weights: N(0, 1/(H + 1)) as in Ziegler et al. 2019 for a reward model, zero without a generator."""
        weight = self.module.score.weight
        with torch.no_grad():
            if generator is None:
                weight.zero_()
            else:
                noise = torch.randn(weight.shape, generator=generator) / (weight.shape[1] + 1) ** 0.5
                weight.copy_(noise)
            if self.module.score.bias is not None:
                self.module.score.bias.zero_()

    def head(self, h_NH: Tensor) -> Tensor:
        """The scalar of each hidden state, [N], float32; never in lower precision, which would make ties."""
        with torch.autocast(h_NH.device.type, enabled=False):
            scores_N: Tensor = self.module.score(h_NH.to(self.module.score.weight.dtype)).squeeze(-1).float()
        return scores_N

    def row(self, prompt: Content, completion: Content) -> list[int]:
        """Ids as the scorer reads them: prompt, completion, one stop token."""
        return self.encoder.prompt(prompt) + self.encoder.completion(prompt, completion)

    def closed(self, prompt: Content, ids: Sequence[int]) -> list[int]:
        """Sampled ids, closed by the token that closes the rows of training.

        So a completion cut for length, or ended by another stop token, is read like any other.
        """
        words = ids[:-1] if ids and ids[-1] in self.encoder.stop_ids else ids
        return [*words, self.encoder.closing_id(prompt)]

    def last_token_scores(self, batch: TokenBatch) -> Tensor:
        """Score of each row at its last real token, [B], float32."""
        h_BTH = hidden_states(self.module, batch, self.gradient_checkpointing)
        last_B = batch.mask_BT.long().sum(-1) - 1
        h_BH = h_BTH[torch.arange(len(last_B), device=last_B.device), last_B]
        return self.head(h_BH)

    def score_rows(self, rows: Sequence[Sequence[int]], max_tokens: int = 16384) -> Tensor:
        """Scores of many rows without gradient, [B] on the CPU, in the order given."""
        out_B = torch.zeros(len(rows))
        self.module.eval()
        with torch.no_grad():
            for indices, counts in shared(micro_batches([len(r) for r in rows], max_tokens)):
                batch = TokenBatch.from_rows(
                    [Row(rows[i], [False] * len(rows[i])) for i in indices], self.encoder.pad_id, self.device
                )
                scores_b = self.last_token_scores(batch).cpu()
                if counts:
                    out_B[indices] = scores_b
        return summed(out_B)

    def values(self, batch: TokenBatch) -> Tensor:
        """Head at the states before each target token, [N], float32."""
        h_NH = batch.select(hidden_states(self.module, batch, self.gradient_checkpointing))
        return self.head(h_NH)

    def save(self, folder: Path) -> None:
        """Write a folder that transformers loads."""
        folders.save(self.module, self.encoder.tokenizer, folder)
