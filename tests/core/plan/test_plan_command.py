"""`alignkit plan`: every step of a recipe with what is known before it runs, and nothing touched on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from alignkit.cli import cli
from alignkit.plan.shape import shape_of
from alignkit.plan.work import Rows, forward_flops

NANO = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
    "num_attention_heads": 2, "vocab_size": 300, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
RECIPE = """
name: planned
policy:
  name: causal_lm
  init: {preset: nano, max_position_embeddings: 64}
  tokenizer: {train_on: "@corpus", vocab_size: 300}
steps:
  - {id: corpus, step: data, format: {name: film_world}}
  - {id: sft, step: train, data: "@corpus",
     optimizer_stage: {name: sft, batch_size: 8, max_length: 32, micro_batch_tokens: 64}}
  - {id: reward, step: train, policy: "@sft", data: "@corpus",
     optimizer_stage: {name: reward_model, batch_size: 4, max_length: 32}}
  - {id: aligned, step: align, policy: "@sft", prompts: "@corpus",
     reward_source: {name: reward_model, model: "@reward"}, critic_init: "@reward",
     optimizer_stage: {name: ppo, epochs: 2, minibatches: 2}, iterations: 5, batch_size: 8,
     max_prompt_length: 16, sampling: {max_length: 16, temperature: 1.0}}
  - {id: report, step: evaluate, policy: "@aligned", prompts: "@corpus", sampling: {max_length: 16},
     judge: film_taste, limit: 10}
