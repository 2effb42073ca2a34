"""What a server's answer says about the labels. Anything that is not plainly an answer is a failure, never a guess."""

import math
import re
from collections.abc import Sequence
from typing import Any

from alignkit_plugins.reward_ai.answers import Answer, bounded, failed

# Blanks are taken off afterwards: a pattern for them beside the label would need cubic time for a row of blanks.
_VERDICT = re.compile(r"\[\[([^\[\]]{1,80})\]\]")
# A verdict is the last word: behind it only blanks, punctuation and what Markdown marks words with.
_NOTHING = re.compile(r"[\W_]*")


def read_text(message: Any, finish_reason: str | None, labels: Sequence[str], ties: bool) -> Answer:
    """The verdict `[[LABEL]]` (or `[[tie]]`) at the end; it may be said before as well, but not contradicted.

    A text that was cut off is none. With the labels A and B, `[[C]]` is a tie, as in prompts that are widely used.
    """
    refused = _refusal(message, finish_reason)
    if refused is not None:
        return refused
    text = message.content if isinstance(getattr(message, "content", None), str) else ""
    plain = [label.strip().casefold() for label in labels]
    found = list(_VERDICT.finditer(text))
    if finish_reason == "length" or not found or not _NOTHING.fullmatch(text, found[-1].end()):
        return failed("parse_error", text)
    said = {match[1].strip().casefold() for match in found}
    known_ties = {"tie", "c"} if set(plain) == {"a", "b"} else {"tie"}
    tie_words = known_ties - set(plain) if ties else set()
    verdicts = {"tie" if word in tie_words else word for word in said}
    if len(verdicts) != 1:
        return failed("parse_error", text)
    (word,) = verdicts
    if word == "tie" and tie_words:
        return Answer("ok", tuple(1 / len(plain) for _ in plain), None, bounded(text))
    if word not in plain:
        return failed("parse_error", text)
    shares = tuple(float(label == word) for label in plain)
    return Answer("ok", shares, None, bounded(text))


def read_logprobs(choice: Any, labels: Sequence[str]) -> Answer:
    """Probabilities of the labels among the likeliest first tokens; spaces around a token do not count.

    A label that the server did not list has less probability than the last one listed, and counts as 0.
    """
    message: Any = getattr(choice, "message", None)
    refused = _refusal(message, getattr(choice, "finish_reason", None))
    if refused is not None:
        return refused
    written = message.content if isinstance(getattr(message, "content", None), str) else ""
    plain = [label.strip() for label in labels]
    mass = [0.0] * len(plain)
    for token, logprob in first_token(choice):
        if token.strip() in plain:
            mass[plain.index(token.strip())] += math.exp(logprob)
    total = math.fsum(mass)
    if total <= 0.0:
        return failed("parse_error", written)
    return Answer("ok", tuple(m / total for m in mass), total, bounded(written))


def first_token(choice: Any) -> list[tuple[str, float]]:
    """(token, log-probability) of the likeliest first tokens; empty if the server told none."""
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not isinstance(content, list) or not content:
        return []
    listed = getattr(content[0], "top_logprobs", None)
    found = []
    for entry in listed if isinstance(listed, list) else []:
        token, logprob = getattr(entry, "token", None), getattr(entry, "logprob", None)
        # A positive log-probability would be no probability; rounding may leave a little above 0.
        if isinstance(token, str) and isinstance(logprob, int | float) and logprob < 1e-3:
            found.append((token, min(float(logprob), 0.0)))
    return found


def _refusal(message: Any, finish_reason: str | None) -> Answer | None:
    refusal = getattr(message, "refusal", None)
    if isinstance(refusal, str) and refusal:
        return failed("refusal", refusal)
    if finish_reason == "content_filter":
        return failed("refusal", "the server's content filter stopped the answer")
    return None
