"""What a stage that learns from records owes: a model folder that loads, made of these records and this seed alone."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from alignkit.context import PARTS
from alignkit.errors import Fault, UserError
from alignkit.modeling.folders import check_model_path
from alignkit.testing.data_stage_runs import Done, StageRuns
from alignkit.testing.measures import MICRO_BATCHES, changed_weights, pickles_in
from alignkit.testing.randomness import global_seed
from alignkit.testing.toy_records import long_record, toy_records


class DataStageContract(StageRuns):
    """A stage with `reads` and `fit`. It is given 24 short records and a tiny model that can learn them.

    Give `options` under which a few dozen steps show an effect and every step logs a row (a learning rate of about
    1e-3, some epochs, `log_every: 1`), and a limit of length below `long_words` where there is such an option.
    """

    def test_reads_a_known_part(self, built: Any) -> None:
        """`reads` names the part of a data step that the engine hands over."""
        assert hasattr(built, "fit"), "this is no data stage: RolloutStageContract is for stages with start and update"
        assert built.reads in PARTS, f"reads is {built.reads!r}, not one of {', '.join(PARTS)}"

    def test_writes_a_model_that_loads(self) -> None:
        """The next step reads `folder / "model"`: safetensors, config and tokenizer, complete for transformers."""
        done = self.plain()
        try:
            check_model_path(str(done.model))
        except UserError as wrong:
            pytest.fail(str(wrong))
        (made_as,) = json.loads((done.model / "config.json").read_text("utf-8"))["architectures"]
        model, info = getattr(transformers, made_as).from_pretrained(done.model, output_loading_info=True)
        assert not info["missing_keys"], f"the folder lacks weights: {sorted(info['missing_keys'])[:3]}"
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
        assert transformers.AutoTokenizer.from_pretrained(done.model)("a b").input_ids

    def test_writes_no_pickle(self) -> None:
        """A pickle runs code when it is read; optimizer states and caches in the folder count too."""
        assert pickles_in(self.plain().folder) == [], "files that are read by unpickling"

    def test_writes_only_into_its_folder(self) -> None:
        """Steps run beside each other and start over: whatever they write elsewhere collides or stays."""
        assert self.plain(heldout=8).strays == [], "files outside context.folder were made or changed"

    def test_saves_what_it_trained(self) -> None:
        """The weights in the folder are not those that it started from, and as exact.

        Rounded to half precision they lose what small steps had added.
        """
        done = self.plain()
        start, weights = done.start, done.weights
        rounded = [n for n in start.keys() & weights.keys() if weights[n].dtype.itemsize < start[n].dtype.itemsize]
        assert not rounded, f"{len(rounded)} weights were saved as {weights[rounded[0]].dtype}"
        assert self._moved(done), "the model is as it was"

    def _moved(self, done: Done) -> bool:
        """Whether any weight that the trained model has from the first one is another."""
        start, weights = done.start, done.weights
        shared = start.keys() & weights.keys()
        assert shared, "no weight has the name that it has in the model it started from"
        return any(not torch.equal(start[name], weights[name]) for name in shared)

    def test_learns(self) -> None:
        """On records that a tiny model can learn, the logged loss of the last steps is below that of the first."""
        losses = [metrics[self.loss_metric] for _, metrics in self.plain().rows if self.loss_metric in metrics]
        assert len(losses) >= 6, f"{len(losses)} rows with {self.loss_metric}: log every step, and take six at least"
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        assert last < first, f"{self.loss_metric} was {first:.4f} in the first three rows and {last:.4f} in the last"

    def test_same_seed_same_weights(self, tmp_path: Path) -> None:
        """A run can be repeated bit for bit: the context's seed decides, not the global random state."""
        with global_seed(1):
            again = self.fit(tmp_path / "again").weights
        assert changed_weights(self.plain().weights, again) == [], "the same seed gave other weights"

    def test_goes_on_where_it_was_interrupted(self, tmp_path: Path) -> None:
        """Days of training end with a signal, and the same command goes on: weights, metrics and summary are the same.

        `train_steps` sees to that. A stage with a loop of its own has `context.checkpoints.loop()`; one that takes no
        checkpoints starts over.
        """
        whole = self.plain(heldout=8)
        done = self.interrupted(tmp_path / "run", max(1, len(whole.rows) // 2), heldout=8)
        if done is None:
            return
        assert changed_weights(whole.weights, done.weights) == [], (
            "its state lacks something that the weights depend on"
        )
        assert done.rows == whole.rows, "rows of metrics are lost, doubled or others"
        assert done.summary == whole.summary, "the summary depends on what was done before the interruption"

    def test_another_seed_another_order(self, tmp_path: Path) -> None:
        """The seed shuffles the records: in the file's order, sorted data would be learned one kind after the other."""
        if not self.shuffles:
            pytest.skip("shuffles is False")
        other = self.fit(tmp_path / "other", seed=1).weights
        assert changed_weights(self.plain().weights, other), "the seed is ignored"

    def test_metrics_are_finite_and_in_order(self) -> None:
        """Rows of metrics are written as JSON and drawn over the step's number, which never goes back."""
        rows = self.plain(heldout=8).rows
        assert rows, "nothing was logged: call context.log(step, metrics)"
        indices = [index for index, _ in rows]
        assert indices == sorted(indices), f"step numbers go back: {indices}"
        wrong = {n: v for _, row in rows for n, v in row.items() if not math.isfinite(v)}
        assert not wrong, f"metrics that are no finite numbers: {wrong}"

    def test_announces_its_work(self) -> None:
        """`context.start_progress(total)` is what the progress bar counts to."""
        done = self.plain()
        assert done.totals, "context.start_progress was not called"
        assert all(total is None or total > 0 for total in done.totals)
        known = [total for total in done.totals if total is not None]
        assert not known or done.rows[-1][0] <= sum(known), "more steps were logged than announced"

    def test_summary_is_json(self) -> None:
        """`fit` returns entries for summary.json: plain values by names."""
        summary = self.plain(heldout=8).summary
        assert isinstance(summary, dict)
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary

    def test_records_stay_as_they_were(self) -> None:
        """The same file is read by other steps, and its hash is part of their identity."""
        assert self.plain(heldout=8).changed_records == [], "the stage changed the files that it reads"

    def test_one_record(self, tmp_path: Path) -> None:
        """Batches that are not full, and data smaller than a batch, train or are refused; they do not crash."""
        try:
            done = self.fit(tmp_path / "run", records=1)
        except UserError:
            return
        assert all(bool(torch.isfinite(w).all()) for w in done.weights.values())
        assert self._moved(done), "the model is as it was: the batch was dropped in silence"

    def test_no_records_are_refused(self, tmp_path: Path) -> None:
        """A model that was trained on nothing looks like a trained one: say what is wrong."""
        with pytest.raises(UserError):
            self.fit(tmp_path / "run", records=0)

    def test_heldout_records_are_measured(self) -> None:
        """With `eval_data` the summary says more: a figure on records that were not trained on."""
        if not self.measures_heldout:
            pytest.skip("measures_heldout is False")
        without, held = (self.plain(heldout=n).summary for n in (0, 8))
        assert held.keys() - without.keys(), "the summary has no figure of the held-out records"

    def test_heldout_records_are_not_trained_on(self) -> None:
        """Figures on what was trained on say nothing: with `eval_data` the weights are bit for bit the same."""
        without, held = (self.plain(heldout=n).weights for n in (0, 8))
        assert changed_weights(without, held) == [], "held-out records changed the weights"

    def test_long_records_are_counted(self, tmp_path: Path) -> None:
        """A record beyond the limit of length is refused, or left out or cut and counted in the summary."""
        if self.too_long is None:
            pytest.skip("too_long is None: records of any length are trained on whole")
        records = [*toy_records(self.part, 8), long_record(self.part, self.long_words)]
        try:
            summary = self.fit(tmp_path / "run", given=records).summary
        except UserError:
            return
        assert summary.get(self.too_long), f"summary[{self.too_long!r}] does not count the record that was too long"

    def test_numbers_that_are_not_finite_stop_the_run(self, tmp_path: Path) -> None:
        """NaN spreads over all weights: the stage raises Fault and writes no model."""
        with pytest.raises(Fault):
            self.fit(tmp_path / "run", spoiled=True)
        assert not (tmp_path / "run" / "step" / "model").exists(), "a model was written"

    def test_micro_batches_change_nothing(self, tmp_path: Path) -> None:
        """How many rows go through the model at once is a matter of memory: the losses of the first steps agree."""
        if self.micro_batch_option is None:
            pytest.skip("it has no option for micro-batches")
        found = {}
        for size in MICRO_BATCHES:
            rows = self.fit(tmp_path / str(size), {self.micro_batch_option: size}, limit=4).rows
            found[size] = [row[self.loss_metric] for _, row in rows]
        first, *others = found.values()
        worst = max(abs(a - b) for other in others for a, b in zip(other, first, strict=True))
        assert worst <= 0.01 * max(map(abs, first)), f"{self.micro_batch_option} changes the losses: {found}"
