"""Importance weights between sampler and trainer, against loops."""

import math
from typing import Any

import pytest
import torch

from alignkit.errors import UserError
from alignkit.protocols import Experience
from alignkit.training.importance import importance_weights
from alignkit.training.rollout_config import ImportanceConfig
from helpers.context import make_rollout

LENGTHS = [2, 3]


def experience(llama: Any, with_sampler: bool = True) -> Experience:
    from dataclasses import replace

    rollout = make_rollout(llama, ["a", "b"], [[40, 41], [42, 43, 44]])
    torch.manual_seed(2)
    logp = -torch.rand(2, 3) * rollout.mask_BT
    sampler = (logp + 0.6 * torch.randn(2, 3)) * rollout.mask_BT
    rollout = replace(rollout, sampler_logp_BT=sampler if with_sampler else None)
    zeros = torch.zeros(2, 3)
    return Experience(rollout, rollout.mask_BT, logp, logp, zeros, rollout.mask_BT, None, zeros)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_weights(llama: Any, level: Any, mode: Any) -> None:
    batch = experience(llama)
    config = ImportanceConfig(level=level, mode=mode, max=1.2, min=0.7)
    found, figures = importance_weights(batch, config)
    assert found is not None
    assert batch.rollout.sampler_logp_BT is not None
    raws, cut = [], 0
    for b, n in enumerate(LENGTHS):
        differences = [float(batch.logp_BT[b, t] - batch.rollout.sampler_logp_BT[b, t]) for t in range(n)]
        for t in range(n):
            raw = math.exp(sum(differences) if level == "sequence" else differences[t])
            used = min(raw, 1.2) if mode == "truncate" else raw if 0.7 <= raw <= 1.2 else 0.0
            assert float(found[b, t]) == pytest.approx(used, rel=1e-5)
            raws.append(raw)
            cut += used != raw
        assert not found[b, n:].any()
    assert cut > 0
    assert figures["importance_raw"] == pytest.approx(sum(raws) / 5, rel=1e-5)
    assert figures["importance_raw_max"] == pytest.approx(max(raws), rel=1e-5)
    assert figures["importance_cut"] == pytest.approx(cut / 5)


def test_without_the_option_nothing_and_without_log_probs_an_error(llama: Any) -> None:
    assert importance_weights(experience(llama), None) == (None, {})
    with pytest.raises(UserError, match="needs the sampler's log-probs"):
        importance_weights(experience(llama, with_sampler=False), ImportanceConfig())
