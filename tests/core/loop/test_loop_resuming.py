"""The alignment loop, interrupted at every kind of safe point and gone on with by new objects: bit for bit the same."""

import copy
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from alignkit import hookimpl
from alignkit.batches import Rollout
from alignkit.checkpoints import Checkpoints
from alignkit.engine.precision import mixed_precision
from alignkit.errors import Fault, Terminated
from alignkit.interruption import Interruption
from alignkit.loop.config import LoopConfig
from alignkit.loop.loop import AlignmentLoop
from alignkit.loop.prompts import PromptBatches
from alignkit.loop.state import rollout_of, rollout_state
from alignkit.manager import PluginManager, PluginStatus
from alignkit.recipe import ComponentSpec
from alignkit.recipe.model import CheckpointOptions
from alignkit.records import Message, Prompt, Sampling
from alignkit.testing.experience import through_files
from alignkit.testing.measures import changed_weights, weights_of
from alignkit_plugins.policy_causal_lm import lora
from alignkit_plugins.policy_causal_lm.config import LoRAConfig
from alignkit_plugins.sampler_hf.sampler import HFSampler
from alignkit_plugins.tracker_jsonl.tracker import JsonlTracker
from helpers.context import make_context, make_rollout
from helpers.models import make_policy

ITERATIONS = 4
OPTIONS: dict[str, Any] = {
    "iterations": ITERATIONS,
    "batch_size": 6,
    "sampling": Sampling(max_length=8),
    "kl": {"coef": 0.1, "target": 2.0, "horizon": 50},
    "normalise_scores": {"mode": "running"},
    "eval_every": 2,
}
PROMPTS = ["the quiet film", "a", "this thriller about two brothers", "I recommend it"]


class Variant(NamedTuple):
    """A way to fill the slots."""

    stage: str = "ppo"
    advantage: str = "gae"
    critic: str | None = "separate"
    stage_options: Mapping[str, Any] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})
    lora: bool = False
    precision: str = "float32"


VARIANTS = {
    "ppo": Variant(),
    "shared critic": Variant(critic="shared"),
    "critic first": Variant(stage_options={"critic_warmup": 2}),
    "lora": Variant(lora=True),
    "lora, shared critic": Variant(lora=True, critic="shared"),
    "bfloat16": Variant(precision="bfloat16"),
    "early stop": Variant(stage_options={"target_kl": 1e-5}),
    "score behind the stop": Variant(options={"score_position": "after_stop"}),
    "top-k": Variant(
        "gspo", "grpo", None, options={"sampling": Sampling(max_length=8, top_k=20), "samples_per_prompt": 2}
    ),
    "kl in the loss": Variant("cispo", "rloo", None, options={"kl": {"coef": 0.1, "placement": "loss", "target": 2.0}}),
    "reference scores": Variant(
        "reinforce", "reinforce_pp", None, options={"normalise_scores": {"mode": "reference", "samples": 8}}
    ),
    "greedy baseline": Variant("ppo", "remax", None),
}


class Judge:
    """Never gives the same score twice: what is asked for again comes out otherwise. Outlives an interruption."""

    def __init__(self, act: Callable[[], None] = lambda: None, when: int = 0) -> None:
        self.asked = 0
        self._act, self._when = act, when

    def score(self, rollout: Rollout) -> Tensor:
        """The share of the letter e, how often it was asked, and a draw from torch's global generator."""
        self.asked += 1
        if self.asked == self._when:
            self._act()
        noise = 0.1 * float(torch.rand(())) + 0.01 * random.random() + 0.01 * float(np.random.rand())
        return torch.tensor([t.count("e") / (len(t) + 1) for t in rollout.texts]) + 0.3 * (self.asked % 5) + noise

    def figures(self) -> dict[str, Any]:
        """Numbers of other libraries, as a stranger's source may report them."""
        return {"reward/asked": np.int64(self.asked), "reward/half": np.float32(self.asked / 3)}


class Listener:
    """Calls what the test wants called in the middle of iteration `when`."""

    def __init__(self, hook: str, when: int, act: Callable[[], None]) -> None:
        self.hook, self.when, self.act = hook, when, act
        self.heard: list[str] = []
        self.iteration = 0

    def _hear(self, hook: str, iteration: int) -> None:
        self.iteration = iteration
        self.heard.append(f"{hook} {iteration}")
        if (hook, iteration) == (self.hook, self.when):
            self.act()

    @hookimpl
    def alignkit_iteration_start(self, iteration: int) -> None:
        """Before the completions are sampled: the next safe point is in the middle."""
        self._hear("start", iteration)

    @hookimpl
    def alignkit_rollouts(self) -> None:
        """The batch is there and not yet scored."""
        self._hear("rollouts", self.iteration)

    @hookimpl
    def alignkit_iteration_end(self, iteration: int) -> None:
        """The next safe point is between two iterations."""
        self._hear("end", iteration)


