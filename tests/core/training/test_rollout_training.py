"""What all stages that learn from rollouts share: the minibatches of an update and the optimizer's settings."""

from typing import Any

import pytest
import torch

from alignkit.protocols import Experience
from alignkit.training.rollout_config import RolloutTrainingConfig
from alignkit.training.rollout_stage import RolloutTraining
from alignkit_plugins.optim_reinforce.objective import ReinforceObjective
from helpers.context import make_rollout
from helpers.models import plain_logps


def stage(**options: Any) -> RolloutTraining:
    made = RolloutTraining(RolloutTrainingConfig(lr=1e-3, **options), objective=None)  # type: ignore[arg-type]
    made._generator = torch.Generator().manual_seed(0)
    return made


@pytest.mark.parametrize("count", [12, 13])
def test_each_epoch_is_a_fresh_permutation_of_all_completions(count: int) -> None:
    made = stage(epochs=3, minibatches=4)
    batches = [*made._minibatches(count), *made._minibatches(count)]
    assert len(batches) == 2 * 3 * 4
    epochs = [[i for part in batches[n : n + 4] for i in part] for n in range(0, len(batches), 4)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum", "fixed_length"])
@pytest.mark.parametrize("micro_batch_tokens", [1, 10**6])
def test_tokens_are_weighed_over_the_whole_minibatch(
    llama: Any, context: Any, aggregation: Any, micro_batch_tokens: int
) -> None:
    """Completions of unlike lengths, for which the four ways give four losses."""
    rollout = make_rollout(llama, ["the film", "a", "I"], [[40, 41], [42, 43, 44, 45, 46, 47, 48], [49, 50, 51]])
    mask = rollout.mask_BT
    torch.manual_seed(0)
    advantages = torch.randn(mask.shape) * mask
    terms: list[list[float]] = []
    for b, (prompt, completion) in enumerate(zip(rollout.prompt_ids, rollout.completion_ids, strict=True)):
        logps = plain_logps(llama, [*prompt, *completion])[len(prompt) - 1 :].tolist()
        terms.append([-a * x for a, x in zip(advantages[b].tolist(), logps, strict=False)])
    sums = [sum(row) for row in terms]
    expected = {
        "token_mean": sum(sums) / 12,
        "sequence_mean": sum(total / len(row) for total, row in zip(sums, terms, strict=True)) / 3,
        "sequence_sum": sum(sums) / 3,
        "fixed_length": sum(sums) / (3 * 10),
    }
    assert len({round(value, 4) for value in expected.values()}) == 4
    config = RolloutTrainingConfig(
        epochs=1,
        minibatches=1,
        micro_batch_tokens=micro_batch_tokens,
        loss_aggregation=aggregation,
        fixed_length=10 if aggregation == "fixed_length" else None,
    )
    zeros = torch.zeros(mask.shape)
    experience = Experience(rollout, mask, zeros, zeros, advantages, mask, None, advantages)
    made = RolloutTraining(config, ReinforceObjective())
    made.start(llama, llama, None, 1, context)
    assert made.update(experience)["policy_loss"] == pytest.approx(expected[aggregation], rel=1e-4)


def test_the_optimizers_defaults_are_those_of_openais_ppo() -> None:
    """lm-human-preferences: Adam with eps 1e-5 (Huang et al. 2024, detail 5), rate falling linearly to 0."""
    config = RolloutTrainingConfig()
    assert (config.eps, config.betas, config.schedule) == (1e-5, (0.9, 0.999), "linear")
