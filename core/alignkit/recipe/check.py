"""Validates a recipe against the installed components: every option, name and reference, before anything runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from alignkit.code import require_allowed
from alignkit.components import RECIPE_WORDS, Kind
from alignkit.errors import AlignkitError, UserError, did_you_mean
from alignkit.manager import PluginManager, Registered
from alignkit.recipe.deprecated import warn_of_deprecated
from alignkit.recipe.model import LATEST, ComponentSpec, LastRound, Recipe, SlotOf, StepSpec
from alignkit.recipe.source import KeyPath, Lines

M = TypeVar("M", bound=BaseModel)
# Known keys that are listed beside a suggestion.
SHOWN = 12


@dataclass(frozen=True)
class Resolved:
    """A component with its validated options."""

    registered: Registered
    config: BaseModel


def validated(
    model: type[M],
    data: Any,
    lines: Lines,
    path: KeyPath = (),
    also: Sequence[str] = (),
    inside: Mapping[str, str] | None = None,
) -> M:
    """`model.model_validate(data)`; a ValidationError becomes one UserError that names every wrong key.

    For suggestions, `also`: keys that are allowed beside the model's own; `inside`: keys of components inside, with
    their place.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_problem(e, model, lines, path, also, inside or {}) for e in error.errors()]
    where, first = problems[0]
    more = "".join(f"\n{w}: {text}" for w, text in problems[1:])
    raise UserError(first + more, where=where)


def _problem(
    error: Any,
    model: type[BaseModel],
    lines: Lines,
    path: KeyPath,
    also: Sequence[str],
    inside: Mapping[str, str],
) -> tuple[str, str]:
    loc: KeyPath = tuple(error["loc"])
    dotted = ".".join(str(p) for p in (*path, *loc)) or "recipe"
    where = lines.at((*path, *loc))
    if error["type"] == "extra_forbidden":
        owner = _model_at(model, loc[:-1])
        known = [*(owner.model_fields if owner else []), *(also if len(loc) == 1 else [])]
        meant = inside.get(str(loc[-1])) if len(loc) == 1 else None
        suggestion = f" (did you mean {meant!r}?)" if meant else did_you_mean(str(loc[-1]), known)
        return where, f"unknown key {dotted}{suggestion}; known: {_listed(known, bool(suggestion))}"
    if error["type"] == "missing":
        given = [str(key) for key in error["input"]] if isinstance(error["input"], dict) else []
        close = get_close_matches(str(loc[-1]), given, n=1)
        return where, f"{dotted} is missing" + (f" (is {close[0]!r} meant to be it?)" if close else "")
    message = error["msg"].removeprefix("Value error, ")
    shown = repr(error["input"])
    return where, f"{dotted}: {message}" + (f" (got {shown})" if len(shown) < 80 else "")


def _listed(known: Sequence[str], suggested: bool) -> str:
    """All names, as one of them has to be chosen; the beginning, where one is suggested."""
    if not suggested or len(known) <= SHOWN:
        return ", ".join(known)
    return f"{', '.join(known[:SHOWN])}, … ({len(known) - SHOWN} more: see `alignkit plugins show NAME`)"


def _model_at(model: type[BaseModel], loc: KeyPath) -> type[BaseModel] | None:
    current: Any = model
    for part in loc:
        fields = getattr(current, "model_fields", None)
        if fields is None or part not in fields:
            continue
        annotation = fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return current if isinstance(current, type) else None


def resolve(
    manager: PluginManager,
    kind: Kind,
    spec: ComponentSpec,
    lines: Lines | None = None,
    path: KeyPath = (),
    allowed: frozenset[str] | None = None,
) -> Resolved:
    """Find the component `spec` names and validate its options and those of the components inside it.

    With `lines`, of a recipe that is being checked, it warns of what is deprecated. With `allowed` (names of code that
    may run) it is a preflight: each component's own check runs too (files that must exist, folders that must be
    models), and code it would run must be allowed.
    """
    at = lines or Lines("recipe")
    registered = manager.get(kind, spec.name, where=at.at((*path, "name")))
    also = tuple(StepSpec.model_fields) if kind == "step" else ("name",)
    options = registered.component.config
    inside = _options_inside(options, spec.options, manager)
    with registered.validating():
        config = validated(options, spec.options, at, path, also, inside)
    if lines is not None:
        warn_of_deprecated(registered, spec.options, lines, path)
    for inner_kind, inner, inner_path in slots(config):
        resolve(manager, inner_kind, inner, lines, (*path, *inner_path), allowed)
    if allowed is not None:
        _preflight(registered, config, manager, allowed, at.at(path))
    return Resolved(registered, config)


def _options_inside(config: type[BaseModel], options: Mapping[str, Any], manager: PluginManager) -> dict[str, str]:
    """Option -> its place, for the components that `options` name: `lr` -> `optimizer_stage.lr`."""
    found: dict[str, str] = {}
    for name, kind in _slot_fields(config):
        value = options.get(name)
        component = value.get("name") if isinstance(value, dict) else value
        if component in manager.names(kind):
            for key in manager.get(kind, component).component.config.model_fields:
                found.setdefault(key, f"{name}.{key}")
    return found


def _preflight(
    registered: Registered, config: BaseModel, manager: PluginManager, allowed: frozenset[str], where: str
) -> None:
    code = registered.code(config)
    if code is not None:
        require_allowed(code, allowed, where)
    try:
        registered.check(config, manager)
    except UserError as error:  # one without a place gets the recipe's line
        raise UserError(error.what, where=error.where or where, hint=error.hint) from None


