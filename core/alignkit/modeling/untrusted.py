"""Model folders are somebody's files: nothing in them is unpickled, and no code in them runs unless that was asked for.

transformers reads safetensors first, but a few words in a folder's files lead it to pickles, to an adapter, or to
kernels of a hub. `require_plain_model` looks for those before a run; `unpickling_refused` holds for what is loaded by
hub name as well.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from alignkit.errors import UserError

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
CONVERT = (
    "pickle files run code when they are read; to convert one, load the model with transformers where it can do no "
    "harm, and save_pretrained(FOLDER)"
)


def require_plain_model(folder: Path) -> None:
    """Raise UserError unless the folder's weights are safetensors and nothing in it leads to other files or to code."""
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        only = f", only {', '.join(pickles[:3])}" if pickles else ""
        raise UserError(f"the model folder has no safetensors weights{only}", where=folder, hint=CONVERT)
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"the folder holds an adapter ({ADAPTER}) that would be put on its weights",
            where=folder,
            hint="merge it with peft: model.merge_and_unload().save_pretrained(FOLDER); or take its files out",
        )
    _check_config(folder / "config.json")
    if (folder / INDEX).is_file():
        _check_index(folder / INDEX)


def _check_config(path: Path) -> None:
    config = _object(path)
    weights = config.get("transformers_weights")
    if weights is not None and weights not in (WEIGHTS, INDEX):
        raise UserError(f"transformers_weights is {weights!r}", where=path, hint=f"{CONVERT}, and take the key out")
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"):
        value = config.get(key)
        named = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(name, str) and "/" in name for name in named):
            raise UserError(f"{key} names code of a hub: {value!r}", where=path, hint="take the key out")


def _check_index(path: Path) -> None:
    """The files that hold the parts of the weights must lie beside the index."""
    parts = _object(path).get("weight_map")
    if not isinstance(parts, dict):
        raise UserError("the index has no weight_map", where=path, hint="save or download the model again")
    for name in {str(value) for value in parts.values()}:
        if not name.endswith(".safetensors") or name != Path(name).name:
            raise UserError(f"the index names {name!r}, no safetensors beside it", where=path, hint=CONVERT)


def _object(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UserError("the file is damaged: nested too deeply", where=path) from None
    except (OSError, ValueError) as error:
        raise UserError(f"the file is damaged: {error}", where=path, hint="save or download it again") from None
    if not isinstance(data, dict):
        raise UserError("the file is damaged: it holds no JSON object", where=path, hint="save or download it again")
    return data


@contextmanager
def unpickling_refused(path: str) -> Iterator[None]:
    """Inside, `torch.load` raises UserError: transformers and peft read a pickle where safetensors are missing."""
    import torch

    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise UserError("the weights are a pickle file, which is not read", where=path, hint=CONVERT)

    load = torch.load
    torch.load = refuse
    try:
        yield
    finally:
        torch.load = load
