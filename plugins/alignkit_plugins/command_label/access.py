"""Who is asking: invite links, signed cookies, and tokens against forged forms."""

import hashlib
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from alignkit.annotation import Annotators, Person

MONTH = 30 * 24 * 3600
ADMIN = "admin"


class Keys:
    """Everything is signed with the store's own secret, so links and cookies outlive the server."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        # Cookies are shared by all ports of a host: two stores must not log each other out.
        self._store = hashlib.sha256(secret.encode()).hexdigest()[:8]

    def invite_token(self, invite: str) -> str:
        """For an annotator's link."""
        return self._sign("invite", invite)

    def invite(self, token: str) -> str | None:
        """What `invite_token` was made for."""
        return self._signed("invite", token)

    def admin_token(self) -> str:
        """For the admin page's link."""
        return self._sign(ADMIN, ADMIN)

    def is_admin(self, token: str) -> bool:
        """Whether this is the admin page's token."""
        return self._signed(ADMIN, token) == ADMIN

    def csrf(self, who: str) -> str:
        """Stands in every form; another site cannot know it."""
        return self._sign("csrf", who)

    def check_csrf(self, who: str, token: str) -> None:
        """Raises HTTPException 403 for a form that was not made here for this person."""
        if self._signed("csrf", token) != who:
            raise HTTPException(403, "This form is not from this page. Load the page again.")

    def log_in(self, response: Response, role: str, value: str) -> None:
        """`role` is annotator or admin."""
        response.set_cookie(
            self._cookie(role), self._sign(f"{role} cookie", value), max_age=MONTH, httponly=True, samesite="lax"
        )

    def logged_in(self, request: Request, role: str) -> str | None:
        """The value of `log_in`."""
        return self._signed(f"{role} cookie", request.cookies.get(self._cookie(role), ""))

    def _cookie(self, role: str) -> str:
        return f"alignkit-{role}-{self._store}"

    def _sign(self, salt: str, value: str) -> str:
        return str(URLSafeSerializer(self._secret, salt=salt).dumps(value))

    def _signed(self, salt: str, token: str) -> str | None:
        try:
            value: Any = URLSafeSerializer(self._secret, salt=salt).loads(token)
        except BadSignature:
            return None
        return value if isinstance(value, str) else None


def require_annotator(request: Request, keys: Keys, annotators: Annotators) -> Person:
    """Who is logged in. Raises HTTPException 403 for nobody, and for an invite that no longer holds."""
    invite = keys.logged_in(request, "annotator")
    person = None if invite is None else annotators.invited(invite)
    if person is None:
        raise HTTPException(403, "Open the invite link that you were given. If you did, ask for a new one.")
    return person


def require_admin(request: Request, keys: Keys) -> None:
    """Raises HTTPException 403 for everybody else."""
    if keys.logged_in(request, ADMIN) != ADMIN:
        raise HTTPException(403, "Open the admin link that `alignkit label` printed.")
