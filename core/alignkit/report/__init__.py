"""The run's report: one HTML page without scripts or external files, made from what the run folder holds."""

from pathlib import Path

from alignkit.errors import UserError

REPORT = "report.html"


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into `run_folder` and return its path.

    Works on finished, partial and failed runs: what is missing is named on the page. The same files give the
    same bytes. Raises UserError if the folder does not exist.
    """
    if not run_folder.is_dir():
        raise UserError("there is no such run folder", where=run_folder, hint="give the folder of a run")
    # matplotlib takes a second to import; only a report needs it.
    from alignkit.files import atomic_write
    from alignkit.report.page import render

    path = run_folder / REPORT
    with atomic_write(path) as file:
        file.write(render(run_folder))
    return path


__all__ = ["write_report"]
