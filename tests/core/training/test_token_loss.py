"""The token loss depends on the tokens alone: not on padding, micro-batches, the order of rows or packing."""

import math
import random
from typing import Any

import pytest
import torch

from alignkit.batches import Row, TokenBatch, scatter
from alignkit.errors import Fault, UserError
from alignkit.training.batching import micro_batches, shuffled_batches
from alignkit.training.config import DataTrainingConfig, OptimizerConfig
from alignkit.training.optimizer import Optimizer, rate_factor
from alignkit.training.tokens import accumulate_token_loss, fit_tokens, token_loss
from alignkit_plugins.optim_sft.stage import pack
from helpers.models import assert_same_gradients, gradients, make_policy, plain_logps, random_rows

LENGTHS = [5, 17, 3, 9, 30, 4, 12]


def plain_loss(policy: Any, rows: list[Row]) -> float:
    """Row by row, without padding, in float64 from the model's own logits."""
    logps = [lp for r in rows for lp, t in zip(plain_logps(policy, r.ids).tolist(), r.target[1:], strict=True) if t]
    return -sum(logps) / len(logps)


class TestInvariance:
    def test_loss_equals_the_plain_mean_over_unpadded_rows(self, policy: Any, context: Any) -> None:
        rows = random_rows(300, LENGTHS)
        loss, tokens = accumulate_token_loss(policy, rows, 4096, context)
        assert tokens == sum(LENGTHS) - 2 * len(LENGTHS)
        assert loss == pytest.approx(plain_loss(policy, rows), rel=1e-5)
        assert token_loss(policy, rows, DataTrainingConfig(lr=1.0), context) == pytest.approx(loss, rel=1e-6)

    @pytest.mark.parametrize("max_tokens", [1, 40, 100])
    def test_gradients_do_not_depend_on_micro_batches(self, policy: Any, context: Any, max_tokens: int) -> None:
        rows = random_rows(300, LENGTHS)
        whole = gradients(policy.module, lambda: accumulate_token_loss(policy, rows, 10**6, context))
        split = gradients(policy.module, lambda: accumulate_token_loss(policy, rows, max_tokens, context))
        assert_same_gradients(whole, split)

    def test_gradients_do_not_depend_on_the_order_of_rows(self, policy: Any, context: Any) -> None:
        rows = random_rows(300, LENGTHS)
        other = random.Random(0).sample(rows, len(rows))
        assert_same_gradients(
            gradients(policy.module, lambda: accumulate_token_loss(policy, rows, 60, context)),
            gradients(policy.module, lambda: accumulate_token_loss(policy, other, 60, context)),
        )

    def test_gradients_do_not_depend_on_padding(self, policy: Any, context: Any) -> None:
        """A long row without targets makes all others padded, and adds nothing."""
        rows = random_rows(300, LENGTHS)
        silent = Row(list(range(6, 66)), [False] * 60)
        assert_same_gradients(
            gradients(policy.module, lambda: accumulate_token_loss(policy, rows, 10**6, context)),
            gradients(policy.module, lambda: accumulate_token_loss(policy, [*rows, silent], 10**6, context)),
        )

    def test_the_pad_id_does_not_matter_even_if_it_is_a_real_token(self, policy: Any, context: Any) -> None:
        rows = random_rows(300, LENGTHS)
        first = gradients(policy.module, lambda: accumulate_token_loss(policy, rows, 10**6, context))
        policy.pad_id = 77
        assert_same_gradients(
            first, gradients(policy.module, lambda: accumulate_token_loss(policy, rows, 10**6, context))
        )

    def test_packed_rows_equal_unpacked_rows(self, policy: Any, context: Any) -> None:
        rows = random_rows(300, LENGTHS)
        packed = pack(rows, 40)
        assert len(packed) < len(rows)
        assert sorted(len(r.ids) for r in packed) != [40] * len(packed)  # padding behind packed rows is tried too
        losses: list[float] = []

        def run(some: list[Row]) -> dict[str, torch.Tensor]:
            return gradients(
                policy.module, lambda: losses.append(accumulate_token_loss(policy, some, 10**6, context)[0])
            )

        assert_same_gradients(run(rows), run(packed))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        assert losses[0] == pytest.approx(plain_loss(policy, rows), rel=1e-5)

    def test_packed_and_plain_rows_may_share_a_batch(self, policy: Any, context: Any) -> None:
        rows = random_rows(300, LENGTHS)
        mixed = [*pack(rows[:4], 60), *rows[4:]]
        assert_same_gradients(
            gradients(policy.module, lambda: accumulate_token_loss(policy, rows, 10**6, context)),
            gradients(policy.module, lambda: accumulate_token_loss(policy, mixed, 10**6, context)),
        )


