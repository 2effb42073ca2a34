"""Tasks cut into questions, and judgements of questions that count for their tasks."""

from itertools import combinations
from typing import Any

import pytest

from alignkit.annotation.questions import Form, Questions
from alignkit.errors import UserError
from alignkit.feedback import preference_pairs
from alignkit.records import Annotator, Binary, Candidate, Judgement, Pairwise, Ranking, Rating, Sampling, Task


def task(id: str, count: int) -> Task:
    candidates = tuple(
        Candidate(
            id=f"{id}{n}", prompt_id="p", prompt="Q", completion=f"answer {n}", seed=0, policy_revision="r",
            sampling=Sampling(), prompt_ids=(), completion_ids=(), finish_reason="stop",
        )
        for n in range(count)
    )  # fmt: skip
    return Task(id=id, prompt="Q", candidates=candidates, overlap=2)


def judgement(id: str, task_id: str, payload: Any) -> Judgement:
    status = "ok" if payload is not None else "skipped"
    return Judgement(
        id=id, task_id=task_id, annotator=Annotator(id="ann", kind="human"), payload=payload, status=status
    )


@pytest.mark.parametrize(
    ("form", "sizes"),
    [("ranking", [4]), ("pairwise", [2] * 6), ("rating", [1] * 4), ("binary", [1] * 4), ("critique", [1] * 4)],
)
def test_how_a_task_of_four_is_asked(form: Form, sizes: list[int]) -> None:
    questions = Questions([task("x", 4)], form)
    assert [len(q.candidates) for q in questions.all] == sizes
    assert len({q.id for q in questions.all}) == len(sizes)
    assert {q.overlap for q in questions.all} == {2}
    assert [q.id for q in Questions([task("x", 4)], form).all] == [q.id for q in questions.all], "stable over runs"


def test_pairs_are_all_pairs_in_order() -> None:
    asked = [tuple(c.id for c in q.candidates) for q in Questions([task("x", 3)], "pairwise").all]
    assert asked == list(combinations(["x0", "x1", "x2"], 2))


def test_the_same_task_in_another_form_or_collection_is_another_question() -> None:
    asked = [Questions([task("x", 2)], form, place).all for form in ("ranking", "pairwise") for place in ("r1", "r2")]
    assert [len(questions) for questions in asked] == [1] * 4
    assert len({questions[0].id for questions in asked} | {"x"}) == 5


def test_too_few_candidates() -> None:
    for form in ("ranking", "pairwise"):
        with pytest.raises(UserError, match="too few for form"):
            Questions([task("x", 1)], form)


def test_the_way_back_makes_the_pairs_of_the_task() -> None:
    tasks = [task("x", 3), task("y", 3)]
    questions = Questions(tasks, "rating")
    values = {"x0": 1, "x1": 5, "x2": 3, "y0": 2, "y1": 2, "y2": 7}
    given = [
        judgement(f"j{n}", q.id, Rating(candidate=q.candidates[0].id, value=values[q.candidates[0].id]))
        for n, q in enumerate(questions.all)
    ]
    back = questions.back([*given, judgement("other", "elsewhere", None)])
    assert [j.task_id for j in back] == ["x"] * 3 + ["y"] * 3
    pairs = {(p.chosen, p.rejected) for p in preference_pairs(tasks, back) if p.group == "x"}
    assert pairs == {("answer 1", "answer 0"), ("answer 1", "answer 2"), ("answer 2", "answer 0")}
    assert len([p for p in preference_pairs(tasks, back) if p.group == "y"]) == 2, "equal ratings make no pair"


def test_what_a_judgement_answers() -> None:
    questions = Questions([task("x", 3)], "pairwise")
    first, second, third = (q.id for q in questions.all)
    of_a_question = judgement("j", second, Pairwise(a="x0", b="x2", p_a=1.0))
    assert list(questions.answered_by(of_a_question)) == [second]
    whole = judgement("j", "x", Ranking(groups=(("x0",), ("x1", "x2"))))
    assert list(questions.answered_by(whole)) == [first, second, third]
    part = judgement("j", "x", Pairwise(a="x1", b="x2", p_a=0.0))
    assert list(questions.answered_by(part)) == [third]
    assert list(questions.answered_by(judgement("j", "x", None))) == [first, second, third], "skipped as a whole"
    assert list(questions.answered_by(judgement("j", "x", Binary(candidate="x0", good=True)))) == []
    assert list(questions.answered_by(judgement("j", "elsewhere", None))) == []
