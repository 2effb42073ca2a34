"""Generator of simulated short film reviews: a plan (how warm, how specific), then templates filled in.

The only public promises are `review`, `reviews` and `openings`; `draw_opening` and `complete` are there for
anyone who wants several completions of one opening, as a comparison of two answers needs.
"""

import functools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from alignkit_plugins.film_world import lexicon
from alignkit_plugins.film_world.lexicon import Aspect

_SLOT: Final = re.compile(r"\{([^{}]+)\}")
_VOWEL_SAID_AS_CONSONANT: Final = ("one", "once", "unique", "unit", "univ", "unif", "use", "euro")
_SILENT_H: Final = ("honest", "hour", "heir", "honour")
_SHORTEST, _LONGEST, _LONGEST_OPENING = 12, 36, 7
_KIND_WEIGHTS: Final = {
    "part": 4,
    "film": 5,
    "aspect": 4,
    "watched": 3,
    "fan": 2,
    "gets": 1,
    "there": 1,
    "anyone": 2,
}


@dataclass(frozen=True)
class Opening:
    """The start of a review, with what its continuation must agree with."""

    text: str
    kind: str
    aspect: Aspect | None = None
    plural: bool = False


@dataclass(frozen=True)
class _Plan:
    """What a review sets out to be; each property is drawn on its own so that none predicts another."""

    sign: str
    specific: bool
    verdict: bool
    guide: bool
    pad: bool
    insult: bool
    body: bool


def article(phrase: str) -> str:
    """The indefinite article the phrase takes, by the sound it starts with."""
    word = phrase.lower()
    if word.startswith(_SILENT_H):
        return "an"
    vowel = word[:1] in set("aeiou") and not word.startswith(_VOWEL_SAID_AS_CONSONANT)
    return "an" if vowel else "a"


@functools.lru_cache(maxsize=8192)  # the entries are few and asked about on every pick
def _entry_words(text: str) -> frozenset[str]:
    """Content words of a template or entry; slots and short function words may come again."""
    return frozenset(re.findall(r"[a-z-]{4,}", _SLOT.sub(" ", text.lower())))


@dataclass
class _Writer:
    """Fills templates for one review and remembers what it has used, lest a review echo itself."""

    rng: random.Random
    opening: Opening | None = None
    used: set[str] = field(default_factory=set)
    aspects: set[str] = field(default_factory=set)

    def pick(self, options: Sequence[str]) -> str:
        """A random option, preferring those that share no long word with the review so far."""
        fresh = [option for option in options if not _entry_words(option) & self.used]
        choice = self.rng.choice(fresh or list(options))
        self.used |= _entry_words(choice)
        return choice

    def fill(self, template: str, aspect: Aspect | None = None, plural: bool = False, noun: str = "") -> str:
        """The template with every slot filled; aspect, plural and noun are those it speaks about."""

        def one(match: re.Match[str]) -> str:
            slot = match.group(1)
            if slot.startswith("a "):
                phrase = self.fill("{" + slot[2:] + "}", aspect, plural, noun)
                return f"{article(phrase)} {phrase}"
            if "|" in slot:
                return slot.split("|")[plural]
            if slot == "n":
                return noun
            if slot in lexicon.SLOTS:
                return self.fill(self.pick(lexicon.SLOTS[slot]))
            if slot.startswith(("adj", "own")):
                return self._adjective(slot[-1], aspect)
            return self._about_aspect(slot)

        return _SLOT.sub(one, template)

    def _adjective(self, sign: str, aspect: Aspect | None) -> str:
        """An adjective for the aspect in hand."""
        if aspect is None:
            raise ValueError("an adjective slot needs an aspect to fit")
        return self.pick(aspect.good if sign == "+" else aspect.bad)

    def noun(self) -> tuple[Aspect, str, bool, bool]:
        """A fresh aspect and one of its nouns: (aspect, noun, plural, takes an article)."""
        fresh = [aspect for aspect in lexicon.ASPECTS if aspect.name not in self.aspects]
        aspect = self.rng.choice(fresh or list(lexicon.ASPECTS))
        self.aspects.add(aspect.name)
        noun = self.pick(aspect.mass + aspect.single + aspect.plural)
        return aspect, noun, noun in aspect.plural, noun in aspect.single

    def _about_aspect(self, slot: str) -> str:
        """A clause or noun phrase about an aspect the review has not named yet."""
        sign = slot[-1]
        aspect, noun, plural, counted = self.noun()
        if slot[:-1] == "some":
            adjective = self._adjective(sign, aspect)
            return f"{article(adjective)} {adjective} {noun}" if counted else f"{adjective} {noun}"
        template = self.pick(lexicon.CLAUSES[slot]).replace("{adj}", "{adj" + sign + "}")
        return self.fill(template, aspect, plural, noun)


