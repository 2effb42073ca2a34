"""A stranger's plugins: built, installed beside alignkit in an empty environment, used, taken out and broken.

One test, because all of it shares one environment that takes a minute to make; what changes it puts it back.
"""

import json
import re
import shutil
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from helpers.packages import ROOT, build_wheel, call

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "examples/plugins"
# Distribution -> kind and name of what it offers, and what a recipe without it says instead.
OFFERS = {
    "alignkit-opo": ("advantage", "opo", "aligned.advantage=rloo"),
    "alignkit-vader": ("reward_source", "vader", "aligned.reward_source=film_taste"),
    "alignkit-cce": ("kernel", "cce", "kernels=eager"),
}
# Entry point of alignkit-broken -> what is said about it.
REASONS = {
    "config_is_no_model": "config is not a pydantic model class",
    "duplicate_name": "'twice' is registered twice",
    "import_error": "No module named 'a_package_that_does_not_exist'",
    "leaves_python": "SystemExit: this needs a machine that you do not have",
    "misspelled_hook": "unknown hook alignkit_advantage (did you mean 'alignkit_advantages'?)",
    "reserved_name": "'gae' is a built-in name",
    "wrong_api": "made for api 99",
    "wrong_argument": "registry",
}
# Component of alignkit-broken that a recipe may name -> its entry point.
NAMED = {"misspelled": "misspelled_hook", "wrong_api": "wrong_api", "no_model": "config_is_no_model"}


@dataclass(frozen=True)
class Environment:
    """A virtual environment that inherits nothing, a folder to work in, and the wheels of the examples."""

    bin: Path
    work: Path
    wheels: dict[str, Path]

    def alignkit(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Output of `alignkit …`, white space made single: the console wraps lines."""
        said = call(self.bin / "alignkit", *arguments, cwd=self.work, status=status, **environment)
        return " ".join(said.split())

    def pip(self, *arguments: str | Path) -> str:
        """`pip …` of the environment."""
        command = (self.bin / "python", "-m", "pip", *arguments, "-q", "--disable-pip-version-check")
        return call(*command, cwd=self.work)

    def install(self, *what: str | Path) -> None:
        """Install wheels with their dependencies, in the versions that the tests run with."""
        # torch comes in several builds; the one that this environment has runs on this machine.
        self.pip("install", "-c", ROOT / "constraints.txt", f"torch=={version('torch')}", *what)

    def plugins(self) -> list[dict[str, Any]]:
        """What `alignkit plugins --json` says about those that are not built in."""
        said = call(self.bin / "alignkit", "plugins", "--json", cwd=self.work)
        return [p for p in json.loads(said)["plugins"] if p["distribution"] != "alignkit"]


@pytest.fixture
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """alignkit and the three plugins, from wheels."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder / "venv", with_pip=True)
    dist = tmp_path_factory.mktemp("examples")
    wheels = {name: build_wheel(EXAMPLES / name, dist) for name in (*OFFERS, "alignkit-broken")}
    work = folder / "work"
    work.mkdir()
    shutil.copy(EXAMPLES / "three_plugins.yaml", work)
    made = Environment(folder / "venv/bin", work, wheels)
    made.install(f"{wheel}[testing]", *(wheels[name] for name in OFFERS))
    yield made
    shutil.rmtree(folder)  # gigabytes


def test_a_strangers_plugins(environment: Environment, subtests: pytest.Subtests) -> None:
    with subtests.test("nothing is inherited"):
        nothing_is_inherited(environment)
    with subtests.test("plugins are listed"):
        plugins_are_listed(environment)
    compiled = environment.work / "compiled"
    environment.alignkit("run", "three_plugins.yaml", TORCHINDUCTOR_CACHE_DIR=str(compiled))
    run = environment.work / "runs/three_plugins"
    with subtests.test("the recipe uses all three"):
        uses_all_three(run, compiled)
    for distribution in OFFERS:
        with subtests.test("one is taken out", distribution=distribution):
            one_is_taken_out(environment, distribution)
    environment.pip("install", "--no-deps", environment.wheels["alignkit-broken"])
    with subtests.test("broken plugins say why"):
        broken_plugins_say_why(environment)
    with subtests.test("a broken neighbour harms nobody"):
        broken_neighbour_harms_nobody(environment)
    with subtests.test("naming a broken component tells its reason"):
        naming_a_broken_component_tells_its_reason(environment, run)
    with subtests.test("allowlist"):
        allowlist(environment)
    environment.pip("uninstall", "-y", "alignkit-broken")
    for distribution in OFFERS:
        with subtests.test("its own tests pass", distribution=distribution):
            own_tests_pass(environment, distribution)


def nothing_is_inherited(environment: Environment) -> None:
    code = "import alignkit, torch; print(alignkit.__file__, torch.__file__)"
    files = call(environment.bin / "python", "-c", code, cwd=environment.work).split()
    assert all(Path(file).is_relative_to(environment.bin.parent) for file in files)
    packages = {line.split("==")[0] for line in environment.pip("freeze").split()}
    assert {"pytest", "vaderSentiment", "cut-cross-entropy"} <= packages
    assert "ruff" not in packages
    environment.pip("check")


def plugins_are_listed(environment: Environment) -> None:
    found = {p["distribution"]: p for p in environment.plugins()}
    assert sorted(found) == sorted(OFFERS)
    for distribution, (kind, name, _) in OFFERS.items():
        plugin = found[distribution]
        assert (plugin["status"], plugin["version"], plugin["problem"]) == ("ok", "0.1.0", None)
        assert [(c["kind"], c["name"]) for c in plugin["components"]] == [(kind, name)]
    listed = environment.alignkit("plugins")
    assert all(f"{distribution} 0.1.0" in listed for distribution in OFFERS)
    assert "which sentiment scores high" in environment.alignkit("plugins", "show", "reward_source:vader")


def uses_all_three(run: Path, compiled: Path) -> None:
    recorded = json.loads((run / "plugins.json").read_text())
    usable = {p["distribution"]: p["version"] for p in recorded["plugins"] if p["status"] == "ok"}
    assert {distribution: usable.get(distribution) for distribution in OFFERS} == dict.fromkeys(OFFERS, "0.1.0")
    assert recorded["kernels"]["choice"]["linear_logprob"] == "cce"
    # The library compiles its loss with torch, and nothing else in this run compiles anything.
    assert list(compiled.rglob("*.so"))
    (folder,) = run.glob("r1/*-aligned")
    aligned = json.loads((folder / "manifest.json").read_text())
    components = aligned["identity"]["components"]
    assert components["advantage:alignkit-opo:opo"] == "0.1.0"
    assert components["reward_source:alignkit-vader:vader"] == "0.1.0"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if 0 <= row.get("reward/vader_neutral", -1) <= 1]) == 30
    figures = aligned["summary"]["reinforce"]
    assert figures["reward_end"] > figures["reward_start"] + 0.1


