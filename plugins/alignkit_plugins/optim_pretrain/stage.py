"""Pretraining: texts, each opened by the tokenizer's start token and closed by the end token, in equal blocks."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from alignkit.batches import Row
from alignkit.context import StepContext
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

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """The options of the optimizer, before it runs."""
        return optimizer_findings(self.config)

    def examine_data(self, view: DataView) -> Iterable[Finding]:
        """Rows as the model reads them."""
        return block_findings(view, self.config.block_length)

    def fit(self, task: FitTask) -> dict[str, Any]:
        """Train and save; the summary holds losses in nats per token."""
        policy = task.policy()
        rows = blocks(policy, task.data, self.config.block_length)
        eval_rows = blocks(policy, task.eval_data, self.config.block_length) if task.eval_data else []
        result = fit_tokens(policy, rows, eval_rows, self.config, task.context)
        policy.save(task.context.folder / "model")
        return {"texts": len(task.data), "blocks": len(rows), **result}


def blocks(policy: Policy, texts: Iterable[Text], length: int) -> list[Row]:
    """Rows of `length` tokens (the last may be shorter); every token but the first of a row is a target.

    A single token that is left at the end has nothing before it to be learned from, and makes no row.
    """
    ids: list[int] = []
    for record in texts:
        ids += policy.encode_prompt(record.text) + policy.encode_completion("", "")
    stream = np.asarray(ids, dtype=np.int32)
    rows: list[Row] = []
    for start in range(0, len(stream) - 1, length):
        block = stream[start : start + length]
        if len(block) > 1:
            rows.append(Row(block.tolist(), [False] + [True] * (len(block) - 1)))
    return rows
