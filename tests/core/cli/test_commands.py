"""run, check, plugins, schema, report, sample: what they print and the status they end with."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.cli import COMMANDS

Command = Callable[..., Any]
ENDS = {
    "well": (0, "done: runs/acts/report.html · runs/acts/summary.json"),
    "bug": (1, "ZeroDivisionError: a bug"),
    "plugin_bug": (4, "act-dist 1.0 (act_plugin) failed in Act.run: ZeroDivisionError: a plugin's bug"),
    "other_runtime": (4, "act-dist 1.0 (act_plugin) failed in Act.run: RuntimeError: shape mismatch"),
    "user": (2, "error: data.jsonl:3: bad text\n  -> mend it"),
    "paused": (
        3,
        "paused: 2 tasks still need judgements\n  -> put files there\n  -> then go on with: alignkit run acts.yaml",
    ),
    "fault": (4, "error: step act: loss is not finite"),
    "memory": (4, "error: out of memory in this process: in use by this process "),
    "torch_memory": (4, "error: out of memory on the GPU: "),
    "cpu_memory": (4, "error: out of memory in this process: asked for 400 bytes"),
    "disk": (4, "error: weights.safetensors: the disk is full, "),
}


@pytest.mark.parametrize("end", [e for e in ENDS if ENDS[e][0] != 1])
def test_exit_status_and_message_without_traceback(end: str, alignkit: Command) -> None:
    status, text = ENDS[end]
    result = alignkit("run", "acts.yaml", f"end={end}")
    assert result.status == status
    assert text in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("end", [e for e in ENDS if ENDS[e][0] == 1])
def test_our_bugs_keep_their_traceback(end: str, process: Command) -> None:
    running = process("run", "acts.yaml", f"end={end}")
    _, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "Traceback" in err
    assert ENDS[end][1] in err


def test_the_paused_message_leaves_out_from_and_quotes(alignkit: Command) -> None:
    assert alignkit("run", "acts.yaml").status == 0
    result = alignkit("run", "acts.yaml", "end=paused", "output=my runs", "--allow-code", "m", "--from", "act")
    assert result.status == 3
    assert "go on with: alignkit run acts.yaml end=paused 'output=my runs' --allow-code m\n" in result.err


@pytest.mark.concurrent
@pytest.mark.parametrize(("number", "status", "word"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_a_signal_ends_the_run_with_its_status_and_the_next_run_finishes(
    number: str, status: int, word: str, process: Command, alignkit: Command
) -> None:
    running = process("run", "acts.yaml", "end=wait")
    while not Path("runs/acts/r1/01-act/waiting").is_file():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(getattr(signal, number))
    _, err = running.communicate(timeout=300)
    assert running.returncode == status
    assert f"{word}; run the same command again" in err
    assert "Traceback" not in err
    assert json.loads(Path("runs/acts/r1/01-act/manifest.json").read_text())["status"] == "started"
    assert alignkit("run", "acts.yaml", "--from", "act").status == 0


@pytest.mark.parametrize(("command", "more"), [("run", "; run the same command again"), ("label", "\n")])
def test_only_a_run_is_gone_on_with(
    command: str, more: str, alignkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alignkit.cli.cli.main", interrupted)
    result = alignkit(command, "x")
    assert result.status == 130
    assert result.err.startswith(f"interrupted{more}")


def test_help_lists_every_command(alignkit: Command) -> None:
    result = alignkit("--help")
    assert result.status == 0
    for name in (*COMMANDS, "sample"):  # one of a plugin
        assert f"\n  {name} " in result.out
        help = alignkit(name, "--help")
        assert help.status == 0
        assert help.out.startswith(f"Usage: alignkit {name}")
    assert len(COMMANDS) == 7
    assert alignkit("--version").out.startswith("alignkit, version ")


def test_commands_of_plugins(alignkit: Command) -> None:
    result = alignkit("--help")
    assert "hello" in result.out
    assert result.out.count("\n  run ") == 1
    assert result.err.count("act-dist 1.0: command 'broken' could not be built: OSError: no licence (") == 1
    assert "act-dist 1.0: command 'run' cannot be used: there already is a command of this name" in result.err
    hello = alignkit("hello")
    assert hello.out == "hello from a plugin\n"
    assert hello.status == 7


MISTAKES = {
    "unknown command": (["rnu"], "No such command 'rnu'"),
    "unknown option": (["run", "acts.yaml", "--frm", "x"], "No such option"),
    "no recipe": (["run"], "Missing argument 'RECIPE'"),
    "unknown recipe": (["run", "quikstart"], "no such recipe"),
    "unknown step": (["run", "acts.yaml", "--from", "nobody"], "no step 'nobody' in the recipe"),
    "bad override": (["run", "acts.yaml", "end"], "override 'end' is not KEY=VALUE"),
    "unknown override": (["run", "acts.yaml", "ned=x"], "(did you mean 'end'?)"),
    "check: bad override": (["check", "acts.yaml", "act.edn=x"], "(did you mean 'end'?)"),
    "reuse of nothing": (["run", "acts.yaml", "--reuse", "nowhere"], "holds no run"),
    "report of nothing": (["report", "nowhere"], "this folder holds no run"),
    "sample without prompt": (["sample", "model"], "give either --prompt TEXT or --prompts FILE"),
    "sample with both": (["sample", "m", "--prompt", "a", "--prompts", "f"], "give either"),
    "sample of nothing": (["sample", "./no-model", "--prompt", "a"], "no such model folder"),
    "sample setting": (["sample", "m", "temprature=1", "--prompt", "a"], "(did you mean 'temperature'?)"),
    "sample value": (["sample", "m", "top_p=7", "--prompt", "a"], "less than or equal to 1"),
    "sample seed": (["sample", "m", "seed=abc", "--prompt", "a"], "seed=abc is no whole number"),
    "sample no equals": (["sample", "m", "seed", "--prompt", "a"], "'seed' is not KEY=VALUE"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_with_status_2_a_message_and_nothing_on_disk(case: str, alignkit: Command) -> None:
    arguments, text = MISTAKES[case]
    result = alignkit(*arguments)
    assert result.status == 2
    assert text in result.err + result.out  # findings of a check are what it is asked for
    assert "Traceback" not in result.err
    assert [p.name for p in Path().iterdir()] == ["acts.yaml"]


def test_plugins_in_words_and_json(alignkit: Command, plugin_site: Path) -> None:
    shown = alignkit("plugins").out
    assert "\nadvantage\n  gae " in shown
    assert "[act-dist 1.0]" in shown
    (plugin_site / "act_plugin.py").write_text("import nothing_like_this\n")
    import sys

    sys.modules.pop("act_plugin", None)
    assert (
        "act-dist 1.0                   failed   act_plugin: import of act_plugin failed: ModuleNotFoundError"
        in alignkit("plugins").out
    )
    rows = json.loads(alignkit("plugins", "--json").out)["plugins"]
    assert len(rows) >= 21
    row = next(r for r in rows if r["name"] == "act_plugin")
    assert (row["status"], row["version"], row["components"]) == ("failed", "1.0", [])
    gae = next(r for r in rows if r["name"] == "advantage_gae")
    assert [(c["kind"], c["name"]) for c in gae["components"]] == [("advantage", "gae")]


def test_schema_prints_json(alignkit: Command) -> None:
    schema = json.loads(alignkit("schema").out)
    assert schema["$schema"].endswith("2020-12/schema")
    assert "act" in json.dumps(schema["properties"]["steps"])


def test_report_is_written_anew(alignkit: Command) -> None:
    assert alignkit("run", "acts.yaml").status == 0
    page = Path("runs/acts/report.html")
    before = page.read_bytes()
    page.unlink()
    result = alignkit("report", "runs/acts")
    assert result.out == "runs/acts/report.html\n"
    assert page.read_bytes() == before


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random saved model."""
    from helpers.models import make_policy

    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_policy().save(folder)
    return folder


