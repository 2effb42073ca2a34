"""`collect` that is stopped half-way goes on where it was, and ends with the same files to the byte."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from alignkit import Component, Fault, Paused, hookimpl
from alignkit.batches import Rollout
from alignkit.components import NoConfig
from alignkit.data.store import RecordFile, write_records
from alignkit.engine import run_recipe
from alignkit.files import read_json
from alignkit.manager import PluginManager, PluginStatus
from alignkit.protocols import StepOutput
from alignkit.recipe import load_recipe
from alignkit.records import Annotator, Candidate, Judgement, Prompt, Ranking, Sampling, Task
from alignkit.seeds import derived_seed
from alignkit_plugins.step_collect.candidates import CHUNK, SAMPLED
from alignkit_plugins.step_collect.judging import JUDGED

COUNT = 3 * CHUNK + 10
K = 2


class Stop(KeyboardInterrupt):
    """What ends a run half-way. Anything else that a component raises is a fault of its own."""


@dataclass
class Stand:
    """The components of a run, what they were asked, and when they raise."""

    sampled: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    logged: list[int] = field(default_factory=list)
    sample_chunks: int = 1000
    judge_count: int = 1000
    stopping: Callable[[], Any] = lambda: (_ for _ in ()).throw(Stop)
    source: type["Judges"] | None = None

    @hookimpl
    def alignkit_policies(self) -> list[Component]:
        """`words`: nothing of it is used but its revision and the size of its vocabulary."""
        policy = MagicMock(revision="words", head=MagicMock(weight_VH=torch.zeros(3, 1)))
        return [Component("words", lambda config, context: policy, NoConfig)]

    @hookimpl
    def alignkit_samplers(self) -> list[Component]:
        """`drawn`."""
        return [Component("drawn", lambda config, context: Draws(self), NoConfig)]

    @hookimpl
    def alignkit_reward_sources(self) -> list[Component]:
        """`judges` and `lengths`."""
        source = self.source or Judges
        return [
            Component("judges", lambda config, context: source(self, context), NoConfig),
            Component("lengths", lambda config, context: Lengths(), NoConfig),
        ]

    @hookimpl
    def alignkit_trackers(self) -> list[Component]:
        """`remembers`."""
        return [Component("remembers", lambda config, context: Remembers(self), NoConfig)]

    @hookimpl
    def alignkit_steps(self) -> list[Component]:
        """`make`."""
        return [Component("make", lambda config, context: Make(), NoConfig)]


class Make:
    """Leaves prompts."""

    def run(self, context: Any) -> StepOutput:
        """As many as some chunks have, and some more."""
        write_records(context.folder / "prompts.jsonl", [Prompt(prompt=f"prompt {n}") for n in range(COUNT)])
        return StepOutput({"": ".", "prompts": "prompts.jsonl"}, {})


class Draws:
    """A sampler: stars, their number drawn with the seed. Some prompts get the same text twice."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand

    def rollout(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Rollout:
        """One for each prompt in turn."""
        if self.stand.sample_chunks == 0:
            self.stand.stopping()
        self.stand.sample_chunks -= 1
        self.stand.sampled += [str(p.prompt) for p in prompts[::K]]
        counts = torch.randint(1, 5, (len(prompts),), generator=torch.Generator().manual_seed(seed)).tolist()
        return Rollout(
            prompts=tuple(prompts), prompt_ids=((1,),) * len(prompts), completion_ids=((2,),) * len(prompts),
            texts=tuple("*" * n for n in counts), finish=("stop",) * len(prompts),
            group_B=torch.zeros(len(prompts), dtype=torch.long), temperature=1.0, tokenizer_id="",
        )  # fmt: skip


class Lengths:
    """Scores: a third of the length, which decimal digits cannot write."""

    def score(self, rollout: Rollout) -> Tensor:
        """One for each text."""
        return torch.tensor([len(text) / 3 for text in rollout.texts])


class Judges:
    """Annotates task by task, two judgements of each, the order of candidates drawn by task."""

    task_by_task = True

    def __init__(self, stand: Stand, context: Any) -> None:
        self.stand = stand
        self.context = context

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """Stops before the judgement that `judge_count` names."""
        self.stand.asked += [task.id for task in tasks]
        for task in tasks:
            for who in range(2):
                if self.stand.judge_count == 0:
                    self.stand.stopping()
                self.stand.judge_count -= 1
                yield self.judgement(task, who)

    def judgement(self, task: Task, who: int) -> Judgement:
        """Drawn for this task and annotator."""
        first = derived_seed(self.context.seed, task.id, who) % K
        groups = tuple((task.candidates[(first + n) % K].id,) for n in range(K))
        annotator = Annotator(id=f"who-{who}", kind="program")
        return Judgement(
            id=f"{task.id}-{who}", task_id=task.id, annotator=annotator, payload=Ranking(groups=groups)
        )  # fmt: skip


class InAnyOrder(Judges):
    """Promises nothing."""

    task_by_task = False


class Reports(Judges):
    """Has figures of its last call."""

    def annotation_figures(self) -> Mapping[str, Any]:
        """How often it was asked."""
        return {"asked": len(self.stand.asked)}


class Logs(Judges):
    """Tells how far it is."""

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """As a number of judgements, far above those of prompts."""
        for number, judgement in enumerate(super().annotate(tasks)):
            self.context.log(10_000 + number, {})
            yield judgement


class Backwards(Judges):
    """Promises an order, and keeps another one."""

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """The last one first."""
        return super().annotate(tasks[::-1])


class Remembers:
    """A tracker."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand

    def start(self, step_id: str, total: int | None, unit: str) -> None:
        """Write down what is counted."""
        if unit == "prompt":
            assert total is not None
            self.stand.logged.append(-total)

    def log(self, step_id: str, index: int, metrics: Any) -> None:
        """Write down how far it is."""
        self.stand.logged.append(index)

    def close(self) -> None:
        """Nothing to do."""


def run(folder: Path, stand: Stand, *overrides: str) -> Path:
    """Run the recipe; returns the folder of the last round's step."""
    manager = PluginManager()
    manager.load()
    manager.register(stand, PluginStatus("stand-ins", "test-dist", "1.0"))
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    options = f"sampler: drawn, reward_source: judges, samples_per_prompt: {K}, each_round: true"
    lines = ["name: small", f"output: {folder / 'runs'}", "policy: words", "trackers: [remembers]", "steps:"]
    lines += ["  - {id: prompts, step: make}"]
    lines += [f'  - {{id: labels, step: collect, prompts: "@prompts", {options}}}']
    path.write_text("\n".join(lines))
    loaded = load_recipe(str(path), overrides, manager)
    run_recipe(loaded)
    return folder / f"runs/small/r{loaded.recipe.rounds}/02-labels"


def files(folder: Path) -> dict[str, Any]:
    """Content of every file; of the manifest without times."""
    found: dict[str, Any] = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    manifest = read_json(folder / "manifest.json")
    found["manifest.json"] = {key: manifest[key] for key in ("status", "hash", "outputs", "summary")}
    return found


CHOOSING = ("rounds=2", "labels.choose_by=lengths", "labels.limit=70", "labels.pool=2")


@pytest.mark.parametrize("done", range(4))
@pytest.mark.parametrize("overrides", [(), CHOOSING], ids=["all", "chosen"])
def test_what_was_sampled_is_not_sampled_again(tmp_path: Path, done: int, overrides: tuple[str, ...]) -> None:
    whole = Stand()
    expected = files(run(tmp_path / "whole", whole, *overrides))
    before = 2 if overrides else 0  # chunks of the first round
    cut, more = Stand(sample_chunks=before + done), Stand()
    if before + done < len(whole.sampled) / CHUNK:
        with pytest.raises(Stop):
            run(tmp_path / "cut", cut, *overrides)
    folder = run(tmp_path / "cut", more, *overrides)
    assert files(folder) == expected
    assert cut.sampled + more.sampled == whole.sampled
    seeds = {task.candidates[0].seed for task in RecordFile(folder / "tasks.jsonl", Task)}
    assert len(seeds) == (3 if overrides else 4)  # one for each chunk
    assert not (folder / SAMPLED).exists()


def test_the_progress_goes_on_where_it_was(tmp_path: Path) -> None:
    cut, more = Stand(sample_chunks=2), Stand()
    with pytest.raises(Stop):
        run(tmp_path, cut)
    assert cut.logged == [-COUNT, CHUNK, 2 * CHUNK]
    run(tmp_path, more)
    assert more.logged == [-COUNT, 2 * CHUNK, 3 * CHUNK, COUNT]


def test_a_source_is_heard_that_logs_after_checkpoints_of_the_sampling(tmp_path: Path) -> None:
    checkpoints = f"checkpoints.steps={CHUNK}"
    with pytest.raises(Stop):
        run(tmp_path, Stand(judge_count=9, source=Logs), checkpoints)
    assert list((tmp_path / "runs/small/r1/02-labels/checkpoints").iterdir())
    more = Stand(source=Logs)
    run(tmp_path, more, checkpoints)
    assert more.logged == [10_000 + n for n in range(2 * COUNT - 8)]


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_a_damaged_chunk_is_sampled_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = files(run(tmp_path / "whole", Stand()))
    with pytest.raises(Stop):
        run(tmp_path / "cut", Stand(sample_chunks=2))
    path = tmp_path / "cut/runs/small/r1/02-labels" / SAMPLED
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[:-100])
    else:
        path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    more = Stand()
    assert files(run(tmp_path / "cut", more)) == expected
    assert len(more.sampled) == COUNT - CHUNK
    assert f"{path}:3" in caplog.text


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 2 * COUNT - 1])
def test_judgements_that_were_given_are_kept(tmp_path: Path, count: int) -> None:
    expected = files(run(tmp_path / "whole", Stand()))
    with pytest.raises(Stop):
        run(tmp_path / "cut", Stand(judge_count=count))
    more = Stand()
    folder = run(tmp_path / "cut", more)
    assert files(folder) == expected
    assert more.sampled == []
    # the last task may lack judgements, and is asked about again
    assert len(more.asked) == COUNT - max(0, count - 1) // 2
    assert not (folder / JUDGED).exists()


