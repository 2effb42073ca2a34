"""`alignkit report RUN`."""

from pathlib import Path

import click

from alignkit.errors import UserError
from alignkit.files import require_plain_files


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> None:
    """Write RUN/report.html anew from what the run's folder holds, also of a run that is not finished."""
    from alignkit.report import write_report

    if not (run / "recipe.json").is_file():
        raise UserError("this folder holds no run", where=run, hint="give a folder such as runs/quickstart")
    require_plain_files(run)
    click.echo(str(write_report(run)))
