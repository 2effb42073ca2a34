"""Pairwise judgements: every pair of a task in both orders, as a soft preference."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from alignkit.records import Candidate, Evidence, Judgement, Pairwise, Task, content_id
from alignkit_plugins.reward_ai.answers import Answer, Question, bounded
from alignkit_plugins.reward_ai.asking import Asker, Replies
from alignkit_plugins.reward_ai.kinship import warn_of_kinship
from alignkit_plugins.reward_ai.tally import Tally

logger = logging.getLogger("alignkit")

# Probabilities are kept to multiples of 2^-40: then p and 1 - p are both exact, and swapping the sides gives 1 - p.
GRID = 2.0**40


class _Pair(NamedTuple):
    task: Task
    a: Candidate
    b: Candidate
    principle: str
    given: Question
    swapped: Question


class PairwiseSource:
    """Satisfies `Annotates` and `ReportsAnnotation`."""

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self._figures: dict[str, Any] = {}

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """One judgement for each pair of a task's candidates.

        Raises Paused when the budget is used up and Fault when too many fail; what was answered is in the cache.
        """
        warn_about(self.asker, tasks)
        pairs = [self._pair(task, a, b) for task in tasks for a, b in combinations(task.candidates, 2)]
        questions = [q for pair in pairs if not _equal(pair) for q in (pair.given, pair.swapped)]
        replies = self.asker.ask(questions, progress=True)
        tally = Tally()
        judgements = [self._judgement(pair, replies.by_key, tally) for pair in pairs]
        self._figures = figures_of(self.asker, tally, replies)
        self.asker.check_failures(tally.status, tally.total)
        tally.warn(self.asker.annotator.id)
        return iter(judgements)

    def annotation_figures(self) -> Mapping[str, Any]:
        """Counts of the last `annotate`."""
        return self._figures

    def _pair(self, task: Task, a: Candidate, b: Candidate) -> _Pair:
        principle = self.asker.principle(task.id, a.id, b.id)
        return _Pair(
            task, a, b, principle, self._question(task, principle, a, b), self._question(task, principle, b, a)
        )

    def _question(self, task: Task, principle: str, first: Candidate, second: Candidate) -> Question:
        names = [label.strip() for label in self.asker.judge.labels]
        shown = {"a": first.completion, "b": second.completion, "first": names[0], "second": names[1]}
        return self.asker.question(task.prompt, principle, **shown)

    def _judgement(self, pair: _Pair, answers: Mapping[str, Answer], tally: Tally) -> Judgement:
        evidence = Evidence(principle=pair.principle, template=self.asker.template.revision)
        payload: Pairwise | None = None
        status = "ok"
        if _equal(pair):
            tally.equal_texts += 1
            payload = Pairwise(a=pair.a.id, b=pair.b.id, p_a=0.5)
            evidence = evidence.model_copy(update={"text": "the same text twice: not asked"})
        else:
            given, swapped = answers[pair.given.key], answers[pair.swapped.key]
            text = given.text if given.text == swapped.text else f"{given.text}\n---\n{swapped.text}".strip("\n")
            status = next((x.status for x in (given, swapped) if x.status != "ok"), "ok")
            if status == "ok":
                evidence, payload = _preference(pair, given, swapped, evidence)
            evidence = evidence.model_copy(update={"text": bounded(text)})
        judgement = Judgement(
            id=content_id("ai", self.asker.identity, pair.task.id, pair.a.id, pair.b.id),
            task_id=pair.task.id,
            annotator=self.asker.annotator,
            payload=payload,
            presented_order=(pair.a.id, pair.b.id),
            status=status,
            evidence=evidence,
        )
        tally.add(judgement)
        return judgement


def _equal(pair: _Pair) -> bool:
    """Both orders are the same question then, and their average is 0.5 whatever the judge says."""
    return pair.a.completion == pair.b.completion


def _preference(pair: _Pair, given: Answer, swapped: Answer, evidence: Evidence) -> tuple[Evidence, Pairwise]:
    # The first label means the answer shown first: in the swapped order that is b.
    half = (given.shares[0] - swapped.shares[0]) / 2
    p_a = 0.5 + round(half * GRID) / GRID
    masses = [x.mass for x in (given, swapped) if x.mass is not None]
    update = {
        "p_given": given.shares[0],
        "p_swapped": 1 - swapped.shares[0],
        "label_mass": min(masses) if masses else None,
    }
    return evidence.model_copy(update=update), Pairwise(a=pair.a.id, b=pair.b.id, p_a=p_a)


def warn_about(asker: Asker, tasks: Sequence[Task]) -> None:
    """What speaks against this judge for these tasks before it is asked."""
    if any(task.overlap > 1 for task in tasks):
        logger.warning("%s: overlap is ignored, a judge answers each task once", asker.annotator.id)
    revisions = {candidate.policy_revision for task in tasks for candidate in task.candidates}
    warn_of_kinship(asker.judge, asker.config.model, revisions, asker.context, asker.annotator.id)


def figures_of(asker: Asker, tally: Tally, replies: Replies) -> dict[str, Any]:
    """Figures of one call of `annotate`."""
    figures = tally.figures()
    figures |= {"questions": len(replies.by_key), "from_cache": len(replies.by_key) - replies.asked}
    if any(replies.spent):
        figures |= replies.spent._asdict()
        if asker.config.prices is not None:
            figures["cost"] = asker.judge.cost(replies.spent)
    return figures
