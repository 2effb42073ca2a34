"""`alignkit plan RECIPE [KEY=VALUE …]`: what the steps of a recipe take on given machines."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignkit.commands.options import allowed_code, plugin_options
from alignkit.errors import UserError

if TYPE_CHECKING:
    from alignkit.context import BuildContext
    from alignkit.recipe.load import Loaded


def quantity(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """`80G`, `989T`, `3.35T` as a number; below what any device has, the letter was forgotten."""
    from alignkit.plan.machine import figure

    try:
        return None if value is None or param.name is None else figure(param.name, value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@click.command("plan")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--machine", "named", metavar="NAMExN", help="Devices of a machine: a100x8, h100x8, h200x8, h100, …")
@click.option("--nodes", type=click.IntRange(1), default=1, help="Machines of that kind.")
@click.option("--processes", type=click.IntRange(1), help="Processes in all; default: one for each device.")
@click.option("--device-memory", "memory", callback=quantity, metavar="BYTES", help="Of each device, such as 80G.")
@click.option("--flops", callback=quantity, help="Operations a second of a device at the recipe's precision, as 989T.")
@click.option("--bandwidth", callback=quantity, help="Bytes a second of a device's memory.")
@click.option("--interconnect", callback=quantity, help="Bytes a second that a process sends to the others.")
@click.option("--network", callback=quantity, default="50G", show_default=True, help="The same between --nodes.")
@click.option(
    "--utilisation", type=click.FloatRange(0, 1, min_open=True), default=0.4, show_default=True,
    help="Share of the operations that is reached.",
)  # fmt: skip
@click.option(
    "--model-config", type=click.Path(path_type=Path), metavar="FILE",
    help="transformers config.json of the model to plan for, in place of every model of the recipe.",
)  # fmt: skip
@click.option(
    "--prompt-tokens", type=click.IntRange(1), help="Tokens of a prompt; default: max_prompt_length, or at most 256."
)
@click.option("--row-tokens", type=click.IntRange(1), help="Tokens of a training row; default: the longest allowed.")
@click.option("--step", "wanted", multiple=True, metavar="ID", help="Only this step. May be given several times.")
@click.option("--allow-code", multiple=True, metavar="NAME", help="As for run.")
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(
    recipe: str,
    overrides: tuple[str, ...],
    named: str | None,
    nodes: int,
    processes: int | None,
    memory: float | None,
    flops: float | None,
    bandwidth: float | None,
    interconnect: float | None,
    network: float,
    utilisation: float,
    model_config: Path | None,
    prompt_tokens: int | None,
    row_tokens: int | None,
    wanted: tuple[str, ...],
    allow_code: tuple[str, ...],
    plugin_folders: tuple[Path, ...],
    strict_plugins: bool,
    as_json: bool,
) -> None:
    """Compute memory, operations and communication of each step, before anything runs and without the models.

    Nothing is measured, and times are lower bounds. Without --machine or figures of a device, they are left out.
    """
    from alignkit.plan.machine import Machine, changed, machine
    from alignkit.plan.report import as_data, lines
    from alignkit.plan.shape import shape_in
    from alignkit.plan.steps import Given, Planner, StepPlan
    from alignkit.recipe import load_recipe
    from alignkit.terminal import printable, say_json

    loaded = load_recipe(
        recipe, overrides, allow_code=allowed_code(allow_code), plugin_folders=plugin_folders,
        strict_plugins=strict_plugins,
    )  # fmt: skip
    if nodes > 1 and named is None:
        raise UserError("it counts machines, and none is named", where="--nodes", hint="--machine h100x8")
    there: Machine = machine(named, nodes, network, loaded.recipe.precision) if named else Machine()
    if named and processes is not None and processes > there.processes:
        devices = f"{there.processes} device{'s' * (there.processes != 1)}"
        what = f"{processes} processes, and the machines have {devices}: each process has one of its own"
        raise UserError(what, where="--processes", hint="name a larger --machine, or more --nodes")
    there = changed(
        there, processes=processes, memory=memory, flops=flops, bandwidth=bandwidth, interconnect=interconnect
    )
    model = shape_in(model_config) if model_config is not None else None
    given = Given(there.processes, model, prompt_tokens, row_tokens)
    ids = [step.id for step in loaded.recipe.steps]
    unknown = [id for id in wanted if id not in ids]
    if unknown:
        raise UserError(f"no step {unknown[0]!r} in the recipe", where="--step", hint=f"steps: {', '.join(ids)}")
    found = list(Planner(_context(loaded), given).steps(wanted or ids))
    plans = [as_data(plan, there, utilisation) for plan in found if isinstance(plan, StepPlan)]
    others = [plan for plan in found if isinstance(plan, str)]
    if as_json:
        say_json({"processes": there.processes, "steps": plans, "not_counted": others})
    else:
        for line in lines(plans, there, utilisation, others):
            click.echo(printable(line))


def _context(loaded: "Loaded") -> "BuildContext":
    """For components to be built with; they are asked about themselves only."""
    import torch

    from alignkit.context import BuildContext, RunInfo
    from alignkit.ops import choose_ops

    recipe = loaded.recipe
    device = torch.device("cpu")
    return BuildContext(
        manager=loaded.manager,
        recipe=recipe,
        run=RunInfo(recipe.name, Path(recipe.output) / recipe.name, recipe.seed, recipe.rounds, {}),
        device=device,
        ops=choose_ops(loaded.manager, recipe.kernels, device),
        resolve_reference=Path,
    )
