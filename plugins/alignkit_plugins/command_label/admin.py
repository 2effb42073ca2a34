"""The admin's page: figures, people, invite links."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from alignkit.errors import UserError
from alignkit_plugins.command_label.access import ADMIN, require_admin
from alignkit_plugins.command_label.desk import Desk, desk_of
from alignkit_plugins.command_label.figures import figures


def admin_login(request: Request) -> Response:
    """The link that the command printed."""
    desk = desk_of(request)
    if not desk.keys.is_admin(request.path_params["token"]):
        raise HTTPException(403, "This is not the admin link that `alignkit label` printed.")
    response = RedirectResponse("/admin", 303)
    desk.keys.log_in(response, ADMIN, ADMIN)
    return response


def admin_page(request: Request) -> Response:
    """Everything at a glance."""
    desk = desk_of(request)
    require_admin(request, desk.keys)
    return _page(desk, request)


def add_annotator(request: Request, fields: dict[str, str]) -> Response:
    """A new annotator and his link."""
    desk = _admin_form(request, fields)
    try:
        desk.store.annotators.add(fields.get("name", ""))
    except UserError as error:
        return _page(desk, request, problem=error.what, status=422)
    return RedirectResponse("/admin", 303)


def change_annotator(request: Request, fields: dict[str, str]) -> Response:
    """Keep someone out, let him in again, or give him another link."""
    desk = _admin_form(request, fields)
    who, action = fields.get("annotator", ""), fields.get("action")
    try:
        if action == "renew":
            desk.store.annotators.renew(who)
        elif action in ("activate", "deactivate"):
            desk.store.annotators.set_active(who, action == "activate")
        else:
            raise HTTPException(400, "There is no such action.")
    except UserError as error:
        raise HTTPException(404, error.what) from None
    return RedirectResponse("/admin", 303)


def _admin_form(request: Request, fields: dict[str, str]) -> Desk:
    desk = desk_of(request)
    require_admin(request, desk.keys)
    desk.keys.check_csrf(ADMIN, fields.get("csrf", ""))
    return desk


def _page(desk: Desk, request: Request, problem: str = "", status: int = 200) -> Response:
    everybody = desk.store.annotators.all()
    key = ("figures", tuple(everybody))
    counted = desk.recent(key, lambda: figures(desk.store))
    base = str(request.base_url)
    links = {person.id: f"{base}invite/{desk.keys.invite_token(person.invite)}" for person in everybody}
    people = {person.id: person for person in everybody}
    return desk.page(
        "admin", status, figures=counted, people=people, links=links, csrf=desk.keys.csrf(ADMIN), problem=problem
    )