def draw_opening(rng: random.Random) -> Opening:
    """A random opening of at most seven words; its kind decides what may follow."""
    while True:
        opening = _any_opening(rng)
        if len(opening.text.split()) <= _LONGEST_OPENING:
            return opening


def _any_opening(rng: random.Random) -> Opening:
    """A random opening of any length."""
    kind = rng.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()))[0]
    writer = _Writer(rng)
    template = rng.choice(lexicon.OPENINGS[kind])
    if kind != "aspect":
        return Opening(writer.fill(template), kind)
    aspect, noun, plural, _ = writer.noun()
    return Opening(writer.fill(template, noun=noun), kind, aspect, plural)


def _draw_plan(rng: random.Random) -> _Plan:
    """Draw a review's plan: a third each of praise, blame and mixed, half of it specific."""
    sign = rng.choice("+-~")
    specific = rng.random() < 0.5
    return _Plan(
        sign=sign,
        specific=specific,
        verdict=rng.random() < 0.5,
        guide=rng.random() < 0.2,
        # Padding makes the vague reviews long, so that length says little about worth.
        pad=rng.random() < (0.15 if specific else 0.5),
        insult=sign == "-" and rng.random() < 0.35,
        body=rng.random() < 0.5,
    )


def _names_aspect(template: str) -> bool:
    """Whether a template will name a concrete side of the film."""
    return any(mark in template for mark in ("{clause", "{past", "{the+", "{the-", "{some", "{which"))


def _choose(writer: _Writer, templates: Sequence[str], specific: bool) -> str:
    """A filled template, specific or vague as asked wherever the list has such."""
    fitting = [template for template in templates if _names_aspect(template) == specific]
    return writer.pick(fitting or templates)


def _sentence(text: str) -> str:
    """The text with its first letter raised."""
    return text[:1].upper() + text[1:]


def complete(rng: random.Random, opening: Opening) -> str:
    """A random continuation of the opening, with the space that joins them; review and opening together
    have 12 to 36 words."""
    while True:
        writer = _Writer(rng, opening, used=set(_entry_words(opening.text)))
        if opening.aspect is not None:
            writer.aspects.add(opening.aspect.name)
        plan = _draw_plan(rng)
        text = _write(writer, opening, plan)
        if _SHORTEST <= len((opening.text + text).split()) <= _LONGEST:
            return text


def _write(writer: _Writer, opening: Opening, plan: _Plan) -> str:
    """Write one completion to plan: head, at most one middle of each sort, verdict last."""
    head = _choose(writer, lexicon.HEADS[opening.kind][plan.sign], plan.specific)
    sentences = [writer.fill(head, opening.aspect, opening.plural)]
    middle: list[str] = []
    if plan.body:
        middle.append(_choose(writer, lexicon.BODIES[plan.sign], plan.specific))
    if plan.guide:
        middle.append(writer.pick(lexicon.GUIDES))
    if plan.pad:
        middle.append(writer.pick(lexicon.PADS))
    if plan.insult:
        middle.append(writer.pick(lexicon.INSULTS))
    writer.rng.shuffle(middle)
    # Three sentences at most, counting the verdict.
    middle = middle[: 1 if plan.verdict else 2]
    if plan.verdict:
        middle.append(writer.pick(lexicon.CLOSINGS[plan.sign]))
    sentences += [_sentence(writer.fill(template)) for template in middle]
    return " " + " ".join(sentences)


def review(rng: random.Random) -> tuple[str, str]:
    """One simulated review, as (prompt, completion): the prompt is an opening of about 3-7 words, the
    completion the rest, beginning with the space that joins the two."""
    opening = draw_opening(rng)
    return opening.text, complete(rng, opening)


def _patience(rows: int) -> int:
    """How many draws in a row may be repeats before we say that the language is exhausted."""
    return 1000 + rows


def reviews(rows: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield that many reviews with distinct texts, the same ones for the same seed."""
    rng = random.Random(seed)
    seen: set[str] = set()
    repeats = 0
    while len(seen) < rows:
        prompt, completion = review(rng)
        if prompt + completion in seen:
            repeats += 1
            if repeats > _patience(rows):
                raise ValueError(f"cannot find {rows} distinct reviews, only {len(seen)}")
            continue
        repeats = 0
        seen.add(prompt + completion)
        yield prompt, completion


def openings(rows: int, seed: int) -> Iterator[str]:
    """Yield that many distinct openings, the same ones for the same seed.

    Raises ValueError when the language has too few. To get disjoint sets, draw once and split the result.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    repeats = 0
    while len(seen) < rows:
        text = draw_opening(rng).text
        if text in seen:
            repeats += 1
            if repeats > _patience(rows):
                raise ValueError(f"cannot find {rows} distinct openings, only {len(seen)}")
            continue
        repeats = 0
        seen.add(text)
        yield text
