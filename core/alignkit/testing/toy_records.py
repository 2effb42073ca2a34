"""Records of every part of a data step, which a tiny model learns in a few steps."""

from collections.abc import Callable

from alignkit.records import Demonstration, LabelledCompletion, PreferencePair, Prompt, Record, Text

SUBJECTS = ("film", "story", "score", "ending", "cast", "plot")
KINDS = ("quiet", "long", "honest", "slow", "warm", "haunting", "dull", "second")
GOOD, BAD = " is good and I recommend it", " is so dull that I left early"


def subject(number: int) -> str:
    """The prompt of a record; the first 48 are unlike each other."""
    return f"the {KINDS[number % len(KINDS)]} {SUBJECTS[number // len(KINDS) % len(SUBJECTS)]}"


MAKERS: dict[str, Callable[[str, bool], Record]] = {
    "texts": lambda prompt, good: Text(text=prompt + GOOD),
    "demonstrations": lambda prompt, good: Demonstration(prompt=prompt, completion=GOOD),
    "preferences": lambda prompt, good: PreferencePair(prompt=prompt, chosen=GOOD, rejected=BAD),
    "labels": lambda prompt, good: LabelledCompletion(prompt=prompt, completion=GOOD if good else BAD, label=good),
    "prompts": lambda prompt, good: Prompt(prompt=prompt),
}


def toy_records(part: str, count: int, start: int = 0) -> list[Record]:
    """`count` records from number `start` on; of labelled ones every second is good."""
    return [MAKERS[part](subject(n), n % 2 == 0) for n in range(start, start + count)]


def long_record(part: str, words: int) -> Record:
    """A record whose prompt has so many words."""
    return MAKERS[part](" ".join(subject(n) for n in range(words // 3)), True)
