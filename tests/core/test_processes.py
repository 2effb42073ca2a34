"""What one of several processes may not do alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.checkpoints import RowFile
from alignkit.errors import UserError
from alignkit.training.nonfinite import NonFinite
from helpers.ppo import make_loop


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is one of two."""
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)


def watch(folder: Path, policy: Any) -> NonFinite:
    return NonFinite(policy, torch.nn.Linear(1, 1).parameters(), RowFile(folder / "rows.jsonl"), "step fit")


def test_batches_that_are_not_finite_are_not_left_out_by_one_of_two(two: None, tmp_path: Path) -> None:
    watch(tmp_path, "stop")
    with pytest.raises(UserError, match="step fit: on_nonfinite: one of several processes cannot leave anything out"):
        watch(tmp_path, "skip")


def test_alone_it_may(tmp_path: Path) -> None:
    watch(tmp_path, "skip")


@pytest.mark.parametrize("then", ["stop", "skip"])
def test_prompts_without_a_score_are_not_left_out_by_one_of_two(two: None, then: str, context: Any) -> None:
    options: dict[str, Any] = {"reward_faults": {"then": then}}
    if then == "stop":
        assert make_loop(context, **options) is not None
        return
    with pytest.raises(UserError, match=r"reward_faults\.then: one of several processes"):
        make_loop(context, **options)
