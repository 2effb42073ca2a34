"""A loss or gradient that is not finite never reaches the weights; its rows are found, saved and named."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alignkit.checkpoints import RowFile
from alignkit.errors import Fault, UserError
from alignkit.training.config import OptimizerConfig
from alignkit.training.nonfinite import FILE, IN_A_ROW, NonFinite, gradient_norm
from alignkit.training.optimizer import Optimizer
from helpers.ppo import TEXTS, make_experience, make_loop, make_stage

X = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


class Line:
    """Fits y = w x; row `bad` has a loss or only a gradient that is not finite."""

    def __init__(self, folder: Path, policy: Any = "stop", bad: Sequence[int] = (), kind: str = "loss") -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.module.weight, 0.5)
        self.bad, self.kind = bad, kind
        self.totals = {"rows": 0.0}
        self.watch = NonFinite(policy, self.module.parameters(), RowFile(folder / FILE), "step fit", self.describe)
        config = OptimizerConfig(lr=0.1, schedule="linear", warmup=0)
        self.optimizer = Optimizer(self.module.parameters(), config, 20)

    def describe(self, index: int) -> dict[str, str]:
        """A row for people."""
        return {"text": f"row {index}", "source": f"data.jsonl:{index + 1}"}

    def accumulate(self, indices: Sequence[int]) -> dict[str, float]:
        """Gradients of the rows' mean squared error."""
        self.totals["rows"] += len(indices)
        torch.rand(1)  # as dropout draws
        x_B = torch.tensor([X[i] for i in indices])
        loss_B = (self.module.weight.squeeze() * x_B - 2 * x_B).square()
        spoil_B = torch.tensor([math.nan if i in self.bad else 0.0 for i in indices])
        if self.kind == "loss":
            loss_B = loss_B + spoil_B * self.module.weight.squeeze()
        loss = loss_B.mean()
        loss.backward()
        if self.kind == "gradient" and set(self.bad) & set(indices):
            assert self.module.weight.grad is not None
            self.module.weight.grad.fill_(math.inf)
        return {"loss": float(loss.detach()), "accuracy": math.nan}

    def step(self, number: int, indices: Sequence[int]) -> dict[str, float] | None:
        """One optimizer step, as a training loop does it."""
        metrics = self.watch.accumulated(number, indices, self.accumulate, self.totals)
        if metrics is None:
            self.optimizer.skip(1)
        else:
            self.optimizer.step()
        return metrics

    def saved(self) -> list[dict[str, Any]]:
        """Rows of nonfinite.jsonl."""
        return [json.loads(line) for line in self.watch.rows.path.read_text().splitlines()]


