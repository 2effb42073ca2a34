"""What the pages share: the store, the keys, the templates, and figures that need not be counted for every page."""

import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from alignkit.annotation import AnnotationStore
from alignkit_plugins.command_label.access import Keys
from alignkit_plugins.command_label.guard import BODY_BYTES

HERE = Path(__file__).parent
STATIC = HERE / "static"
# Figures of the whole collection may be this old.
STALE_SECONDS = 3.0


class Shares(NamedTuple):
    """An annotator's progress line."""

    mine: int
    of: int
    percent: int


class Desk:
    """One per app; used by all request threads."""

    def __init__(self, store: AnnotationStore) -> None:
        self.store = store
        self.keys = Keys(store.annotators.secret())
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        # after a restart everybody comes at once, and would wait for each template to be compiled
        for name in self._templates.list_templates():
            self._templates.get_template(name)
        self._remembered: dict[Hashable, tuple[float, Any]] = {}
        self._lock = threading.Lock()

    def page(self, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A rendered template."""
        return HTMLResponse(self._templates.get_template(f"{name}.html.jinja").render(values), status)

    def shares(self, collection: str, annotator_id: str) -> Shares:
        """His own count is of now, the others' may be a few seconds old."""
        percent: int = self.recent(("percent", collection), lambda: self._percent(collection))
        key = ("total", collection, annotator_id)
        total: int = self.recent(key, lambda: sum(self.store.workload(collection, annotator_id)))
        mine = self.store.answered(collection, annotator_id)
        return Shares(mine, max(mine, total), percent)

    def _percent(self, collection: str) -> int:
        wanted = self.store.wanted(collection)
        return 100 * self.store.progress(collection).answers // wanted if wanted else 100

    def recent(self, key: Hashable, count: Callable[[], Any]) -> Any:
        """What `count` returned at most a few seconds ago."""
        now = time.monotonic()
        with self._lock:
            found = self._remembered.get(key)
        if found is None or now - found[0] > STALE_SECONDS:
            found = now, count()
            with self._lock:
                # what nobody has asked for lately would pile up
                fresh = {k: v for k, v in self._remembered.items() if now - v[0] <= STALE_SECONDS}
                self._remembered = {**fresh, key: found}
        return found[1]


def desk_of(request: Request) -> Desk:
    """The app's."""
    desk: Desk = request.app.state.desk
    return desk


def posted(handler: Callable[[Request, dict[str, str]], Response]) -> Callable[[Request], Any]:
    """An endpoint that reads the form where that must be done, and handles it in a thread, as SQLite blocks."""

    async def endpoint(request: Request) -> Response:
        # the body's size is limited by the guard
        form = await request.form(max_files=0, max_fields=200, max_part_size=BODY_BYTES)
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        return await run_in_threadpool(handler, request, fields)

    return endpoint
