"""Where completions come from: a policy that a sampler draws from, or the model that a `TextOnly` sampler brings."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alignkit.batches import Rollout
from alignkit.context import BuildContext
from alignkit.errors import UserError
from alignkit.loop.rollouts import checked_rollout
from alignkit.protocols import Policy, Sampler, TextOnly
from alignkit.recipe.model import ComponentSpec
from alignkit.records import Prompt, Sampling


class Origin(NamedTuple):
    """A sampler with its name, and the policy that it draws from, if that is not its own affair."""

    sampler: Sampler
    who: str
    policy: Policy | None

    @property
    def revision(self) -> str:
        """For records. Asks the server, where there is one."""
        if self.policy is not None:
            return self.policy.revision
        assert isinstance(self.sampler, TextOnly)
        return self.sampler.drawn_from()

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Rollout:
        """One completion per entry of `prompts`, checked."""
        return checked_rollout(self.sampler, self.policy, prompts, sampling, seed, self.who)


def origin_of(
    sampler: ComponentSpec, policy: ComponentSpec | str | None, context: BuildContext, built: Sampler | None = None
) -> Origin:
    """Sampler and policy as a step's options name them; `built`: the sampler, where it is there already."""
    drawing: Sampler = built or context.build("sampler", sampler)
    who = context.manager.get("sampler", sampler.name).described
    return Origin(drawing, who, None if isinstance(drawing, TextOnly) else context.policy(policy))


def sampler_of_ids(sampler: ComponentSpec, context: BuildContext) -> Sampler:
    """The sampler, for a step that learns from what it draws. Raises UserError for one of texts alone."""
    built: Sampler = context.build("sampler", sampler)
    if isinstance(built, TextOnly):
        raise UserError(
            f"sampler {sampler.name!r} gives texts without token ids, and this step learns from the ids that are drawn",
            where="sampler",
            hint="leave sampler out here; collect and evaluate take this one",
        )
    return built


def draws_texts(sampler: ComponentSpec, unread: Mapping[str, object], context: BuildContext) -> bool:
    """Whether it is a `TextOnly` sampler.

    Raises UserError if it is and one of the options `unread`, which ask for a policy, was given a value.
    """
    if not isinstance(context.build("sampler", sampler), TextOnly):
        return False
    for option, value in unread.items():
        if value is not None:
            raise UserError(
                f"sampler {sampler.name!r} draws from a model of its own, which {option} cannot change",
                where=option,
                hint=f"leave {option} out, or use a sampler that draws from a policy, such as the default one",
            )
    return True
