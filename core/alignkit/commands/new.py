"""`alignkit new plugin NAME --kind KIND`."""

import shlex
from pathlib import Path

import click

# Said here too, so that `--help` needs no plugin; a test holds them equal to `alignkit.scaffold.VARIANTS`.
KINDS = ("policy", "reward_source", "advantage", "optimizer_stage", "sampler", "data_format", "kernel")


@click.group("new")
def command() -> None:
    """Write the beginnings of something."""


@command.command("plugin")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="Kind of component that it offers.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Folder to make NAME in.",
    metavar="DIR",
)
@click.option(
    "--reward-form",
    type=click.Choice(("scores", "judgements")),
    help="reward_source: it gives numbers for the alignment loop, or judgements for collect. Default: scores.",
)
@click.option(
    "--learns-from",
    type=click.Choice(("rollouts", "records")),
    help="optimizer_stage: an objective for the alignment loop, or a stage over a data set. Default: rollouts.",
)
def plugin(name: str, kind: str, output: Path, reward_form: str | None, learns_from: str | None) -> None:
    """Write a package with a small working component, its tests and its metadata.

    NAME is the distribution's name, for example alignkit-word-count; the component is then word_count.
    """
    from alignkit.manager import PluginManager
    from alignkit.manager.local import home_filled_in
    from alignkit.scaffold import check_name, variant_of, write_package

    variant = variant_of(kind, reward_form=reward_form, learns_from=learns_from)
    manager = PluginManager()
    manager.load()
    names = check_name(name, variant.kind, variant.suffix, manager)
    output = home_filled_in(output)
    folder = output / name
    for file in write_package(names, variant, output):
        click.echo(f"wrote {folder / file}")
    click.echo(
        f"\nThe {kind.replace('_', ' ')} {names.component!r} works as it is. Next:\n"
        f"  cd {shlex.quote(str(folder))}\n"
        f"  pip install -e '.[dev]'\n"
        f"  pytest\n"
        f"  alignkit run recipe.yaml\n"
        f"Then change src/{names.package}/{names.component}.py, and choose a licence: see pyproject.toml."
    )