"""
CARD = ("--device-memory", "1G", "--flops", "1G", "--bandwidth", "1G", "--interconnect", "1M", "--utilisation", "0.5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planned.yaml").write_text(RECIPE)
    return tmp_path


def plan(*arguments: str) -> dict[str, Any]:
    """The steps by id."""
    result = CliRunner().invoke(cli, ["plan", "planned.yaml", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = json.loads(result.stdout)
    return {**data, "steps": {step["id"]: step for step in data["steps"]}}


def test_every_step_is_planned_or_named_and_nothing_is_written(folder: Path) -> None:
    found = plan()
    assert list(found["steps"]) == ["sft", "reward", "aligned", "report"]
    assert found["not_counted"] == ["corpus"]
    assert [path.name for path in folder.iterdir()] == ["planned.yaml"]
    assert "seconds" not in found["steps"]["sft"]


def test_what_each_step_computes(folder: Path) -> None:
    shape = shape_of(NANO)
    steps = plan()["steps"]
    work = {id: {one["name"]: one["flops"] for one in step["work"]} for id, step in steps.items()}
    assert work["sft"] == {"update": 3 * forward_flops(shape, Rows(8, 32, 32))}
    # Two sides of 4 pairs, without the projection.
    assert work["reward"] == {"update": 3 * forward_flops(shape, Rows(8, 32, 0))}
    answered, valued = forward_flops(shape, Rows(8, 32, 16)), forward_flops(shape, Rows(8, 32, 0))
    expected = {"log-probs": answered, "reference": answered, "values": valued, "scores (@reward)": valued}
    expected |= {"update": 2 * 3 * answered, "critic": 2 * 3 * valued}
    aligned = work["aligned"]
    assert aligned.pop("sampling") > forward_flops(shape, Rows(8, 16, 0))
    assert aligned == pytest.approx(expected)
    assert steps["aligned"]["units"] == 5


def test_an_evaluation_holds_and_draws_from_both_and_how_many_prompts_may_not_be_known(folder: Path) -> None:
    alone, both, open_ended = (
        plan("--step", "report", *more)["steps"]["report"]
        for more in ((), ("report.against=@sft",), ("report.against=@sft", "report.limit=null"))
    )
    assert [(one["per"], one["units"]) for one in (alone, both, open_ended)] == [
        ("10 completions", 1), ("20 completions", 1), ("batch of 256 completions", None),
    ]  # fmt: skip
    assert both["work"][0]["flops"] == pytest.approx(2 * alone["work"][0]["flops"])
    assert both["parts"]["model compared with"] == both["parts"]["model"] == alone["parts"]["model"]
    assert both["parts"]["sampling"] == alone["parts"]["sampling"] < open_ended["parts"]["sampling"]
    assert "how many batches, the data says" in open_ended["assumed"]


def test_two_processes_divide_what_is_trained(folder: Path) -> None:
    one, two = plan()["steps"], plan("--processes", "2")["steps"]
    for id, part in (("sft", "weights, gradients and moments"), ("aligned", "policy"), ("aligned", "critic")):
        assert two[id]["parts"][part] == pytest.approx(one[id]["parts"][part] / 2, abs=1)
    assert two["aligned"]["parts"]["scoring model @reward"] == one["aligned"]["parts"]["scoring model @reward"]
    assert {w["exchanged_per_process"] for step in one.values() for w in step["work"]} == {0}
    assert all(w["exchanged_per_process"] > 0 for w in two["sft"]["work"])
    assert [w["flops"] for w in two["sft"]["work"]] == [w["flops"] for w in one["sft"]["work"]]
    # One process alone draws for a report.
    assert two["report"]["memory_per_process"] == one["report"]["memory_per_process"]
    seconds = [plan(*CARD, "--processes", n)["steps"]["report"]["seconds"] for n in ("1", "2")]
    assert seconds[0] == pytest.approx(seconds[1])


def test_times_fit_and_bottleneck(folder: Path) -> None:
    steps = plan(*CARD)["steps"]
    sft = steps["sft"]
    assert sft["seconds"] == pytest.approx(sft["work"][0]["flops"] / 0.5e9)
    assert (sft["bottleneck"], sft["bound_by"], sft["fits"]) == ("update", "compute", True)
    assert plan(*CARD, "--device-memory", "1M")["steps"]["sft"]["fits"] is False
    slow = plan(*CARD, "--processes", "2", "--interconnect", "10K")["steps"]["sft"]
    assert slow["bound_by"] == "network"


def test_adapters_need_no_second_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(NANO))
    lora = ("policy.init=null", "policy.tokenizer=null", "policy.path=.", "policy.lora.rank=2")
    aligned = plan(*lora, "--processes", "2")["steps"]["aligned"]
    assert "reference" not in aligned["parts"]
    work = {one["name"]: one for one in aligned["work"]}
    assert work["log-probs"]["exchanged_per_process"] == 0
    assert work["update"]["flops"] == pytest.approx(2 * 2 * forward_flops(shape_of(NANO), Rows(8, 32, 16)))


def test_a_model_by_its_config_and_lengths(folder: Path) -> None:
    (folder / "big.json").write_text(json.dumps({**NANO, "num_hidden_layers": 20}))
    big = plan("--model-config", "big.json", "--row-tokens", "10", "--prompt-tokens", "7")["steps"]
    shape = shape_of({**NANO, "num_hidden_layers": 20})
    assert big["sft"]["work"][0]["flops"] == 3 * forward_flops(shape, Rows(8, 10, 10))
    assert big["aligned"]["assumed"] == ["prompts of 7 tokens, answers of 16"]


def test_prompts_and_rows_fit_the_positions_and_what_is_assumed_is_said(folder: Path) -> None:
    unsaid = "aligned.max_prompt_length=null"
    (folder / "wide.json").write_text(json.dumps({**NANO, "max_position_embeddings": 4096}))
    wide = plan("--model-config", "wide.json", unsaid)["steps"]
    narrow = plan(unsaid, "reward.optimizer_stage.max_length=100")["steps"]
    assert wide["aligned"]["assumed"] == [
        "prompts of 256 tokens, answers of 16", "the recipe does not say how long prompts are",
    ]  # fmt: skip
    assert narrow["aligned"]["assumed"] == [
        "prompts of 48 tokens, answers of 16", "prompts fill what the answers leave of the model's 64 positions",
    ]  # fmt: skip
    assert narrow["reward"]["assumed"][:2] == ["rows of 64 tokens", "rows fill the model's 64 positions"]
    shape = shape_of(NANO)
    assert narrow["reward"]["work"][0]["flops"] == 3 * forward_flops(shape, Rows(8, 64, 0))
    scores = {one["name"]: one["flops"] for one in narrow["aligned"]["work"]}["scores (@reward)"]
    assert scores == forward_flops(shape, Rows(8, 64, 0))


def test_the_text_says_what_it_is(folder: Path) -> None:
    shown = CliRunner().invoke(cli, ["plan", "planned.yaml", "--machine", "h100x8", "--nodes", "2"]).output
    assert shown.startswith("computed, not measured, for 16 processes, each with 80 GB, 67 TFLOP/s")
    alone = CliRunner().invoke(cli, ["plan", "planned.yaml", "--step", "aligned"]).output
    assert "aligned (align)" in alone
    assert "sft (train)" not in alone
    for said in ("fits", "bound by", "aligned (align), iteration of 8", "not counted", "5 of them"):
        assert said in shown
    assert "DOES NOT FIT" in CliRunner().invoke(cli, ["plan", "planned.yaml", *CARD, "--device-memory", "1M"]).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model-config", "none.json"], "none.json: there is no such file"),
        (["--model-config", "planned.yaml"], "planned.yaml: the config is not JSON"),
        (["--device-memory", "24"], "such as 24G"),
        (["--flops", "165"], "such as 165T"),
        (["--bandwidth", "1.0"], "such as 1.0T"),
        (["--prompt-tokens", "49", "--step", "aligned"], "at most 48"),
        (["--row-tokens", "65", "--step", "sft"], "at most 64"),
        (["aligned.sampling.max_length=64", "aligned.max_prompt_length=null"], "leave no room for a prompt"),
        (["--nodes", "2"], "--machine h100x8"),
        (["--machine", "abacus"], "no device"),
        (["--machine", "h100x0"], "no device 'h100x0'"),
        (["--machine", "h100x8", "--processes", "16"], "16 processes, and the machines have 8 devices"),
        (["--step", "alinged"], "no step 'alinged'"),
        (["policy.init=null", "policy.tokenizer=null", "policy.path=some/hub-name"], "--model-config"),
    ],
)
def test_mistakes_are_said(arguments: list[str], said: str, folder: Path) -> None:
    result = CliRunner().invoke(cli, ["plan", "planned.yaml", *arguments], standalone_mode=False)
    assert said in f"{result.output} {result.exception}"
    assert result.exception is not None
