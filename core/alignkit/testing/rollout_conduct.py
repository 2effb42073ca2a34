"""Checks on how a rollout stage behaves: metrics, seeds, what it leaves alone, and being taken up where it was left."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.components import Kind
from alignkit.context import StepContext
from alignkit.kl import KLTerm
from alignkit.loop.logprobs import rollout_logprobs, rollout_values
from alignkit.protocols import Critic, Experience, Policy, RolloutStage
from alignkit.testing.contract import ComponentContract
from alignkit.testing.experience import eager_ops, make_experience, random_advantages, through_files
from alignkit.testing.measures import changed_weights, disturb, untouched_global_rng, weights_of
from alignkit.testing.randomness import global_seed
from alignkit.testing.tiny import TinyPolicy, random_rollout, tiny_policy

TOKENS = 4096


class Setup(NamedTuple):
    """The models of one start."""

    policy: TinyPolicy
    reference: Policy
    critic: Critic | None


class StageChecks(ComponentContract):
    """What the checks of rollout stages share."""

    kind: ClassVar[Kind] = "optimizer_stage"
    one_step: ClassVar[Mapping[str, Any] | None] = {"epochs": 1, "minibatches": 1}
    """Options with which an update is one optimizer step over the whole batch; {}: it always is, None: it never is."""
    micro_batch_option: ClassVar[str | None] = "micro_batch_tokens"
    """The option that sets how much goes through the model at once; None if there is none."""
    ratio_metric: ClassVar[str] = "first_ratio_error"
    """The metric that says how far ratios were from 1 before the first step."""
    trains_critic: ClassVar[bool] = True
    """Whether a critic that is given is trained. A stage that does not may refuse one: it gets none here."""

    @pytest.fixture
    def again(self, registered: Any, config: Any, context: StepContext) -> Any:
        """A second stage of the same options."""
        return registered.build(config, context)

    def stage(self, options: Mapping[str, Any], context: StepContext) -> RolloutStage:
        """A stage with further options."""
        folder = context.folder / "options"
        folder.mkdir(exist_ok=True)
        config = self.resolved({**self.make_options(folder), **options})
        stage: RolloutStage = context.manager.get(self.kind, self._reference()).build(config, context)
        return stage

    def setup(self, critic: str | None = None, dropout: float = 0.0) -> Setup:
        """A tiny policy, its reference, and a critic `separate` or `shared` or none; always the same."""
        policy = tiny_policy(dropout=dropout)
        policy.module.to(self.device)
        made = None if critic is None else policy.critic(None, shared=critic == "shared")
        return Setup(policy, policy.reference(), made)

    @property
    def with_critic(self) -> str | None:
        """A critic where the stage takes one."""
        return "separate" if self.trains_critic else None

    def start(self, stage: RolloutStage, setup: Setup, context: StepContext, iterations: int = 2) -> None:
        """Start the stage on these models."""
        stage.start(setup.policy, setup.reference, setup.critic, iterations, context)

    def started(
        self,
        stage: RolloutStage,
        context: StepContext,
        critic: str | None = None,
        iterations: int = 2,
        dropout: float = 0.0,
    ) -> Setup:
        """New models on which the stage has been started."""
        setup = self.setup(critic, dropout)
        self.start(stage, setup, context, iterations)
        return setup

    def rollout(self, setup: Setup, seed: int = 0, temperature: float = 1.0) -> Rollout:
        """Six completions of random tokens, of unlike lengths."""
        return random_rollout(setup.policy, seed=seed, temperature=temperature)

    def experience(
        self,
        setup: Setup,
        advantage: float | None = None,
        given_BT: Tensor | None = None,
        kl_term: KLTerm | None = None,
        past_stop: bool = False,
        seed: int = 0,
        temperature: float = 1.0,
        order: Sequence[int] | None = None,
    ) -> Experience:
        """Experience of `rollout`; advantages as given, one for all tokens, or random."""
        rollout = self.rollout(setup, seed, temperature)
        if advantage is not None:
            given_BT = advantage * rollout.mask_BT
        if given_BT is None:
            given_BT = random_advantages(rollout, seed)
        if order is not None:
            rollout, given_BT = reordered(rollout, order), given_BT[list(order)]
        return make_experience(*setup, rollout, given_BT, kl_term, past_stop)

    def logp(self, setup: Setup, policy: Policy | None = None) -> Tensor:
        """Log-probs of the completions of `rollout`, [B, T]."""
        return rollout_logprobs(policy or setup.policy, self.rollout(setup), eager_ops(), TOKENS)

    def value_error(self, setup: Setup) -> float:
        """Squared difference of the critic's values and the returns of `experience`, which are 1."""
        assert setup.critic is not None
        rollout, policy = self.rollout(setup), setup.policy
        values_BT = rollout_values(setup.critic, rollout, policy.pad_id, policy.device, TOKENS)
        return float((values_BT - 1)[rollout.mask_BT].square().mean())

    def same_effect(
        self,
        context: StepContext,
        what: str,
        options: Sequence[Mapping[str, Any]] = ({},),
        orders: Sequence[Sequence[int] | None] = (None,),
    ) -> None:
        """One step with any of `options` and `orders` moves the log-probs alike, to a hundredth of the movement."""
        if self.one_step is None:
            pytest.skip("one_step is None: no options make an update one step over the batch")
        moved = []
        for further, order in product(options, orders):
            stage = self.stage({**self.one_step, **further}, context)
            setup = self.started(stage, context)
            experience = self.experience(setup, order=order)
            before_BT = self.logp(setup)
            stage.update(experience)
            moved.append(self.logp(setup) - before_BT)
        size = float(moved[0].abs().max())
        worst = max(float((other_BT - moved[0]).abs().max()) for other_BT in moved[1:])
        assert worst <= 0.01 * size, f"{what}: log-probs moved by up to {size:.5f}, and differ by {worst:.5f}"

    def finite(self, metrics: Mapping[str, Any]) -> None:
        """Numbers by names, all finite."""
        wrong = {n: v for n, v in metrics.items() if not isinstance(v, float | int) or not math.isfinite(v)}
        assert not wrong, f"metrics that are no finite numbers: {wrong}"
        assert all(isinstance(name, str) for name in metrics)


