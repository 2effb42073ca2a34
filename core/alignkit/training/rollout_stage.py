"""The stage behind `ppo`, `gspo`, `cispo` and `reinforce`: epochs of minibatches over one batch of completions.

The loop has rolled out, rewarded and estimated advantages; a stage only updates. Losses are sums with weights that are
known for the whole minibatch, whatever the micro-batches are. Dropout stays off: with it the ratio would not be 1
before the first update (Huang et al. 2024, "The N+ implementation details of RLHF with PPO").
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.batches import Head, TokenBatch
from alignkit.checkpoints import prefixed, under
from alignkit.context import BuildContext, StepContext
from alignkit.errors import UserError
from alignkit.kl import KLTerm, kl_loss
from alignkit.masked import token_weights
from alignkit.modeling.sharding import shard
from alignkit.preflight import Finding, optimizer_findings
from alignkit.processes import summed_figures
from alignkit.protocols import Critic, Experience, Policy, SharesTrunk
from alignkit.records import plain_text
from alignkit.training.backward import accumulate_gradients
from alignkit.training.batching import micro_batches, shared
from alignkit.training.importance import importance_weights
from alignkit.training.nonfinite import FILE, NonFinite
from alignkit.training.objectives import Objective, fused_arguments
from alignkit.training.optimizer import Optimizer
from alignkit.training.rollout_config import RolloutTrainingConfig

logger = logging.getLogger("alignkit")

# Largest of the micro-batches' values; all other figures add up.
MAXIMA = ("ratio_error",)
# Figures that have to be finite.
LOSSES = ("policy_loss", "value_loss", "kl_loss")


class SampledTokens(NamedTuple):
    """What the loss of a micro-batch reads of its sampled tokens; `row_N` numbers their completions."""

    h_NH: Tensor
    head: Head
    targets_N: Tensor
    row_N: Tensor
    weights_N: Tensor
    advantages_N: Tensor
    old_logp_N: Tensor
    ref_logp_N: Tensor
    reference: tuple[Tensor, Head] | None
    kept_NK: Tensor | None


class RolloutTraining:
    """Satisfies `RolloutStage` and `Resumable` of `alignkit.protocols` for any objective on sampled tokens."""

    adds_kl = True

    def __init__(self, config: RolloutTrainingConfig, objective: Objective) -> None:
        self.config = config
        self.objective = objective

    def shares_work(self, context: BuildContext) -> bool:
        """Passes are divided."""
        return True

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """The options of the optimizer, before it runs."""
        return optimizer_findings(self.config)

    def start(
        self, policy: Policy, reference: Policy, critic: Critic | None, iterations: int, context: StepContext
    ) -> None:
        """Make the optimizers for `iterations` updates. A critic on the policy's trunk shares its optimizer."""
        config = self.config
        self.policy, self.reference, self.critic, self.context = policy, reference, critic, context
        self.iteration = 0
        self.shared = isinstance(critic, SharesTrunk)
        if config.critic_warmup >= iterations:
            raise UserError(
                f"critic_warmup {config.critic_warmup} leaves none of {iterations} iterations for the policy",
                where=f"step {context.step_id}",
            )
        if config.critic_warmup and (self.shared or critic is None):
            raise UserError(
                "critic_warmup needs a critic of its own: here is none, or it shares the policy's trunk",
                where=f"step {context.step_id}",
            )
        if config.critic_lr is not None and (self.shared or critic is None):
            why = "the critic is trained with the policy's trunk, at its rate" if self.shared else "there is no critic"
            logger.warning("step %s: critic_lr has no effect: %s", context.step_id, why)
        for owner in (policy, reference, critic):
            if owner is not None:
                shard(owner.module)
        self._generator = torch.Generator().manual_seed(context.seed)
        per_iteration = config.epochs * config.minibatches
        parameters = list(policy.module.parameters())
        if critic is not None and self.shared:
            parameters += list(critic.module.parameters())
        self._policy_optimizer = Optimizer(parameters, config, (iterations - config.critic_warmup) * per_iteration)
        self._critic_optimizer: Optimizer | None = None
        if critic is not None and not self.shared:
            critic_config = config.model_copy(update={"lr": config.critic_lr or config.lr})
            self._critic_optimizer = Optimizer(critic.module.parameters(), critic_config, iterations * per_iteration)
            parameters += list(critic.module.parameters())
        where = f"step {context.step_id}"
        rows = context.checkpoints.rows(FILE)
        self._watch = NonFinite(config.on_nonfinite, parameters, rows, where, losses=LOSSES)

    def update(self, experience: Experience) -> dict[str, float]:
        """One batch: `epochs` x `minibatches` optimizer steps. Metrics are means over them."""
        self.iteration += 1
        self.policy.module.eval()
        if self.critic is not None:
            self.critic.module.eval()
        self._importance_BT, figures = importance_weights(experience, self.config.importance)
        lr = self._policy_optimizer.lr
        rows: list[dict[str, float]] = []
        planned = self._minibatches(len(experience.rollout))
        skipped = self._watch.skipped
        self._watch.describe = partial(self._described, experience)
        for number, indices in enumerate(planned, 1):
            row = self._minibatch(experience, indices)
            rows += [row] if row is not None else []
            if row is not None and self.config.target_kl is not None and row["approx_kl"] > self.config.target_kl:
                self._skip(len(planned) - number)
                break
        if self.config.on_nonfinite == "skip":
            figures["skipped"] = float(self._watch.skipped - skipped)
        if not rows:
            return figures | {"lr": lr}
        first = {"first_ratio_error": rows[0]["ratio_error"], "first_clipped": rows[0]["clip_fraction"]}
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name not in MAXIMA}
        if self.config.target_kl is not None:
            figures["updates"] = float(len(rows))
        return means | figures | first | {"lr": lr}

    def pass_over(self) -> None:
        """Nothing of this iteration's batch is left: schedules go on as if it had been learned from."""
        self.iteration += 1
        self._skip(self.config.epochs * self.config.minibatches)

    def state(self) -> dict[str, Tensor | str | int | float | bool | None]:
        """Iteration, generator, and what the optimizers know; a copy, twice the size of the trained weights."""
        found: dict[str, Tensor | str | int | float | bool | None] = {
            "iteration": self.iteration,
            "generator": self._generator.get_state(),
            "skipped": self._watch.skipped,
            "skipped_in_a_row": self._watch.in_a_row,
        }
        for owner, optimizer in self._optimizers().items():
            found |= prefixed(owner, optimizer.state())
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the stage was that gave `state`; after `start`."""
        optimizers = self._optimizers()
        owners = {name.partition(".")[0] for name in state if "." in name}
        if owners != optimizers.keys():
            raise UserError(
                f"the state is of {', '.join(sorted(owners))} and here are {', '.join(sorted(optimizers))} to train",
                where=f"step {self.context.step_id}",
                hint="take it up with the critic that it was left with",
            )
        for owner, optimizer in optimizers.items():
            optimizer.restore(under(owner, state))
        self.iteration = int(state["iteration"])
        self._generator.set_state(state["generator"])
        self._watch.restore({"skipped": state["skipped"], "in_a_row": state["skipped_in_a_row"]})

    def _optimizers(self) -> dict[str, Optimizer]:
        """By what each trains."""
        both = {"policy": self._policy_optimizer, "critic": self._critic_optimizer}
        return {owner: optimizer for owner, optimizer in both.items() if optimizer is not None}

    def _minibatches(self, count: int) -> list[list[int]]:
        """Completions of each optimizer step: per epoch a fresh permutation, in parts as equal as can be."""
        parts = min(self.config.minibatches, count)
        epochs = [torch.randperm(count, generator=self._generator) for _ in range(self.config.epochs)]
        return [part.tolist() for order in epochs for part in order.tensor_split(parts)]

    def _skip(self, steps: int) -> None:
        """The schedules count steps that were planned, so that they end where they would have."""
        for owner, optimizer in self._optimizers().items():
            if owner == "critic" or self.iteration > self.config.critic_warmup:
                optimizer.skip(steps)

    def _minibatch(self, experience: Experience, indices: Sequence[int]) -> dict[str, float] | None:
        """Gradients of one minibatch, then one step of each optimizer; None if it was not finite and left out."""
        totals = self._watch.accumulated(self.iteration, indices, partial(self._gradients, experience))
        if totals is None:
            self._skip(1)
            return None
        if self.iteration > self.config.critic_warmup:
            totals["policy_grad_norm"] = self._policy_optimizer.step()
        else:
            self.policy.module.zero_grad(set_to_none=True)
        if self._critic_optimizer is not None:
            totals["critic_grad_norm"] = self._critic_optimizer.step()
        return totals

    def _described(self, experience: Experience, index: int) -> dict[str, str]:
        """A completion for people."""
        rollout = experience.rollout
        return {
            "source": f"completion {index + 1} of iteration {self.iteration}",
            "prompt": plain_text(rollout.prompts[index].prompt),
            "text": rollout.texts[index],
        }

    def _gradients(self, experience: Experience, indices: Sequence[int]) -> dict[str, float]:
        """Gradients of some completions as one minibatch, over micro-batches, and its figures."""
        chosen = list(indices)
        weights_bT = token_weights(experience.mask_BT[chosen], self.config.loss_aggregation, self.config.fixed_length)
        value_weights_bT = token_weights(experience.value_mask_BT[chosen], "token_mean")
        totals: dict[str, float] = {}
        lengths = [len(experience.rollout.prompt_ids[i]) + len(experience.rollout.completion_ids[i]) for i in chosen]
        tokens = int(experience.mask_BT[chosen].sum())
        for micro, counts in shared(micro_batches(lengths, self.config.micro_batch_tokens)):
            rows = [chosen[i] for i in micro]
            part = self._accumulate(experience, rows, weights_bT[micro], value_weights_bT[micro], tokens, counts)
            for name, value in part.items():
                old = totals.get(name, 0.0)
                totals[name] = max(old, value) if name in MAXIMA else old + counts * value
        return summed_figures(totals, MAXIMA)

    def _accumulate(
        self,
        experience: Experience,
        rows: list[int],
        weights_bT: Tensor,
        value_weights_bT: Tensor,
        tokens: int,
        counts: bool = True,
    ) -> dict[str, float]:
        """Backward of one micro-batch; each returned figure is its share of the minibatch's.

        One that does not count (see `batching.shared`) has gradients of zero.
        """
        config, policy = self.config, self.policy
        mask_bT = experience.mask_BT[rows]
        wide_bT = experience.value_mask_BT[rows]

        def pick(x_BT: Tensor) -> Tensor:
            return x_BT[rows][mask_bT].to(policy.device)

        past_stop = wide_bT.shape[1] > mask_bT.shape[1]
        batch = TokenBatch.from_rows(experience.rollout.rows(rows, past_stop), policy.pad_id, policy.device)
        all_NH, head = policy.hidden(batch)
        # Of the targets, those that were sampled: all but the position behind a stop token.
        sampled_N = torch.nn.functional.pad(mask_bT, (0, wide_bT.shape[1] - mask_bT.shape[1]))[wide_bT]
        sampled_N = sampled_N.to(policy.device)
        h_NH, weights_N = all_NH[sampled_N], weights_bT[mask_bT].to(policy.device)
        term = experience.kl_term
        reference = self._reference(batch, sampled_N) if term is not None and term.estimator == "full" else None
        loss, tokens_N = self._policy_loss(
            SampledTokens(
                h_NH=h_NH,
                head=head,
                targets_N=batch.targets_N[sampled_N],
                row_N=mask_bT.nonzero()[:, 0].to(policy.device),
                weights_N=weights_N,
                advantages_N=pick(
                    experience.advantages_BT
                    if self._importance_BT is None
                    else experience.advantages_BT * self._importance_BT
                ),
                old_logp_N=pick(experience.logp_BT),
                ref_logp_N=pick(experience.ref_logp_BT),
                reference=reference,
                kept_NK=experience.rollout.kept(rows, policy.device),
            ),
            experience.rollout.temperature,
            term,
        )
        figures: dict[str, Tensor] = {
            "policy_loss": (tokens_N["policy_loss"] * weights_N).sum(),
            "entropy": tokens_N["entropy"].sum() / tokens,
            "clip_fraction": tokens_N["clipped"].sum() / tokens,
            "approx_kl": tokens_N["approx_kl"].sum() / tokens,
            "ratio_error": (tokens_N["ratio"] - 1).abs().max(),
        }
        if term is not None:
            figures["kl_loss"] = (tokens_N["kl"] * weights_N).sum()
        if self.critic is not None and experience.values_BT is not None:
            figures["value_loss"] = self._value_loss(experience, rows, batch, all_NH, value_weights_bT)
            loss = loss + config.value_coef * figures["value_loss"]
        accumulate_gradients(loss * counts)
        return {name: float(value.detach()) for name, value in figures.items()}

    def _policy_loss(
        self, tokens: SampledTokens, temperature: float, term: KLTerm | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Objective, entropy bonus and KL term of a micro-batch, and the `FIGURES` of its tokens."""
        config, ops, t = self.config, self.context.ops, tokens
        fused = fused_arguments(self.objective)
        if fused is not None and t.kept_NK is None:
            found: tuple[Tensor, dict[str, Tensor]] = ops.fused_linear_policy_loss(
                t.h_NH, t.head, t.targets_N, t.advantages_N, t.weights_N, old_logp_N=t.old_logp_N,
                temperature=temperature, entropy_coef=config.entropy_coef, kl=term, ref_logp_N=t.ref_logp_N,
                reference=t.reference, **fused,
            )  # fmt: skip
            return found
        logp_N, entropy_N = ops.linear_logprob(
            t.h_NH, t.head, t.targets_N, temperature, with_entropy=True, kept_NK=t.kept_NK
        )
        policy_N, diagnostics = self.objective(logp_N, t.old_logp_N, t.advantages_N, t.row_N, ops)
        loss_N, kl_N = policy_N - config.entropy_coef * entropy_N, torch.zeros_like(logp_N)
        if term is not None:
            if t.reference is not None:
                kl_N = ops.linear_kl(t.h_NH, t.head, *t.reference, temperature)
            else:
                kl_N = kl_loss(logp_N, t.old_logp_N, t.ref_logp_N, term)
            loss_N = loss_N + term.coef * kl_N
        figures = {"logp": logp_N, "entropy": entropy_N, "policy_loss": policy_N, "kl": kl_N, **diagnostics}
        return (loss_N * t.weights_N).sum(), {name: x.detach() for name, x in figures.items()}

    def _reference(self, batch: TokenBatch, sampled_N: Tensor) -> tuple[Tensor, Head]:
        """The reference's hidden states before each sampled token, [N, G], and its projection."""
        with torch.no_grad():
            ref_NG, ref_head = self.reference.hidden(batch)
        return ref_NG[sampled_N], ref_head

    def _value_loss(
        self, experience: Experience, rows: list[int], batch: TokenBatch, h_NH: Tensor, weights_bT: Tensor
    ) -> Tensor:
        """The critic's loss on one micro-batch, its share of the mean over the minibatch's positions."""
        assert self.critic is not None
        assert experience.values_BT is not None
        mask_bT = experience.value_mask_BT[rows]
        device = self.policy.device
        values_N = self.critic.values_of(h_NH) if isinstance(self.critic, SharesTrunk) else self.critic.values(batch)
        old_N, returns_N = (x[rows][mask_bT].to(device) for x in (experience.values_BT, experience.returns_BT))
        loss_N: Tensor = self.context.ops.value_loss(values_N, old_N, returns_N, self.config.value_clip_range)
        return (loss_N * weights_bT[mask_bT].to(device)).sum()
