"""A stranger's code that fails anywhere in a run: one message with its name and line, exit status 4, nothing lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignkit.engine import run_recipe
from alignkit.engine.blame import FAILURE
from alignkit.errors import AlignkitError, Fault
from alignkit.manager import PluginManager
from alignkit.recipe import load_recipe
from helpers.commands import alignkit
from helpers.models import make_policy

PLUGIN = '''
from typing import Literal
import torch
from alignkit import Component, Fault, hookimpl
from alignkit.components import Config
from alignkit.protocols import Needs, StepOutput
from alignkit.records import Annotator, Judgement, Pairwise
from alignkit_plugins.policy_causal_lm import plugin as own


def oops():
    raise LookupError("it went wrong")


class Source:
    def score(self, rollout):
        oops()

    def annotate(self, tasks):
        for number, task in enumerate(tasks):
            if number == 2:
                oops()
            a, b = task.candidates[:2]
            yield Judgement(id=task.id, task_id=task.id, annotator=Annotator(id="x", kind="program"),
                            payload=Pairwise(a=a.id, b=b.id, p_a=1.0), presented_order=(a.id, b.id))


class Advantage:
    needs = Needs()
    def __call__(self, rewards_BT, values_BT, mask_BT, group_B):
        oops()


class Stage:
    adds_kl = False
    reads = "demonstrations"
    def start(self, *arguments):
        pass
    def update(self, experience):
        oops()
    def fit(self, task):
        oops()
    def state(self):
        return {}
    def restore(self, state):
        pass


class Sampler:
    def rollout(self, policy, prompts, sampling, seed):
        oops()


class Step:
    def run(self, context):
        oops()


class Tracker:
    def start(self, step_id, total, unit):
        pass
    def log(self, step_id, index, metrics):
        oops()
    def close(self):
        pass


class Policy:
    """The built-in one, but for its hidden states."""
    def __init__(self, inner):
        self.__dict__["inner"] = inner
    def __getattr__(self, name):
        return getattr(self.inner, name)
    def reference(self):
        return self
    def encode_prompt(self, prompt): return self.inner.encode_prompt(prompt)
    def encode_completion(self, prompt, completion): return self.inner.encode_completion(prompt, completion)
    def decode(self, ids): return self.inner.decode(ids)
    def critic(self, *a, **k): return self.inner.critic(*a, **k)
    def save(self, folder): self.inner.save(folder)
    def hidden(self, batch):
        oops()
    @property
    def device(self): return self.inner.device
    @property
    def head(self): return self.inner.head


(own_policy,) = [c for c in own.alignkit_policies() if c.name == "causal_lm"]


@hookimpl
def alignkit_policies():
    return [Component("odd", lambda config, context: Policy(own_policy.build(config, context)), own_policy.config)]

@hookimpl
def alignkit_reward_sources():
    return [Component("odd", lambda config, context: Source())]

@hookimpl
def alignkit_advantages():
    return [Component("odd", lambda config, context: Advantage())]

@hookimpl
def alignkit_optimizer_stages():
    return [Component("odd", lambda config, context: Stage())]

@hookimpl
def alignkit_samplers():
    return [Component("odd", lambda config, context: Sampler())]

@hookimpl
def alignkit_steps():
    return [Component("odd", lambda config, context: Step())]

@hookimpl
def alignkit_trackers():
    return [Component("odd", lambda config, context: Tracker())]
'''
ALIGN = {
    "id": "last",
    "step": "align",
    "prompts": "@prompts",
    "reward_source": {"name": "length", "coef": 0.1},
    "advantage": "grpo",
    "samples_per_prompt": 2,
    "optimizer_stage": "reinforce",
    "iterations": 1,
    "batch_size": 4,
    "sampling": {"max_length": 4},
    "reward_faults": {"retries": 0, "wait": 0},
}
COLLECT = {
    "id": "last",
    "step": "collect",
    "prompts": "@prompts",
    "reward_source": "odd",
    "samples_per_prompt": 2,
    "sampling": {"max_length": 4},
}
EVALUATE = {
    "id": "last",
    "step": "evaluate",
    "against": "model",
    "policy": "model",
    "prompts": "@prompts",
    "judge": "odd",
    "sampling": {"max_length": 4},
    "reward_faults": {"retries": 0, "wait": 0},
}
TRAIN = {"id": "last", "step": "train", "optimizer_stage": "odd", "data": "@prompts"}
# where it fails -> last step, recipe's own keys, function that is named
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "score": ({**ALIGN, "reward_source": "odd"}, {}, "reward source 'odd'"),
    "monitor": ({**ALIGN, "monitor": {"m": "odd"}, "eval_prompts": "@prompts"}, {}, "reward source 'odd'"),
    "judge": (EVALUATE, {}, "reward source 'odd'"),
    "annotate": (COLLECT, {}, "reward source 'odd'"),
    "advantage": ({**ALIGN, "advantage": "odd"}, {}, "failed in oops"),
    "update": ({**ALIGN, "optimizer_stage": "odd"}, {}, "failed in oops"),
    "fit": (TRAIN, {}, "failed in oops"),
    "rollout": ({**ALIGN, "sampler": "odd"}, {}, "failed in oops"),
    "step": ({"id": "last", "step": "odd"}, {}, "failed in oops"),
    "tracker": (ALIGN, {"trackers": ["odd"]}, "failed in oops"),
    "policy": (ALIGN, {"policy": {"name": "odd"}}, "failed in oops"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, prompts with completions, and a plugin."""
    folder = tmp_path_factory.mktemp("faults")
    make_policy().save(folder / "model")
    rows = [{"prompt": f"the film {n}"} for n in range(6)]
    shown = [{**row, "completion": f" is {n}"} for n, row in enumerate(rows)]
    for name, found in (("prompts", rows), ("prompt_completion", shown)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "plugins").mkdir()
    (folder / "plugins" / "odd.py").write_text(PLUGIN)
    (folder / "nothing").mkdir()
    (folder / "nothing" / "odd.py").write_text(PLUGIN.replace("        oops()", "        return None"))
    return folder


