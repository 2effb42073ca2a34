"""`alignkit schema`."""

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON schema of recipes, with the options of every installed component."""
    from alignkit.manager import PluginManager
    from alignkit.recipe.schema import recipe_schema

    manager = PluginManager()
    manager.load_entry_points()
    click.echo(json.dumps(recipe_schema(manager), indent=2, ensure_ascii=False))
