"""From the fields of a form to the payload of a judgement, for the five forms of asking."""

from collections.abc import Callable, Mapping, Sequence

from alignkit.annotation import Form
from alignkit.records import Binary, Candidate, Critique, Instructions, Pairwise, Payload, Ranking, Rating, Task

TEXT_CHARACTERS = 100_000
REASON_CHARACTERS = 2_000
# Fields in which people write, and not only choose.
WRITTEN = ("text", "revision", "reason")

Fields = Mapping[str, str]


class BadAnswer(Exception):
    """What was sent is no answer yet; the message says to the annotator what is missing."""


def letter(position: int) -> str:
    """What a candidate is called on the page: A, B, C …"""
    return chr(ord("A") + position) if position < 26 else f"Z{position - 25}"


def payload_of(form: Form, task: Task, shown: Sequence[Candidate], told: Instructions, fields: Fields) -> Payload:
    """`shown` are the candidates in the order in which this annotator saw them. Raises BadAnswer."""
    by_letter = {letter(n): candidate for n, candidate in enumerate(shown)}
    return _READERS[form](task, by_letter, told, fields)


def limited(fields: Fields, name: str, most: int) -> str:
    """A text field with the line ends of text files. Raises BadAnswer for one that is too long."""
    text = fields.get(name, "").replace("\r\n", "\n")
    if len(text) > most:
        raise BadAnswer(f"The text has {len(text):,} characters; {most:,} are possible. Shorten it and submit again.")
    return text


def revision_limit(original: str) -> int:
    """A better version may be longer than the original, however long that is."""
    return max(TEXT_CHARACTERS, 2 * len(original))


def _ranking(task: Task, shown: Mapping[str, Candidate], told: Instructions, fields: Fields) -> Ranking:
    written = fields.get("ranking", "")
    groups = _places(shown, fields) if not written else [group.split("=") for group in written.split(">")]
    ranked = [name for group in groups for name in group]
    missing = [name for name in shown if name not in ranked]
    if missing:
        raise BadAnswer(f"Not ranked yet: {', '.join(missing)}.")
    if len(ranked) != len(shown):
        raise BadAnswer("This ranking has a letter twice, or one that is not on the page. Rank again.")
    return Ranking(groups=tuple(tuple(shown[name].id for name in group) for group in groups))


def _places(shown: Mapping[str, Candidate], fields: Fields) -> list[list[str]]:
    """The form without scripts: a place for each candidate, equal places are ties."""
    by_place: dict[int, list[str]] = {}
    for name in shown:
        place = fields.get(f"place-{name}", "")
        if place.isdecimal() and len(place) < 4:
            by_place.setdefault(int(place), []).append(name)
    return [by_place[place] for place in sorted(by_place)]


def _pairwise(task: Task, shown: Mapping[str, Candidate], told: Instructions, fields: Fields) -> Pairwise:
    choice = fields.get("choice", "")
    first, second = task.candidates
    if choice == "tie":
        return Pairwise(a=first.id, b=second.id, p_a=0.5)
    if choice not in shown:
        raise BadAnswer("Choose the better answer, or the tie.")
    return Pairwise(a=first.id, b=second.id, p_a=float(shown[choice].id == first.id))


def _rating(task: Task, shown: Mapping[str, Candidate], told: Instructions, fields: Fields) -> Rating:
    low, high = told.rating_low, told.rating_high
    try:
        value = int(fields.get("value", ""))
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise BadAnswer(f"Choose a value from {low} to {high}.")
    return Rating(candidate=task.candidates[0].id, value=value, low=low, high=high)


def _binary(task: Task, shown: Mapping[str, Candidate], told: Instructions, fields: Fields) -> Binary:
    verdict = fields.get("verdict")
    if verdict not in ("good", "bad"):
        raise BadAnswer("Choose good or bad.")
    return Binary(candidate=task.candidates[0].id, good=verdict == "good")


def _critique(task: Task, shown: Mapping[str, Candidate], told: Instructions, fields: Fields) -> Critique:
    candidate = task.candidates[0]
    text = limited(fields, "text", TEXT_CHARACTERS)
    revision = limited(fields, "revision", revision_limit(candidate.completion))
    offered = revision.strip() and _as_sent(revision) != _as_sent(candidate.completion)
    if not text.strip() and not offered:
        raise BadAnswer("Write what is good or bad about the answer, or a better version of it.")
    return Critique(candidate=candidate.id, text=text, revision=revision if offered else None)


def _as_sent(text: str) -> str:
    """As a browser sends back what it was given: an untouched copy of the original is no revision."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd").strip()


_READERS: dict[Form, Callable[[Task, Mapping[str, Candidate], Instructions, Fields], Payload]] = {
    "ranking": _ranking,
    "pairwise": _pairwise,
    "rating": _rating,
    "binary": _binary,
    "critique": _critique,
}
