"""Scores and rankings by the compound sentiment of VADER (Hutto & Gilbert 2014).

The compound is x / sqrt(x^2 + 15) with x the sum of the valences of a text's words after the rules, so it lies in
[-1, 1]; vaderSentiment rounds it to four digits. It reads the text alone: the prompt does not count.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from typing import Literal

import torch
from alignkit.batches import Rollout
from alignkit.records import Annotator, Judgement, Ranking, Task
from torch import Tensor
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


class Vader:
    """Satisfies `Scores`, `ReportsFigures` and `Annotates` of `alignkit.protocols`."""

    def __init__(self, target: Literal["positive", "negative"]) -> None:
        self.sign = 1.0 if target == "positive" else -1.0
        self.analyzer = SentimentIntensityAnalyzer()
        self.annotator = Annotator(id=f"vader-{target}", kind="program", revision=version("vaderSentiment"))
        self.neutral = 0.0

    def score(self, rollout: Rollout) -> Tensor:
        """The compound sentiment of each completion, [B], float32; negated for the target `negative`."""
        scores = [self.score_text(text) for text in rollout.texts]
        self.neutral = scores.count(0.0) / len(scores)
        return torch.tensor(scores, dtype=torch.float32)

    def score_text(self, text: str) -> float:
        """The same of one text. 0 for a text without a word of the lexicon."""
        return self.sign * float(self.analyzer.polarity_scores(text)["compound"])

    def figures(self) -> Mapping[str, float]:
        """The share of completions with a score of exactly 0 in the last `score`."""
        return {"reward/vader_neutral": self.neutral}

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """One ranking of each task's candidates, equal scores tied.

        One, whatever the task's overlap: asked again, a lexicon says the same.
        """
        for task in tasks:
            scores = {c.id: self.score_text(c.completion) for c in task.candidates}
            best_first = sorted(scores, key=lambda id: -scores[id])
            groups = tuple(tuple(tied) for _, tied in groupby(best_first, key=lambda id: scores[id]))
            yield Judgement(
                id=f"{task.id}-{self.annotator.id}",
                task_id=task.id,
                annotator=self.annotator,
                payload=Ranking(groups=groups),
                presented_order=tuple(scores),
            )
