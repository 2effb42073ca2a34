"""When a checkpoint is written, which are kept, and which one a loop goes on from."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit import __version__
from alignkit.checkpoints.files import DamagedError, read_state, write_state
from alignkit.checkpoints.packing import prefixed, under
from alignkit.checkpoints.parts import divided, write_parts
from alignkit.checkpoints.randomness import others_random, own_random, random_state, restore_random
from alignkit.checkpoints.rows import RowFile
from alignkit.checkpoints.states import copied
from alignkit.checkpoints.writer import BackgroundWriter
from alignkit.engine.environment import environment
from alignkit.errors import Fault, UserError, storage_errno
from alignkit.files import atomic_folder, remove_folder
from alignkit.interruption import Interruption
from alignkit.processes import count, is_first, largest, on_first, several
from alignkit.protocols import Resumable, State, Tracker
from alignkit.recipe.model import CheckpointOptions

logger = logging.getLogger("alignkit")

NAME = re.compile(r"(\d+)-(\d{8,})")
# Between two checkpoints passes at least so many times what the last one took to write: at most 5 % of the time.
SPARING = 20.0
# What a second of writing beside the step counts in that: it takes processor and disk from it, but does not hold it up.
BESIDE = 0.1
FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """A state as it is at a safe point, and what is said about it: everything that a checkpoint consists of."""

    loop: int
    index: int
    state: dict[str, Any]
    about: dict[str, Any]


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
            loop = CheckpointLoop(self, self._loops)
            try:
                yield loop
            except BaseException:
                loop.give_up()
                raise
            loop.finish()

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
        sound: list[tuple[dict[str, Any], dict[str, Any]]] = []
        name = on_first(lambda: self._look_for_sound(sound))
        if name is None:
            self.repeating = False
            self._cut_rows()
            return None
        return sound[0] if sound else read_state(self.folder / name, verify=False)

    def _look_for_sound(self, sound: list[tuple[dict[str, Any], dict[str, Any]]]) -> str | None:
        """Put the newest sound one there; returns its name."""
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
            sound.append((state, about))
            return path.name
        return None

    def snapshot(self, loop: int, index: int, state: State, copy: bool) -> Snapshot:
        """Everything as it is now; with `copy` nothing in it changes when the step goes on."""
        about: dict[str, Any] = {"format": FORMAT, "loop": loop, "index": index, "seconds": self.seconds}
        about |= {"written_with": _written_with(), "rows": {name: file.kept() for name, file in self._rows.items()}}
        whole = {**prefixed("loop", state), **prefixed("random", random_state()), **self._tracker_states()}
        whole |= others_random()
        return Snapshot(loop, index, copied(whole) if copy else whole, about)

    def write(self, snapshot: Snapshot) -> None:
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
        target = self.folder / f"{snapshot.loop}-{snapshot.index:08d}"
        if several():
            _write_together(target, snapshot)
        else:
            with atomic_folder(target) as temp:
                write_state(temp, snapshot.state, snapshot.about)
        if is_first():
            self._remove_older()
        logger.debug("checkpoint at %d", snapshot.index)

    def _remove_older(self) -> None:
        # Sorted by loop first: a loop that is done again does not push out the checkpoint of a later one.
        for _, _, path in self.there()[: -self.options.keep]:
            remove_folder(path)

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
        restore_random(own_random(state))
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


def _write_together(target: Path, snapshot: Snapshot) -> None:
    """Every process its parts, the first one all the rest; complete or not at all."""
    parts = divided(snapshot.state)
    rest = {name: value for name, value in snapshot.state.items() if name not in parts}
    with atomic_folder(target) if is_first() else nullcontext() as temp:
        place = Path(on_first(lambda: str(temp)))
        marks = write_parts(place, parts) if parts else {}
        if is_first():
            write_state(place, rest, snapshot.about, parts, marks)
    on_first(lambda: None)


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
        "processes": count(),
    }


class CheckpointLoop:
    """One loop of a step, with its safe points."""

    def __init__(self, checkpoints: Checkpoints, number: int) -> None:
        self._all = checkpoints
        self._number = number
        self._writer = BackgroundWriter(checkpoints.clock)
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

        Where it is written in the background, only a copy is made here. Raises KeyboardInterrupt or Terminated if a
        signal came, Fault if this checkpoint, or the one before it, cannot be written.
        """
        if not self._writer.busy:
            self.finish()
        told, due = self._agreed(index)
        if told or due:
            begun = self._all.clock()
            self.finish()
            with self._said(index):
                self._write(index, make_state(), told)
            self._written_at = self._all.clock()
            self._cost = self._written_at - begun
        if told:
            self._all.interruption.end()

    def _agreed(self, index: int) -> tuple[bool, bool]:
        """Whether the run was told to end, and whether a checkpoint is due, the same on each of several processes."""
        interruption = self._all.interruption
        told = interruption.requested or 0
        due = not told and self._due(index)
        if several():
            told, due = largest(torch.tensor([told, due and is_first()])).tolist()
            if told:  # else one that came meanwhile waits for the next safe point
                interruption.agreed(told)
        return bool(told), bool(due)

    def finish(self) -> None:
        """Wait for what is being written. Raises Fault if it cannot be."""
        self._writer.wait()
        self._cost = max(self._cost, BESIDE * self._writer.seconds)

    def give_up(self) -> None:
        """The same where an error ends the loop, which must not be hidden by another one."""
        try:
            self.finish()
        except Exception as error:
            logger.warning("%s", error)

    def _write(self, index: int, state: State, told: bool) -> None:
        """Write now or, if that is chosen and nobody waits for the end of the run, in the background."""
        beside = not told and self._in_background(state)
        snapshot = self._all.snapshot(self._number, index, state, copy=beside)

        def write() -> None:
            with self._said(index):
                self._all.write(snapshot)

        if beside:
            self._writer.start(write)
        else:
            write()

    def _in_background(self, state: State) -> bool:
        if several():  # who write together
            return False
        chosen = self._all.options.background
        if chosen is not None:
            return chosen
        return any(value.is_cuda for value in state.values() if isinstance(value, Tensor))

    @contextmanager
    def _said(self, index: int) -> Iterator[None]:
        """A disk that refuses is a Fault that says at which checkpoint."""
        try:
            yield
        except Exception as error:
            if storage_errno(error) is None:
                raise
            raise Fault(
                f"the checkpoint at {index} cannot be written: {getattr(error, 'strerror', None) or error}",
                where=self._all.folder,
                hint="free space or mend the folder; the same command goes on from the checkpoint before",
            ) from error

    def _due(self, index: int) -> bool:
        """By steps exactly; by time not while one is being written."""
        options = self._all.options
        if options.steps is not None and index % options.steps == 0 and index != self._written_for:
            self._written_for = index  # an iteration has two safe points: one is enough
            return True
        if options.seconds is None or self._writer.busy:
            return False
        passed = self._all.clock() - self._written_at
        return passed >= max(options.seconds, SPARING * self._cost)
