"""The app: which address leads where."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from alignkit.annotation import AnnotationStore
from alignkit_plugins.command_label import admin, labelling
from alignkit_plugins.command_label.desk import STATIC, Desk, desk_of, posted
from alignkit_plugins.command_label.guard import LOOPBACK, Guard, Names


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
        exception_handlers={HTTPException: _problem},
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
