"""Lets a judge answer tasks that people answered, and holds it against them."""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from alignkit.agreement import current
from alignkit.annotation.reading import Feedback
from alignkit.comparison import comparing_votes
from alignkit.context import BuildContext
from alignkit.errors import UserError, did_you_mean
from alignkit.protocols import Annotates
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve, slots
from alignkit.recipe.load import load_recipe
from alignkit.recipe.source import Lines, parse_value
from alignkit.records import Judgement, Task
from alignkit.standalone import standalone_context

DEFAULT_JUDGE = "ai"
_PLACE = Lines("command line")


def judge_spec(settings: Sequence[str]) -> ComponentSpec:
    """A reward source from `KEY=VALUE`s: `name=…` is the source (default: ai), dots lead into components inside."""
    options: dict[str, Any] = {"name": DEFAULT_JUDGE}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"{setting!r} is not KEY=VALUE", where="--judge", hint="for example --judge name=simulated")
        *path, last = key.split(".")
        inner: Any = options
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"{key!r} leads into {part!r}, which has a value already", where="--judge")
        inner[last] = parse_value(text)
    return ComponentSpec.model_validate(options)


def recipe_spec(name: str, source: str | None) -> tuple[ComponentSpec, ComponentSpec]:
    """(reward source, policy) of a recipe: the variable `source`, or the one source of its steps that judge."""
    recipe = load_recipe(name).recipe
    if source is not None:
        if source not in recipe.vars:
            raise UserError(
                f"no variable {source!r} in the recipe{did_you_mean(source, list(recipe.vars))}",
                where=name,
                hint=f"variables: {', '.join(recipe.vars) or 'none'}",
            )
        return ComponentSpec.model_validate(recipe.vars[source]), recipe.policy
    found = {step.id: step.options["reward_source"] for step in recipe.steps if step.step == "collect"}
    specs = {str(spec): ComponentSpec.model_validate(spec) for spec in found.values()}
    if len(specs) != 1:
        raise UserError(
            f"the recipe has {len(specs)} reward sources that judge", where=name, hint="--source VAR names one"
        )
    return next(iter(specs.values())), recipe.policy


def build_judge(spec: ComponentSpec, policy: ComponentSpec, seed: int) -> Annotates:
    """The source, checked as before a run; the current folder stands for the run's, where a source keeps its answers.

    Raises UserError for one that gives scores only, or that asks people.
    """
    context: BuildContext = standalone_context(policy, seed)
    resolve(context.manager, "reward_source", spec, _PLACE, allowed=frozenset())
    if _asks_people(spec, context):
        raise UserError("the source `human` asks people; they are what a judge is held against", where="--judge")
    source = context.build("reward_source", spec)
    if not hasattr(source, "annotate"):
        raise UserError(f"reward source {spec.name!r} gives scores, not judgements", where="--judge")
    return cast("Annotates", source)


def _asks_people(spec: ComponentSpec, context: BuildContext) -> bool:
    inside = slots(resolve(context.manager, "reward_source", spec).config)
    return spec.name == "human" or any(
        _asks_people(inner, context) for kind, inner, _ in inside if kind == "reward_source"
    )


def human_part(feedback: Feedback, limit: int | None, seed: int) -> Feedback:
    """Tasks whose candidates people compared, a sample of `limit` of them, and what people said in the end."""
    said = [j for j in current(feedback.judgements) if j.annotator.kind == "human"]
    compared = {task for task, _, _ in comparing_votes(feedback.tasks, said)}
    tasks = [task for task in feedback.tasks if task.id in compared]
    if limit is not None and limit < len(tasks):
        sampled = {task.id for task in random.Random(seed).sample(tasks, limit)}
        tasks = [task for task in tasks if task.id in sampled]
    if not tasks:
        kinds = sorted({j.annotator.kind for j in feedback.judgements})
        raise UserError(
            f"no person compared candidates here; annotators are of the kind {', '.join(kinds) or 'none'}",
            hint="a judge is calibrated on judgements of people",
        )
    chosen = {task.id for task in tasks}
    return Feedback(tasks, [j for j in said if j.task_id in chosen])


def judged(judge: Annotates, tasks: Sequence[Task]) -> Iterator[Judgement]:
    """The judge's answers. The overlap, asked of people, is left out: a judge answers once."""
    return judge.annotate([task.model_copy(update={"overlap": 1, "gold": None}) for task in tasks])


def kept(folder: Path, tasks: Sequence[Task], judgements: Sequence[Judgement]) -> Mapping[str, Any]:
    """Write the judge's answers as a feedback folder."""
    from alignkit.annotation.reading import JUDGEMENTS, TASKS
    from alignkit.data.store import write_records

    write_records(folder / JUDGEMENTS, judgements)
    write_records(folder / TASKS, tasks)
    return {"to": str(folder)}
