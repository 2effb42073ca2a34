"""Checks on a policy's hidden states, by unpadded rows that go through the model alone."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from alignkit.batches import Row, TokenBatch
from alignkit.components import Kind
from alignkit.errors import UserError
from alignkit.protocols import Policy
from alignkit.testing.contract import ComponentContract
from alignkit.testing.measures import changed_weights, logits_of, untouched_global_rng, weights_of
from alignkit.training.sequences import completion_row


class PolicyChecks(ComponentContract):
    """What the checks of policies share."""

    kind: ClassVar[Kind] = "policy"
    texts: ClassVar[Sequence[str]] = ("the quiet film", " I left early,\n and so did they.", "two brothers: déjà vu 🎬")
    """Plain texts that the tokenizer encodes and decodes without loss."""
    tolerance: ClassVar[float] = 1e-4
    """Largest difference of log-probs in nats that rounding may make (float32; bfloat16 needs about 0.1)."""
    longest_tried: ClassVar[int] = 4096
    """A model with more positions is not tried at full length."""

    def logits(self, policy: Policy, ids: Sequence[int]) -> Tensor:
        """The module's own logits for one row, [T, V]."""
        found: Any = policy.module(torch.tensor([list(ids)], device=policy.device))
        return (found if isinstance(found, Tensor) else found.logits)[0].double().cpu()

    def vocabulary(self, policy: Policy) -> int:
        """Number of ids that the projection knows."""
        return int(policy.head.weight_VH.shape[0])

    def rows(self, policy: Policy) -> list[Row]:
        """Prompts with completions, of several lengths."""
        n = len(self.texts)
        return [completion_row(policy, self.texts[i], self.texts[(i + 1) % n] * (1 + i)) for i in range(n)]

    def row(self, ids: Sequence[int], first: int) -> Row:
        """A row whose targets begin at position `first`."""
        return Row(list(ids), [t >= first for t in range(len(ids))])

    def logp(self, policy: Policy, rows: Sequence[Row]) -> Tensor:
        """Log-probs of the vocabulary before each target token, float64, [N, V]; of one batch."""
        batch = TokenBatch.from_rows(rows, policy.pad_id, policy.device)
        h_NH, head = policy.hidden(batch)
        return torch.log_softmax(logits_of(h_NH, head), dim=-1).cpu()

    def close(self, one: Tensor, other: Tensor, what: str) -> None:
        """Equal but for rounding; `what` says what is wrong otherwise."""
        torch.testing.assert_close(one, other, rtol=0, atol=self.tolerance, msg=lambda details: f"{what}\n{details}")


