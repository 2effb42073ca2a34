"""Judgements of people: matched, checked with file and line, and waited for."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignkit.annotation import AnnotationStore
from alignkit.data.rows import BadRow, Rows
from alignkit.errors import Paused, UserError
from alignkit.records import Annotator, Binary, Candidate, Judgement, Ranking, Sampling, Task
from alignkit_plugins.reward_human import files
from alignkit_plugins.reward_human.config import HumanConfig
from alignkit_plugins.reward_human.plugin import alignkit_reward_sources
from alignkit_plugins.reward_human.source import HumanSource, Place


def task(id: str, overlap: int = 1, count: int = 2) -> Task:
    candidates = tuple(
        Candidate(
            id=f"{id}{n}", prompt_id="p", prompt="Q", completion=f"answer {n}", seed=0, policy_revision="r",
            sampling=Sampling(), prompt_ids=(1,), completion_ids=(2,), finish_reason="stop",
        )
        for n in range(count)
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


def source(files: Path, **options: Any) -> HumanSource:
    folder = files.parent / "run"
    folder.mkdir(exist_ok=True)
    return HumanSource(HumanConfig(**options), Place(folder / "annotations.sqlite", "r1-labels"), files)


def ids(files: Path, *tasks: Task, **options: Any) -> list[str]:
    return [j.id for j in source(files, **options).annotate(tasks)]


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
    with pytest.raises(Paused, match="1 of 1 questions"):
        ids(write(tmp_path / "a.jsonl", row("j1", "x"), taken_back), task("x"))


def test_a_skip_leaves_the_question_to_others_and_is_passed_on(tmp_path: Path) -> None:
    skip = {**row("j1", "x"), "payload": None, "status": "skipped"}
    place = write(tmp_path / "a.jsonl", skip)
    with pytest.raises(Paused, match="1 of 1"):
        ids(place, task("x"))
    write(place, skip, row("j2", "x", "ben"))
    found = list(source(place).annotate([task("x")]))
    assert sorted(j.status for j in found) == ["ok", "skipped"], "collect counts it as not usable"


def test_files_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "all.json").write_text("[]")
    with caplog.at_level("WARNING", logger="alignkit"):
        ids(write(tmp_path / "a.jsonl", row("j1", "x")).parent, task("x"))
    assert "all.json" in caplog.text


def test_waiting_says_how_many_are_missing_and_where_they_may_come_from(tmp_path: Path) -> None:
    place = tmp_path / "judgements"
    asked = source(place)
    with pytest.raises(Paused) as caught:
        asked.annotate([task("x"), task("y")])
    assert caught.value.what == "2 of 2 questions still need answers (0 have enough, 2 are needed)"
    assert f"alignkit label {tmp_path / 'run'}" in str(caught.value)
    assert str(place) in str(caught.value)
    write(place / "a.jsonl", row("j1", "x"))
    with pytest.raises(Paused, match="1 of 2 questions"):
        asked.annotate([task("x"), task("y")])
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


def names(tasks: list[Task]) -> list[str]:
    """The tasks that questions came from, by their candidates' ids."""
    return [t.candidates[0].id[0] for t in tasks]


def answer(store: AnnotationStore, who: str, **fields: Any) -> Judgement:
    """What the labelling page does: take the next question and answer it by `fields`, or with a ranking in order."""
    found = store.next_task(who)
    assert found is not None
    question, form = found
    payload = fields.pop("payload", None) or Ranking(groups=tuple((c.id,) for c in question.candidates))
    if form == "binary":
        payload = Binary(candidate=question.candidates[0].id, good=True)
    judgement = Judgement(
        id=f"{who}-{question.id}", task_id=question.id, annotator=Annotator(id=who, kind="human"), payload=payload
    )
    store.submit(judgement)
    return judgement


def test_questions_are_published_answered_in_the_store_and_taken_as_a_snapshot(tmp_path: Path) -> None:
    asked = source(
        tmp_path / "judgements", guidelines=str(write(tmp_path / "guide.md", "Be *kind*.")), question="Which?"
    )
    tasks = [task("x", overlap=2), task("y")]
    with pytest.raises(Paused, match="2 of 2"):
        asked.annotate(tasks)
    store = AnnotationStore(asked.place.store)
    assert names(store.tasks("r1-labels")) == ["x", "y"]
    assert store.instructions("r1-labels").guidelines == "Be *kind*."
    given = [answer(store, "ann"), answer(store, "ann"), answer(store, "ben")]
    found = list(asked.annotate(tasks))
    assert [j.id for j in found] == sorted(j.id for j in given)
    assert sorted(j.task_id for j in found) == ["x", "x", "y"]
    assert asked.annotation_figures() == {"from_files": 0, "store_snapshot": store.snapshot("r1-labels").hash}
    store.close()


