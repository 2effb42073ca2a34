"""What `alignkit plugins show` says about a component."""

import json
from dataclasses import asdict
from typing import Any

import click

from alignkit.components import NoConfig
from alignkit.describe import example, options_of, source_of
from alignkit.manager import Registered


def as_data(registered: Registered) -> dict[str, Any]:
    """Everything about a component, as plain data."""
    component = registered.component
    return {
        "kind": registered.kind,
        "name": component.name,
        "reference": registered.reference,
        "summary": component.summary,
        "deprecated": component.deprecated or None,
        "plugin": registered.plugin,
        "distribution": registered.distribution,
        "version": registered.version,
        "api": component.api,
        "build": source_of(component.build),
        "config": None if component.config is NoConfig else source_of(component.config),
        "options": [asdict(option) for option in options_of(component.config)],
        "example": example(registered),
    }


def as_text(data: dict[str, Any]) -> str:
    """The same for people."""
    lines = [click.style(f"{data['kind'].replace('_', ' ')} {data['name']}", bold=True), f"  {data['summary']}"]
    if data["deprecated"]:
        lines.append(click.style(f"  deprecated: {data['deprecated']}", fg="yellow"))
    lines += [
        "",
        f"plugin   {data['plugin']} of {data['distribution']} {data['version']} (api {data['api']})",
        f"build    {data['build'] or 'no Python source'}",
    ]
    if data["config"]:
        lines.append(f"options  {data['config']}")
    lines += ["", click.style("options", bold=True), *(_option_lines(data["options"], "  ") or ["  none"])]
    lines += ["", click.style("in a recipe" if data["kind"] != "command" else "on the command line", bold=True)]
    return "\n".join([*lines, *(f"  {line}" for line in data["example"].splitlines())])


def _option_lines(options: list[dict[str, Any]], indent: str) -> list[str]:
    lines: list[str] = []
    for option in options:
        default = "required" if option["required"] else f"default {_shown(option['default'])}"
        facts = "; ".join(fact for fact in (option["type"], option["range"], default) if fact)
        lines.append(f"{indent}{click.style(option['name'], bold=True)}  {facts}")
        if option["description"]:
            lines.append(f"{indent}    {option['description']}")
        if option["deprecated"]:
            lines.append(click.style(f"{indent}    deprecated: {option['deprecated']}", fg="yellow"))
        lines += _option_lines(option["options"], indent + "    ")
    return lines


def _shown(value: Any) -> str:
    """A default as a recipe would have it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
