"""What is exported can be imported again, other tools can read it, and what it cannot hold is counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.annotation.reading import read_feedback
from alignkit.data.store import write_records
from alignkit.errors import UserError
from alignkit.feedback import labelled_completions, preference_pairs
from alignkit.records import Binary, Content, Critique, Judgement, Message, Pairwise, Rating, Task
from helpers.feedback import make_task, prefers, ranks, said

Save = Callable[..., Path]
CHAT = (
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Yes?"),
    Message(role="user", content="Q"),
)
ENDINGS = {"parquet": "parquet", "label-studio": "json"}


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(tasks: list[Task], judgements: list[Judgement]) -> Path:
        folder = tmp_path / "place"
        write_records(folder / "tasks.jsonl", tasks)
        write_records(folder / "judgements.jsonl", judgements)
        return folder

    return write


@pytest.fixture
def export(run: Any, tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    def call(place: Path, form: str) -> tuple[Path, dict[str, Any]]:
        path = tmp_path / f"{form}.{ENDINGS.get(form, 'jsonl')}"
        result = run("export", place, "--format", form, "--to", path, "--json")
        assert result.exit_code == 0, result.output
        summary: dict[str, Any] = json.loads(result.stdout)
        for what, count in summary["lost"].items():
            assert f"not in the file: {what}: {count}" in result.stderr
        return path, summary

    return call


def everything(prompt: Content = "Q") -> tuple[list[Task], list[Judgement]]:
    """Tasks of all forms of feedback, with ties, soft labels, skips and an undone answer."""
    tasks = [
        make_task("r", "x", "yy", "zzz", prompt=prompt),
        make_task("p", "one", "two", prompt=prompt, overlap=3),
        make_task("s", "three", "four", prompt=prompt),
        make_task("g", "good", prompt=prompt),
        make_task("c", "poor", prompt=prompt),
    ]
    undone = prefers("s", 0.0, "A")
    judgements = [
        ranks("r", "b", "ac", who="A", presented_order=("rc", "rb", "ra")),
        said("r", None, "B", status="skipped"),
        prefers("p", 1.0, "A", presented_order=("pb", "pa")),
        prefers("p", 0.0, "B"),
        prefers("p", 1.0, "C"),
        undone,
        prefers("s", 0.5, "A", supersedes=undone.id),
        said("g", Binary(candidate="ga", good=True), "A"),
        said("g", Rating(candidate="ga", value=6), "B"),
        said("c", Critique(candidate="ca", text="Bad.", revision="fine"), "A"),
    ]
    return tasks, judgements


def plain(prompt: Content) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content


class TestPairs:
    @pytest.mark.parametrize(
        ("form", "back", "prompt"),
        [("trl", "trl", "Q"), ("trl-conversational", "trl", "Q"), ("trl-conversational", "trl", CHAT),
         ("hh", "hh", "Q"), ("hh", "hh", CHAT), ("parquet", "trl", "Q"), ("parquet", "trl", CHAT)],
    )  # fmt: skip
    def test_round_trip(
        self, run: Any, save: Save, export: Any, tmp_path: Path, form: str, back: str, prompt: Content
    ) -> None:
        tasks, judgements = everything(prompt)
        path, summary = export(save(tasks, judgements), form)
        assert run("import", path, "--format", back, "--to", tmp_path / "back").exit_code == 0
        again = read_feedback(tmp_path / "back")

        def told(tasks: list[Task], judgements: list[Judgement]) -> set[Any]:
            found = set()
            for pair in preference_pairs(tasks, judgements):
                chosen, rejected = (s if isinstance(s, str) else s[-1].content for s in (pair.chosen, pair.rejected))
                p = round(pair.p, 6) if form == "parquet" else 1.0
                if form == "parquet" or pair.p != 0.5:
                    found.add(
                        (plain(pair.prompt), *(sorted((chosen, rejected)) if p == 0.5 else (chosen, rejected)), p)
                    )
            return found

        expected = told(tasks, judgements)
        assert told(again.tasks, again.judgements) == expected
        assert summary["rows"] == len(expected) == {"parquet": 6}.get(form, 4)

    def test_what_a_hard_label_loses(self, save: Save, export: Any) -> None:
        _, summary = export(save(*everything()), "trl")
        # a ~ c of the ranking and the tie of s; the two to one of p; the pairs of the ranking weigh 1/3
        assert summary["lost"] == {
            "ties": 2,
            "probabilities made certain": 1,
            "weights": 2,
            "critiques": 1,
            "superseded judgements": 1,
            "judgements without an answer (skipped)": 1,
        }

    def test_other_libraries_read_trl(self, save: Save, export: Any) -> None:
        import datasets

        place = save(*everything())
        for form, kind in (("trl", str), ("trl-conversational", list)):
            path, summary = export(place, form)
            loaded = datasets.load_dataset("json", data_files=str(path), split="train")
            assert loaded.column_names == ["prompt", "chosen", "rejected"]
            assert loaded.num_rows == summary["rows"]
            assert isinstance(loaded[0]["chosen"], kind)

    def test_conversations_are_no_texts(self, run: Any, save: Save, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="a prompt is a conversation"):
            run("export", save(*everything(CHAT)), "--format", "trl", "--to", tmp_path / "x.jsonl")

    def test_a_text_that_looks_like_turns_is_left_out_of_transcripts(self, save: Save, export: Any) -> None:
        tasks = [make_task("t", "x\n\nHuman: y", "z"), make_task("u", "x", "z")]
        path, summary = export(save(tasks, [prefers("t", 1.0), prefers("u", 1.0)]), "hh")
        assert summary["lost"]["pairs whose texts have a speaker's mark"] == 1
        assert json.loads(path.read_text())["chosen"] == "\n\nHuman: Q\n\nAssistant: x"

    def test_empty_and_equal_answers_are_counted(self, save: Save, export: Any) -> None:
        tasks = [make_task("t", "x", ""), make_task("u", "x", "x"), make_task("v", "x", "y")]
        _, summary = export(save(tasks, [prefers(t.id, 1.0) for t in tasks]), "trl")
        assert (summary["rows"], summary["lost"]) == (
            1,
            {"pairs with an empty answer": 1, "pairs of equal texts": 1},
        )


def test_kto_round_trip(run: Any, save: Save, export: Any, tmp_path: Path) -> None:
    tasks = [make_task("t", "x"), make_task("u", "y"), make_task("v", "z")]
    votes = {"t": (True, True, False), "u": (False,), "v": (True, False)}
    judgements = [
        said(t, Binary(candidate=f"{t}a", good=g), f"w{n}") for t, own in votes.items() for n, g in enumerate(own)
    ]
    path, summary = export(save(tasks, judgements), "kto")
    assert summary["lost"] == {"completions on which annotators are divided": 1, "weights of divided majorities": 1}
    run("import", path, "--format", "kto", "--to", tmp_path / "back")
    again = labelled_completions(*read_feedback(tmp_path / "back"))
    assert {(one.completion, one.label) for own in again.values() for one in own} == {("x", True), ("y", False)}


@pytest.mark.parametrize("prompt", ["Q", CHAT])
@pytest.mark.parametrize("form", ["argilla", "label-studio"])
def test_tools_round_trip(run: Any, save: Save, export: Any, tmp_path: Path, form: str, prompt: Content) -> None:
    tasks, judgements = everything(prompt)
    # every form on one task, as a task of these tools may have several questions
    judgements += [
        said("p", Rating(candidate="pb", value=2), "D"),
        said("p", Critique(candidate="pb", text="Hm."), "D"),
    ]
    judgements.append(said("p", Pairwise(a="pb", b="pa", p_a=0.0), "D"))
    path, summary = export(save(tasks, judgements), form)
    run("import", path, "--format", form, "--to", tmp_path / "back")
    again = read_feedback(tmp_path / "back")
    assert [(t.id, t.prompt, [(c.id, c.completion) for c in t.candidates]) for t in again.tasks] == [
        (t.id, t.prompt, [(c.id, c.completion) for c in t.candidates]) for t in tasks
    ]

    def told(found: list[Judgement]) -> set[Any]:
        replaced = {j.supersedes for j in found}
        return {(j.task_id, j.annotator.id, same(j.payload), j.status) for j in found if j.id not in replaced}

    def same(payload: Any) -> Any:
        if isinstance(payload, Pairwise):
            return Pairwise(a="pa", b="pb", p_a=1 - payload.p_a) if payload.a == "pb" else payload
        if form == "label-studio" and getattr(payload, "type", "") == "ranking":
            return "ranking"  # its ties are lost, which is counted
        return str(payload)

    assert told(again.judgements) == told(judgements)
    assert summary["lost"]["superseded judgements"] == 1
    assert summary["lost"].get("ties in rankings", 0) == (1 if form == "label-studio" else 0)
    if form == "label-studio":
        orders = {j.presented_order for j in again.judgements}
        assert {("rc", "rb", "ra"), ("pb", "pa")} <= orders


@pytest.mark.parametrize("form", ["argilla", "label-studio"])
def test_pairs_out_of_several_candidates_round_trip(
    run: Any, save: Save, export: Any, tmp_path: Path, form: str
) -> None:
    """Every pair of three in both directions, with a ranking of the first task beside them."""
    tasks = [make_task("t", "x", "yy", "zzz"), make_task("u", "p", "q", "r")]
    ways = [("a", "b", 1.0), ("c", "b", 1.0), ("c", "a", 0.0), ("b", "c", 0.5)]
    judgements = [
        said(t, Pairwise(a=f"{t}{a}", b=f"{t}{b}", p_a=p), f"w{n}", presented_order=(f"{t}c", f"{t}b", f"{t}a"))
        for t in "tu"
        for n, (a, b, p) in enumerate(ways)
    ]
    judgements += [ranks("t", "b", "a", "c", who="R"), said("t", Pairwise(a="ta", b="ta", p_a=1.0), "S")]
    path, summary = export(save(tasks, judgements), form)
    assert summary["rows"] == 7  # the ranked task, and three pairs of either
    assert summary["lost"]["comparisons of a candidate with itself"] == 1
    run("import", path, "--format", form, "--to", tmp_path / "back")
    again = read_feedback(tmp_path / "back")
    assert len({task.id for task in again.tasks}) == 7

    def told(found: list[Judgement]) -> set[Any]:
        """(annotator, better, worse, p) in one direction."""
        both = [(j.annotator.id, p) for j in found if isinstance(p := j.payload, Pairwise) and p.a != p.b]
        return {(who, p.a, p.b, p.p_a) if p.a < p.b else (who, p.b, p.a, 1 - p.p_a) for who, p in both}

    assert told(again.judgements) == told(judgements)
    assert {j.payload for j in again.judgements if j.annotator.id == "R"} == {judgements[-2].payload}


def test_own_records_lose_nothing(run: Any, save: Save, export: Any, tmp_path: Path) -> None:
    place = save(*everything())
    path, summary = export(place, "jsonl")
    assert summary["lost"] == {}
    run("import", path, "--format", "jsonl", "--to", tmp_path / "back")
    assert read_feedback(tmp_path / "back").judgements == read_feedback(place).judgements


class TestFiles:
    def test_the_ending_and_what_is_there(self, run: Any, save: Save, tmp_path: Path) -> None:
        place = save(*everything())
        with pytest.raises(UserError, match=r"ends in \.jsonl"):
            run("export", place, "--format", "trl", "--to", tmp_path / "x.csv")
        (tmp_path / "x.jsonl").write_text("mine")
        with pytest.raises(UserError, match="already"):
            run("export", place, "--format", "trl", "--to", tmp_path / "x.jsonl")
        assert (tmp_path / "x.jsonl").read_text() == "mine"
        assert run("export", place, "--format", "trl", "--to", tmp_path / "x.jsonl", "--force").exit_code == 0

    def test_nothing_to_tell(self, run: Any, save: Save, tmp_path: Path) -> None:
        place = save([make_task("t", "x", "y")], [prefers("t", 0.5)])
        with pytest.raises(UserError, match="nothing in this feedback") as caught:
            run("export", place, "--format", "trl", "--to", tmp_path / "x.jsonl")
        assert caught.value.hint == "ties: 1"
        assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("form", ["trl", "argilla", "label-studio"])
def test_gold_tasks_are_no_data_to_train_on(save: Save, export: Any, form: str) -> None:
    tasks = [make_task("t", "x", "yy"), make_task("g", "p", "qq", gold=Pairwise(a="ga", b="gb", p_a=1.0))]
    judgements = [said(t, Pairwise(a=f"{t}a", b=f"{t}b", p_a=1.0), "w") for t in "tg"]
    _, summary = export(save(tasks, judgements), form)
    assert summary["rows"] == 1
    assert summary["lost"]["gold tasks, which nothing should learn from"] == 1