def test_sample_prints_completions_that_the_seed_decides(model: Path, alignkit: Command) -> None:
    def lines(*settings: str) -> list[dict[str, str]]:
        result = alignkit(
            "sample", str(model), "max_length=8", *settings, "--prompt", "the film", "--prompt", "a", "--json"
        )
        assert result.status == 0, result.err
        return [json.loads(line) for line in result.out.splitlines()]

    first = lines("seed=1")
    assert [row["prompt"] for row in first] == ["the film", "a"]
    assert lines("seed=1") == first
    assert lines("seed=2") != first
    assert lines("temperature=0") == lines("temperature=0", "seed=5")
    plain = alignkit("sample", str(model), "max_length=8", "seed=1", "--prompt", "the film", "--prompt", "a")
    assert plain.out == "".join(row["prompt"] + row["completion"] + "\n" for row in first)


def test_sample_reads_a_file_of_prompts(model: Path, alignkit: Command) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "the film", "completion": "is left alone"}\n{"prompt": "a"}\n')
    result = alignkit("sample", str(model), "max_length=3", "--prompts", "prompts.jsonl", "--json")
    assert [json.loads(line)["prompt"] for line in result.out.splitlines()] == ["the film", "a"]
    Path("prompts.jsonl").write_text('{"prompt": "the film"}\n{"text": "a"}\n')
    bad = alignkit("sample", str(model), "--prompts", "prompts.jsonl")
    assert bad.status == 2
    assert "prompts.jsonl:2: prompt is missing" in bad.err
    Path("prompts.jsonl").write_text("")
    assert "the file has no prompt" in alignkit("sample", str(model), "--prompts", "prompts.jsonl").err
    assert "no such file" in alignkit("sample", str(model), "--prompts", "nothing.jsonl").err
