"""How much disk a step will take: the models it writes, and its checkpoints while it runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from alignkit.preflight.finding import Finding
from alignkit.preflight.memory import in_bytes

# A checkpoint has the weights that are trained and Adam's two moments.
STATE = 3


def disk_findings(folder: Path, outputs: int, trained: int, keep: int) -> Iterator[Finding]:
    """`outputs`: bytes of the models written; `trained`: of the weights that are trained.

    Beside the checkpoints that are kept, one more is being written.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    states = (keep + 1) * STATE * trained
    if outputs + states <= free:
        return
    need = f"{in_bytes(outputs)} for results and {in_bytes(states)} for up to {keep + 1} checkpoints"
    code = "R063" if outputs > free else "R062"
    yield Finding(code, f"{need}; {in_bytes(free)} are free in {there}")