def test_what_files_answer_is_not_asked_again(tmp_path: Path) -> None:
    asked = source(write(tmp_path / "judgements" / "a.jsonl", row("j1", "x"), row("j2", "y")).parent)
    tasks = [task("x", overlap=2), task("y"), task("z")]
    with pytest.raises(Paused, match="2 of 3"):
        asked.annotate(tasks)
    store = AnnotationStore(asked.place.store)
    assert names(store.tasks()) == ["x", "z"]
    answer(store, "ben"), answer(store, "ben")
    assert store.next_task("cleo") is None
    assert sorted((j.task_id, j.annotator.id) for j in asked.annotate(tasks)) == [
        ("x", "ann"), ("x", "ben"), ("y", "ann"), ("z", "ben"),
    ]  # fmt: skip
    store.close()


def test_without_a_missing_answer_no_store_is_made(tmp_path: Path) -> None:
    asked = source(write(tmp_path / "a.jsonl", row("j1", "x")))
    assert [j.id for j in asked.annotate([task("x")])] == ["j1"]
    assert not asked.place.store.exists()


def test_good_or_bad_asks_about_each_candidate_and_counts_for_the_task(tmp_path: Path) -> None:
    asked = source(tmp_path / "judgements", form="binary")
    with pytest.raises(Paused, match="6 of 6 questions"):
        asked.annotate([task("x", count=3), task("y", count=3)])
    store = AnnotationStore(asked.place.store)
    for _ in range(6):
        answer(store, "ann")
    found = list(asked.annotate([task("x", count=3), task("y", count=3)]))
    judged = sorted((j.task_id, j.payload.candidate) for j in found if isinstance(j.payload, Binary))
    assert judged == [(id, f"{id}{n}") for id in ("x", "y") for n in range(3)]
    store.close()


def gold(id: str, better: int = 1) -> dict[str, Any]:
    right = Ranking(groups=((f"{id}{better}",), (f"{id}{1 - better}",)))
    return task(id).model_copy(update={"gold": right}).model_dump(mode="json")


def test_everybody_gets_gold_tasks_and_nothing_learns_from_them(tmp_path: Path) -> None:
    file = write(tmp_path / "gold.jsonl", gold("g"), gold("h"))
    asked = source(tmp_path / "judgements", gold=str(file), gold_every=1)
    with pytest.raises(Paused, match="2 of 2 questions"):
        asked.annotate([task("x"), task("y")])
    store = AnnotationStore(asked.place.store)
    given = [names([store.task(answer(store, "ann").task_id)[0]])[0] for _ in range(4)]
    assert [given.count(name) for name in "xygh"] == [1, 1, 1, 1]
    assert given[1::2] == ["x", "y"], "a gold task for each other one, none at the end"
    assert store.next_task("ben") is None
    assert sorted(j.task_id for j in asked.annotate([task("x"), task("y")])) == ["x", "y"]
    store.close()


def test_gold_of_another_form_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (component,) = alignkit_reward_sources()
    config = component.config.model_validate({"gold": str(write(tmp_path / "g.jsonl", gold("g"))), "form": "pairwise"})
    assert component.check is not None
    with pytest.raises(UserError, match="a ranking as its answer, but form is pairwise") as caught:
        component.check(config, None)  # type: ignore[arg-type]
    assert caught.value.where == f"{tmp_path / 'g.jsonl'}:1"
    with pytest.raises(UserError, match="a rating scale has 2 to 10 steps"):
        component.check(component.config.model_validate({"scale": [1, 100]}), None)  # type: ignore[arg-type]


def test_with_wait_the_run_stays_until_people_have_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = source(tmp_path / "judgements", wait=True)
    store = AnnotationStore(asked.place.store)
    monkeypatch.setattr("time.sleep", lambda seconds: answer(store, "ann"))
    assert sorted(j.task_id for j in asked.annotate([task("x"), task("y")])) == ["x", "y"]
    store.close()


