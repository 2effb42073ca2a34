"""For every check of data stages a mistake that it has to notice, planted in a stage that owes alignkit nothing."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from alignkit import Component
from alignkit.batches import Row, TokenBatch
from alignkit.checkpoints import module_state, prefixed, restore_module, under
from alignkit.components import Config
from alignkit.errors import Fault as RunFault
from alignkit.errors import UserError
from alignkit.protocols import FitTask
from alignkit.testing import DataStageContract
from alignkit.testing.tiny import tiny_policy
from helpers.planted import Fault, checks_of, planted, plugin_of


class StageConfig(Config):
    rows_per_pass: int = Field(8, ge=1, description="rows per forward pass")


class Sound:
    """Maximum likelihood of completions: four epochs in batches of 8."""

    reads = "demonstrations"
    epochs = 4

    def __init__(self, config: StageConfig) -> None:
        self.config = config

    def fit(self, task: FitTask) -> dict[str, Any]:
        self.task, self.policy = task, task.policy()
        self.dropped = 0
        rows = self.rows(task.data)
        if not rows:
            raise UserError("no record is left to train on")
        adam = torch.optim.Adam(self.policy.module.parameters(), lr=2e-3)
        self.announce(self.epochs * math.ceil(len(rows) / 8))
        generator = self.generator(task.context.seed)
        orders = [torch.randperm(len(rows), generator=generator).tolist() for _ in range(self.epochs)]
        batches = [order[i : i + 8] for order in orders for i in range(0, len(order), 8)]
        self.train(adam, [[rows[i] for i in batch] for batch in batches])
        self.save(task.context.folder / "model")
        return self.summary(len(batches))

    def train(self, adam: Any, batches: Sequence[Sequence[Row]]) -> None:
        for number, batch in enumerate(batches, 1):
            self.one(adam, number, batch)

    def one(self, adam: Any, number: int, batch: Sequence[Row]) -> None:
        loss = self.learn(batch)
        self.check(loss)
        self.step(adam, len(batch))
        self.log(number, loss)

    def rows(self, records: Any) -> list[Row]:
        found = []
        for record in records:
            prompt = self.policy.encode_prompt(record.prompt)
            ids = prompt + self.policy.encode_completion(record.prompt, record.completion)
            if len(ids) > 64:
                self.dropped += 1
                continue
            found.append(Row(ids, [t >= len(prompt) for t in range(len(ids))]))
        return found

    def learn(self, rows: Sequence[Row]) -> float:
        count, total = sum(sum(r.target) for r in rows), 0.0
        for start in range(0, len(rows), self.config.rows_per_pass):
            nll_N = self.nll(rows[start : start + self.config.rows_per_pass])
            loss = self.joined(nll_N, count)
            torch.autograd.backward(loss)
            total += float(nll_N.detach().sum()) / count
        return total

    def nll(self, rows: Sequence[Row]) -> Tensor:
        batch = TokenBatch.from_rows(rows, self.policy.pad_id)
        logp_N, _ = self.task.context.ops.linear_logprob(*self.policy.hidden(batch), batch.targets_N)
        return -logp_N

    def joined(self, nll_N: Tensor, count: int) -> Tensor:
        return nll_N.sum() / count

    def step(self, adam: Any, rows: int) -> None:
        adam.step()
        adam.zero_grad()

    def generator(self, seed: int) -> Any:
        return torch.Generator().manual_seed(seed)

    def announce(self, total: int) -> None:
        self.task.context.start_progress(total)

    def check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunFault("the loss is not finite")

    def log(self, step: int, loss: float) -> None:
        self.task.context.log(step, {"loss": loss})

    def save(self, folder: Path) -> None:
        self.policy.save(folder)

    def summary(self, steps: int) -> dict[str, Any]:
        found: dict[str, Any] = {"steps": steps, "dropped_too_long": self.dropped}
        if self.task.eval_data is not None:
            with torch.no_grad():
                found["heldout_loss"] = float(self.nll(self.rows(self.task.eval_data)).mean())
        return found


class TakesCheckpoints(Sound):
    """With a state of its own: weights, moments and the number of steps."""

    def train(self, adam: Any, batches: Sequence[Sequence[Row]]) -> None:
        self.adam, self.done = adam, 0
        with self.task.context.checkpoints.loop() as loop:
            state = loop.restored()
            if state is not None:
                self.restore(state)
            while self.done < len(batches):
                self.one(adam, self.done + 1, batches[self.done])
                self.done += 1
                loop.safe_point(self.done, self.state)

    def state(self) -> dict[str, Any]:
        moments = self.adam.state_dict()["state"]
        return {
            "done": self.done,
            **prefixed("module", module_state(self.policy.module)),
            **{f"adam.{i}.{name}": value for i, found in moments.items() for name, value in found.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        restore_module(self.policy.module, under("module", state))
        moments: dict[int, dict[str, Any]] = {}
        for key, value in under("adam", state).items():
            number, _, name = key.partition(".")
            moments.setdefault(int(number), {})[name] = value
        self.adam.load_state_dict({**self.adam.state_dict(), "state": moments})


class MomentsForgotten(TakesCheckpoints):
    def state(self) -> dict[str, Any]:
        return {name: value for name, value in super().state().items() if not name.startswith("adam.")}


class StepsForgotten(TakesCheckpoints):
    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.done = 0


class CountsThisTryOnly(TakesCheckpoints):
    tried = 0

    def one(self, adam: Any, number: int, batch: Sequence[Row]) -> None:
        super().one(adam, number, batch)
        self.tried += 1

    def summary(self, steps: int) -> dict[str, Any]:
        return super().summary(self.tried)


class ReadsPairs(Sound):
    reads = "pairs"

    def fit(self, task: FitTask) -> dict[str, Any]:
        return {}


class WithoutTokenizer(Sound):
    def save(self, folder: Path) -> None:
        self.policy.module.save_pretrained(folder)


class HalfTheWeights(Sound):
    def save(self, folder: Path) -> None:
        kept = dict(list(self.policy.module.state_dict().items())[:-4])
        super().save(folder)
        self.policy.module.save_pretrained(folder, state_dict=kept)


class OptimizerStateBeside(Sound):
    def save(self, folder: Path) -> None:
        super().save(folder)
        torch.save({"step": 1}, folder.parent / "optimizer.pt")


class CacheInTheWorkingFolder(Sound):
    def save(self, folder: Path) -> None:
        super().save(folder)
        Path("rows.cache").write_text("1")


class WritesBesideTheData(Sound):
    def save(self, folder: Path) -> None:
        super().save(folder)
        self.task.data.path.with_suffix(".index").write_text("1")


class SavesTheModelItGot(Sound):
    def save(self, folder: Path) -> None:
        self.task.policy().save(folder)


class StepForgotten(Sound):
    def step(self, adam: Any, rows: int) -> None:
        adam.zero_grad()


class GlobalRandomState(Sound):
    def generator(self, seed: int) -> Any:
        return None


class NeverShuffled(Sound):
    def generator(self, seed: int) -> Any:
        return torch.Generator().manual_seed(0)


class StepsStartAgain(Sound):
    def log(self, step: int, loss: float) -> None:
        super().log((step - 1) % 3, loss)


class InfinityIsLogged(Sound):
    def log(self, step: int, loss: float) -> None:
        self.task.context.log(step, {"loss": loss, "perplexity": float("inf")})


class SaysNothingOfItsWork(Sound):
    def announce(self, total: int) -> None:
        pass


class AnnouncesOneEpoch(Sound):
    def announce(self, total: int) -> None:
        super().announce(total // self.epochs)


class TensorInTheSummary(Sound):
    def summary(self, steps: int) -> dict[str, Any]:
        return {**super().summary(steps), "path": self.task.context.folder.name, "counts": (1, 2)}


class SortsTheFile(Sound):
    def fit(self, task: FitTask) -> dict[str, Any]:
        found = super().fit(task)
        lines = sorted(task.data.path.read_text("utf-8").splitlines(), reverse=True)
        shutil.copy(task.data.path, task.context.folder / "old.jsonl")
        task.data.path.write_text("\n".join(json.dumps(json.loads(line)) for line in lines))
        return found


class DropsTheLastBatch(Sound):
    def step(self, adam: Any, rows: int) -> None:
        if rows == 8:
            super().step(adam, rows)


class TrainsOnNothing(Sound):
    def fit(self, task: FitTask) -> dict[str, Any]:
        if len(task.data) == 0:
            task.policy().save(task.context.folder / "model")
            return {}
        return super().fit(task)


class NoHeldoutFigure(Sound):
    def summary(self, steps: int) -> dict[str, Any]:
        return {"steps": steps}


class TrainsOnHeldoutToo(Sound):
    def rows(self, records: Any) -> list[Row]:
        found = super().rows(records)
        if records is self.task.data and self.task.eval_data is not None:
            found += super().rows(self.task.eval_data)
        return found


class CutsInSilence(Sound):
    def rows(self, records: Any) -> list[Row]:
        ids = [self.policy.encode_prompt(r.prompt) + self.policy.encode_completion("", r.completion) for r in records]
        return [Row(row[:64], [False] + [True] * (len(row[:64]) - 1)) for row in ids]


class NothingIsChecked(Sound):
    def check(self, loss: float) -> None:
        pass


class SavedBeforeTheCheck(Sound):
    def check(self, loss: float) -> None:
        tiny_policy().save(self.task.context.folder / "model")
        super().check(loss)


class OnlyTheLastPassCounts(Sound):
    def joined(self, nll_N: Tensor, count: int) -> Tensor:
        self.policy.module.zero_grad()
        return super().joined(nll_N, count)


class SavesHalf(Sound):
    def save(self, folder: Path) -> None:
        self.policy.module.bfloat16()
        super().save(folder)


PLANTED: list[tuple[str, Callable[[Any], Any]]] = [
    ("reads_a_known_part", ReadsPairs),
    ("writes_a_model_that_loads", WithoutTokenizer),
    ("writes_a_model_that_loads", HalfTheWeights),
    ("writes_no_pickle", OptimizerStateBeside),
    ("writes_only_into_its_folder", CacheInTheWorkingFolder),
    ("writes_only_into_its_folder", WritesBesideTheData),
    ("saves_what_it_trained", SavesTheModelItGot),
    ("saves_what_it_trained", SavesHalf),
    ("learns", StepForgotten),
    ("same_seed_same_weights", GlobalRandomState),
    ("another_seed_another_order", NeverShuffled),
    ("goes_on_where_it_was_interrupted", MomentsForgotten),
    ("goes_on_where_it_was_interrupted", StepsForgotten),
    ("goes_on_where_it_was_interrupted", CountsThisTryOnly),
    ("metrics_are_finite_and_in_order", StepsStartAgain),
    ("metrics_are_finite_and_in_order", InfinityIsLogged),
    ("announces_its_work", SaysNothingOfItsWork),
    ("announces_its_work", AnnouncesOneEpoch),
    ("summary_is_json", TensorInTheSummary),
    ("records_stay_as_they_were", SortsTheFile),
    ("one_record", DropsTheLastBatch),
    ("no_records_are_refused", TrainsOnNothing),
    ("heldout_records_are_measured", NoHeldoutFigure),
    ("heldout_records_are_not_trained_on", TrainsOnHeldoutToo),
    ("long_records_are_counted", CutsInSilence),
    ("numbers_that_are_not_finite_stop_the_run", NothingIsChecked),
    ("numbers_that_are_not_finite_stop_the_run", SavedBeforeTheCheck),
    ("micro_batches_change_nothing", OnlyTheLastPassCounts),
]


def as_component(kind: Callable[[Any], Any]) -> Component:
    return Component("own", lambda config, context: kind(config), StageConfig, "a stage of its own")


KNOBS = {"micro_batch_option": "rows_per_pass"}
FAULTS = [Fault(f"test_{check}", as_component(kind), KNOBS, str(n)) for n, (check, kind) in enumerate(PLANTED)]
globals().update(planted(DataStageContract, FAULTS))


class TestSound(DataStageContract):
    """The stage that the faults are planted in passes: the suite asks for nothing of alignkit's own stages."""

    component = "own"
    plugin = plugin_of(DataStageContract, as_component(Sound))
    micro_batch_option = "rows_per_pass"
    test_registration_imports_nothing_heavy = None  # it is registered by no module of its own


class TestSoundWithCheckpoints(TestSound):
    """So does one with a loop of its own that can be taken up again."""

    plugin = plugin_of(DataStageContract, as_component(TakesCheckpoints))


def test_every_check_has_a_fault() -> None:
    assert checks_of(DataStageContract) == {fault.check for fault in FAULTS}
