"""Which side of the held-out split a record is on: decided by its prompt or texts, never by its row."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Self

from alignkit.context import HELDOUT
from alignkit.data.rows import BadRow
from alignkit.records import (
    Content,
    Demonstration,
    LabelledCompletion,
    PreferencePair,
    Prompt,
    Record,
    Text,
    content_id,
)

if TYPE_CHECKING:
    from alignkit_plugins.step_data.config import DataConfig

Side = Literal["train", "heldout", "dropped", "no_prompt"]

# What `by="text"` splits without looking at the prompt.
_WITH_TEXT = (PreferencePair, LabelledCompletion)


class Splitter:
    """Sides by hash of the unit that must not leak: it is never on both sides, whatever rows it stands in.

    `by="prompt"`: the prompt; conversations that begin with the same user turn are one unit, since the
    contexts of one dialogue at different turns contain each other. Texts are their own unit.
    `by="text"`: of a pair, each of the two texts; a pair with one text on each side is dropped. Of a labelled
    completion, its text. Records that are neither follow their prompt, and without one have no side.
    """

    def __init__(self, share: float, seed: int, by: Literal["prompt", "text"]) -> None:
        self._share = share
        self._seed = seed
        self._by = by
        self._forced: set[str] = set()

    @classmethod
    def of(cls, config: "DataConfig") -> Self:
        """As the options of a step say."""
        return cls(config.heldout, config.heldout_seed, config.heldout_by)

    def hold_out(self, record: Record) -> None:
        """Every unit of `record` is held out from now on: it is held out elsewhere."""
        self._forced.update(self._units(record))

    def accept(self, part: str, record: Record) -> None:
        """Raise BadRow for a record that is to be split by prompt and has none."""
        if self._splits() and not part.startswith(HELDOUT):
            self._units(record)

    def _splits(self) -> bool:
        return bool(self._share or self._forced)

    def side(self, record: Record) -> Side:
        """The side of a record. Raises BadRow for one that is to be split by prompt and has none."""
        if not self._splits():
            return "train"
        sides = {self._is_heldout(unit) for unit in self._units(record)}
        if len(sides) == 2:
            return "dropped"
        if not sides:
            return "no_prompt"
        return "heldout" if sides.pop() else "train"

    def _is_heldout(self, unit: str) -> bool:
        if unit in self._forced:
            return True
        digest = hashlib.blake2b(f"{self._seed}/{unit}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._share * 2**64

    def _units(self, record: Record) -> Iterable[str]:
        if isinstance(record, Text):
            return (content_id(record.text),)
        assert isinstance(record, Prompt | Demonstration | PreferencePair | LabelledCompletion)
        if self._by == "text" and isinstance(record, PreferencePair):
            return content_id(record.chosen), content_id(record.rejected)
        if self._by == "text" and isinstance(record, LabelledCompletion):
            return (content_id(record.completion),)
        if not record.prompt and self._by == "text":
            return ()
        if not record.prompt:
            advice = " (heldout_by: text splits by their texts)" if isinstance(record, _WITH_TEXT) else ""
            problem = f"the prompt is empty, and rows are split by their prompts{advice}"
            raise BadRow(problem, reason="empty prompt")
        return (content_id(_opening(record.prompt)),)


def _opening(prompt: Content) -> Content:
    if isinstance(prompt, str):
        return prompt
    first = next((n for n, message in enumerate(prompt) if message.role == "user"), len(prompt) - 1)
    return prompt[: first + 1]
