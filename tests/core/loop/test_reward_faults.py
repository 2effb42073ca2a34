"""What the loop does when its reward source, a monitor or its sampler fails."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.checkpoints import Checkpoints
from alignkit.errors import Fault
from alignkit.loop.guarded import FILE
from alignkit.loop.left_out import IN_A_ROW
from alignkit.loop.loop import AlignmentLoop
from alignkit.loop.measure import measure
from alignkit.protocols import Needs
from alignkit.recipe.model import CheckpointOptions
from alignkit.records import Prompt, Sampling
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.models import make_policy
from helpers.ppo import make_loop as make_ppo_loop

TEXTS = ("the film", "a", "I recommend it", "it")


class Keep:
    """An estimator that gives back the rewards and remembers the groups."""

    needs = Needs()

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def __call__(self, rewards_BT: Any, values_BT: Any, mask_BT: Any, group_B: Any) -> tuple[Any, Any]:
        self.groups.append(group_B.tolist())
        return rewards_BT, rewards_BT


class Counts:
    """A stage that counts its updates and the iterations that it is passed over in."""

    adds_kl = False

    def start(self, *arguments: object) -> None:
        self.updates: list[tuple[str, ...]] = []
        self.passed = 0

    def update(self, experience: Any) -> dict[str, float]:
        self.updates.append(tuple(p.prompt for p in experience.rollout.prompts))
        return {}

    def pass_over(self) -> None:
        self.passed += 1

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Any) -> None:
        pass


class FailsOn:
    """Scores by length, and raises when one of these prompts is in the batch."""

    def __init__(self, *prompts: str) -> None:
        self.prompts = set(prompts)
        self.asked = 0

    def score(self, rollout: Any) -> torch.Tensor:
        self.asked += 1
        if self.prompts & {p.prompt for p in rollout.prompts}:
            raise ConnectionError("the judge is gone")
        return torch.tensor([float(len(t)) for t in rollout.texts])


@pytest.fixture(scope="module")
def policies() -> tuple[Any, Any]:
    return make_policy("llama", seed=0), make_policy("llama", seed=1)


@pytest.fixture
def context(context: Any, tmp_path: Path) -> Any:
    context.folder = tmp_path
    return context


def make_loop(context: Any, policies: tuple[Any, Any], source: Any, then: str = "skip", **more: Any) -> AlignmentLoop:
    """Four prompts, two completions of each, a batch of all."""
    from alignkit.loop.config import LoopConfig

    parts = {name: more.pop(name) for name in ("eval_prompts", "monitors", "sampler") if name in more}
    options = {"iterations": 1, "batch_size": 8, "samples_per_prompt": 2, "sampling": Sampling(max_length=4), **more}
    return AlignmentLoop(
        policy=policies[0],
        reference=policies[1],
        critic=None,
        reward_source=source,
        advantage=Keep(),
        stage=Counts(),
        prompts=[Prompt(prompt=t) for t in TEXTS],
        config=LoopConfig(reward_faults={"retries": 0, "wait": 0, "then": then}, **options),
        context=context,
        names={"reward": "dist 1.0: reward source 'x'", "sampler": "dist 1.0: sampler 'y'"},
        **{"eval_prompts": [], "monitors": {}, "sampler": HFSampler(8), **parts},
    )


def rows_of(context: Any) -> dict[int, dict[str, float]]:
    """Logged rows by iteration."""
    return dict(context.trackers[0].rows)


def test_stop_names_the_source_and_its_input(context: Any, policies: tuple[Any, Any]) -> None:
    loop = make_loop(context, policies, FailsOn("a"), "stop")
    with pytest.raises(Fault, match=r"dist 1.0: reward source 'x': ConnectionError: the judge is gone .*prompt 'a'"):
        loop.run()
    assert loop.stage.updates == []  # type: ignore[attr-defined]


def test_skip_learns_from_the_other_prompts_in_whole_groups(context: Any, policies: tuple[Any, Any]) -> None:
    loop = make_loop(context, policies, FailsOn("a"))
    loop.run()
    (learned,) = loop.stage.updates  # type: ignore[attr-defined]
    assert sorted(learned) == sorted(t for t in TEXTS if t != "a" for _ in range(2))
    assert sorted(loop.advantage.groups[0]) == [0, 0, 1, 1, 2, 2]  # type: ignore[attr-defined]
    assert rows_of(context)[1]["left_out"] == 2
    assert (loop.left_out.completions, loop.left_out.batches) == (2, 0)
    saved = [json.loads(line) for line in (context.folder / FILE).read_text().splitlines()]
    assert [(r["iteration"], r["prompt"]) for r in saved] == [(1, "a")] * 2


def test_without_a_fault_skip_counts_nothing(context: Any, policies: tuple[Any, Any]) -> None:
    loop = make_loop(context, policies, FailsOn())
    loop.run()
    assert rows_of(context)[1]["left_out"] == 0
    assert loop.left_out.completions == 0
    assert loop.asked["reward"].source.asked == 1  # type: ignore[attr-defined]


def test_a_batch_of_which_nothing_is_left_makes_no_update(context: Any, policies: tuple[Any, Any]) -> None:
    loop = make_loop(context, policies, FailsOn(*TEXTS), iterations=3, kl={"coef": 0.1, "target": 1.0})
    loop.run()
    assert loop.stage.updates == []  # type: ignore[attr-defined]
    assert loop.stage.passed == 3  # type: ignore[attr-defined]
    assert {n: r["left_out"] for n, r in rows_of(context).items()} == {1: 8, 2: 8, 3: 8}
    assert (loop.left_out.completions, loop.left_out.batches) == (24, 3)
    assert loop.kl.coef == 0.1


def test_ten_such_batches_in_a_row_stop_the_run(context: Any, policies: tuple[Any, Any]) -> None:
    loop = make_loop(context, policies, FailsOn(*TEXTS), iterations=IN_A_ROW + 5)
    with pytest.raises(Fault, match="could score no prompt of the last 10 batches"):
        loop.run()
    assert max(rows_of(context)) == IN_A_ROW - 1


def test_no_checkpoint_stands_behind_the_prompts_of_a_batch_that_was_left_out(
    context: Any, policies: tuple[Any, Any]
) -> None:
    loop = make_loop(context, policies, FailsOn(*TEXTS), iterations=3)
    context.checkpoints.options = CheckpointOptions(seconds=0, steps=1)
    real = loop.state
    seen: list[tuple[int, int]] = []

    def state() -> dict[str, Any]:
        seen.append((loop.progress.iteration, loop.left_out.batches))
        return real()

    loop.state = state  # type: ignore[method-assign]
    loop.run()
    assert {n for n, _ in seen} >= {1, 2, 3}
    assert [n for n, _ in seen] == [batches for _, batches in seen]


def test_what_could_not_be_scored_is_saved_once_however_the_run_was_killed(
    context: Any, policies: tuple[Any, Any]
) -> None:
    def run(last: int) -> None:
        """Up to the end of that iteration, where the process is gone."""
        context.kept_checkpoints = Checkpoints(context.folder / "checkpoints", CheckpointOptions(seconds=None, steps=2))
        loop = make_loop(context, policies, FailsOn("a"), iterations=4)
        learn = loop._learn

        def learn_or_die(batch: Any, iteration: int) -> None:
            learn(batch, iteration)
            if iteration == last:
                raise SystemExit

        loop._learn = learn_or_die  # type: ignore[method-assign]
        loop.run()

    def saved() -> list[int]:
        return [json.loads(line)["iteration"] for line in (context.folder / FILE).read_text().splitlines()]

    with pytest.raises(SystemExit):
        run(3)
    assert saved() == [1, 1, 2, 2, 3, 3]
    run(5)
    assert saved() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_counts_are_part_of_the_loops_state(context: Any, policies: tuple[Any, Any]) -> None:
    loop = make_loop(context, policies, FailsOn("a", "it"))
    loop.run()
    again = make_loop(context, policies, FailsOn())
    again.stage.start()  # type: ignore[call-arg]
    again.restore(loop.state())
    assert again.left_out.completions == 4


def test_measurements_do_without_what_cannot_be_scored_and_say_so(context: Any, policies: tuple[Any, Any]) -> None:
    prompts = [Prompt(prompt=t) for t in TEXTS]
    monitors = {"letters": FailsOn("it", "a")}
    loop = make_loop(context, policies, FailsOn("a"), eval_prompts=prompts, monitors=monitors)
    figures = loop.run()["end"]
    assert (figures["reward_left_out"], figures["letters_left_out"]) == (1, 2)
    lone = make_loop(context, policies, FailsOn("a"), "stop", eval_prompts=prompts)
    with pytest.raises(Fault, match="prompt 'a'"):
        lone._measure()
    nothing = make_loop(context, policies, FailsOn(), eval_prompts=prompts, monitors={"m": FailsOn(*TEXTS)})
    with pytest.raises(Fault, match="monitor 'm' could score none of 4 completions"):
        nothing._measure()


def test_the_normaliser_learns_from_what_was_scored(context: Any, policies: tuple[Any, Any]) -> None:
    options = {"normalise_scores": {"mode": "reference", "samples": 8}}
    loop = make_loop(context, policies, FailsOn("a"), **options)
    loop.run()
    assert loop.normaliser.count == 6
    with pytest.raises(Fault, match="could not score the reference"):
        make_loop(context, policies, FailsOn(*TEXTS), **options).run()


def test_a_sampler_that_returns_nothing_is_named_wherever_it_is_asked(context: Any, policies: tuple[Any, Any]) -> None:
    class Nothing(HFSampler):
        def rollout(self, *arguments: Any) -> Any:
            return replace(super().rollout(*arguments), prompts=())

    said = "dist 1.0: sampler 'y' returned nothing for"
    prompts = [Prompt(prompt=t) for t in TEXTS]
    loop = make_loop(context, policies, FailsOn(), sampler=Nothing(8), eval_prompts=prompts)
    with pytest.raises(Fault, match=f"{said} 8 prompts"):
        loop.roll_out([p for p in prompts for _ in range(2)], 1)
    with pytest.raises(Fault, match=f"{said} 4 prompts"):
        loop._measure()
    reference = make_loop(
        context, policies, FailsOn(), sampler=Nothing(8), normalise_scores={"mode": "reference", "samples": 5}
    )
    with pytest.raises(Fault, match=f"{said} 5 prompts"):
        reference._observe_reference()
    with pytest.raises(Fault, match="the sampler returned nothing for 4"):
        measure(policies[0], None, Nothing(8), prompts, Sampling(max_length=4), {}, context.ops, 0, 512)


def test_a_kl_that_is_not_finite_does_not_spoil_its_coefficient(context: Any) -> None:
    loop = make_ppo_loop(
        context, ppo={"on_nonfinite": "skip", "epochs": 1}, kl={"coef": 0.1, "target": 1.0}, iterations=2
    )
    real = loop._experience
    spoiled: list[int] = []

    def experience(batch: Any, coef: float) -> Any:
        found, metrics = real(batch, coef)
        if not spoiled:  # as of one completion that the policy has no number for
            spoiled.append(1)
            return found._replace(logp_BT=found.logp_BT * float("nan")), {**metrics, "kl": float("nan")}
        return found, metrics

    loop._experience = experience  # type: ignore[method-assign]
    result = loop.run()
    assert torch.isfinite(torch.tensor(result["kl_coef"]))
    assert rows_of(context)[1]["skipped"] == 4
    assert loop.left_out.updates == 4
