"""The subcommand `label`. The web framework is imported when it runs."""

from pathlib import Path

import click

from alignkit.errors import UserError


@click.command("label")
@click.argument("place", metavar="RUN|STORE", type=click.Path(path_type=Path))
@click.option("--host", metavar="ADDRESS", help="Where to listen.  [default: 127.0.0.1, with --lan 0.0.0.0]")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--lan", is_flag=True, help="Let other machines in. The connection is not encrypted.")
@click.option(
    "--allow-host", "allowed", multiple=True, metavar="NAME", help="Also answer under this host name (a proxy's)."
)
@click.option("--annotators", metavar="NAME,…", default="", help="Make invite links for these people.")
@click.option("--annotator", "more", multiple=True, metavar="NAME", help="One more; may be given several times.")
def command(
    place: Path,
    host: str | None,
    port: int,
    lan: bool,
    allowed: tuple[str, ...],
    annotators: str,
    more: tuple[str, ...],
) -> None:
    """Serve the page in which people judge what a run asks, until Ctrl+C.

    RUN is a run's folder, STORE an annotation store (.sqlite). Prints a link for each annotator and one for the admin
    page; the links stay the same when the command is run again. Answers are on disk as soon as the page says so.
    """
    from alignkit.annotation.reading import STORE
    from alignkit_plugins.command_label.server import Address, serve

    path = place / STORE if place.is_dir() else place
    if not path.is_file():
        raise UserError(
            "there are no questions for people here",
            where=place,
            hint="run the recipe with reward_source=human first; it stops where people are asked",
        )
    names = [name for name in [*annotators.split(","), *more] if name.strip()]
    serve(path, Address.chosen(host, port, lan, allowed), names)
