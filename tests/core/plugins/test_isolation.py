"""Core stands without plugins and kernels, imports stay light, and no built-in holds up another."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from alignkit import UserError
from alignkit.manager import PluginManager
from alignkit.recipe import load_recipe

ROOT = Path(__file__).parents[3]
BUILTINS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["alignkit"])
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "matplotlib",
    "scipy",
    "pandas",
    "pyarrow",
    "tokenizers",
    "sklearn",
    "krippendorff",
    "starlette",
    "uvicorn",
    "openai",
    "sqlalchemy",
)
# Default components of options that quickstart leaves out (hf) and plugins it does not use at all.
NOT_IN_QUICKSTART = {
    "launcher_ray",
    "launcher_torchrun",
    "command_feedback",
    "command_label",
    "command_sample",
    "reward_ai",
    "reward_mixed",
    "advantage_grpo",
    "advantage_reinforce_pp",
    "advantage_remax",
    "advantage_rloo",
    "optim_cispo",
    "optim_gspo",
    "optim_reinforce",
    "kernels",
    "data_formats",
    "optim_dpo",
    "optim_kto",
    "optim_orpo",
    "reward_function",
    "reward_human",
    "reward_length",
    "reward_weighted",
    "sampler_openai",
    "tracker_jsonl",
    "tracker_progress",
}


def run_python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_alignkit_and_plugins_command_stay_light() -> None:
    code = """
import sys, json
import alignkit
bare = sorted(sys.modules)
from alignkit.cli import cli
try:
    cli.main(["plugins", "--json"], standalone_mode=False)
finally:
    print("\\n@@" + json.dumps([bare, sorted(sys.modules)]))
"""
    shown, _, modules = run_python(code).partition("\n@@")
    assert len(json.loads(shown)["plugins"]) >= len(BUILTINS)
    bare, after = json.loads(modules)
    assert [m for m in HEAVY if m in bare] == []
    assert [m for m in HEAVY if m in after] == []
    assert "alignkit_plugins.advantage_gae.plugin" in after


LIGHT = (
    ["--help"],
    *([command, "--help"] for command in ("run", "check", "plugins", "sample", "label", "feedback", "report", "new")),
    ["plugins", "show", "sampler:openai"],
    ["plugins", "show", "optimizer_stage:ppo"],
    ["schema"],
)


def test_commands_that_only_tell_stay_light() -> None:
    code = """
import json, sys
from alignkit.cli import cli
heavy = {}
for arguments in json.loads(sys.argv[1]):
    try:
        cli.main(arguments, standalone_mode=False)
    except SystemExit as end:
        assert not end.code, arguments
    heavy[" ".join(arguments)] = [m for m in json.loads(sys.argv[2]) if m in sys.modules]
print("\\n@@" + json.dumps(heavy))
"""
    found = json.loads(run_python(code, json.dumps(LIGHT), json.dumps(HEAVY)).partition("\n@@")[2])
    assert len(found) == len(LIGHT)
    assert {command: modules for command, modules in found.items() if modules} == {}


@pytest.mark.slow
def test_looking_at_a_recipe_loads_torch_and_nothing_that_only_a_run_needs() -> None:
    code = """
import json, sys
from alignkit.cli import cli
try:
    cli.main(["check", "quickstart"], standalone_mode=False)
except SystemExit as end:
    assert not end.code
needless = ["scipy", "sklearn", "matplotlib", "transformers", "datasets", "openai", "torch._dynamo", "torch._inductor"]
print("\\n@@" + json.dumps(["torch" in sys.modules, [m for m in needless if m in sys.modules]]))
"""
    assert json.loads(run_python(code).partition("\n@@")[2]) == [True, []]


def test_each_builtin_alone_imports_nothing_heavy_and_not_each_other() -> None:
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["alignkit"]
    code = """
import importlib, json, sys
found = {}
for name, module in json.loads(sys.argv[1]).items():
    importlib.import_module(module)
    heavy = [m for m in json.loads(sys.argv[2]) if m in sys.modules]
    if heavy:
        found[name] = heavy
        break
print(json.dumps(found))
"""
    assert json.loads(run_python(code, json.dumps(modules), json.dumps(HEAVY))) == {}
    assert len(modules) >= 20


def test_core_imports_with_plugins_and_kernels_blocked() -> None:
    code = """
import importlib, pkgutil, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("alignkit_plugins", "alignkit_kernels"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import alignkit
count = 0
for info in pkgutil.walk_packages(alignkit.__path__, "alignkit."):
    importlib.import_module(info.name)
    count += 1
from alignkit.manager import PluginManager
manager = PluginManager()
manager.load()
own = [p for p in manager.plugins if p.distribution == "alignkit"]
assert own and all("is blocked" in p.problem for p in own), own
print(count)
"""
    assert int(run_python(code)) >= 60


def test_import_contract_holds(tmp_path: Path) -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = config["contracts"][0]
    packages, layers = config["root_packages"], contract["layers"]
    assert layers == ["alignkit_plugins | alignkit_kernels", "alignkit"]
    if not (ROOT / "kernels/alignkit_kernels/__init__.py").is_file():
        packages, layers = ["alignkit", "alignkit_plugins"], ["alignkit_plugins", "alignkit"]
    lines = ["[importlinter]", "root_packages =", *(f"    {p}" for p in packages), "[importlinter:contract:1]"]
    lines += [f"name = {contract['name']}", f"type = {contract['type']}", "layers =", *(f"    {x}" for x in layers)]
    (tmp_path / "contract.ini").write_text("\n".join(lines))
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [tool, "--config", tmp_path / "contract.ini", "--no-cache"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("plugin", BUILTINS)
def test_without_one_builtin_only_recipes_that_name_it_fail(plugin: str) -> None:
    manager = PluginManager()
    manager.load(disable=[plugin])
    assert [p.problem for p in manager.plugins if p.distribution == "alignkit"] == [None] * (len(BUILTINS) - 1)
    if plugin in NOT_IN_QUICKSTART:
        assert load_recipe("quickstart", (), manager).recipe.name == "quickstart"
        return
    with pytest.raises(UserError, match="is installed") as caught:
        load_recipe("quickstart", (), manager)
    assert f"{plugin} (plugins.disable)" in str(caught.value.hint)
    assert "quickstart.yaml" in str(caught.value.where)


def test_number_of_builtins() -> None:
    assert len(BUILTINS) >= 20
    assert set(BUILTINS) >= NOT_IN_QUICKSTART
