"""One exchange with the server: requests that go out together, stop together, and are all accounted for."""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alignkit.errors import AlignkitError, Fault, Paused, UserError
from alignkit.loop.rollouts import shortened
from alignkit.records import Prompt, Sampling
from alignkit.seeds import derived_seed
from alignkit.servers.access import without_key
from alignkit.servers.client import meaning, open_client, said
from alignkit_plugins.sampler_openai.wire import BadReplyError, Drawn, is_chat, read, request

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

    from alignkit_plugins.sampler_openai.sampler import OpenAISampler

logger = logging.getLogger("alignkit")

MOST_WORDS = 500
NO_LIST = (404, 405, 501)


class Session:
    """Questions to the server of a sampler."""

    client: "AsyncOpenAI"

    def __init__(self, sampler: "OpenAISampler") -> None:
        self.sampler = sampler
        self.config = sampler.config
        self.stopped: AlignkitError | None = None
        self.failed: list[str] = []
        self.sent = 0

    def _open(self) -> "AsyncOpenAI":
        config = self.config
        return open_client(config.base_url, self.sampler.key, config.retries, config.timeout, self._before_request)

    async def _before_request(self, _: Any) -> None:
        await self.sampler.pace.wait()

    async def served(self) -> tuple[str, str]:
        """The model's name, and what the server says that it stands for, if that is something else."""
        import openai

        from alignkit.servers.bounded import TooLargeError

        config = self.config
        listed: list[Any] = []
        async with self._open() as self.client:
            try:
                # With a name of its own the list is only about what stands behind it.
                tries = config.retries if config.model is None else min(config.retries, 1)
                found = getattr(await self.client.with_options(max_retries=tries).models.list(), "data", None)
                listed = found if isinstance(found, list) else []
            except openai.APIStatusError as error:
                no_list = error.status_code in NO_LIST or error.status_code >= 500
                if no_list and config.model is None:
                    raise self._unlisted(error) from None
                if not no_list:
                    raise self._refused(error, None) or self._fault(self._status(error)) from None
                logger.info("%s does not say what it serves: %s", self.sampler.where, self._status(error))
            except (openai.APIError, json.JSONDecodeError, UnicodeDecodeError, TooLargeError) as error:
                raise self._unreachable(error) from None
        names = [name for entry in listed if isinstance(name := getattr(entry, "id", None), str)]
        if config.model is None and len(names) != 1:
            shown = f"it lists {', '.join(names[:10])}" if names else "it lists none"
            raise UserError(f"which model of the server? {shown}", where=self.sampler.where, hint="set sampler.model")
        model = config.model or names[0]
        entry = next((entry for entry in listed if getattr(entry, "id", None) == model), None)
        root = getattr(entry, "root", None)
        return model, self._plain(root) if isinstance(root, str) and root != model else ""

    async def draw(
        self, prompts: Sequence[Prompt], groups: Sequence[Sequence[int]], sampling: Sampling, seed: int
    ) -> list[Drawn]:
        """A completion for each prompt; `groups` are the rows of equal ones. Raises what stopped it."""
        found: dict[int, Drawn] = {}
        free = asyncio.Semaphore(self.config.concurrency)

        async def ask(rows: list[int]) -> None:
            drawn: list[Drawn] = []
            # Servers refuse n where nothing is drawn at random.
            if len(rows) == 1 or (self.sampler.takes_n and sampling.temperature > 0):
                async with free:
                    drawn = await self._complete(prompts[rows[0]], rows, sampling, seed)
                if not drawn:
                    return
                # Fewer than were asked for: it does not know n. What is missing is asked for one by one.
                self.sampler.takes_n &= len(drawn) == len(rows)
            found.update(zip(rows, drawn, strict=False))
            await asyncio.gather(*(ask([row]) for row in rows[len(drawn) :]))

        async with self._open() as self.client:
            await asyncio.gather(*(ask(list(rows)) for rows in groups))
        if self.stopped is not None:
            raise self.stopped
        if self.failed:
            many = f"{len(self.failed)} of {self.sent} requests failed, {len(found)} of {len(prompts)} completions came"
            raise self._fault(f"{many}; the first failure: {self.failed[0]}")
        return [found[row] for row in range(len(prompts))]

    async def _complete(self, prompt: Prompt, rows: list[int], sampling: Sampling, seed: int) -> list[Drawn]:
        """Completions for the rows, which have one prompt; none once something stopped the exchange."""
        chat = is_chat(self.config, prompt)
        # By the row: one that is asked for again gets the same, and no two rows do.
        own = derived_seed(seed, "request", prompt.id, rows[0])
        arguments = request(self.config, self.sampler.model, prompt, sampling, len(rows), own)
        for attempt in range(self.config.retries + 1):
            if self.stopped is not None or self.failed:
                return []
            self.sent += attempt == 0
            try:
                return await self._answer(arguments, chat, len(rows), sampling, prompt)
            except BadReplyError as error:
                problem = self._plain(str(error))
            await asyncio.sleep(min(0.5 * 2**attempt, 8.0) if attempt < self.config.retries else 0.0)
        self.failed.append(f"{problem}; prompt {shortened(prompt)}")
        return []

    async def _answer(
        self, arguments: dict[str, Any], chat: bool, count: int, sampling: Sampling, prompt: Prompt
    ) -> list[Drawn]:
        """Raises BadReplyError where asking again may help; notes what else went wrong."""
        import openai

        from alignkit.servers.bounded import TooLargeError

        create: Any = self.client.chat.completions.create if chat else self.client.completions.create
        try:
            reply = await create(**arguments)
        except openai.APIStatusError as error:
            refused = self._refused(error, prompt)
            self.stopped = self.stopped or refused
            if refused is None:
                self.failed.append(f"{self._status(error)}; prompt {shortened(prompt)}")
            return []
        except openai.APIConnectionError as error:  # timeouts too; the client has tried again
            self.failed.append(f"{self._plain(f'{type(error).__name__}: {error}')}; prompt {shortened(prompt)}")
            return []
        except (openai.APIError, json.JSONDecodeError, UnicodeDecodeError, TooLargeError) as error:
            raise BadReplyError(f"{type(error).__name__}: {error}") from None
        drawn = read(reply, chat, count, sampling)
        self._same_model(getattr(reply, "model", None))
        return [one._replace(text=without_key(one.text, self.sampler.key)) for one in drawn]

    def _same_model(self, name: Any) -> None:
        """Two models behind one name would be taken for one policy."""
        before = self.sampler.answers_as
        if isinstance(name, str) and before is not None and name != before:
            self.stopped = self.stopped or Fault(
                f"the server answers as {self._plain(name)}, and before as {before}: two models would mix",
                where=self.sampler.where,
            )
        self.sampler.answers_as = self._plain(name) if isinstance(name, str) else before

    def _refused(self, error: "APIStatusError", prompt: Prompt | None) -> AlignkitError | None:
        """The error for what would be refused again and again; None for what passes."""
        kind, words, where = meaning(error), self._status(error), self.sampler.where
        if kind == "no_quota":
            hint = "nothing is lost: put money on the account, or raise its limit, and run the same command again"
            return Paused(f"the account of the key has no quota left: {words}", where=where, hint=hint)
        if kind == "too_long" and prompt is not None:
            hint = "lower sampling.max_length, leave such prompts out, or serve the model with a longer context"
            return UserError(f"prompt {prompt.id} does not fit the model: {words}", where=where, hint=hint)
        if kind in ("passing", "filtered"):
            return None
        hint = "this would happen with every request; see docs/servers.md"
        if error.status_code == 404:
            hint = "does the server serve this model, and is base_url right? At most servers it ends in /v1"
        return UserError(f"the server refuses the request: {words}", where=where, hint=hint)

    def _unlisted(self, error: "APIStatusError") -> UserError:
        what = f"the server does not list its models: {self._status(error)}"
        hint = (
            "set sampler.model to the name that it serves the model by; if it is still starting, wait, and if it has "
            "no such address, look at base_url"
        )
        return UserError(what, where=self.sampler.where, hint=hint)

    def _fault(self, what: str) -> Fault:
        hint = (
            "run the same command again when the server answers: what collect has written down is not asked for again"
        )
        return Fault(f"the server gave no completion: {what}", where=self.sampler.where, hint=hint)

    def _unreachable(self, error: Exception) -> AlignkitError:
        words = self._plain(f"{type(error).__name__}: {error}")
        hint = "is it running, and is base_url right?"
        return UserError(f"cannot reach the server: {words}", where=self.sampler.where, hint=hint)

    def _status(self, error: "APIStatusError") -> str:
        return self._plain(f"HTTP {error.status_code}: {said(error)}")

    def _plain(self, text: str) -> str:
        """What a server says, without the key and not without end."""
        text = without_key(text, self.sampler.key)
        return text if len(text) <= MOST_WORDS else f"{text[:MOST_WORDS]}… ({len(text) - MOST_WORDS} more characters)"
