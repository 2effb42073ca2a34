"""Findings about where a run is done: device, kernels, precision, versions."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import AlignkitError, UserError
from alignkit.manager import PluginManager
from alignkit.preflight.finding import Finding
from alignkit.recipe.model import Recipe

if TYPE_CHECKING:
    import torch

    from alignkit.ops import Ops

NVIDIA = Path("/proc/driver/nvidia/version")


def chosen(recipe: Recipe, manager: PluginManager) -> "tuple[torch.device, Ops, list[Finding]]":
    """What the recipe's `device` and `kernels` mean here; for a choice that cannot run an error, and the CPU."""
    import torch

    from alignkit.device import choose_device
    from alignkit.ops import choose_ops

    found: list[Finding] = []
    try:
        device = choose_device(recipe.device)
    except UserError as error:
        found.append(Finding.of("R002", error))
        device = torch.device("cpu")
    try:
        ops = choose_ops(manager, recipe.kernels, device)
    except UserError as error:
        found.append(Finding.of("R002", error))
        ops = choose_ops(manager, "eager", device)
    return device, ops, [*found, *device_findings(recipe, device, ops)]


def device_findings(recipe: Recipe, device: "torch.device", ops: "Ops") -> Iterator[Finding]:
    """What a run will use, and what it leaves idle."""
    import torch

    if device.type == "cpu":
        if torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            yield Finding("R071", f"{name}; the recipe asks for {recipe.device}", "device")
        elif NVIDIA.exists() and torch.version.cuda is None:
            what = f"an NVIDIA driver is here, and torch {torch.__version__} is built without CUDA"
            yield Finding("R071", what, "device", "install a torch with CUDA")
        if recipe.precision == "bfloat16" and not fast_bfloat16():
            yield Finding("R072", "it has neither AVX-512 nor AMX instructions for it", "precision")
    elif recipe.precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        yield Finding("R072", f"{torch.cuda.get_device_name(device)} has no bfloat16 units", "precision")
    used = sorted(set(ops.choice.values()))
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    why = f" ({ops.reason})" if device.type != "cpu" else ""
    kernels = ", ".join(f"{name} for {sum(k == name for k in ops.choice.values())} ops" for name in used)
    yield Finding("R070", f"{device}{threads}; kernels: {kernels}{why}; {recipe.precision}")


def fast_bfloat16() -> bool:
    """Whether this processor has instructions for it; True where that cannot be known."""
    import torch

    asks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    known = [bool(ask()) for ask in asks if ask is not None]
    return any(known) or not known


def version_findings(folder: Path, recipe: Recipe, manager: PluginManager) -> Iterator[Finding]:
    """Components and packages whose version is another than when the run in `folder` was begun; failed plugins."""
    from alignkit.engine.environment import environment
    from alignkit.engine.plugin_record import used_components
    from alignkit.files import read_json

    failed = [plugin.owner for plugin in manager.plugins if plugin.problem]
    if failed:
        yield Finding("R074", f"{', '.join(failed)}; the recipe names nothing of theirs")
    path = folder / "plugins.json"
    if not path.is_file():
        return
    try:
        before: Any = read_json(path)
        old = {**before["components"], **before["environment"]["packages"]}
    except (OSError, ValueError, KeyError, TypeError):
        yield Finding("R073", "the record of its plugins cannot be read", str(path), "name=NEW starts another run")
        return
    try:
        used = used_components(recipe, manager)
    except AlignkitError:  # one that is not there is said where the recipe names it
        used = {}
    now = {**used, **environment()["packages"]}
    changed = [f"{name} {old[name]} -> {now[name]}" for name in sorted(old) if name in now and old[name] != now[name]]
    if changed:
        yield Finding("R073", ", ".join(changed), str(path))
