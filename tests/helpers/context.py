"""A step context without a run, and small stand-ins for the slots of the loop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.context import RunInfo, StepContext
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.ops import choose_ops
from alignkit.recipe import ComponentSpec, Recipe, StepSpec
from alignkit.records import FinishReason, Prompt


class Rows:
    """A tracker that keeps every row of metrics."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """Nothing to prepare."""

    def log(self, step_id: str, index: int, metrics: Any) -> None:
        """Keep the row."""
        self.rows.append((index, dict(metrics)))

    def close(self) -> None:
        """Nothing to close."""


def make_context(folder: Path = Path(), seed: int = 0, manager: PluginManager | None = None) -> StepContext:
    """A context on the CPU with eager ops, no references and one tracker of type `Rows`."""
    manager = manager or PluginManager()
    spec = ComponentSpec(name="causal_lm", path="none")

    def no_reference(reference: str) -> Path:
        raise UserError(f"{reference} has no meaning here")

    return StepContext(
        manager=manager,
        recipe=Recipe(name="test", policy=spec, steps=(StepSpec(id="one", step="train"),)),
        run=RunInfo("test", folder, seed, 1, {}),
        device=torch.device("cpu"),
        ops=choose_ops(manager, "eager", torch.device("cpu")),
        resolve_reference=no_reference,
        seed=seed,
        step_id="one",
        folder=folder,
        trackers=(Rows(),),
    )


class TextScores:
    """A reward source made of a function of the completion's text."""

    def __init__(self, function: Callable[[str], float]) -> None:
        self.function = function

    def score(self, rollout: Rollout) -> Tensor:
        """The function of each text, [B]."""
        return torch.tensor([self.function(t) for t in rollout.texts])


def make_rollout(
    policy: Any, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], temperature: float = 1.0
) -> Rollout:
    """A rollout with given completions; prompts with one text share a group."""
    records = tuple(Prompt(prompt=p) for p in prompts)
    numbers: dict[str, int] = {}
    finish: list[FinishReason] = ["stop" if c[-1] in policy.stop_ids else "length" for c in completion_ids]
    return Rollout(
        prompts=records,
        prompt_ids=tuple(tuple(policy.encode_prompt(p)) for p in prompts),
        completion_ids=tuple(tuple(c) for c in completion_ids),
        texts=tuple(policy.decode(c) for c in completion_ids),
        finish=tuple(finish),
        group_B=torch.tensor([numbers.setdefault(r.id, len(numbers)) for r in records]),
        temperature=temperature,
        tokenizer_id=policy.tokenizer_id,
    )
