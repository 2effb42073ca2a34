"""Checks on what a policy makes of itself: the frozen reference and the critic."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alignkit.batches import TokenBatch
from alignkit.errors import UserError
from alignkit.modeling.scorer import SequenceScorer
from alignkit.protocols import Critic, Policy, SharesTrunk
from alignkit.testing.measures import changed_weights, disturb, weights_of
from alignkit.testing.policy_states import PolicyChecks


class ViewChecks(PolicyChecks):
    """`Policy.reference` and `Policy.critic`."""

    def batch(self, policy: Policy) -> TokenBatch:
        """A batch of all rows."""
        return TokenBatch.from_rows(self.rows(policy), policy.pad_id, policy.device)

    @torch.no_grad()
    def values(self, critic: Critic, policy: Policy) -> Tensor:
        """Values of a batch in evaluation mode, [N] on the CPU."""
        critic.module.eval()
        return critic.values(self.batch(policy)).cpu()

    def shared_critic(self, policy: Policy) -> SharesTrunk:
        """A critic on the policy's states; skips the check if the policy refuses to make one."""
        try:
            critic = policy.critic(None, shared=True)
        except UserError as refused:
            pytest.skip(f"no shared critic: {refused.what}")
        assert isinstance(critic, SharesTrunk), "critic(None, shared=True) has no values_of"
        return critic

    def test_reference_is_the_policy_as_it_is(self, built: Policy) -> None:
        """The KL to the reference starts at 0: same log-probs, same tokenizer."""
        built.module.eval()
        reference = built.reference()
        assert reference.tokenizer_id == built.tokenizer_id
        with torch.no_grad():
            of_reference, of_policy = (self.logp(p, self.rows(built)) for p in (reference, built))
            self.close(of_reference, of_policy, "the reference is not the policy as it is now")

    def test_reference_is_frozen(self, built: Policy) -> None:
        """A gradient through the reference would be kept in memory for nothing, or train what has to stay."""
        reference = built.reference()
        h_NH, head = reference.hidden(self.batch(built))
        assert not h_NH.requires_grad, "its hidden states carry a gradient"
        assert not head.weight_VH.requires_grad, "its projection carries a gradient"
        assert any(p.requires_grad for p in built.module.parameters()), "reference() froze the policy too"

    def test_reference_stays_when_the_policy_learns(self, built: Policy) -> None:
        """KL is measured to the policy as it was when the reference was made."""
        built.module.eval()
        reference = built.reference()
        with torch.no_grad():
            before, old = self.logp(reference, self.rows(built)), self.logp(built, self.rows(built))
            disturb(built.module)
            assert torch.equal(before, self.logp(reference, self.rows(built))), "the reference moved with the policy"
            assert not torch.allclose(old, self.logp(built, self.rows(built))), "the policy does not move"

    def test_reference_ignores_the_policys_mode(self, built: Policy) -> None:
        """It is in evaluation mode also while the policy trains with dropout."""
        built.module.train()
        reference = built.reference()
        with torch.no_grad():
            first = self.logp(reference, self.rows(built))
            assert torch.equal(first, self.logp(reference, self.rows(built))), "two passes differ: dropout is on"
        assert built.module.training, "using the reference changed the policy's mode"

    def test_new_critic_says_zero(self, built: Policy) -> None:
        """Values start at exactly 0, float32, one per target token, so that the first advantages are the rewards."""
        values_N = self.values(built.critic(None), built)
        assert values_N.dtype == torch.float32
        assert values_N.shape == (self.batch(built).tokens,)
        assert not values_N.any(), "the value head does not start at zero"

    def test_critic_is_a_model_of_its_own(self, built: Policy) -> None:
        """Unless it is shared, what trains the critic must not reach the policy."""
        critic = built.critic(None)
        before = weights_of(built.module)
        disturb(critic.module)
        assert changed_weights(before, weights_of(built.module)) == [], "it shares weights with the policy"
        torch.autograd.backward(critic.values(self.batch(built)).sum())
        assert any(p.grad is not None and bool(p.grad.any()) for p in critic.module.parameters()), "it cannot learn"
        assert all(p.grad is None for p in built.module.parameters()), "its gradient reaches the policy"

    def test_critic_reads_the_state_before_each_target(self, built: Policy) -> None:
        """V of the state before a token must not know that token; neither do padding and order count."""
        critic = built.critic(None)
        disturb(critic.module)
        rows = self.rows(built)
        alone = [self._values_of([row.ids], len(row.ids) - sum(row.target), critic, built) for row in rows]
        self.close(self.values(critic, built), torch.cat(alone), "values depend on the batch")
        ids = rows[0].ids
        other = [*ids[:-1], next(i for i in range(self.vocabulary(built)) if i != ids[-1])]
        one, two = (self._values_of([row], 1, critic, built) for row in (ids, other))
        self.close(one, two, "the value before a token knows the token")

    @torch.no_grad()
    def _values_of(self, rows: Sequence[Sequence[int]], first: int, critic: Critic, policy: Policy) -> Tensor:
        critic.module.eval()
        batch = TokenBatch.from_rows([self.row(ids, first) for ids in rows], policy.pad_id, policy.device)
        return critic.values(batch).cpu()

    def test_shared_critic_reads_the_policys_states(self, built: Policy) -> None:
        """It has only a head; its values from the policy's states are its values, and its gradient trains the trunk."""
        critic = self.shared_critic(built)
        assert isinstance(critic, Critic)
        assert not self.values(critic, built).any(), "the value head does not start at zero"
        own = {id(p) for p in critic.module.parameters()}
        assert not own & {id(p) for p in built.module.parameters()}, "its module is the head alone"
        disturb(critic.module)
        built.module.eval()
        h_NH, _ = built.hidden(self.batch(built))
        values_N = critic.values_of(h_NH)
        self.close(values_N.detach().cpu(), self.values(critic, built), "values_of and values differ")
        torch.autograd.backward(values_N.sum())
        assert any(p.grad is not None and bool(p.grad.any()) for p in built.module.parameters()), "no gradient"

    @pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
    def test_saved_critic_is_a_scorer(self, built: Policy, tmp_path: Path, shared: bool) -> None:
        """The folder is a one-label sequence classifier of transformers, which a later step can begin from."""
        critic = self.shared_critic(built) if shared else built.critic(None)
        assert isinstance(critic, Critic)
        disturb(critic.module)
        before = self.values(critic, built)
        critic.save(tmp_path / "critic")
        scorer = SequenceScorer.load(str(tmp_path / "critic"), torch.device("cpu"))
        self.close(self.values(scorer, built), before, "the saved critic has other values")

    def test_critic_begins_from_a_reward_model(self, built: Policy, tmp_path: Path) -> None:
        """`init` is a reward model's folder: with `keep_head` its scores are the first values, else they are 0."""
        scorer = built.critic(None)
        disturb(scorer.module)
        scorer.save(tmp_path / "scorer")
        kept = built.critic(tmp_path / "scorer", keep_head=True)
        self.close(self.values(kept, built), self.values(scorer, built), "not the reward model's scores")
        new = built.critic(str(tmp_path / "scorer"))
        assert not self.values(new, built).any(), "without keep_head the values do not start at 0"
        changed = changed_weights(weights_of(scorer.module), weights_of(new.module))
        assert len(changed) <= 2, "the backbone is not that of `init`"
