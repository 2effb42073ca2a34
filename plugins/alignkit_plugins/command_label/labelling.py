"""The annotator's pages: task, undo, history, guidelines."""

import time
import uuid
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from alignkit.annotation import Briefing, Form, Person, Refused, guidelines_version
from alignkit.errors import UserError
from alignkit.records import Annotator, Evidence, Judgement, Task
from alignkit_plugins.command_label.access import require_annotator
from alignkit_plugins.command_label.answers import REASON_CHARACTERS, WRITTEN, BadAnswer, Fields, limited, payload_of
from alignkit_plugins.command_label.desk import Desk, desk_of
from alignkit_plugins.command_label.presenting import excerpt, filled, in_words, presented, view
from alignkit_plugins.command_label.text import show

PER_PAGE = 50
# Whoever comes back after lunch was not reading all the time.
MOST_SECONDS = 3600.0
SKIPPED, FLAGGED = "skip", "flag"
WENT_TO_OTHERS = (
    "This task needs no more answers: others have answered it in the meantime, or what was answered is in use already."
)


def invite(request: Request) -> Response:
    """Log in, and leave the token out of the address bar and the history."""
    desk = desk_of(request)
    invite_id = desk.keys.invite(request.path_params["token"])
    if invite_id is None or desk.store.annotators.invited(invite_id) is None:
        raise HTTPException(403, "This invite link does not hold (any more). Ask for a new one.")
    response = RedirectResponse("/task", 303)
    desk.keys.log_in(response, "annotator", invite_id)
    return response


def task_page(request: Request) -> Response:
    """`/task` asks the next one, `/task?id=…` a certain one: to change an answer, or after an undo."""
    desk = desk_of(request)
    person = require_annotator(request, desk.keys, desk.store.annotators)
    wanted = request.query_params.get("id")
    if wanted is None:
        return _next(desk, person)
    task, form = _task(desk, wanted)
    standing = desk.store.standing(person.id, wanted)
    if (standing is None or standing.undone) and not desk.store.heartbeat(person.id, wanted):
        return _message(desk, person, "This task went to others", WENT_TO_OTHERS, 409)
    return _ask(
        desk, person, task, form, note="Taken back. Judge it again." if "undone" in request.query_params else ""
    )


def answer(request: Request, fields: dict[str, str]) -> Response:
    """Store what was chosen. Sent twice, it is stored once."""
    desk = desk_of(request)
    person = _sender(desk, request, fields)
    task, form = _task(desk, fields.get("task_id", ""))
    briefing = desk.store.briefing(task.id)
    try:
        judgement = _judgement(person, task, form, briefing, fields)
    except BadAnswer as bad:
        return _ask(desk, person, task, form, briefing, problem=str(bad), fields=fields, status=422)
    try:
        desk.store.submit(judgement, seconds=_seconds(fields))
    except Refused:
        return _refused(desk, person, task, form, briefing, fields)
    if fields.get("back") == "history":
        return RedirectResponse("/history", 303)
    # with scripts the next task comes with the answer, without them a reload must not send the form again
    return _next(desk, person) if "hx-request" in request.headers else RedirectResponse("/task", 303)


def undo(request: Request, fields: dict[str, str]) -> Response:
    """Take the last judgement back; its task comes again."""
    desk = desk_of(request)
    person = _sender(desk, request, fields)
    task, _ = _task(desk, fields.get("task_id", ""))
    judgement = Judgement(
        id=_judgement_id(fields),
        task_id=task.id,
        annotator=_annotator(person),
        status="skipped",
        supersedes=fields.get("undoes", ""),
    )
    try:
        desk.store.submit(judgement)
    except Refused:
        text = (
            "Your last answer has changed in the meantime, in another window perhaps. The history shows your answers."
        )
        return _message(desk, person, "There was nothing to undo", text, 409)
    return RedirectResponse(f"/task?{urlencode({'id': task.id, 'undone': 1})}", 303)