Run = Callable[..., Any]


@pytest.fixture
def write(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Writes a recipe whose last step is the one given."""
    monkeypatch.chdir(folder)

    def made(last: dict[str, Any], **top: Any) -> Path:
        policy = {"name": "causal_lm", **top.pop("policy", {}), "path": str(folder / "model")}
        kind = "prompt_completion" if last["step"] == "train" else "prompts"
        data = {"id": "prompts", "step": "data", "format": kind, "files": f"{kind}.jsonl"}
        recipe = {"name": "small", "output": str(tmp_path), "policy": policy, "steps": [data, last], **top}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        return tmp_path / "small.yaml"

    return made


def run(recipe: Path, plugins: Path) -> Any:
    """Run it in this process."""
    manager = PluginManager()
    manager.load(folders=[plugins])
    assert [p.problem for p in manager.plugins if p.problem] == []
    return run_recipe(load_recipe(str(recipe), (), manager))


# One of each way to be called is quick; `make test-all` has them all.
QUICK = ("score", "annotate", "advantage", "step")


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_a_stranger_that_fails_is_named_with_its_line_and_the_traceback_is_kept(
    case: str, folder: Path, tmp_path: Path, write: Run
) -> None:
    last, top, named = CASES[case]
    recipe = write(last, **top)
    with pytest.raises(Fault) as caught:
        run(recipe, folder / "plugins")
    said = str(caught.value)
    assert caught.value.exit_status == 4
    assert named in said
    assert "LookupError: it went wrong" in said
    saved = tmp_path / "small" / "r1" / ("01-prompts" if case == "tracker" else "02-last") / FAILURE
    assert str(saved) in said
    text = saved.read_text()
    assert "odd.py" in text
    assert "in oops" in text
    if named == "failed in oops":
        line = PLUGIN[: PLUGIN.index('raise LookupError("it')].count("\n") + 1
        assert caught.value.where == f"{folder / 'plugins' / 'odd.py'}:{line}"
        assert said.count("local sha256:") == 1


# What each case says when the function returns None.
NOTHING = {
    "score": "reward source 'odd': the reward source returned NoneType, not a tensor",
    "advantage": "advantage 'odd' returned None, not advantages and returns",
    "update": "optimizer stage 'odd' returned None, not a dict of figures",
    "fit": "optimizer stage 'odd' returned None, not a dict of figures",
    "rollout": "sampler 'odd' returned NoneType, not a Rollout",
    "step": "step 'odd' returned None, not a StepOutput",
    "policy": "returned None, not hidden states and a Head",
}


@pytest.mark.parametrize(
    "case", [c if c in ("advantage", "step") else pytest.param(c, marks=pytest.mark.slow) for c in NOTHING]
)
def test_a_stranger_that_returns_nothing_is_named(case: str, folder: Path, tmp_path: Path, write: Run) -> None:
    last, top, _ = CASES[case]
    with pytest.raises(Fault) as caught:
        run(write(last, **top), folder / "nothing")
    assert NOTHING[case] in str(caught.value)
    manifest = json.loads((tmp_path / "small" / "r1" / "02-last" / "manifest.json").read_text())
    assert manifest["status"] != "finished"


def test_judgements_until_then_are_kept_and_the_task_is_named(folder: Path, tmp_path: Path, write: Run) -> None:
    with pytest.raises(
        Fault, match=r"failed after 2 of 6 tasks: .*the first task without a judgement is \w+"
    ) as caught:
        run(write(COLLECT), folder / "plugins")
    saved = tmp_path / "small" / "r1" / "02-last" / "judgements_so_far.jsonl"
    assert str(saved) in str(caught.value)
    assert len(saved.read_text().splitlines()) == 2
    tasks = (saved.parent / "tasks.jsonl").read_text().splitlines()
    assert json.loads(tasks[2])["id"] in str(caught.value)


def test_the_failure_of_an_earlier_try_is_gone_when_the_step_is_done(folder: Path, tmp_path: Path, write: Run) -> None:
    with pytest.raises(AlignkitError):
        run(write(COLLECT), folder / "plugins")
    saved = tmp_path / "small" / "r1" / "02-last" / FAILURE
    assert saved.is_file()
    manager = PluginManager()
    manager.load(folders=[folder / "plugins"])
    write({**COLLECT, "reward_source": "simulated"})
    run_recipe(load_recipe(str(tmp_path / "small.yaml"), (), manager), start_from="last")
    assert not saved.exists()


@pytest.mark.slow
def test_the_command_ends_with_status_4_and_no_traceback(folder: Path, write: Run) -> None:
    recipe = write({**ALIGN, "advantage": "odd"})
    done = alignkit("run", str(recipe), "--plugins-dir", str(folder / "plugins"), cwd=folder, status=4)
    assert "failed in oops: LookupError: it went wrong" in done.stderr
    assert "Traceback" not in done.stderr
