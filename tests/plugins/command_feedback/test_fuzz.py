"""Whatever stands in a row, a reader makes an item of it or says what is wrong: nothing else comes out."""

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignkit.data.rows import BadRow
from alignkit.feedback import preference_pairs
from alignkit.manager import PluginManager
from alignkit.protocols import SourceRow
from alignkit_plugins.command_feedback.importing.forms import FORMS
from alignkit_plugins.command_feedback.importing.items import Maker

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("trl", {"prompt": "p", "chosen": "x", "rejected": "y", "p": 0.7, "margin": 1.0}),
    ("trl", {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "b"}]}),
    ("hh", {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}),
    ("kto", {"prompt": [USER], "completion": [ANSWER], "label": True}),
    ("votes", {"prompt": "p", "first": "x", "second": "y", "votes": {"w": [1, 2], "v": None, "u": "tie"}}),
    ("votes", {"prompt": "p", "first": "x", "second": "y", "votes": [{"rater": "r", "preference": "b-is-better"}]}),
    ("ratings", {"text": "t", "ratings": [1, 2.5, None]}),
    ("summarize", {"info": {"post": "p", "title": "t"}, "summaries": [{"text": "x", "note": "n"}, {"text": "y"}],
                   "choice": 1, "worker": "w", "extra": {"confidence": 3}}),
    ("ultrafeedback", {"instruction": "i", "completions": [
        {"response": "r", "overall_score": "7.5", "critique": "c", "annotations": {"honesty": {"Rating": "3"}}}]}),
    ("argilla", {"prompt": [USER], "response_1": "x", "response_2": "y", "rating_low": 1, "rating_high": 5,
                 "task_id": "t", "candidate_ids": ["a", "b"],
                 "ranking.responses": [[{"value": "response_1", "rank": 1}, {"value": "response_2", "rank": 2}]],
                 "ranking.responses.users": ["u"], "ranking.responses.status": ["submitted"],
                 "rating_1.responses": [3], "label_2.responses": ["good"], "critique_1.responses": ["w"],
                 "revision_1.responses": ["v"], "revision_1.responses.users": ["imported-1"]}),
    ("label-studio", {"data": {"prompt": "p", "answer1": "x", "answer2": "y", "rating_high": 7},
                      "predictions": [], "annotations": [{"completed_by": {"id": 1}, "was_cancelled": False, "result": [
                          {"from_name": "pw", "value": {"selected": "left"}, "meta": {"presented_order": ["a"]}},
                          {"from_name": "r", "value": {"ranker": {"rank": ["answer2", "answer1"]}}},
                          {"from_name": "rating_1", "to_name": "answer1", "value": {"rating": 3}},
                          {"from_name": "critique_1", "value": {"text": ["w"]}}]}]}),
]  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4), st.sampled_from(["tie", "good", "response_1", "answer1", "1e999", "\n\nHuman: "]),
)  # fmt: skip
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in inside for found in [(*path, key), *places(inner, (*path, key))]]


@pytest.fixture(scope="module")
def manager() -> PluginManager:
    found = PluginManager()
    found.load()
    return found


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}{n}" for n, (name, _) in enumerate(ROWS)])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_item_or_a_bad_row(manager: PluginManager, name: str, row: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(row)
    path = data.draw(st.sampled_from(places(row)))
    at: Any = changed
    for key in path[:-1]:
        at = at[key]
    if data.draw(st.booleans()):
        at[path[-1]] = data.draw(junk)
    else:
        del at[path[-1]]
    kind = FORMS[name]
    assert kind.build is not None
    reader = kind.build(kind.options(), Maker("imported", "human"), manager)
    try:
        items = list(reader.items(SourceRow("f:1", changed)))
    except BadRow:
        return
    for item in items:
        preference_pairs([item.task], item.judgements)


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_the_rows_themselves_are_good(manager: PluginManager, name: str, row: dict[str, Any]) -> None:
    kind = FORMS[name]
    assert kind.build is not None
    (item,) = kind.build(kind.options(), Maker("imported", "human"), manager).items(SourceRow("f:1", row))
    assert item.judgements
