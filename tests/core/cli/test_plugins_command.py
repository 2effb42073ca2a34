"""`alignkit plugins`, `plugins show`, `plugins doctor`, and plugins that come from a folder."""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Command = Callable[..., Any]

LOCAL = """
from typing import Annotated, Literal
import click
from pydantic import Field
from alignkit import Component, hookimpl
from alignkit.components import Config, NoConfig
from alignkit.recipe import ComponentSpec, SlotOf

class Inner(Config):
    "Inside."
    depth: int = Field(2, ge=1, le=9, description="how deep")

class MineConfig(Config):
    "Options."
    scale: float = Field(gt=0, description="times this")
    form: Literal["a", "b"] | None = Field(None, description="which form")
    words: tuple[str, ...] = Field(("x",), description="words to look for", min_length=1)
    old: bool = Field(False, description="was used once", deprecated="use scale")
    inner: Inner = Field(Inner(), description="the rest")
    source: Annotated[ComponentSpec, SlotOf("reward_source")] = Field(
        ComponentSpec(name="film_taste"), description="base"
    )

def build(config, context):
    return None

@hookimpl
def alignkit_advantages():
    return [Component("mine", build, MineConfig, "a test estimator", deprecated="use `gae`")]

@hookimpl
def alignkit_samplers():
    return [Component("mine", print)]

@hookimpl
def alignkit_commands():
    return [Component("greet", lambda c, x: click.Command("greet", callback=lambda: click.echo("hi there")))]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plugins folder with one local plugin."""
    path = tmp_path / "own plugins"
    path.mkdir()
    (path / "mine.py").write_text(LOCAL)
    return path


def found(result: Any) -> Any:
    """Parsed standard output of a command that went well."""
    assert result.status == 0, result.err
    return json.loads(result.out)


def test_table_and_json_say_where_plugins_are_from(alignkit: Command, folder: Path, plugin_site: Path) -> None:
    (folder / "bad.py").write_text("1 / 0\n")
    text = alignkit("plugins", "--plugins-dir", str(folder))
    assert "a test estimator  deprecated  [local sha256:" in text.out
    assert "failed   bad: import of bad.py failed: ZeroDivisionError" in text.out
    assert "act-dist 1.0                   ok       act_plugin" in text.out
    rows = {p["name"]: p for p in found(alignkit("plugins", "--json", "--plugins-dir", str(folder)))["plugins"]}
    assert rows["mine"]["source"] == {"kind": "file", "value": str(folder / "mine.py")}
    assert rows["mine"]["version"].startswith("sha256:")
    assert rows["act_plugin"]["source"] == {"kind": "entry_point", "value": "act_plugin"}
    assert rows["bad"]["status"] == "failed"
    assert rows["mine"]["components"][0] == {
        "kind": "advantage",
        "name": "mine",
        "summary": "a test estimator",
        "deprecated": "use `gae`",
    }


