"""The app: which address leads where."""

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from alignkit.annotation import AnnotationStore, StoreFault
from alignkit_plugins.command_label import admin, labelling
from alignkit_plugins.command_label.answers import WRITTEN
from alignkit_plugins.command_label.desk import STATIC, Desk, desk_of, posted
from alignkit_plugins.command_label.guard import LOOPBACK, Guard, Names

logger = logging.getLogger("alignkit")

# What sending.js waits for: the one passes by itself, the other when somebody has mended the machine.
PASSES, TO_MEND = 503, 507
NOT_STORED = (
    "The machine that runs this page cannot write to its disk. Your earlier answers are stored. If you have just sent "
    "one, it is not: tell who invited you, go back with your browser's button to where it stands, and send it again "
    "later."
)


def make_app(store: AnnotationStore, *, names: Names = LOOPBACK) -> Starlette:
    """The page in which people label what is in `store`; it answers under the host names in `names` alone."""
    routes = [
        Route("/", _home),
        Route("/health", _health),
        Route("/invite/{token}", labelling.invite),
        Route("/task", labelling.task_page, methods=["GET"]),
        Route("/task", posted(labelling.answer), methods=["POST"]),
        Route("/undo", posted(labelling.undo), methods=["POST"]),
        Route("/heartbeat", posted(labelling.heartbeat), methods=["POST"]),
        Route("/history", labelling.history),
        Route("/guidelines", labelling.guidelines, methods=["GET"]),
        Route("/guidelines", posted(labelling.acknowledge), methods=["POST"]),
        Route("/admin", admin.admin_page),
        Route("/admin/annotators", posted(admin.add_annotator), methods=["POST"]),
        Route("/admin/annotator", posted(admin.change_annotator), methods=["POST"]),
        Route("/admin/{token}", admin.admin_login),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, names=names)],
        exception_handlers={HTTPException: _problem, StoreFault: _not_stored},
    )
    app.state.desk = Desk(store)
    return app


def _home(request: Request) -> Response:
    return RedirectResponse("/task", 303)


def _health(request: Request) -> Response:
    return PlainTextResponse("ok\n")


def _problem(request: Request, error: Exception) -> Response:
    """A page in words for what has a status."""
    assert isinstance(error, HTTPException)
    titles = {403: "You are not let in", 404: "There is nothing here", 413: "That is too much at once"}
    title = titles.get(error.status_code, "That did not work")
    return desk_of(request).page("problem", error.status_code, title=title, text=error.detail)


async def _not_stored(request: Request, error: Exception) -> Response:
    """A page with what was written, for browsers that do not keep it; why is for whoever runs the server."""
    assert isinstance(error, StoreFault)
    logger.error("%s", error)
    fields = await request.form() if request.method == "POST" else {}
    written = [text for name in WRITTEN if isinstance(text := fields.get(name), str) and text.strip()]
    status = PASSES if error.waits else TO_MEND
    kept = "\n\n".join(written)
    return desk_of(request).page("problem", status, title="Nothing can be stored now", text=NOT_STORED, kept=kept)
