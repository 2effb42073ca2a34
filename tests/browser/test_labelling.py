"""The labelling page in a real browser, over a real server: what people choose is what the store holds, once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from alignkit.annotation import AnnotationStore, Form
from alignkit.records import Judgement, Task
from helpers.label_choices import REASON, Choice, Expected, decide, payload, seen
from helpers.label_hands import COUNT_EVENTS, Hands, Keyboard, Mouse
from helpers.label_server import FORMS, LabelServer, make_store, publish
from helpers.label_watch import Watch

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]

SKIPPED, SKIPPED_AND_UNDONE, FLAGGED, UNDONE, COUNT = 4, 8, 11, 15, 22
OpenPage = Callable[..., Page]


def stored(folder: Path) -> list[Judgement]:
    """Everything, superseded or not, in the order it came."""
    store = AnnotationStore(folder / "annotations.sqlite", create=False)
    found = store.judgements(superseded=True)
    store.close()
    return found


class Session:
    """Somebody labels; what the store should hold is written down beside."""

    def __init__(self, hands: Hands, form: Form, tasks: list[Task]) -> None:
        self.hands = hands
        self.form = form
        self.tasks = {task.id: task for task in tasks}
        self.expected: list[Expected] = []
        self.newest: dict[str, int] = {}

    def _note(self, task: str, status: str, **more: object) -> None:
        self.expected.append(Expected(task, status, replaces=self.newest.get(task), **more))  # type: ignore[arg-type]
        self.newest[task] = len(self.expected) - 1

    def _order(self) -> tuple[str, ...]:
        ids = {candidate.completion: candidate.id for candidate in self.tasks[self.hands.task].candidates}
        return tuple(ids[text] for text in self.hands.texts())

    def answer(self, time: int = 0) -> None:
        task = self.tasks[self.hands.task]
        choice = decide(self.form, task, time)
        self.hands.choose(choice)
        self._note(task.id, "ok", payload=payload(self.form, task, choice), order=self._order())
        self.hands.submit()

    def skip(self) -> None:
        self._note(self.hands.task, "skipped", order=self._order())
        self.hands.skip()

    def flag(self) -> None:
        self._note(self.hands.task, "flagged", order=self._order(), reason=REASON)
        self.hands.flag(REASON)

    def undo(self, task: str) -> None:
        self._note(task, "skipped")
        self.hands.undo()
        assert self.hands.task == task
        assert "Taken back" in self.hands.by("note").inner_text()

    def change(self, task: str, time: int) -> None:
        self.hands.change(task)
        self.answer(time)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", [Keyboard, Mouse])
def test_what_is_chosen_is_what_is_stored(
    form: Form, way: type[Hands], tmp_path: Path, open_page: OpenPage, watch: Watch
) -> None:
    """Twenty answers, with a skip, a flag, undos and a change in between; with one of keyboard and mouse only."""
    session_tasks = make_store(tmp_path, form, COUNT)
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"], script=COUNT_EVENTS)
        session = Session(way(page, form), form, session_tasks)
        for number in range(COUNT):
            assert session.hands.task == f"t{number}"
            if number in (SKIPPED, SKIPPED_AND_UNDONE):
                session.skip()
            if number == SKIPPED_AND_UNDONE:
                session.undo(f"t{number}")
            if number == FLAGGED:
                session.flag()
            if number not in (SKIPPED, FLAGGED):
                session.answer()
            if number == UNDONE:
                session.undo(f"t{number}")
                session.answer(time=1)
        expect(page.get_by_test_id("done")).to_contain_text("You have answered 21 tasks")
        session.undo(f"t{COUNT - 1}")
        session.answer(time=1)
        session.change("t2", time=1)
        session.change(f"t{FLAGGED}", time=2)
        keys, mouse = (page.evaluate(f"Number(sessionStorage.getItem('{what}'))") for what in ("keys", "mouse"))
        assert watch.strangers(server.origin) == []
    assert (keys > 0, mouse > 0) == ((True, False) if way is Keyboard else (False, True))
    assert (watch.dialogs, watch.errors) == ([], [])
    assert seen(stored(tmp_path)) == session.expected
    if form in ("ranking", "pairwise"):
        decided = [decide(form, task).groups for task in session_tasks]
        assert any(len(group) > 1 for groups in decided for group in groups), "no tie was tried"
        natural = tuple(candidate.id for candidate in session_tasks[0].candidates)
        assert any(e.order and e.order != natural for e in session.expected), "the order on the page is not blind"


@pytest.mark.parametrize("form", FORMS)
def test_without_scripts(form: Form, tmp_path: Path, open_page: OpenPage) -> None:
    """Every form can be answered, skipped, flagged, undone and changed by the browser's own means."""
    tasks = make_store(tmp_path, form, 4)
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"], java_script_enabled=False)
        session = Session(WithoutScripts(page, form), form, tasks)
        session.answer()
        session.undo("t0")
        session.answer(time=1)
        session.skip()
        session._note("t2", "flagged", order=session._order())
        page.get_by_test_id("flag").click()
        session.answer()
        session.change("t0", time=0)
    assert seen(stored(tmp_path)) == session.expected


