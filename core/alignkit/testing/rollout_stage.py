"""What a stage that learns from rollouts owes: advantages move log-probs their way, and nothing else moves.

The checks on seeds, metrics and being taken up again are in `rollout_conduct`.
"""

from typing import Any

import pytest
import torch

from alignkit.errors import Fault, UserError
from alignkit.kl import KLTerm
from alignkit.loop.logprobs import rollout_kl
from alignkit.protocols import SharesTrunk
from alignkit.testing.measures import MICRO_BATCHES, changed_weights, disturb, weights_of
from alignkit.testing.rollout_conduct import TOKENS, ConductChecks, alternating


class RolloutStageContract(ConductChecks):
    """A stage with `start` and `update`. It trains a tiny policy on completions of random tokens.

    Give `options` under which a few updates show an effect (a learning rate of about 1e-3) and that leave the entropy
    bonus and weight decay off; settings with them can have a class of their own, with the checks left out that they
    rightly break.
    """

    def test_update_changes_the_policy(self, built: Any, context: Any) -> None:
        """With advantages that are not zero the weights move, and stay finite."""
        setup = self.started(built, context)
        before = weights_of(setup.policy.module)
        built.update(self.experience(setup))
        after = weights_of(setup.policy.module)
        assert changed_weights(before, after), "no weight has changed"
        assert all(bool(torch.isfinite(w).all()) for w in after.values())

    def test_zero_advantages_leave_the_policy_alone(self, built: Any, context: Any) -> None:
        """Without advantage, KL term and critic there is nothing to learn: not one bit of the policy changes."""
        setup = self.started(built, context)
        before = weights_of(setup.policy.module)
        built.update(self.experience(setup, advantage=0.0))
        changed = changed_weights(before, weights_of(setup.policy.module))
        assert changed == [], "weights changed for no reason: weight decay, or a mean taken over something else?"

    @pytest.mark.parametrize("sign", [1.0, -1.0], ids=["better", "worse"])
    def test_advantages_move_log_probs_their_way(self, built: Any, context: Any, sign: float) -> None:
        """Completions that were better than expected become likelier, those that were worse less likely.

        Both are in the batch, so that a stage may whiten.
        """
        setup = self.started(built, context)
        given_BT = sign * alternating(self.rollout(setup))
        before_BT = self.logp(setup)
        built.update(self.experience(setup, given_BT=given_BT))
        moved = float(((self.logp(setup) - before_BT) * given_BT).sum())
        assert moved > 0, f"log-probs times advantages changed by {moved:+.5f}, summed over the batch"

    def test_every_completion_counts(self, context: Any) -> None:
        """What is learned from reaches from the first token to the last, the stop token, of every completion.

        Without its stop token a policy never learns when to end; a batch that is cut to equal parts loses rows.
        """
        lengths = self.rollout(self.setup()).mask_BT.sum(1).tolist()
        for row, length in enumerate(lengths):
            stage = self.stage({}, context)
            setup = self.started(stage, context)
            column = length - 1 if row % 2 == 0 else 0  # every second one ends with a stop token
            lone_BT = torch.zeros(len(lengths), max(lengths))
            lone_BT[row, column] = 1.0
            before = weights_of(setup.policy.module)
            stage.update(self.experience(setup, given_BT=lone_BT))
            changed = changed_weights(before, weights_of(setup.policy.module))
            assert changed, f"the advantage of row {row}, token {column} of {length} changed no weight"

    def test_only_tokens_with_advantage_are_pushed(self, context: Any) -> None:
        """Each advantage pushes its own token: a shift by one place, or another row's, shows here.

        So does a ratio of the whole completion that lets gradient through to all its tokens, and so to those that
        advantages of other tokens should push: `-A * s.detach() * (logp - logp.detach()).exp()` does not.
        """
        moved = []
        for sign in (1.0, -1.0):
            stage = self.stage({}, context)
            setup = self.started(stage, context)
            lone_BT = torch.zeros(self.rollout(setup).mask_BT.shape)
            lone_BT[1, 2] = sign
            stage.update(self.experience(setup, given_BT=lone_BT))
            moved.append(self.logp(setup))
        # What does not depend on the advantage (an entropy bonus, weight decay) is the same in both.
        push_BT = moved[0] - moved[1]
        place = divmod(int(push_BT.argmax()), push_BT.shape[1])
        assert place == (1, 2), (
            f"the advantage of row 1, token 2 pushes row {place[0]}, token {place[1]} most: is something shifted, or "
            "does the loss of a token send gradient to the log-probs of others?"
        )

    def test_first_update_starts_at_ratio_one(self, built: Any, context: Any) -> None:
        """Log-probs before the first step are those that the loop computed: dropout off, same temperature."""
        setup = self.started(built, context, dropout=0.3)
        setup.policy.module.train()
        metrics = built.update(self.experience(setup, temperature=0.7))
        if self.ratio_metric not in metrics:
            pytest.skip(f"it reports no {self.ratio_metric}")
        assert abs(metrics[self.ratio_metric]) < 1e-3, f"{self.ratio_metric} {metrics[self.ratio_metric]}"

    def test_order_of_completions_changes_nothing(self, context: Any) -> None:
        """One step over the whole batch is the same whatever order the completions have."""
        self.same_effect(context, "the order of completions counts", orders=[None, [3, 0, 5, 1, 4, 2]])

    def test_micro_batches_change_nothing(self, context: Any) -> None:
        """How many rows go through the model at once is a matter of memory, not of the loss."""
        if self.micro_batch_option is None:
            pytest.skip("it has no option for micro-batches")
        sizes = [{self.micro_batch_option: size} for size in MICRO_BATCHES]
        self.same_effect(context, "the size of micro-batches counts", sizes)

    def test_reference_is_never_trained(self, built: Any, context: Any) -> None:
        """The reference is what KL is measured to, with or without a KL term."""
        setup = self.started(built, context)
        before = weights_of(setup.reference.module)
        built.update(self.experience(setup, kl_term=self._term()))
        assert changed_weights(before, weights_of(setup.reference.module)) == [], "the reference was changed"
        assert all(p.grad is None for p in setup.reference.module.parameters())

    @pytest.mark.parametrize("estimator", ["k2", "full"])
    def test_kl_term_pulls_to_the_reference(self, built: Any, context: Any, estimator: Any) -> None:
        """`adds_kl` is a promise: with `kl_term` and no advantage the policy comes nearer to the reference."""
        if not built.adds_kl:
            pytest.skip("adds_kl is False: the step refuses kl.placement: loss")
        setup = self.started(built, context, iterations=4)
        disturb(setup.policy.module, size=0.05)
        before = self._distance(setup, estimator, context)
        for _ in range(4):
            built.update(self.experience(setup, advantage=0.0, kl_term=self._term(estimator)))
        after = self._distance(setup, estimator, context)
        assert after < before, f"distance to the reference {before:.4f} before and {after:.4f} after four updates"

    def _term(self, estimator: Any = "k2") -> KLTerm:
        return KLTerm(1.0, estimator, "corrected")

    def _distance(self, setup: Any, estimator: str, context: Any) -> float:
        rollout = self.rollout(setup)
        if estimator == "full":
            return float(rollout_kl(setup.policy, setup.reference, rollout, context.ops, TOKENS).sum())
        return float((self.logp(setup) - self.logp(setup, setup.reference)).square().sum())

    def test_critic_learns_the_returns(self, built: Any, context: Any) -> None:
        """Given a critic, the stage trains it: its values come nearer to the returns."""
        self._critic_learns(built, context, "separate")

    def test_shared_critic_learns_the_returns(self, built: Any, context: Any) -> None:
        """A critic on the policy's trunk is a head alone, and learns too. Or refuse it openly."""
        try:
            self._critic_learns(built, context, "shared")
        except UserError as refused:
            pytest.skip(f"no shared critic: {refused.what}")

    def _critic_learns(self, stage: Any, context: Any, kind: str) -> None:
        if not self.trains_critic:
            pytest.skip("trains_critic is False")
        setup = self.started(stage, context, critic=kind, iterations=3)
        assert isinstance(setup.critic, SharesTrunk) == (kind == "shared")
        before = self.value_error(setup)
        for _ in range(3):
            stage.update(self.experience(setup))
        assert self.value_error(setup) < before, "the values are no nearer to the returns after three updates"

    def test_value_behind_the_stop_token(self, built: Any, context: Any) -> None:
        """With `score_position: after_stop` values and returns are one column wider than the completions."""
        if not self.trains_critic:
            pytest.skip("trains_critic is False: the position behind the stop token is a critic's")
        setup = self.started(built, context, critic="separate")
        experience = self.experience(setup, past_stop=True)
        assert experience.value_mask_BT.shape[1] == experience.mask_BT.shape[1] + 1
        before = weights_of(setup.policy.module)
        self.finite(built.update(experience))
        assert changed_weights(before, weights_of(setup.policy.module)), "the policy did not learn from it"

    def test_frozen_weights_stay(self, built: Any, context: Any) -> None:
        """What the policy does not train (under LoRA: almost everything) the stage does not train."""
        setup = self.setup()
        name, parameter = next(iter(setup.policy.module.named_parameters()))
        parameter.requires_grad_(False)
        before = weights_of(setup.policy.module)
        self.start(built, setup, context)
        built.update(self.experience(setup))
        changed = changed_weights(before, weights_of(setup.policy.module))
        assert name not in changed, "a weight without requires_grad was changed"
        assert changed, "nothing else was trained"
        assert not parameter.requires_grad, "the stage set requires_grad"

    def test_extreme_ratios_stay_finite(self, built: Any, context: Any) -> None:
        """A token that became e^100 times as likely must not turn weights into NaN: bound the ratio, or raise Fault."""
        setup = self.started(built, context)
        experience = self.experience(setup)
        far_BT = torch.where(torch.arange(experience.mask_BT.shape[1]) % 2 == 0, 100.0, -100.0) * experience.mask_BT
        try:
            metrics = built.update(experience._replace(logp_BT=experience.logp_BT + far_BT))
        except Fault:
            return
        self.finite(metrics)
        assert all(bool(torch.isfinite(w).all()) for w in weights_of(setup.policy.module).values())

    def test_numbers_that_are_not_finite_stop_the_run(self, built: Any, context: Any) -> None:
        """NaN would spread over all weights: the stage raises Fault and leaves the policy as it was."""
        setup = self.started(built, context)
        experience = self.experience(setup)
        before = weights_of(setup.policy.module)
        with pytest.raises(Fault):
            built.update(experience._replace(advantages_BT=experience.advantages_BT * float("nan")))
        assert changed_weights(before, weights_of(setup.policy.module)) == [], "weights changed before it was noticed"
