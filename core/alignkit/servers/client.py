"""The official client, so that a server gets nothing but what it is meant to get and cannot fill the memory.

It repeats a request after 408, 409, 429, 5xx, lost connections and timeouts, with exponential backoff and jitter, and
waits as long as Retry-After says (up to two minutes); nothing else is repeated.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal

from alignkit.servers.bounded import bound

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

# After these the client has tried again, and another request may do better.
PASSING = frozenset({408, 409, 429})
NO_QUOTA = "insufficient_quota"
# What servers call a request that is longer than the model's context: OpenAI and vLLM, llama.cpp, vLLM, SGLang.
TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
TOO_LONG = (
    "maximum context length",
    "exceeds the available context size",
    "longer than the maximum model length",
    "longer than the model's context length",
)

Meaning = Literal["no_quota", "too_long", "passing", "filtered", "refused"]


def open_client(
    base_url: str, key: str | None, retries: int, timeout: float, before_request: Callable[[Any], Awaitable[None]]
) -> "AsyncOpenAI":
    """A client for one server. Reading an answer that is too large raises `bounded.TooLargeError`."""
    import openai

    hooks: dict[str, list[Any]] = {"request": [before_request], "response": [_after_response]}
    client = openai.AsyncOpenAI(
        base_url=base_url,
        # Given always: the client would send what OPENAI_API_KEY holds to whichever server this is.
        api_key=key or "none",
        max_retries=retries,
        timeout=timeout,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks),
    )
    # From OPENAI_ORG_ID and OPENAI_PROJECT_ID, and no business of other servers.
    client.organization = client.project = None
    return client


async def _after_response(response: Any) -> None:
    """Hook of the HTTP client: an account without money is no rate limit, though it has the same status."""
    bound(response)
    if response.status_code == 429:
        await response.aread()
        if NO_QUOTA.encode() in response.content:
            response.headers["x-should-retry"] = "false"


def said(error: "APIStatusError") -> str:
    """What a server says beside its status. Newer clients show no words but those under `message`."""
    body: Any = error.body
    words = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
    message = error.message.removeprefix(f"Error code: {error.status_code}").removeprefix(" - ")
    return message if words is None or str(words) in message else f"{message} - {words}".removeprefix(" - ")


def meaning(error: "APIStatusError") -> Meaning:
    """What a server means by a status that is no success: `refused` would happen again and again."""
    codes = {str(error.code), str(error.type)}
    if NO_QUOTA in codes:
        return "no_quota"
    if codes & TOO_LONG_CODES or any(phrase in said(error).casefold() for phrase in TOO_LONG):
        return "too_long"
    if error.status_code >= 500 or error.status_code in PASSING:
        return "passing"
    return "filtered" if codes & {"content_filter", "content_policy_violation"} else "refused"
