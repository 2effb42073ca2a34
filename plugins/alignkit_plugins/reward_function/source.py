"""Calls a user's function on prompts and completions. Recipes of strangers can name code, so nothing is imported
that the person at the keyboard did not allow."""

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.code import require_allowed
from alignkit.errors import ENDINGS, Fault, UserError, out_of_memory, said_by, storage_errno
from alignkit.loop.scores import WrongFormError
from alignkit.records import plain_text


class FunctionSource:
    """Satisfies `alignkit.protocols.Scores`."""

    def __init__(self, function: Callable[..., Sequence[float]], path: str, options: dict[str, Any]) -> None:
        self.function = function
        self.path = path
        self.options = options

    def score(self, rollout: Rollout) -> Tensor:
        """One score per completion, [B]. Raises Fault when the function raises or answers in another form."""
        prompts = [plain_text(p.prompt) for p in rollout.prompts]
        try:
            scores = list(self.function(prompts, list(rollout.texts), **self.options))
            scores_B = torch.tensor([float(s) for s in scores], dtype=torch.float32)
        except ENDINGS:
            raise
        except (Exception, SystemExit) as error:
            if out_of_memory(error) or storage_errno(error) is not None:
                raise
            frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
            place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
            raise Fault(
                f"the reward function failed on a batch of {len(prompts)}: {said_by(error)}",
                where=self.path + place,
                hint=f"it should return one number per completion; the first completion was {rollout.texts[0][:200]!r}",
            ) from error
        if len(scores_B) != len(rollout):
            raise WrongFormError(f"returned {len(scores_B)} scores for {len(rollout)} completions", where=self.path)
        if not bool(torch.isfinite(scores_B).all()):
            bad = int((~torch.isfinite(scores_B)).nonzero()[0])
            raise Fault(f"returned {float(scores_B[bad])} for {rollout.texts[bad][:200]!r}", where=self.path)
        return scores_B


def load_function(path: str, options: dict[str, Any], allowed: frozenset[str]) -> FunctionSource:
    """Import `module:function`. Raises UserError if it is not allowed or not there."""
    module_name, _, function_name = path.partition(":")
    require_allowed(path, allowed, "reward_source function")
    # A script's own folder is importable in `python script.py`; the same is expected of the current folder here.
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a module runs when it is imported, so it can raise anything
        raise UserError(
            f"cannot import it: {type(error).__name__}: {error}", where=path, hint="is it installed or in this folder?"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if not callable(function):
        raise UserError("is not a function", where=path)
    return FunctionSource(function, path, options)
