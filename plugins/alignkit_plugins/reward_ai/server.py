"""The judge behind a server that speaks OpenAI's chat completions, through the official client.

The client repeats a request after 408, 409, 429, 5xx, lost connections and timeouts, with exponential backoff and
jitter, and waits as long as Retry-After says (up to two minutes); nothing else is repeated.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from alignkit.errors import AlignkitError, Fault, Paused, UserError
from alignkit_plugins.reward_ai.answers import Answer, Keep, Question, Spent, bounded, failed
from alignkit_plugins.reward_ai.config import AIConfig
from alignkit_plugins.reward_ai.limits import BudgetUsedUp, Pace, Purse
from alignkit_plugins.reward_ai.verdicts import first_token, read_logprobs, read_text

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

TOP_LOGPROBS = 20
# After these the client has tried again, and another question may do better.
PASSING = frozenset({408, 409, 429})


class ServerJudge:
    """Satisfies `Judge`."""

    tokenizer_id = ""

    def __init__(self, config: AIConfig, spent: Spent) -> None:
        """`spent`: what was paid for this judge before. Raises UserError if the key's variable is empty."""
        self.config = config
        self.labels = config.plain_labels()
        self.verdict = config.answer == "text"
        self.revision = server_name(config)
        self.identity: dict[str, Any] = {
            "kind": "openai",
            "revision": self.revision,
            "answer": config.answer,
            "temperature": config.temperature,
            "answer_tokens": config.answer_tokens,
            "request": config.request,
        }
        self.purse = Purse(config.budget, config.prices, spent)
        self._reported = spent
        self._key = api_key(config)
        self._probed = False

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer the questions, so many at a time.

        Raises Paused when the budget is used up, and UserError for a request that the server does not take, each after
        the answers under way have come in.
        """
        if questions:
            asyncio.run(self._ask(questions, keep))

    async def _ask(self, questions: Sequence[Question], keep: Keep) -> None:
        async with self._client() as client:
            session = _Session(self, client, keep)
            if not self._probed:
                await session.probe()
                self._probed = True
            await session.work(iter(questions))
        if session.stopped is not None:
            raise session.stopped

    def _client(self) -> "AsyncOpenAI":
        import openai

        pace = Pace(self.config.requests_per_minute)

        async def before_request(_: Any) -> None:
            await pace.wait()
            self.purse.request()

        return openai.AsyncOpenAI(
            base_url=self.config.base_url,
            # Given always: the client would send what OPENAI_API_KEY holds to whichever server this is.
            api_key=self._key or "none",
            max_retries=self.config.retries,
            timeout=self.config.timeout,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [before_request]}),
        )

    def request(self, text: str) -> dict[str, Any]:
        """The fields of a request. Log-probabilities are asked for at temperature 1, where they are the model's own."""
        config = self.config
        if config.answer == "logprobs":
            options: dict[str, Any] = {"max_tokens": 1, "temperature": 1.0}
            options |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        else:
            options = {"max_tokens": config.answer_tokens, "temperature": config.temperature}
        if "max_completion_tokens" in config.request:
            del options["max_tokens"]
        fields = {"model": config.model, "messages": [{"role": "user", "content": text}], **options}
        return {**{k: v for k, v in fields.items() if k not in config.request}, "extra_body": dict(config.request)}

    def read(self, completion: Any) -> Answer:
        """The answer in a completion."""
        choice = _first_choice(completion)
        if choice is None:
            return failed("api_error", self.redacted(f"no chat completion: {completion!r}"))
        if not self.verdict:
            return read_logprobs(choice, self.labels)
        ties = self.config.form == "pairwise"
        return read_text(choice.message, getattr(choice, "finish_reason", None), self.labels, ties)

    def new_costs(self) -> Spent:
        """What was spent since the last call."""
        total, before = self.purse.total, self._reported
        self._reported = total
        return Spent(*(a - b for a, b in zip(total, before, strict=True)))

    def cost(self, spent: Spent) -> float:
        """By the prices in the config."""
        return self.purse.cost(spent)

    def redacted(self, text: str) -> str:
        """Servers quote the key in their errors."""
        return text.replace(self._key, "[key]") if self._key else text


