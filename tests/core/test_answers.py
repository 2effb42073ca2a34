"""What a stranger's component gives back in a wrong form is said with its name, before it fails in code of ours."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignkit.answers import checked_advantages, checked_hidden, checked_metrics, checked_output
from alignkit.batches import Head, Row, TokenBatch
from alignkit.errors import Fault
from alignkit.protocols import StepOutput

WHO = "dist 1.0: advantage 'odd'"
LIKE_BT = torch.zeros(2, 3)
MANY = torch.zeros(5000)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "returned None, not advantages and returns"),
        (LIKE_BT, r"returned a Tensor of shape \(2, 3\), not advantages and returns"),
        ((LIKE_BT, LIKE_BT, LIKE_BT), "returned a tuple of 3, not"),
        ((LIKE_BT, None), "returned returns that are None, not a tensor"),
        ((torch.zeros(2), LIKE_BT), r"returned advantages that are of shape \(2,\), not \(2, 3\)"),
    ],
)
def test_what_is_no_advantages_and_returns(found: Any, said: str) -> None:
    with pytest.raises(Fault, match=rf"^{WHO} {said}"):
        checked_advantages(found, LIKE_BT, WHO)


def test_what_keeps_to_the_protocol_is_given_on_as_it_is() -> None:
    found = torch.ones(2, 3), torch.zeros(2, 3)
    assert checked_advantages(list(found), LIKE_BT, WHO)[0] is found[0]
    metrics = {"loss": 1, "kl": torch.tensor(0.5), "share": float("nan")}
    assert checked_metrics(metrics, WHO) == metrics


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "returned None, not a dict of figures"),
        ([("loss", 1.0)], "returned a list of 1, not a dict"),
        ({"loss": "low"}, "returned a str as figure 'loss', not a number"),
        ({"loss": MANY}, r"returned a Tensor of shape \(5000,\) as figure 'loss'"),
        ({"loss": None}, "returned None as figure 'loss'"),
    ],
)
def test_what_is_no_metrics(found: Any, said: str) -> None:
    with pytest.raises(Fault, match=rf"^{WHO} {said}") as caught:
        checked_metrics(found, WHO)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "None, not hidden states"),
        (torch.zeros(2, 4), r"a Tensor of shape \(2, 4\), not hidden states"),
        ((torch.zeros(2, 4), torch.zeros(9, 4)), "a tuple of 2, not hidden states and a Head"),
        ((torch.zeros(1, 3, 4), Head(torch.zeros(9, 4))), r"states that are of shape \(1, 3, 4\), not \(2, 4\)"),
        ((torch.zeros(2, 5), Head(torch.zeros(9, 4))), r"states that are of shape \(2, 5\), not \(2, 4\)"),
        ((torch.zeros(3, 4), Head(torch.zeros(9, 4))), r"states that are of shape \(3, 4\), not \(2, 4\)"),
    ],
)
def test_what_is_no_hidden_states_of_the_batch(found: Any, said: str) -> None:
    class Odd:
        def hidden(self, batch: TokenBatch) -> Any:
            return found

    batch = TokenBatch.from_rows([Row([5, 6, 7], [False, True, True])], 0, torch.device("cpu"))
    policy: Any = Odd()
    with pytest.raises(Fault, match=rf"the policy .*Odd \(.*\) returned {said}"):
        checked_hidden(policy, batch)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "returned None, not a StepOutput"),
        (SimpleNamespace(outputs={}, summary={}), "returned a SimpleNamespace, not a StepOutput"),
        (StepOutput(["model"], {}), "outputs returned a list of 1, not a dict"),  # type: ignore[arg-type]
        (StepOutput({"policy": "model"}, {}), "names 'model' as its part 'policy', which is not there"),
        (StepOutput({"": "."}, None), "summary returned None, not a dict"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_output_of_a_step(found: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=said):
        checked_output(found, tmp_path, WHO)
    (tmp_path / "model").mkdir()
    right = StepOutput({"": ".", "policy": "model"}, {"x": 1})
    assert checked_output(right, tmp_path, WHO) is right
