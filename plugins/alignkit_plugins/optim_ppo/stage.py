"""PPO: several epochs of minibatches over one batch of completions, with clipped policy and value losses.

The loop has rolled out, rewarded and estimated advantages; this stage only updates. Losses are token means over the
whole minibatch, whatever the micro-batches are. Policy and critic have an optimizer each. Dropout stays off: with it
the ratio would not be 1 before the first update (Huang et al. 2024, "The N+ implementation details of RLHF with PPO").
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from alignkit.batches import TokenBatch
from alignkit.context import StepContext
from alignkit.errors import UserError
from alignkit.loop.rewards import whiten
from alignkit.protocols import Critic, Experience, Policy
from alignkit.training.batching import micro_batches, shuffled_batches
from alignkit.training.optimizer import Optimizer
from alignkit_plugins.optim_ppo.config import PPOConfig


class PPO:
    """Satisfies `alignkit.protocols.RolloutStage`."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config

    def start(self, policy: Policy, critic: Critic | None, iterations: int, context: StepContext) -> None:
        """Make the optimizers for `iterations` updates."""
        config = self.config
        self.policy, self.critic, self.context = policy, critic, context
        self.iteration = 0
        if config.critic_warmup >= iterations:
            raise UserError(
                f"critic_warmup {config.critic_warmup} leaves none of {iterations} iterations for the policy",
                where=f"step {context.step_id}",
            )
        self._generator = torch.Generator().manual_seed(context.seed)
        steps = iterations * config.epochs * config.minibatches
        warm_steps = config.critic_warmup * config.epochs * config.minibatches
        self._policy_optimizer = Optimizer(policy.module.parameters(), config, max(1, steps - warm_steps))
        self._critic_optimizer: Optimizer | None = None
        if critic is not None:
            critic_config = config.model_copy(update={"lr": config.critic_lr or config.lr})
            self._critic_optimizer = Optimizer(critic.module.parameters(), critic_config, steps)

    def update(self, experience: Experience) -> dict[str, float]:
        """One batch: `epochs` x `minibatches` optimizer steps. Metrics are means over them."""
        self.iteration += 1
        self.policy.module.eval()
        if self.critic is not None:
            self.critic.module.eval()
        advantages_BT = experience.advantages_BT
        if self.config.whiten_advantages:
            advantages_BT = whiten(advantages_BT, experience.mask_BT)
        experience = experience._replace(advantages_BT=advantages_BT)
        count = len(experience.rollout)
        size = -(-count // self.config.minibatches)
        sums: dict[str, float] = {}
        steps = 0
        lr = self._policy_optimizer.lr
        first: dict[str, float] = {}
        for _ in range(self.config.epochs):
            for indices in shuffled_batches(count, size, self._generator):
                metrics = self._minibatch(experience, indices)
                first = first or {
                    "first_ratio_error": metrics["ratio_error"],
                    "first_clipped": metrics["clip_fraction"],
                }
                steps += 1
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0.0) + value
        sums.pop("ratio_error", None)
        return {name: value / steps for name, value in sums.items()} | first | {"lr": lr}

    def _minibatch(self, experience: Experience, indices: Sequence[int]) -> dict[str, float]:
        """Gradients of one minibatch over micro-batches, then one step of each optimizer."""
        tokens = int(experience.mask_BT[list(indices)].sum())
        totals: dict[str, float] = {}
        lengths = [len(experience.rollout.prompt_ids[i]) + len(experience.rollout.completion_ids[i]) for i in indices]
        for micro in micro_batches(lengths, self.config.micro_batch_tokens):
            for name, value in self._accumulate(experience, [indices[i] for i in micro], tokens).items():
                combine = max(totals.get(name, 0.0), value) if name == "ratio_error" else totals.get(name, 0.0) + value
                totals[name] = combine
        if self.iteration > self.config.critic_warmup:
            totals["policy_grad_norm"] = self._policy_optimizer.step()
        else:
            self.policy.module.zero_grad(set_to_none=True)
        if self._critic_optimizer is not None:
            totals["critic_grad_norm"] = self._critic_optimizer.step()
        return totals

    def _accumulate(self, experience: Experience, rows: Sequence[int], tokens: int) -> dict[str, float]:
        """Backward of one micro-batch; each returned figure is its share of the minibatch's token mean."""
        config, policy = self.config, self.policy
        mask_bT = experience.mask_BT[list(rows)]

        def pick(x_BT: Tensor) -> Tensor:
            return x_BT[list(rows)][mask_bT].to(policy.device)

        batch = TokenBatch.from_rows(experience.rollout.rows(rows), policy.pad_id, policy.device)
        h_NH, head = policy.hidden(batch)
        logp_N, entropy_N = self.context.ops.linear_logprob(
            h_NH, head, batch.targets_N, experience.rollout.temperature, with_entropy=True
        )
        loss_N, diagnostics = self.context.ops.policy_loss(
            logp_N, pick(experience.logp_BT), pick(experience.advantages_BT), config.clip_range, config.clip_range
        )
        policy_loss = loss_N.sum() / tokens
        entropy = entropy_N.sum() / tokens
        (policy_loss - config.entropy_coef * entropy).backward()
        figures: dict[str, Tensor] = {
            "policy_loss": policy_loss,
            "entropy": entropy,
            "clip_fraction": diagnostics["clipped"].sum() / tokens,
            "approx_kl": diagnostics["approx_kl"].sum() / tokens,
            "ratio_error": (diagnostics["ratio"] - 1).abs().max(),
        }
        if self.critic is not None and experience.values_BT is not None:
            values_N = self.critic.values(batch)
            value_loss_N = self.context.ops.value_loss(
                values_N, pick(experience.values_BT), pick(experience.returns_BT), config.value_clip_range
            )
            value_loss = value_loss_N.sum() / tokens
            value_loss.backward()
            figures["value_loss"] = value_loss
        return {name: float(value.detach()) for name, value in figures.items()}