@pytest.mark.parametrize("cut", ["in a character", "before the end"])
def test_with_wait_a_file_that_is_being_copied_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cut: str
) -> None:
    path = tmp_path / "judgements" / "a.jsonl"
    whole = json.dumps(row("j1", "x")) + "\n" + json.dumps(row("é", "y"), ensure_ascii=False)
    half = whole.encode()[: whole.index("é") + 1 if cut == "in a character" else -1]
    path.parent.mkdir()
    path.write_bytes(half)
    naps: list[float] = []

    def copied(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            path.write_text(whole)  # without a line end, but whole

    monkeypatch.setattr("time.sleep", copied)
    waiting = source(path.parent, wait=True)
    assert [j.id for j in waiting.annotate([task("x"), task("y")])] == ["j1", "é"]
    assert len(naps) == 2
    said = [record.getMessage() for record in caplog.records if "not complete" in record.getMessage()]
    assert len(said) == 1
    assert f"{path}:2" in said[0]
    path.write_bytes(half)
    with pytest.raises(UserError) as caught:
        ids(path.parent, task("x"), task("y"))
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize("damaged", ["{broken\n", json.dumps(row("j1", "x", p_a=2.0))])
def test_with_wait_what_is_written_to_its_end_and_damaged_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits for what will not come"))
    path = write(tmp_path / "judgements" / "a.jsonl", row("j0", "x"), damaged)
    with pytest.raises(UserError) as caught:
        ids(path.parent, task("x"), wait=True)
    assert caught.value.where == f"{path}:2"


def test_a_file_that_grows_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "judgements" / "a.jsonl", '{"id": "j1", ')
    before = files.read_rows

    def slowly(name: str) -> Any:
        found = list_or_error(before, name)
        write(path, row("j1", "x"), row("j2", "y"))  # by the time that the reader looks, the line is whole
        return found

    monkeypatch.setattr(files, "read_rows", slowly)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert ids(path.parent, task("x"), task("y"), wait=True) == ["j1", "j2"]


def list_or_error(read: Any, name: str) -> Any:
    """What `read` gives, to its end."""
    found: list[Any] = []
    rows = read(name)
    while True:
        try:
            found.append(next(rows))
        except StopIteration:
            return iter(found)
        except BadRow as bad:
            return Rows(iter([*found, bad]))


def test_a_skipped_question_waits_for_the_others(tmp_path: Path) -> None:
    asked = source(tmp_path / "judgements")
    with pytest.raises(Paused):
        asked.annotate([task("x")])
    store = AnnotationStore(asked.place.store)
    ann, ben = (store.annotators.add(name).id for name in ("ann", "ben"))

    def skip(who: str) -> str:
        found = store.next_task(who)
        assert found is not None
        annotator = Annotator(id=who, kind="human")
        store.submit(Judgement(id=f"s-{who}", task_id=found[0].id, annotator=annotator, status="skipped"))
        return found[0].id

    def replace(who: str, old: str, new: str) -> None:
        annotator = Annotator(id=who, kind="human")
        store.submit(Judgement(id=new, task_id=question, annotator=annotator, status="skipped", supersedes=old))

    question = skip(ann)
    with pytest.raises(Paused, match="1 of 1"):
        asked.annotate([task("x")])
    skip(ben)
    replace(ann, f"s-{ann}", "undo")
    with pytest.raises(Paused, match="1 of 1"):
        asked.annotate([task("x")])
    replace(ann, "undo", "skip after all")
    assert [j.status for j in asked.annotate([task("x")])] == ["skipped", "skipped"], "nobody is left to ask"
    store.close()


def test_what_was_not_needed_is_not_asked_any_more(tmp_path: Path) -> None:
    asked = source(tmp_path / "judgements", min_share=0.5)
    with pytest.raises(Paused, match="1 of 2"):
        asked.annotate([task("x"), task("y")])
    store = AnnotationStore(asked.place.store)
    answer(store, "ann")
    assert [j.task_id for j in asked.annotate([task("x"), task("y")])] == ["x"]
    assert store.next_task("ben") is None
    store.close()


