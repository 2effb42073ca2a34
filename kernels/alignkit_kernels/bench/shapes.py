"""What a benchmark runs on: tokens, hidden size, vocabulary."""

from dataclasses import dataclass, replace
from pathlib import Path

from alignkit.errors import UserError

KEYS = {"T": "tokens", "H": "hidden", "V": "vocabulary", "L": "length"}


@dataclass(frozen=True)
class Shape:
    """`length` is that of one completion, for the ops that work on rows of them."""

    tokens: int
    hidden: int
    vocabulary: int
    length: int = 512

    def __str__(self) -> str:
        return f"T={self.tokens},H={self.hidden},V={self.vocabulary}"


DEFAULTS = {"cpu": Shape(1024, 256, 32_000), "cuda": Shape(8192, 4096, 128_256)}


def parse_shape(text: str, default: Shape) -> Shape:
    """`T=8192,H=4096,V=128256`, any of them left out. Raises UserError for anything else."""
    found: dict[str, int] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        name = KEYS.get(key.strip().upper())
        if name is None or not value.strip().isdecimal() or int(value) < 1:
            raise UserError(
                f"{part.strip()!r} is not a part of a shape",
                where="--shape",
                hint="write T=8192,H=4096,V=128256: tokens, hidden size and vocabulary, each a number from 1 on",
            )
        if name in found:
            raise UserError(f"{key.strip()} is there twice", where="--shape")
        found[name] = int(value)
    return replace(default, **found)


def model_shape(path: Path, default: Shape) -> Shape:
    """Hidden size and vocabulary of the model in a folder. Raises UserError where there is none."""
    from transformers import AutoConfig

    if not (path / "config.json").is_file():
        raise UserError("there is no config.json, so this is not a model's folder", where=path)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False).get_text_config()
        return replace(default, hidden=int(config.hidden_size), vocabulary=int(config.vocab_size))
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise UserError(f"config.json gives no hidden size and vocabulary: {error}", where=path) from error