class WithoutScripts(Mouse):
    """Nothing moves the focus here; a ranking is made of menus; what is folded away is sent all the same."""

    def wait(self, where: str) -> None:
        expect(self.page.locator(f"#page{where}")).to_be_visible()

    def _rank(self, choice: Choice) -> None:
        for place, group in enumerate(choice.groups, 1):
            for text in group:
                self.by(f"place-{self.letter(text)}").select_option(str(place))

    def _write(self, choice: Choice) -> None:
        super()._write(choice)
        if choice.revision is None:
            original = self.texts()[0]
            self.by("revision").evaluate("(field, text) => { field.value = text; }", original)


def test_double_click_stores_one_answer(tmp_path: Path, open_page: OpenPage) -> None:
    """The second click comes while the answer is on its way."""
    tasks = make_store(tmp_path, "pairwise", 3)
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"])
        hands = Mouse(page, "pairwise")
        for task, way in zip(tasks, ("mouse", "keyboard"), strict=False):
            page.route("**/task", lambda route: (page.wait_for_timeout(300), route.continue_())[1], times=1)
            leaving = hands.leaving()
            hands.choose(decide("pairwise", task))
            if way == "mouse":
                hands.by("submit").dblclick()
            else:
                page.keyboard.press("Enter")
                page.keyboard.press("Enter")
            hands.wait(leaving)
            page.wait_for_timeout(300)
            assert hands.by("problem").is_hidden(), "the second click went to the next task"
    assert [j.task_id for j in stored(tmp_path)] == ["t0", "t1"]


@pytest.mark.parametrize("lost", ["question", "confirmation"])
def test_killed_server_loses_no_answer(lost: str, tmp_path: Path, open_page: OpenPage) -> None:
    """The page says so, keeps the answer and sends it again, whether or not the first one was stored."""
    tasks = make_store(tmp_path, "critique", 2)
    choice = decide("critique", tasks[0])
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"])
        hands = Mouse(page, "critique")
        leaving = hands.leaving()

        def cut(route: Route) -> None:
            if lost == "confirmation":
                route.fetch()
            server.kill()
            route.abort("connectionreset")

        page.route("**/task", cut, times=1)
        hands.choose(choice)
        hands.by("submit").click()
        notice = page.get_by_test_id("notice")
        expect(notice).to_contain_text("cannot be reached")
        expect(notice).to_contain_text("kept here")
        assert hands.by("critique-text").input_value() == choice.words
        assert len(stored(tmp_path)) == (lost == "confirmation")
        page.wait_for_timeout(1500)  # it goes on trying, and failing
        expect(notice).to_be_visible()
        assert hands.task == "t0"
        server.start()
        hands.wait(leaving)
        expect(notice).to_be_hidden()
        hands.choose(decide("critique", tasks[1]))
        hands.submit()
    expected = [payload("critique", task, decide("critique", task)) for task in tasks]
    assert [(j.task_id, j.payload) for j in stored(tmp_path)] == [("t0", expected[0]), ("t1", expected[1])]


