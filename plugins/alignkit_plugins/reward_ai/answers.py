"""What is asked of a judge and what comes back, whichever kind of judge it is."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Failure = Literal["parse_error", "refusal", "api_error", "skipped"]
# What a model wrote is kept up to here: it may write without end.
KEPT_CHARACTERS = 2000


class Question(NamedTuple):
    """A rendered template; `key` names it in the cache together with everything else that decides the answer."""

    key: str
    text: str


class Answer(NamedTuple):
    """`shares`: probability of each label, adding up to 1; empty unless status is ok.

    `mass`: probability on all labels together before that, None where it is not known (a sampled verdict).
    """

    status: Literal["ok"] | Failure
    shares: tuple[float, ...] = ()
    mass: float | None = None
    text: str = ""


class Spent(NamedTuple):
    """What answers cost so far."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def plus(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(*(a + b for a, b in zip(self, other, strict=True)))


# Called with each answer as it arrives; what it raises stops the judge.
Keep = Callable[[Question, Answer], None]


class Judge(Protocol):
    """Answers questions with probabilities of labels."""

    labels: tuple[str, ...]
    revision: str
    # Plain data: everything about the judge that decides its answers.
    identity: dict[str, Any]
    tokenizer_id: str
    # Whether questions should ask for a verdict in words.
    verdict: bool

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer each question once, in any order."""
        ...

    def new_costs(self) -> Spent:
        """What was spent since the last call."""
        ...

    def cost(self, spent: Spent) -> float:
        """In the currency of the prices that were given; 0 without."""
        ...


def failed(status: Failure, text: str) -> Answer:
    """An answer that is none, with the words it came with."""
    return Answer(status, text=bounded(text))


def bounded(text: str, most: int = KEPT_CHARACTERS) -> str:
    """The beginning of a long text, and how much is missing."""
    more = len(text) - most
    return text if more <= 0 else f"{text[:most]}… ({more} more characters)"
