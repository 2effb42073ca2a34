"""PPO through the real loop: a loop, one batch of experience, and the gradients of one update."""

from typing import Any

import torch

from alignkit.loop.config import LoopConfig, MissingStopConfig
from alignkit.loop.loop import AlignmentLoop
from alignkit.protocols import Experience, Whitening
from alignkit.records import Prompt, Sampling
from alignkit.training.rollout_stage import RolloutTraining
from alignkit_plugins.advantage_gae.estimator import GAE
from alignkit_plugins.optim_ppo.config import PPOConfig
from alignkit_plugins.optim_ppo.objective import PPOObjective
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.context import TextScores
from helpers.models import make_policy

TEXTS = [
    "the quiet film",
    "a",
    "this thriller about two brothers",
    "I recommend it",
    "families",
    "the score",
    "it",
    "x y",
]


def make_stage(**options: Any) -> RolloutTraining:
    """PPO as its plugin builds it."""
    config = PPOConfig(**options)
    return RolloutTraining(config, PPOObjective(config))


def make_loop(
    context: Any, kind: str = "llama", dropout: float = 0.0, ppo: dict[str, Any] | None = None, **options: Any
) -> AlignmentLoop:
    """The real loop with a reward for the share of the letter e."""
    policy, reference = (make_policy(kind, dropout=dropout) for _ in range(2))
    settings: dict[str, Any] = {
        "iterations": 2,
        "batch_size": 8,
        "sampling": Sampling(max_length=10),
        "missing_stop": MissingStopConfig(value=-1.0),
    }
    return AlignmentLoop(
        policy=policy,
        reference=reference,
        critic=policy.critic(None),
        reward_source=TextScores(lambda t: t.count("e") / (len(t) + 1)),
        advantage=GAE(1.0, 0.95, context.ops, Whitening()),
        stage=make_stage(**{"lr": 1e-3, "warmup": 0.0, **(ppo or {})}),
        sampler=HFSampler(16),
        prompts=[Prompt(prompt=t) for t in TEXTS],
        eval_prompts=[],
        monitors={},
        config=LoopConfig(**{**settings, **options}),
        context=context,
    )


def make_experience(loop: AlignmentLoop, disturb: float = 0.0) -> Experience:
    """One batch through the loop's own path; `disturb` moves old log-probs and values, as after some updates."""
    rollout = loop.roll_out(loop.prompts, 1)
    experience, _ = loop.experience(rollout, loop.reward(rollout)[0], 0.05)
    torch.manual_seed(11)
    moved = experience.logp_BT + disturb * torch.randn(experience.logp_BT.shape) * experience.mask_BT
    assert experience.values_BT is not None
    values = experience.values_BT + disturb * torch.randn(moved.shape) * experience.mask_BT
    return experience._replace(logp_BT=moved, values_BT=values)


class Catcher:
    """Stands in for an optimizer: keeps the gradients instead of stepping."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.gradients: dict[str, torch.Tensor] = {}
        self.lr = 0.0

    def step(self) -> float:
        self.gradients = {n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None}
        self.module.zero_grad(set_to_none=True)
        return 0.0


def caught(loop: AlignmentLoop, experience: Experience, **options: Any) -> tuple[Catcher, Catcher, dict[str, float]]:
    """Gradients of policy and critic and the metrics of one whole-batch update."""
    stage = make_stage(lr=1e-3, epochs=1, minibatches=1, **options)
    stage.start(loop.policy, loop.reference, loop.critic, 1, loop.context)
    assert loop.critic is not None
    catchers = Catcher(loop.policy.module), Catcher(loop.critic.module)
    stage._policy_optimizer, stage._critic_optimizer = catchers  # type: ignore[assignment]
    return *catchers, stage.update(experience)
