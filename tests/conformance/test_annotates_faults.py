"""For every check of reward sources that judge a mistake that it has to notice."""

import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from pydantic import Field

from alignkit import Component
from alignkit.components import Config
from alignkit.errors import Paused
from alignkit.records import Annotator, Candidate, Judgement, Pairwise, Ranking, Rating, Task, plain_text
from alignkit.testing import AnnotatesContract
from helpers.planted import Fault, checks_of, planted, plugin_of

PROGRAM = Annotator(id="longest-0", kind="program")
Annotate = Callable[[Any, Any], Any]


class Options(Config):
    """Options of the source."""

    fails: bool = Field(False, description="no judgement is possible")


def judged(task: Task, groups: Sequence[Sequence[str]], turn: int = 0, **changes: Any) -> Judgement:
    """A ranking of a task by annotator number `turn`."""
    who = f"longest-{turn}"
    judgement = Judgement(
        id=f"{task.id}-{who}",
        task_id=task.id,
        annotator=Annotator(id=who, kind="program"),
        payload=Ranking(groups=tuple(tuple(group) for group in groups)),
        presented_order=tuple(c.id for c in task.candidates),
    )
    return judgement.model_copy(update=changes)


def ranked(task: Task, key: Callable[[Candidate], Any] | None = None) -> list[list[str]]:
    """Ids from best to worst: the longest first."""
    return [[c.id] for c in sorted(task.candidates, key=key or (lambda c: (-len(c.completion), c.id)))]


def sound(tasks: Sequence[Task]) -> Iterator[Judgement]:
    for task in tasks:
        for turn in range(task.overlap):
            yield judged(task, ranked(task), turn)


class Source:
    """Sound, unless `how` judges otherwise; `state` is for those that keep something."""

    def __init__(self, how: Annotate | None, options: Options, seed: int) -> None:
        self.how = how
        self.options = options
        self.seed = seed
        self.state: dict[str, Any] = {"queue": [], "calls": 0, "random": random.Random(seed)}

    def annotate(self, tasks: Sequence[Task]) -> Any:
        self.state["calls"] += 1
        if self.how:
            return self.how(self, tasks)
        return (j.model_copy(update=FAILED) for j in sound(tasks)) if self.options.fails else sound(tasks)


FAILED: dict[str, Any] = {"payload": None, "status": "api_error"}


class InTurn(Source):
    """Says that it judges task by task."""

    task_by_task = True


class Reporting(InTurn):
    """Has figures: `state["figures"]`."""

    def annotation_figures(self) -> Mapping[str, Any]:
        return dict(self.state.get("figures", {"calls": self.state["calls"]}))


def broken(how: Annotate | None, source: type[Source] = Source) -> Component:
    return Component("broken", lambda c, context: source(how, c, context.seed), Options, "broken on purpose")


def fault(check: str, how: Annotate, name: str = "", source: type[Source] = Source, **attributes: Any) -> Fault:
    return Fault(check, broken(how, source), attributes, name)


def per_task(judge: Callable[[Task], Judgement]) -> Annotate:
    """A source that does the same with each task."""
    return lambda source, tasks: (judge(task) for task in tasks)


