"""Which tasks go to the second source, and what happens while it waits."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from alignkit import Paused, UserError
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve
from alignkit.records import Annotator, Evidence, Judgement, Pairwise, Rating, Task
from alignkit_plugins.reward_mixed.source import MixedSource
from helpers.judging import StubServer, completion, make_task, step_context

AI = Annotator(id="ai-x", kind="model")
PERSON = Annotator(id="ann", kind="human")


class Fixed:
    """Says what it was given: (p_given, p_swapped) for each pair of each task, or a status."""

    def __init__(self, said: dict[str, list[Any]]) -> None:
        self.said = said

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """Pairs are numbered, their candidates are not looked at."""
        for task in tasks:
            a, b = task.candidates[:2]
            for n, said in enumerate(self.said[task.prompt]):
                id = f"{task.prompt}-{n}"
                if isinstance(said, str):
                    yield Judgement(id=id, task_id=task.id, annotator=AI, status=said)
                    continue
                payload = Pairwise(a=a.id, b=b.id, p_a=sum(said) / 2)
                evidence = Evidence(p_given=said[0], p_swapped=said[1])
                yield Judgement(id=id, task_id=task.id, annotator=AI, payload=payload, evidence=evidence)


class People:
    """Remembers what it was asked; waits until `ready`."""

    def __init__(self, ready: bool = True) -> None:
        self.ready = ready
        self.asked: list[list[str]] = []

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """One preference for the first candidate of each task."""
        self.asked.append([task.prompt for task in tasks])
        if not self.ready:
            raise Paused("nobody has answered")
        for task in tasks:
            payload = Pairwise(a=task.candidates[0].id, b=task.candidates[1].id, p_a=1.0)
            yield Judgement(id=f"p-{task.id}", task_id=task.id, annotator=PERSON, payload=payload)


SAID: dict[str, list[Any]] = {
    "sure": [(0.9, 0.8)],
    "sure of b": [(0.1, 0.2)],
    "on the edge": [(0.625, 0.625)],  # |2p - 1| = 0.25 exactly: not below it
    "unsure": [(0.62, 0.62)],
    "orders": [(0.99, 0.4)],
    "failed": ["parse_error"],
    "half failed": [(0.9, 0.9), "api_error"],
    "mean is sure": [(0.5, 0.5), (0.9, 0.9)],
    "two of three orders": [(0.99, 0.45), (0.99, 0.4), (0.9, 0.9)],
    "one of three orders": [(0.99, 0.45), (0.9, 0.9), (0.9, 0.9)],
    "nothing": [],
}
SURE = ["sure", "sure of b", "on the edge", "mean is sure", "one of three orders"]


def test_tasks_go_to_people_exactly_where_the_first_is_unsure_or_failed() -> None:
    tasks = [make_task(prompt, "one", "two") for prompt in SAID]
    people = People()
    mixed = MixedSource(Fixed(SAID), people, unsure=0.25, disagreement=0.5)
    found = list(mixed.annotate(tasks))
    assert people.asked == [[prompt for prompt in SAID if prompt not in SURE]]
    prompts = {task.id: task.prompt for task in tasks}
    by_ai = [prompts[j.task_id] for j in found if j.annotator == AI]
    assert by_ai == [prompt for prompt in SAID if prompt in SURE for _ in SAID[prompt]]
    assert {prompts[j.task_id] for j in found if j.annotator == PERSON} == set(SAID) - set(SURE)
    figures = mixed.annotation_figures()
    assert figures["sure"] == 5
    assert figures["asked_again"] == {"failed": 3, "unsure": 1, "orders_disagree": 2}


def test_nobody_is_asked_where_the_first_is_always_sure() -> None:
    people = People(ready=False)
    mixed = MixedSource(Fixed(SAID), people, 0.25, 0.5)
    assert len(list(mixed.annotate([make_task(p, "one", "two") for p in SURE]))) == 8
    assert people.asked == []


def test_ratings_do_not_tell_how_sure_a_judge_is() -> None:
    task = make_task("p", "one", "two")

    class Rates:
        def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
            payload = Rating(candidate=task.candidates[0].id, value=3)
            yield Judgement(id="x", task_id=task.id, annotator=AI, payload=payload)

    with pytest.raises(UserError, match="pairwise judgements only"):
        list(MixedSource(Rates(), People(), 0.2, 0.5).annotate([task]))


def test_a_first_that_rates_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    rater = {"name": "ai", "judge": "openai", "model": "m", "base_url": "http://localhost:1/v1"}
    spec = ComponentSpec(name="mixed", first={**rater, "form": "rating", "scale": [1, 9]}, then="human")
    context = step_context(tmp_path)
    with pytest.raises(UserError, match="pairwise judgements only"):
        context.build("reward_source", spec)
    with pytest.raises(UserError, match="pairwise judgements only"):
        resolve(context.manager, "reward_source", spec, allowed=frozenset())
    with pytest.raises(UserError, match="pairwise judgements only"):  # people rank unless they are told otherwise
        context.build("reward_source", ComponentSpec(name="mixed", first="human", then="human"))
    resolve(context.manager, "reward_source", ComponentSpec(name="mixed", first=rater, then="human"), None, ())


def test_equal_texts_do_not_make_a_task_unsure(tmp_path: Path) -> None:
    """The first of three pairs is of equal texts: the mean of the others decides."""
    tasks = [make_task(prompt, "same", "same", "other") for prompt in ("sure", "unsure", "orders")]
    twins = make_task("twins", "same", "same")
    others = {"sure": (0.7, 0.7), "unsure": (0.64, 0.64), "orders": (0.99, 0.45)}

    class First:
        def annotate(self, asked: Sequence[Task]) -> Iterator[Judgement]:
            for task in asked:
                for n, (a, b) in enumerate(combinations(task.candidates, 2)):
                    said = others[str(task.prompt)] if n else (0.5, 0.5)
                    evidence = Evidence(p_given=said[0], p_swapped=said[1]) if n == 1 else Evidence()
                    payload = Pairwise(a=a.id, b=b.id, p_a=sum(said) / 2)
                    yield Judgement(
                        id=f"{task.prompt}{n}", task_id=task.id, annotator=AI, payload=payload, evidence=evidence
                    )

    people = People()
    # |2p - 1| is 0.4, 0.28 and 0.44; with the equal texts in the mean it would be 0.27, 0.19 and 0.29.
    mixed = MixedSource(First(), people, unsure=0.3, disagreement=0.5)
    found = list(mixed.annotate([*tasks, twins]))
    assert people.asked == [["unsure", "orders"]]
    assert mixed.annotation_figures()["asked_again"] == {"failed": 0, "unsure": 1, "orders_disagree": 1}
    assert [j.payload.p_a for j in found if j.task_id == twins.id and isinstance(j.payload, Pairwise)] == [0.5]


def test_a_source_without_judgements_is_refused(tmp_path: Path) -> None:
    spec = ComponentSpec(name="mixed", first={"name": "length", "coef": 1.0}, then="human")
    with pytest.raises(UserError, match="gives scores, not judgements"):
        step_context(tmp_path).build("reward_source", spec)


@pytest.mark.concurrent
def test_pause_and_resume_with_a_real_judge_and_people(tmp_path: Path) -> None:
    """The AI answers once; the people's file appears between the two runs."""

    def reply(prompt: str, number: int) -> dict[str, Any]:
        sure = "obvious" in prompt
        good_first = prompt.find("good") < prompt.find("bad")
        p = (0.97 if good_first else 0.03) if sure else 0.5
        return completion(top=[("A", math.log(p)), ("B", math.log(1 - p))])

    tasks = [make_task(f"{kind} {n}", "good", "bad") for n in range(3) for kind in ("obvious", "murky")]
    judgements = tmp_path / "judgements"
    with StubServer(reply) as server:
        first = {"name": "ai", "judge": "openai", "model": "m", "base_url": server.url}
        spec = ComponentSpec(name="mixed", first=first, then="human")
        with pytest.raises(Paused):
            list(step_context(tmp_path).build("reward_source", spec).annotate(tasks))
        assert len(server.prompts) == 12
        asked = [task for task in tasks if "murky" in str(task.prompt)]
        judgements.mkdir(exist_ok=True)
        rows = []
        for task in asked:
            payload = {"type": "ranking", "groups": [[c.id] for c in task.candidates]}
            rows.append(
                {"id": f"p-{task.id}", "task_id": task.id, "annotator": PERSON.model_dump(), "payload": payload}
            )
        (judgements / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = list(step_context(tmp_path).build("reward_source", spec).annotate(tasks))
        assert len(server.prompts) == 12
    people = {j.task_id for j in found if j.annotator.kind == "human"}
    assert people == {task.id for task in asked}
    machine = [j for j in found if j.annotator.kind == "model"]
    assert {j.task_id for j in machine} == {task.id for task in tasks} - people
    assert all(j.payload.p_a == pytest.approx(0.97, abs=1e-9) for j in machine)
