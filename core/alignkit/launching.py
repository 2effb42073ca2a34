"""Starts a run as several processes, through the recipe's launcher; and what every launcher has to do."""

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from alignkit.errors import Fault
from alignkit.interruption import SIGNALS, Echoes
from alignkit.recipe.check import resolve

if TYPE_CHECKING:
    from alignkit.protocols import Launcher
    from alignkit.recipe.load import Loaded

logger = logging.getLogger("alignkit")

# Set for every process that a launcher starts, be there one of them or many.
MARK = "WORLD_SIZE"
# Endings that all processes of a run come to, each in its own time: paused; ended by a signal, state saved.
TOGETHER = (3, 129, 130, 143)
# What a run says of itself, before what may have followed from it: a lost connection, a signal to those left over.
SAID = (2, 4, 3)
# How a process is ended whose partner is gone.
TOLD = (signal.SIGTERM, signal.SIGKILL)
# Seconds from the second signal until what is left of the processes is killed: they may wait for one that is gone.
LAST = 10.0


def _number_or_auto(value: Any) -> Any:
    """One sentence for whatever is neither, instead of one for each of the two."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("a whole number from 1, or auto")


# How many processes a launcher starts.
Processes = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], BeforeValidator(_number_or_auto)]


def launch(loaded: "Loaded", argv: Sequence[str], allowed: frozenset[str]) -> int | None:
    """Run `alignkit` with `argv` through the recipe's launcher and return the exit status.

    None where this process is to do the run itself: no launcher is chosen, or one has started it. Raises UserError for
    a launcher that cannot be used here.
    """
    spec = loaded.recipe.launcher
    if spec is None:
        return None
    if MARK in os.environ:
        logger.debug("started as one of %s processes: %s does not start it again", os.environ[MARK], spec.name)
        return None
    resolved = resolve(loaded.manager, "launcher", spec, loaded.lines, ("launcher",), allowed)
    launcher: Launcher = resolved.registered.build(resolved.config, None)
    return launcher.launch(argv)


class Ended(NamedTuple):
    """A process and its exit status; negative: the number of the signal that killed it."""

    rank: int
    status: int


def outcome(statuses: Mapping[int, int], signalled: int | None = None) -> int:
    """The status that a run's processes (`rank: status`) amount to; of equal ones the lowest rank's counts.

    `signalled` is the signal that ended the launcher, if one did. Raises Fault if a process was killed and none of the
    others says why.
    """
    ends = [Ended(rank, status) for rank, status in sorted(statuses.items()) if status != 0]
    if not ends:
        return 0
    said = [end.status for wanted in SAID for end in ends if end.status == wanted]
    if said:
        return said[0]
    if signalled is not None:
        return 128 + signalled
    killed = sorted((end for end in ends if end.status < 0), key=lambda end: -end.status in TOLD)
    failed = [end.status for end in ends if 0 < end.status < 128]
    if killed and (-killed[0].status not in TOLD or not failed):
        rank, status = killed[0]
        raise Fault(
            f"process {rank} of the run was killed by {_named(-status)}",
            hint="SIGKILL comes from the system where memory has run out; the same command goes on",
        )
    return failed[0] if failed else ends[0].status


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class TakenSignals:
    """Inside, the signals that end a run are kept for the launcher to pass on (`came`)."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._second: float | None = None
        self._echoes = Echoes()

    @property
    def last(self) -> int | None:
        """The number of the last one."""
        return self.came[-1] if self.came else None

    @property
    def overdue(self) -> bool:
        """Whether they came twice, and what is still there is to be killed."""
        return self._second is not None and time.monotonic() - self._second > LAST

    def __enter__(self) -> "TakenSignals":
        # What is ignored stays ignored: `nohup` asks for that.
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._answer)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if self._echoes.heard():
            return
        self.came.append(number)
        if len(self.came) == 2:
            self._second = time.monotonic()
