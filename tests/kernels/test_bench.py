"""`alignkit bench`: its figures are right, and what it cannot do it says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from alignkit.batches import Head
from alignkit.errors import UserError
from alignkit.ops import OPS
from alignkit_kernels.bench.cases import MAKERS, Setting, error, make_problem
from alignkit_kernels.bench.command import command
from alignkit_kernels.bench.measure import Ceilings, peak_bytes
from alignkit_kernels.bench.run import measure
from alignkit_kernels.bench.shapes import DEFAULTS, Shape, model_shape, parse_shape

CPU = torch.device("cpu")
SMALL = Shape(tokens=48, hidden=16, vocabulary=300, length=12)
FIELDS = {"op", "impl", "dtype", "T", "H", "V", "mask", "p20_ms", "p50_ms", "p80_ms", "peak_bytes", "floor_ms", "error"}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def test_rows_of_every_op_and_implementation(tmp_path: Path) -> None:
    file, plot = tmp_path / "rows.json", tmp_path / "plot.png"
    found = run(
        "--shape", "T=48,H=16,V=300", "--impl", "chunked", "--seconds", "0.01", "--json", str(file), "--plot", str(plot)
    )
    assert found.exit_code == 0
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [row["op"] for row in rows if row["impl"] == "eager"] == list(OPS)
    assert {row["op"] for row in rows if row["impl"] == "chunked"} == {
        "linear_logprob",
        "linear_kl",
        "fused_linear_policy_loss",
    }
    for row in rows:
        assert row.keys() >= FIELDS | {"speedup"}
        assert row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert row["error"] < 1e-4
        assert (row["T"], row["H"], row["V"]) == (48, 16, 300)
        assert row["samples"] >= 3
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "fused_linear_policy_loss" in found.output


@pytest.mark.parametrize("op", OPS)
def test_the_truth_in_parts_is_the_truth(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(op, Setting(SMALL, torch.float32, CPU, masked=0.25))
    whole = problem.truth(SMALL.vocabulary)
    monkeypatch.setattr("alignkit_kernels.bench.cases.TRUTH_ELEMENTS", 7 * SMALL.vocabulary)
    assert error(problem.truth(SMALL.vocabulary), whole) < 1e-12
    assert error(problem.run(OPS[op]), whole) < 1e-4


def test_error_is_relative_to_each_result() -> None:
    gold = [torch.tensor([100.0, -50.0]), torch.tensor([0.01])]
    assert error([torch.tensor([101.0, -50.0]), torch.tensor([0.01])], gold) == pytest.approx(0.01)
    assert error([gold[0], torch.tensor([0.0])], gold) == pytest.approx(1.0)


def test_no_number_and_no_shape_pass_for_right() -> None:
    gold = [torch.ones(5)]
    assert error([torch.full((5,), float("nan"))], gold) == float("inf")
    assert error([torch.tensor([1.0, 1.0, float("inf"), 1.0, 1.0])], gold) == float("inf")
    with pytest.raises(ValueError, match=r"the shape \(5, 1\) and should have \(5,\)"):
        error([torch.ones(5, 1)], gold)


def test_where_each_token_has_its_own_results_some_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit_kernels.bench.cases.CHECKED_TOKENS", 10)
    problem = make_problem("token_logprob", Setting(SMALL, torch.float32, CPU))
    assert [len(x) for x in problem.truth(SMALL.vocabulary)] == [10, 10, 10]
    rows = list(measure("token_logprob", Setting(SMALL, torch.float32, CPU), Ceilings(1e9, 1e9), {"eager": OPS}, 0.01))
    assert rows[0].error is not None
    assert rows[0].error < 1e-5


def test_the_same_inputs_for_a_seed() -> None:
    for op in OPS:
        first, second = (make_problem(op, Setting(SMALL, torch.float32, CPU, seed=3)).inputs for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, torch.Tensor))


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    def work() -> torch.Tensor:
        a = torch.zeros(1000)  # 4 kB
        b = torch.zeros(2000)
        del a
        return torch.cat([b, torch.zeros(500)])

    assert peak_bytes(work, CPU) == 4 * (2000 + 500 + 2500)


def test_floor_is_the_slower_of_products_and_traffic() -> None:
    limits = Ceilings(flops_per_s=1e9, bytes_per_s=1e6)
    assert limits.floor_ms(2e6, 1e3) == pytest.approx(2.0)
    assert limits.floor_ms(1e6, 5e3) == pytest.approx(5.0)
    setting = Setting(SMALL, torch.float32, CPU, masked=0.5)
    assert make_problem("fused_linear_policy_loss", setting).work.flops == 3 * 2 * 24 * 16 * 300
    forward = Setting(SMALL, torch.float32, CPU, backward=False)
    assert make_problem("linear_logprob", forward).work.flops == 2 * 48 * 16 * 300
    assert make_problem("token_logprob", forward).work.bytes == 4 * 48 * 300


def test_an_implementation_that_fails_is_a_row_that_says_so() -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("out of luck\nsecond line")

    setting = Setting(SMALL, torch.float32, CPU)
    found = {"eager": OPS, "wrong": {"gae": broken}}
    rows = list(measure("gae", setting, Ceilings(1e9, 1e9), found, 0.01))
    assert [row.impl for row in rows] == ["eager", "wrong"]
    assert rows[0].p50_ms is not None
    assert (rows[1].p50_ms, rows[1].problem) == (None, "RuntimeError: out of luck")


def test_a_wrong_implementation_has_a_large_error() -> None:
    def doubled(h: Any, head: Head, *rest: Any, **options: Any) -> Any:
        logp, entropy = OPS["linear_logprob"](h, head, *rest, **options)
        return 2 * logp, entropy

    setting = Setting(SMALL, torch.float32, CPU)
    found = {"eager": OPS, "wrong": {"linear_logprob": doubled}}
    eager, wrong = measure("linear_logprob", setting, Ceilings(1e9, 1e9), found, 0.01)
    assert eager.error is not None
    assert eager.error < 1e-5
    assert wrong.error is not None
    assert wrong.error > 0.5


class TestShapes:
    def test_what_is_left_out_is_the_default(self) -> None:
        assert parse_shape("T=8, v=99", DEFAULTS["cpu"]) == Shape(8, 256, 99)

    @pytest.mark.parametrize("text", ["T=0", "T", "T=eight", "X=3", "T=3,T=4", "T=-1", ""])
    def test_anything_else_is_an_error(self, text: str) -> None:
        with pytest.raises(UserError, match="--shape"):
            parse_shape(text, DEFAULTS["cpu"])

    def test_of_a_model(self, llama: Any, tmp_path: Path) -> None:
        llama.module.save_pretrained(tmp_path)
        config = llama.module.config
        assert model_shape(tmp_path, SMALL) == Shape(48, config.hidden_size, config.vocab_size, 12)

    def test_of_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"config\.json"):
            model_shape(tmp_path, SMALL)
        (tmp_path / "config.json").write_text("{}", encoding="utf-8")
        with pytest.raises(UserError, match="no hidden size"):
            model_shape(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gea",), "there is no op 'gea'"),
        (("--impl", "triton"), "kernel 'triton' cannot run here"),
        (("--impl", "tritn"), "no kernel 'tritn'"),
        (("--json", "/nowhere/at/all.json"), "this folder does not exist"),
        (("--plot", "picture.foo"), "no plot can be written as '.foo'"),
        (("--device", "meta"), "no benchmark for meta devices"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert message in str(caught.value)


def test_every_op_has_a_case() -> None:
    assert MAKERS.keys() == OPS.keys()
