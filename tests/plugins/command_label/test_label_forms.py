"""What a person chose on the page is what the store holds, for each of the five forms."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from alignkit.annotation import AnnotationStore
from alignkit.records import Binary, Critique, Evidence, Instructions, Pairwise, Ranking, Rating
from alignkit_plugins.command_label.answers import TEXT_CHARACTERS
from alignkit_plugins.command_label.presenting import presented, scale
from helpers.label_pages import label_task

Publish = Callable[..., Any]


def letters(task: Any, who: str) -> dict[str, str]:
    """Letter on the page -> candidate id."""
    return {"ABCDEFGHI"[n]: candidate.id for n, candidate in enumerate(presented(task, who))}


def test_a_ranking_is_stored_as_it_was_made(store: AnnotationStore, publish: Publish, anna: Any) -> None:
    (task,) = publish("ranking")
    page = anna.get()
    shown = [attributes["data-letter"] for tag, attributes in page.tags if "data-letter" in attributes]
    assert shown == ["A", "B", "C", "D"]
    for letter in shown:
        completion = next(c.completion for c in task.candidates if c.id == letters(task, "anna")[letter])
        assert completion in page.texts[f"candidate-{letter}"], "the letter stands above another text"
    anna.submit(page, ranking="C>A=D>B")
    (judgement,) = store.judgements()
    id = letters(task, "anna")
    assert judgement.payload == Ranking(groups=((id["C"],), (id["A"], id["D"]), (id["B"],)))
    assert judgement.presented_order == tuple(id[letter] for letter in "ABCD")
    assert judgement.annotator.model_dump() == {"id": "anna", "kind": "human", "revision": ""}
    (seconds,) = store.seconds().values()
    assert 0 <= seconds < 60


def test_a_ranking_without_scripts(store: AnnotationStore, publish: Publish, anna: Any) -> None:
    (task,) = publish("ranking")
    anna.submit(anna.get(), **{"place-A": "2", "place-B": "1", "place-C": "4", "place-D": "2"})
    id = letters(task, "anna")
    expected = Ranking(groups=((id["B"],), (id["A"], id["D"]), (id["C"],)))
    assert store.judgements()[0].payload == expected


@pytest.mark.parametrize("ranking", ["", "A>B>C", "A>B>C>D>A", "A>B>C>D>E", "A>B>>C>D", "A=A>B>C>D"])
def test_half_a_ranking_is_none(store: AnnotationStore, publish: Publish, anna: Any, ranking: str) -> None:
    publish("ranking")
    page = anna.submit(anna.get(), 422, ranking=ranking)
    assert page.texts["problem"].strip()
    assert store.judgements() == []


@pytest.mark.parametrize("choice", ["A", "B", "tie"])
@pytest.mark.parametrize("who", ["Anna", "Ben", "Eva", "Zoe"])
def test_pairwise(store: AnnotationStore, publish: Publish, log_in: Any, choice: str, who: str) -> None:
    (task,) = publish("pairwise")
    person = log_in(who)
    person.submit(person.get(), choice=choice)
    (judgement,) = store.judgements()
    assert isinstance(judgement.payload, Pairwise)
    better = {1.0: judgement.payload.a, 0.0: judgement.payload.b, 0.5: "tie"}[judgement.payload.p_a]
    assert better == {**letters(task, person.id), "tie": "tie"}[choice]


def test_a_rating_is_on_the_scale_of_the_instructions(store: AnnotationStore, publish: Publish, anna: Any) -> None:
    (task,) = publish("rating")
    store.instruct("r1-rating", Instructions(rating_low=-2, rating_high=2, question="How warm is it?"))
    page = anna.get()
    assert page.texts["question"] == "How warm is it?"
    assert [page.has(f"value-{n}") for n in (-3, -2, 2, 3)] == [False, True, True, False]
    for wrong in ("3", "-3", "1.5", "", "x"):
        anna.submit(page, 422, value=wrong)
    anna.submit(page, value="-2")
    assert store.judgements()[0].payload == Rating(candidate=task.candidates[0].id, value=-2, low=-2, high=2)


@pytest.mark.parametrize(
    ("low", "high", "keys"), [(1, 7, "1234567"), (0, 4, "01234"), (1, 10, "1234567890"), (-2, 2, "12345")]
)
def test_each_value_has_a_key_of_its_own(low: int, high: int, keys: str) -> None:
    found = scale(Instructions(rating_low=low, rating_high=high))
    assert [value for value, _ in found] == list(range(low, high + 1))
    assert "".join(key for _, key in found) == keys


@pytest.mark.parametrize("verdict", ["good", "bad"])
def test_binary(store: AnnotationStore, publish: Publish, anna: Any, verdict: str) -> None:
    (task,) = publish("binary")
    anna.submit(anna.get(), 422)
    anna.submit(anna.get(), verdict=verdict)
    assert store.judgements()[0].payload == Binary(candidate=task.candidates[0].id, good=verdict == "good")


class TestCritique:
    def test_words_and_a_better_version(self, store: AnnotationStore, publish: Publish, anna: Any) -> None:
        (task,) = publish("critique")
        page = anna.get()
        assert page.areas["revision"] == task.candidates[0].completion
        anna.submit(page, text="Too short.\r\n\r\nAnd wrong.", revision="A longer answer 0.")
        expected = Critique(
            candidate=task.candidates[0].id, text="Too short.\n\nAnd wrong.", revision="A longer answer 0."
        )
        assert store.judgements()[0].payload == expected

    @pytest.mark.parametrize("original", ["plain", "\n\nlines\r\nof\rall kinds\n", "nul \0 <b>&amp;</b>", "ü" * 3000])
    def test_an_untouched_copy_is_no_revision(self, store: AnnotationStore, anna: Any, original: str) -> None:
        task = label_task("t", [original])
        store.publish("one", "critique", [task])
        page = anna.get()
        sent = page.areas["revision"].replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
        anna.submit(page, text="fine", revision=sent)
        assert store.judgements()[0].payload == Critique(candidate="t-0", text="fine", revision=None)

    def test_nothing_is_no_critique(self, publish: Publish, anna: Any) -> None:
        publish("critique")
        anna.submit(anna.get(), 422, text="  ", revision="answer 0")

    @pytest.mark.parametrize("name", ["text", "revision"])
    def test_what_is_too_long_is_refused_and_kept(
        self, store: AnnotationStore, publish: Publish, anna: Any, name: str
    ) -> None:
        publish("critique")
        page = anna.get()
        long = "é" * (TEXT_CHARACTERS + 1)
        again = anna.submit(page, 422, **{name: long})
        assert "100,001" in again.texts["problem"]
        assert again.areas[name] == long, "what the person wrote is lost"
        assert again.forms["/task"]["judgement_id"] == page.forms["/task"]["judgement_id"]
        anna.submit(again, **{name: long[:-1]})
        assert len(store.judgements()) == 1

    def test_a_body_without_end_is_cut_off(self, store: AnnotationStore, publish: Publish, anna: Any) -> None:
        publish("critique")
        fields = {**anna.get().forms["/task"], "text": "x" * (5 * 1024 * 1024)}
        assert anna.client.post("/task", data=fields).status_code == 413

        def chunks() -> Any:
            for _ in range(100):
                yield b"text=" + b"x" * 100_000

        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert anna.client.post("/task", content=chunks(), headers=headers).status_code == 413
        assert store.judgements() == []

    def test_words_that_were_taken_back_come_with_the_task(self, publish: Publish, anna: Any) -> None:
        publish("critique")
        after = anna.submit(anna.get(), text="my words", revision="my version")
        again = anna.post("/undo", after.forms["/undo"])
        assert (again.areas["text"], again.areas["revision"]) == ("my words", "my version")


def test_skipped_and_flagged(store: AnnotationStore, publish: Publish, anna: Any) -> None:
    tasks = publish("pairwise", 3)
    page = anna.submit(anna.get(), action="skip", choice="A")
    page = anna.submit(page, action="flag", reason=" broken text ")
    anna.submit(page, action="flag")
    skipped, flagged, silent = store.judgements()
    assert [j.task_id for j in (skipped, flagged, silent)] == [task.id for task in tasks]
    assert (skipped.status, skipped.payload, skipped.evidence) == ("skipped", None, None)
    assert (flagged.status, flagged.evidence) == ("flagged", Evidence(text="broken text"))
    assert (silent.status, silent.evidence) == ("flagged", None)


class TestOnlyOnce:
    def test_the_same_form_twice(self, store: AnnotationStore, publish: Publish, anna: Any) -> None:
        publish("pairwise", 2)
        page = anna.get()
        for _ in range(3):
            after = anna.submit(page, choice="A")
            assert after.forms["/task"]["task_id"] == "pairwise-1"
        assert len(store.judgements(superseded=True)) == 1

    def test_with_another_answer_it_is_asked_about(self, store: AnnotationStore, publish: Publish, anna: Any) -> None:
        publish("pairwise", 2)
        page = anna.get()
        anna.submit(page, choice="A")
        again = anna.submit(page, 409, choice="B")
        assert "stored already" in again.texts["note"]
        assert again.checked() == ["B"], "what was entered is lost"
        anna.submit(again, choice="B")
        first, second = store.judgements(superseded=True)
        assert (second.supersedes, second.task_id) == (first.id, "pairwise-0")
        assert store.judgements() == [second]

    def test_an_id_that_is_none_is_refused(self, store: AnnotationStore, publish: Publish, anna: Any) -> None:
        publish("pairwise")
        anna.submit(anna.get(), 400, choice="A", judgement_id="x")
        id = str(uuid.uuid4())
        anna.submit(anna.get(), choice="A", judgement_id=id)
        assert [judgement.id for judgement in store.judgements()] == [id]


class TestUndo:
    def test_the_task_comes_back(self, store: AnnotationStore, publish: Publish, anna: Any, ben: Any) -> None:
        publish("pairwise", 3)
        page = anna.submit(anna.submit(anna.get(), choice="A"), choice="B")
        again = anna.post("/undo", page.forms["/undo"])
        assert again.forms["/task"]["task_id"] == "pairwise-1"
        assert again.checked() == []
        first, undone = store.judgements()
        assert (undone.status, undone.task_id, undone.presented_order) == ("skipped", "pairwise-1", ())
        assert ben.get().has("done"), "the task that was taken back, and the one she had, are still hers"
        anna.submit(again, choice="tie")
        assert store.judgements()[1].supersedes == undone.id
        assert store.judgements()[0] == first

    def test_twice_goes_two_back(self, publish: Publish, anna: Any) -> None:
        publish("pairwise", 2)
        page = anna.submit(anna.submit(anna.get(), choice="A"), choice="B")
        page = anna.post("/undo", page.forms["/undo"])
        assert page.forms["/task"]["task_id"] == "pairwise-1"
        page = anna.post("/undo", page.forms["/undo"])
        assert page.forms["/task"]["task_id"] == "pairwise-0"
        assert "/undo" not in page.forms

    def test_sent_twice_is_undone_once(self, store: AnnotationStore, publish: Publish, anna: Any) -> None:
        publish("pairwise", 3)
        page = anna.submit(anna.submit(anna.get(), choice="A"), choice="B")
        for _ in range(2):
            anna.post("/undo", page.forms["/undo"])
        assert [judgement.status for judgement in store.judgements(superseded=True)] == ["ok", "ok", "skipped"]

    def test_after_an_undo_a_skip_is_a_skip(self, publish: Publish, anna: Any) -> None:
        publish("pairwise", 2)
        page = anna.submit(anna.get(), choice="A")
        page = anna.post("/undo", page.forms["/undo"])
        page = anna.submit(page, action="skip")
        assert page.forms["/task"]["task_id"] == "pairwise-1"
        assert anna.submit(page, choice="A").has("done")


def test_history_shows_and_changes(store: AnnotationStore, publish: Publish, anna: Any) -> None:
    (task,) = publish("ranking")
    publish("rating")
    anna.submit(anna.submit(anna.get(), ranking="C>A=D>B"), value="5")
    listed = anna.get("/history").texts["history"]
    assert "C > A = D > B" in listed
    assert "5 (1 to 7)" in listed
    page = anna.get("/task?id=ranking-0")
    field = next(attributes for _, attributes in page.tags if "data-ranking" in attributes)
    assert field["data-ranking"] == "C>A=D>B"
    assert anna.submit(page, ranking="A>B>C>D").has("history")
    id = letters(task, "anna")
    (changed,) = (j for j in store.judgements() if j.task_id == "ranking-0")
    assert changed.payload == Ranking(groups=tuple((id[letter],) for letter in "ABCD"))
    assert len(store.judgements(superseded=True)) == 3


def test_the_order_is_blind_stable_and_of_each_person_his_own() -> None:
    tasks = [label_task(f"t{n}", ["w", "x", "y", "z"]) for n in range(300)]
    orders = {who: [tuple(c.id[-1] for c in presented(task, who)) for task in tasks] for who in ("anna", "ben")}
    assert orders["anna"] == [tuple(c.id[-1] for c in presented(task, "anna")) for task in tasks]
    assert sum(a == b for a, b in zip(orders["anna"], orders["ben"], strict=True)) < 40, "1 of 24 by chance"
    for position in range(4):
        first = sum(order[position] == "0" for order in orders["anna"])
        assert 45 <= first <= 105, "75 of 300 by chance"
