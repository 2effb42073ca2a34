"""What the adaptive coefficient aims at: the KL of whole completions, or of a token."""

from typing import Any

import pytest

from alignkit.loop.config import KLConfig, LoopConfig
from alignkit.loop.loop import AlignmentLoop
from alignkit.records import Prompt, Sampling
from alignkit_plugins.advantage_gae.estimator import GAE
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.context import Rows, TextScores, make_context
from helpers.models import make_policy


class Idle:
    """An optimizer stage that learns nothing, so that each run samples the same."""

    adds_kl = False

    def start(self, *arguments: object) -> None:
        """Nothing to prepare."""

    def update(self, experience: object) -> dict[str, float]:
        """Nothing to learn."""
        return {}


def run(kl: KLConfig) -> tuple[float, dict[str, float]]:
    """The coefficient after one iteration of 6 completions, and what was logged."""
    policy = make_policy("llama", seed=0)
    context: Any = make_context()
    loop = AlignmentLoop(
        policy=policy,
        reference=make_policy("llama", seed=1),
        critic=policy.critic(None),
        reward_source=TextScores(lambda t: float(len(t))),
        advantage=GAE(1.0, 0.95, context.ops),
        stage=Idle(),
        sampler=HFSampler(8),
        prompts=[Prompt(prompt=t) for t in ("the film", "a", "I recommend it")],
        eval_prompts=[],
        monitors={},
        config=LoopConfig(iterations=1, batch_size=6, sampling=Sampling(max_length=8), kl=kl),
        context=context,
    )
    coef = loop.run()["kl_coef"]
    tracker = context.trackers[0]
    assert isinstance(tracker, Rows)
    return coef, dict(tracker.rows)[1]


@pytest.mark.parametrize(("unit", "figure"), [("completion", "kl"), ("token", "kl_per_token")])
@pytest.mark.parametrize("share", [0.9, 1.1])
def test_the_error_is_that_of_the_unit(unit: Any, figure: str, share: float) -> None:
    _, row = run(KLConfig(coef=0.1))
    assert abs(row["kl"]) > 2 * abs(row["kl_per_token"]) > 0
    coef, _ = run(KLConfig(coef=0.1, target=share * row[figure], target_unit=unit, horizon=10))
    assert coef == pytest.approx(0.1 * (1 + (1 / share - 1) * 6 / 10), rel=1e-5)
