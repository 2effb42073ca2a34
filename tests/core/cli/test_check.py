"""`alignkit check`: what it prints, as words and as data, and the status it ends with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
KEYS = {"code", "severity", "where", "what", "advice"}


def found(result: Any) -> list[dict[str, str]]:
    """The findings of a check with --json."""
    data = json.loads(result.out)
    assert all(finding.keys() == KEYS for finding in data["findings"])
    assert data["ok"] == all(finding["severity"] != "error" for finding in data["findings"])
    return list(data["findings"])


def test_in_words_and_json(alignkit: Command) -> None:
    good = alignkit("check", "acts.yaml", "device=cpu")
    assert good.out.splitlines()[0] == "R070 note: device and kernels"
    assert good.out.splitlines()[-1] == "acts.yaml is fine: run 'acts', 1 round(s), steps act (1 note)"
    assert [f["code"] for f in found(alignkit("check", "acts.yaml", "device=cpu", "--json"))] == ["R070"]
    bad = alignkit("check", "acts.yaml", "act.edn=x", "--json")
    assert bad.status == 2
    first = found(bad)[0]
    assert "unknown key steps.0.edn" in first["what"]
    assert first["where"] == "command line"
    assert [p.name for p in Path().iterdir()] == ["acts.yaml"]


def test_all_mistakes_are_shown_most_important_first(alignkit: Command) -> None:
    Path("bad.yaml").write_text(
        "name: bad\npolicy: {name: causal_lm, path: ./no-model}\ndevice: cpu\nsteps:\n"
        "  - {id: data, step: data, format: preference, files: none.jsonl}\n"
        "  - {id: sft, step: train, optimizer_stage: {name: sft, lrr: 1}, data: '@data'}\n"
        "  - {id: other, step: train, optimizer_stage: {name: sft, lr: 0.5}, data: '@daata'}\n"
    )
    result = alignkit("check", "bad.yaml")
    assert result.status == 2
    lines = [line for line in result.out.splitlines() if line[:1] == "R"]
    assert [line.split(":")[0] for line in lines] == [
        "R001 error",  # unknown key lrr
        "R001 error",  # @daata
        "R002 error",  # no such model folder
        "R002 error",  # no such file
        "R070 note",
    ]
    for text in ("./no-model: no such model folder", "none.jsonl", "bad.yaml:6: ", "did you mean 'lr'", "@daata"):
        assert text in result.out, text
    assert result.out.splitlines()[-1] == "bad.yaml cannot be run: 4 errors, 1 note"


def test_one_thing_in_several_places_is_said_once(alignkit: Command) -> None:
    Path("two.yaml").write_text(
        "name: two\npolicy: {name: causal_lm, path: some-owner/model}\ndevice: cpu\nsteps:\n"
        "  - {id: sft, step: train, optimizer_stage: {name: sft, lr: 0.5}, data: rows.jsonl}\n"
        "  - {id: dpo, step: train, optimizer_stage: {name: dpo, lr: 0.5}, data: pairs.jsonl}\n"
    )
    for name in ("rows", "pairs"):
        Path(f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    out = alignkit("check", "two.yaml").out
    assert out.count("R040") == 1
    places = "two.yaml:5 (sft.optimizer_stage.lr); two.yaml:6 (dpo.optimizer_stage.lr): lr is 0.5"
    assert places in out
    shown = len([line for line in out.splitlines() if line[4:].startswith(" warning: ")])
    assert f" {shown} warnings," in out.splitlines()[-1]  # counted once too


def test_a_recipe_that_cannot_be_read_is_a_finding_too(alignkit: Command) -> None:
    Path("no.yaml").write_text("name: [\n")
    result = alignkit("check", "no.yaml", "--json")
    assert result.status == 2
    assert [f["code"] for f in found(result)] == ["R001"]


def test_it_looks_at_models_and_files(alignkit: Command) -> None:
    assert alignkit("check", "quickstart").status == 0
    result = alignkit("check", "quickstart", "policy={name: causal_lm, path: ./no-model}")
    assert result.status == 2
    assert "no such model folder" in result.out


def test_a_kernel_that_is_not_installed_is_said_once(alignkit: Command) -> None:
    result = alignkit("check", "quickstart", "kernels=chunkd", "--json")
    assert result.status == 2
    assert [f["code"] for f in found(result) if f["severity"] == "error"] == ["R001"]


def test_bad_rows_that_will_be_skipped_are_counted(alignkit: Command) -> None:
    rows = [{"prompt": "a film", "completion": f" good {n}"} for n in range(30)]
    lines = [*map(json.dumps, rows), '{"prompt": "a film"}', "no json"]
    Path("rows.jsonl").write_text("\n".join(lines) + "\n")
    Path("data.yaml").write_text(
        "name: data\npolicy: stub\nsteps:\n"
        "  - {id: data, step: data, format: prompt_completion, files: rows.jsonl, on_bad_row: skip}\n"
    )
    result = alignkit("check", "data.yaml", "--json")
    assert result.status == 0
    (skipped,) = [f for f in found(result) if f["code"] == "R006"]
    assert "2 of 32 rows; the first, rows.jsonl:31" in skipped["what"]
    assert skipped["where"] == "data.yaml:4 (data.on_bad_row)"


def test_bad_rows_behind_the_first_ones_are_data_too(alignkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit_plugins.step_data.examine.READ", 3)
    rows = [json.dumps({"prompt": "" if n > 7 else "a", "completion": f"b {n}"}) for n in range(10)]
    Path("rows.jsonl").write_text("\n".join(rows))
    Path("data.yaml").write_text(
        "name: data\npolicy: stub\nsteps:\n"
        "  - {id: data, step: data, format: prompt_completion, files: rows.jsonl, on_bad_row: skip, heldout: 0.2}\n"
    )
    (skipped,) = [f for f in found(alignkit("check", "data.yaml", "--json")) if f["code"] == "R006"]
    assert "2 of 10 rows; the first, rows.jsonl:9" in skipped["what"]  # an empty prompt is bad where it is split by
    ran = alignkit("run", "data.yaml")
    assert ran.status == 0, ran.err
    assert json.loads(Path("runs/data/summary.json").read_text())["data"]["data"]["rejected"] == 2


def test_bad_rows_are_apart_in_json(alignkit: Command) -> None:
    Path("rows.jsonl").write_text('{"prompt": "a"}\n' * 8 + '{"prompt": "a", "completion": "b"}\n')
    Path("data.yaml").write_text(
        "name: data\npolicy: stub\nsteps:\n  - {id: data, step: data, format: prompt_completion, files: rows.jsonl}\n"
    )
    bad = [f for f in found(alignkit("check", "data.yaml", "--json")) if f["code"] == "R002"]
    assert [f["where"] for f in bad[:5]] == [f"rows.jsonl:{n}" for n in range(1, 6)]
    assert all("\n" not in f["what"] for f in bad)
    assert [f["what"].split(" (")[0] for f in bad[5:]] == ["… and 3 more"]


def test_every_wrong_key_of_a_step_is_shown(alignkit: Command) -> None:
    Path("keys.yaml").write_text(
        "name: keys\npolicy: stub\nsteps:\n"
        "  - {id: data, step: data, format: prompt_completion, files: rows.jsonl}\n"
        "  - id: loop\n    step: align\n    prompts: '@data'\n    iterations: 2\n    batchsize: 8\n"
        "    reward_source: {name: length, targt: 3}\n    advantage: gae\n    optimizer_stage: {name: ppo, lrr: 1}\n"
    )
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    wrong = [f for f in found(alignkit("check", "keys.yaml", "--json")) if "unknown key" in f["what"]]
    assert [(f["where"], f["what"].split("unknown key ")[1].split(" (did")[0]) for f in wrong] == [
        ("keys.yaml:9", "steps.1.batchsize"),
        ("keys.yaml:10", "steps.1.reward_source.targt"),
        ("keys.yaml:12", "steps.1.optimizer_stage.lrr"),
    ]
    known = wrong[0]["what"].split("known: ")[1]
    assert known.count(",") == 12
    assert "more: see `alignkit plugins show NAME`" in known


def test_a_step_with_a_name_is_said_beside_an_earlier_run(alignkit: Command) -> None:
    assert alignkit("run", "acts.yaml").status == 0
    Path("acts.yaml").write_text(Path("acts.yaml").read_text().replace("id: act", "id: act, name: x"))
    (error,) = [f for f in found(alignkit("check", "acts.yaml", "--json")) if f["severity"] == "error"]
    assert "unknown key name" in error["what"]


def test_a_reference_without_quotes(alignkit: Command) -> None:
    Path("at.yaml").write_text("name: at\npolicy: stub\nsteps:\n  - {id: a, step: act, end: @b}\n")
    (error,) = found(alignkit("check", "at.yaml", "--json"))
    assert (error["where"], error["advice"]) == ("at.yaml:4", 'put quotes around a reference: "@id"')


@pytest.mark.parametrize(
    ("named", "code"),
    [("here/nothing", "R008"), ("there/rows.JSONL", "R008"), ("there/rows.csv", "R008"), ("there/rows", "R009")],
)
def test_a_path_that_is_not_there_and_may_be_a_hub_name(named: str, code: str, alignkit: Command) -> None:
    Path("here").mkdir()
    Path("data.yaml").write_text(
        f"name: data\npolicy: stub\nsteps:\n  - {{id: data, step: data, format: preference, files: {named}}}\n"
    )
    (said,) = [f for f in found(alignkit("check", "data.yaml", "--json")) if f["code"] != "R070"]
    assert (said["code"], said["where"]) == (code, "data.yaml:4 (data.files)")
    assert f"no file '{named}' here" in said["what"]
    assert ("converted" in said["advice"]) == named.endswith(".csv")


FAILING = """
from alignkit import Component, hookimpl
from alignkit.components import NoConfig

def check(config, manager):
    raise ZeroDivisionError("no check today")

@hookimpl
def alignkit_policies():
    return [Component("fails", lambda config, context: None, NoConfig, "fails", check=check)]
"""


def test_a_plugin_that_fails_is_a_fault_with_its_name(alignkit: Command) -> None:
    Path("plugins").mkdir()
    Path("plugins/failing.py").write_text(FAILING)
    result = alignkit("check", "acts.yaml", "policy=fails", "--plugins-dir", "plugins", "--json")
    assert result.status == 4
    (finding,) = [f for f in found(result) if f["code"] == "R003"]
    assert "'fails' could not be checked: ZeroDivisionError: no check today" in finding["what"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_broken_plugin_that_nobody_names_is_a_note(as_json: bool, alignkit: Command) -> None:
    Path("plugins").mkdir()
    Path("plugins/broken.py").write_text("1 / 0\n")
    result = alignkit("check", "acts.yaml", "--plugins-dir", "plugins", *["--json"] * as_json)
    assert result.status == 0
    assert "R074" in result.out
    assert "ZeroDivisionError" not in result.out
