"""Asking a reward source that may fail: within a time limit, again after a wait, one completion at a time.

Its failure is one of four: it raises, gives no answer in time, answers in another form than one number per completion,
or with a number that is not finite. Whatever it is, the error names the source and the completion.
"""

import logging
import math
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.checkpoints import RowFile
from alignkit.errors import (
    ENDINGS,
    AlignkitError,
    Fault,
    Paused,
    UserError,
    out_of_memory,
    said_by,
    storage_errno,
)
from alignkit.joining import is_lost_connection
from alignkit.loop.config import AskingConfig, RewardFaultsConfig
from alignkit.loop.rollouts import select_rows, shortened
from alignkit.loop.scores import WrongFormError, shaped_scores
from alignkit.loop.time_limit import OverTimeError, within
from alignkit.processes import on_first, several
from alignkit.protocols import BatchRelative, ReportsFigures, Scores
from alignkit.records import plain_text
from alignkit.redact import redact

logger = logging.getLogger("alignkit")

FILE = "reward_faults.jsonl"
# A source that lets so many completions in a row wait too long is not asked about the rest of the batch.
HANGING = 3


class Scored(NamedTuple):
    """Scores [B], NaN for completions that the source could not score, and why not, by row.

    `figures` are what the source reports of the batch; empty where it was asked about one completion at a time.
    """

    scores_B: Tensor
    problems: dict[int, str]
    figures: dict[str, float]


class _Failure(NamedTuple):
    """Why an attempt gave no scores."""

    problem: str
    error: BaseException | None

    @property
    def timed_out(self) -> bool:
        return isinstance(self.error, TimeoutError)


