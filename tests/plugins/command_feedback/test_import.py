"""Files of other tools become the tasks and judgements one reads in them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from alignkit.annotation import AnnotationStore
from alignkit.annotation.reading import Feedback, read_feedback
from alignkit.errors import UserError
from alignkit.feedback import preference_pairs
from alignkit.records import Binary, Critique, Judgement, Message, Pairwise, Ranking, Rating
from alignkit_plugins.command_feedback.command import EXPORTS, IMPORTS
from alignkit_plugins.command_feedback.exporting import write as exporting
from alignkit_plugins.command_feedback.importing.forms import FORMS
from helpers.feedback import make_task, prefers, said

Data = Callable[..., Path]
PAIR = {"prompt": "Name a colour.", "chosen": " Blue.", "rejected": " Seven."}


def test_names_on_the_command_line_are_those_there_are() -> None:
    assert tuple(FORMS) == IMPORTS
    assert tuple(exporting.EXPORTS) == EXPORTS


@pytest.fixture
def imported(run: Any, tmp_path: Path) -> Callable[..., Feedback]:
    def call(path: Path, form: str, *more: Any) -> Feedback:
        result = run("import", path, "--format", form, "--to", tmp_path / "out", *more)
        assert result.exit_code == 0, result.output
        return read_feedback(tmp_path / "out")

    return call


def won(feedback: Feedback, number: int = 0) -> list[tuple[str, str, float]]:
    """(chosen, rejected, p) of the pairs of a task."""
    task = feedback.tasks[number]
    return [(str(p.chosen), str(p.rejected), p.p) for p in preference_pairs([task], feedback.judgements)]


def texts(feedback: Feedback, judgement: Judgement) -> dict[str, str]:
    return {c.id: c.completion for t in feedback.tasks if t.id == judgement.task_id for c in t.candidates}


class TestTRL:
    def test_explicit_prompt(self, data: Data, imported: Any) -> None:
        found = imported(data(PAIR), "trl", "--as", "crowd")
        assert won(found) == [(" Blue.", " Seven.", 1.0)]
        assert found.tasks[0].prompt == "Name a colour."
        assert found.judgements[0].annotator.id == "crowd"
        candidate = found.tasks[0].candidates[0]
        assert (candidate.policy_revision, candidate.prompt_ids, candidate.completion_ids) == ("imported", (), ())

    def test_implicit_prompt(self, data: Data, imported: Any) -> None:
        found = imported(data({"chosen": "The sky is blue.", "rejected": "The sky is seven."}), "trl")
        assert (found.tasks[0].prompt, won(found)) == ("The sky is", [(" blue.", " seven.", 1.0)])

    def test_conversation(self, data: Data, imported: Any) -> None:
        user, good, bad = (
            {"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Hello"), ("assistant", "No"))
        )
        found = imported(data({"chosen": [user, good], "rejected": [user, bad]}), "trl")
        assert found.tasks[0].prompt == (Message(role="user", content="Hi"),)
        assert {c.completion for c in found.tasks[0].candidates} == {"Hello", "No"}

    def test_the_place_of_a_candidate_does_not_tell_which_was_chosen(self, data: Data, imported: Any) -> None:
        rows = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(200)]
        found = imported(data(*rows), "trl")
        first = sum(task.candidates[0].completion.startswith("good") for task in found.tasks)
        assert 70 < first < 130  # more than four standard deviations from 1/2 on either side

    def test_vote_columns_become_voters(self, data: Data, imported: Any) -> None:
        row = {**PAIR, "for": 3, "against": 1, "equal": 1}
        options = [f"-o votes_{name}={column}" for name, column in (("for", "for"), ("against", "against"))]
        flags = [part for option in [*options, "-o votes_equal=equal"] for part in option.split()]
        found = imported(data(row, row), "trl", *flags)
        assert len(found.judgements) == 10  # an equal row is another item, judged by other people
        assert won(found) == won(found, 1) == [(" Blue.", " Seven.", pytest.approx(0.7))]
        assert found.tasks[0].overlap == 5

    def test_probability_column(self, data: Data, imported: Any) -> None:
        assert won(imported(data({**PAIR, "p": 0.8}), "trl")) == [(" Blue.", " Seven.", pytest.approx(0.8))]

    def test_a_repeated_row_is_counted(self, data: Data, run: Any, tmp_path: Path) -> None:
        result = run("import", data(PAIR, PAIR), "--format", "trl", "--to", tmp_path / "out", "--json")
        summary = json.loads(result.stdout)
        assert (summary["rows"], summary["judgements"], summary["repeated"]) == (2, 1, 1)


def test_hh_transcripts_gzipped(tmp_path: Path, imported: Any) -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    path = tmp_path / "hh.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"chosen": f"{start} So.", "rejected": f"{start} No."}).encode()))
    found = imported(path, "hh")
    assert [m.content for m in found.tasks[0].prompt] == ["Hi", "Hello", "Why?"]
    by_id = texts(found, found.judgements[0])
    assert by_id[found.judgements[0].payload.a] == "So."


def test_kto(data: Data, imported: Any) -> None:
    rows = [{"prompt": "p", "completion": text, "label": label} for text, label in (("x", True), ("y", False))]
    found = imported(data(*rows), "kto")
    assert [j.payload.good for j in found.judgements if isinstance(j.payload, Binary)] == [True, False]
    assert [len(task.candidates) for task in found.tasks] == [1, 1]


class TestVotes:
    ROW: ClassVar[dict[str, Any]] = {"instruction": "Do it", "input": "", "r1": "one", "r2": "two"}
    FLAGS = ("-o", "prompt=instruction,input", "-o", "first=r1", "-o", "second=r2")

    def test_a_list_of_numbers(self, data: Data, imported: Any) -> None:
        found = imported(data({**self.ROW, "votes": [1, 2, 0, 1]}), "votes", "--as", "p", *self.FLAGS)
        assert [(j.annotator.id, j.payload.p_a) for j in found.judgements] == [
            ("p-1", 1.0), ("p-2", 0.0), ("p-3", 0.5), ("p-4", 1.0),
        ]  # fmt: skip
        assert [c.completion for c in found.tasks[0].candidates] == ["one", "two"]
        assert found.tasks[0].prompt == "Do it"

    def test_by_worker_with_texts_in_another_file(self, data: Data, imported: Any) -> None:
        data({"id": "x", "text": "one"}, {"id": "y", "text": "two"}, name="texts.jsonl")
        path = data({"prompt": "p", "a": "x", "b": "y", "votes": {"w1": "a2", "w2": "equal"}})
        flags = ("-o", "first=a", "-o", "second=b", "-o", f"texts={path.parent / 'texts.jsonl'}")
        found = imported(path, "votes", *flags)
        assert {j.annotator.id: j.payload.p_a for j in found.judgements} == {"w1": 0.0, "w2": 0.5}
        assert won(found) == [("two", "one", 0.75)]

    def test_models_in_both_orders_and_without_an_answer(self, data: Data, imported: Any) -> None:
        votes = {"GPT-4": [1, 1], "ChatGPT": [1, 2], "small": None, "broken": [1, None]}
        found = imported(data({**self.ROW, "votes": votes}), "votes", "--kind", "model", *self.FLAGS)
        by_model = {j.annotator.id: j for j in found.judgements}
        assert {name: j.status for name, j in by_model.items()} == {
            "GPT-4": "ok", "ChatGPT": "ok", "small": "parse_error", "broken": "parse_error",
        }  # fmt: skip
        assert by_model["ChatGPT"].payload.p_a == 0.5
        evidence = by_model["ChatGPT"].evidence
        assert (evidence.p_given, evidence.p_swapped) == (1.0, 0.0)
        assert by_model["GPT-4"].annotator.kind == "model"

    def test_graded_labels_of_named_raters(self, data: Data, imported: Any) -> None:
        votes = [{"rater": "r0", "preference": "a-is-slightly-better"}, {"rater": "r1", "preference": "b-is-better"}]
        found = imported(data({**self.ROW, "votes": votes}), "votes", *self.FLAGS)
        assert {j.annotator.id: j.payload.p_a for j in found.judgements} == {"r0": 0.75, "r1": 0.0}

    def test_own_labels(self, data: Data, imported: Any) -> None:
        found = imported(data({**self.ROW, "votes": "Oben"}), "votes", *self.FLAGS, "-o", "values={oben: 1, unten: 0}")
        assert won(found) == [("one", "two", 1.0)]

    @pytest.mark.parametrize("words", ["{yes: 1, no: 0}", "{true: 1, false: 0}", "{on: 1, off: 0}", "{1: 1, 0: 0}"])
    def test_labels_are_what_was_written(self, data: Data, imported: Any, words: str) -> None:
        first, second = (part.split(":")[0] for part in words.strip("{}").split(", "))
        votes = [json.loads(word) if word in ("true", "false", "1", "0") else word for word in (first, first, second)]
        found = imported(data({**self.ROW, "votes": votes}), "votes", *self.FLAGS, "-o", f"values={words}")
        assert won(found) == [("one", "two", pytest.approx(2 / 3))]

    @pytest.mark.parametrize(("votes", "refused"), [([0, 1], True), ([0], True), ([1], False), ([0, 1, 2], False)])
    def test_zero_and_one_alone_may_mean_anything(
        self, run: Any, data: Data, tmp_path: Path, votes: list[int], refused: bool
    ) -> None:
        rows = [{**self.ROW, "input": str(n), "votes": vote} for n, vote in enumerate(votes)]
        flags = ("--format", "votes", "--to", tmp_path / "out", *self.FLAGS)
        if refused:
            with pytest.raises(UserError, match="several things"):
                run("import", data(*rows), *flags)
            assert not (tmp_path / "out").exists()
            assert run("import", data(*rows), *flags, "-o", "values={1: 1, 0: 0.5}").exit_code == 0
        else:
            assert run("import", data(*rows), *flags).exit_code == 0


def test_a_label_that_yaml_takes_for_true(data: Data, imported: Any) -> None:
    row = {"prompt": "p", "response_1": "x", "label_1.responses": ["yes", "no"]}
    found = imported(data(row), "argilla", "-o", "good=yes", "-o", "bad=no")
    assert [j.payload.good for j in found.judgements if isinstance(j.payload, Binary)] == [True, False]


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("trl", PAIR),
        ("kto", {"prompt": "p", "completion": "x", "label": True}),
        ("votes", {"prompt": "p", "first": "x", "second": "y", "votes": [1]}),
        ("argilla", {"prompt": "p", "response_1": "x", "rating_1.responses": [3], "rating_1.responses.users": ["u"]}),
    ],
)
def test_columns_that_nobody_reads_are_counted(run: Any, data: Data, tmp_path: Path, form: str, row: Any) -> None:
    more = [{**row, "source": "web", "split": None}, {**row, "prompt": "other", "source": "book"}]
    result = run("import", data(row, *more), "--format", form, "--to", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["lost"] == {"column 'source'": 2}


class TestTheSameTaskTwice:
    def test_its_known_answer_is_kept(self, run: Any, data: Data, tmp_path: Path) -> None:
        plain = make_task("t", "x", "y", overlap=3)
        gold = make_task("t", "x", "y", gold=Pairwise(a="ta", b="tb", p_a=1.0))
        path = data(plain.model_dump(), gold.model_dump(), *(prefers("t", 1.0, w).model_dump() for w in "AB"))
        summary = json.loads(run("import", path, "--format", "jsonl", "--to", tmp_path / "out", "--json").stdout)
        (task,) = read_feedback(tmp_path / "out").tasks
        assert (task.gold, task.overlap) == (gold.gold, 3)
        assert summary["lost"] == {"overlaps smaller than another one of the task": 1}

    def test_another_known_answer_is_counted(self, run: Any, data: Data, tmp_path: Path) -> None:
        tasks = [make_task("t", "x", "y", gold=Pairwise(a="ta", b="tb", p_a=p)) for p in (1.0, 0.0)]
        path = data(*(t.model_dump() for t in tasks), prefers("t", 1.0).model_dump())
        summary = json.loads(run("import", path, "--format", "jsonl", "--to", tmp_path / "out", "--json").stdout)
        assert read_feedback(tmp_path / "out").tasks[0].gold == tasks[0].gold
        assert summary["lost"] == {"known answers (gold) other than the task's first": 1}

    def test_own_tasks_ask_for_as_many_answers_as_they_did(self, run: Any, data: Data, tmp_path: Path) -> None:
        path = data(make_task("t", "x", "y").model_dump(), *(prefers("t", 1.0, w).model_dump() for w in "AB"))
        run("import", path, "--format", "jsonl", "--to", tmp_path / "out")
        assert read_feedback(tmp_path / "out").tasks[0].overlap == 1


def test_ratings(data: Data, imported: Any) -> None:
    found = imported(data({"t": "fine", "s": [21, 11]}), "ratings", "-o", "text=t", "-o", "ratings=s", "-o", "high=25")
    ratings = [j.payload for j in found.judgements if isinstance(j.payload, Rating)]
    assert [(r.value, r.low, r.high) for r in ratings] == [(21, 1, 25), (11, 1, 25)]


def test_summaries_of_several_workers_meet_in_one_task(data: Data, run: Any, tmp_path: Path) -> None:
    info = {"id": "t3", "post": "I ran.", "title": "Run", "subreddit": "sports"}
    summaries = [{"text": " He ran.", "policy": "sup1", "note": "ok"}, {"text": " He sat.", "policy": "ref"}]
    row = {
        "info": info,
        "split": "train",
        "summaries": summaries,
        "choice": 0,
        "worker": "w1",
        "extra": {"confidence": 7},
    }
    other = {**row, "summaries": summaries[::-1], "worker": "w2"}
    result = run("import", data(row, other), "--format", "summarize", "--to", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["lost"] == {
        "confidences": 2,
        "notes": 2,
        "policies": 4,
        "column 'split'": 2,
    }
    found = read_feedback(tmp_path / "out")
    assert len(found.tasks) == 1
    assert found.tasks[0].prompt == "SUBREDDIT: r/sports\n\nTITLE: Run\n\nPOST: I ran.\n\nTL;DR:"
    assert won(found) == [(" He ran.", " He sat.", 0.5)]
    assert {j.annotator.id for j in found.judgements} == {"w1", "w2"}


class TestUltraFeedback:
    ROW: ClassVar[dict[str, Any]] = {
        "instruction": "Why?",
        "completions": [
            {"response": "Because.", "overall_score": 8.5, "fine-grained_score": 4.25, "critique": "Short.",
             "model": "m", "annotations": {"helpfulness": {"Rating": "4"}, "honesty": {"Rating": "N/A"}}},
            {"response": "No.", "overall_score": 2, "fine-grained_score": 1.0, "critique": "",
             "annotations": {"helpfulness": {"Rating": "1"}, "honesty": {"Rating": "3"}}},
        ],
    }  # fmt: skip

    @pytest.mark.parametrize(
        ("rating", "values", "high"),
        [("overall_score", [8.5, 2], 10), ("fine-grained_score", [4.25, 1], 5), ("helpfulness", [4, 1], 5)],
    )
    def test_ratings(self, data: Data, imported: Any, rating: str, values: list[float], high: float) -> None:
        found = imported(data(self.ROW), "ultrafeedback", "--kind", "model", "-o", f"rating={rating}")
        ratings = [j.payload for j in found.judgements]
        assert [(r.value, r.high) for r in ratings] == [(value, high) for value in values]
        assert won(found) == [("Because.", "No.", 1.0)]

    def test_what_is_not_rated_is_counted_and_critiques_can_be_kept(self, data: Data, run: Any, tmp_path: Path) -> None:
        flags = ("--format", "ultrafeedback", "--to", tmp_path / "out", "--json", "-o", "rating=honesty")
        lost = json.loads(run("import", data(self.ROW), *flags).stdout)["lost"]
        assert lost == {"critiques": 1, "models": 1, "unrated answers": 1}
        run("import", data(self.ROW), *flags, "-o", "critiques=true", "--force")
        words = [j.payload.text for j in read_feedback(tmp_path / "out").judgements if isinstance(j.payload, Critique)]
        assert words == ["Short."]


def test_argilla(data: Data, imported: Any) -> None:
    row = {
        "id": "r1", "prompt": "Why?", "response_1": "So.", "response_2": "No.", "status": "completed",
        "ranking.responses": [
            [{"value": "response_2", "rank": 1}, {"value": "response_1", "rank": 1}], ["response_1", "response_2"],
        ],
        "ranking.responses.users": ["u1", "u2"], "ranking.responses.status": ["submitted", "submitted"],
        "preference.responses": ["response_2", None, "tie"], "preference.responses.users": ["u1", "u3", "u4"],
        "preference.responses.status": ["submitted", "discarded", "draft"],
        "rating_2.responses": [5], "rating_2.responses.users": ["u1"], "label_1.responses": ["good"],
        "critique_1.responses": ["Dull."], "critique_1.responses.users": ["u5"],
        "revision_1.responses": ["So it is."], "revision_1.responses.users": ["u5"],
    }  # fmt: skip
    found = imported(data(row), "argilla")
    a, b = (c.id for c in found.tasks[0].candidates)
    payloads = {(j.annotator.id, type(j.payload).__name__): j.payload for j in found.judgements}
    assert payloads["u1", "Ranking"].groups == ((b, a),)
    assert payloads["u2", "Ranking"].groups == ((a,), (b,))
    assert payloads["u1", "Pairwise"].p_a == 0.0
    assert (payloads["u1", "Rating"].candidate, payloads["u1", "Rating"].value) == (b, 5)
    assert payloads["imported-1", "Binary"] == Binary(candidate=a, good=True)
    assert payloads["u5", "Critique"] == Critique(candidate=a, text="Dull.", revision="So it is.")
    assert payloads["u3", "NoneType"] is None
    assert len(found.judgements) == 7


class TestArgillaQuestions:
    def rated(self, found: Feedback) -> dict[str, float]:
        by_id = {c.id: c.completion for c in found.tasks[0].candidates}
        return {by_id[j.payload.candidate]: j.payload.value for j in found.judgements if isinstance(j.payload, Rating)}

    def test_the_number_is_that_of_the_answers_name(self, data: Data, imported: Any) -> None:
        row = {"prompt": "p", "response_1": "x", "response_2": None, "response_3": "z", "rating_3.responses": [7]}
        assert self.rated(imported(data(row), "argilla")) == {"z": 7}
        named = {"prompt": "p", "answer_0": "x", "answer_1": "y", "rating_1.responses": [6]}
        assert self.rated(imported(data(named), "argilla", "--force")) == {"y": 6}
        turned = ("-o", "answers=[answer_1, answer_0]", "--force")
        assert self.rated(imported(data(named), "argilla", *turned)) == {"y": 6}

    def test_the_place_counts_where_names_have_no_number(self, data: Data, imported: Any) -> None:
        row = {"prompt": "p", "old": "x", "new": "y", "rating_2.responses": [7]}
        assert self.rated(imported(data(row), "argilla", "-o", "answers=[old, new]")) == {"y": 7}

    def test_what_is_about_something_else_is_counted(self, data: Data, run: Any, tmp_path: Path) -> None:
        row = {
            "prompt": "p", "response_1": "x", "response_2": "y", "rating_1.responses": [4], "rating_3.responses": [4],
            "topics.responses": [["maths", "style"]], "span.responses": [[{"label": "name", "start": 0, "end": 2}]],
            "critique_1.responses": ["Dull."], "critique_1.responses.users": ["u"],
            "revision_1.responses": ["So it is."], "revision_1.responses.users": ["u"],
            "revision_2.responses": ["of no critique"], "revision_2.responses.users": ["u"],
        }  # fmt: skip
        flags = ("--format", "argilla", "--to", tmp_path / "out", "--json")
        summary = json.loads(run("import", data(row), *flags).stdout)
        assert summary["judgements"] == 2
        assert summary["lost"] == {
            f"responses to {question}": 1 for question in ("rating_3", "revision_2", "span", "topics")
        }


def test_label_studio(tmp_path: Path, imported: Any) -> None:
    def annotation(who: Any, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"completed_by": who, "was_cancelled": False, "result": list(results), **more}

    task = {
        "id": 7,
        "data": {"prompt": "Why?", "answer1": "So.", "answer2": "No."},
        "annotations": [
            annotation(3, {"type": "pairwise", "from_name": "pw", "value": {"selected": "right"}}),
            annotation({"id": 4}, {"type": "choices", "from_name": "c", "value": {"choices": ["tie"]}}),
            annotation({"email": "e@x"}, {"from_name": "r", "value": {"ranker": {"rank": ["answer2", "answer1"]}}}),
            annotation(5, {"type": "rating", "from_name": "stars", "to_name": "answer2", "value": {"rating": 4}},
                       {"type": "choices", "from_name": "thumb", "to_name": "answer1", "value": {"choices": ["bad"]}},
                       {"type": "labels", "from_name": "spans", "to_name": "answer1", "value": {"start": 1}}),
            annotation(6, was_cancelled=True),
        ],
        "predictions": [{}],
    }  # fmt: skip
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task], indent=1))
    found = imported(path, "label-studio")
    a, b = (c.id for c in found.tasks[0].candidates)
    assert [(j.annotator.id, j.payload) for j in found.judgements] == [
        ("3", Pairwise(a=a, b=b, p_a=0.0)),
        ("4", Pairwise(a=a, b=b, p_a=0.5)),
        ("e@x", Ranking(groups=((b,), (a,)))),
        ("5", Rating(candidate=b, value=4, low=1, high=5)),
        ("5", Binary(candidate=a, good=False)),
        ("6", None),
    ]
    assert found.judgements[0].presented_order == (a, b)


def test_own_records(data: Data, imported: Any) -> None:
    task, judgement = make_task("t", "x", "y", overlap=3), prefers("t", 0.3, presented_order=("tb", "ta"))
    found = imported(data(judgement.model_dump(), task.model_dump()), "jsonl")
    assert found == Feedback([task], [judgement])


BAD: list[tuple[str, Any, str, tuple[str, ...]]] = [
    ("trl", "{not json", "not valid JSON", ()),
    ("trl", [1, 2], "a row is a JSON object", ()),
    ("trl", {"prompt": "p", "chosen": "x"}, "'rejected' is missing", ()),
    ("trl", {**PAIR, "rejected": PAIR["chosen"]}, "are equal", ()),
    ("trl", {**PAIR, "p": 1.5}, "not a probability", ()),
    ("trl", {**PAIR, "n": -1}, "not a number of votes", ("-o", "votes_for=n")),
    ("trl", {**PAIR, "n": 0}, "nobody voted", ("-o", "votes_for=n")),
    ("trl", {**PAIR, "chosen": 3}, "not text", ()),
    ("hh", {"chosen": "Hello", "rejected": "Hi"}, "does not begin with 'Human:'", ()),
    ("kto", {"prompt": "p", "completion": "c", "label": 1}, "not true or false", ()),
    ("votes", {"prompt": "p", "first": "x", "second": "y", "votes": 7}, "unknown label 7", ()),
    ("votes", {"prompt": "p", "first": "x", "second": "y", "votes": True}, "unknown label True", ()),
    ("votes", {"prompt": "p", "first": "x", "second": "y", "votes": []}, "has no vote", ()),
    ("votes", {"prompt": "p", "first": "x", "second": "y", "votes": {"w": [1, 2, 1]}}, "3 answers of one judge", ()),
    ("votes", {"prompt": "p", "first": "x", "votes": 1}, "'second' is missing", ()),
    ("ratings", {"text": "t", "ratings": [9]}, "outside the scale 1 to 5", ()),
    ("ratings", {"text": "t", "ratings": ["good"]}, "not a number", ()),
    ("ratings", {"text": "t", "ratings": "nan"}, "not a finite number", ()),
    ("summarize", {"info": {"post": "p"}, "summaries": [{"text": "x"}], "choice": 0}, "list of two", ()),
    ("summarize", {"info": {"post": "p"}, "summaries": [{"text": "x"}, {"text": "y"}], "choice": 2}, "not 0 or 1", ()),
    ("summarize", {"info": {}, "summaries": [{"text": "x"}, {"text": "y"}], "choice": 0}, "'article' is missing", ()),
    ("ultrafeedback", {"instruction": "i", "completions": []}, "not a list of objects", ()),
    ("ultrafeedback", {"instruction": "i", "completions": [{"response": "r", "overall_score": "11"}]}, "outside", ()),
    ("argilla", {"prompt": "p", "text": "x"}, "no answers", ()),
    ("argilla", {"prompt": "p", "response_1": "x", "q.responses": [1], "q.responses.users": []}, "one length", ()),
    (
        "argilla",
        {"prompt": "p", "response_1": "x", "q.responses": [["response_1", 2]]},
        "not the rank",
        (),
    ),
    ("label-studio", {"data": {"prompt": "p", "answer1": "x"}, "annotations": [{}]}, "no list 'result'", ()),
    ("label-studio", {"annotations": []}, "'data' is missing", ()),
    ("jsonl", {"id": "t", "prompt": "p"}, "not a task: candidates", ()),
    ("jsonl", said("t", Pairwise(a="ta", b="ta", p_a=1.0)).model_dump(), "with itself", ()),
    ("jsonl", {"id": "j", "task_id": "t", "annotator": {"id": "a", "kind": "cat"}}, "not a judgement", ()),
]


@pytest.mark.parametrize(("form", "row", "problem", "flags"), BAD)
def test_a_bad_row_is_named(
    run: Any, data: Data, tmp_path: Path, form: str, row: Any, problem: str, flags: Any
) -> None:
    path = data(row)
    with pytest.raises(UserError, match=problem) as caught:
        run("import", path, "--format", form, "--to", tmp_path / "out", *flags)
    assert caught.value.where == f"{path}:1"
    assert not (tmp_path / "out").exists()


class TestBadRows:
    def test_are_kept_apart_when_asked(self, run: Any, data: Data, tmp_path: Path) -> None:
        path = data(PAIR, {"prompt": "p"}, "{", {**PAIR, "prompt": "other"})
        flags = ("--format", "trl", "--to", tmp_path / "out", "--on-bad-row", "skip", "--json")
        summary = json.loads(run("import", path, *flags).stdout)
        assert (summary["rows"], summary["rejected"], summary["tasks"]) == (4, 2, 2)
        kept = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
        assert [row["where"] for row in kept] == [f"{path}:2", f"{path}:3"]
        assert kept[0]["row"] == {"prompt": "p"}

    def test_nothing_usable(self, run: Any, data: Data, tmp_path: Path) -> None:
        flags = ("--format", "trl", "--to", tmp_path / "out", "--on-bad-row", "skip")
        with pytest.raises(UserError, match="no usable row"):
            run("import", data({"x": 1}), *flags)
        with pytest.raises(UserError, match="no usable row"):
            run("import", data(), *flags)


class TestFolder:
    def test_is_not_written_over(self, run: Any, data: Data, tmp_path: Path) -> None:
        flags = ("--format", "trl", "--to", tmp_path / "out")
        run("import", data(PAIR), *flags)
        before = (tmp_path / "out" / "tasks.jsonl").read_bytes()
        with pytest.raises(UserError, match="already") as caught:
            run("import", data({**PAIR, "prompt": "other"}), *flags)
        assert "--force" in (caught.value.hint or "")
        assert (tmp_path / "out" / "tasks.jsonl").read_bytes() == before
        run("import", data({**PAIR, "prompt": "other"}), *flags, "--force")
        assert read_feedback(tmp_path / "out").tasks[0].prompt == "other"

    def test_an_unknown_option_is_named(self, run: Any, data: Data, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="did you mean 'chosen'"):
            run("import", data(PAIR), "--format", "trl", "--to", tmp_path / "out", "-o", "chosn=x")


class TestStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        path = tmp_path / "run" / "annotations.sqlite"
        path.parent.mkdir()
        store = AnnotationStore(path)
        store.publish("r1-labels", "pairwise", [make_task("t", "x", "y"), make_task("u", "x", "z", prompt="other")])
        store.close()
        return path

    def test_takes_what_it_asked_for_and_lists_the_rest(self, run: Any, data: Data, store: Path) -> None:
        good, late = prefers("t", 1.0, "A", id="j1"), prefers("t", 0.0, "B", id="j2")
        foreign = prefers("v", 0.0, "B", id="j3")
        path = data(*(j.model_dump() for j in (good, late, foreign)))
        for place, new in ((store.parent, 1), (store, 0)):
            summary = json.loads(run("import", path, "--format", "jsonl", "--to", place, "--json").stdout)
            assert (summary["judgements"], summary["known"]) == (new, 1 - new)
            reasons = [refusal["reason"] for refusal in summary["refused"]]
            assert reasons == ["task 't' has all its answers", "there is no task 'v'"]
        assert read_feedback(store).judgements == [good]

    def test_finds_tasks_by_their_texts(self, run: Any, data: Data, store: Path) -> None:
        row = {"prompt": "other", "chosen": "z", "rejected": "x"}
        result = run("import", data(row), "--format", "trl", "--to", store, "--json")
        assert json.loads(result.stdout)["judgements"] == 1
        assert read_feedback(store).judgements[0].payload == Pairwise(a="ub", b="ua", p_a=1.0)

    def test_equal_texts_stay_apart(self, run: Any, data: Data, tmp_path: Path) -> None:
        place = tmp_path / "same.sqlite"
        store = AnnotationStore(place)
        store.publish("c", "ranking", [make_task("t", "x", "y", "x")])
        store.close()
        row = {"prompt": "Q", "response_1": "x", "response_2": "x", "response_3": "y"}
        ranking = [["response_1", "response_3", "response_2"]]
        run("import", data({**row, "ranking.responses": ranking}), "--format", "argilla", "--to", place)
        assert read_feedback(place).judgements[0].payload == Ranking(groups=(("ta",), ("tb",), ("tc",)))

    def test_a_pair_of_equal_texts_has_two_candidates(self, run: Any, data: Data, tmp_path: Path) -> None:
        place = tmp_path / "same.sqlite"
        store = AnnotationStore(place)
        store.publish("c", "pairwise", [make_task("t", "x", "x")])
        store.close()
        row = {"prompt": "Q", "first": "x", "second": "x", "votes": "tie"}
        run("import", data(row), "--format", "votes", "--to", place)
        assert read_feedback(place).judgements[0].payload == Pairwise(a="ta", b="tb", p_a=0.5)

    def test_texts_of_two_tasks_are_refused(self, run: Any, data: Data, tmp_path: Path) -> None:
        place = tmp_path / "two.sqlite"
        store = AnnotationStore(place)
        for collection in ("r1", "r2"):
            store.publish(collection, "pairwise", [make_task(f"{collection}-t", "x", "y")])
        store.close()
        result = run("import", data({"prompt": "Q", "chosen": "x", "rejected": "y"}), "--format", "trl", "--to", place,
                     "--json")  # fmt: skip
        (refused,) = json.loads(result.stdout)["refused"]
        assert refused["reason"] == "several tasks have these texts: 'r1-t', 'r2-t'"

    def test_another_file_is_no_store(self, run: Any, data: Data, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no annotation store"):
            run("import", data(PAIR), "--format", "trl", "--to", data(PAIR, name="other.jsonl"))
