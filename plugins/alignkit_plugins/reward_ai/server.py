"""The judge behind a server that speaks OpenAI's chat completions, through the client of `alignkit.servers`."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from alignkit.errors import AlignkitError, Fault, Paused, UserError
from alignkit.servers.access import api_key, without_key
from alignkit.servers.client import meaning, open_client, said
from alignkit.servers.pace import Pace
from alignkit_plugins.reward_ai.answers import Answer, Keep, Question, Spent, bounded, failed
from alignkit_plugins.reward_ai.config import AIConfig
from alignkit_plugins.reward_ai.limits import BudgetUsedUp, Purse
from alignkit_plugins.reward_ai.verdicts import first_token, read_logprobs, read_text

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

TOP_LOGPROBS = 20


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
        self.purse = Purse(config.budget, config.prices, spent, _longest_answer(config))
        # Kept from one `ask` to the next: in the loop there is one in each iteration.
        self.pace = Pace(config.requests_per_minute)
        self._reported = spent
        self._key = api_key(config.api_key_env)
        self._probed = False

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer the questions, so many at a time.

        Raises Paused when the budget is used up, and UserError for a request that the server does not take, each after
        the answers under way have come in.
        """
        if questions:
            asyncio.run(self._ask(questions, keep))

    async def _ask(self, questions: Sequence[Question], keep: Keep) -> None:
        session = _Session(self, keep)
        async with self._client(session) as session.client:
            if not self._probed:
                await session.probe()
                self._probed = True
            await session.work(iter(questions))
        session.raise_if_stopped()

    def _client(self, session: "_Session") -> "AsyncOpenAI":
        config = self.config
        assert config.base_url is not None
        return open_client(config.base_url, self._key, config.retries, config.timeout, session.before_request)

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
            answer = read_logprobs(choice, self.labels)
        else:
            ties = self.config.form == "pairwise"
            answer = read_text(choice.message, getattr(choice, "finish_reason", None), self.labels, ties)
        # It goes into judgements and the cache, and the server knows the key.
        return answer._replace(text=self.redacted(answer.text))

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
        return without_key(text, self._key)


class _Session:
    """One call of `ask`: workers that share the questions and stop together."""

    client: "AsyncOpenAI"

    def __init__(self, judge: ServerJudge, keep: Keep) -> None:
        self.judge = judge
        self.keep = keep
        self.stopped: AlignkitError | BudgetUsedUp | None = None
        self._one_less = asyncio.Event()

    async def before_request(self, _: Any) -> None:
        """Hook of the HTTP client, before each request."""
        await self.judge.pace.wait()
        try:
            self.judge.purse.request()
        except BudgetUsedUp as used:
            # Also noted here, whatever the client makes of what a hook raises.
            self.stopped = self.stopped or used
            raise

    def raise_if_stopped(self) -> None:
        """Raise what stopped it; figures of the budget are those after the last answer."""
        if isinstance(self.stopped, BudgetUsedUp):
            raise self._used_up(self.stopped.limit)
        if self.stopped is not None:
            raise self.stopped

    async def probe(self) -> None:
        """One small question, so that a wrong address, name or key and missing log-probabilities are found at once."""
        judge, where = self.judge, self.judge.revision
        completion, answer = await self._complete(f"Reply with {judge.labels[0].strip()}.", probing=True)
        if answer is not None and self.stopped is None:
            raise Fault(f"the judge's server does not answer: {answer.text}", where=where)
        self.raise_if_stopped()
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

        from alignkit.servers.bounded import TooLargeError

        judge = self.judge
        completion: Any = None
        if not await self._admitted(text):
            return None, None
        try:
            completion = await self.client.chat.completions.create(**judge.request(text))
        except BudgetUsedUp:
            return None, None
        except openai.APIStatusError as error:
            return None, self._refused(error)
        except (
            openai.APIError,
            json.JSONDecodeError,
            TooLargeError,
        ) as error:  # timeouts, lost connections, an answer that is no JSON
            if isinstance(self.stopped, BudgetUsedUp) and isinstance(error, openai.APIConnectionError):
                return None, None
            words = judge.redacted(f"{type(error).__name__}: {error}")
            if probing and isinstance(error, openai.APIConnectionError):
                hint = "is it running, and is base_url right?"
                self.stopped = UserError(f"cannot reach the judge's server: {words}", where=judge.revision, hint=hint)
            return None, failed("api_error", words)
        finally:
            judge.purse.end(_usage(completion))
            self._one_less.set()
        return completion, None

    async def _admitted(self, text: str) -> bool:
        """Wait until the question fits into the budget; False once the run is stopped."""
        try:
            while self.stopped is None:
                if self.judge.purse.begin(text):
                    return True
                self._one_less.clear()
                await self._one_less.wait()
        except BudgetUsedUp as used:
            self.stopped = used
        return False

    def _refused(self, error: "APIStatusError") -> Answer | None:
        """What passes is an answer that failed; what would be refused again and again stops the run."""
        where = self.judge.revision
        words = bounded(self.judge.redacted(f"HTTP {error.status_code}: {said(error)}"), 500)
        kind = meaning(error)
        if kind == "no_quota":
            hint = "nothing is lost: put money on the account, or raise its limit, and run the same command again"
            self.stopped = Paused(f"the account of the judge's key has no quota left: {words}", where=where, hint=hint)
            return None
        if kind == "too_long":
            return failed("skipped", words)
        if kind == "passing":
            return failed("api_error", words)
        if kind == "filtered":
            return failed("refusal", words)
        hint = "this would happen with every question; see docs/judge.md"
        self.stopped = UserError(f"the judge's server refuses the request: {words}", where=where, hint=hint)
        return None

    def _used_up(self, limit: str) -> Paused:
        purse = self.judge.purse
        total, cost = purse.total, purse.cost(purse.total)
        paid = f", cost {cost:.4g}" if purse.prices else ""
        return Paused(
            f"budget.{limit} of the judge is used up: {total.requests} requests, "
            f"{total.tokens_in + total.tokens_out} tokens{paid}",
            where=self.judge.revision,
            hint=f"raise budget.{limit}, of which the next question could need more than is left; what was answered "
            "is kept and is not paid for again",
        )


def server_name(config: AIConfig) -> str:
    """Names the judge in records, messages and the cache."""
    return f"{config.model} at {config.base_url}"


def _longest_answer(config: AIConfig) -> int:
    """Tokens that an answer may have at most."""
    given = config.request.get("max_completion_tokens", config.request.get("max_tokens"))
    if isinstance(given, int):
        return given
    return 1 if config.answer == "logprobs" else config.answer_tokens


def _first_choice(completion: Any) -> Any:
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if getattr(choice, "message", None) is not None else None


def _usage(completion: Any) -> tuple[int, int] | None:
    usage = getattr(completion, "usage", None)
    counts = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
    return (counts[0], counts[1]) if isinstance(counts[0], int) and isinstance(counts[1], int) else None
