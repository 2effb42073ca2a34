"""Before a run and before a step: what is looked at, what is said, and that nothing is changed by it."""

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.context import StepContext
from alignkit.data.store import write_records
from alignkit.engine import run_recipe
from alignkit.engine.ledger import Ledger
from alignkit.engine.unchanged import Unchanged
from alignkit.errors import UserError
from alignkit.files import json_safe
from alignkit.preflight import CODES, Finding, before_run, before_step, moments
from alignkit.preflight.guard import without_effect
from alignkit.preflight.looking import NotYetError, each, look_at
from alignkit.recipe import load_recipe
from alignkit.records import Demonstration
from helpers.context import make_context
from helpers.models import make_policy, make_tokenizer
from helpers.preflight import codes, with_code

RECIPE = """
name: mine
output: {output}
policy: {{name: causal_lm, path: {model}}}
steps:
  - {{id: data, step: data, format: {{name: prompt_completion, also_prompts: true}}, files: {rows}}}
  - id: sft
    step: train
    optimizer_stage: {{name: sft, max_length: {max_length}}}
    data: "@data"
  - {{id: labels, step: collect, policy: "@sft", prompts: "@data", reward_source: simulated, samples_per_prompt: 2}}
  - id: reward
    step: train
    policy: "@sft"
    optimizer_stage: {{name: reward_model, lr: 0.5}}
    data: "@labels"
"""


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    moments._said.clear()


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """`recipe(max_length=…)` writes recipe, model and rows and loads the recipe."""
    make_policy("llama", make_tokenizer()).save(tmp_path / "model")
    rows = [{"prompt": f"the film {n}", "completion": f" is number {n}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def load(max_length: int = 64, *overrides: str) -> Any:
        names = {"model": tmp_path / "model", "rows": tmp_path / "rows.jsonl", "output": tmp_path / "runs"}
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(**names, max_length=max_length))
        return load_recipe(str(tmp_path / "recipe.yaml"), overrides)

    return load


class TestBeforeRun:
    """Everything that can be known without doing anything."""

    def test_later_steps_are_looked_at_with_the_first_rows_of_the_files(self, recipe: Any, tmp_path: Path) -> None:
        found = before_run(recipe(max_length=7))
        error = with_code(found, "R020")
        assert error.where == f"{tmp_path}/recipe.yaml:9 (sft.optimizer_stage.max_length)"
        assert "40 of 40 rows" in error.what
        rate = with_code(found, "R040")  # an option alone, though its data are not there
        assert rate.where == f"{tmp_path}/recipe.yaml:15 (reward.optimizer_stage.lr)"
        assert with_code(found, "R004").what == "reward (needs @labels)"
        assert [f.severity for f in found] == sorted(
            [f.severity for f in found], key=["error", "warning", "note"].index
        )

    def test_rows_of_a_preview_are_named_by_step_and_record(self, recipe: Any, tmp_path: Path) -> None:
        loaded = recipe(64, "sft.optimizer_stage={name: sft, max_length: 7, too_long: error}")
        found = with_code(before_run(loaded), "R023")
        assert found.where == "@data.demonstrations, record 1 (step sft)"

    def test_nothing_is_written_and_no_generator_moves(self, recipe: Any, tmp_path: Path) -> None:
        loaded = recipe()
        before = sorted(tmp_path.rglob("*"))
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        expected = [random.random(), np.random.rand(), float(torch.rand(()))]
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        first = before_run(loaded)
        assert [random.random(), np.random.rand(), float(torch.rand(()))] == expected
        assert sorted(tmp_path.rglob("*")) == before
        shown = [f.data() for f in first if f.code != "R064"]  # free memory changes
        assert shown == [f.data() for f in before_run(loaded) if f.code != "R064"]

    def test_finished_steps_count_as_inputs(self, recipe: Any, tmp_path: Path) -> None:
        loaded = recipe()
        folder = tmp_path / "runs" / "mine" / "r1" / "01-data"
        write_records(folder / "demonstrations.jsonl", [Demonstration(prompt="the film", completion=" good" * 200)])
        step = loaded.recipe.steps[0]
        identity = json_safe(Unchanged(loaded, folder).identity(Ledger(folder), step, 1))
        manifest = {"id": "data", "round": 1, "hash": "", "identity": identity, "status": "finished", "started": "",
                    "outputs": {"": ".", "demonstrations": "demonstrations.jsonl"}}  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
        found = with_code(before_run(loaded), "R020")
        assert "1 of 1 row" in found.what

    def test_a_finished_step_of_another_recipe_is_an_error_and_hides_nothing(self, recipe: Any, tmp_path: Path) -> None:
        changed = recipe(max_length=7)
        rows, first = tmp_path / "x.jsonl", tmp_path / "first.yaml"
        rows.write_text('{"prompt": "a", "completion": "b"}\n')
        text = (tmp_path / "recipe.yaml").read_text().partition("  - id: sft")[0]
        first.write_text(text.replace(f"{tmp_path}/rows.jsonl", str(rows)))
        run_recipe(load_recipe(str(first)))
        assert codes(before_run(load_recipe(str(first)))) == ["R070"]
        found = before_run(changed)
        error = with_code(found, "R075")
        assert f"data.files changed from '{rows}' to '{tmp_path}/rows.jsonl'" in error.what
        assert with_code(found, "R020").what.startswith("40 of 40")  # of the new rows, not of what is finished
        with pytest.raises(UserError) as stopped:
            run_recipe(changed)
        assert (stopped.value.what, stopped.value.where) == (error.what, error.where)
        assert "R075" not in codes(before_run(changed, again=lambda number, round: True))
        rows.write_text('{"prompt": "a", "completion": "c"}\n')
        assert (
            f"the file {rows} of step 'data' has another content"
            in with_code(before_run(load_recipe(str(first))), "R075").what
        )

    def test_steps_that_are_known_not_to_work_are_left_out(self, recipe: Any) -> None:
        assert "R020" not in codes(before_run(recipe(max_length=7), leave_out=frozenset({"sft"})))

    def test_a_new_model_is_known_by_its_options(self, tmp_path: Path) -> None:
        (tmp_path / "new.yaml").write_text(
            "name: new\npolicy: {name: causal_lm, init: {preset: nano, max_position_embeddings: 64}, "
            "tokenizer: {train_on: '@data'}}\nsteps:\n"
            "  - {id: data, step: data, format: {name: film_world, rows: 10}}\n"
            "  - {id: base, step: train, optimizer_stage: {name: pretrain, block_length: 65}, data: '@data'}\n"
            "  - {id: labels, step: collect, policy: '@base', prompts: '@data', reward_source: simulated,\n"
            "     sampling: {max_length: 64}}\n"
        )
        found = before_run(load_recipe(str(tmp_path / "new.yaml"), [f"output={tmp_path}"]))
        assert with_code(found, "R024").where == f"{tmp_path}/new.yaml:5 (base.optimizer_stage.block_length)"
        assert with_code(found, "R030").where == f"{tmp_path}/new.yaml:7 (labels.sampling.max_length)"

    def test_without_a_temporary_folder_less_is_known(self, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, records: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("alignkit.preflight.previews.write_records", full)
        found = before_run(recipe(max_length=7))
        assert "sft (needs @data)" in with_code(found, "R004").what

    def test_a_preview_does_not_pass_for_the_whole(
        self, recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = recipe(64, "sft.optimizer_stage={name: sft, batch_size: 41}")
        assert "there are 40 rows" in with_code(before_run(loaded), "R029").what
        # of each row a demonstration and a prompt
        monkeypatch.setattr("alignkit_plugins.step_data.examine.READ", 20)
        assert "R029" not in codes(before_run(loaded))
        loaded = recipe(64, "sft.optimizer_stage={name: sft, max_length: 7}")
        assert "10 of 10 rows looked at (of 10 or more)" in with_code(before_run(loaded), "R020").what

    def test_a_preview_without_the_records_of_other_steps_does_not_pass_for_the_whole(
        self, tmp_path: Path, recipe: Any
    ) -> None:
        recipe()
        (tmp_path / "two.yaml").write_text(
            f"name: two\noutput: {tmp_path}/runs\npolicy: {{name: causal_lm, path: {tmp_path}/model}}\nsteps:\n"
            f"  - {{id: first, step: data, format: prompt_completion, files: {tmp_path}/rows.jsonl}}\n"
            f"  - {{id: data, step: data, format: prompt_completion, files: {tmp_path}/rows.jsonl, limit: 5,\n"
            "     parts_from: ['@first']}\n"
            "  - {id: sft, step: train, optimizer_stage: {name: sft, batch_size: 45}, data: '@data'}\n"
        )
        path = str(tmp_path / "two.yaml")
        assert "R029" not in codes(before_run(load_recipe(path, [])))
        assert "there are 5 rows" in with_code(before_run(load_recipe(path, ["data.parts_from=[]"])), "R029").what

    def test_a_part_that_no_row_gives_is_missed_before_the_run(self, recipe: Any, tmp_path: Path) -> None:
        loaded = recipe(64, "sft.optimizer_stage={name: reward_model}")
        missing = with_code(before_run(loaded), "R002")
        assert missing.what == "step 'data' will have no part 'preferences'"
        assert missing.advice == "its parts: demonstrations, prompts"
        assert missing.where == f"{tmp_path}/recipe.yaml:7 (sft)"

    def test_prompts_that_are_all_empty_are_the_reason(self, recipe: Any, tmp_path: Path) -> None:
        loaded = recipe(64, "data.format={name: preference, also_demonstrations: true, also_prompts: true}")
        rows = [{"prompt": "", "chosen": f"number {n}", "rejected": "none"} for n in range(40)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        missing = with_code(before_run(loaded), "R002")
        assert missing.what == "step 'data' will have no part 'prompts': the prompts of all 40 preferences are empty"
        assert missing.where == f"{tmp_path}/recipe.yaml:11 (labels)"

    def test_one_cause_is_one_finding(self, tmp_path: Path) -> None:
        pairs = [{"prompt": "p", "chosen": f"{n}", "rejected": f"{n} no"} for n in range(20)]
        turned = {"prompt": "p", "chosen": "3 no", "rejected": "3"}
        rows = [*pairs, pairs[0], turned]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "pairs.yaml").write_text(
            f"name: pairs\noutput: {tmp_path}/runs\npolicy: {{name: causal_lm, path: some-owner/model}}\nsteps:\n"
            "  - {id: data, step: data, format: {name: preference, also_demonstrations: true}, "
            f"files: {tmp_path}/rows.jsonl}}\n"
            "  - {id: sft, step: train, optimizer_stage: sft, data: '@data'}\n"
            "  - {id: dpo, step: train, optimizer_stage: dpo, data: '@data'}\n"
        )
        found = before_run(
            load_recipe(
                str(tmp_path / "pairs.yaml"),
                ["sft.optimizer_stage={name: sft, lr: 1e-5}", "dpo.optimizer_stage={name: dpo, lr: 1e-6}"],
            )
        )
        repeated = with_code(found, "R026").what
        assert "preferences: 1 of 22 rows" in repeated
        assert "demonstrations: 1 of 22 rows" in repeated
        assert "preferences: 1 of 22 rows say the opposite of an earlier one" in with_code(found, "R034").what

    def test_repeated_rows_are_no_matter_where_they_are_left_out(self, recipe: Any, tmp_path: Path) -> None:
        recipe()
        rows = (tmp_path / "rows.jsonl").read_text()
        (tmp_path / "rows.jsonl").write_text(rows + "\n" + rows)
        found = [f.where for f in before_run(recipe()) if f.code == "R026"]
        assert found == [f"{tmp_path}/recipe.yaml:6 (data.files)"]  # and not again at the step that reads them
        left = before_run(recipe(64, "data.drop_duplicates=true", "sft.optimizer_stage={name: sft, batch_size: 41}"))
        assert "R026" not in codes(left)
        assert "there are 40 rows" in with_code(left, "R029").what

    def test_a_model_that_is_on_no_disk_yet_is_said(self, recipe: Any) -> None:
        found = before_run(recipe(7, "policy.path=some-owner/some-model"))
        assert "sft (needs some-owner/some-model)" in with_code(found, "R004").what

    def test_a_damaged_manifest_is_named(self, recipe: Any, tmp_path: Path) -> None:
        loaded = recipe()
        folder = tmp_path / "runs" / "mine" / "r1" / "01-data"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("[]")
        found = with_code(before_run(loaded), "R075")  # as in the run
        assert found.where == str(folder / "manifest.json")
        assert "--from data" in found.advice

    def test_a_run_with_an_error_does_not_start(
        self, recipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(UserError, match="R020 40 of 40 rows") as stopped:
            run_recipe(recipe(max_length=7))
        assert stopped.value.exit_status == 2
        assert not (tmp_path / "runs" / "mine").exists()
        assert [r.message.split(":")[0] for r in caplog.records if r.levelname == "WARNING"] == ["R040 warning"]


class Saying:
    """A step that says what it is told to, then may fail."""

    def __init__(self, *findings: Finding, then: Exception | None = None) -> None:
        self.findings = findings
        self.then = then

    def examine(self, context: StepContext) -> Iterator[Finding]:
        """What it was told."""
        torch.rand(3)
        yield from self.findings
        if self.then is not None:
            raise self.then


WARNING, NOTE, ERROR = (
    Finding("R040", "lr is 1", "lr"),
    Finding("R022", "one row"),
    Finding("R020", "all rows", "a/b:1"),
)


class TestBeforeStep:
    """Right before a step runs."""

    def test_findings_are_logged_once_and_written(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        context = make_context(tmp_path)
        torch.manual_seed(3)
        expected = torch.rand(2).tolist()
        torch.manual_seed(3)
        with caplog.at_level(logging.INFO, "alignkit"):
            before_step(Saying(NOTE, WARNING), context)
            before_step(Saying(NOTE, WARNING), context)
        assert torch.rand(2).tolist() == expected
        assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
        assert "R040 warning: step one, lr: lr is 1 -> for fine-tuning" in caplog.records[0].message
        written = json.loads((tmp_path / "findings.json").read_text())
        assert [(f["code"], f["severity"]) for f in written] == [("R040", "warning"), ("R022", "note")]
        assert written[0].keys() == {"code", "severity", "where", "what", "advice"}

    def test_every_error_stops_the_run_and_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError) as stopped:
            before_step(Saying(WARNING, ERROR, Finding("R016", "ids")), make_context(tmp_path))
        assert "R020 all rows" in str(stopped.value)
        assert "R016 ids" in str(stopped.value)
        assert stopped.value.where == "a/b:1 (step one)"
        assert len(json.loads((tmp_path / "findings.json").read_text())) == 3

    def test_a_step_without_examine_is_left_alone(self, tmp_path: Path) -> None:
        before_step(object(), make_context(tmp_path))
        assert json.loads((tmp_path / "findings.json").read_text()) == []


class TestLooking:
    """What a step fails with."""

    def test_failures_become_findings_and_what_was_said_stays(self, tmp_path: Path) -> None:
        context = make_context(tmp_path)
        found, missing = look_at(Saying(NOTE, then=ZeroDivisionError("oh")), context)
        assert codes(found) == ["R022", "R005"]
        assert "ZeroDivisionError: oh" in found[1].what
        found, _ = look_at(Saying(then=UserError("no such file", where="x.jsonl", hint="make it")), context)
        assert found == [Finding("R002", "no such file", "x.jsonl", "make it")]
        found, missing = look_at(Saying(NOTE, then=NotYetError(["@a", "@b", "@a"])), context)
        assert (codes(found), missing) == (["R022"], ("@a", "@b"))
        with pytest.raises(KeyboardInterrupt):
            look_at(Saying(then=KeyboardInterrupt()), context)  # type: ignore[arg-type]

    def test_each_goes_on_behind_what_is_missing(self) -> None:
        def missing(reference: str) -> Iterator[Finding]:
            raise NotYetError([reference])
            yield NOTE

        findings = each(lambda: missing("@a"), lambda: [NOTE], lambda: missing("@b"))
        assert next(findings) == NOTE
        with pytest.raises(NotYetError) as stopped:
            next(findings)
        assert stopped.value.references == ("@a", "@b")

    def test_generators_are_put_back_after_a_failure_too(self) -> None:
        def fail() -> None:
            with without_effect():
                torch.rand(1)
                raise ZeroDivisionError

        state = torch.get_rng_state()
        with pytest.raises(ZeroDivisionError):
            fail()
        assert torch.equal(torch.get_rng_state(), state)


def test_options_get_their_place_and_files_stay() -> None:
    assert Finding("R040", "x", "lr").inside("optimizer_stage").where == "optimizer_stage.lr"
    assert Finding("R040", "x").inside("optimizer_stage").where == "optimizer_stage"
    assert Finding("R026", "x", "./rows.jsonl:3").inside("optimizer_stage").where == "./rows.jsonl:3"


def test_every_code_is_made_by_a_test() -> None:
    here = Path(__file__)
    files = [*here.parent.glob("test_*.py"), here.parents[1] / "cli" / "test_check.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [code for code in CODES if f'"{code}"' not in text] == []
