"""`precision: bfloat16`: matrix products in the model run lower, and nothing else does."""

import contextlib
from pathlib import Path

import pytest
import torch

from alignkit.batches import Head
from alignkit.engine.precision import mixed_precision
from alignkit.ops.linear_logprob import project
from alignkit.training.backward import accumulate_gradients
from helpers.models import make_scorer

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def test_products_are_lowered_only_if_asked_for() -> None:
    layer, x = torch.nn.Linear(8, 4), torch.randn(3, 8)
    with mixed_precision(CPU, "bfloat16"):
        assert layer(x).dtype == torch.bfloat16
    with mixed_precision(CPU, "float32"):
        assert layer(x).dtype == torch.float32


def test_weights_changed_inside_the_region_are_used() -> None:
    """A whole training step runs inside one region; autocast's cache would keep the first cast of each weight."""
    layer, x = torch.nn.Linear(8, 4, bias=False), torch.randn(3, 8)
    with mixed_precision(CPU, "bfloat16"):
        assert layer(x).any()
        with torch.no_grad():
            layer.weight.zero_()
        assert not layer(x).any()


def test_projections_and_heads_stay_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vocabulary, scorer = Head(torch.randn(50, 32)), make_scorer(tmp_path / "base")
    h_NH = torch.randn(7, 32)
    with mixed_precision(CPU, "bfloat16"):
        for found in (project(h_NH, vocabulary), scorer.head(h_NH)):
            assert found.dtype == torch.float32
            assert not torch.equal(found, found.bfloat16().float())  # nor was it rounded on the way


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_settings_of_torch_are_put_back(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    with contextlib.suppress(ZeroDivisionError), mixed_precision(CPU, precision):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before
    assert not torch.is_autocast_enabled("cpu")


def test_products_of_a_float32_step_are_in_float32() -> None:
    """Whichever library computes them."""
    generator = torch.Generator().manual_seed(1)
    x, w = torch.randn(300, 256, generator=generator), torch.randn(512, 256, generator=generator)
    with mixed_precision(CPU, "float32"):
        found = torch.nn.functional.linear(x, w)
    exact = x.double() @ w.double().T
    assert float((found - exact).norm() / exact.norm()) < 1e-6


def test_gradients_of_projections_stay_in_float32() -> None:
    """The stages' backward runs inside the region too; it must not round what the forward pass has kept."""
    generator = torch.Generator().manual_seed(0)
    h_NH, weight_VH, slope_NV = (torch.randn(shape, generator=generator) for shape in ((7, 32), (50, 32), (7, 50)))
    weight_VH.requires_grad_()
    with mixed_precision(CPU, "bfloat16"):
        accumulate_gradients((project(h_NH, Head(weight_VH)) * slope_NV).sum())
    assert weight_VH.grad is not None
    truth_VH = slope_NV.double().T @ h_NH.double()
    assert float((weight_VH.grad - truth_VH).abs().max()) < 1e-4  # 0.04 with products of bfloat16


@pytest.mark.parametrize("folder", ["core", "plugins"])
def test_no_stage_calls_backward_itself(folder: str) -> None:
    own = "core/alignkit/training/backward.py"
    files = [p for p in (ROOT / folder).rglob("*.py") if p != ROOT / own and "testing" not in p.parts]
    assert len(files) > 80
    assert [str(p) for p in files if ".backward(" in p.read_text()] == []
