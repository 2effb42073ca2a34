"""Each finding of `alignkit plugins doctor` is made for a plugin that deserves it, and for no other."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from alignkit.doctor import CODES, Finding, examine
from alignkit.doctor.configs import wrong_defaults
from alignkit.manager import PluginManager

Load = Callable[..., PluginManager]
Install = Callable[..., Path]
ROOT = Path(__file__).parents[3]

HEAD = """from pydantic import BaseModel, Field
from alignkit import Component, hookimpl
from alignkit.components import Config, NoConfig
def build(config, context):
    return None
"""


def offering(component: str, hook: str = "alignkit_advantages", before: str = "") -> str:
    """Code of a plugin with one component."""
    return f"{HEAD}{before}\n@hookimpl\ndef {hook}():\n    return [{component}]\n"


def with_config(config: str) -> str:
    """Code of a plugin whose component has this config class `C`."""
    return offering('Component("mine", build, C, "a summary")', before=config)


FINE = offering('Component("mine", build, NoConfig, "a summary")')
COMMAND = 'Component("hello", {build}, summary="says hello")'
GUILTY = {
    "P001": ("1 / 0\n", "ZeroDivisionError"),
    "P010": ("import pandas\n" + FINE, "its import brings in pandas"),
    "P011": ("import time\ntime.sleep(0.15)\n" + FINE, "its import took 0."),
    "P020": (with_config("class C(Config):\n    width: int = 1\n"), "advantage 'mine': no description: width"),
    "P021": (
        with_config("class C(BaseModel):\n    model_config = {'frozen': True}\n"),
        "advantage 'mine': C ignores or keeps keys",
    ),
    "P022": (with_config("class C(BaseModel):\n    model_config = {'extra': 'forbid'}\n"), "C is not frozen"),
    "P023": (
        with_config("class C(Config):\n    width: int = Field(-1, ge=0, description='w')\n"),
        "width: Input should be greater than or equal to 0",
    ),
    "P024": (
        with_config("from typing import Callable\nclass C(Config):\n    f: Callable = Field(print, description='f')\n"),
        "PydanticInvalidForJsonSchema",
    ),
    "P030": (offering('Component("mine", build)'), "advantage 'mine': it has no summary"),
    "P031": (
        offering(COMMAND.format(build="build"), "alignkit_commands"),
        "does not keep to the Protocol of its kind: what it built is no click.Command but None",
    ),
    "P032": (
        offering('Component("mine", lambda config: None, summary="s")'),
        "advantage 'mine': build: too many positional arguments",
    ),
    "P040": (FINE, "odd-dist has no requirement on alignkit"),
    "P041": (FINE, "odd-dist requires alignkit<0.0.1, and alignkit "),
    "P051": (
        offering('Component("mine", build, NoConfig, "a summary", deprecated="use `other`")'),
        "advantage 'mine': use `other`",
    ),
}
TOLD_ELSEWHERE = {"P002", "P003", "P050"}


def strangers(manager: PluginManager) -> list[Finding]:
    """Findings about other distributions than the project's own."""
    return [f for f in examine(manager) if not f.plugin.startswith("alignkit ")]


def installed(install: Install, code: str, requirement: str | None = "alignkit>=0.0.1") -> None:
    """A distribution with one plugin and this requirement."""
    info = install("odd-dist", "4.5", odd_mod=code)
    (info.parent / "pandas.py").write_text("")
    if requirement:
        with (info / "METADATA").open("a") as file:
            file.write(f"Requires-Dist: {requirement}\n")


def test_the_projects_own_plugins_are_in_good_health(load: Load) -> None:
    manager = load()
    # Importing all built-ins for the first time may be slow on a busy machine.
    assert [f for f in examine(manager) if f.code != "P011"] == []
    assert len(manager.plugins) >= 37


@pytest.mark.parametrize("code", GUILTY)
def test_each_finding(code: str, install: Install, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", sys)  # so that what it is now comes back, or goes
    monkeypatch.delitem(sys.modules, "pandas")
    source, said = GUILTY[code]
    installed(install, source, {"P040": None, "P041": "alignkit<0.0.1"}.get(code, "alignkit>=0.0.1"))
    findings = strangers(load())
    assert [f.code for f in findings] == [code]
    assert findings[0].plugin == "odd-dist 4.5 (odd_mod)"
    assert said in findings[0].what
    assert findings[0].severity == CODES[code].severity
    assert findings[0].advice


def test_a_good_plugin_has_no_finding(install: Install, load: Load) -> None:
    code = "import click\n" + offering(
        COMMAND.format(build='lambda config, context: click.Command("hello")'), "alignkit_commands"
    )
    installed(install, code)
    assert strangers(load()) == []


@pytest.mark.parametrize(
    ("requirement", "code"),
    [
        ('alignkit>=0.0.1; extra == "test"', "P040"),
        ('alignkit>=0.0.1; python_version >= "3.8"', None),
        ("Alignkit", None),
        ("alignkit-extras", "P040"),
        ("alignkit>=99", "P041"),
        ("this is no requirement ]", "P040"),
    ],
)
def test_requirements_are_read_as_pip_does(requirement: str, code: str | None, install: Install, load: Load) -> None:
    installed(install, FINE, requirement)
    assert [f.code for f in strangers(load())] == ([code] if code else [])


def test_clashes_left_out_plugins_and_deprecated_hooks(
    install: Install, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        info = install(f"{name}-dist", "1.0", **{f"{name}_mod": FINE + f"# {name}\n"})
        with (info / "METADATA").open("a") as file:
            file.write("Requires-Dist: alignkit\n")
    manager = load()
    assert [(f.code, f.what) for f in strangers(manager)] == [
        ("P002", "advantage 'mine': first-dist:mine, second-dist:mine")
    ]
    manager.plugins[-1].warnings.append("alignkit_old is now alignkit_new")
    assert [f.code for f in strangers(manager)] == ["P002", "P050"]
    monkeypatch.setenv("ALIGNKIT_PLUGINS", "first-dist")
    assert [(f.code, f.plugin, f.what) for f in strangers(load())] == [
        ("P003", "second_mod", "second-dist is not in ALIGNKIT_PLUGINS")
    ]


def test_errors_come_first(install: Install, load: Load) -> None:
    info = install("odd-dist", "4.5", a_fine=FINE, b_broken="1 / 0\n")
    assert info.is_dir()
    assert [f.code for f in strangers(load())] == ["P001", "P040", "P040"]


def test_defaults_are_checked_beside_options_that_have_none() -> None:
    class Options(BaseModel):
        needed: str
        good: int = 3
        made: list[int] = Field(default_factory=lambda: [1, "x"])  # type: ignore[list-item]
        bad: int = "three"  # type: ignore[assignment]

    found: Any = wrong_defaults(Options)
    assert [text.split(":")[0] for text in found] == ["made", "bad"]


def test_every_code_is_tested_and_documented() -> None:
    assert set(GUILTY) | TOLD_ELSEWHERE == set(CODES)
    assert len(CODES) == 17
    page = (ROOT / "docs/plugins/doctor.md").read_text()
    rows = re.findall(r"^\| (P\d{3}) \| (\w+) \| (.*?) \| (.*?) \|$", page, flags=re.M)
    assert rows == [(code, *entry) for code, entry in CODES.items()]