def pauses_without_a_hint(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    raise Paused("not yet")


def only_long_tasks(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    return sound([task for task in tasks if len(plain_text(task.prompt)) > 20])


def not_a_probability(task: Task) -> Judgement:
    a, b, *_ = (c.id for c in task.candidates)
    return judged(task, ranked(task), payload=Pairwise.model_construct(a=a, b=b, p_a=1.5))


def revision_of_each_call(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    who = PROGRAM.model_copy(update={"revision": str(source.state["calls"])})
    return (judgement.model_copy(update={"annotator": who}) for judgement in sound(tasks))


def repeats_itself(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    """Asks the same annotator `overlap` times."""
    for task in tasks:
        for turn in range(task.overlap):
            yield judged(task, ranked(task), id=f"{task.id}-{turn}")


def three_annotators(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    return (judged(task, ranked(task), turn) for task in tasks for turn in range(3))


def annotator_by_annotator(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    return (judged(task, ranked(task), turn) for turn in range(2) for task in tasks)


def last_task_first(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    return sound(tasks[::-1])


def warms_up(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    """A probe of the judge gets out as a judgement."""
    yield Judgement(id="probe", task_id="probe", annotator=PROGRAM, status="skipped")
    yield from sound(tasks)


def keeps_a_queue(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    queue = source.state["queue"]
    queue += tasks
    while queue:
        yield from sound([queue.pop(0)])


def empties_the_list(source: Source, tasks: list[Task]) -> Iterator[Judgement]:
    while tasks:
        yield from sound([tasks.pop()])


def four_letters(task: Task) -> Judgement:
    """Candidates get letters, and there are not enough of them."""
    letters = {"ABCD"[n]: candidate for n, candidate in enumerate(task.candidates)}
    return judged(task, ranked(task), presented_order=tuple(c.id for c in letters.values()))


def by_text(task: Task) -> Judgement:
    ids = {c.completion: c.id for c in task.candidates}
    return judged(task, [[ids[text]] for text in sorted(ids, key=len, reverse=True)])


def formats_twice(task: Task) -> Judgement:
    """The question is a format string, and so are the texts in it."""
    for candidate in task.candidates:
        question = f"How good is {candidate.completion}? Say a number up to {{high}}."
        question.format(high=7)
    return judged(task, ranked(task))


def rated_against_the_longest(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    longest = max(len(c.completion) for task in tasks for c in task.candidates)
    for task in tasks:
        for candidate in task.candidates:
            rating = Rating(candidate=candidate.id, value=len(candidate.completion) / longest)
            yield judged(task, ranked(task), id=candidate.id, payload=rating)


def one_generator(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    for task in tasks:
        noise = {c.id: source.state["random"].random() for c in task.candidates}
        yield judged(task, ranked(task, lambda c, noise=noise: noise[c.id]))  # type: ignore[misc]


def fresh_ids(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    return (judgement.model_copy(update={"id": uuid.uuid4().hex}) for judgement in sound(tasks))


def global_dice(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    return (judged(task, ranked(task, lambda c: random.random())) for task in tasks)


def ties_for_failures(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    return (judged(task, [[c.id for c in task.candidates]]) for task in tasks)


def reports(figures: Mapping[Any, Any]) -> Annotate:
    def annotate(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
        source.state["figures"] = figures
        return sound(tasks)

    return annotate


def seeds_torch(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    torch.manual_seed(source.seed)
    return sound(tasks)


def keeps_a_file(source: Source, tasks: Sequence[Task]) -> Iterator[Judgement]:
    Path("judgements.jsonl").write_text("".join(j.model_dump_json() + "\n" for j in sound(tasks)))
    return sound(tasks)


SHORTEST = per_task(lambda task: judged(task, ranked(task, lambda c: len(c.completion))))
BETTER = [("a long film review", "short")]
FAULTS = [
    fault("test_waits_for_people", lambda s, t: sound(t), "never", asks_people=True),
    fault("test_waits_for_people", pauses_without_a_hint, "hint", asks_people=True),
    fault("test_every_task_is_judged", only_long_tasks, "left_out"),
    fault("test_every_task_is_judged", per_task(lambda t: judged(t, ranked(t), task_id="?")), "unknown"),
    fault(
        "test_judgements_name_candidates_of_their_task",
        per_task(lambda t: judged(t, [[letter] for letter in "ABC"])),
    ),
    fault("test_judgements_are_valid_records", per_task(lambda t: judged(t, ranked(t), payload=None)), "payload"),
    fault("test_judgements_are_valid_records", per_task(not_a_probability), "range"),
    fault("test_judgements_are_valid_records", lambda s, t: (j.model_dump() for j in sound(t)), "dict"),
    fault("test_ids_are_unique", per_task(lambda t: judged(t, ranked(t), id=PROGRAM.id))),
    fault(
        "test_annotators_have_a_name",
        per_task(lambda t: judged(t, ranked(t), annotator=Annotator(id="", kind="model"))),
        "none",
    ),
    fault("test_annotators_have_a_name", revision_of_each_call, "revision"),
    fault("test_presented_order", per_task(lambda t: judged(t, ranked(t), presented_order=("A", "B", "C"))), "letters"),
    fault(
        "test_presented_order",
        per_task(lambda t: judged(t, ranked(t), presented_order=(t.candidates[0].id,))),
        "one",
    ),
    fault("test_overlap", repeats_itself, "same"),
    fault("test_overlap", three_annotators, "many"),
    fault("test_no_tasks", warms_up),
    fault("test_returns_an_iterator", lambda s, t: list(sound(t))),
    fault("test_an_abandoned_call_leaves_nothing_behind", keeps_a_queue),
    fault("test_tasks_are_left_as_they_were", empties_the_list),
    fault("test_few_and_many_candidates", per_task(four_letters)),
    fault("test_conversations", per_task(lambda t: judged(t, ranked(t, lambda c: c.prompt + c.completion)))),
    fault("test_equal_candidates", per_task(by_text)),
    fault("test_hostile_texts", per_task(formats_twice), "format"),
    fault("test_hostile_texts", rated_against_the_longest, "scale"),
    fault("test_order_of_candidates", per_task(lambda t: judged(t, [[c.id] for c in t.candidates]))),
    fault("test_a_task_is_judged_by_itself", one_generator),
    fault("test_task_by_task", annotator_by_annotator, "annotators", InTurn),
    fault("test_task_by_task", last_task_first, "backwards", InTurn),
    fault("test_same_seed_same_judgements", fresh_ids, "ids"),
    fault("test_same_seed_same_judgements", global_dice, "dice"),
    fault("test_judgements_become_pairs", per_task(lambda t: judged(t, ranked(t), payload=None, status="skipped"))),
    fault("test_better_completions_are_preferred", SHORTEST, better_than=BETTER),
    fault("test_failures_are_a_status", ties_for_failures, failing_options={"fails": True}),
    fault("test_figures_are_json", reports({"cost": torch.ones(1)}), "tensor", Reporting),
    fault("test_figures_are_json", reports({"agreement": float("nan")}), "nan", Reporting),
    fault("test_figures_are_json", reports({1: 2}), "names", Reporting),
    fault("test_global_random_state_is_left_alone", seeds_torch),
    fault("test_writes_only_into_its_folder", keeps_a_file),
]
globals().update(planted(AnnotatesContract, FAULTS))


class TestSound(AnnotatesContract):
    """What the faults change is right without them."""

    component = "broken"
    plugin: ClassVar[ModuleType] = plugin_of(AnnotatesContract, broken(None, Reporting))
    better_than = tuple(BETTER)
    failing_options: ClassVar[Mapping[str, Any] | None] = {"fails": True}
    test_registration_imports_nothing_heavy = None  # the plugin is made here, in no module of its own


def test_every_check_has_a_fault() -> None:
    assert {fault.check for fault in FAULTS} == checks_of(AnnotatesContract)
