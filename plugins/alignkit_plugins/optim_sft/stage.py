"""Supervised fine-tuning: maximum likelihood of the completion, end token included, given the prompt."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignkit.batches import Row
from alignkit.context import BuildContext, StepContext
from alignkit.errors import UserError
from alignkit.modeling.encoded import CompletionRows, encode_records
from alignkit.modeling.sharding import save_model
from alignkit.preflight import DataView, Finding, optimizer_findings, row_findings
from alignkit.protocols import FitTask, Policy
from alignkit.records import Demonstration
from alignkit.training.tokens import fit_tokens
from alignkit_plugins.optim_sft.config import SFTConfig


class Encoded(NamedTuple):
    """Rows and what became of those that were too long."""

    rows: Sequence[Row]
    dropped: int
    cut: int


class SFT:
    """Satisfies `alignkit.protocols.DataStage`."""

    reads = "demonstrations"

    def __init__(self, config: SFTConfig) -> None:
        self.config = config

    def shares_work(self, context: BuildContext) -> bool:
        """Passes are divided."""
        return True

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """The options of the optimizer, before it runs."""
        return optimizer_findings(self.config)

    def examine_data(self, view: DataView) -> Iterable[Finding]:
        """Rows as the model reads them."""
        return row_findings(view, self.config.max_length, self.config.too_long)

    def fit(self, task: FitTask) -> dict[str, Any]:
        """Train and save; the summary holds losses in nats per completion token."""
        policy = task.policy()
        folder = task.context.run.folder
        data = encode(policy, task.data, self.config, str(task.data.path), folder)
        if not data.rows:
            raise UserError(
                f"all {data.dropped} rows are longer than max_length {self.config.max_length}",
                where=task.data.path,
                hint="raise max_length",
            )
        held = task.eval_data
        heldout = encode(policy, held, self.config, str(held.path), folder) if held else None
        rows = pack(data.rows, self.config.max_length) if self.config.packing else data.rows
        result = fit_tokens(policy, rows, heldout.rows if heldout else [], self.config, task.context)
        save_model(policy, task.context.folder / "model")
        counts = {"demonstrations": len(task.data), "dropped_too_long": data.dropped, "cut_too_long": data.cut}
        if heldout is not None:
            counts |= {"heldout_dropped_too_long": heldout.dropped, "heldout_cut_too_long": heldout.cut}
        return {**counts, **result}


def encode(
    policy: Policy, records: Iterable[Demonstration], config: SFTConfig, name: str, run_folder: Path | None = None
) -> Encoded:
    """Demonstrations as rows. A row cut so that no completion token is left is dropped and counted."""

    def pieces(record: Demonstration) -> tuple[list[int], list[int]]:
        return policy.encode_prompt(record.prompt), policy.encode_completion(record.prompt, record.completion)

    encoded = encode_records(records, pieces, 2, getattr(policy, "encoding_id", None), run_folder)
    start_R, target_R, end_R = encoded.starts[:-1:2], encoded.starts[1::2], encoded.starts[2::2]
    long_R = end_R - start_R > config.max_length
    if config.too_long == "error" and long_R.any():
        number = int(long_R.argmax())
        raise UserError(
            f"{end_R[number] - start_R[number]} tokens are more than max_length {config.max_length}",
            where=f"{name}:{number + 1}",
            hint="raise max_length, or set too_long: drop or truncate",
        )
    end_R = np.minimum(end_R, start_R + config.max_length)
    cut_R = long_R & (config.too_long == "truncate") & (target_R < end_R)
    keep_R = ~long_R | cut_R
    rows = CompletionRows(encoded.ids, start_R[keep_R], target_R[keep_R], end_R[keep_R])
    return Encoded(rows, int((~keep_R).sum()), int(cut_R.sum()))


def pack(rows: Sequence[Row], length: int) -> list[Row]:
    """First-fit decreasing: several rows in one, positions restarting at 0 for each."""
    bins: list[list[Row]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda r: len(r.ids), reverse=True):
        place = next((i for i, free in enumerate(room) if free >= len(row.ids)), None)
        if place is None:
            bins.append([row])
            room.append(length - len(row.ids))
        else:
            bins[place].append(row)
            room[place] -= len(row.ids)
            if room[place] < 2:  # nothing fits a full bin; taking it out keeps the search short
                room[place] = 0
    return [_join(members) for members in bins]


def _join(rows: Sequence[Row]) -> Row:
    ids: list[int] = []
    target: list[bool] = []
    positions: list[int] = []
    for row in rows:
        ids += row.ids
        target += row.target
        positions += range(len(row.ids))
    return Row(ids, target, positions)
