"""Pretraining: texts, each opened by the tokenizer's start token and closed by the end token, in equal blocks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.batches import Row
from alignkit.context import BuildContext, StepContext
from alignkit.modeling.encoded import CompletionRows, encode_records
from alignkit.modeling.sharding import save_model
from alignkit.preflight import DataView, Finding, block_findings, optimizer_findings
from alignkit.protocols import FitTask, Policy
from alignkit.records import Text
from alignkit.training.tokens import fit_tokens
from alignkit_plugins.optim_pretrain.config import PretrainConfig


class Pretrain:
    """Satisfies `alignkit.protocols.DataStage`."""

    reads = "texts"

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def shares_work(self, context: BuildContext) -> bool:
        """Passes are divided."""
        return True

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """The options of the optimizer, before it runs."""
        return optimizer_findings(self.config)

    def examine_data(self, view: DataView) -> Iterable[Finding]:
        """Rows as the model reads them."""
        return block_findings(view, self.config.block_length)

    def fit(self, task: FitTask) -> dict[str, Any]:
        """Train and save; the summary holds losses in nats per token."""
        policy = task.policy()
        length, folder = self.config.block_length, task.context.run.folder
        rows = blocks(policy, task.data, length, folder)
        eval_rows = blocks(policy, task.eval_data, length, folder) if task.eval_data else []
        result = fit_tokens(policy, rows, eval_rows, self.config, task.context)
        save_model(policy, task.context.folder / "model")
        return {"texts": len(task.data), "blocks": len(rows), **result}


def blocks(policy: Policy, texts: Iterable[Text], length: int, run_folder: Path | None = None) -> Sequence[Row]:
    """Rows of `length` tokens (the last may be shorter); every token but the first of a row is a target.

    A single token that is left at the end has nothing before it to be learned from, and makes no row.
    """

    def pieces(record: Text) -> list[list[int]]:
        return [policy.encode_prompt(record.text) + policy.encode_completion("", "")]

    ids = encode_records(texts, pieces, 1, getattr(policy, "encoding_id", None), run_folder).ids
    start_R = np.arange(0, len(ids) - 1, length, dtype=np.int64)
    end_R = np.minimum(start_R + length, len(ids))
    whole_R = end_R - start_R > 1
    return CompletionRows(ids, start_R[whole_R], start_R[whole_R] + 1, end_R[whole_R])
