"""`alignkit check RECIPE [KEY=VALUE …]`: everything that can be known to be wrong or unwise before a run."""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignkit.commands.options import allowed_code, plugin_options
from alignkit.errors import AlignkitError, Fault
from alignkit.redact import redact, redacted
from alignkit.terminal import printable, say_json

if TYPE_CHECKING:
    from alignkit.preflight import Finding
    from alignkit.recipe.load import Loaded

COLOURS = {"error": "red", "warning": "yellow", "note": None}


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
    """Look at a recipe, its files, its models and this machine without running anything.

    Prints findings, each with a code, most important first. The exit status is 2 if there is an error. `alignkit run`
    looks at the same things before it starts, and again before each step.
    """
    from alignkit.preflight import Finding, before_run, recipe_findings
    from alignkit.preflight.finding import by_severity
    from alignkit.recipe import load_recipe

    loaded: Loaded | None = None
    with redirect_stdout(sys.stderr):  # checks and validators are plugins' code, and stdout may be JSON
        try:
            allowed = allowed_code(allow_code)
            loaded = load_recipe(
                recipe,
                overrides,
                allow_code=allowed,
                plugin_folders=plugin_folders,
                strict_plugins=strict_plugins,
                checked=False,
            )
            findings, steps = recipe_findings(loaded, allowed)
            said = {finding.what for finding in findings}  # a kernel that is not installed cannot be chosen either
            others = before_run(loaded, allowed, frozenset(steps))
            findings = by_severity([*findings, *(finding for finding in others if finding.what not in said)])
        except AlignkitError as error:
            findings = [Finding.of("R003" if isinstance(error, Fault) else "R001", error)]
    errors = [finding for finding in findings if finding.severity == "error"]
    if as_json:
        data = {"ok": not errors, "findings": [one.data() for finding in findings for one in finding.each()]}
        say_json(redacted(data))
    else:
        groups = _grouped(findings)
        _print(groups)
        click.echo(_last_line(recipe, loaded, [first.severity for first, *_ in groups]))
    if errors:
        # A plugin that fails is a fault, as in a run.
        sys.exit(4 if all(finding.code == "R003" for finding in errors) else 2)


def _grouped(findings: "Sequence[Finding]") -> "list[list[Finding]]":
    """One thing in several places is said once, and counted once."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.what, finding.advice), []).append(finding)
    return list(groups.values())


def _print(groups: "Sequence[Sequence[Finding]]") -> None:
    for finding, *same in groups:
        head = click.style(f"{finding.code} {finding.severity}", fg=COLOURS[finding.severity])
        places = "; ".join(f.where for f in (finding, *same) if f.where)
        place = f"{places}: " if places else ""
        advice = f"\n  -> {finding.advice}" if finding.severity != "note" else ""
        click.echo(f"{head}: " + printable(redact(f"{finding.title}\n  {place}{finding.what}{advice}")))


def _last_line(recipe: str, loaded: "Loaded | None", severities: Sequence[str]) -> str:
    """`severities` are those of what was printed, the worst first."""
    counts = Counter(severities)
    shown = ", ".join(f"{n} {s}{'s' * (n != 1)}" for s, n in counts.items())
    if counts["error"] or loaded is None:
        return f"{recipe} cannot be run: {shown}"
    steps = ", ".join(step.id for step in loaded.recipe.steps)
    rounds = loaded.recipe.rounds
    fine = f"{recipe} is fine: run {loaded.recipe.name!r}, {rounds} round(s), steps {steps}"
    return f"{fine} ({shown})" if shown else fine