class StateChecks(PolicyChecks):
    """`Policy.hidden` and `Policy.head`."""

    def test_hidden_has_one_state_per_target(self, built: Policy) -> None:
        """Ops multiply the states with the projection and compare them with the targets, row by row: [N, H]."""
        rows = self.rows(built)
        h_NH, head = built.hidden(TokenBatch.from_rows(rows, built.pad_id, built.device))
        assert h_NH.shape == (sum(sum(r.target) for r in rows), head.weight_VH.shape[1])
        assert torch.equal(head.weight_VH, built.head.weight_VH)

    def test_states_give_the_models_own_log_probs(self, built: Policy) -> None:
        """State t - 1 times the projection predicts token t: every loss, ratio and KL is computed from it."""
        built.module.eval()
        for row in self.rows(built):
            with torch.no_grad():
                own_TV = torch.log_softmax(self.logits(built, row.ids), dim=-1)
                self.close(
                    self.logp(built, [row]), own_TV[:-1][torch.tensor(row.target)[1:]], "not the model's own log-probs"
                )

    def test_padding_changes_nothing(self, built: Policy) -> None:
        """Rows of a batch are padded on the right: no token may see padding."""
        built.module.eval()
        rows = self.rows(built)
        with torch.no_grad():
            self.close(self.logp(built, rows), torch.cat([self.logp(built, [row]) for row in rows]), "padding is seen")

    def test_order_of_rows_changes_nothing(self, built: Policy) -> None:
        """States come in the order of the batch's target tokens, whatever stands in the other rows."""
        built.module.eval()
        rows = self.rows(built)
        sizes = [sum(r.target) for r in rows]
        with torch.no_grad():
            forward = torch.split(self.logp(built, rows), sizes)
            backward = torch.split(self.logp(built, rows[::-1]), sizes[::-1])[::-1]
        self.close(torch.cat(forward), torch.cat(backward), "rows depend on their neighbours")

    def test_later_tokens_change_nothing(self, built: Policy) -> None:
        """A state that has seen the token it predicts makes training look perfect and sampling useless."""
        built.module.eval()
        ids = self.rows(built)[0].ids
        other = [*ids[:-1], next(i for i in range(self.vocabulary(built)) if i != ids[-1])]
        with torch.no_grad():
            one, two = (self.logp(built, [self.row(row, 1)]) for row in (ids, other))
            self.close(one, two, "a state has seen the token that it predicts")

    def test_packed_rows_do_not_see_each_other(self, built: Policy) -> None:
        """Where positions restart a new document begins; packing must not change any log-prob. Or refuse openly."""
        built.module.eval()
        rows = self.rows(built)
        packed = Row(
            [i for row in rows for i in row.ids],
            [t for row in rows for t in row.target],
            [t for row in rows for t in range(len(row.ids))],
        )
        with torch.no_grad():
            try:
                together = self.logp(built, [packed])
            except UserError as refused:
                pytest.skip(f"it does not pack: {refused.what}")
            apart = torch.cat([self.logp(built, [row]) for row in rows])
            self.close(together, apart, "a packed row sees the one before it")

    def test_targets_only_select(self, built: Policy) -> None:
        """Which tokens are targets decides which states are returned, not what they are."""
        built.module.eval()
        row = self.rows(built)[-1]
        with torch.no_grad():
            every = self.logp(built, [self.row(row.ids, 1)])
            last = self.logp(built, [self.row(row.ids, len(row.ids) - 2)])
        self.close(last, every[-2:], "the choice of targets changes the states")

    def test_same_batch_gives_the_same_states(self, built: Policy) -> None:
        """In evaluation mode nothing is random: PPO's ratio has to be 1 before the first update."""
        built.module.eval()
        with torch.no_grad():
            first = self.logp(built, self.rows(built))
            assert torch.equal(first, self.logp(built, self.rows(built))), "two passes over one batch differ"

    def test_hidden_leaves_no_trace(self, built: Policy) -> None:
        """A forward pass changes neither weights nor mode, keeps no gradient under no_grad and draws nothing."""
        rows = self.rows(built)
        before = weights_of(built.module)
        for training in (True, False):
            built.module.train(training)
            with torch.no_grad():
                assert not built.hidden(TokenBatch.from_rows(rows, built.pad_id, built.device))[0].requires_grad
            assert built.module.training == training, "hidden() changed the module's mode"
        with untouched_global_rng():
            self.logp(built, rows)
        assert changed_weights(before, weights_of(built.module)) == [], "hidden() changed weights"
        assert all(p.grad is None for p in built.module.parameters())

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_every_trainable_weight_gets_a_gradient(self, built: Policy, training: bool) -> None:
        """Stages train whatever has requires_grad, in both modes; a weight without gradient silently never learns."""
        built.module.train(training)
        logp_NV = self.logp(built, self.rows(built))
        assert logp_NV.requires_grad, "nothing is trainable, or hidden() cuts the gradient off"
        torch.autograd.backward(logp_NV.sum())
        trainable = {name: p for name, p in built.module.named_parameters() if p.requires_grad}
        without = [name for name, p in trainable.items() if p.grad is None]
        assert without == [], "weights that require a gradient and get none"
        gradients = [p.grad for p in trainable.values() if p.grad is not None]
        assert all(bool(torch.isfinite(g).all()) for g in gradients)
        assert any(bool(g.any()) for g in gradients)