class Try:
    """One start of the step, with everything built anew in the same folder."""

    def __init__(
        self, folder: Path, variant: Variant, judge: Judge, interruption: Interruption, **checkpoints: Any
    ) -> None:
        torch.manual_seed(folder.stat().st_ino)  # whatever the process has drawn before
        self.variant = variant
        self.manager = PluginManager()
        self.manager.load()
        self.context = make_context(folder, seed=5, manager=self.manager)
        self.context.trackers = (JsonlTracker(folder),)
        self.context.kept_checkpoints = Checkpoints(
            folder / "checkpoints",
            CheckpointOptions(**{"seconds": None, **checkpoints}),
            interruption,
            self.context.trackers,
        )
        self.policy = make_policy("llama", seed=0)
        if variant.lora:
            for parameter in self.policy.module.parameters():
                parameter.requires_grad_(False)
            lora.inject(self.policy.module, LoRAConfig(rank=2), 3, "base")
        shared = variant.critic == "shared"
        self.critic = self.policy.critic(None, shared=shared) if variant.critic else None
        stage = ComponentSpec(name=variant.stage, lr=1e-3, minibatches=2, warmup=0.3, **variant.stage_options)
        self.loop = AlignmentLoop(
            policy=self.policy,
            reference=self.policy.reference(),
            critic=self.critic,
            reward_source=judge,
            advantage=self.context.build("advantage", ComponentSpec(name=variant.advantage)),
            stage=self.context.build("optimizer_stage", stage),
            sampler=HFSampler(4),
            prompts=[Prompt(prompt=t) for t in PROMPTS],
            eval_prompts=[Prompt(prompt="the film")],
            monitors={},
            config=LoopConfig(**{**OPTIONS, **variant.options}),
            context=self.context,
        )

    def listen(self, hook: str = "", when: int = 0, act: Callable[[], None] = lambda: None) -> Listener:
        """A plugin that hears the loop's hooks."""
        listener = Listener(hook, when, act)
        status = PluginStatus(f"listener {len(self.manager.plugins)}", "own", "1")
        self.manager.register(listener, status)
        assert status.problem is None
        return listener

    def run(self) -> dict[str, Any]:
        """The loop to its end, or to where it is interrupted."""
        torch.manual_seed(1)  # the engine's seed of the step
        random.seed(1)
        np.random.seed(1)
        with mixed_precision(self.context.device, self.variant.precision):
            found = self.loop.run()
        for tracker in self.context.trackers:
            tracker.close()
        return found

    def weights(self) -> dict[str, Tensor]:
        """Of policy and critic."""
        found = weights_of(self.policy.module)
        own = {} if self.critic is None else weights_of(self.critic.module)
        return found | {f"critic.{name}": tensor for name, tensor in own.items()}


class End(NamedTuple):
    """What has to be equal."""

    weights: dict[str, Tensor]
    rows: str
    figures: dict[str, Any]
    asked: int


def ended(last: Try, figures: dict[str, Any], judge: Judge) -> End:
    return End(last.weights(), (last.context.folder / "metrics.jsonl").read_text(), figures, judge.asked)


def through(folder: Path, variant: Variant) -> End:
    """The run that nobody interrupts; its judge is asked as often as there is something to ask."""
    folder.mkdir()
    judge = Judge()
    only = Try(folder, variant, judge, Interruption())
    return ended(only, only.run(), judge)


class Signal:
    """Tells a run to end; the next safe point looks for it."""

    def __init__(self) -> None:
        self.interruption = Interruption()

    def __call__(self) -> None:
        self.interruption.requested = signal.SIGTERM


def interrupted(folder: Path, variant: Variant, hook: str, when: int) -> End:
    """The same run, told to end in iteration `when`, and gone on with."""
    folder.mkdir()
    judge, told = Judge(), Signal()
    first = Try(folder, variant, judge, told.interruption)
    first.listen(hook, when, told)
    with pytest.raises(Terminated):
        first.run()
    (found,) = first.context.checkpoints.there()
    assert found[1] == (when - 1 if hook == "start" else when), "it ended at another safe point"
    return taken_up(folder, variant, judge)


