"""Simulated annotators choose with the documented probabilities, whatever the order of the tasks."""

import logging
import math
from typing import Any

import pytest
from scipy.stats import chisquare

from alignkit.records import Candidate, Judgement, Ranking, Sampling, Task
from alignkit_plugins.reward_simulated.plugin import SimulatedConfig
from alignkit_plugins.reward_simulated.source import SimulatedAnnotators
from helpers.context import TextScores

UTILITY = {"bad": -0.4, "fair": 0.3, "good": 1.1}


def task(number: int, texts: tuple[str, ...], overlap: int = 1) -> Task:
    candidates = tuple(
        Candidate(
            id=f"t{number}-{i}",
            prompt_id="p",
            prompt="the film",
            completion=text,
            policy_revision="r",
            sampling=Sampling(),
            seed=0,
            prompt_ids=(1,),
            completion_ids=(7,),
            finish_reason="stop",
        )
        for i, text in enumerate(texts)
    )
    return Task(id=f"t{number}", prompt="the film", candidates=candidates, overlap=overlap)


def annotators(seed: int = 0, **options: Any) -> SimulatedAnnotators:
    config = SimulatedConfig(**{"noise": 1.0, "bias": 0.0, "skip_rate": 0.0, **options})
    return SimulatedAnnotators(config, TextScores(lambda t: UTILITY.get(t.strip(), 0.0)), seed)


def order(judgement: Judgement) -> list[str]:
    assert isinstance(judgement.payload, Ranking)
    return [g[0] for g in judgement.payload.groups]


@pytest.mark.parametrize(("a", "b"), [("good", "bad"), ("fair", "bad"), ("good", "fair")])
def test_with_noise_one_pairs_are_chosen_by_bradley_terry(a: str, b: str) -> None:
    n = 6000
    tasks = [task(i, (a, b) if i % 2 else (b, a)) for i in range(n)]
    wins = 0
    for one, judgement in zip(tasks, annotators().annotate(tasks), strict=True):
        best = order(judgement)[0]
        wins += next(c.completion for c in one.candidates if c.id == best) == a
    p = 1 / (1 + math.exp(-(UTILITY[a] - UTILITY[b])))
    assert wins / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))


def test_rankings_of_three_follow_luces_choice_axiom() -> None:
    n = 6000
    texts = ("bad", "fair", "good")
    counts: dict[tuple[str, ...], int] = {}
    tasks = [task(i, texts) for i in range(n)]
    for judgement in annotators(seed=1).annotate(tasks):
        names = tuple(texts[int(i.rsplit("-", 1)[1])] for i in order(judgement))
        counts[names] = counts.get(names, 0) + 1
    weight = {t: math.exp(UTILITY[t]) for t in texts}
    observed, expected = [], []
    for first in texts:
        for second in (t for t in texts if t != first):
            third = next(t for t in texts if t not in (first, second))
            p = weight[first] / sum(weight.values()) * weight[second] / (weight[second] + weight[third])
            observed.append(counts.get((first, second, third), 0))
            expected.append(p * n)
    assert sum(observed) == n
    assert chisquare(observed, expected).pvalue > 0.001


def test_without_noise_and_bias_the_ranking_is_the_true_one() -> None:
    judgement = next(iter(annotators(noise=0.0).annotate([task(0, ("fair", "bad", "good"))])))
    assert order(judgement) == ["t0-2", "t0-0", "t0-1"]
    assert sorted(judgement.presented_order) == ["t0-0", "t0-1", "t0-2"]
    assert judgement.annotator.kind == "program"


def test_judgements_do_not_depend_on_which_tasks_came_before() -> None:
    tasks = [task(i, ("good", "fair", "bad"), overlap=2) for i in range(40)]
    options = {"bias": 0.5, "skip_rate": 0.2, "annotators": 4}
    straight = {j.id: j for j in annotators(**options).annotate(tasks)}
    turned = {j.id: j for j in annotators(**options).annotate(tasks[::-1])}
    alone = {j.id: j for t in tasks for j in annotators(**options).annotate([t])}
    assert len(straight) == 80
    assert straight == turned == alone
    other = {j.id: j for j in annotators(1, **options).annotate(tasks)}
    assert {i: j for i, j in other.items() if i in straight} != straight


def test_overlap_asks_that_many_different_annotators_and_shares_the_work() -> None:
    tasks = [task(i, ("good", "bad"), overlap=2) for i in range(300)]
    found = list(annotators(annotators=3).annotate(tasks))
    by_task: dict[str, set[str]] = {}
    for judgement in found:
        by_task.setdefault(judgement.task_id, set()).add(judgement.annotator.id)
    assert len(found) == 600
    assert all(len(who) == 2 for who in by_task.values())
    share = [sum(j.annotator.id == f"simulated-{n}" for j in found) / 600 for n in range(3)]
    assert share == [pytest.approx(1 / 3, abs=0.07)] * 3


def test_more_overlap_than_annotators_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "alignkit"):
        found = list(annotators(annotators=2).annotate([task(0, ("good", "bad"), overlap=5)]))
    assert len(found) == 2
    assert "overlap 5 was asked for, but there are only 2" in caplog.text


def test_skipped_tasks_have_no_payload_and_their_share_is_right() -> None:
    tasks = [task(i, ("good", "bad")) for i in range(2000)]
    found = list(annotators(skip_rate=0.1).annotate(tasks))
    skipped = [j for j in found if j.status == "skipped"]
    assert all(j.payload is None for j in skipped)
    assert len(skipped) / 2000 == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2000))


def test_bias_is_a_liking_for_length() -> None:
    source = annotators(noise=0.0, bias=1.0, annotators=1, seed=3)
    liking = source.length_bias[0]
    judgement = next(iter(source.annotate([task(0, ("x", "x" * 50))])))  # both have utility 0
    assert order(judgement)[0] == ("t0-1" if liking > 0 else "t0-0")