def test_a_step_done_again_asks_about_its_new_completions_alone(tmp_path: Path) -> None:
    asked = source(tmp_path / "judgements")
    with pytest.raises(Paused):
        asked.annotate([task("x"), task("y")])
    store = AnnotationStore(asked.place.store)
    answer(store, "ann")
    assert store.next_task("ben") is not None, "he has y before him"
    with pytest.raises(Paused, match="2 of 2"):
        asked.annotate([task("u"), task("v")])
    assert [names([store.task(answer(store, "ann").task_id)[0]]) for _ in range(2)] == [["u"], ["v"]]
    assert store.next_task("ben") is None
    assert sorted(j.task_id for j in asked.annotate([task("u"), task("v")])) == ["u", "v"]
    with pytest.raises(Paused, match="1 of 2"):
        asked.annotate([task("x"), task("y")])
    found = store.next_task("ben")
    assert found is not None
    assert names([found[0]]) == ["y"], "what was asked before is asked again"
    store.close()


def test_two_rounds_may_ask_the_same_with_the_same_gold(tmp_path: Path) -> None:
    file = write(tmp_path / "gold.jsonl", gold("g"))
    first = source(tmp_path / "judgements", gold=str(file))
    second = HumanSource(first.config, first.place._replace(collection="r2-labels"), first.files)
    for asked in (first, second):
        with pytest.raises(Paused, match="1 of 1"):
            asked.annotate([task("x")])
    store = AnnotationStore(first.place.store)
    assert store.collections() == {"r1-labels": 2, "r2-labels": 2}
    store.close()


def test_a_raised_overlap_asks_more_people_about_the_same(tmp_path: Path) -> None:
    asked = source(tmp_path / "judgements")
    with pytest.raises(Paused):
        asked.annotate([task("x")])
    store = AnnotationStore(asked.place.store)
    answer(store, "ann")
    assert len(list(asked.annotate([task("x")]))) == 1
    with pytest.raises(Paused, match="1 of 1"):
        asked.annotate([task("x", overlap=2)])
    answer(store, "ben")
    assert sorted(j.annotator.id for j in asked.annotate([task("x", overlap=2)])) == ["ann", "ben"]
    store.close()


def test_a_file_that_goes_away_leaves_its_place_to_others(tmp_path: Path) -> None:
    file = write(tmp_path / "judgements/a.jsonl", row("j1", "x"))
    asked = source(file.parent)
    for _ in range(2):
        with pytest.raises(Paused):
            asked.annotate([task("x", overlap=2)])
    store = AnnotationStore(asked.place.store)
    answer(store, "ben")
    assert len(list(asked.annotate([task("x", overlap=2)]))) == 2
    file.unlink()
    with pytest.raises(Paused):
        asked.annotate([task("x", overlap=2)])
    answer(store, "cleo")
    assert sorted(j.annotator.id for j in asked.annotate([task("x", overlap=2)])) == ["ben", "cleo"]
    store.close()


def test_what_was_exported_and_then_changed_on_the_page_counts_once(tmp_path: Path) -> None:
    asked = source(tmp_path / "judgements")
    with pytest.raises(Paused):
        asked.annotate([task("x")])
    store = AnnotationStore(asked.place.store)
    first = answer(store, "ann")
    write(tmp_path / "judgements/export.jsonl", first.model_dump(mode="json"))
    turned = Ranking(groups=(("x1",), ("x0",)))
    second = first.model_copy(update={"id": "second", "supersedes": first.id, "payload": turned})
    store.submit(second)
    (found,) = asked.annotate([task("x")])
    assert (found.id, found.payload, found.task_id) == ("second", turned, "x")
    store.close()


def test_a_corrected_gold_answer_replaces_the_old_one(tmp_path: Path) -> None:
    file = write(tmp_path / "gold.jsonl", gold("g", better=1))
    asked = source(tmp_path / "judgements", gold=str(file))
    for better in (1, 0):
        write(file, gold("g", better))
        with pytest.raises(Paused):
            asked.annotate([task("x")])
    store = AnnotationStore(asked.place.store)
    handed = [store.task(answer(store, "ann").task_id)[0].gold for _ in range(2)]
    assert handed == [Ranking(groups=(("g0",), ("g1",))), None]
    store.close()


def test_too_few_people_for_the_overlap_is_said(tmp_path: Path) -> None:
    asked = source(tmp_path / "judgements")
    AnnotationStore(asked.place.store).annotators.add("ann")
    with pytest.raises(Paused, match="each needs 2 people, and 1 are invited"):
        asked.annotate([task("x", overlap=2)])
