"""A server that completes texts and answers conversations as it is told, and the sampler that asks it."""

from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alignkit.manager import PluginManager
from alignkit.recipe import ComponentSpec
from alignkit.records import Prompt
from alignkit.testing.context import make_context
from helpers.judging import StubServer


@dataclass
class CompletionServer(StubServer):
    """`reply(body, number)` answers both kinds of requests; `models` is what it lists, or (status, body)."""

    models: Any = field(default_factory=lambda: [{"id": "m", "object": "model", "created": 1, "owned_by": "me"}])
    lists: int = 0

    def _answer(self, body: dict[str, Any], number: int) -> Any:
        return self.reply(body, number)

    def _routes(self) -> list[Route]:
        paths = ("/v1/chat/completions", "/v1/completions")
        found = [Route(path, self._complete, methods=["POST"]) for path in paths]
        return [*found, Route("/v1/models", self._models)]

    async def _models(self, request: Request) -> Response:
        self.lists += 1
        self.headers.append(dict(request.headers))
        status, body = self.models if isinstance(self.models, tuple) else (200, self.models)
        return JSONResponse({"object": "list", "data": body} if isinstance(body, list) else body, status)


def wrote(
    body: dict[str, Any], *texts: Any, finish: Any = "stop", tokens: int | None = 3, model: str = "m", **more: Any
) -> dict[str, Any]:
    """An answer to the request `body` with these texts; `tokens` are those of each."""
    whole: dict[str, Any] = {"id": "x", "created": 1, "model": model}
    if "messages" in body:
        whole["object"] = "chat.completion"
        parts = [{"message": {"role": "assistant", "content": text, **more}} for text in texts]
    else:
        whole["object"] = "text_completion"
        parts = [{"text": text, "logprobs": None, **more} for text in texts]
    whole["choices"] = [{"index": n, "finish_reason": finish, **part} for n, part in enumerate(parts)]
    if tokens is not None:
        count = len(texts) * tokens
        whole["usage"] = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
    return whole


def asked(body: dict[str, Any]) -> str:
    """The prompt of a request."""
    return str(body["prompt"] if "prompt" in body else body["messages"][-1]["content"])


def echo(body: dict[str, Any], number: int) -> dict[str, Any]:
    """As many different texts as were asked for, each with its prompt in it."""
    return wrote(body, *(f"{asked(body)} / {body.get('seed')} / {n}" for n in range(body.get("n", 1))))


def server_sampler(server: CompletionServer, **options: Any) -> Any:
    """The sampler as a recipe would get it; it does not try again."""
    manager = PluginManager()
    manager.load()
    spec = ComponentSpec(name="openai", **{"base_url": server.url, "retries": 0, **options})
    return make_context(manager=manager).build("sampler", spec)


def repeated(*texts: str, times: int = 1) -> list[Prompt]:
    """Each prompt so many times, as samples of it are asked for."""
    return [Prompt(prompt=text) for text in texts for _ in range(times)]