def test_what_was_left_out_is_listed(alignkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNKIT_PLUGINS", "none-such")
    reason = "act-dist is not in ALIGNKIT_PLUGINS"
    assert found(alignkit("plugins", "--json"))["left_out"] == [{"name": "act_plugin", "reason": reason}]
    assert f"left out {reason}" in alignkit("plugins").out


def test_strict_says_so_with_the_exit_status(alignkit: Command, folder: Path) -> None:
    assert alignkit("plugins", "--strict-plugins").status == 0
    (folder / "bad.py").write_text("1 / 0\n")
    for name in ("plugins", "schema"):
        assert alignkit(name, "--plugins-dir", str(folder)).status == 0
        assert alignkit(name, "--strict-plugins", "--plugins-dir", str(folder)).status == 2


def test_show_prints_options_defaults_and_source(alignkit: Command, folder: Path) -> None:
    data = found(alignkit("plugins", "show", "advantage:mine", "--json", "--plugins-dir", str(folder)))
    lines = LOCAL.splitlines()
    assert data["build"] == f"{folder / 'mine.py'}:{lines.index('def build(config, context):') + 1}"
    assert data["config"] == f"{folder / 'mine.py'}:{lines.index('class MineConfig(Config):') + 1}"
    assert (data["distribution"], data["plugin"], data["deprecated"]) == ("local", "mine", "use `gae`")
    options = {o["name"]: o for o in data["options"]}
    assert list(options) == ["scale", "form", "words", "old", "inner", "source"]
    assert {k: options["scale"][k] for k in ("type", "required", "default", "range", "description")} == {
        "type": "float",
        "required": True,
        "default": None,
        "range": "> 0",
        "description": "times this",
    }
    assert options["form"]["type"] == "'a' | 'b' | none"
    assert (options["words"]["type"], options["words"]["default"]) == ("list of text", ["x"])
    assert options["words"]["range"] == "at least 1 long"
    assert options["old"]["deprecated"] == "use scale"
    assert options["inner"]["options"][0]["range"] == ">= 1, <= 9"
    assert (options["source"]["type"], options["source"]["default"]) == ("reward source", "film_taste")
    assert data["example"] == "advantage: {name: mine, scale: <float>}"
    text = alignkit("plugins", "--plugins-dir", str(folder), "show", "advantage:local:mine").out
    for part in ("advantage mine", "scale  float; > 0; required", "        how deep", "deprecated: use scale"):
        assert part in text


def test_show_finds_by_name_alone_and_says_what_it_cannot_tell(alignkit: Command, folder: Path) -> None:
    place = ("--plugins-dir", str(folder))
    assert found(alignkit("plugins", "show", "gae", "--json"))["reference"] == "alignkit:gae"
    assert found(alignkit("plugins", "show", "reward-source:length", "--json"))["kind"] == "reward_source"
    assert found(alignkit("plugins", "show", "alignkit:gae", "--json"))["kind"] == "advantage"
    several = alignkit("plugins", "show", "mine", *place)
    assert several.status == 2
    assert "write one of advantage:local:mine, sampler:local:mine" in several.err
    for name, said in [
        ("gea", "no component 'gea' is installed (did you mean 'gae'?)"),
        ("advantage:gea", "no advantage 'gea' is installed (did you mean 'gae'?)"),
        ("advantag:alignkit:gae", "no kind 'advantag' (did you mean 'advantage'?)"),
    ]:
        result = alignkit("plugins", "show", name)
        assert result.status == 2
        assert said in result.err


def test_every_component_can_be_shown_and_its_example_validates_by_the_schema(alignkit: Command) -> None:
    rows = found(alignkit("plugins", "--json"))["plugins"]
    references = [f"{c['kind']}:{p['distribution']}:{c['name']}" for p in rows for c in p["components"]]
    schema = found(alignkit("schema"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert len(references) >= 50
    for reference in references:
        data = found(alignkit("plugins", "show", reference, "--json"))
        assert data["build"], reference
        assert data["name"] in data["example"]


def test_doctor_ends_with_2_only_for_errors(alignkit: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ("--plugins-dir", str(folder))
    monkeypatch.setenv("ALIGNKIT_PLUGINS", "")  # the installed test plugin has a command that cannot be built
    fine = alignkit("plugins", "doctor", *place)
    assert fine.status == 0, fine.out
    assert "P051 note: local sha256:" in fine.out
    assert "P030 warning" in fine.out
    assert " 0 errors, " in fine.out
    (folder / "bad.py").write_text("1 / 0\n")
    bad = alignkit("plugins", "doctor", "--json", *place)
    assert bad.status == 2
    first = json.loads(bad.out)["findings"][0]
    assert (first["code"], first["severity"]) == ("P001", "error")
    assert set(first) == {"code", "severity", "plugin", "what", "advice"}


def test_check_run_and_schema_take_the_folder(alignkit: Command, folder: Path) -> None:
    (folder / "acts.py").write_text(
        "from alignkit import Component, hookimpl\nfrom alignkit.protocols import StepOutput\n"
        "class Made:\n    def run(self, context):\n        return StepOutput({'': '.'}, {'made': TEXT})\nTEXT = 'one'\n"
        "@hookimpl\ndef alignkit_steps():\n    return [Component('made', lambda config, context: Made())]\n"
    )
    Path("made.yaml").write_text("name: made\npolicy: stub\nsteps:\n  - {id: one, step: made}\n")
    place = ("--plugins-dir", str(folder))
    assert "no step 'made' is installed" in alignkit("check", "made.yaml").out
    assert alignkit("check", "made.yaml", *place).status == 0
    assert alignkit("run", "made.yaml", *place).status == 0
    record = json.loads(Path("runs/made/plugins.json").read_text())
    version = record["components"]["step:local:made"]
    row = next(p for p in record["plugins"] if p["name"] == "acts")
    assert (row["version"], row["source"]) == (version, {"kind": "file", "value": "acts.py"})
    assert record["left_out"] == {}
    assert "local:made" in json.dumps(found(alignkit("schema", *place)))
    assert alignkit("run", "made.yaml", *place).status == 0
    # Another text is another plugin: the finished step is not taken for its result.
    (folder / "acts.py").write_text((folder / "acts.py").read_text().replace("'one'", "'two'"))
    changed = alignkit("run", "made.yaml", *place)
    assert changed.status == 2
    assert f"the file of the plugin behind components.step:local:made of step 'one' changed from '{version}' to" in (
        changed.err
    )
    assert json.loads(Path("runs/made/summary.json").read_text())["made"] == "one"


def test_the_command_to_go_on_with_has_the_folder(alignkit: Command, folder: Path) -> None:
    paused = alignkit("run", "acts.yaml", "end=paused", "--plugins-dir", str(folder), "--strict-plugins")
    assert paused.status == 3
    assert f"go on with: alignkit run acts.yaml end=paused --plugins-dir '{folder}' --strict-plugins" in paused.err


def test_a_recipes_own_file_on_the_command_line(alignkit: Command) -> None:
    Path("acts2.py").write_text(
        "from alignkit import Component, hookimpl\n"
        "@hookimpl\ndef alignkit_trackers():\n    return [Component('t', print)]\n"
    )
    text = Path("acts.yaml").read_text()
    Path("acts.yaml").write_text(text + "plugins: {files: [acts2.py]}\n")
    refused = alignkit("check", "acts.yaml")
    assert refused.status == 2
    assert "add --allow-code acts2.py" in refused.out
    assert alignkit("check", "acts.yaml", "--allow-code", "acts2.py").status == 0
    assert alignkit("run", "acts.yaml", "--allow-code", "acts2.py").status == 0


def test_options_without_a_schema_leave_the_rest_of_it_in_place(
    alignkit: Command, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "odd.py").write_text(
        "from typing import Callable\nfrom alignkit import Component, hookimpl\n"
        "from alignkit.components import Config\nclass C(Config):\n    f: Callable\n"
        "@hookimpl\ndef alignkit_samplers():\n    return [Component('odd', print, C)]\n"
    )
    result = alignkit("schema", "--plugins-dir", str(folder))
    schema = found(result)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "local:odd" in json.dumps(schema["$defs"]["sampler"])
    assert "sampler 'odd': its options have no JSON schema" in result.err + caplog.text


def test_deprecations_are_one_line_each(process: Callable[..., Any], folder: Path) -> None:
    Path("old.yaml").write_text(
        "name: old\npolicy: stub\nsteps:\n"
        "  - {id: go, step: align, prompts: '@x', iterations: 1, reward_source: film_taste,\n"
        "     advantage: {name: mine, scale: 1, old: true}}\n"
    )
    _, err = process("check", "old.yaml", "--plugins-dir", str(folder)).communicate(timeout=60)
    lines = [line for line in err.splitlines() if line.startswith("warning:")]
    assert len(lines) == 2
    assert "old.yaml:5: local sha256:" in lines[0]
    assert lines[0].endswith("advantage 'mine' is deprecated: use `gae`")
    assert lines[1].endswith("the option old is deprecated: use scale")
    assert "warnings.warn" not in err


def test_commands_of_a_folder_need_the_variable(
    alignkit: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alignkit("greet").status == 2
    monkeypatch.setenv("ALIGNKIT_PLUGINS_DIR", str(folder))
    assert alignkit("greet").out == "hi there\n"


@pytest.mark.slow
def test_the_table_is_there_in_three_tenths_of_a_second(tmp_path: Path) -> None:
    importlib.invalidate_caches()
    seconds = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "alignkit.cli", "plugins"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
    # Of the processor, twice the goal: a careless import must fail the test (torch alone is 1 s), other work must not.
    assert statistics.median(seconds) < 0.6


TALKS = """
from pydantic import Field, field_validator
from alignkit import Component, hookimpl
from alignkit.components import Config

def fail():
    raise RuntimeError("no default today")

class TalksConfig(Config):
    "Options."
    x: int = Field(1, description="one")

    @field_validator("x", mode="before")
    @classmethod
    def _talks(cls, value):
        print("a validator prints")
        if value == 2:
            raise RuntimeError("fails in its own way")
        return value

class FailsConfig(Config):
    "Options."
    y: int = Field(default_factory=fail, description="why")

def check(config, manager):
    print("a check prints")

@hookimpl
def alignkit_policies():
    return [Component("talks", print, TalksConfig, "a talker", check=check)]

@hookimpl
def alignkit_samplers():
    return [Component("fails", print, FailsConfig, "a failure")]
"""


def test_json_is_json_whatever_a_plugin_prints_or_raises(alignkit: Command, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "talks.py").write_text(TALKS)
    folder = ("--plugins-dir", str(tmp_path / "plugins"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\npolicy: {name: talks, x: 1}\nsteps: [{id: act, step: act}]\n")
    good = alignkit("check", str(recipe), "--json", *folder)
    assert json.loads(good.out)["ok"] is True
    assert "a check prints" in good.err
    bad = alignkit("check", str(recipe), "policy.x=2", "--json", *folder)
    assert bad.status == 4
    assert "fails in its own way" in json.loads(bad.out)["findings"][0]["what"]
    (option,) = found(alignkit("plugins", "show", "fails", "--json", *folder))["options"]
    assert option["default"] == "its default fails: RuntimeError: no default today"
    doctor = alignkit("plugins", "doctor", "--json", *folder)
    assert ("P023", "error") in {(f["code"], f["severity"]) for f in json.loads(doctor.out)["findings"]}
