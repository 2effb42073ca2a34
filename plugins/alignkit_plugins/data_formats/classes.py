"""Preference pairs from labelled texts: of two texts with different labels the higher one is chosen."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.errors import UserError
from alignkit.protocols import SourceRow
from alignkit.records import PreferencePair
from alignkit_plugins.data_formats import columns
from alignkit_plugins.data_formats.known import KnownColumns

_PATIENCE = 10_000


class ClassesConfig(Config):
    """Options of the `classes` format."""

    text_field: str = Field("text", description="column with the text")
    label_field: str = Field("label", description="column with the label, a number; higher is better")
    pairs: int = Field(ge=1, description="how many different pairs to draw")
    scale: float | None = Field(
        None, gt=0, description="soft labels: p = sigmoid(scale * difference of labels); null: the higher one is better"
    )
    seed: int = Field(0, description="seed of the drawing")


class ClassesFormat:
    """Rows {text, label} become ("preferences", PreferencePair) with an empty prompt.

    All texts are held in memory: a pair may join the first row with the last.
    """

    generates = False
    joins_rows = True

    def __init__(self, config: ClassesConfig) -> None:
        self._config = config
        self._found: dict[str, tuple[float, str]] = {}
        self._columns = KnownColumns(config.text_field, config.label_field)
        self._repeated = 0
        self._drawn: set[int] = set()

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, PreferencePair]]:
        """Pairs drawn evenly over all pairs of texts with different labels."""
        for source in rows:
            self._add(self._columns.row(source), source.where)
        texts = [(text, label) for text, (label, _) in self._found.items()]
        self._check_enough(Counter(label for _, label in texts))
        rng = random.Random(self._config.seed)
        drawn: set[tuple[int, int]] = set()
        misses = 0
        left: Iterator[tuple[int, int]] | None = None
        while len(drawn) < self._config.pairs:
            better, worse = rng.randrange(len(texts)), rng.randrange(len(texts))
            if texts[better][1] <= texts[worse][1] or (better, worse) in drawn:
                misses += 1
                if misses <= _PATIENCE:
                    continue
                # The last few, when drawing hits old ones only.
                left = left or _in_order(texts)
                better, worse = next(pair for pair in left if pair not in drawn)
            misses = 0
            drawn.add((better, worse))
            self._drawn |= {better, worse}
            p = self._probability(texts[better][1] - texts[worse][1])
            yield "preferences", PreferencePair(prompt="", chosen=texts[better][0], rejected=texts[worse][0], p=p)

    def notes(self) -> dict[str, Any]:
        """For the summary: what became of the rows."""
        texts = {
            "texts": len(self._found),
            "texts_repeated": self._repeated,
            "texts_in_no_pair": len(self._found) - len(self._drawn),
        }
        return {**texts, **self._columns.notes()}

    def _probability(self, difference: float) -> float:
        """Bradley-Terry with the labels as utilities, or certainty."""
        scale = self._config.scale
        return 1.0 if scale is None else 1 / (1 + math.exp(-scale * difference))

    def _add(self, row: dict[str, object], where: str) -> None:
        name = self._config.text_field
        text = columns.filled(row, name)
        if not isinstance(text, str):
            raise BadRow(f"column {name!r} is a list of messages, not text", reason="wrong type")
        label = columns.number(row, self._config.label_field)
        if text not in self._found:
            self._found[text] = (label, where)
            return
        before, first = self._found[text]
        if before != label:
            problem = f"the same text has label {label:g} here and {before:g} in {first}"
            raise BadRow(problem, reason="two labels for one text")
        self._repeated += 1

    def _check_enough(self, sizes: Counter[float]) -> None:
        total = sum(sizes.values())
        possible = (total * total - sum(n * n for n in sizes.values())) // 2
        if possible < self._config.pairs:
            raise UserError(
                f"{self._config.pairs} pairs are asked for, the texts make {possible}: {total} different "
                f"texts with {len(sizes)} labels",
                where="format classes",
                hint=f"set pairs to {possible} or less" if possible else "pairs need texts with different labels",
            )


def _in_order(texts: list[tuple[str, float]]) -> Iterator[tuple[int, int]]:
    """Every pair of texts with different labels, the higher one first."""
    for a, (_, high) in enumerate(texts):
        for b, (_, low) in enumerate(texts):
            if high > low:
                yield a, b
