"""Loading and saving model folders as transformers writes them: safetensors, config, tokenizer. No pickle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError, Fault, UserError, said_by
from alignkit.files import atomic_folder, digest, fingerprint
from alignkit.manager.local import home_filled_in
from alignkit.modeling.encoding import TextEncoder
from alignkit.modeling.untrusted import require_plain_model, unpickling_refused

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json", "vocab.txt")


def check_model_path(path: str) -> None:
    """Raise UserError if `path` is a folder that is no model, or a file system path that is not there.

    A name like `owner/name` that is no local folder is taken as a hub name and is not checked here.
    """
    if path.startswith("@"):
        return
    folder = home_filled_in(Path(path))
    if not _is_there(folder, path):
        if path.startswith(("/", ".", "~")) or path.count("/") > 1 or "\\" in path:
            raise UserError("no such model folder", where=path, hint="check the path")
        return
    if not (folder / "config.json").is_file():
        raise UserError("the folder holds no model: config.json is missing", where=path, hint="give a model folder")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            "the model folder has no tokenizer",
            where=path,
            hint="save the tokenizer beside the weights: tokenizer.save_pretrained(FOLDER)",
        )
    require_plain_model(folder)
    for file in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        _check_whole(file)


def _is_there(folder: Path, path: str) -> bool:
    try:
        return folder.exists()
    except OSError as error:  # no leave to look, or a name that no file system has
        raise UserError(f"cannot look for the model folder: {error.strerror}", where=path) from None


def _check_whole(file: Path) -> None:
    """Raise UserError for a file that was cut or is something else; weights are opened, not read."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        else:
            with safe_open(file, framework="numpy"):
                pass
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"the file is damaged: {error}", where=file, hint="save or download it again") from None


def load(auto_class: Any, path: str, **options: Any) -> Any:
    """`auto_class.from_pretrained(path)`; what transformers raises becomes a UserError."""
    import torch

    check_model_path(path)
    _be_quiet()
    # Said always: left out, transformers would ask on the terminal whether code of the folder may run.
    options.setdefault("trust_remote_code", False)
    try:
        with unpickling_refused(path):
            return auto_class.from_pretrained(path, **options)
    except (AlignkitError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a folder's files can make transformers fail in any way
        known = isinstance(error, OSError | ValueError | RuntimeError)
        first = (str(error) if known else said_by(error)).strip().split("\n")[0]
        hint = "look at the folder's files" if Path(path).is_dir() else "a local folder works offline"
        raise UserError(f"cannot load the model: {first}", where=path, hint=hint) from None


def load_model(auto_class: Any, path: str, new: tuple[str, ...] = (), **options: Any) -> Any:
    """Load weights; those that the folder lacks are an error unless their names begin with one of `new`.

    transformers fills missing weights with random numbers, which would be trained against and reported as a reward.
    """
    from transformers import AutoConfig

    config = load(AutoConfig, path, trust_remote_code=options.get("trust_remote_code", False))
    made_as = (getattr(config, "architectures", None) or [""])[0]
    if made_as.endswith("ForSequenceClassification") and "CausalLM" in auto_class.__name__:
        raise UserError("this is a reward model or classifier, not a language model", where=path, hint="name a policy")
    model, info = load(auto_class, path, output_loading_info=True, use_safetensors=True, **options)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(new))
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise UserError(
            f"the folder has no weights for {shown}, which {type(model).__name__} needs",
            where=path,
            hint="a language model is no reward model, nor the reverse; the reward_model stage makes one",
        )
    return model


def _be_quiet() -> None:
    """transformers' bars and reports of every load and save would tear the run's own progress display."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_encoder(path: str, model: Any, trust_remote_code: bool = False) -> TextEncoder:
    """The tokenizer saved with a model, with every stop id its configs name."""
    from transformers import AutoTokenizer

    tokenizer = load(AutoTokenizer, path, trust_remote_code=trust_remote_code)
    return TextEncoder(tokenizer, stop_ids(model), path)


def stop_ids(model: Any) -> frozenset[int]:
    """All end-of-sequence ids of a model's config and generation config."""
    found: set[int] = set()
    for config in (model.config, getattr(model, "generation_config", None)):
        value = getattr(config, "eos_token_id", None)
        if value is not None:
            found.update(value if isinstance(value, list | tuple) else [value])
    if not all(isinstance(i, int) and i >= 0 for i in found):
        raise UserError(
            f"eos_token_id is {sorted(map(str, found))}", where="config.json", hint="it holds ids: whole numbers"
        )
    return frozenset(found)


def save(
    model: Any,
    tokenizer: Any,
    folder: Path,
    state: dict[str, Any] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write a complete model folder, or none.

    `state` is saved instead of the model's own weights; `beside(temp)` may write more into the folder.
    """
    from safetensors import SafetensorError

    _be_quiet()
    with atomic_folder(folder) as temp:
        try:
            model.save_pretrained(temp, state_dict=state)
            if beside is not None:
                beside(temp)
        except SafetensorError as error:  # how safetensors reports a failed write
            raise Fault(
                f"cannot save the model: {error}", where=folder, hint="is the disk full? free space and run again"
            ) from error
        tokenizer.save_pretrained(temp)


def revision(path: str) -> str:
    """A short name for the exact weights: folder fingerprint, or the hub name."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    files = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
    return digest({p.name: fingerprint(p) for p in files if p.is_file()})[:12]
