"""`alignkit check RECIPE [KEY=VALUE …]`."""

import json
import sys

import click

from alignkit.errors import UserError


@click.command("check")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--allow-code", multiple=True, metavar="NAME", help="As for run.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(recipe: str, overrides: tuple[str, ...], allow_code: tuple[str, ...], as_json: bool) -> None:
    """Check a recipe, its files and its models without running anything."""
    from alignkit.commands.run import allowed_code
    from alignkit.recipe import load_recipe
    from alignkit.recipe.check import check_recipe

    try:
        loaded = load_recipe(recipe, overrides)
        check_recipe(loaded.recipe, loaded.manager, loaded.lines, allowed_code(allow_code))
    except UserError as error:
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
