"""`alignkit check RECIPE [KEY=VALUE …]`."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from alignkit.commands.options import allowed_code, plugin_options
from alignkit.errors import AlignkitError


@click.command("check")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--allow-code", multiple=True, metavar="NAME", help="As for run.")
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(
    recipe: str,
    overrides: tuple[str, ...],
    allow_code: tuple[str, ...],
    plugin_folders: tuple[Path, ...],
    strict_plugins: bool,
    as_json: bool,
) -> None:
    """Check a recipe, its files and its models without running anything."""
    from alignkit.recipe import load_recipe
    from alignkit.recipe.check import check_recipe

    try:
        with redirect_stdout(sys.stderr):  # checks and validators are plugins' code, and stdout may be JSON
            allowed = allowed_code(allow_code)
            loaded = load_recipe(
                recipe, overrides, allow_code=allowed, plugin_folders=plugin_folders, strict_plugins=strict_plugins
            )
            check_recipe(loaded.recipe, loaded.manager, loaded.lines, allowed)
    except AlignkitError as error:
        if not as_json:
            raise
        finding = {"what": error.what, "where": error.where, "hint": error.hint}
        click.echo(json.dumps({"ok": False, "findings": [finding]}, indent=2, ensure_ascii=False))
        sys.exit(error.exit_status)
    if as_json:
        click.echo(json.dumps({"ok": True, "findings": []}, indent=2))
        return
    steps = ", ".join(s.id for s in loaded.recipe.steps)
    click.echo(f"{recipe} is fine: run {loaded.recipe.name!r}, {loaded.recipe.rounds} round(s), steps {steps}")
