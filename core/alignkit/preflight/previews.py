"""The beginning of results that are not there yet, so that later steps can be looked at before the run."""

import logging
import re
import tempfile
from pathlib import Path
from typing import Self

from alignkit.context import StepContext
from alignkit.data.store import write_records
from alignkit.errors import UserError
from alignkit.preflight.looking import NotYetError
from alignkit.preflight.sample import INCOMPLETE
from alignkit.protocols import Previews

logger = logging.getLogger("alignkit")


class Previewed:
    """Previews of steps in a folder that goes away with it; texts name them `@id.part`, not by their path."""

    def __init__(self) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._reasons: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def _folder(self) -> Path:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="alignkit-check-")
        return Path(self._temporary.name)

    def add(self, built: object, context: StepContext) -> None:
        """Keep what a step shows, if it can."""
        if not isinstance(built, Previews):
            return
        try:
            preview = built.preview(context)
        except NotYetError:
            return
        try:
            for part, records in preview.parts.items():
                write_records(self._folder / context.step_id / f"{part}.jsonl", records)
            if preview.parts and not preview.complete:
                (self._folder / context.step_id / INCOMPLETE).touch()
            self._reasons |= {(context.step_id, part): why for part, why in preview.reasons.items()}
        except OSError as error:  # a run must not fail for want of a temporary folder: less is known before it
            logger.info("step %s is not previewed: %s", context.step_id, error)

    def resolve(self, reference: str) -> Path:
        """The preview behind `@id.part` or `@id`.

        Raises NotYetError if there is none, and UserError if the step will have no such part.
        """
        id, _, part = reference.removeprefix("@").partition(".")
        if self._temporary is not None:
            folder = self._folder / id
            path = folder / f"{part}.jsonl" if part else folder
            if path.exists():
                return path
            if folder.exists() and not (folder / INCOMPLETE).exists():
                parts = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl")))
                why = f": {self._reasons[id, part]}" if (id, part) in self._reasons else ""
                raise UserError(f"step {id!r} will have no part {part!r}{why}", hint=f"its parts: {parts}")
        raise NotYetError([f"@{id}"])

    def holds(self, place: str) -> bool:
        """Whether a place is a line of a preview."""
        return self._temporary is not None and place.startswith(f"{self._folder}/")

    def named(self, text: str) -> str:
        """`FOLDER/id/part.jsonl:3` as `@id.part, record 3`."""
        if self._temporary is None:
            return text
        written = rf"{re.escape(str(self._folder))}/([\w-]+)/(\w+)\.jsonl(?::(\d+))?"
        return re.sub(written, lambda m: f"@{m[1]}.{m[2]}" + (f", record {m[3]}" if m[3] else ""), text)