def heartbeat(request: Request, fields: dict[str, str]) -> Response:
    """The page is still open: 204, or 409 if the task is not his any more."""
    desk = desk_of(request)
    person = _sender(desk, request, fields)
    return Response(status_code=204 if desk.store.heartbeat(person.id, fields.get("task_id", "")) else 409)


def history(request: Request) -> Response:
    """His own judgements, newest first, each with a way to change it."""
    desk = desk_of(request)
    person = require_annotator(request, desk.keys, desk.store.annotators)
    number = request.query_params.get("page", "1")
    page = int(number) if number.isdecimal() and len(number) < 7 and int(number) else 1
    found = desk.store.history(person.id, limit=PER_PAGE + 1, offset=(page - 1) * PER_PAGE)
    rows = [
        {
            "id": past.task.id,
            "prompt": excerpt(past.task.prompt),
            "answer": in_words(past.judgement, past.task),
            "status": past.judgement.status,
            "when": time.strftime("%Y-%m-%d %H:%M", time.localtime(past.created)),
        }
        for past in found[:PER_PAGE]
    ]
    values: dict[str, Any] = {"rows": rows, "number": page, "more": len(found) > PER_PAGE}
    return desk.page("history", **_frame(desk, person), **values)


def guidelines(request: Request) -> Response:
    """What the collection's annotators are asked to keep to."""
    desk = desk_of(request)
    person = require_annotator(request, desk.keys, desk.store.annotators)
    collection = request.query_params.get("collection") or next(reversed(desk.store.collections()), "")
    told = desk.store.instructions(collection)
    version = guidelines_version(told)
    return desk.page(
        "guidelines",
        **_frame(desk, person, collection),
        shown=show(told.guidelines) if told.guidelines.strip() else None,
        version=version,
        acknowledged=desk.store.annotators.has_acknowledged(person.id, version),
    )


def acknowledge(request: Request, fields: dict[str, str]) -> Response:
    """He has read them."""
    desk = desk_of(request)
    person = _sender(desk, request, fields)
    version = fields.get("version", "")
    known = {guidelines_version(desk.store.instructions(name)) for name in desk.store.collections()}
    if version not in known:  # they were changed while he read
        return RedirectResponse("/guidelines", 303)
    desk.store.annotators.acknowledge(person.id, version)
    return RedirectResponse("/task", 303)


def _next(desk: Desk, person: Person) -> Response:
    found = desk.store.next_task(person.id)
    if found is None:
        answers = sum(desk.store.answered(name, person.id) for name in desk.store.collections())
        return desk.page("done", **_frame(desk, person), answers=answers)
    return _ask(desk, person, *found)


