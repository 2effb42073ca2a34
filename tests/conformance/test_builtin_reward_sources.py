"""Every built-in reward source keeps the contract of its kind, in the settings in which it differs."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from alignkit.context import StepContext
from alignkit.feedback import payload_candidates
from alignkit.manager import PluginManager
from alignkit.records import (
    Annotator,
    Binary,
    Candidate,
    Critique,
    Judgement,
    Pairwise,
    Payload,
    Ranking,
    Rating,
    Task,
    content_id,
)
from alignkit.testing import AnnotatesContract, ScoresContract
from alignkit.testing.contract import ComponentContract
from alignkit.testing.tiny import tiny_policy
from helpers.judging import StubServer, completion
from helpers.models import make_scorer, make_tokenizer

GOOD = " is a warm film with honest acting and a haunting score, and I recommend it to families."
REFUSED = "a question that is refused"
BAD = " is is is boring boring stuff somehow"


def count_words(prompts: Sequence[str], completions: Sequence[str], scale: float = 1.0) -> list[float]:
    """A user's function for the source `function`."""
    return [scale * len(text.split()) for text in completions]


class TestFilmTaste(ScoresContract):
    component = "film_taste"
    better_than = ((GOOD, BAD), (GOOD, ""))


class TestFunction(ScoresContract):
    component = "function"
    options: ClassVar[Mapping[str, Any]] = {"path": f"{__name__}:count_words", "options": {"scale": 0.5}}
    bad_options = ({}, {"path": "count_words"}, {"path": "a b:c"}, {"path": "os:getcwd"})
    better_than = ((" one two three", " one"),)

    def allowed(self, options: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({f"{__name__}:count_words"})


class TestLength(ScoresContract):
    component = "length"
    options: ClassVar[Mapping[str, Any]] = {"coef": 0.1}
    bad_options = ({}, {"coef": 0}, {"coef": 1, "target": -1})
    better_than = ((" short", " a longer completion"),)


class TestLengthBeyondATarget(TestLength):
    options: ClassVar[Mapping[str, Any]] = {"coef": 0.1, "target": 10}
    better_than = ((" short", " a completion that is longer than the target of ten tokens"),)


class TestOverlong(ScoresContract):
    component = "overlong"
    options: ClassVar[Mapping[str, Any]] = {"max_length": 60, "cache": 55}
    bad_options = ({}, {"max_length": 3, "cache": 4}, {"max_length": 0, "cache": 0})
    better_than = ((" short", " a longer completion with many words, one after another"),)


class TestRewardModelReadingIds(ScoresContract):
    """A model with the tokenizer of the policy."""

    component = "reward_model"
    bad_options = ({}, {"model": "no/such/folder/anywhere"})
    chat: ClassVar[bool] = False

    def make_options(self, folder: Path) -> dict[str, Any]:
        return {"model": str(_reward_model(folder, self.chat)), "max_tokens": 4096}


class TestRewardModelOfConversations(TestRewardModelReadingIds):
    chat = True


class TestRewardModelReadingTexts(TestRewardModelReadingIds):
    """A model with another tokenizer than the policy's; rows of one batch that are cut into many."""

    def make_options(self, folder: Path) -> dict[str, Any]:
        make_scorer(folder / "model", "gpt2", make_tokenizer(), seed=1).save(folder / "model")
        return {"model": str(folder / "model"), "max_tokens": 64}

    longest = 60  # GPT-2 has 128 learned positions


class TestWeighted(ScoresContract):
    component = "weighted"
    options: ClassVar[Mapping[str, Any]] = {
        "sources": {"taste": "film_taste", "brief": {"name": "length", "coef": 0.01}},
        "weights": {"taste": 2.0},
    }
    bad_options = (
        {"sources": {}},
        {"sources": {"a": "film_taste"}, "weights": {"b": 1.0}},
        {"sources": {"a": "film_taste"}, "weights": {"a": 0.0}},
    )
    better_than = ((GOOD, BAD),)


class TestWeightedAndNormalised(TestWeighted):
    """Relative to the batch, and says so."""

    options: ClassVar[Mapping[str, Any]] = {**TestWeighted.options, "normalise": {"taste": "batch"}}


class TestSimulatedScores(ScoresContract):
    component = "simulated"
    options: ClassVar[Mapping[str, Any]] = {"utility": {"name": "length", "coef": 1.0}}
    bad_options = ({"annotators": 0}, {"skip_rate": 1.0}, {"noise": -1.0})
    better_than = ((" short", " a longer completion"),)


class TestAIRatingScores(ScoresContract):
    """Direct RLAIF: a local judge's expected rating."""

    component = "ai"
    bad_options = ({}, {"judge": "local"}, {"judge": "openai", "model": "m"})

    def make_options(self, folder: Path) -> dict[str, Any]:
        return {**_local_judge(folder), "form": "rating", "scale": (1, 5)}


class TestSimulated(AnnotatesContract):
    component = "simulated"
    noisy = True
    failing_options: ClassVar[Mapping[str, Any] | None] = {"skip_rate": 0.99}


class TestSimulatedWithoutNoise(TestSimulated):
    noisy = False
    options: ClassVar[Mapping[str, Any]] = {"noise": 0.0, "bias": 0.0, "skip_rate": 0.0}
    better_than = ((GOOD, BAD),)


class TestAIPairwise(AnnotatesContract):
    component = "ai"

    def make_options(self, folder: Path) -> dict[str, Any]:
        (folder / "pair.jinja").write_text("{{ prompt }}|{{ a }}|{{ b }}:")
        return {**_local_judge(folder), "template": str(folder / "pair.jinja"), "max_failures": 1.0}

    def make_failing_options(self, folder: Path) -> dict[str, Any]:
        """Every question is longer than the judge's 128 positions."""
        (folder / "long.jinja").write_text("word " * 200 + "{{ prompt }}|{{ a }}|{{ b }}:")
        return {**_local_judge(folder, 128), "template": str(folder / "long.jinja"), "max_failures": 1.0}


class TestAIRating(AnnotatesContract):
    component = "ai"

    def make_options(self, folder: Path) -> dict[str, Any]:
        return {**_local_judge(folder), "form": "rating", "scale": (1, 5), "max_failures": 1.0}


class TestAIConstitution(AnnotatesContract):
    component = "ai"

    def make_options(self, folder: Path) -> dict[str, Any]:
        (folder / "principles.txt").write_text("Be brief.\nBe kind.\n")
        return {**_local_judge(folder), "constitution": str(folder / "principles.txt"), "max_failures": 1.0}


class TestAIServer(AnnotatesContract):
    """A judge behind a server: here a stub that likes the longer answer, and the first one a little."""

    component = "ai"
    better_than = ((" this one is much longer than the other", " short"),)

    def make_options(self, folder: Path) -> dict[str, Any]:
        (folder / "marked.jinja").write_text("<<<{{ a }}>>>{{ b }}<<<end>>>")
        options = {"judge": "openai", "model": "m", "base_url": _server().url, "retries": 0}
        return {**options, "template": str(folder / "marked.jinja")}

    def make_failing_options(self, folder: Path) -> dict[str, Any]:
        options = self.make_options(folder)
        (folder / "marked.jinja").write_text(REFUSED + "<<<{{ a }}>>>{{ b }}<<<end>>>")
        return {**options, "max_failures": 1.0}


class AskedPeople(AnnotatesContract):
    """People who prefer short texts, and whose answers come in a file."""

    component = "human"
    form: ClassVar[str] = "ranking"
    asks_people = True
    better_than = ((" short", " a longer completion"),)
    bad_options = ({"form": "guess"}, {"gold": "no/such/file"}, {"scale": (1, 100)})

    def make_options(self, folder: Path) -> dict[str, Any]:
        return {"form": self.form, "scale": (1, 3)}

    def let_people_answer(self, tasks: Sequence[Task], context: StepContext) -> None:
        folder = context.run.folder / "judgements"
        folder.mkdir(exist_ok=True)
        lines = [
            judgement.model_dump_json() + "\n"
            for task in tasks
            for turn in range(task.overlap)
            for judgement in _answers(self.form, task, f"person-{turn}")
        ]
        name = content_id(*(task.id for task in tasks), str(max((t.overlap for t in tasks), default=0)))
        (folder / f"{name}.jsonl").write_text("".join(lines))


class TestHumanRanking(AskedPeople):
    pass


class TestHumanPairwise(AskedPeople):
    form = "pairwise"


class TestHumanRating(AskedPeople):
    form = "rating"


class TestHumanBinary(AskedPeople):
    form = "binary"


class TestHumanCritique(AskedPeople):
    form = "critique"
    better_than = ()


class TestMixed(AnnotatesContract):
    """A judge first, and simulated annotators where it is unsure: about everything, with this threshold."""

    component = "mixed"
    bad_options = ({}, {"first": "simulated"}, {"first": {"name": "ai", "form": "rating"}, "then": "human"})
    unsure: ClassVar[float] = 1.0

    def make_options(self, folder: Path) -> dict[str, Any]:
        judge = {"name": "ai", **_local_judge(folder), "max_failures": 1.0}
        quiet = {"name": "simulated", "noise": 0.0, "bias": 0.0, "skip_rate": 0.0}
        return {"first": judge, "then": quiet, "unsure": self.unsure}


class TestMixedThatIsSure(TestMixed):
    unsure = 0.0


class TestMixedAskingPeople(AskedPeople):
    component = "mixed"
    bad_options = ()

    def make_options(self, folder: Path) -> dict[str, Any]:
        judge = {"name": "ai", **_local_judge(folder), "max_failures": 1.0}
        return {"first": judge, "then": "human", "unsure": 1.0}


def test_every_built_in_is_tested() -> None:
    manager = PluginManager()
    manager.load()
    built_in = {r.component.name for r in manager.all("reward_source") if r.distribution == "alignkit"}
    classes = [c for c in globals().values() if isinstance(c, type) and issubclass(c, ComponentContract)]
    tested = {c.component for c in classes if hasattr(c, "component")}
    assert tested == built_in
    judging = {c.component for c in classes if issubclass(c, AnnotatesContract) and hasattr(c, "component")}
    scoring = {c.component for c in classes if issubclass(c, ScoresContract) and hasattr(c, "component")}
    assert judging & scoring == {"ai", "simulated"}  # those that do both


def _reward_model(folder: Path, chat: bool) -> Path:
    policy = tiny_policy(seed=4, chat=chat)
    scorer = policy.critic(None)
    scorer.init_head(torch.Generator().manual_seed(5))
    scorer.save(folder / "model")
    return folder / "model"


def _local_judge(folder: Path, positions: int = 4096) -> dict[str, Any]:
    policy = tiny_policy(seed=6)
    policy.module.config.max_position_embeddings = positions
    policy.save(folder / "judge")
    return {"judge": "local", "model": str(folder / "judge")}


def _longer_is_better(prompt: str, number: int) -> dict[str, Any]:
    if REFUSED in prompt:
        return completion(None, refusal="I would rather not.")
    first, _, second = prompt.partition("<<<")[2].removesuffix("<<<end>>>").partition(">>>")
    p = 0.05 + 0.9 / (1 + math.exp((len(second) - len(first)) / 20))
    return completion(top=[("A", math.log(p)), ("B", math.log(1 - p))])


_servers: list[StubServer] = []


@cache
def _server() -> StubServer:
    server = StubServer(_longer_is_better)
    server.__enter__()
    _servers.append(server)
    return server


@pytest.fixture(scope="module", autouse=True)
def _stop_the_server() -> Iterator[None]:
    yield
    while _servers:
        _servers.pop().__exit__()


def _answers(form: str, task: Task, who: str) -> Iterator[Judgement]:
    """What a person who likes short texts says about a task."""
    by_length = sorted(task.candidates, key=lambda c: (len(c.completion), c.id))
    for payload in _payloads(form, by_length):
        id = content_id(task.id, who, form, json.dumps(sorted(payload_candidates(payload))))
        yield Judgement(id=id, task_id=task.id, annotator=Annotator(id=who, kind="human"), payload=payload)


def _payloads(form: str, by_length: Sequence[Candidate]) -> Iterator[Payload]:
    if form == "ranking":
        yield Ranking(groups=tuple((c.id,) for c in by_length))
    for place, candidate in enumerate(by_length):
        if form == "pairwise":
            yield from (Pairwise(a=candidate.id, b=other.id, p_a=1.0) for other in by_length[place + 1 :])
        elif form == "rating":
            yield Rating(candidate=candidate.id, value=3 if place == 0 else 1, low=1, high=3)
        elif form == "binary":
            yield Binary(candidate=candidate.id, good=place == 0)
        elif form == "critique":
            yield Critique(candidate=candidate.id, text="too long", revision=candidate.completion[:5] + " indeed")
