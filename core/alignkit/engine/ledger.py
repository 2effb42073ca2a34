"""The run's books: a manifest per step, and the files at the top that are made from them."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.engine.results import damage, listed
from alignkit.errors import UserError
from alignkit.files import (
    TEMP,
    atomic_folder,
    atomic_write,
    digest,
    read_json,
    remove_folder,
    require_plain_files,
    write_json,
)
from alignkit.protocols import StepOutput

if TYPE_CHECKING:
    from alignkit.context import RunInfo
    from alignkit.recipe.model import Recipe

logger = logging.getLogger("alignkit")

MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
STEP_FOLDER = re.compile(r"r(\d+)/(\d\d+)-([A-Za-z][A-Za-z0-9_-]*)")


@dataclass(frozen=True)
class StepRecord:
    """A step's manifest.

    `outputs` maps parts ("" is the step itself) to paths below the step's folder, `files` each file of them to its size
    and checksum.
    """

    id: str
    round: int
    hash: str
    identity: dict[str, Any]
    status: str
    started: str
    seconds: float = 0.0
    outputs: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def new(cls, id: str, round: int, identity: dict[str, Any]) -> "StepRecord":
        """A step that begins now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(id, round, digest(identity), identity, "started", now)

    def finish(self, output: StepOutput, seconds: float, folder: Path) -> "StepRecord":
        """The same step, done, with its result in `folder`."""
        outputs, summary = output.outputs, output.summary
        files = listed(folder, outputs)
        return replace(
            self, status="finished", seconds=round(seconds, 3), outputs=outputs, summary=summary, files=files
        )

    @property
    def finished(self) -> bool:
        """Whether the step ran to its end."""
        return self.status == "finished"


class Ledger:
    """Manifests of one run folder, and what they add up to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: list[tuple[StepRecord, Path]] = []

    @classmethod
    def of_existing_run(cls, folder: Path) -> "Ledger":
        """The finished steps of another run. Raises UserError if `folder` is none."""
        ledger = cls(folder)
        require_plain_files(folder)
        manifests = sorted(folder.glob(f"r*/*/{MANIFEST}"))
        if not manifests:
            raise UserError("this folder holds no run", where=folder, hint="give the folder of a finished run")
        for path in manifests:
            record = _read_manifest(path)
            if record.finished:
                ledger._done.append((record, path.parent))
        return ledger

    def step_folder(self, id: str, number: int, round: int) -> Path:
        """`rR/NN-ID`."""
        return self.folder / f"r{round}" / f"{number:02d}-{id}"

    def require_place(self, id: str, number: int, round: int) -> None:
        """Raise UserError if a step's folder cannot be where it belongs."""
        folder = self.step_folder(id, number, round)
        for path in (folder.parent, folder):
            if path.is_symlink() or path.exists():
                if not path.is_dir():
                    raise UserError("this has to be a folder of the run", where=path, hint="remove it, or name=NEW")
                if not os.access(path, os.W_OK | os.X_OK):
                    raise UserError("cannot write there: Permission denied", where=path, hint="set output=FOLDER")

    def read(self, id: str, number: int, round: int) -> StepRecord | None:
        """The manifest of a step, or None if it never started."""
        path = self.step_folder(id, number, round) / MANIFEST
        return _read_manifest(path) if path.is_file() else None

    def require_whole(self, record: StepRecord, folder: Path) -> None:
        """Raise UserError if a finished step's result is not what it left."""
        wrong = damage(folder, record.files)
        if wrong is not None:
            raise UserError(
                f"the result of step {record.id!r} of round {record.round} is not what it was: {wrong}",
                where=folder,
                hint=f"put the file back, or --from {record.id} does this step and the later ones again",
            )

    def write(self, record: StepRecord, folder: Path) -> None:
        """Write a manifest atomically."""
        write_json(folder / MANIFEST, asdict(record))

    def adopt(self, record: StepRecord, folder: Path) -> None:
        """Count a finished step as available to later ones."""
        if record.finished:
            self._done.append((record, folder))

    def step_folders(self) -> Iterator[tuple[int, int, str, Path]]:
        """(round, number, id, folder) of every step folder there is, whatever its state."""
        for path in sorted(self.folder.glob("r*/*-*")):
            place = STEP_FOLDER.fullmatch(path.relative_to(self.folder).as_posix())
            if place and path.is_dir():
                yield int(place[1]), int(place[2]), place[3], path

    def forget(self, number: int) -> None:
        """Remove the results of this step and all later ones, those of later rounds included."""
        for round, at, _, folder in reversed(list(self.step_folders())):
            if round > 1 or at >= number:
                remove_folder(folder)  # a kill half-way must not leave a manifest that says finished, and no model
                if round > 1 and not any(folder.parent.iterdir()):
                    folder.parent.rmdir()

    def find(self, reference: str) -> StepRecord | None:
        """The newest finished step that `@id`, `@id.part` or `@latest` names."""
        found = self._find(reference)
        return found[0] if found else None

    def _find(self, reference: str) -> tuple[StepRecord, Path] | None:
        id = reference[1:].partition(".")[0]
        for record, folder in reversed(self._done):
            if record.id == id or (id == "latest" and record.outputs.get("policy")):
                return record, folder
        return None

    def resolve(self, reference: str) -> Path:
        """The path behind a reference. Raises UserError for an unknown part."""
        found = self._find(reference)
        part = reference.partition(".")[2]
        if found is None:
            raise UserError(f"{reference} has no result yet", where="recipe", hint="refer to an earlier step")
        record, folder = found
        if part not in record.outputs:
            parts = ", ".join(sorted(p for p in record.outputs if p)) or "none"
            raise UserError(f"step {record.id!r} has no part {part!r}", where="recipe", hint=f"its parts: {parts}")
        return folder / record.outputs[part]

    def folder_before(self, id: str, round: int) -> Path | None:
        """The folder of the same step in the round before."""
        return next((f for r, f in reversed(self._done) if r.id == id and r.round == round - 1), None)

    def copy_finished(self, hash: str, target: Path) -> bool:
        """Put the finished step with this hash at `target` (hard links where possible); False if there is none."""
        for record, folder in self._done:
            if record.hash == hash:
                wrong = damage(folder, record.files)
                if wrong is not None:
                    logger.warning("%s is not taken over: %s", folder, wrong)
                    continue
                with atomic_folder(target) as temp:
                    shutil.copytree(
                        folder, temp, dirs_exist_ok=True, copy_function=_link_or_copy, ignore=_unfinished_work
                    )
                return True
        return False

    def namesake(self, id: str, round: int) -> StepRecord | None:
        """The finished step with this id in this round."""
        return next((r for r, _ in self._done if r.id == id and r.round == round), None)

    def write_metrics(self) -> None:
        """`metrics.jsonl`: the metrics of all finished steps in order."""
        with atomic_write(self.folder / "metrics.jsonl") as out:
            for record, folder in self._done:
                source = folder / "metrics.jsonl"
                if not source.is_file():
                    continue
                with source.open(encoding="utf-8") as lines:
                    for line in lines:
                        row = {"round": record.round, **json.loads(line)}
                        out.write(json.dumps(row, ensure_ascii=False) + "\n")

    def write_reports(self, recipe: "Recipe", run: "RunInfo") -> dict[str, Any]:
        """summary.json (last round on top, all in `rounds`), timing.json and report.html."""
        from alignkit.report import write_report

        rounds: list[dict[str, Any]] = []
        for number in range(1, recipe.rounds + 1):
            merged: dict[str, Any] = {}
            for record, _ in self._done:
                if record.round == number:
                    _merge(merged, record.summary)
            rounds.append(merged)
        latest: dict[str, Any] = {}
        for merged in rounds:
            _merge(latest, merged)
        # Two steps of one kind share a section, where the later one stands; here is each step's own.
        by_step = [{"round": r.round, "id": r.id, **r.summary} for r, _ in self._done]
        summary = {"name": run.name, "seed": run.seed, **latest, "rounds": rounds, "by_step": by_step}
        write_json(self.folder / "summary.json", summary)
        steps = [{"round": r.round, "id": r.id, "seconds": r.seconds} for r, _ in self._done]
        write_json(
            self.folder / "timing.json",
            {"seconds": round(sum(r.seconds for r, _ in self._done), 3), "steps": steps},
        )
        self.write_metrics()
        write_report(self.folder)
        return summary


