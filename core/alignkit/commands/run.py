"""`alignkit run RECIPE [KEY=VALUE …]`."""

import shlex
from pathlib import Path

import click

from alignkit.commands.options import allowed_code, plugin_options
from alignkit.joining import joined
from alignkit.processes import is_first


@click.command("run")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--from", "start_from", metavar="ID", help="Do this step and all later ones again.")
@click.option(
    "--reuse",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Take over identical finished steps of another run's folder. May be given several times.",
)
@click.option(
    "--allow-code",
    multiple=True,
    metavar="NAME",
    help="Let the recipe import this module, module:function or plugin file. "
    "Also ALIGNKIT_ALLOW_CODE (comma separated).",
)
@plugin_options
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@joined()
def command(
    recipe: str,
    overrides: tuple[str, ...],
    start_from: str | None,
    reuse: tuple[Path, ...],
    allow_code: tuple[str, ...],
    plugin_folders: tuple[Path, ...],
    strict_plugins: bool,
    verbose: bool,
) -> None:
    """Run a recipe (a file, or the name of a shipped one such as quickstart).

    The same command goes on where a stopped run left off; finished steps are not repeated. KEY=VALUE sets a variable,
    a step's option (ID.option=value), or name, seed, rounds, output, device, kernels;
    launcher=torchrun starts it as several processes.
    """
    from alignkit.console import console, set_up_logging
    from alignkit.launching import launch
    from alignkit.recipe import load_recipe

    set_up_logging(verbose)
    allowed = allowed_code(allow_code)
    loaded = load_recipe(
        recipe, overrides, allow_code=allowed, plugin_folders=plugin_folders, strict_plugins=strict_plugins
    )
    # Without --from: a second time it would throw away what the run waits for.
    again = ["alignkit", "run", recipe, *overrides]
    again += [part for path in reuse for part in ("--reuse", str(path))]
    again += [part for name in allow_code for part in ("--allow-code", name)]
    again += [part for path in plugin_folders for part in ("--plugins-dir", str(path))]
    again += ["--strict-plugins"] * strict_plugins
    command = shlex.join(again)
    once = ["--from", start_from] if start_from is not None else []
    status = launch(loaded, [*again[1:], *once, *["--verbose"] * verbose], allowed)
    if status is not None:
        click.get_current_context().exit(status)
    from alignkit.engine import run_recipe  # torch comes with it, which a process that launches others need not have

    run_recipe(loaded, start_from=start_from, reuse=reuse, allow_code=allowed, command=command)
    folder = Path(loaded.recipe.output) / loaded.recipe.name
    if is_first():
        console().print(f"done: {folder / 'report.html'} · {folder / 'summary.json'}", highlight=False, markup=False)
