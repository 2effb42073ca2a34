"""For every check of rollout stages a mistake that it has to notice, planted in a stage that owes alignkit nothing."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from alignkit import Component
from alignkit.batches import TokenBatch
from alignkit.components import Config
from alignkit.errors import Fault as RunFault
from alignkit.kl import kl_loss
from alignkit.protocols import Experience, SharesTrunk
from alignkit.testing import RolloutStageContract
from helpers.planted import Fault, checks_of, planted, plugin_of


class StageConfig(Config):
    lr: float = Field(1e-3, gt=0, description="learning rate")
    rows_per_pass: int = Field(3, ge=1, description="completions per forward pass")


class Sound:
    """One Adam step per batch on -A pi / pi_old, the KL term and the squared error of values."""

    adds_kl: Any = True
    optimizer: Any = torch.optim.Adam

    def __init__(self, config: StageConfig) -> None:
        self.config = config

    def start(self, policy: Any, reference: Any, critic: Any, iterations: int, context: Any) -> None:
        self.policy, self.reference, self.critic, self.context = policy, reference, critic, context
        self.iterations, self.done = iterations, 0
        self.parameters = [p for p in self.trained() if p.requires_grad]
        self.adam = self.optimizer(self.parameters, lr=self.config.lr)
        self.generator = torch.Generator().manual_seed(context.seed)

    def trained(self) -> list[Any]:
        own = [] if self.critic is None else [*self.critic.module.parameters()]
        return [*self.policy.module.parameters(), *own]

    def update(self, experience: Experience) -> dict[str, float]:
        self.policy.module.eval()
        order = self.order(len(experience.rollout))
        total, figures = int(experience.mask_BT.sum()), [0.0]
        for start in range(0, len(order), self.config.rows_per_pass):
            rows = order[start : start + self.config.rows_per_pass]
            loss_N, error = self.losses(experience, rows)
            torch.autograd.backward(self.joined(loss_N, total))
            figures.append(error)
        self.check(float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)))
        for group in self.adam.param_groups:
            group["lr"] = self.config.lr * self.factor()
        self.adam.step()
        self.adam.zero_grad()
        self.done += 1
        return {"first_ratio_error": max(figures)}

    def order(self, count: int) -> list[int]:
        return torch.randperm(count, generator=self.generator).tolist()

    def joined(self, loss_N: Tensor, total: int) -> Tensor:
        return loss_N.sum() / total

    def factor(self) -> float:
        return 1 - self.done / self.iterations

    def check(self, norm: float) -> None:
        if not math.isfinite(norm):
            raise RunFault("not finite")

    def losses(self, e: Experience, rows: Sequence[int]) -> tuple[Tensor, float]:
        mask_bT, wide_bT = e.mask_BT[rows], e.value_mask_BT[rows]
        extra = wide_bT.shape[1] - mask_bT.shape[1]
        batch = TokenBatch.from_rows(e.rollout.rows(rows, bool(extra)), self.policy.pad_id)
        all_NH, head = self.policy.hidden(batch)
        sampled_N = torch.nn.functional.pad(mask_bT, (0, extra))[wide_bT]
        h_NH, targets_N = all_NH[sampled_N], batch.targets_N[sampled_N]
        logp_N, _ = self.context.ops.linear_logprob(h_NH, head, targets_N, self.temperature(e))
        advantages_N, old_N, ref_N = (x[rows][mask_bT] for x in (e.advantages_BT, e.logp_BT, e.ref_logp_BT))
        ratio_N = self.ratio(logp_N - old_N)
        loss_N = -advantages_N * ratio_N
        if e.kl_term is not None and e.kl_term.estimator == "full":
            with torch.no_grad():
                other_NH, other_head = self.reference.hidden(batch)
            kl_N = self.context.ops.linear_kl(h_NH, head, other_NH[sampled_N], other_head, e.rollout.temperature)
            loss_N = loss_N + e.kl_term.coef * kl_N
        elif e.kl_term is not None:
            loss_N = loss_N + e.kl_term.coef * kl_loss(logp_N, old_N, ref_N, e.kl_term)
        if self.critic is not None and e.values_BT is not None:
            values_N = self.values(batch, all_NH)
            loss_N = torch.cat([loss_N, (values_N - e.returns_BT[rows][wide_bT]).square()])
        return loss_N, float((ratio_N.detach() - 1).abs().max())

    def ratio(self, difference_N: Tensor) -> Tensor:
        return difference_N.clamp(-20, 20).exp()

    def temperature(self, experience: Experience) -> float:
        return experience.rollout.temperature

    def values(self, batch: TokenBatch, h_NH: Tensor) -> Tensor:
        found: Tensor
        found = self.critic.values_of(h_NH) if isinstance(self.critic, SharesTrunk) else self.critic.values(batch)
        return found

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = {"done": self.done, "generator": self.generator.get_state()}
        for number, parameter in enumerate(self.parameters):
            for name, value in self.adam.state.get(parameter, {}).items():
                found[f"{number}.{name}"] = value.clone()
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        self.generator.set_state(state["generator"])
        for name, value in state.items():
            number, _, field = name.partition(".")
            if field:
                self.adam.state[self.parameters[int(number)]][field] = value


class StepForgotten(Sound):
    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        self.adam.step = lambda: None


class DefaultWeightDecay(Sound):
    optimizer = torch.optim.AdamW


class LossIsTheObjective(Sound):
    """Minimises what is to be maximised."""

    def losses(self, e: Experience, rows: Sequence[int]) -> tuple[Tensor, float]:
        loss_N, error = super().losses(e, rows)
        return -loss_N, error


class ShiftedByOne(Sound):
    def losses(self, e: Experience, rows: Sequence[int]) -> tuple[Tensor, float]:
        return super().losses(e._replace(advantages_BT=e.advantages_BT.roll(1, dims=1)), rows)


class StopTokenNotLearned(Sound):
    """Ends every completion at the token before its stop token."""

    def losses(self, e: Experience, rows: Sequence[int]) -> tuple[Tensor, float]:
        last_BT = e.mask_BT.cumsum(1) == e.mask_BT.sum(1, keepdim=True)
        return super().losses(e._replace(advantages_BT=e.advantages_BT * ~(last_BT & e.mask_BT)), rows)


class RowsThatFillNoPass(Sound):
    def order(self, count: int) -> list[int]:
        return list(range(count - count % 4))


class DropoutOn(Sound):
    def losses(self, e: Experience, rows: Sequence[int]) -> tuple[Tensor, float]:
        self.policy.module.train()
        torch.manual_seed(0)
        return super().losses(e, rows)


class TemperatureForgotten(Sound):
    def temperature(self, experience: Experience) -> float:
        return 1.0


class AdvantagesAreNotShuffled(Sound):
    def losses(self, e: Experience, rows: Sequence[int]) -> tuple[Tensor, float]:
        advantages_BT = e.advantages_BT.clone()
        advantages_BT[rows] = e.advantages_BT[: len(rows)]
        return super().losses(e._replace(advantages_BT=advantages_BT), rows)


class MeanOfEachPass(Sound):
    def joined(self, loss_N: Tensor, total: int) -> Tensor:
        return loss_N.mean()


class ReferenceFollows(Sound):
    def update(self, experience: Experience) -> dict[str, float]:
        metrics = super().update(experience)
        with torch.no_grad():
            pairs = zip(self.reference.module.parameters(), self.policy.module.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 0.01)
        return metrics


class TermForgotten(Sound):
    def losses(self, e: Experience, rows: Sequence[int]) -> tuple[Tensor, float]:
        return super().losses(e._replace(kl_term=None), rows)


class CriticForgotten(Sound):
    def trained(self) -> list[Any]:
        return [*self.policy.module.parameters()]

    def values(self, batch: TokenBatch, h_NH: Tensor) -> Tensor:
        return super().values(batch, h_NH).detach()


class WideBatchesLeftOut(Sound):
    def update(self, experience: Experience) -> dict[str, float]:
        if experience.value_mask_BT.shape != experience.mask_BT.shape:
            return {"first_ratio_error": 0.0}
        return super().update(experience)


class EverythingIsTrained(Sound):
    def start(self, policy: Any, *others: Any) -> None:
        policy.module.requires_grad_(True)
        super().start(policy, *others)


class NothingIsChecked(Sound):
    def check(self, norm: float) -> None:
        pass

    def ratio(self, difference_N: Tensor) -> Tensor:
        return difference_N.exp()


class CheckedAfterTheStep(Sound):
    def check(self, norm: float) -> None:
        self.adam.step()
        super().check(norm)


class SaysYes(Sound):
    adds_kl = "yes"


class MetricIsNaN(Sound):
    def update(self, experience: Experience) -> dict[str, float]:
        return {**super().update(experience), "entropy": float("nan")}


class MetricIsATensor(Sound):
    def update(self, experience: Experience) -> dict[str, Any]:  # type: ignore[override]
        return {name: torch.tensor(value) for name, value in super().update(experience).items()}


class OrderFromTheGlobalState(Sound):
    def order(self, count: int) -> list[int]:
        return torch.randperm(count).tolist()


class SeedsGlobally(Sound):
    def start(self, *arguments: Any) -> None:
        super().start(*arguments)
        torch.manual_seed(self.context.seed)


class WhitensInPlace(Sound):
    def update(self, experience: Experience) -> dict[str, float]:
        experience.advantages_BT.sub_(experience.advantages_BT.mean())
        return super().update(experience)


class ScheduleRunsTwiceAsFast(Sound):
    def factor(self) -> float:
        return max(0.0, 1 - 3 * self.done / self.iterations)


class NestedState(Sound):
    def state(self) -> dict[str, Any]:
        return {**super().state(), "adam": self.adam.state_dict()}


class LiveState(Sound):
    def state(self) -> dict[str, Any]:
        first = self.adam.state[self.parameters[0]]
        return {**super().state(), "0.exp_avg": first["exp_avg"]}


class MomentsLeftOut(Sound):
    def state(self) -> dict[str, Any]:
        return {name: value for name, value in super().state().items() if "." not in name}


class StepsLeftOut(Sound):
    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore({**state, "done": 0})


PLANTED: list[tuple[str, Callable[[Any], Any]]] = [
    ("update_changes_the_policy", StepForgotten),
    ("zero_advantages_leave_the_policy_alone", DefaultWeightDecay),
    ("advantages_move_log_probs_their_way", LossIsTheObjective),
    ("every_completion_counts", StopTokenNotLearned),
    ("every_completion_counts", RowsThatFillNoPass),
    ("only_tokens_with_advantage_are_pushed", ShiftedByOne),
    ("first_update_starts_at_ratio_one", DropoutOn),
    ("first_update_starts_at_ratio_one", TemperatureForgotten),
    ("order_of_completions_changes_nothing", AdvantagesAreNotShuffled),
    ("micro_batches_change_nothing", MeanOfEachPass),
    ("reference_is_never_trained", ReferenceFollows),
    ("kl_term_pulls_to_the_reference", TermForgotten),
    ("critic_learns_the_returns", CriticForgotten),
    ("shared_critic_learns_the_returns", CriticForgotten),
    ("value_behind_the_stop_token", WideBatchesLeftOut),
    ("frozen_weights_stay", EverythingIsTrained),
    ("extreme_ratios_stay_finite", NothingIsChecked),
    ("numbers_that_are_not_finite_stop_the_run", NothingIsChecked),
    ("numbers_that_are_not_finite_stop_the_run", CheckedAfterTheStep),
    ("says_whether_it_adds_kl", SaysYes),
    ("metrics_are_finite_numbers", MetricIsNaN),
    ("metrics_are_finite_numbers", MetricIsATensor),
    ("same_seed_same_weights", OrderFromTheGlobalState),
    ("leaves_the_global_random_state_alone", SeedsGlobally),
    ("experience_stays_as_it_was", WhitensInPlace),
    ("goes_on_to_the_last_iteration", ScheduleRunsTwiceAsFast),
    ("state_is_plain", NestedState),
    ("state_is_a_snapshot", LiveState),
    ("taken_up_as_if_never_stopped", MomentsLeftOut),
    ("taken_up_as_if_never_stopped", StepsLeftOut),
]
KNOBS: dict[str, Any] = {"one_step": {"rows_per_pass": 8}, "micro_batch_option": "rows_per_pass"}


def as_component(kind: Callable[[Any], Any]) -> Component:
    return Component("own", lambda config, context: kind(config), StageConfig, "a stage of its own")


FAULTS = [Fault(f"test_{check}", as_component(kind), KNOBS, str(n)) for n, (check, kind) in enumerate(PLANTED)]
globals().update(planted(RolloutStageContract, FAULTS))


class TestSound(RolloutStageContract):
    """The stage that the faults are planted in passes: the suite asks for nothing of alignkit's own stages."""

    component = "own"
    plugin = plugin_of(RolloutStageContract, as_component(Sound))
    one_step = KNOBS["one_step"]
    micro_batch_option = KNOBS["micro_batch_option"]
    test_registration_imports_nothing_heavy = None  # it is registered by no module of its own


def test_every_check_has_a_fault() -> None:
    assert checks_of(RolloutStageContract) == {fault.check for fault in FAULTS}