def _ask(
    desk: Desk,
    person: Person,
    task: Task,
    form: Form,
    briefing: Briefing | None = None,
    *,
    fields: dict[str, str] | None = None,
    note: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    """The page of one task; `fields` is what the annotator has entered already."""
    collection, told = briefing or desk.store.briefing(task.id)
    if told.guidelines.strip() and not desk.store.annotators.has_acknowledged(person.id, guidelines_version(told)):
        return RedirectResponse(f"/guidelines?{urlencode({'collection': collection})}", 303)
    standing = desk.store.standing(person.id, task.id)
    changing = standing is not None and not standing.undone
    entered = fields or {}
    if fields is None and standing is not None:
        entered = _earlier(desk, form, task, standing.judgement, changing)
    return desk.page(
        "task",
        status,
        **_frame(desk, person, collection),
        view=view(task, form, told, person.id, entered),
        judgement_id=str(uuid.uuid4()) if status == 409 else _uuid(entered.get("judgement_id", "")),
        supersedes=standing.judgement.id if standing is not None else "",
        shown=entered.get("shown") or f"{time.time():.3f}",
        changing=changing,
        note=note,
        problem=problem,
        reason_limit=REASON_CHARACTERS,
    )


def _earlier(desk: Desk, form: Form, task: Task, judgement: Judgement, changing: bool) -> dict[str, str]:
    """What is filled in before the annotator does anything: his answer to change, or the words he took back."""
    if changing:
        return filled(judgement, task)
    taken_back = desk.store.judgement(judgement.supersedes or "") if form == "critique" else None
    return {} if taken_back is None else filled(taken_back, task)


def _refused(
    desk: Desk, person: Person, task: Task, form: Form, briefing: Briefing, fields: dict[str, str]
) -> Response:
    """What was entered is not lost: he can store it as a change of his own answer, or at least copy his words."""
    standing = desk.store.standing(person.id, task.id)
    # submitting again helps only where an answer has come in between that this page does not know of
    if standing is not None and standing.judgement.id != fields.get("supersedes", ""):
        note = "An answer of yours is stored already. Submit again to replace it with what stands here."
        return _ask(desk, person, task, form, briefing, fields=fields, note=note, status=409)
    kept = "\n\n".join(text for name in WRITTEN if (text := fields.get(name, "").strip()))
    return _message(desk, person, "This task went to others", WENT_TO_OTHERS, 409, kept)


def _judgement(person: Person, task: Task, form: Form, briefing: Briefing, fields: dict[str, str]) -> Judgement:
    shown = presented(task, person.id)
    more: dict[str, Any] = {}
    if fields.get("action") == SKIPPED:
        more["status"] = "skipped"
    elif fields.get("action") == FLAGGED:
        reason = limited(fields, "reason", REASON_CHARACTERS).strip()
        more |= {"status": "flagged", "evidence": Evidence(text=reason) if reason else None}
    else:
        more["payload"] = payload_of(form, task, shown, briefing.instructions, fields)
    return Judgement(
        id=_judgement_id(fields),
        task_id=task.id,
        annotator=_annotator(person),
        presented_order=tuple(candidate.id for candidate in shown),
        supersedes=fields.get("supersedes") or None,
        **more,
    )


def _sender(desk: Desk, request: Request, fields: Fields) -> Person:
    person = require_annotator(request, desk.keys, desk.store.annotators)
    desk.keys.check_csrf(_role(person), fields.get("csrf", ""))
    return person


def _task(desk: Desk, id: str) -> tuple[Task, Form]:
    try:
        return desk.store.task(id)
    except UserError:
        raise HTTPException(404, "There is no such task.") from None


def _annotator(person: Person) -> Annotator:
    return Annotator(id=person.id, kind="human")


def _judgement_id(fields: Fields) -> str:
    """Made with the page, so that what is sent twice is known to be the same."""
    try:
        return str(uuid.UUID(fields.get("judgement_id", "")))
    except ValueError:
        raise HTTPException(400, "The form has no judgement id. Load the page again.") from None


def _uuid(id: str) -> str:
    """An id that a form brought along, or a new one."""
    try:
        return str(uuid.UUID(id))
    except ValueError:
        return str(uuid.uuid4())


def _seconds(fields: Fields) -> float | None:
    try:
        passed = time.time() - float(fields.get("shown", ""))
    except ValueError:
        return None
    return passed if 0 <= passed <= MOST_SECONDS else None


def _message(desk: Desk, person: Person, title: str, text: str, status: int, kept: str = "") -> Response:
    return desk.page("message", status, **_frame(desk, person), title=title, text=text, kept=kept)


def _frame(desk: Desk, person: Person, collection: str = "") -> dict[str, Any]:
    """What the header of every annotator's page shows."""
    last = desk.store.last(person.id)
    return {
        "person": person,
        "csrf": desk.keys.csrf(_role(person)),
        "collection": collection,
        "shares": desk.shares(collection, person.id) if collection else None,
        "last": last,
        "undo_id": str(uuid.uuid4()),
    }


def _role(person: Person) -> str:
    """Whose forms these are."""
    return f"annotator {person.id}"
