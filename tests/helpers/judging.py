"""Tasks to judge, judges to build, and a server that answers as it is told."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from alignkit.context import StepContext
from alignkit.manager import PluginManager
from alignkit.recipe import ComponentSpec
from alignkit.records import Candidate, Sampling, Task, content_id
from helpers.context import make_context


def make_task(prompt: str, *texts: str, revision: str = "policy") -> Task:
    """A task whose candidates say `texts`."""
    candidates = tuple(
        Candidate(
            id=content_id(prompt, text, str(n)),
            prompt_id=content_id(prompt),
            prompt=prompt,
            completion=text,
            policy_revision=revision,
            sampling=Sampling(),
            seed=0,
            prompt_ids=(1,),
            completion_ids=(2,),
            finish_reason="stop",
        )
        for n, text in enumerate(texts)
    )
    return Task(id=content_id(prompt, *texts), prompt=prompt, candidates=candidates)


def step_context(folder: Path) -> StepContext:
    """A context with every installed plugin."""
    manager = PluginManager()
    manager.load()
    return make_context(folder, manager=manager)


def build_ai(folder: Path, name: str = "ai", **options: Any) -> Any:
    """The reward source as a recipe would get it, its cache in `folder`."""
    return step_context(folder).build("reward_source", ComponentSpec(name=name, **options))


@dataclass
class StubServer:
    """Answers chat completions with `reply(prompt, number)`: a dict, text, or (status, body[, headers]).

    Answers nothing but the probe before `together` requests were under way at once.
    """

    reply: Callable[[str, int], Any]
    delay: float = 0.0
    together: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    under_way: int = 0
    most_at_once: int = 0

    async def _complete(self, request: Request) -> Response:
        self.times.append(time.monotonic())
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        number = len(self.bodies)
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        if number > 1:
            await self._others()
        await asyncio.sleep(self.delay)
        self.under_way -= 1
        answer = self._answer(body, number)
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, str):
            return PlainTextResponse(answer)
        if isinstance(answer, tuple):
            status, body, *headers = answer
            return JSONResponse(body, status, headers[0] if headers else None)
        return JSONResponse(answer)

    def _answer(self, body: dict[str, Any], number: int) -> Any:
        return self.reply(body["messages"][-1]["content"], number)

    def _routes(self) -> list[Route]:
        return [Route("/v1/chat/completions", self._complete, methods=["POST"])]

    async def _others(self) -> None:
        for _ in range(3000):
            if self.most_at_once >= self.together:
                return
            await asyncio.sleep(0.01)

    def __enter__(self) -> "StubServer":
        app = Starlette(routes=self._routes())
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    @property
    def prompts(self) -> list[str]:
        """What was asked, the probe left out."""
        texts = [body["messages"][-1]["content"] for body in self.bodies]
        return [text for text in texts if not text.startswith("Reply with ")]


def completion(
    content: str | None = "A",
    top: Sequence[tuple[str, float]] | None = None,
    usage: tuple[int, int] | None = (100, 10),
    finish: str = "stop",
    refusal: str | None = None,
) -> dict[str, Any]:
    """A chat completion as servers write it; `top` are (token, log-probability) of the first token."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": content, "refusal": refusal},
    }
    if top is not None:
        listed = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in top]
        choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    whole: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    if usage is not None:
        whole["usage"] = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
        }
    return whole
