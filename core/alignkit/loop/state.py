"""What one iteration of the alignment loop leaves to the next, apart from models, stage and prompts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignkit.batches import Rollout
from alignkit.checkpoints import module_state, prefixed, restore_module, under
from alignkit.protocols import State
from alignkit.records import Prompt


class ScoredBatch(NamedTuple):
    """Completions that were drawn and scored and that nothing was learned from yet.

    `scores_B` are final (normalised, clipped, penalised), `baseline_B` those of each prompt's greedy completion, for an
    estimator that needs them. `figures` is what was measured so far.
    """

    rollout: Rollout
    scores_B: Tensor
    baseline_B: Tensor | None
    figures: dict[str, float]

    def state(self) -> dict[str, Any]:
        """Everything, so that nothing is sampled or scored twice."""
        return {
            "scores_B": self.scores_B,
            "baseline_B": self.baseline_B,
            "figures": json_figures(self.figures),
            **prefixed("rollout", rollout_state(self.rollout)),
        }

    @classmethod
    def of(cls, state: State) -> "ScoredBatch":
        """The batch that gave `state`."""
        data: dict[str, Any] = dict(state)
        figures = json.loads(data["figures"])
        return cls(rollout_of(under("rollout", data)), data["scores_B"], data["baseline_B"], figures)


@dataclass
class Progress:
    """Iterations done, the first and the last measurement, and the batch of the iteration that has begun."""

    iteration: int = 0
    start: dict[str, float] = field(default_factory=dict)
    end: dict[str, float] = field(default_factory=dict)
    batch: ScoredBatch | None = None

    def state(self) -> dict[str, Any]:
        """Flat; the batch is part of it while there is one."""
        found = {"iteration": self.iteration, "start": json_figures(self.start), "end": json_figures(self.end)}
        return found | ({} if self.batch is None else prefixed("batch", self.batch.state()))

    def restore(self, state: State) -> None:
        """Take over a `state()`."""
        data: dict[str, Any] = dict(state)
        batch = under("batch", data)
        self.iteration, self.batch = data["iteration"], ScoredBatch.of(batch) if batch else None
        self.start, self.end = json.loads(data["start"]), json.loads(data["end"])


class Weights:
    """What a module has learned, as something `Resumable`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def state(self) -> dict[str, Any]:
        """Trainable parameters and buffers."""
        return dict(module_state(self._module))

    def restore(self, state: State) -> None:
        """Put them back."""
        restore_module(self._module, dict(state))


def json_figures(figures: Mapping[str, float]) -> str:
    """Figures as text from which every number comes back as it was; numbers of other libraries as Python's."""
    return json.dumps({name: value if isinstance(value, int) else float(value) for name, value in figures.items()})


def rollout_state(rollout: Rollout) -> dict[str, Any]:
    """A rollout as tensors and texts."""
    return {
        "prompts": json.dumps([prompt.model_dump(mode="json") for prompt in rollout.prompts]),
        "texts": json.dumps(rollout.texts),
        "finish": json.dumps(rollout.finish),
        "temperature": rollout.temperature,
        "tokenizer_id": rollout.tokenizer_id,
        "group_B": rollout.group_B,
        "sampler_logp_BT": rollout.sampler_logp_BT,
        "kept_BTK": rollout.kept_BTK,
        **prefixed("prompt_ids", _ragged(rollout.prompt_ids)),
        **prefixed("completion_ids", _ragged(rollout.completion_ids)),
    }


def rollout_of(state: State) -> Rollout:
    """The rollout that gave `state`."""
    data: dict[str, Any] = dict(state)
    return Rollout(
        prompts=tuple(Prompt.model_validate(prompt) for prompt in json.loads(data["prompts"])),
        prompt_ids=_rows(under("prompt_ids", data)),
        completion_ids=_rows(under("completion_ids", data)),
        texts=tuple(json.loads(data["texts"])),
        finish=tuple(json.loads(data["finish"])),
        group_B=data["group_B"],
        temperature=data["temperature"],
        tokenizer_id=data["tokenizer_id"],
        sampler_logp_BT=data["sampler_logp_BT"],
        kept_BTK=data["kept_BTK"],
    )


def _ragged(rows: Iterable[Sequence[int]]) -> dict[str, Tensor]:
    """Rows of unequal length as their lengths and all of their ids in a line."""
    rows = [list(row) for row in rows]
    return {
        "lengths": torch.tensor([len(row) for row in rows], dtype=torch.int64),
        "ids": torch.tensor([i for row in rows for i in row], dtype=torch.int64),
    }


def _rows(state: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    parts = state["ids"].split(state["lengths"].tolist())
    return tuple(tuple(part.tolist()) for part in parts)
