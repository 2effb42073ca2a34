"""Normalisation of scores against numpy, and the order of what happens to them."""

from typing import Any

import numpy as np
import pytest
import torch

from alignkit.loop.config import LoopConfig, MissingStopConfig, NormaliseConfig
from alignkit.loop.scores import ScoreNormaliser, final_scores
from helpers.context import make_rollout

BATCHES = [torch.tensor([1.0, 4.0, 2.5]), torch.tensor([-3.0, 8.0]), torch.tensor([0.5, 0.5, 7.0, 1.0])]


def test_running_statistics_are_those_of_all_scores_so_far() -> None:
    normaliser = ScoreNormaliser(NormaliseConfig(mode="running"))
    for n, batch in enumerate(BATCHES):
        found = normaliser(batch)
        seen = np.concatenate([b.numpy() for b in BATCHES[: n + 1]])
        assert np.allclose(found.numpy(), (batch.numpy() - seen.mean()) / seen.std(), atol=1e-5)


def test_reference_modes_keep_the_statistics_they_were_given() -> None:
    seen = BATCHES[0].numpy()
    for mode, scale in (("reference", seen.std()), ("reference_mean", 1.0)):
        normaliser = ScoreNormaliser(NormaliseConfig(mode=mode))  # type: ignore[arg-type]
        normaliser.observe(BATCHES[0])
        for batch in BATCHES:
            assert np.allclose(normaliser(batch).numpy(), (batch.numpy() - seen.mean()) / scale, atol=1e-5)


def test_a_frozen_copy_learns_nothing_and_equal_scores_do_not_divide_by_zero() -> None:
    normaliser = ScoreNormaliser(NormaliseConfig(mode="running"))
    normaliser(torch.tensor([2.0, 2.0]))
    frozen = normaliser.frozen()
    assert frozen(torch.tensor([5.0])).tolist() == [3.0]
    assert (frozen.mean, frozen.count, normaliser.count) == (2.0, 2, 2)


def test_scores_are_normalised_then_clipped_then_penalised(llama: Any) -> None:
    rollout = make_rollout(llama, ["a", "b"], [[40, llama.encoder.end_id], [41, 42]])
    normaliser = ScoreNormaliser(NormaliseConfig(mode="reference"))
    normaliser.observe(torch.tensor([0.0, 20.0]))  # mean 10, deviation 10
    config = LoopConfig(iterations=1, clip_score=1.5, missing_stop=MissingStopConfig(mode="subtract", value=1.0))
    assert final_scores(torch.tensor([60.0, 60.0]), rollout, normaliser, config).tolist() == pytest.approx([1.5, 0.5])
