"""`alignkit plugins`."""

import json

import click

from alignkit.components import KINDS
from alignkit.manager import PluginManager


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(as_json: bool) -> None:
    """List the installed plugins and the components they offer; a plugin that failed to load says why."""
    manager = PluginManager()
    manager.load_entry_points()
    if as_json:
        rows = [
            {
                "name": p.name,
                "distribution": p.distribution,
                "version": p.version,
                "status": p.status,
                "problem": p.problem,
                "components": [
                    {"kind": r.kind, "name": r.component.name, "summary": r.component.summary} for r in p.components
                ],
            }
            for p in manager.plugins
        ]
        click.echo(json.dumps({"plugins": rows}, indent=2, ensure_ascii=False))
    else:
        _table(manager)


def _table(manager: PluginManager) -> None:
    for kind in KINDS:
        found = manager.all(kind)
        if not found:
            continue
        click.secho(kind.replace("_", " "), bold=True)
        for r in found:
            click.echo(f"  {r.component.name:<20} {r.component.summary}  [{r.distribution} {r.version}]")
    for plugin in manager.plugins:
        if plugin.problem:
            click.secho(f"failed: {plugin.distribution} {plugin.version} ({plugin.name}): {plugin.problem}", fg="red")
