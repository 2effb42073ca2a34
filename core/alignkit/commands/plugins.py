"""`alignkit plugins`: what is installed, what one component takes, what is wrong."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from alignkit.commands.options import folder_option, plugin_options
from alignkit.components import KINDS
from alignkit.manager import PluginManager, PluginStatus

COLOURS = {"error": "red", "warning": "yellow", "note": None}


@click.group("plugins", invoke_without_command=True)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def command(ctx: click.Context, plugin_folders: tuple[Path, ...], strict_plugins: bool, as_json: bool) -> None:
    """List the installed plugins and the components they offer; a plugin that failed to load says why.

    With --strict-plugins the exit status is 2 if one failed.
    """
    ctx.obj = plugin_folders
    if ctx.invoked_subcommand is not None:
        if as_json or strict_plugins:
            raise click.UsageError(
                f"--json and --strict-plugins before {ctx.invoked_subcommand} are of the list; "
                f"see alignkit plugins {ctx.invoked_subcommand} --help"
            )
        return
    manager = _loaded(plugin_folders)
    if as_json:
        _print_json({"plugins": [_row(p) for p in manager.plugins], "left_out": _left_out(manager)})
    else:
        _table(manager)
    if (strict_plugins or manager.strict_by_environment()) and any(p.problem for p in manager.plugins):
        ctx.exit(2)


@command.command("show")
@click.argument("name", metavar="KIND:NAME")
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def show(more_folders: tuple[Path, ...], name: str, plugin_folders: tuple[Path, ...], as_json: bool) -> None:
    """Print a component's options, defaults and source.

    NAME alone does if only one kind has it; KIND:DISTRIBUTION:NAME if several plugins offer the name.
    """
    from alignkit.commands.plugin_page import as_data, as_text
    from alignkit.describe import find

    data = as_data(find(_loaded(more_folders + plugin_folders), name))
    if as_json:
        _print_json(data)
    else:
        click.echo(as_text(data))


@command.command("doctor")
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def doctor(ctx: click.Context, plugin_folders: tuple[Path, ...], as_json: bool) -> None:
    """Look at every plugin for mistakes. The exit status is 2 if there is an error."""
    from alignkit.doctor import examine

    manager = _loaded(ctx.obj + plugin_folders)
    with redirect_stdout(sys.stderr):  # defaults, validators and commands are plugins' code, and stdout may be JSON
        findings = examine(manager)
    if as_json:
        keys = ("code", "severity", "plugin", "what", "advice")
        _print_json({"findings": [{key: getattr(f, key) for key in keys} for f in findings]})
    for finding in [] if as_json else findings:
        head = click.style(f"{finding.code} {finding.severity}", fg=COLOURS[finding.severity])
        click.echo(f"{head}: {finding.plugin}: {finding.what}\n  -> {finding.advice}")
    errors = sum(f.severity == "error" for f in findings)
    if not as_json:
        loaded = sum(not p.problem for p in manager.plugins)
        click.echo(f"{loaded} plugins loaded, {errors} errors, {len(findings) - errors} warnings and notes")
    if errors:
        ctx.exit(2)


def _loaded(folders: tuple[Path, ...]) -> PluginManager:
    manager = PluginManager()
    manager.load(folders=folders)
    return manager


def _row(plugin: PluginStatus) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "problem": plugin.problem,
        "source": {"kind": plugin.kind, "value": plugin.source},
        "warnings": plugin.warnings,
        "components": [
            {
                "kind": r.kind,
                "name": r.component.name,
                "summary": r.component.summary,
                "deprecated": r.component.deprecated or None,
            }
            for r in plugin.components
        ],
    }


def _left_out(manager: PluginManager) -> list[dict[str, str]]:
    return [{"name": name, "reason": why} for name, why in manager.left_out.items()]


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _table(manager: PluginManager) -> None:
    for kind in KINDS:
        found = manager.all(kind)
        if not found:
            continue
        click.secho(kind.replace("_", " "), bold=True)
        for r in found:
            deprecated = click.style("  deprecated", fg="yellow") if r.component.deprecated else ""
            click.echo(f"  {r.component.name:<20} {r.component.summary}{deprecated}  [{r.distribution} {r.version}]")
    click.secho("plugins", bold=True)
    for (distribution, version), plugins in _by_distribution(manager).items():
        usable = [p for p in plugins if not p.problem]
        names = ", ".join(p.name for p in usable) if len(usable) <= 3 else f"{len(usable)} plugins"
        if usable:
            click.echo(f"  {f'{distribution} {version}':<30} ok       {names}")
        for p in plugins:
            if p.problem:
                click.secho(f"  {f'{distribution} {version}':<30} failed   {p.name}: {p.problem}", fg="red")
    for name, why in manager.left_out.items():
        click.echo(f"  {name:<30} left out {why}")


def _by_distribution(manager: PluginManager) -> dict[tuple[str, str], list[PluginStatus]]:
    found: dict[tuple[str, str], list[PluginStatus]] = {}
    for plugin in manager.plugins:
        found.setdefault((plugin.distribution, plugin.version), []).append(plugin)
    return found