class TestNothingToTrainOn:
    def test_no_target_anywhere_is_reported_before_training(self, llama: Any, context: Any) -> None:
        rows = [Row([7, 8, 9], [False] * 3)]
        with pytest.raises(UserError, match="no row has a token to train on"):
            fit_tokens(llama, rows, [], DataTrainingConfig(lr=1e-3), context)

    def test_a_batch_without_target_is_reported_not_nan(self, llama: Any, context: Any) -> None:
        with pytest.raises(UserError, match="no token to train on"):
            accumulate_token_loss(llama, [Row([7, 8], [False, False])], 100, context)


class TestRoom:
    def test_rows_longer_than_the_context_are_the_users_mistake(self, policy: Any, context: Any) -> None:
        with pytest.raises(UserError, match="longest row has 129 tokens and the model 128 positions"):
            fit_tokens(policy, random_rows(300, [5, 129]), [], DataTrainingConfig(lr=1e-3), context)

    def test_packed_rows_count_by_their_documents(self, policy: Any, context: Any) -> None:
        packed = pack(random_rows(300, [100, 100, 90]), 200)  # with padding behind position 128
        assert fit_tokens(policy, packed, [], DataTrainingConfig(lr=1e-3), context)["steps"] == 1


class TestFit:
    def test_the_logged_loss_is_that_before_each_step_and_training_lowers_it(self, llama: Any, context: Any) -> None:
        rows = random_rows(300, [12] * 8)
        before = token_loss(llama, rows, DataTrainingConfig(lr=1.0), context)
        config = DataTrainingConfig(lr=3e-3, epochs=6, batch_size=8, log_every=1, warmup=0.0)
        result = fit_tokens(llama, rows, rows[:2], config, context)
        logged = [row["loss"] for _, row in context.trackers[0].rows if "loss" in row]
        assert len(logged) == 6
        assert logged[0] == pytest.approx(before, rel=1e-5)
        assert result["loss"] < before
        assert result["steps"] == 6
        assert result["tokens"] == 6 * 80
        assert math.isfinite(result["heldout_loss"])

    def test_micro_batches_do_not_change_the_trained_weights(self, context: Any) -> None:
        rows = random_rows(300, LENGTHS)
        trained = []
        for tokens in (1, 10**6):
            policy = make_policy("gpt2")
            config = DataTrainingConfig(lr=1e-3, epochs=2, batch_size=3, micro_batch_tokens=tokens, eps=1e-3)
            fit_tokens(policy, rows, [], config, context)
            trained.append(policy.module.state_dict())
        for name, value in trained[0].items():
            assert torch.allclose(value, trained[1][name], atol=1e-5), name

    def test_a_part_of_an_epoch_stops_early(self, llama: Any, context: Any) -> None:
        config = DataTrainingConfig(lr=1e-4, epochs=0.5, batch_size=2)
        assert fit_tokens(llama, random_rows(300, [6] * 8), [], config, context)["steps"] == 2


class TestBatching:
    def test_micro_batches_cover_every_row_once_within_the_budget(self) -> None:
        lengths = [random.Random(n).randrange(1, 50) for n in range(200)]
        groups = list(micro_batches(lengths, 100))
        assert sorted(i for g in groups for i in g) == list(range(200))
        assert all(max(lengths[i] for i in g) * len(g) <= 100 for g in groups)
        assert list(micro_batches([500], 100)) == [[0]]

    def test_shuffled_batches_are_a_fresh_permutation_each_time(self) -> None:
        generator = torch.Generator().manual_seed(0)
        one, two = (shuffled_batches(10, 4, generator) for _ in range(2))
        assert [len(b) for b in one] == [4, 4, 2]
        assert sorted(i for b in one for i in b) == list(range(10))
        assert one != two

    def test_a_batch_selects_the_states_that_predict_its_targets(self) -> None:
        rows = [Row([5, 6, 7], [False, True, True]), Row([8, 9], [False, True])]
        batch = TokenBatch.from_rows(rows, 0)
        states = torch.arange(6).view(2, 3)
        assert batch.select(states).tolist() == [0, 1, 3]
        assert batch.targets_N.tolist() == [6, 7, 9]
        assert scatter(torch.tensor([1.0, 2.0, 3.0]), batch.target_BT).tolist() == [[0, 1, 2], [0, 3, 0]]

    @pytest.mark.parametrize("row", [Row([], []), Row([5], [True]), Row([5, 6], [False])])
    def test_rows_that_make_no_sense_are_refused(self, row: Row) -> None:
        with pytest.raises(ValueError, match="a row needs"):
            TokenBatch.from_rows([row], 0)