@dataclass
class GuardedSource:
    """A reward source with its name and what happens when it fails. Satisfies `Scores`.

    Rows that it could not score go to `rows`, the step's `reward_faults.jsonl`, with what `place` says (the iteration).
    """

    source: Scores
    name: str = "the reward source"
    faults: AskingConfig = field(default_factory=AskingConfig)
    rows: RowFile | None = None
    place: dict[str, Any] = field(default_factory=dict)
    # Several processes do its work together (`SharesWork`), and it is not asked again where it raises. A time limit,
    # which may pass on one of them, forbids it.
    shared: bool = False

    def score(self, rollout: Rollout) -> Tensor:
        """Scores of all completions, [B]. Raises Fault if one has none after all retries, whatever `then` says."""
        return self.ask_for_all(rollout).scores_B

    def ask_for_all(self, rollout: Rollout) -> Scored:
        """The same with what the source reports."""
        return self._ask(rollout, stop=True)

    def ask(self, rollout: Rollout) -> Scored:
        """Scores as far as there are any. Raises Fault if one has none, unless `then: skip`."""
        return self._ask(rollout, stop=not self.skips)

    @property
    def skips(self) -> bool:
        """Whether `then: skip` was asked for."""
        return isinstance(self.faults, RewardFaultsConfig) and self.faults.then == "skip"

    def _ask(self, rollout: Rollout, stop: bool) -> Scored:
        """Of several processes the first one asks for all, unless the source shares its work."""
        if not several() or self.shared:
            return self._ask_here(rollout, stop)
        said = on_first(lambda: _plain(self._ask_here(rollout, stop)))
        return Scored(torch.tensor(said["scores"]), {int(b): p for b, p in said["problems"].items()}, said["figures"])

    def _ask_here(self, rollout: Rollout, stop: bool) -> Scored:
        found = self._attempts(rollout, self.faults.retries)
        if isinstance(found, _Failure):
            scored = self._one_by_one(rollout, found, stop)
        else:
            bad = (~torch.isfinite(found)).nonzero().flatten().tolist()
            scored = Scored(found, {b: f"scored it as {float(found[b])}" for b in bad}, self._figures())
            if bad and stop:
                self._save(rollout, scored.problems)
                raise self._fault(rollout, bad[0], _Failure(scored.problems[bad[0]], None), len(bad))
        if scored.problems:
            self._save(rollout, scored.problems)
            logger.warning("%s could not score %d of %d completions", self.name, len(scored.problems), len(rollout))
        return scored

    def _attempts(self, rollout: Rollout, retries: int) -> Tensor | _Failure:
        """Scores, which may be not finite in the last attempt, or why there are none."""
        found: Tensor | _Failure = _Failure("", None)
        for attempt in range(retries + 1):
            if attempt:
                time.sleep(self.faults.wait * 2 ** (attempt - 1))
            found = self._attempt(rollout)
            if isinstance(found, Tensor) and bool(torch.isfinite(found).all()):
                return found
            why = found.problem if isinstance(found, _Failure) else "a score is not finite"
            logger.warning("%s, attempt %d of %d: %s", self.name, attempt + 1, retries + 1, why)
        return found

    def _attempt(self, rollout: Rollout) -> Tensor | _Failure:
        try:
            return within(self.faults.timeout, lambda: shaped_scores(self.source, rollout))
        except (UserError, Paused, *ENDINGS):
            raise
        except BaseException as error:  # also sys.exit
            if out_of_memory(error) or storage_errno(error) is not None or is_lost_connection(error):
                raise
            failure = _Failure(self._told(error), error)
            if several():  # the others may have scores, and would not ask again
                raise self._fault(rollout, 0, failure, len(rollout)) from error
            return failure

    def _one_by_one(self, rollout: Rollout, whole: _Failure, stop: bool) -> Scored:
        """Find the completions that the source fails on by asking about each alone."""
        count = len(rollout)
        scores_B = torch.full((count,), math.nan)
        relative = isinstance(self.source, BatchRelative) and self.source.batch_relative
        if count == 1 or relative:  # then a completion alone has no score, or another one
            return self._none_scored(rollout, whole, stop)
        problems: dict[int, str] = {}
        hanging = 0
        for b in range(count):
            if hanging == HANGING:
                problems[b] = f"not asked: {HANGING} completions before it had no answer in time"
                continue
            failure, score = self._alone(rollout, b, 0 if stop else self.faults.retries)
            if failure is None:
                scores_B[b], hanging = score, 0
                continue
            problems[b] = failure.problem
            hanging = hanging + 1 if failure.timed_out else 0
            if stop:
                self._save(rollout, problems)
                raise self._fault(rollout, b, failure, None)
        if not problems:
            if isinstance(whole.error, WrongFormError):  # such as one score, whatever it is asked about
                return self._none_scored(rollout, whole, stop)
            logger.warning("%s failed on %d completions together, on none alone: these scores count", self.name, count)
        return Scored(scores_B, problems, {})

    def _none_scored(self, rollout: Rollout, whole: _Failure, stop: bool) -> Scored:
        count = len(rollout)
        problems = dict.fromkeys(range(count), whole.problem)
        if stop:
            self._save(rollout, problems)
            raise self._fault(rollout, 0, whole, count)
        return Scored(torch.full((count,), math.nan), problems, {})

    def _alone(self, rollout: Rollout, b: int, retries: int) -> tuple[_Failure | None, float]:
        found = self._attempts(select_rows(rollout, [b]), retries)
        if isinstance(found, _Failure):
            return found, math.nan
        score = float(found[0])
        return (None, score) if math.isfinite(score) else (_Failure(f"scored it as {score}", None), score)

    def _fault(self, rollout: Rollout, b: int, failure: _Failure, count: int | None) -> Fault:
        """The error for row `b`; `count` rows are concerned, None: at least this one."""
        own = failure.error if isinstance(failure.error, AlignkitError) else None
        many = f" (the first of {count} completions)" if count is not None and count > 1 else ""
        fault = Fault(
            f"{self.name}: {failure.problem}{many}; prompt {shortened(rollout.prompts[b])}, "
            f"completion {shortened(rollout.texts[b])}",
            where=own.where if own is not None else None,
            hint=(f"{own.hint}\n  -> " if own is not None and own.hint else "")
            + "reward_faults has retries, wait, timeout and, in align, then: skip, which leaves such prompts out",
        )
        fault.__cause__ = failure.error
        return fault

    def _told(self, error: BaseException) -> str:
        """What was raised and the last line of the source's own package on the way to it."""
        if isinstance(error, AlignkitError):
            return error.what
        if isinstance(error, OverTimeError):
            return str(error)
        package = type(self.source).__module__.partition(".")[0]
        frames = [(f, line) for f, line in traceback.walk_tb(error.__traceback__)]
        own = [(f, n) for f, n in frames if str(f.f_globals.get("__name__", "")).partition(".")[0] == package]
        file, line = (own or frames)[-1][0].f_code.co_filename, (own or frames)[-1][1]
        return f"{said_by(error)} ({Path(file).name}:{line})"

    def _figures(self) -> dict[str, float]:
        return dict(self.source.figures()) if isinstance(self.source, ReportsFigures) else {}

    def _save(self, rollout: Rollout, problems: Mapping[int, str]) -> None:
        if self.rows is None:
            return
        found = []
        for b, problem in problems.items():
            prompt = rollout.prompts[b]
            row = {**self.place, "source": self.name, "problem": redact(problem), "prompt_id": prompt.id}
            found.append(row | {"prompt": plain_text(prompt.prompt), "completion": rollout.texts[b]})
        self.rows.append(found)


def _plain(scored: Scored) -> dict[str, Any]:
    return {"scores": scored.scores_B.tolist(), "problems": scored.problems, "figures": scored.figures}