def test_a_server_that_fails_is_asked_three_times(tmp_path: Path, open_page: OpenPage) -> None:
    """Then the page says so, keeps the answer in the form, and waits for somebody to press the button."""
    tasks = make_store(tmp_path, "critique", 1)
    choice = decide("critique", tasks[0])
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"])
        hands = Mouse(page, "critique")
        leaving = hands.leaving()
        asked: list[int] = []

        def fail(route: Route) -> None:
            asked.append(len(asked))
            route.fulfill(status=500, body="Internal Server Error")

        page.route("**/task", fail)
        hands.choose(choice)
        hands.by("submit").click()
        notice = page.get_by_test_id("notice")
        expect(notice).to_contain_text("has a fault")
        expect(notice).to_contain_text("not sent by itself any more", timeout=10_000)
        page.wait_for_timeout(6000)  # the fourth try would have come after 4 s
        assert len(asked) == 3
        assert hands.by("critique-text").input_value() == choice.words
        page.unroute("**/task")
        page.get_by_role("button", name="Send again").click()
        hands.wait(leaving)
        expect(notice).to_be_hidden()
    (found,) = stored(tmp_path)
    assert found.payload == payload("critique", tasks[0], choice)


def test_a_server_that_cannot_write_is_asked_until_it_can(tmp_path: Path, open_page: OpenPage) -> None:
    """The page says what is wrong, keeps the answer and sends it again; nobody has to press anything."""
    tasks = make_store(tmp_path, "critique", 1)
    choice = decide("critique", tasks[0])
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"])
        hands = Mouse(page, "critique")
        leaving = hands.leaving()
        asked: list[int] = []

        def full(route: Route) -> None:
            asked.append(len(asked))
            route.fulfill(status=507, body="the disk is full")

        page.route("**/task", full, times=3)  # a server with a fault would not be asked again
        hands.choose(choice)
        hands.by("submit").click()
        notice = page.get_by_test_id("notice")
        expect(notice).to_contain_text("cannot store answers at the moment")
        expect(notice).to_contain_text("kept here")
        assert hands.by("critique-text").input_value() == choice.words
        hands.wait(leaving)
        expect(notice).to_be_hidden()
        assert len(asked) == 3
    (found,) = stored(tmp_path)
    assert found.payload == payload("critique", tasks[0], choice)


def test_guidelines_come_first_and_again_when_they_change(tmp_path: Path, open_page: OpenPage) -> None:
    """No task is shown before they are acknowledged; an acknowledged version does not ask again."""
    tasks = make_store(tmp_path, "binary", 3, guidelines="# Kindness\n\nPrefer *kind* answers.")
    with LabelServer(tmp_path / "annotations.sqlite") as server:
        page = open_page(server.links["anna"])
        hands = Keyboard(page, "binary")
        expect(page.get_by_role("heading", name="Kindness")).to_be_visible()
        page.goto(f"{server.origin}/task")
        expect(page.locator("#page[data-page=guidelines]")).to_be_visible()
        hands.press("Enter")
        hands.wait('[data-task="t0"]')
        hands.choose(decide("binary", tasks[0]))
        hands.submit()
        assert hands.task == "t1"
        publish(tmp_path, "binary", [], guidelines="Prefer *short* answers.")
        hands.choose(decide("binary", tasks[1]))
        hands.submit()
        expect(page.get_by_text("Prefer short answers.")).to_be_visible()
        hands.press("Enter")
        hands.wait('[data-task="t2"]')
        page.goto(f"{server.origin}/guidelines")
        assert hands.by("acknowledge").count() == 0
    assert [j.payload for j in stored(tmp_path)] == [payload("binary", t, decide("binary", t)) for t in tasks[:2]]
