"""Records are frozen, strict and have ids that are the same in every process."""

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from alignkit.records import (
    Annotator,
    Binary,
    Candidate,
    Critique,
    Judgement,
    Message,
    Pairwise,
    PreferencePair,
    Prompt,
    Ranking,
    Rating,
    Sampling,
    Task,
    content_id,
    plain_text,
)

PERSON = Annotator(id="p1", kind="human")
CHAT = (Message(role="user", content="hi"), Message(role="assistant", content="yes"))


def test_content_id_is_a_hash_of_the_content_alone() -> None:
    assert content_id("a", "b") == hashlib.sha256(b'["a", "b"]').hexdigest()[:16]
    assert content_id("ab") != content_id("a", "b")
    assert content_id(CHAT) != content_id(plain_text(CHAT))
    assert content_id("é") == hashlib.sha256('["é"]'.encode()).hexdigest()[:16]


def test_plain_text_of_a_conversation() -> None:
    assert plain_text(CHAT) == "user: hi\nassistant: yes"
    assert plain_text("x") == "x"


def test_prompt_gets_the_id_of_its_content() -> None:
    assert Prompt(prompt="a").id == content_id("a")
    assert Prompt(prompt=CHAT).id == content_id(CHAT)
    assert Prompt.model_validate({"prompt": [m.model_dump() for m in CHAT]}).id == content_id(CHAT)
    assert Prompt(prompt="a", id="mine").id == "mine"
    with pytest.raises(ValidationError):
        Prompt.model_validate({"prompt": [{"role": "user"}]})
    with pytest.raises(ValidationError):
        Prompt.model_validate({})


def test_records_are_frozen_and_strict() -> None:
    prompt = Prompt(prompt="a")
    with pytest.raises(ValidationError, match="frozen"):
        setattr(prompt, "prompt", "b")  # noqa: B010  (mypy would refuse the plain form)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Prompt.model_validate({"prompt": "a", "txet": "b"})


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"max_length": 0},
        {"temperature": float("nan")},
    ],
)
def test_sampling_bounds(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sampling(**bad)
    assert Sampling().temperature == 1.0


@pytest.mark.parametrize("groups", [(("a", "b"), ("a",)), (("a",), ()), ()])
def test_ranking_has_each_candidate_once(groups: Any) -> None:
    with pytest.raises(ValidationError):
        Ranking(groups=groups)
    assert Ranking(groups=(("a", "b"), ("c",))).groups[0] == ("a", "b")


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_probabilities(p: float) -> None:
    with pytest.raises(ValidationError):
        Pairwise(a="a", b="b", p_a=p)
    with pytest.raises(ValidationError):
        PreferencePair(prompt="x", chosen="a", rejected="b", p=p)


def test_a_failed_judgement_is_a_status_never_a_preference() -> None:
    payload = Pairwise(a="a", b="b", p_a=1)
    assert Judgement(id="1", task_id="t", annotator=PERSON, payload=payload).status == "ok"
    assert Judgement(id="1", task_id="t", annotator=PERSON, status="refusal").payload is None
    with pytest.raises(ValidationError, match="has a payload"):
        Judgement(id="1", task_id="t", annotator=PERSON, payload=payload, status="parse_error")
    with pytest.raises(ValidationError, match="has a payload"):
        Judgement(id="1", task_id="t", annotator=PERSON)


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "ranking", "groups": [["a"], ["b", "c"]]},
        {"type": "pairwise", "a": "a", "b": "b", "p_a": 0.5},
        {"type": "rating", "candidate": "a", "value": 3},
        {"type": "binary", "candidate": "a", "good": True},
        {"type": "critique", "candidate": "a", "text": "dull", "revision": "lively"},
    ],
)
def test_judgements_survive_json(payload: dict[str, Any]) -> None:
    judgement = Judgement.model_validate({"id": "1", "task_id": "t", "annotator": PERSON, "payload": payload})
    again = Judgement.model_validate_json(judgement.model_dump_json())
    assert again == judgement
    assert type(again.payload).__name__.lower() == payload["type"]


def test_defaults_left_out_come_back() -> None:
    candidate = Candidate(
        id="c", prompt_id="p", prompt="x", completion="y", policy_revision="r", sampling=Sampling(top_k=5), seed=1,
        prompt_ids=(1, 2), completion_ids=(3,), finish_reason="stop",
    )  # fmt: skip
    task = Task(id="t", prompt=CHAT, candidates=(candidate,))
    assert Task.model_validate_json(task.model_dump_json(exclude_defaults=True)) == task
    with pytest.raises(ValidationError):
        Task(id="t", prompt="x", candidates=(), overlap=0)


def test_written_without_defaults_a_judgement_is_read_back() -> None:
    payloads = [
        Ranking(groups=(("a",), ("b",))),
        Pairwise(a="a", b="b", p_a=1.0),
        Rating(candidate="a", value=1.0),
        Binary(candidate="a", good=True),
        Critique(candidate="a", text="short"),
    ]
    for payload in payloads:
        judgement = Judgement(id="j", task_id="t", annotator=PERSON, payload=payload)
        assert Judgement.model_validate_json(judgement.model_dump_json(exclude_defaults=True)) == judgement
        task = Task(id="t", prompt="Q", candidates=(), gold=payload)
        assert Task.model_validate_json(task.model_dump_json(exclude_defaults=True)) == task
        assert payload.model_dump()["type"] == payload.type