def test_a_finite_batch_passes_whatever_its_other_metrics_are(tmp_path: Path) -> None:
    line = Line(tmp_path)
    metrics = line.step(1, [0, 1])
    assert metrics is not None
    assert math.isnan(metrics["accuracy"])
    assert not (tmp_path / FILE).exists()
    assert line.totals == {"rows": 2}


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_stop_names_and_saves_the_rows_and_leaves_weights_and_moments(kind: str, tmp_path: Path) -> None:
    line = Line(tmp_path, bad=[3, 4], kind=kind)
    line.step(1, [0, 1])
    weight, moments = line.module.weight.detach().clone(), line.optimizer.state()
    with pytest.raises(Fault) as caught:
        line.step(2, [5, 3, 0, 4])
    said = str(caught.value)
    assert caught.value.exit_status == 4
    assert f"{'loss' if kind == 'loss' else 'gradient norm'} {'nan' if kind == 'loss' else 'inf'}" in said
    assert "at step 2: 2 of 4 rows, first row 3 (data.jsonl:4), text 'row 3'" in said
    assert str(tmp_path / FILE) in said
    assert "on_nonfinite: skip" in said
    assert [(r["step"], r["index"], r["text"], r["source"]) for r in line.saved()] == [
        (2, 3, "row 3", "data.jsonl:4"),
        (2, 4, "row 4", "data.jsonl:5"),
    ]
    assert all(r["finite"] is False for r in line.saved())
    assert line.saved()[0]["gradient_norm"] in ("nan", "inf")
    assert torch.equal(line.module.weight, weight)
    assert same(line.optimizer.state(), moments)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states of an optimizer are equal."""
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(v), torch.as_tensor(other[k])) for k, v in one.items()
    )


def test_skip_goes_on_as_if_the_batch_had_not_been_but_for_the_schedule(tmp_path: Path) -> None:
    line, without = Line(tmp_path, "skip", bad=[3]), Line(tmp_path / "other", "skip")
    torch.manual_seed(5)
    assert line.step(1, [0, 1]) is not None
    assert line.step(2, [2, 3]) is None
    assert line.module.weight.grad is None
    assert line.step(3, [4, 5]) is not None
    drawn = torch.rand(3)
    torch.manual_seed(5)
    without.step(1, [0, 1])
    torch.rand(1)  # the batch that was left out drew once
    without.optimizer.skip(1)
    without.step(3, [4, 5])
    assert torch.equal(line.module.weight, without.module.weight)
    assert same(line.optimizer.state(), without.optimizer.state())
    assert line.optimizer.taken == 3
    assert torch.equal(drawn, torch.rand(3))
    assert (line.watch.skipped, line.watch.in_a_row) == (1, 0)
    assert line.totals == {"rows": 4}


def test_ten_in_a_row_stop_even_with_skip(tmp_path: Path) -> None:
    line = Line(tmp_path, "skip", bad=[3])
    for number in range(IN_A_ROW - 1):
        assert line.step(number, [3]) is None
    line.step(10, [0])
    again = Line(tmp_path, "skip", bad=[3])
    again.watch.restore(line.watch.state())
    assert again.watch.state() == {"skipped": 9, "in_a_row": 0}
    for number in range(IN_A_ROW - 1):
        again.step(number, [3])
    with pytest.raises(Fault, match=r"10 batches in a row are not finite, the last: loss nan"):
        again.step(19, [3])


def test_a_batch_whose_rows_are_finite_alone_is_saved_whole(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.accumulate = lambda indices: {"loss": math.inf if len(indices) > 1 else 1.0}  # type: ignore[method-assign]
    with pytest.raises(Fault, match="no row of the batch of 3 is alone so"):
        line.step(1, [0, 1, 2])
    assert [r["index"] for r in line.saved()] == [0, 1, 2]


def test_weights_that_are_not_finite_are_not_blamed_on_rows(tmp_path: Path) -> None:
    line = Line(tmp_path)
    nn.init.constant_(line.module.weight, math.nan)
    with pytest.raises(Fault, match="the model's weights are not finite themselves"):
        line.step(1, [0, 1])


def test_a_row_that_has_no_loss_of_its_own_is_no_culprit(tmp_path: Path) -> None:
    line = Line(tmp_path, bad=[1])
    whole = line.accumulate

    def accumulate(indices: Sequence[int]) -> dict[str, float]:
        if list(indices) == [0]:
            raise UserError("a batch has no token to train on")
        return whole(indices)

    line.accumulate = accumulate  # type: ignore[method-assign]
    with pytest.raises(Fault, match="1 of 2 rows, first row 1"):
        line.step(1, [0, 1])


def test_the_norm_is_that_of_all_gradients() -> None:
    module = nn.Linear(3, 2)
    module.weight.grad = torch.arange(6.0).reshape(2, 3)
    expected = math.sqrt(sum(i * i for i in range(6)))
    assert gradient_norm(module.parameters()) == pytest.approx(expected)
    assert gradient_norm(nn.Linear(1, 1).parameters()) == 0


class TestRollouts:
    """The same around the minibatches of PPO."""

    def start(self, context: Any, **options: Any) -> tuple[Any, Any, Any]:
        """A loop, a batch of experience with one bad row, and a stage."""
        loop = make_loop(context)
        experience = make_experience(loop)
        advantages_BT = experience.advantages_BT.clone()
        advantages_BT[3, 0] = math.nan
        stage = make_stage(lr=1e-3, epochs=1, minibatches=4, **options)
        stage.start(loop.policy, loop.reference, loop.critic, 4, context)
        return loop, experience._replace(advantages_BT=advantages_BT), stage

    @pytest.fixture
    def context(self, context: Any, tmp_path: Path) -> Any:
        context.folder = tmp_path
        return context

    def test_the_completion_is_named_and_nothing_is_learned_of_its_minibatch(self, context: Any) -> None:
        loop, experience, stage = self.start(context)
        with pytest.raises(Fault, match=r"policy_loss nan, .*first row 3 \(completion 4 of iteration 1\)") as caught:
            stage.update(experience)
        assert caught.value.where == "step one"
        (row,) = [json.loads(line) for line in (context.folder / FILE).read_text().splitlines()]
        assert row["index"] == 3
        assert row["prompt"] == TEXTS[3]
        assert row["text"] == experience.rollout.texts[3]
        for module in (loop.policy.module, loop.critic.module):
            assert all(bool(torch.isfinite(p).all()) for p in module.parameters())

    def test_skip_takes_the_other_minibatches_and_counts(self, context: Any) -> None:
        loop, experience, stage = self.start(context, on_nonfinite="skip")
        metrics = stage.update(experience)
        assert metrics["skipped"] == 1
        assert math.isfinite(metrics["policy_loss"])
        taken = {owner: optimizer.taken for owner, optimizer in stage._optimizers().items()}
        assert taken == {"policy": 4, "critic": 4}  # the schedule counts what was planned
        steps = [float(s["step"]) for s in stage._policy_optimizer._adam.state.values()]
        assert set(steps) == {3.0}
        for module in (loop.policy.module, loop.critic.module):
            assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
        finite = experience._replace(advantages_BT=experience.advantages_BT.nan_to_num())
        assert stage.update(finite)["skipped"] == 0

    def test_an_update_of_which_nothing_is_left_says_so(self, context: Any) -> None:
        loop, experience, stage = self.start(context, on_nonfinite="skip")
        before = [p.detach().clone() for p in loop.policy.module.parameters()]
        nothing = experience._replace(advantages_BT=torch.full_like(experience.advantages_BT, math.nan))
        metrics = stage.update(nothing)
        assert metrics["skipped"] == 4
        assert "policy_loss" not in metrics
        after = list(loop.policy.module.parameters())
        assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))

    def test_counts_are_part_of_the_state(self, context: Any) -> None:
        loop, experience, stage = self.start(context, on_nonfinite="skip")
        stage.update(experience)
        again = make_stage(lr=1e-3, epochs=1, minibatches=4, on_nonfinite="skip")
        again.start(loop.policy, loop.reference, loop.critic, 4, context)
        again.restore(stage.state())
        assert again._watch.state() == stage._watch.state() == {"skipped": 1, "in_a_row": 0}

    def test_an_iteration_that_is_passed_over_moves_the_schedule_alone(self, context: Any) -> None:
        loop, _, stage = self.start(context)
        before = [p.detach().clone() for p in loop.policy.module.parameters()]
        stage.pass_over()
        assert stage.iteration == 1
        assert {o.taken for o in stage._optimizers().values()} == {4}
        assert all(torch.equal(b, a) for b, a in zip(before, loop.policy.module.parameters(), strict=True))

    def test_during_the_critics_warm_up_the_policys_schedule_stands_still(self, context: Any) -> None:
        _, _, stage = self.start(context, critic_warmup=1)
        stage.pass_over()
        assert {name: o.taken for name, o in stage._optimizers().items()} == {"policy": 0, "critic": 4}