def alternating(rollout: Rollout) -> Tensor:
    """1 for the tokens of every second completion, -1 for those of the others, [B, T]."""
    sign_B1 = 1.0 - 2.0 * (torch.arange(len(rollout)) % 2)[:, None]
    return sign_B1 * rollout.mask_BT


def reordered(rollout: Rollout, order: Sequence[int]) -> Rollout:
    """The same completions in another order."""
    pick: dict[str, Any] = {
        name: tuple(getattr(rollout, name)[b] for b in order)
        for name in ("prompts", "prompt_ids", "completion_ids", "texts", "finish")
    }
    return Rollout(
        **pick,
        group_B=rollout.group_B[list(order)],
        temperature=rollout.temperature,
        tokenizer_id=rollout.tokenizer_id,
    )


class ConductChecks(StageChecks):
    """Metrics, seeds, side effects, state."""

    def test_says_whether_it_adds_kl(self, built: Any) -> None:
        """The step refuses `kl.placement: loss` where `adds_kl` is False: without the term there would be no KL."""
        assert hasattr(built, "update"), "this is no rollout stage: DataStageContract is for stages with fit"
        assert isinstance(built.adds_kl, bool), f"adds_kl is {built.adds_kl!r}, not True or False"

    def test_metrics_are_finite_numbers(self, built: Any, context: Any) -> None:
        """They are written as JSON and drawn in the report."""
        setup = self.started(built, context, critic=self.with_critic)
        metrics = built.update(self.experience(setup))
        assert metrics, "update returned no metrics"
        self.finite(metrics)
        json.dumps(metrics, allow_nan=False)

    def test_same_seed_same_weights(self, built: Any, again: Any, context: Any) -> None:
        """The context's seed decides the order of minibatches, not the global random state: bit for bit the same."""
        found = []
        for number, stage in enumerate((built, again)):
            setup = self.started(stage, context, critic=self.with_critic)
            experience = self.experience(setup)
            with global_seed(number):
                stage.update(experience)
            found.append(weights_of(setup.policy.module))
        assert changed_weights(*found) == [], "the same seed gave other weights"

    def test_leaves_the_global_random_state_alone(self, built: Any, context: Any) -> None:
        """Other components draw from it."""
        setup = self.setup(self.with_critic)
        experience = self.experience(setup)
        with untouched_global_rng():
            self.start(built, setup, context)
            built.update(experience)

    def test_experience_stays_as_it_was(self, built: Any, context: Any) -> None:
        """Hooks and the loop read the same tensors: whitening advantages in place would change theirs."""
        setup = self.started(built, context, critic=self.with_critic)
        experience = self.experience(setup)
        before = {name: x.clone() for name, x in experience._asdict().items() if isinstance(x, Tensor)}
        built.update(experience)
        after = {name: x for name, x in experience._asdict().items() if isinstance(x, Tensor)}
        assert changed_weights(before, after) == [], "update changed tensors of the experience"

    def test_goes_on_to_the_last_iteration(self, built: Any, context: Any) -> None:
        """Schedules hold out for `iterations` updates; each changes the policy, but perhaps the last."""
        setup = self.started(built, context, iterations=3)
        for number in range(3):
            before = weights_of(setup.policy.module)
            self.finite(built.update(self.experience(setup, seed=number)))
            changed = changed_weights(before, weights_of(setup.policy.module))
            assert changed or number == 2, f"update {number + 1} of 3 changed nothing: does the schedule end early?"

    def test_state_is_plain(self, built: Any, context: Any, tmp_path: Path) -> None:
        """A stage can be taken up: `state()` is flat tensors and plain values that safetensors and JSON hold."""
        setup = self.started(built, context, critic=self.with_critic)
        built.update(self.experience(setup))
        state = built.state()
        plain = (Tensor, str, int, float, bool, type(None))
        other = {name: type(value).__name__ for name, value in state.items() if not isinstance(value, plain)}
        assert not other, f"neither tensors nor plain values: {other}"
        back = through_files(state, tmp_path / "state")
        assert back.keys() == state.keys()

    def test_state_is_a_snapshot(self, built: Any, context: Any) -> None:
        """It is written while training goes on: later updates must not change it."""
        setup = self.started(built, context)
        built.update(self.experience(setup))
        state = built.state()
        before = {name: x.clone() for name, x in state.items() if isinstance(x, Tensor)}
        built.update(self.experience(setup, seed=1))
        after = {name: x for name, x in state.items() if isinstance(x, Tensor)}
        assert changed_weights(before, after) == [], "the state moves on with the stage: copy its tensors"

    @pytest.mark.parametrize("critic", [None, "separate"], ids=["no critic", "critic"])
    def test_taken_up_as_if_never_stopped(
        self, built: Any, registered: Any, config: Any, context: Any, tmp_path: Path, critic: str | None
    ) -> None:
        """A new stage on saved weights, started and restored, makes the next updates bit for bit."""
        if critic and not self.trains_critic:
            pytest.skip("trains_critic is False")
        setup = self.started(built, context, critic, iterations=4)
        for number in range(2):
            built.update(self.experience(setup, seed=number))
        kept = self._weights(setup)
        state = through_files(built.state(), tmp_path / "state")
        experiences = []
        for number in (2, 3):
            experiences.append(self.experience(setup, seed=number))
            built.update(experiences[-1])

        other = self.setup(critic)
        disturb(other.policy.module, seed=5)
        other.policy.module.load_state_dict(kept["policy"])
        if other.critic is not None:
            other.critic.module.load_state_dict(kept["critic"])
        fresh = registered.build(config, context)
        with global_seed(3):
            self.start(fresh, other, context, iterations=4)
            fresh.restore(state)
            for experience in experiences:
                fresh.update(experience)
        through, taken_up = self._weights(setup), self._weights(other)
        for owner in through:
            changed = changed_weights(through[owner], taken_up[owner])
            assert changed == [], f"the {owner} went on otherwise than without the interruption"

    def _weights(self, setup: Setup) -> dict[str, dict[str, Tensor]]:
        found = {"policy": weights_of(setup.policy.module)}
        return found if setup.critic is None else {**found, "critic": weights_of(setup.critic.module)}
