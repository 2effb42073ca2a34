"""Components outside a run, for commands."""

from pathlib import Path

from alignkit.context import BuildContext, RunInfo
from alignkit.device import choose_device
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.ops import choose_ops
from alignkit.recipe import ComponentSpec, Recipe, StepSpec


def standalone_context(spec: ComponentSpec, seed: int) -> BuildContext:
    """A context to build components with outside a run; `spec` stands for the recipe's policy."""
    manager = PluginManager()
    manager.load()
    device = choose_device("auto")
    recipe = Recipe(name="standalone", policy=spec, steps=(StepSpec(id="none", step="none"),))

    def no_reference(reference: str) -> Path:
        raise UserError(f"{reference} has no meaning outside a run", where="command line")

    return BuildContext(
        manager=manager,
        recipe=recipe,
        run=RunInfo("standalone", Path(), seed, 1, manager.versions()),
        device=device,
        ops=choose_ops(manager, "auto", device),
        resolve_reference=no_reference,
        seed=seed,
    )