def test_stopped_again_and_again(tmp_path: Path) -> None:
    expected = files(run(tmp_path / "whole", Stand()))
    asked: Counter[str] = Counter()
    for _ in range(COUNT):
        stand = Stand(sample_chunks=1, judge_count=100)
        try:
            folder = run(tmp_path / "cut", stand)
        except Stop:
            continue
        finally:
            asked.update(stand.asked)
        break
    assert files(folder) == expected


def test_a_pause_keeps_them_too(tmp_path: Path) -> None:
    def pause() -> None:
        raise Paused("ten at a time")

    with pytest.raises(Paused):
        run(tmp_path, Stand(judge_count=10, stopping=pause))
    more = Stand()
    run(tmp_path, more)
    assert len(more.asked) == COUNT - 4


def failing() -> None:
    """An error of a component."""
    raise ValueError("gone")


@pytest.mark.parametrize("source", [InAnyOrder, Reports])
def test_other_sources_are_asked_about_everything_again(tmp_path: Path, source: type[Judges]) -> None:
    expected = files(run(tmp_path / "whole", Stand(source=source)))
    with pytest.raises(Fault):
        run(tmp_path / "cut", Stand(judge_count=100, source=source, stopping=failing))
    more = Stand(source=source)
    folder = run(tmp_path / "cut", more)
    assert files(folder) == expected
    assert len(more.asked) == COUNT


