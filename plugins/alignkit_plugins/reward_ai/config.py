"""Options of the reward source `ai`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from alignkit.components import Config
from alignkit.recipe.model import Operational
from alignkit.servers.access import plain_address

Form = Literal["pairwise", "rating"]


class Prices(Config):
    """What the server charges, in your currency per million tokens."""

    input: float = Field(ge=0.0, description="price of a million tokens of questions")
    output: float = Field(ge=0.0, description="price of a million tokens of answers")


class Budget(Config):
    """What a run may spend on one judge, over all its steps, rounds and resumptions. None: no limit."""

    requests: int | None = Field(None, ge=1, description="HTTP requests, repeated ones included")
    tokens: int | None = Field(None, ge=1, description="tokens of questions and answers together")
    cost: float | None = Field(None, gt=0.0, description="cost by `prices`")


class AIConfig(Config):
    """A language model judges: which of two answers is better, or how good one is."""

    judge: Literal["local", "openai"] = Field(
        description="local: a transformers model in this process; openai: a server that speaks OpenAI's protocol"
    )
    model: str = Field(
        min_length=1, description="local: @step, folder or hub name of a causal LM; openai: the server's name for it"
    )
    annotator: str | None = Field(
        None,
        description="the judge's id in judgements is ai-ANNOTATOR; default: the model's name",
        pattern=r"^[A-Za-z0-9._-]+$",
    )
    form: Form = Field(
        "pairwise",
        description="pairwise: which of two is better, asked in both orders; rating: expected score of each answer, "
        "which also scores completions in `align`",
    )
    template: str | None = Field(
        None,
        description="Jinja file of the question, or built in: pairwise, constitution, rating; default: by the form",
    )
    constitution: str | None = Field(
        None, description="text file with a principle per line, or `default`; one is drawn for each judgement"
    )
    labels: tuple[str, ...] | None = Field(
        None,
        description="what the judge answers with: two for pairwise, one for each step of the scale for rating, as its "
        "tokens spell them; default: letters or numbers, with a space before them where no chat template is used",
    )
    scale: tuple[int, int] = Field((1, 10), description="lowest and highest rating")
    max_failures: Annotated[float, Operational()] = Field(
        0.2, ge=0.0, le=1.0, description="share of judgements that may fail before the run stops"
    )
    cache: Annotated[str | None, Operational()] = Field(
        None,
        description="file NAME.sqlite that keeps all answers; default: RUN FOLDER/judge_cache.sqlite",
        # A recipe may be a stranger's: it must not make a file that some other program reads.
        pattern=r"\.(sqlite|sqlite3|db)$",
    )

    chat: Literal["auto", "never"] = Field(
        "auto", description="local: put the question into the tokenizer's chat template, if it has one"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="local: type of the weights")
    batch_tokens: Annotated[int, Operational()] = Field(
        4096, ge=1, description="local: padded tokens per forward pass; changes memory and speed only"
    )

    base_url: str | None = Field(None, description="openai: the server, for example http://localhost:8000/v1")
    api_key_env: Annotated[str | None, Operational()] = Field(
        None, description="openai: name of the environment variable that holds the key; None for a server without keys"
    )
    answer: Literal["logprobs", "text"] = Field(
        "logprobs",
        description="openai: read label probabilities of the first token, or let it write and end with [[LABEL]]",
    )
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="openai, text: sampling temperature")
    answer_tokens: int = Field(512, ge=1, description="openai, text: tokens it may write")
    request: dict[str, Any] = Field(
        default_factory=dict, description="openai: further fields of each request, for example {seed: 1}"
    )
    concurrency: Annotated[int, Operational()] = Field(8, ge=1, le=1000, description="openai: requests at a time")
    requests_per_minute: Annotated[float | None, Operational()] = Field(
        None, gt=0.0, description="openai: send at most so many"
    )
    retries: Annotated[int, Operational()] = Field(
        5, ge=0, le=100, description="openai: repetitions after 408, 409, 429, 5xx, lost connections and timeouts"
    )
    timeout: Annotated[float, Operational()] = Field(120.0, gt=0.0, description="openai: seconds to wait for an answer")
    budget: Annotated[Budget, Operational()] = Field(Budget(), description="openai: what may be spent")
    prices: Annotated[Prices | None, Operational()] = Field(
        None, description="openai: prices per million tokens; needed for budget.cost"
    )

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        return None if value is None else plain_address(value)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for problem in (*self._of_other_kind(), *self._bad_labels(), *self._missing()):
            raise ValueError(problem)
        return self

    def _of_other_kind(self) -> list[str]:
        kinds = {"local": _LOCAL, "openai": _OPENAI}
        foreign = kinds["openai" if self.judge == "local" else "local"]
        given = self._given()
        wrong = sorted(given & foreign)
        found = [f"{', '.join(wrong)}: no option of judge {self.judge!r}"] if wrong else []
        if self.judge == "openai" and self.answer == "logprobs":
            ignored = sorted(given & {"temperature", "answer_tokens"})
            found += [f"{', '.join(ignored)}: options of answer: text, no use for logprobs"] if ignored else []
        if self.form == "pairwise" and "scale" in given:
            found.append("scale: an option of form: rating")
        return found

    def _given(self) -> set[str]:
        """Options with a value of their own: a run's record has the defaults too, and must be readable as options."""
        fields = type(self).model_fields
        return {
            n for n in self.model_fields_set if getattr(self, n) != fields[n].get_default(call_default_factory=True)
        }

    def _bad_labels(self) -> list[str]:
        low, high = self.scale
        if high <= low or high - low > 99:
            return ["scale: a scale goes from a lower to a higher number, in at most 100 steps"]
        count = 2 if self.form == "pairwise" else high - low + 1
        if self.labels is not None and len(self.labels) != count:
            return [f"labels: this form needs {count}, and there are {len(self.labels)}"]
        plain = [label.strip() for label in self.plain_labels()]
        if not all(plain) or len({label.casefold() for label in plain}) < count:
            return ["labels: they must differ, also without the spaces around them, and none may be empty"]
        if self.judge == "openai" and self.answer == "logprobs":
            for a in plain:
                for b in plain:
                    if a != b and b.startswith(a):
                        return [
                            f"labels: {a!r} begins {b!r}, and the one token that is read may not tell them apart; "
                            "for ratings take scale: [1, 9]"
                        ]
        if self.judge == "openai" and self.answer == "logprobs" and count > 20:
            return ["labels: servers tell the probabilities of at most 20 tokens"]
        return []

    def _missing(self) -> list[str]:
        if self.judge == "openai" and self.base_url is None:
            return ["base_url is missing: the address of the server"]
        if self.budget.cost is not None and self.prices is None:
            return ["prices is missing: without it budget.cost cannot be kept"]
        reserved = sorted(set(self.request) & {"model", "messages", "logprobs", "top_logprobs", "n", "stream"})
        return [f"request: {', '.join(reserved)} cannot be set here"] if reserved else []

    def plain_labels(self) -> tuple[str, ...]:
        """The labels as given, else letters or numbers."""
        if self.labels is not None:
            return self.labels
        low, high = self.scale
        return ("A", "B") if self.form == "pairwise" else tuple(str(i) for i in range(low, high + 1))


_LOCAL = {"chat", "dtype", "batch_tokens"}
_OPENAI = {
    "base_url",
    "api_key_env",
    "answer",
    "temperature",
    "answer_tokens",
    "request",
    "concurrency",
    "requests_per_minute",
    "retries",
    "timeout",
    "budget",
    "prices",
}
