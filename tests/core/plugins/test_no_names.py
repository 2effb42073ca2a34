"""No code in core is keyed on the name of a built-in component: a stranger's has the same rights."""

from pathlib import Path

import pytest

from alignkit.components import KINDS
from alignkit.manager import BUILTIN_DISTRIBUTION, PluginManager
from helpers.naming import core_words, keyed_on

CORE = Path(__file__).parents[3] / "core" / "alignkit"

FORMS = {
    "equal": 'if spec.name == "ppo":\n    pass',
    "not equal, reversed": 'x = 1 if "ppo" != name else 2',
    "with its distribution": 'x = name == "alignkit:ppo"',
    "in a tuple": 'x = name in ("gspo", "ppo")',
    "in a set": 'x = name in {"ppo"}',
    "in a frozen set": 'x = name not in frozenset({"ppo"})',
    "in a dict": 'x = name in {"ppo": 1}',
    "contained": 'x = "ppo" in names',
    "in a constant": 'STAGES = ("ppo", "sft")\nx = name in STAGES',
    "in a sum of constants": 'STAGES = ["sft"] + ["ppo"]\nx = name in STAGES',
    "constant": 'DEFAULT = "ppo"\nx = name == DEFAULT',
    "one of two constants": 'def f():\n    s = ("ppo",)\n    return name in s\ndef g():\n    s = ("sft",)',
    "attribute": 'class A:\n    stages = {"ppo"}\n    def f(self, name):\n        return name in self.stages',
    "match": 'match name:\n    case "ppo":\n        pass',
    "match, several": 'match name:\n    case "sft" | "ppo":\n        pass',
    "match of a mapping": 'match spec:\n    case {"ppo": value}:\n        pass',
    "subscript": 'x = summary["ppo"]',
    "stored": 'summary["ppo"] = 1',
    "get": 'x = summary.get("ppo")',
    "pop": 'x = summary.pop("ppo", None)',
    "setdefault": 'summary.setdefault("ppo", {})',
    "startswith": 'x = name.startswith("ppo")',
    "getattr": 'x = getattr(summary, "ppo")',
    "hasattr": 'x = hasattr(summary, "ppo")',
    "table": 'AXIS = {"ppo": "iteration"}\nx = AXIS[name]',
    "table with get": 'def f(name):\n    axis = {"ppo": "iteration"}\n    return axis.get(name, "step")',
    "table in place": 'x = {"ppo": 1, "sft": 2}[name]',
    "table in place with get": 'x = {"ppo": 1}.get(name)',
    "table of keywords": "x = dict(ppo=1)[name]",
    "table with a type": 'AXIS: dict[str, str] = {"ppo": "iteration"}\nx = AXIS[name]',
    "manager": 'manager.get("optimizer_stage", "ppo")',
    "resolve": 'resolve(manager, "optimizer_stage", "ppo")',
    "build": 'context.build("optimizer_stage", "ppo")',
    "keyword": 'context.build("optimizer_stage", spec="ppo")',
    "spec": 'x = ComponentSpec(name="ppo")',
    "spec by position": 'x = ComponentSpec("ppo")',
    "spec of a text": 'x = ComponentSpec.model_validate("ppo")',
    "default": 'class A:\n    stage: Annotated[ComponentSpec, SlotOf("optimizer_stage")] = Field("ppo")',
    "import": "import alignkit_plugins.optim_ppo.stage",
    "import from": "from alignkit_plugins.optim_ppo import stage",
    "import of kernels": "from alignkit_kernels import plugin",
    "import of a text": 'import_module("alignkit_plugins.optim_ppo")',
}
FREE = {
    "own words": 'x = row["loss"] == "nats" and summary.get("accuracy")',
    "docstring": 'def f():\n    """ppo"""',
    "message": 'raise UserError("use ppo")',
    "part of a word": 'x = name == "ppo_like"',
    "type": 'x: Literal["ppo"] = value',
    "something made": 'def f():\n    return {"ppo": 1}',
    "listed": 'for package in ("ppo", "torch"):\n    print(package)',
    "by number": 'x = ("ppo", "sft")[0]\nSTAGES = ("ppo", "sft")\ny = STAGES[1:]',
    "hook": '"alignkit_kernels"',
    "another variable": 'STAGES = ("ppo",)\nx = name in OTHERS',
}


def built_in_names() -> set[str]:
    manager = PluginManager()
    manager.load()
    everything = [registered for kind in KINDS for registered in manager.all(kind)]
    return {r.component.name for r in everything if r.distribution == BUILTIN_DISTRIBUTION}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found(form: str) -> None:
    assert len(keyed_on(FORMS[form], {"ppo"})) >= 1


@pytest.mark.parametrize("form", FREE)
def test_what_is_not_keyed_on_a_name_is_not_found(form: str) -> None:
    assert keyed_on(FREE[form], {"ppo"}) == []


def test_place_and_name_are_told() -> None:
    assert keyed_on('x = 1\ny = name == "ppo"\n', {"ppo"}) == [(2, "comparison", "ppo")]


def test_words_of_core() -> None:
    words = core_words()
    # an op, a finish reason, a kind of annotator, a field, a part: whatever components are called so
    assert words >= {"gae", "length", "human", "text", "prompts"}
    assert not words & {"ppo", "hf", "causal_lm", "reward_model", "simulated", "jsonl", "progress", "triton"}


def test_core_is_keyed_on_no_built_in() -> None:
    names = built_in_names()
    assert len(names) >= 45
    assert {"ppo", "hf", "causal_lm", "simulated", "film_world", "jsonl", "train"} <= names
    found, files = [], 0
    for path in sorted(CORE.rglob("*.py")):
        files += 1
        for line, form, name in keyed_on(path.read_text(encoding="utf-8"), names - core_words()):
            found.append(f"{path.relative_to(CORE)}:{line}: {form} {name}")
    assert files >= 80
    assert found == []
