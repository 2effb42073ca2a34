"""A store with one task of each form, the app on top of it, and people who are logged in."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alignkit.annotation import AnnotationStore, Form
from alignkit_plugins.command_label.access import Keys
from alignkit_plugins.command_label.app import make_app
from helpers.label_pages import Page, label_task

HOME = "http://127.0.0.1:8765"
CANDIDATES: dict[Form, int] = {"ranking": 4, "pairwise": 2, "rating": 1, "binary": 1, "critique": 1}


class Annotator:
    """Somebody with a browser without scripts."""

    def __init__(self, store: AnnotationStore, name: str) -> None:
        self.store = store
        self.keys = Keys(store.annotators.secret())
        self.id = store.annotators.add(name).id
        self.client = TestClient(make_app(store), base_url=HOME)
        invite = store.annotators.add(name).invite
        self.client.get(f"/invite/{self.keys.invite_token(invite)}")

    def get(self, path: str = "/task", status: int = 200) -> Page:
        """A page."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return Page(answer.text)

    def post(self, path: str, fields: dict[str, str], status: int = 200) -> Page:
        """Send a form, follow where it leads."""
        answer = self.client.post(path, data=fields)
        assert answer.status_code == status, answer.text
        return Page(answer.text)

    def submit(self, page: Page, status: int = 200, **fields: str) -> Page:
        """Fill in the task's form and send it."""
        return self.post("/task", {**page.forms["/task"], **fields}, status)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnnotationStore]:
    """Empty."""
    opened = AnnotationStore(tmp_path / "annotations.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def publish(store: AnnotationStore) -> Callable[..., Any]:
    """Publish `count` tasks of a form; returns them."""

    def publishing(form: Form, count: int = 1, **more: Any) -> Any:
        texts = [f"answer {n}" for n in range(CANDIDATES[form])]
        tasks = [label_task(f"{form}-{n}", texts, **more) for n in range(count)]
        store.publish(f"r1-{form}", form, tasks)
        return tasks

    return publishing


@pytest.fixture
def log_in(store: AnnotationStore) -> Callable[[str], Annotator]:
    """Somebody by name, with a browser of his own."""
    return lambda name: Annotator(store, name)


@pytest.fixture
def anna(store: AnnotationStore) -> Annotator:
    """An annotator."""
    return Annotator(store, "Anna")


@pytest.fixture
def ben(store: AnnotationStore) -> Annotator:
    """Another one."""
    return Annotator(store, "Ben")
