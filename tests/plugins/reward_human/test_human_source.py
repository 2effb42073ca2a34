"""Judgements of people: matched, checked with file and line, and waited for."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignkit.errors import Paused, UserError
from alignkit.records import Candidate, Judgement, Sampling, Task
from alignkit_plugins.reward_human.plugin import alignkit_reward_sources
from alignkit_plugins.reward_human.source import HumanSource


def task(id: str, overlap: int = 1) -> Task:
    candidates = tuple(
        Candidate(
            id=f"{id}{n}", prompt_id="p", prompt="Q", completion=f"answer {n}", seed=0, policy_revision="r",
            sampling=Sampling(), prompt_ids=(1,), completion_ids=(2,), finish_reason="stop",
        )
        for n in range(2)
    )  # fmt: skip
    return Task(id=id, prompt="Q", candidates=candidates, overlap=overlap)


def row(id: str, task_id: str, who: str = "ann", p_a: float = 1.0, **more: Any) -> dict[str, Any]:
    payload = {"type": "pairwise", "a": f"{task_id}0", "b": f"{task_id}1", "p_a": p_a}
    return {
        "id": id,
        "task_id": task_id,
        "annotator": {"id": who, "kind": "human"},
        "payload": payload,
        **more,
    }


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return path


def ids(place: Path, *tasks: Task, min_share: float = 1.0) -> list[str]:
    return [j.id for j in HumanSource(place, min_share, None).annotate(tasks)]


def test_a_file_or_a_folder_of_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = write(tmp_path / "a.jsonl", row("j1", "x"), row("j2", "elsewhere"))
    write(tmp_path / "b.jsonl", row("j3", "y"))
    write(tmp_path / "notes.txt", "not a judgement")
    assert ids(one, task("x")) == ["j1"]
    with caplog.at_level(logging.INFO):
        assert ids(tmp_path, task("x"), task("y")) == ["j1", "j3"]
    assert "1 judgements" in caplog.text


def test_the_last_version_wins(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        row("j3", "x", supersedes="j2"),
        row("j1", "x"),
        row("j2", "x", supersedes="j1"),
    )
    assert ids(path, task("x")) == ["j3"]


def test_an_answer_taken_back_does_not_count(tmp_path: Path) -> None:
    taken_back = {**row("j2", "x", supersedes="j1"), "payload": None, "status": "skipped"}
    with pytest.raises(Paused, match="1 of 1 tasks"):
        ids(write(tmp_path / "a.jsonl", row("j1", "x"), taken_back), task("x"))


def test_a_skip_answers_a_task_and_is_passed_on(tmp_path: Path) -> None:
    skip = {**row("j1", "x"), "payload": None, "status": "skipped"}
    found = list(HumanSource(write(tmp_path / "a.jsonl", skip), 1.0, None).annotate([task("x")]))
    assert [j.status for j in found] == ["skipped"], "collect counts it as not usable"


def test_files_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "all.json").write_text("[]")
    with caplog.at_level("WARNING", logger="alignkit"):
        ids(write(tmp_path / "a.jsonl", row("j1", "x")).parent, task("x"))
    assert "all.json" in caplog.text


def test_waiting_says_how_many_are_missing_and_where_to_put_them(tmp_path: Path) -> None:
    place = tmp_path / "judgements"
    source = HumanSource(place, 1.0, tmp_path / "tasks.jsonl")
    with pytest.raises(Paused) as caught:
        source.annotate([task("x"), task("y")])
    assert caught.value.what == "2 of 2 tasks still need judgements (0 have enough, 2 are needed)"
    assert caught.value.where == str(place)
    assert str(tmp_path / "tasks.jsonl") in str(caught.value)
    write(place / "a.jsonl", row("j1", "x"))
    with pytest.raises(Paused, match="1 of 2 tasks"):
        source.annotate([task("x"), task("y")])
    assert ids(place, task("x"), task("y"), min_share=0.5) == ["j1"]


def test_overlap_asks_for_different_people(tmp_path: Path) -> None:
    place = tmp_path / "a.jsonl"
    write(place, row("j1", "x", "ann"), row("j2", "x", "ann"))
    with pytest.raises(Paused):
        ids(place, task("x", overlap=2))
    write(place, row("j1", "x", "ann"), row("j2", "x", "bob"))
    assert ids(place, task("x", overlap=2)) == ["j1", "j2"]


def test_the_same_line_twice_counts_once_and_another_one_with_its_id_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", row("j1", "x"))
    write(tmp_path / "b.jsonl", row("j1", "x"))
    assert ids(tmp_path, task("x")) == ["j1"]
    write(tmp_path / "b.jsonl", row("j1", "x", p_a=0.0))
    with pytest.raises(UserError, match=r"b\.jsonl:1: another judgement with the id 'j1' stands in .*a\.jsonl:1"):
        ids(tmp_path, task("x"))


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("{broken\n", "not valid JSON"),
        ({**row("j2", "x"), "payload": None}, "a judgement with status 'ok' has a payload"),
        ({**row("j2", "x"), "annotator": {"id": "ann", "kind": "robot"}}, "annotator.kind: Input should be"),
        (row("j2", "x", p_a=1.5), "payload.pairwise.p_a: Input should be less than or equal to 1"),
        (row("j2", "x", mood="good"), "mood: Extra inputs are not permitted"),
        (
            {**row("j2", "x"), "payload": {"type": "binary", "candidate": "y0", "good": True}},
            "candidate 'y0' is not in task 'x'",
        ),
    ],
)
def test_a_damaged_judgement_is_named_with_its_line(tmp_path: Path, bad: Any, problem: str) -> None:
    path = write(tmp_path / "a.jsonl", row("j1", "x"), bad)
    with pytest.raises(UserError) as caught:
        ids(path, task("x"))
    assert caught.value.where == f"{path}:2"
    assert problem in caught.value.what


def test_the_component_looks_in_the_run_folder_by_default(tmp_path: Path) -> None:
    (component,) = alignkit_reward_sources()
    context: Any = SimpleNamespace(run=SimpleNamespace(folder=tmp_path))
    write(tmp_path / "judgements" / "a.jsonl", row("j1", "x"))
    write(tmp_path / "mine.jsonl", row("j2", "x"))
    default = component.build(component.config(), context)
    named = component.build(component.config.model_validate({"judgements": str(tmp_path / "mine.jsonl")}), context)
    found = [list(source.annotate([task("x")])) for source in (default, named)]
    assert [j.id for [j] in found] == ["j1", "j2"]
    assert isinstance(found[0][0], Judgement)
    assert not hasattr(default, "score")
