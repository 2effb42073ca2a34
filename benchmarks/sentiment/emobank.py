"""Questions to tune a judge with, from EmoBank: people rated how pleasant a text is, as its writer and as its reader.

Two texts make a pair if their valence, the mean over all raters of both viewpoints, differs by at least DIFFERENCE;
each pair is asked in both orders, so that an answer that goes by the place is right half of the time. The same words
that follow a text in a pair, `good:`, follow a text alone in a second kind of question: from it the model learns what
to look for before it has to compare.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from jinja2 import Template

TEMPLATE = Path(__file__).parent / "judge.jinja"
WORDS = 30  # longer texts are left out: a question has two, and the model little room


class Rated(NamedTuple):
    """A text and its mean valence, 1 to 5."""

    text: str
    valence: float


def movie_style(text: str) -> str:
    """Lower case, punctuation apart: as the film texts are that the model was pretrained on."""
    plain = text.lower().translate(str.maketrans("’‘“”", "''\"\""))
    return " ".join(re.sub(r'([.,!?;:()"]|--)', r" \1 ", plain).split())


def rated_texts(file: Path) -> list[Rated]:
    """Texts of 2 to WORDS words that have ratings of both viewpoints."""
    found = []
    with file.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            text = movie_style(row["text"])
            if 2 <= len(text.split()) <= WORDS and row["valence_reader"] and row["valence_writer"]:
                found.append(Rated(text, (mean(row["valence_reader"]) + mean(row["valence_writer"])) / 2))
    return found


def draw_pairs(texts: Sequence[Rated], count: int, difference: float, seed: int) -> list[tuple[Rated, Rated]]:
    """(better, worse), drawn evenly over all pairs that differ by at least `difference`."""
    rng = random.Random(seed)
    found: list[tuple[Rated, Rated]] = []
    while len(found) < count:
        a, b = rng.sample(texts, 2)
        if abs(a.valence - b.valence) >= difference:
            found.append((a, b) if a.valence > b.valence else (b, a))
    return found


def questions(texts: Sequence[Rated], pairs: int, singles: int, difference: float, seed: int) -> list[dict[str, str]]:
    """Rows {prompt, completion}: two for each pair, one for each of `singles` texts away from the middle."""
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    rng = random.Random(seed)
    rows = []
    for better, worse in draw_pairs(texts, pairs, difference, seed):
        rows.append({"prompt": template.render(a=better.text, b=worse.text), "completion": "A"})
        rows.append({"prompt": template.render(a=worse.text, b=better.text), "completion": "B"})
    middle = mean(text.valence for text in texts)
    clear = [text for text in texts if abs(text.valence - middle) >= difference / 2]
    for text in rng.choices(clear, k=singles):
        answer = "yes" if text.valence > middle else "no"
        rows.append({"prompt": f"{rng.choice('AB')} : {text.text}\ngood:", "completion": answer})
    rng.shuffle(rows)
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