def slots(config: BaseModel) -> Iterator[tuple[Kind, ComponentSpec, KeyPath]]:
    """Every component that a config's fields hold, with its kind and path."""
    for name, kind in _slot_fields(type(config)):
        value = getattr(config, name)
        if isinstance(value, ComponentSpec):
            yield kind, value, (name,)
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield kind, inner, (name, key)
        elif isinstance(value, list | tuple):
            for i, inner in enumerate(value):
                yield kind, inner, (name, i)


def _slot_fields(config: type[BaseModel]) -> Iterator[tuple[str, Kind]]:
    """The fields that hold components, and of what kind."""
    for name, field in config.model_fields.items():
        marker = next((m for m in field.metadata if isinstance(m, SlotOf)), None)
        if marker is not None:
            yield name, marker.kind


def references(data: Any, path: KeyPath = ()) -> Iterator[tuple[str, KeyPath]]:
    """Every `@id` or `@id.part` in a step's options."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from references(value, (*path, key))
    elif isinstance(data, list | tuple):
        for i, value in enumerate(data):
            yield from references(value, (*path, i))
    elif isinstance(data, str) and data.startswith("@"):
        yield data, path


def check_recipe(recipe: Recipe, manager: PluginManager, lines: Lines, allowed: frozenset[str] | None = None) -> None:
    """Raise the error for the first thing that could not work: unknown component, option or reference.

    With `allowed` (see `resolve`) also for files, models and code.
    """
    for _, error in recipe_problems(recipe, manager, lines, allowed):
        raise error


def recipe_problems(
    recipe: Recipe, manager: PluginManager, lines: Lines, allowed: frozenset[str] | None = None
) -> Iterator[tuple[str, AlignkitError]]:
    """Everything that `check_recipe` would raise, each with the id of the step it is about ("" for the whole run)."""

    def tried(step: str, check: Callable[[], object]) -> Iterator[tuple[str, AlignkitError]]:
        try:
            check()
        except AlignkitError as error:
            yield step, error

    yield from tried("", lambda: resolve(manager, "policy", recipe.policy, lines, ("policy",), allowed))
    for i, tracker in enumerate(chosen_trackers(recipe, manager)):
        yield from tried("", partial(resolve, manager, "tracker", tracker, lines, ("trackers", i), allowed))
    if recipe.launcher is not None:
        yield from tried("", partial(resolve, manager, "launcher", recipe.launcher, lines, ("launcher",), allowed))
    if recipe.kernels not in RECIPE_WORDS["kernel"]:
        yield from tried("", lambda: manager.get("kernel", recipe.kernels, where=lines.at(("kernels",))))
    ids = [s.id for s in recipe.steps]
    again = [s.id for s in recipe.steps if s.each_round]
    for text, path in references(recipe.policy.options):
        yield from tried("", partial(_known, text, ids, lines, ("policy", *path)))
    for i, step in enumerate(recipe.steps):
        try:
            spec = _component_of(step, lines, ("steps", i))
            resolved = resolve(manager, "step", spec, lines, ("steps", i), allowed)
        except AlignkitError as error:
            inside = _problems_inside(error, step, manager, lines, ("steps", i), allowed)
            yield from ((step.id, _of_step(step.id, found)) for found in (error, *inside))
            continue
        last_round = _of_the_last_round(resolved.config) if step.each_round else set()
        for text, path in references(step.options):
            earlier = [*ids[:i], *again] if path[0] in last_round else ids[:i]
            yield from tried(step.id, partial(_known, text, earlier, lines, ("steps", i, *path)))


def _of_step(id: str, error: AlignkitError) -> AlignkitError:
    if not isinstance(error, UserError):
        return error
    return UserError(f"step {id!r}: {error.what}", where=error.where, hint=error.hint)


def _problems_inside(
    first: AlignkitError,
    step: StepSpec,
    manager: PluginManager,
    lines: Lines,
    path: KeyPath,
    allowed: frozenset[str] | None,
) -> Iterator[AlignkitError]:
    """What is wrong with the components inside a step that itself cannot be used, beside what `first` says."""
    if "name" in step.options or step.step not in manager.names("step"):
        return
    said = {(first.what, first.where)}
    for name, kind in _slot_fields(manager.get("step", step.step).component.config):
        if name not in step.options:
            continue
        try:
            spec = validated(ComponentSpec, step.options[name], lines, (*path, name))
            resolve(manager, kind, spec, lines, (*path, name), allowed)
        except AlignkitError as error:
            if (error.what, error.where) not in said:
                yield error
                said.add((error.what, error.where))


def _of_the_last_round(config: BaseModel) -> set[str | int]:
    """Names of the fields that may refer to later steps."""
    fields = type(config).model_fields.items()
    return {name for name, field in fields if any(isinstance(m, LastRound) for m in field.metadata)}


def _known(reference: str, earlier: list[str], lines: Lines, path: KeyPath) -> None:
    target = reference[1:].partition(".")[0]
    if target != LATEST and target not in earlier:
        raise UserError(
            f"{reference} refers to no earlier step{did_you_mean(target, [*earlier, LATEST])}",
            where=lines.at(path),
            hint=f"earlier steps: {', '.join(earlier) or 'none'}; @{LATEST} is the newest policy",
        )


def _component_of(step: StepSpec, lines: Lines, path: KeyPath) -> ComponentSpec:
    """The step's component; `name` is the one option that a step cannot have."""
    if "name" in step.options:
        raise UserError("unknown key name: a step has an id", where=lines.at((*path, "name")))
    return step.component


def chosen_trackers(recipe: Recipe, manager: PluginManager) -> list[ComponentSpec]:
    """The recipe's trackers. A recipe without the key gets the installed ones that are meant for every run."""
    if "trackers" in recipe.model_fields_set:
        return list(recipe.trackers)
    return [ComponentSpec(name=r.reference) for r in manager.all("tracker") if "default" in r.component.tags]
