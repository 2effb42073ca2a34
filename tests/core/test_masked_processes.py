"""Reductions of a batch that is split over two processes (gloo) against the same batch in one."""

from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from alignkit.loop.config import NormaliseConfig
from alignkit.loop.scores import ScoreNormaliser
from alignkit.masked import Aggregation, token_weights, whiten

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]

LENGTHS = torch.tensor([1, 4, 2, 3, 4, 1])
MASK = torch.arange(4)[None, :] < LENGTHS[:, None]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


def batch() -> Tensor:
    """Values of which the two halves have another mean and deviation."""
    torch.manual_seed(0)
    return torch.randn(6, 4, dtype=torch.float64) * torch.arange(1, 7)[:, None] + torch.arange(6)[:, None]


def results(rows: slice) -> dict[str, Tensor]:
    """All reductions of some rows, by whatever processes there are."""
    x_BT, mask_BT = batch()[rows], MASK[rows]
    normaliser = ScoreNormaliser(NormaliseConfig(mode="running"))
    scores_B = x_BT[:, 0].float()
    found: dict[str, Tensor] = {name: token_weights(mask_BT, name, 8) for name in AGGREGATIONS}
    for scope in ("global", "local"):
        found[f"whiten {scope}"] = whiten(x_BT, mask_BT, scope=scope)
    return found | {"normalised": normaliser(scores_B)}


def worker(rank: int, folder: Path) -> None:
    """Half of the rows."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(results(slice(3 * rank, 3 * rank + 3)), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_reduce_like_one(tmp_path: Path) -> None:
    mp.spawn(worker, (tmp_path,), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    whole = results(slice(0, 6))
    own = [results(slice(0, 3)), results(slice(3, 6))]
    for name in whole:
        joined = torch.cat([half[name] for half in halves])
        expected = torch.cat([half[name] for half in own]) if name == "whiten local" else whole[name]
        assert torch.allclose(joined, expected), name
    assert not torch.allclose(torch.cat([half["whiten global"] for half in own]), whole["whiten global"])
