"""The true taste of the simulated readers: a documented reward computed from a review's words alone."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from alignkit_plugins.film_world import lexicon

_TOKEN: Final = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*|[.!?;:,]")
_MARKS: Final = frozenset(".!?;:,")
_ENDS: Final = frozenset(".!?")
_ASPECTS: Final = lexicon.aspect_words()
_KNOWN: Final = lexicon.known_words()

_WEIGHTS: Final[dict[str, float]] = {
    "warmth": 1.0,
    "detail": 1.0,
    "verdict": 0.7,
    "guidance": 0.4,
    "filler": -0.8,
    "insults": -1.0,
    "repetition": -3.0,
    "unfinished": -0.8,
    "too_long": -1.0,
    "too_short": -2.0,
    "gibberish": -3.0,
    "salad": -15.0,
}
# Mean and standard deviation of the weighted sum over reviews(20000, seed=0).
_CENTRE: Final = 0.52
_SCALE: Final = 1.06
_LOWEST: Final = -5.0


@dataclass(frozen=True)
class _Text:
    """A completion cut up: words and marks in order, the words alone, and the last sentence's words."""

    tokens: list[str]
    words: list[str]
    last: list[str]
    finished: bool


def _cut(completion: str) -> _Text:
    """Cut a completion into lower-case words and marks."""
    tokens = _TOKEN.findall(completion.lower())
    words = [token for token in tokens if token not in _MARKS]
    body = completion.rstrip().rstrip("\"')")
    finished = bool(words) and body[-1:] in _ENDS
    last: list[str] = []
    for token in reversed(tokens):
        if token in _ENDS and last:
            break
        if token not in _MARKS:
            last.append(token)
    return _Text(tokens, words, last[::-1], finished)


def _feeling(tokens: list[str]) -> float:
    """Balance of distinct warm and cold words in (-1, 1); a negator up to two words before turns one over."""
    warm: set[str] = set()
    cold: set[str] = set()
    for place, word in enumerate(tokens):
        if word not in lexicon.WARM and word not in lexicon.COLD:
            continue
        negated = False
        for before in reversed(tokens[max(0, place - 2) : place]):
            # "nothing but a mess" and "not bad, warm": a negation does not reach over a mark or a "but".
            if before in _MARKS or before == "but":
                break
            negated = negated or before in lexicon.NEGATORS
        (warm if (word in lexicon.WARM) != negated else cold).add(word)
    return (len(warm) - len(cold)) / (len(warm) + len(cold) + 1)


def _aspects(tokens: list[str]) -> set[str]:
    """The concrete aspects named."""
    named: set[str] = set()
    for place, word in enumerate(tokens):
        # "a ghost story" and "a love story" are genres, not remarks about the plot.
        if word == "story" and place and tokens[place - 1] in {"ghost", "love"}:
            continue
        if word in _ASPECTS:
            named.add(_ASPECTS[word])
    return named


def _repetition(words: list[str]) -> float:
    """Share of content words and of three-word runs that came before in the text."""
    content = [word.rstrip("s") for word in words if word not in lexicon.FUNCTION]
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return _repeated_share(content) + _repeated_share(runs)


def _repeated_share(items: list[str] | list[tuple[str, str, str]]) -> float:
    """What part of the items had been seen already."""
    return 1 - len(Counter(items)) / len(items) if items else 0.0


def _terms(prompt: str, completion: str) -> dict[str, float] | None:
    """Every term of the reward before its weight, or None for a text with no words."""
    text = _cut(completion)
    count = len(text.words)
    if not count:
        return None
    words = set(text.words)
    aspects = _aspects(text.tokens) - _aspects(_cut(prompt).tokens)
    function_share = sum(word in lexicon.FUNCTION for word in text.words) / count
    unknown_share = sum(word not in _KNOWN for word in text.words) / count
    return {
        "warmth": _feeling(text.tokens),
        "detail": 1 - math.exp(-len(aspects) / 1.5),
        "verdict": float(text.finished and bool(lexicon.VERDICT.intersection(text.last))),
        "guidance": float(bool(lexicon.GUIDANCE & words)),
        "filler": 1 - math.exp(-sum(word in lexicon.FILLER for word in text.words) / 2),
        "insults": 1 - math.exp(-sum(word in lexicon.INSULTING for word in text.words)),
        "repetition": _repetition(text.words),
        "unfinished": float(not text.finished),
        "too_long": min(2.0, max(0, count - 32) / 16),
        "too_short": max(0, 4 - count) / 4,
        "gibberish": max(0.0, unknown_share - 0.1),
        "salad": max(0.0, 0.2 - function_share),
    }


def true_reward(prompt: str, completion: str) -> float:
    """How much the simulated readers like this completion of the prompt; higher is better.

    Readers like a review that is warm about the film, that names concrete aspects, that tells whom the film
    is for or what it resembles, and that ends on a clear verdict. They dislike insults, empty filler,
    repetition, and text that is unfinished, endless, broken or a mere list of words. Only the completion's
    words are judged; the prompt matters in that an aspect it has already named earns nothing.

    reward = max(-5, (sum of weight * term - 0.52) / 1.06), with these terms:

        weight  term
        +1.00   warmth: (W - C) / (W + C + 1) over the distinct warm and cold words; "not", "never" and the
                like within the two words before turn a word over
        +1.00   detail: 1 - exp(-n / 1.5) for n different aspects (acting, music, ending ...) newly named
        +0.70   verdict: 1 if the text is finished and its last sentence holds a verdict word, for or against
        +0.40   guidance: 1 if it names an audience, a comparison or an era
        -0.80   filler: 1 - exp(-n / 2) for n words such as "thing", "somehow", "basically"
        -1.00   insults: 1 - exp(-n) for n insulting words
        -3.00   repetition: share of content words, plus share of three-word runs, already seen in the text
        -0.80   unfinished: 1 unless the text ends with one of . ! ?
        -1.00   too long: (words - 32) / 16, from 0 to 2
        -2.00   too short: (4 - words) / 4, at least 0
        -3.00   gibberish: share of words outside the demo's vocabulary, less 0.1, at least 0
        -15.0   salad: 0.2 less the share of function words, at least 0; a bare list is no review

    A text with no words gets -5, the lowest reward. Warmth and detail level off and each word counts once,
    so no single word or sentence is worth chasing: no text gets +2.44 or more.

    Measured over reviews(20000, seed=0): mean 0.00, standard deviation 1.00, from -3.5 to +2.3. Of two
    completions of one opening the longer is the better in 47 % of pairs counted in words and 51 % counted in
    characters, so length alone tells nothing. Never raises, whatever the text.
    """
    terms = _terms(prompt, completion)
    if terms is None:
        return _LOWEST
    raw = sum(_WEIGHTS[name] * value for name, value in terms.items())
    return max(_LOWEST, (raw - _CENTRE) / _SCALE)