def taken_up(folder: Path, variant: Variant, judge: Judge) -> End:
    last = Try(folder, variant, judge, Interruption())
    return ended(last, last.run(), judge)


def assert_same(one: End, other: End) -> None:
    assert changed_weights(one.weights, other.weights) == []
    assert one.rows == other.rows
    assert one.figures == other.figures
    assert one.asked == other.asked, "completions were judged twice"


@pytest.mark.parametrize("name", VARIANTS)
def test_it_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    """In the middle of the third iteration, with a batch that nothing was learned from, and behind the second."""
    variant = VARIANTS[name]
    whole = through(tmp_path / "whole", variant)
    assert len(whole.rows.splitlines()) == 1 + ITERATIONS
    assert_same(interrupted(tmp_path / "middle", variant, "start", 3), whole)
    assert_same(interrupted(tmp_path / "between", variant, "end", 2), whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> End:
    return through(tmp_path_factory.mktemp("resuming") / "whole", Variant())


class TestEverySafePoint:
    @pytest.mark.slow
    @pytest.mark.parametrize("when", range(1, ITERATIONS + 1))
    @pytest.mark.parametrize("hook", ["start", "end"])
    def test_of_the_loop(self, tmp_path: Path, whole: End, hook: str, when: int) -> None:
        assert_same(interrupted(tmp_path / "run", Variant(), hook, when), whole)

    def test_several_times(self, tmp_path: Path, whole: End) -> None:
        judge = Judge()
        for hook, when in (("start", 1), ("end", 1), ("start", 3), ("end", 3), ("start", 4)):
            told = Signal()
            one = Try(tmp_path, Variant(), judge, told.interruption)
            one.listen(hook, when, told)
            with pytest.raises(Terminated):
                one.run()
        assert_same(taken_up(tmp_path, Variant(), judge), whole)

    @pytest.mark.parametrize("asked", [1, 2], ids=["reference", "measurement"])
    def test_before_the_first_iteration(self, tmp_path: Path, asked: int) -> None:
        """The reference's completions and the first measurement are not judged again either."""
        variant = VARIANTS["reference scores"]
        whole = through(tmp_path / "whole", variant)
        (tmp_path / "run").mkdir()
        told = Signal()
        judge = Judge(told, asked)
        with pytest.raises(Terminated):
            Try(tmp_path / "run", variant, judge, told.interruption).run()
        assert judge.asked == 2
        assert_same(taken_up(tmp_path / "run", variant, judge), whole)


LEFT_OUT = ["policy", "critic", "progress", "kl", "normaliser", "prompts", "stage"]


@pytest.mark.parametrize("part", LEFT_OUT)
def test_every_part_of_the_state_counts(tmp_path: Path, whole: End, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The comparison above is sharp enough to notice each of them."""
    parts = AlignmentLoop._parts
    monkeypatch.setattr(AlignmentLoop, "_parts", lambda loop: {k: v for k, v in parts(loop).items() if k != part})
    with pytest.raises(AssertionError):
        assert_same(interrupted(tmp_path / "run", Variant(), "end", 2), whole)


@pytest.mark.parametrize("field", ["_queue", "_generator"])
def test_so_does_each_half_of_the_prompts_order(
    tmp_path: Path, whole: End, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    restore = PromptBatches.restore

    def forgetful(batches: PromptBatches, state: Any) -> None:
        kept = copy.deepcopy(getattr(batches, field).get_state() if field == "_generator" else batches._queue)
        restore(batches, state)
        if field == "_generator":
            batches._generator.set_state(kept)
        else:
            batches._queue = kept

    monkeypatch.setattr(PromptBatches, "restore", forgetful)
    with pytest.raises(AssertionError):
        assert_same(interrupted(tmp_path / "run", Variant(), "end", 1), whole)


def test_hooks_of_an_iteration_that_is_gone_on_with(tmp_path: Path) -> None:
    """It begins again; its completions, which are the same, are not announced again."""
    judge, told = Judge(), Signal()
    first = Try(tmp_path, Variant(), judge, told.interruption)
    heard = first.listen("start", 3, told).heard
    with pytest.raises(Terminated):
        first.run()
    assert heard[-2:] == ["start 3", "rollouts 3"]
    second = Try(tmp_path, Variant(), judge, Interruption())
    heard = second.listen().heard
    second.run()
    assert heard == ["start 3", "end 3", "start 4", "rollouts 4", "end 4"]


class Learning(Judge):
    """A source with a state of its own, which dies with the process."""

    def state(self) -> dict[str, float]:
        """Satisfies `Resumable`."""
        return {"asked": self.asked}

    def restore(self, state: Any) -> None:
        """Satisfies `Resumable`."""
        self.asked = state["asked"]


class Refusing(Judge):
    """Fails while `refuses` is set, so that whole batches are left out."""

    refuses = False

    def score(self, rollout: Rollout) -> Tensor:
        """Scores, or none."""
        if self.refuses:
            raise ValueError("not today")
        return super().score(rollout)


class TestAnIterationWhoseBatchWasLeftOut:
    variant = Variant(options={"reward_faults": {"retries": 0, "wait": 0, "then": "skip"}})

    def one(self, folder: Path, judge: Refusing, interruption: Interruption) -> Try:
        found = Try(folder, self.variant, judge, interruption)
        found.listen("start", 3, lambda: setattr(judge, "refuses", True))
        found.listen("end", 3, lambda: setattr(judge, "refuses", False))
        return found

    @pytest.mark.parametrize("when", [("start", 3), ("end", 3), ("start", 4)], ids=str)
    def test_is_not_lost(self, tmp_path: Path, when: tuple[str, int]) -> None:
        """There is nothing to go on with in its middle: the next safe point is behind it."""
        for name in ("whole", "run"):
            (tmp_path / name).mkdir()
        judge = Refusing()
        only = self.one(tmp_path / "whole", judge, Interruption())
        whole = ended(only, only.run(), judge)
        assert '"left_out": 6' in whole.rows
        judge, told = Refusing(), Signal()
        first = self.one(tmp_path / "run", judge, told.interruption)
        first.listen(*when, told)
        with pytest.raises(Terminated):
            first.run()
        second = self.one(tmp_path / "run", judge, Interruption())
        assert_same(ended(second, second.run(), judge), whole)


def crash() -> None:
    raise Fault("the power is out")


class TestWithASourceThatHasAState:
    def test_it_is_put_back_too(self, tmp_path: Path, whole: End) -> None:
        told = Signal()
        first = Try(tmp_path, Variant(), Learning(), told.interruption)
        first.listen("start", 3, told)
        with pytest.raises(Terminated):
            first.run()
        assert_same(taken_up(tmp_path, Variant(), Learning()), whole)

    @pytest.mark.parametrize(("hook", "when"), [("end", 3), ("rollouts", 3), ("start", 1)])
    @pytest.mark.parametrize("options", [{"seconds": 0}, {"steps": 2}], ids=str)
    def test_what_came_behind_the_last_checkpoint_is_done_again(
        self, tmp_path: Path, whole: End, hook: str, when: int, options: dict[str, Any]
    ) -> None:
        """After a crash, with a checkpoint at every safe point or fewer; no row of metrics is lost or there twice."""
        first = Try(tmp_path, Variant(), Learning(), Interruption(), **options)
        first.context.checkpoints.clock = lambda: 0.0  # writing takes no time, so that none is put off
        first.listen(hook, when, crash)
        with pytest.raises(Fault):
            first.run()
        assert_same(taken_up(tmp_path, Variant(), Learning()), whole)


@pytest.mark.parametrize("whole", [True, False], ids=["all fields", "the least"])
def test_a_rollout_comes_back_from_its_state(tmp_path: Path, whole: bool) -> None:
    policy = make_policy("llama")
    plain = make_rollout(policy, ["the film", "a", "the film"], [[40, 41, policy.encoder.end_id], [42], [43, 44]], 0.7)
    chat = (Message(role="user", content="ein schöner Film \ud83d?"),)
    given = replace(plain, prompts=(Prompt(prompt=chat, id="x"), *plain.prompts[1:]), texts=("\udcff", "", "b\u2028"))
    if whole:
        given = replace(given, sampler_logp_BT=torch.randn(3, 3), kept_BTK=torch.full((3, 3, 2), -1))
    found = rollout_of(through_files(rollout_state(given), tmp_path / "state"))
    for name in ("prompts", "prompt_ids", "completion_ids", "texts", "finish", "temperature", "tokenizer_id"):
        assert getattr(found, name) == getattr(given, name), name
    for name in ("group_B", "sampler_logp_BT", "kept_BTK"):
        one, other = getattr(found, name), getattr(given, name)
        assert (one is None and other is None) or (torch.equal(one, other) and one.dtype == other.dtype), name