def _read_manifest(path: Path) -> StepRecord:
    try:
        return _sound(StepRecord(**read_json(path)))
    except (ValueError, TypeError) as error:
        id = path.parent.name.partition("-")[2]
        raise UserError(
            f"the manifest is damaged: {error}", where=path, hint=f"--from {id} does this step again"
        ) from None


def _sound(record: StepRecord) -> StepRecord:
    """The record, if it is one that could have been written here: a manifest may be a stranger's, or edited."""
    expected = {"id": str, "round": int, "hash": str, "identity": dict, "status": str, "started": str}
    for name, kind in (expected | {"seconds": int | float, "outputs": dict, "summary": dict, "files": dict}).items():
        if not isinstance(getattr(record, name), kind):
            raise TypeError(f"{name} is no {getattr(kind, '__name__', 'number')}")
    for place in (*record.outputs.values(), *record.files):
        if not isinstance(place, str) or Path(place).is_absolute() or ".." in Path(place).parts or "\0" in place:
            raise ValueError(f"{place!r} is not inside the step's folder")
    for name, described in record.files.items():
        if not isinstance(described, dict) or described.keys() != {"bytes", "sha256"}:
            raise TypeError(f"{name} has no size and checksum")
    return record


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    """Sections that hold an entry per step id are joined; figures are replaced whole, never mixed with older ones."""
    for key, value in new.items():
        per_step = isinstance(value, dict) and all(isinstance(v, dict) for v in value.values())
        into[key] = {**into[key], **value} if per_step and isinstance(into.get(key), dict) else value


def _unfinished_work(folder: str, names: list[str]) -> set[str]:
    """What a run that was killed right behind the end of a step had no time to remove."""
    return {n for n in names if n == CHECKPOINTS or (n.startswith(".") and n.endswith(TEMP))}


def _link_or_copy(source: str, target: str) -> None:
    # Hard links only for weights, which are never written in place; small files may be (metrics are appended).
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copy2(source, target)
