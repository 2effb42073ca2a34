"""`alignkit schema`."""

import json
from pathlib import Path

import click

from alignkit.commands.options import load_plugins, plugin_options


@click.command("schema")
@plugin_options
def command(plugin_folders: tuple[Path, ...], strict_plugins: bool) -> None:
    """Print the JSON schema of recipes, with the options of every installed component."""
    from alignkit.recipe.schema import recipe_schema

    manager = load_plugins(plugin_folders, strict_plugins)
    click.echo(json.dumps(recipe_schema(manager), indent=2, ensure_ascii=False))