def one_is_taken_out(environment: Environment, distribution: str) -> None:
    _, name, without = OFFERS[distribution]
    environment.pip("uninstall", "-y", distribution)
    try:
        for command in ("check", "run"):
            said = environment.alignkit(command, "three_plugins.yaml", status=2)
            assert f"'{name}' is installed" in said
            assert "pip" in said
            assert "Traceback" not in said
        assert "is fine" in environment.alignkit("check", "three_plugins.yaml", without, "name=without")
    finally:
        environment.pip("install", "--no-deps", environment.wheels[distribution])
    assert "is fine" in environment.alignkit("check", "three_plugins.yaml")


def broken_plugins_say_why(environment: Environment) -> None:
    found = {p["name"]: p for p in environment.plugins() if p["distribution"] == "alignkit-broken"}
    assert {name for name, p in found.items() if p["status"] == "failed"} == set(REASONS)
    assert {name for name, p in found.items() if p["status"] == "ok"} == {"breaks_protocol", "fine"}
    listed, examined = environment.alignkit("plugins"), environment.alignkit("plugins", "doctor", status=2)
    assert "alignkit-broken 0.1.0" in listed
    for name, reason in REASONS.items():
        assert found[name]["version"] == "0.1.0"
        assert reason in found[name]["problem"]
        assert f"{name}: " in listed
        assert reason in listed
        assert f"alignkit-broken 0.1.0 ({name})" in examined
    assert "Traceback" not in listed + examined
    environment.alignkit("plugins", "--strict-plugins", status=2)


def broken_neighbour_harms_nobody(environment: Environment) -> None:
    assert "is fine" in environment.alignkit("check", "three_plugins.yaml")
    assert "is fine" in environment.alignkit("check", "quickstart")
    assert "is fine" in environment.alignkit(
        "check", "three_plugins.yaml", "aligned.reward_source=constant", "name=constant"
    )
    environment.alignkit("check", "three_plugins.yaml", status=2, ALIGNKIT_STRICT_PLUGINS="1")


def naming_a_broken_component_tells_its_reason(environment: Environment, run: Path) -> None:
    for name, plugin in NAMED.items():
        said = environment.alignkit("check", "three_plugins.yaml", f"aligned.advantage={name}", status=2)
        assert f"alignkit-broken 0.1.0 ({plugin})" in said
        assert REASONS[plugin] in said
    # The finished steps of the other run are taken over, so that the broken one is built at once.
    overrides = ("name=broken", "aligned.advantage=breaks_protocol", "--reuse", str(run))
    said = environment.alignkit("run", "three_plugins.yaml", *overrides, status=4)
    assert "alignkit-broken 0.1.0: advantage 'breaks_protocol' does not keep to the Protocol" in said
    assert "needs" in said
    assert "Traceback" not in said


def allowlist(environment: Environment) -> None:
    allowed = {"ALIGNKIT_PLUGINS": "alignkit-opo, Alignkit_Vader"}
    listed = environment.alignkit("plugins", **allowed)
    assert "alignkit-opo 0.1.0" in listed
    assert "alignkit-vader 0.1.0" in listed
    assert "alignkit-cce is not in ALIGNKIT_PLUGINS" in listed
    assert "alignkit-broken 0.1.0" not in listed  # not even imported
    said = environment.alignkit("check", "three_plugins.yaml", status=2, **allowed)
    assert "no kernel 'cce' is installed" in said
    assert "alignkit-cce is not in ALIGNKIT_PLUGINS" in said
    assert "is fine" in environment.alignkit("check", "three_plugins.yaml", "kernels=eager", "name=eager", **allowed)


def own_tests_pass(environment: Environment, distribution: str) -> None:
    """Against the installed wheels: of the package only its tests are copied."""
    folder = environment.work / distribution
    shutil.copytree(EXAMPLES / distribution / "tests", folder / "tests")
    said = call(environment.bin / "python", "-m", "pytest", "-q", "tests", cwd=folder, OMP_NUM_THREADS="1")
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said
    assert int(passed[1]) >= 20, said
