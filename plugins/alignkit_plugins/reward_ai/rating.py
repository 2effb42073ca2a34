"""Ratings by expected score: of candidates (judgements) and of completions (direct RLAIF).

The score of an answer is sum_i i P(i) over the steps of the scale, brought to [-1, 1] for the alignment loop: the judge
takes the reward model's place (Lee et al. 2023, direct RLAIF, arXiv 2309.00267).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import Fault
from alignkit.records import Candidate, Content, Evidence, Judgement, Rating, Task, content_id
from alignkit_plugins.reward_ai.answers import Answer, Question, bounded
from alignkit_plugins.reward_ai.asking import Asker
from alignkit_plugins.reward_ai.source import figures_of, logger, warn_about
from alignkit_plugins.reward_ai.tally import Tally


class _Rated(NamedTuple):
    task: Task
    candidate: Candidate
    principle: str
    question: Question


class RatingSource:
    """Satisfies `Annotates`, `Scores`, `ReportsAnnotation` and `ReportsFigures`."""

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self.low, self.high = asker.config.scale
        self._annotation: dict[str, Any] = {}
        self._figures: dict[str, float] = {}
        self._warned = False

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """One rating of each candidate. Raises as `PairwiseSource.annotate` does."""
        warn_about(self.asker, tasks)
        rated = [self._rated(task, candidate) for task in tasks for candidate in task.candidates]
        replies = self.asker.ask([r.question for r in rated], progress=True)
        tally = Tally()
        judgements = [self._judgement(r, replies.by_key[r.question.key], tally) for r in rated]
        self._annotation = figures_of(self.asker, tally, replies)
        self.asker.check_failures(tally.status, tally.total)
        tally.warn(self.asker.annotator.id)
        return iter(judgements)

    def annotation_figures(self) -> Mapping[str, Any]:
        """Counts of the last `annotate`."""
        return self._annotation

    def score(self, rollout: Rollout) -> Tensor:
        """Expected score of each completion, [B]: -1 for the lowest rating, 1 for the highest.

        Raises Fault if one cannot be scored: no number would be an honest one.
        """
        self._warn_of_tokenizer(rollout)
        questions = [
            self._question(prompt.prompt, self.asker.principle(prompt.id), text)
            for prompt, text in zip(rollout.prompts, rollout.texts, strict=True)
        ]
        # A local judge is asked as fast as an answer is looked up.
        replies = self.asker.ask(questions, use_cache=self.asker.config.judge == "openai")
        answers = [replies.by_key[q.key] for q in questions]
        failures = Counter(a.status for a in answers if a.status != "ok")
        if failures:
            named = ", ".join(f"{status} {n}" for status, n in sorted(failures.items()))
            text = next(a.text for a in answers if a.status != "ok")
            raise Fault(
                f"the judge did not score {failures.total()} of {len(answers)} completions ({named}), "
                f"first: {bounded(text, 300)!r}",
                where=self.asker.annotator.id,
                hint="a completion without a score cannot be trained on; run again, or look at template and judge",
            )
        masses = [a.mass for a in answers if a.mass is not None]
        self._figures = {"reward/label_mass": sum(masses) / len(masses)} if masses else {}
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return torch.tensor([(self._expected(a) - middle) / half for a in answers], dtype=torch.float32)

    def figures(self) -> Mapping[str, float]:
        """`reward/label_mass` of the last `score`: how much probability was on the labels."""
        return self._figures

    def _warn_of_tokenizer(self, rollout: Rollout) -> None:
        same = rollout.tokenizer_id and rollout.tokenizer_id == self.asker.judge.tokenizer_id
        if same and not self._warned:
            logger.warning(
                "%s: judge and policy share a tokenizer and seem to be of one family", self.asker.annotator.id
            )
        self._warned = True

    def _expected(self, answer: Answer) -> float:
        return sum(i * p for i, p in zip(range(self.low, self.high + 1), answer.shares, strict=True))

    def _question(self, prompt: Content, principle: str, text: str) -> Question:
        return self.asker.question(prompt, principle, answer=text, low=self.low, high=self.high)

    def _rated(self, task: Task, candidate: Candidate) -> _Rated:
        # By the task: ratings of its candidates are compared.
        principle = self.asker.principle(task.id)
        return _Rated(task, candidate, principle, self._question(task.prompt, principle, candidate.completion))

    def _judgement(self, rated: _Rated, answer: Answer, tally: Tally) -> Judgement:
        payload = None
        if answer.status == "ok":
            value = min(max(self._expected(answer), self.low), self.high)
            payload = Rating(candidate=rated.candidate.id, value=value, low=self.low, high=self.high)
        judgement = Judgement(
            id=content_id("ai", self.asker.identity, rated.task.id, rated.candidate.id),
            task_id=rated.task.id,
            annotator=self.asker.annotator,
            payload=payload,
            presented_order=(rated.candidate.id,),
            status=answer.status,
            evidence=Evidence(
                label_mass=answer.mass,
                principle=rated.principle,
                template=self.asker.template.revision,
                text=bounded(answer.text),
            ),
        )
        tally.add(judgement)
        return judgement
