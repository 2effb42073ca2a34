"""A rollout stage taken up where it was left: what its conformance suite does not vary."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.protocols import Resumable
from alignkit.testing.experience import make_experience, random_advantages, through_files
from alignkit.testing.measures import changed_weights, weights_of
from alignkit.testing.tiny import TinyPolicy, random_rollout, tiny_policy
from alignkit.training.config import OptimizerConfig
from alignkit.training.optimizer import Optimizer
from alignkit.training.rollout_config import RolloutTrainingConfig
from alignkit.training.rollout_stage import RolloutTraining
from alignkit_plugins.optim_reinforce.objective import ReinforceObjective


class Run:
    """A stage on a tiny policy, from the same start each time."""

    def __init__(self, context: Any, critic: str | None, **options: Any) -> None:
        self.policy: TinyPolicy = tiny_policy()
        self.reference = self.policy.reference()
        self.critic = None if critic is None else self.policy.critic(None, shared=critic == "shared")
        self.stage = RolloutTraining(RolloutTrainingConfig(lr=1e-3, **options), ReinforceObjective())
        self.stage.start(self.policy, self.reference, self.critic, 4, context)

    def update(self, number: int) -> dict[str, float]:
        rollout = random_rollout(self.policy, seed=number)
        given_BT = random_advantages(rollout, number)
        return self.stage.update(make_experience(self.policy, self.reference, self.critic, rollout, given_BT))

    def weights(self) -> dict[str, Tensor]:
        found = weights_of(self.policy.module)
        own = {} if self.critic is None else weights_of(self.critic.module)
        return found | {f"critic.{name}": tensor for name, tensor in own.items()}

    def put(self, weights: dict[str, Tensor]) -> None:
        own = {n: w for n, w in weights.items() if not n.startswith("critic.")}
        self.policy.module.load_state_dict(own)
        if self.critic is not None:
            rest = {n.removeprefix("critic."): w for n, w in weights.items() if n.startswith("critic.")}
            self.critic.module.load_state_dict(rest)


@pytest.mark.parametrize(
    ("critic", "options"),
    [
        ("shared", {}),
        ("separate", {"critic_warmup": 2}),
        ("separate", {"target_kl": 1e-9}),
        (None, {"schedule": "cosine", "warmup": 0.5, "epochs": 3, "minibatches": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("left_after", [1, 3])
def test_it_goes_on_bit_for_bit(
    context: Any, tmp_path: Path, critic: str | None, options: dict[str, Any], left_after: int
) -> None:
    """One more update than the warm-up, or one less; with optimizer steps that were left out; any schedule."""
    through = Run(context, critic, **options)
    assert isinstance(through.stage, Resumable)
    for number in range(left_after):
        through.update(number)
    kept, state = through.weights(), through_files(through.stage.state(), tmp_path / "state")
    taken_up = Run(context, critic, **options)
    taken_up.put(kept)
    taken_up.stage.restore(state)
    for number in range(left_after, 4):
        assert taken_up.update(number) == through.update(number)
    assert changed_weights(through.weights(), taken_up.weights()) == []


def test_a_state_from_before_the_first_update_is_a_start(context: Any, tmp_path: Path) -> None:
    one, two = Run(context, "separate"), Run(context, "separate")
    two.update(5)
    two.put(one.weights())
    two.stage.restore(through_files(one.stage.state(), tmp_path / "state"))
    assert one.update(0) == two.update(0)
    assert changed_weights(one.weights(), two.weights()) == []


def test_a_state_with_another_critic_is_refused(context: Any) -> None:
    with_critic, without = Run(context, "separate"), Run(context, None)
    with pytest.raises(UserError, match="the state is of critic, policy and here are policy to train"):
        without.stage.restore(with_critic.stage.state())
    with pytest.raises(UserError, match="the state is of policy"):
        with_critic.stage.restore(without.stage.state())


@pytest.mark.parametrize("shapes", [[(3, 2), (2, 3)], [(2, 3)] * 3, [(2, 3)]], ids=["another shape", "more", "fewer"])
def test_moments_of_another_model_are_refused(shapes: list[tuple[int, ...]]) -> None:
    def optimizer(*sizes: tuple[int, ...]) -> Optimizer:
        parameters = [torch.nn.Parameter(torch.ones(size)) for size in sizes]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        return Optimizer(parameters, OptimizerConfig(lr=0.1), 2)

    other, own = optimizer(*shapes), optimizer((2, 3), (2, 3))
    other.step()
    with pytest.raises(UserError, match="another model"):
        own.restore(other.state())
    assert own.taken == 0
