"""What holds for every request: the host name, the size, the headers of the answer."""

import ipaddress
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
# Two texts of the largest size in the widest encoding, three bytes of which become nine in a form.
BODY_BYTES = 4 * 1024 * 1024
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Names(NamedTuple):
    """Host names the server answers to; `addresses`: and any numeric address."""

    hosts: frozenset[str]
    addresses: bool

    def holds(self, header: str) -> bool:
        """Whether a Host header names this server. Another name that leads here may be an attacker's."""
        host = header.casefold()
        if not host.endswith("]"):
            host = host.rpartition(":")[0] or host
        if host in self.hosts:
            return True
        return self.addresses and _is_address(host)


LOOPBACK = Names(LOOPBACK_NAMES, addresses=False)


class Guard:
    """Middleware: refuses foreign host names, foreign senders and large bodies; adds the security headers."""

    def __init__(self, app: ASGIApp, names: Names) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        with_headers = _adding_headers(send, cache=scope["path"].startswith("/static/"))
        if not self.names.holds(headers.get("host", "")):
            refusal = PlainTextResponse("This server does not answer under that host name.\n", 421)
            await refusal(scope, receive, with_headers)
        elif scope["method"] == "POST" and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            await PlainTextResponse("Sent from another site.\n", 403)(scope, receive, with_headers)
        elif int(headers.get("content-length") or 0) > BODY_BYTES:
            await PlainTextResponse("That is too much at once.\n", 413)(scope, receive, with_headers)
        else:
            await self.app(scope, _bounded(receive), with_headers)


def _bounded(receive: Receive) -> Receive:
    """For bodies that do not say how long they are."""
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > BODY_BYTES:
            raise HTTPException(413, "That is too much at once.")
        return message

    return counting


def _adding_headers(send: Send, cache: bool) -> Send:
    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update({**HEADERS, "cache-control": "no-cache" if cache else "no-store"})
        await send(message)

    return adding


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
