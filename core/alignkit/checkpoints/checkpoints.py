"""When a checkpoint is written, which are kept, and which one a loop goes on from."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignkit import __version__
from alignkit.checkpoints.files import DamagedError, read_state, write_state
from alignkit.checkpoints.randomness import random_state, restore_random
from alignkit.checkpoints.rows import RowFile
from alignkit.checkpoints.states import prefixed, under
from alignkit.engine.environment import environment
from alignkit.errors import Fault, UserError, storage_errno
from alignkit.files import atomic_folder, remove_folder
from alignkit.interruption import Interruption
from alignkit.protocols import Resumable, State, Tracker
from alignkit.recipe.model import CheckpointOptions

logger = logging.getLogger("alignkit")

NAME = re.compile(r"(\d+)-(\d{8,})")
# Between two checkpoints passes at least so many times what the last one took to write: at most 5 % of the time.
SPARING = 20.0
FORMAT = 1


class Checkpoints:
    """The checkpoints of one step, in `STEP/checkpoints`."""

    def __init__(
        self,
        folder: Path,
        options: CheckpointOptions | None = None,
        interruption: Interruption | None = None,
        trackers: Sequence[Tracker] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.options = options or CheckpointOptions()
        self.interruption = interruption or Interruption()
        self.trackers = trackers
        self.clock = clock
        self.seconds_before = 0.0  # that earlier tries took up to the checkpoint
        # Until the checkpoint is taken up, what a step logs was logged before it was written.
        self.repeating = bool(self.there())
        self._rows: dict[str, RowFile] = {}
        self._started = clock()
        self._loops = 0

    @contextmanager
    def loop(self) -> Iterator["CheckpointLoop"]:
        """A loop that can be taken up again. A signal to end waits for its next safe point.

        A step may have several, one after the other: those before the one that was interrupted are done again, which
        gives what they gave before.
        """
        self._loops += 1
        with self.interruption.listening():
            yield CheckpointLoop(self, self._loops)

    def rows(self, name: str) -> RowFile:
        """The file `name` in the step's folder, of which a checkpoint remembers how long it was."""
        return self._rows.setdefault(name, RowFile(self.folder.parent / name, lambda: self.repeating))

    def there(self) -> list[tuple[int, int, Path]]:
        """(loop, index, folder) of every checkpoint, the oldest first."""
        found = []
        for path in self.folder.glob("*"):
            name = NAME.fullmatch(path.name)
            if name and path.is_dir():
                found.append((int(name[1]), int(name[2]), path))
        return sorted(found)

    def newest(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """State and description of the newest checkpoint that is sound. A damaged one is said aloud and removed."""
        found = self.there()
        for place, (_, _, path) in reversed(list(enumerate(found))):
            try:
                state, about = read_state(path)
            except DamagedError as error:
                instead = f"the one before it, {found[place - 1][2].name}, is used" if place else "the step starts over"
                logger.warning("checkpoint %s is damaged (%s): %s", path, error, instead)
                remove_folder(path)
                continue
            _require_known(about, path)
            return state, about
        self.repeating = False
        self._cut_rows()
        return None

    def write(self, loop: int, index: int, state: State) -> None:
        """Write a checkpoint and remove those that are not to be kept any longer.

        Raises Fault if the step's folder is not there any more: a run that was moved must not begin a second one here.
        """
        if not self.folder.parent.is_dir():
            raise Fault(
                "the step's folder is gone: was the run moved or removed while it runs?",
                where=self.folder.parent,
                hint="move a run when it has stopped; then the same command, with output= and name= of the new place, "
                "goes on",
            )
        about: dict[str, Any] = {"format": FORMAT, "loop": loop, "index": index, "seconds": self.seconds}
        about |= {"written_with": _written_with(), "rows": {name: file.kept() for name, file in self._rows.items()}}
        whole = {**prefixed("loop", state), **prefixed("random", random_state()), **self._tracker_states()}
        with atomic_folder(self.folder / f"{loop}-{index:08d}") as temp:
            write_state(temp, whole, about)
        # Sorted by loop first: a loop that is done again does not push out the checkpoint of a later one.
        for _, _, path in self.there()[: -self.options.keep]:
            remove_folder(path)
        logger.debug("checkpoint at %d", index)

    @property
    def seconds(self) -> float:
        """That the step took so far, earlier tries included."""
        return self.seconds_before + self.clock() - self._started

    def take_up(self, state: State, about: dict[str, Any]) -> dict[str, Any]:
        """Put generators and trackers back; returns the loop's own state."""
        self.repeating = False
        for name, length in about["rows"].items():
            self.rows(name).length = length
        self._cut_rows()
        for name, tracker in self._resumable_trackers():
            kept = under(name, state)
            if kept:
                tracker.restore(kept)
            else:
                logger.warning("%s was not there when the checkpoint was written: its rows begin now", name)
        restore_random(under("random", state))
        now = _written_with()
        for name, before in about["written_with"].items():
            if now[name] != before:
                logger.warning(
                    "the checkpoint was written with %s %s, and this is %s: what follows may differ in the last bits",
                    name,
                    before,
                    now[name],
                )
        self.seconds_before = float(about["seconds"])
        self._started = self.clock()
        return under("loop", state)

    def _cut_rows(self) -> None:
        for file in self._rows.values():
            file.cut()

    def _tracker_states(self) -> dict[str, Any]:
        return {
            k: v for name, tracker in self._resumable_trackers() for k, v in prefixed(name, tracker.state()).items()
        }

    def _resumable_trackers(self) -> Iterator[tuple[str, Resumable]]:
        for tracker in self.trackers:
            if isinstance(tracker, Resumable):
                yield f"tracker.{type(tracker).__module__}.{type(tracker).__qualname__}", tracker


def _require_known(about: dict[str, Any], path: Path) -> None:
    """Raise UserError for a checkpoint of an alignkit that writes them in another form."""
    if about["format"] != FORMAT:
        raise UserError(
            f"the checkpoint has form {about['format']}, and this is alignkit {__version__}, which knows {FORMAT}",
            where=path,
            hint=f"go on with alignkit {about['written_with']['alignkit']}; --from ID does the step again",
        )


def _written_with() -> dict[str, Any]:
    """What the bits of a result depend on beside the recipe."""
    found = environment()
    return {
        "alignkit": __version__,
        "torch": found["packages"]["torch"],
        "transformers": found["packages"]["transformers"],
        "machine": found["machine"],
        "threads": found["threads"],
        "gpu": found["gpu"],
    }


class CheckpointLoop:
    """One loop of a step, with its safe points."""

    def __init__(self, checkpoints: Checkpoints, number: int) -> None:
        self._all = checkpoints
        self._number = number
        self._written_at = checkpoints.clock()
        self._written_for = 0  # the index that the last one was due at by the number of steps
        self._cost = 0.0

    def restored(self) -> dict[str, Any] | None:
        """The state that the newest sound checkpoint of this loop holds, or None: then the loop begins.

        The global random generators and the trackers are put back as well, so nothing may be drawn or logged between
        this call and the loop.
        """
        found = self._all.newest()
        if found is None or found[1]["loop"] != self._number:
            return None
        state = self._all.take_up(*found)
        logger.info("going on from the checkpoint at %d", found[1]["index"])
        return state

    def safe_point(self, index: int, make_state: Callable[[], State]) -> None:
        """Write `make_state()` if a checkpoint is due or the run was told to end; then end it. `index` never falls.

        Raises KeyboardInterrupt or Terminated if a signal came, Fault if the checkpoint cannot be written.
        """
        told = self._all.interruption.requested is not None
        if told or self._due(index):
            begun = self._all.clock()
            try:
                self._all.write(self._number, index, make_state())
            except Exception as error:
                if storage_errno(error) is None:
                    raise
                raise Fault(
                    f"the checkpoint at {index} cannot be written: {getattr(error, 'strerror', None) or error}",
                    where=self._all.folder,
                    hint="free space or mend the folder; the same command goes on from the checkpoint before",
                ) from error
            self._written_at = self._all.clock()
            self._cost = self._written_at - begun
        if told:
            self._all.interruption.end()

    def _due(self, index: int) -> bool:
        options = self._all.options
        if options.steps is not None and index % options.steps == 0 and index != self._written_for:
            self._written_for = index  # an iteration has two safe points: one is enough
            return True
        passed = self._all.clock() - self._written_at
        return options.seconds is not None and passed >= max(options.seconds, SPARING * self._cost)
