"""What a model folder says without loading its weights: tokenizer, positions, vocabulary, size."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alignkit.modeling import folders
from alignkit.modeling.encoding import TextEncoder
from alignkit.preflight.finding import place

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1}


class ModelSizes:
    """What a model's config and the shapes of its weights say."""

    config: Any
    parameters: int
    bytes: int
    matrices: tuple[tuple[int, int], ...]

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return int(getattr(self.config, "vocab_size", 0) or 0)

    def number(self, name: str, default: int) -> int:
        """A size that the config has."""
        return int(getattr(self.config, name, None) or default)

    @property
    def max_positions(self) -> int | None:
        """Tokens that fit."""
        return getattr(self.config, "max_position_embeddings", None)

    def trained(self, rank: int | None) -> int:
        """Parameters that have gradients: all, or low-rank additions to every matrix but those of the vocabulary."""
        if rank is None:
            return self.parameters
        return sum(rank * (a + b) for a, b in self.matrices if self.vocabulary not in (a, b))


@dataclass(frozen=True)
class ModelFacts(ModelSizes):
    """A model folder. `saved_stop_ids` are those of its two configs, which other tools go by."""

    path: str
    encoder: TextEncoder
    config: Any
    saved_stop_ids: frozenset[int]
    parameters: int
    bytes: int
    matrices: tuple[tuple[int, int], ...]


def model_facts(path: str) -> ModelFacts | None:
    """Facts of a local folder; None for a hub name, which is not asked for here. Raises UserError if it is no model."""
    folder = Path(path).expanduser()
    return _facts(place(folder), _mark(folder)) if folder.is_dir() else None


def _mark(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """So that a folder that was written anew is read anew."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    return tuple((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files)


@lru_cache(maxsize=8)
def _facts(path: str, mark: object) -> ModelFacts:
    from transformers import AutoConfig, AutoTokenizer

    config = folders.load(AutoConfig, path, trust_remote_code=False)
    generation = _generation(path)
    stop_ids = folders.stop_ids(SimpleNamespace(config=config, generation_config=generation))
    tokenizer = folders.load(AutoTokenizer, path, trust_remote_code=False)
    shapes = _shapes(Path(path))
    return ModelFacts(
        path=path,
        encoder=TextEncoder(tokenizer, stop_ids, path),
        config=config,
        # generate() goes by the generation config where there is one
        saved_stop_ids=folders.stop_ids(SimpleNamespace(config=generation or config)),
        parameters=sum(math.prod(shape) for shape, _ in shapes),
        bytes=sum(math.prod(shape) * BYTES.get(dtype, 4) for shape, dtype in shapes),
        matrices=tuple((shape[0], shape[1]) for shape, _ in shapes if len(shape) == 2),
    )


def forget_models() -> None:
    """Let go of the tokenizers that were read."""
    _facts.cache_clear()


def _generation(path: str) -> Any:
    from transformers import GenerationConfig

    there = (Path(path) / "generation_config.json").is_file()
    return folders.load(GenerationConfig, path) if there else None


def _shapes(folder: Path) -> list[tuple[list[int], str]]:
    """Shape and type of every tensor, from the headers of the files."""
    from safetensors import safe_open

    found: list[tuple[list[int], str]] = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (no mapping)
                part = tensors.get_slice(name)
                found.append((part.get_shape(), part.get_dtype()))
    return found


def is_scorer(path: Path) -> bool:
    """Whether a folder holds a sequence classifier."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    made_as = (config.get("architectures") if isinstance(config, dict) else None) or [""]
    return str(made_as[0]).endswith("ForSequenceClassification")
