"""Feedback is found wherever a run or an import left it, and what does not fit together is named with its place."""

from pathlib import Path

import pytest

from alignkit.annotation import AnnotationStore
from alignkit.annotation.questions import Questions
from alignkit.annotation.reading import Feedback, read_feedback
from alignkit.data.store import write_records
from alignkit.errors import UserError
from alignkit.records import Judgement, Task
from helpers.feedback import make_task, prefers, ranks, said


def write(folder: Path, tasks: list[Task], judgements: list[Judgement]) -> Path:
    write_records(folder / "tasks.jsonl", tasks)
    write_records(folder / "judgements.jsonl", judgements)
    return folder


def test_a_folder(tmp_path: Path) -> None:
    old = prefers("t", 1.0)
    expected = Feedback([make_task("t", "x", "y")], [old, prefers("t", 0.0, supersedes=old.id)])
    assert read_feedback(write(tmp_path, *expected)) == expected


def test_a_store_with_what_was_superseded(tmp_path: Path) -> None:
    task, old = make_task("t", "x", "y"), prefers("t", 1.0)
    new = prefers("t", 0.0, supersedes=old.id)
    store = AnnotationStore(tmp_path / "labels.sqlite")
    store.publish("one", "pairwise", [task])
    for judgement in (old, new):
        store.submit(judgement)
    store.close()
    assert read_feedback(tmp_path / "labels.sqlite") == Feedback([task], [old, new])


def test_a_run_takes_finished_steps_from_their_folder_and_the_others_from_the_store(tmp_path: Path) -> None:
    done, open_ = make_task("t1", "x", "y", "z"), make_task("t2", "x", "y", "z")
    finished = [ranks("t1", "a", "b", "c")]
    write(tmp_path / "r1" / "03-labels", [done], finished)
    write_records(tmp_path / "r2" / "03-labels" / "tasks.jsonl", [open_])
    store = AnnotationStore(tmp_path / "annotations.sqlite")
    answers = []
    for collection, task in (("r1-labels", done), ("r2-labels", open_)):
        questions = Questions([task], "pairwise").all
        store.publish(collection, "pairwise", questions)
        first = questions[0]
        answer = prefers(first.id, 1.0).model_dump()
        answer["payload"] |= {"a": first.candidates[0].id, "b": first.candidates[1].id}
        answers.append(Judgement.model_validate(answer))
        store.submit(answers[-1])
    store.close()
    found = read_feedback(tmp_path)
    assert found.judgements == [*finished, answers[1]]
    assert [task.id for task in found.tasks] == ["t1", *(q.id for q in Questions([open_], "pairwise").all)]


def test_a_run_whose_rounds_asked_the_same(tmp_path: Path) -> None:
    task, answer = make_task("t", "x", "y"), prefers("t", 1.0)
    for round in (1, 2):
        write(tmp_path / f"r{round}" / "02-collect", [task], [answer])
    assert read_feedback(tmp_path) == Feedback([task], [answer])


class TestMistakes:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file or folder"):
            read_feedback(tmp_path / "none")
        with pytest.raises(UserError, match="there is no feedback here"):
            read_feedback(tmp_path)

    def test_a_waiting_run(self, tmp_path: Path) -> None:
        write_records(tmp_path / "r1" / "01-c" / "tasks.jsonl", [make_task("t", "x", "y")])
        with pytest.raises(UserError, match="waits for judgements"):
            read_feedback(tmp_path)
        with pytest.raises(UserError, match="nobody has judged them"):
            read_feedback(tmp_path / "r1" / "01-c")

    def test_another_file_is_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "data.jsonl"
        path.write_text('{"a": 1}\n')
        with pytest.raises(UserError, match="not an annotation store"):
            read_feedback(path)
        assert path.read_text() == '{"a": 1}\n'
        empty = tmp_path / "empty.sqlite"  # SQLite would take it for a new database and write its tables
        empty.touch()
        with pytest.raises(UserError, match="not an annotation store"):
            read_feedback(empty)
        assert empty.stat().st_size == 0
        assert sorted(tmp_path.iterdir()) == [path, empty]

    def test_a_damaged_line_is_named(self, tmp_path: Path) -> None:
        write(tmp_path, [make_task("t", "x", "y")], [prefers("t", 1.0)])
        with (tmp_path / "judgements.jsonl").open("a") as file:
            file.write('{"id": "j"}\n')
        with pytest.raises(UserError) as caught:
            read_feedback(tmp_path)
        assert caught.value.where == f"{tmp_path / 'judgements.jsonl'}:2"

    @pytest.mark.parametrize(
        ("judgement", "problem"),
        [
            (prefers("u", 1.0), "task 'u', which is not there"),
            (ranks("t", "a", "c"), "candidate 'tc' is not in task 't'"),
            (prefers("t", 1.0, presented_order=("tb", "tx")), "candidate 'tx'"),
        ],
    )
    def test_what_is_not_there(self, tmp_path: Path, judgement: Judgement, problem: str) -> None:
        write(tmp_path, [make_task("t", "x", "y")], [prefers("t", 1.0), judgement])
        with pytest.raises(UserError, match=problem) as caught:
            read_feedback(tmp_path)
        assert caught.value.where == f"{tmp_path / 'judgements.jsonl'}:2"

    def test_two_records_with_one_id(self, tmp_path: Path) -> None:
        tasks = [make_task("t", "x", "y")]
        write(tmp_path, [*tasks, make_task("t", "x", "other")], [])
        with pytest.raises(UserError, match="another task 't'"):
            read_feedback(tmp_path)
        write(tmp_path, tasks, [prefers("t", 1.0, id="j"), said("t", None, id="j", status="skipped")])
        with pytest.raises(UserError, match="another judgement 'j'"):
            read_feedback(tmp_path)
