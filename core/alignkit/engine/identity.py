"""What makes a step the same step: options, inputs, files, component versions, seed."""

import re
from pathlib import Path
from typing import Any

from alignkit.components import RECIPE_WORDS, Kind
from alignkit.files import digest, fingerprint
from alignkit.manager import PluginManager
from alignkit.recipe.check import references, resolve, slots
from alignkit.recipe.model import ComponentSpec, Operational, Recipe, StepSpec
from alignkit.recipe.source import KeyPath
from alignkit.seeds import derived_seed

# `module:function`: the file in the current folder that it is imported from counts as an input.
CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def step_identity(
    recipe: Recipe, step: StepSpec, round: int, manager: PluginManager, inputs: dict[str, str]
) -> dict[str, Any]:
    """Everything a step's result depends on, as plain data. `inputs`: reference -> hash of the step it names."""
    own = _counting(manager, "step", step.component)
    start = _counting(manager, "policy", recipe.policy)
    components = {
        **component_versions(manager, "step", step.component),
        **component_versions(manager, "policy", recipe.policy),
        **kernel_version(manager, recipe.kernels),
    }
    if any(name.startswith("reward_source:") for name in components):  # whose scores the transform hooks change
        components |= {f"transform:{p.key}": p.version for p in manager.transforms()}
    files = path_fingerprints({"options": own, "policy": start})
    # A folder that happens to be called `sft` is no input of the stage `sft`.
    names = {reference.rpartition(":")[2] for reference in components}
    return {
        "options": {"step": step.step, **own},
        "policy": {"name": recipe.policy.name, **start},
        "seed": derived_seed(recipe.seed, round, step.id),
        "kernels": recipe.kernels,
        "precision": recipe.precision,
        "components": components,
        "inputs": inputs,
        "files": {path: mark for path, mark in files.items() if path not in names},
    }


def _counting(manager: PluginManager, kind: Kind, spec: ComponentSpec) -> dict[str, Any]:
    """The component's options as the recipe has them, without those that are `Operational`, here or further inside."""
    config = resolve(manager, kind, spec).config
    fields = type(config).model_fields.items()
    left_out = {name for name, field in fields if any(isinstance(m, Operational) for m in field.metadata)}
    counting = {name: value for name, value in spec.options.items() if name not in left_out}
    for inner_kind, inner, path in slots(config):
        if path[0] in counting and inner.options:
            kept = _counting(manager, inner_kind, inner)
            # without options the short form, so that `human` and `{name: human, wait: true}` are the same
            value = {"name": inner.name, **kept} if kept else inner.name
            counting[str(path[0])] = _replaced(counting[str(path[0])], path[1:], value)
    return counting


def _replaced(data: Any, path: KeyPath, value: Any) -> Any:
    """A copy of plain data with another value at `path`."""
    if not path:
        return value
    if isinstance(data, dict):
        return {k: _replaced(v, path[1:], value) if k == path[0] else v for k, v in data.items()}
    return [_replaced(v, path[1:], value) if i == path[0] else v for i, v in enumerate(data)]


def component_versions(manager: PluginManager, kind: Kind, spec: ComponentSpec) -> dict[str, str]:
    """`KIND:DISTRIBUTION:NAME` -> version, of a component and those inside it; a local one's is its content's hash."""
    resolved = resolve(manager, kind, spec)
    versions = {f"{kind}:{resolved.registered.reference}": resolved.registered.version}
    for inner_kind, inner, _ in slots(resolved.config):
        versions |= component_versions(manager, inner_kind, inner)
    return versions


def kernel_version(manager: PluginManager, name: str) -> dict[str, str]:
    """The same for the recipe's kernel, if it names one."""
    if name in RECIPE_WORDS["kernel"]:
        return {}
    registered = manager.get("kernel", name)
    return {f"kernel:{registered.reference}": registered.version}


def input_references(recipe: Recipe, step: StepSpec) -> list[str]:
    """References a step depends on, those of the recipe's policy included."""
    found = [text for text, _ in references(step.options)]
    found += [text for text, _ in references(recipe.policy.options)]
    return sorted(set(found))


def path_fingerprints(data: Any) -> dict[str, str]:
    """Fingerprint of every existing file or folder that a text in `data` names."""
    if isinstance(data, dict):
        return {k: v for value in data.values() for k, v in path_fingerprints(value).items()}
    if isinstance(data, list | tuple):
        return {k: v for value in data for k, v in path_fingerprints(value).items()}
    if not isinstance(data, str) or not data or data.startswith("@") or len(data) > 4096 or "\n" in data:
        return {}
    if CODE.fullmatch(data):
        module = Path(data.partition(":")[0].replace(".", "/"))
        sources = [p for p in (module.with_suffix(".py"), module / "__init__.py") if p.is_file()]
        return {data: fingerprint(sources[0])} if sources else {}
    path = Path(data).expanduser()
    try:
        if path.is_file():
            return {data: fingerprint(path)}
        if path.is_dir() and path != Path():
            files = sorted(p for p in path.iterdir() if p.is_file())
            return {data: digest({p.name: fingerprint(p) for p in files})}
    except OSError:
        return {}
    return {}


def first_difference(old: Any, new: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The first key whose value differs, as (dotted key, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            found = first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            found = first_difference(a, b, f"{path}.{i}")
            if found:
                return found
        return None
    return None if old == new else (path, old, new)