class TestOptimizer:
    def test_rate_rises_and_falls(self) -> None:
        config = OptimizerConfig(lr=1.0, warmup=0.2, schedule="linear")
        assert [rate_factor(s, 10, config) for s in (0, 1, 2, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
        cosine = OptimizerConfig(lr=1.0, warmup=0.0, schedule="cosine")
        assert [rate_factor(s, 10, cosine) for s in (0, 5)] == pytest.approx([1.0, 0.5])

    def test_the_first_step_is_adams_with_decay_on_matrices_only(self) -> None:
        matrix, vector = (torch.nn.Parameter(torch.full(s, 2.0)) for s in ((2, 2), (2,)))
        config = OptimizerConfig(lr=0.1, weight_decay=0.5, warmup=0.0, schedule="constant", max_grad_norm=100)
        optimizer = Optimizer([matrix, vector], config, 10)
        (3 * matrix.sum() + 3 * vector.sum()).backward()
        assert optimizer.step() == pytest.approx(3 * math.sqrt(6))
        # Adam's first step has size lr whatever the gradient; decay takes lr * 0.5 * weight first.
        assert matrix.detach() == pytest.approx(torch.full((2, 2), 2.0 - 0.1 * 0.5 * 2.0 - 0.1).numpy(), abs=1e-5)
        assert vector.detach() == pytest.approx(torch.full((2,), 2.0 - 0.1).numpy(), abs=1e-5)
        assert matrix.grad is None

    def test_steps_are_adams_with_the_betas_and_eps_of_the_config(self) -> None:
        parameter = torch.nn.Parameter(torch.tensor([[2.0]]))
        config = OptimizerConfig(lr=0.1, betas=(0.5, 0.7), eps=0.3, warmup=0.0, schedule="constant", max_grad_norm=100)
        optimizer = Optimizer([parameter], config, 10)
        x, m, v = 2.0, 0.0, 0.0
        for t, gradient in enumerate((3.0, -1.0, 0.5), 1):  # Kingma and Ba 2015, algorithm 1
            (gradient * parameter.sum()).backward()
            optimizer.step()
            m, v = 0.5 * m + 0.5 * gradient, 0.7 * v + 0.3 * gradient**2
            x -= 0.1 * (m / (1 - 0.5**t)) / (math.sqrt(v / (1 - 0.7**t)) + 0.3)
            assert float(parameter.detach()) == pytest.approx(x, abs=1e-6)

    def test_steps_follow_the_schedule(self) -> None:
        parameter = torch.nn.Parameter(torch.zeros(1, 1))
        optimizer = Optimizer([parameter], OptimizerConfig(lr=0.1, warmup=0.0, schedule="linear"), 4)
        sizes = []
        for _ in range(4):
            before = float(parameter.detach())
            parameter.sum().backward()
            optimizer.step()  # under equal gradients Adam's step is the rate
            sizes.append(before - float(parameter.detach()))
        assert sizes == pytest.approx([0.1, 0.075, 0.05, 0.025], abs=1e-5)

    def test_gradients_are_clipped_to_the_norm(self) -> None:
        parameter = torch.nn.Parameter(torch.zeros(1, 2))
        config = OptimizerConfig(lr=1.0, eps=1.0, warmup=0.0, schedule="constant", max_grad_norm=1.0)
        optimizer = Optimizer([parameter], config, 10)
        (parameter * torch.tensor([[3.0, 4.0]])).sum().backward()
        assert optimizer.step() == pytest.approx(5.0)
        # The first step is g / (|g| + eps) with g = (3, 4) / 5.
        assert parameter.detach().tolist()[0] == pytest.approx([-0.6 / 1.6, -0.8 / 1.8], abs=1e-5)

    def test_a_gradient_that_is_not_finite_is_a_fault(self) -> None:
        parameter = torch.nn.Parameter(torch.ones(2))
        optimizer = Optimizer([parameter], OptimizerConfig(lr=0.1), 1)
        (parameter * float("nan")).sum().backward()
        with pytest.raises(Fault, match="gradient norm is nan"):
            optimizer.step()
        assert torch.equal(parameter.detach(), torch.ones(2))
