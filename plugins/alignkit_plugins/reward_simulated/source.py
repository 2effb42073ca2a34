"""Simulated annotators with a documented, noisy taste.

An annotator ranks candidates by `utility + bias * z(length) + noise * Gumbel`, where `bias` is a personal liking for
long or short answers and z(length) the candidate's length in characters, standardised within the task. With noise 1
and no bias a pair is chosen with the Bradley-Terry probability, sigmoid(difference of utilities) (Luce 1959; Yellott
1977).
"""

import logging
import math
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.protocols import Scores
from alignkit.records import Annotator, Candidate, Judgement, Prompt, Ranking, Task
from alignkit.seeds import derived_seed

if TYPE_CHECKING:
    from alignkit_plugins.reward_simulated.plugin import SimulatedConfig

logger = logging.getLogger("alignkit")


class SimulatedAnnotators:
    """Satisfies `Scores` (the true reward, without noise), `Annotates` (noisy rankings) and `TaskByTask`."""

    task_by_task = True

    def __init__(self, config: "SimulatedConfig", utility: Scores, seed: int) -> None:
        self.config = config
        self.utility = utility
        self.seed = seed
        generator = random.Random(derived_seed(seed, "annotators"))
        self.length_bias = [generator.gauss(0.0, config.bias) for _ in range(config.annotators)]

    def score(self, rollout: Rollout) -> Tensor:
        """The true reward of each completion, [B]."""
        return self.utility.score(rollout)

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """`task.overlap` different annotators rank the candidates of each task."""
        count = self.config.annotators
        most = max((t.overlap for t in tasks), default=0)
        if most > count:
            logger.warning("overlap %d was asked for, but there are only %d simulated annotators", most, count)
        for task in tasks:
            utilities = self.utility.score(_as_rollout(task.candidates)).tolist()
            first = derived_seed(self.seed, "first annotator", task.id) % count  # not by row: order must not matter
            for turn in range(min(task.overlap, count)):
                yield self._judge(task, utilities, (first + turn) % count)

    def _judge(self, task: Task, utilities: Sequence[float], who: int) -> Judgement:
        # A generator per task and annotator: the answer does not depend on which tasks came before.
        rng = random.Random(derived_seed(self.seed, task.id, who))
        annotator = Annotator(id=f"simulated-{who}", kind="program")
        id = f"{task.id}-{annotator.id}"
        if rng.random() < self.config.skip_rate:
            return Judgement(id=id, task_id=task.id, annotator=annotator, status="skipped")
        lengths = torch.tensor([float(len(c.completion)) for c in task.candidates])
        z = ((lengths - lengths.mean()) / (lengths.std(unbiased=False) + 1e-6)).tolist()
        felt = [
            u + self.length_bias[who] * length + self.config.noise * gumbel(rng)
            for u, length in zip(utilities, z, strict=True)
        ]
        order = sorted(range(len(felt)), key=lambda i: -felt[i])
        shown = list(range(len(felt)))
        rng.shuffle(shown)
        ids = [c.id for c in task.candidates]
        return Judgement(
            id=id,
            task_id=task.id,
            annotator=annotator,
            payload=Ranking(groups=tuple((ids[i],) for i in order)),
            presented_order=tuple(ids[i] for i in shown),
        )


def gumbel(rng: random.Random) -> float:
    """One draw of the standard Gumbel distribution: -log of a standard exponential."""
    return -math.log(max(rng.expovariate(1.0), 1e-300))


def _as_rollout(candidates: Sequence[Candidate]) -> Rollout:
    return Rollout(
        prompts=tuple(Prompt(prompt=c.prompt, id=c.prompt_id) for c in candidates),
        prompt_ids=tuple(c.prompt_ids for c in candidates),
        completion_ids=tuple(c.completion_ids for c in candidates),
        texts=tuple(c.completion for c in candidates),
        finish=tuple(c.finish_reason for c in candidates),
        group_B=torch.zeros(len(candidates), dtype=torch.long),
        temperature=candidates[0].sampling.temperature,
        tokenizer_id="",
        text_only=not all(c.completion_ids for c in candidates),
    )