class _Session:
    """One call of `ask`: workers that share the questions and stop together."""

    def __init__(self, judge: ServerJudge, client: "AsyncOpenAI", keep: Keep) -> None:
        self.judge = judge
        self.client = client
        self.keep = keep
        self.stopped: AlignkitError | None = None

    async def probe(self) -> None:
        """One small question, so that a wrong address, name or key and missing log-probabilities are found at once."""
        judge, where = self.judge, self.judge.revision
        completion, answer = await self._complete(f"Reply with {judge.labels[0].strip()}.", probing=True)
        if answer is not None and self.stopped is None:
            raise Fault(f"the judge's server does not answer: {answer.text}", where=where)
        if self.stopped is not None:
            raise self.stopped
        choice = _first_choice(completion)
        if choice is None:
            words = judge.redacted(bounded(repr(completion), 300))
            raise UserError(f"this is no chat completion: {words}", where=where, hint="look at base_url and model")
        if not judge.verdict and not first_token(choice):
            raise UserError(
                "the server was asked for log-probabilities and its answer has none",
                where=where,
                hint="set answer: text, or use judge: local, or a server that gives top_logprobs",
            )
        if _usage(completion) is None and (judge.config.budget.tokens or judge.config.budget.cost):
            raise UserError(
                "the server does not say how many tokens it used, so budget.tokens and budget.cost cannot be kept",
                where=where,
                hint="set budget.requests instead",
            )

    async def work(self, questions: Iterator[Question]) -> None:
        """Answer all, `concurrency` at a time."""
        await asyncio.gather(*(self._worker(questions) for _ in range(self.judge.config.concurrency)))

    async def _worker(self, questions: Iterator[Question]) -> None:
        for question in questions:
            if self.stopped is not None:
                return
            completion, answer = await self._complete(question.text)
            if completion is None and answer is None:
                return
            try:
                self.keep(question, answer or self.judge.read(completion))
            except AlignkitError as error:
                self.stopped = error

    async def _complete(self, text: str, probing: bool = False) -> tuple[Any, Answer | None]:
        """(completion, None), or (None, what failed), or (None, None) once `stopped` says why."""
        import openai

        purse, judge = self.judge.purse, self.judge
        completion: Any = None
        try:
            purse.begin(text)
        except BudgetUsedUp as used:
            self.stopped = self._budget(used.limit)
            return None, None
        try:
            completion = await self.client.chat.completions.create(**judge.request(text))
        except BudgetUsedUp as used:
            self.stopped = self._budget(used.limit)
        except openai.APIStatusError as error:
            return None, self._refused(error)
        except (
            openai.APIError,
            json.JSONDecodeError,
        ) as error:  # timeouts, lost connections, an answer that is no JSON
            words = judge.redacted(f"{type(error).__name__}: {error}")
            if probing and isinstance(error, openai.APIConnectionError):
                hint = "is it running, and is base_url right?"
                self.stopped = UserError(f"cannot reach the judge's server: {words}", where=judge.revision, hint=hint)
            return None, failed("api_error", words)
        finally:
            purse.end(*(_usage(completion) or (0, 0)))
        return completion, None

    def _refused(self, error: "APIStatusError") -> Answer | None:
        """What passes is an answer that failed; what would be refused again and again stops the run."""
        words = bounded(self.judge.redacted(f"HTTP {error.status_code}: {error.message}"), 500)
        code = str(error.code or "")
        if error.status_code >= 500 or error.status_code in PASSING:
            return failed("api_error", words)
        if code == "context_length_exceeded" or "maximum context length" in words:
            return failed("skipped", words)
        if code in ("content_filter", "content_policy_violation"):
            return failed("refusal", words)
        hint = "this would happen with every question; see docs/judge.md"
        self.stopped = UserError(
            f"the judge's server refuses the request: {words}", where=self.judge.revision, hint=hint
        )
        return None

    def _budget(self, limit: str) -> Paused:
        purse = self.judge.purse
        total, cost = purse.total, purse.cost(purse.total)
        paid = f", cost {cost:.4g}" if purse.prices else ""
        return Paused(
            f"budget.{limit} of the judge is used up: {total.requests} requests, "
            f"{total.tokens_in + total.tokens_out} tokens{paid}",
            where=self.judge.revision,
            hint=f"raise budget.{limit}; what was answered is kept and is not paid for again",
        )


def server_name(config: AIConfig) -> str:
    """Names the judge in records, messages and the cache."""
    return f"{config.model} at {config.base_url}"


def api_key(config: AIConfig) -> str | None:
    """The key from the environment variable that the config names; it is written nowhere."""
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {config.api_key_env} is empty",
            where="api_key_env",
            hint=f"export {config.api_key_env}=… before the run",
        )
    return key


def _first_choice(completion: Any) -> Any:
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if getattr(choice, "message", None) is not None else None


def _usage(completion: Any) -> tuple[int, int] | None:
    usage = getattr(completion, "usage", None)
    counts = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    return (counts[0], counts[1]) if isinstance(counts[0], int) and isinstance(counts[1], int) else None