def test_who_breaks_the_promise_of_an_order_is_told(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="was left for the next one already") as raised:
        run(tmp_path, Stand(source=Backwards))
    assert "Backwards" in str(raised.value)


def test_simulated_annotators_go_on(tmp_path: Path) -> None:
    """The built-in source, which draws skips and noise, stopped by its utility."""
    overrides = ("labels.reward_source={name: simulated, utility: breaks, skip_rate: 0.2}", "labels.overlap=2")

    class Breaks(Stand):
        calls = -1

        @hookimpl
        def alignkit_reward_sources(self) -> list[Component]:
            return [*super().alignkit_reward_sources(), Component("breaks", lambda config, context: self, NoConfig)]

        def score(self, rollout: Rollout) -> Tensor:
            self.calls += 1
            if self.calls == 50:
                raise Stop
            return Lengths().score(rollout)

    whole, more = Breaks(), Breaks()
    whole.calls = more.calls = 1000
    expected = files(run(tmp_path / "whole", whole, *overrides))
    with pytest.raises(Stop):
        run(tmp_path / "cut", Breaks(), *overrides)
    assert files(run(tmp_path / "cut", more, *overrides)) == expected
    assert whole.calls == 1000 + COUNT
    assert more.calls == 1000 + COUNT - 49


@pytest.mark.concurrent
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_costs_one_chunk_at_most(tmp_path: Path, number: signal.Signals) -> None:
    expected = files(run(tmp_path / "whole", Stand()))
    child = os.fork()
    if child == 0:
        status = 99
        try:
            run(tmp_path / "cut", Stand(sample_chunks=2, stopping=lambda: in_a_chunk(tmp_path)))
        except SystemExit as ended:
            status = int(ended.code or 0)
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)
    while not (tmp_path / "reached").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.05)
    os.kill(child, number)
    (tmp_path / "go on").touch()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == (-number if number == signal.SIGKILL else 128 + number)
    more = Stand()
    assert files(run(tmp_path / "cut", more)) == expected
    # a signal that can be answered waits for the chunk that is being sampled
    done = (2 if number == signal.SIGKILL else 3) * CHUNK
    assert len(more.sampled) == COUNT - done
    assert more.logged == [-COUNT, *range(done, COUNT, CHUNK), COUNT]


def in_a_chunk(folder: Path) -> None:
    """Tell that a chunk is being sampled, and go on when told."""
    (folder / "reached").touch()
    while not (folder / "go on").exists():
        time.sleep(0.05)


def test_tasks_are_never_there_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last write of the sampling fails, as on a full disk: the next run has the completions all the same."""
    expected = files(run(tmp_path / "whole", Stand()))

    def full(path: Path, records: Sequence[Any]) -> int:
        if path.name == "tasks.jsonl":
            raise OSError(28, "No space left on device", str(path))
        return write_records(path, records)

    with monkeypatch.context() as patched:
        patched.setattr("alignkit_plugins.step_collect.candidates.write_records", full)
        with pytest.raises(Exception, match=r"(?i)space"):
            run(tmp_path / "cut", Stand())
    folder = tmp_path / "cut/runs/small/r1/02-labels"
    assert not (folder / "tasks.jsonl").exists()
    more = Stand()
    assert files(run(tmp_path / "cut", more)) == expected
    assert more.sampled == []
    first = RecordFile(folder / "tasks.jsonl", Task)[0]
    assert isinstance(first.candidates[0], Candidate)
