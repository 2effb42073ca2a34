"""The models that a step names, found without loading their weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alignkit.context import BuildContext, StepContext
from alignkit.errors import UserError
from alignkit.preflight.finding import Finding
from alignkit.preflight.folder import ModelFacts, is_scorer, model_facts
from alignkit.preflight.looking import NotYetError
from alignkit.recipe.check import references, resolve, slots
from alignkit.recipe.model import ComponentSpec

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


def policy_facts(policy: ComponentSpec | str | None, context: StepContext) -> ModelFacts | None:
    """The folder that a step's `policy` option means; None for a new model.

    A model that is still to be trained is looked at as the one that its training starts from: it has the same
    tokenizer and shape. Raises NotYetError if that is not there either, for a hub name, and for a model with code.
    """
    try:
        spec = context.policy_spec(policy)
        path = spec.options.get("path")
        if not isinstance(path, str):
            return None
        found = None if spec.options.get("trust_remote_code") else model_facts(str(context.resolve(path)))
        if found is None:  # what is known of it is known when the step loads it
            raise NotYetError([path])
        return found
    except NotYetError as error:
        if not any(reference.startswith("@") for reference in error.references):
            raise
        return _start_of(str(policy.options.get("path") if isinstance(policy, ComponentSpec) else policy), context)


class Traits(NamedTuple):
    """How a policy is held and trained: bytes a weight, rank of adapters (None: all weights), layers computed again."""

    width: int = 4
    adapter_rank: int | None = None
    checkpointed: bool = False


def policy_traits(policy: ComponentSpec | str | None, context: BuildContext) -> Traits:
    """As the options of the policy component say it, where they do."""
    # With a reference or path it is the recipe's policy with other weights; these may not be there yet.
    spec = policy if isinstance(policy, ComponentSpec) else context.recipe.policy
    config: Any = resolve(context.manager, "policy", spec).config
    width = WIDTHS.get(getattr(config, "dtype", "float32"), 4)
    return Traits(width, getattr(config, "adapter_rank", None), bool(getattr(config, "gradient_checkpointing", False)))


def said_positions(policy: ComponentSpec | str | None, context: BuildContext) -> int | None:
    """Tokens that fit a model that is still to be made, as far as the options of the policy component say it."""
    spec = policy if isinstance(policy, ComponentSpec) else context.recipe.policy
    return getattr(resolve(context.manager, "policy", spec).config, "max_positions", None)


class Scorer(NamedTuple):
    """A reward model that a reward source names. One that is not there yet has the facts of what it is trained from."""

    option: str
    named: str
    facts: ModelFacts
    there: bool


def scorers(spec: ComponentSpec, context: StepContext) -> Iterator[Scorer]:
    """Reward models among the options of a reward source and of those inside it."""
    for option, value in spec.options.items():
        if not isinstance(value, str) or not value or "\n" in value:
            continue
        try:
            folder = context.resolve(value) if value.startswith("@") else Path(value).expanduser()
        except NotYetError:
            yield Scorer(option, value, _start_of(value, context), False)
            continue
        if folder.is_dir() and is_scorer(folder):
            facts = model_facts(str(folder))
            assert facts is not None
            yield Scorer(option, value, facts, True)
    config = resolve(context.manager, "reward_source", spec).config
    for kind, inner, path in slots(config):
        if kind == "reward_source":
            for found in scorers(inner, context):
                yield found._replace(option=".".join([*map(str, path), found.option]))


def _start_of(reference: str, context: StepContext) -> ModelFacts:
    """Facts of the model that a step's training starts from. Raises NotYetError if that is not there either."""
    options = made_by(reference, context)
    start = None if "optimizer_stage" not in options else policy_facts(options.get("policy"), context)
    if start is None:
        raise NotYetError([reference.partition(".")[0]])
    return start


def tokenizer_findings(
    policy: ModelFacts, other: ModelFacts, code: str, option: str, own: str = "the policy"
) -> Iterator[Finding]:
    """A finding with `code` if the two have different tokenizers."""
    if policy.encoder.tokenizer_id == other.encoder.tokenizer_id:
        return
    sizes = [len(m.encoder.tokenizer) for m in (policy, other)]
    differ = f"{sizes[0]} and {sizes[1]} tokens" if sizes[0] != sizes[1] else "other tokens or another chat template"
    yield Finding(code, f"{other.path} and {policy.path} ({own}): {differ}", option)


def made_by(reference: str, context: StepContext) -> dict[str, Any]:
    """Options of the recipe's step that `@id` names; empty for anything else."""
    id = reference.removeprefix("@").partition(".")[0] if reference.startswith("@") else ""
    return next((dict(step.options) for step in context.recipe.steps if step.id == id), {})


def inputs_of(reference: str, context: StepContext) -> list[str]:
    """What the step behind a reference reads."""
    return [text for text, _ in references(made_by(reference, context))]


def found_or_none(find: Any, *arguments: Any) -> Any:
    """What `find` gives, or None where there is nothing of the kind (yet)."""
    try:
        return find(*arguments)
    except UserError:
        return None
