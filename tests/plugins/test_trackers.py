"""`jsonl` writes rows that can be read while the step runs; `progress` tells how far a step has come."""

import io
import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignkit.errors import UserError
from alignkit.protocols import Metrics
from alignkit_plugins.tracker_jsonl.tracker import JsonlTracker
from alignkit_plugins.tracker_progress.plugin import ProgressConfig
from alignkit_plugins.tracker_progress.progress import Progress
from alignkit_plugins.tracker_progress.tracker import ProgressTracker


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


class TestJsonl:
    def test_rows_are_on_disk_before_the_tracker_is_closed(self, tmp_path: Path) -> None:
        tracker = JsonlTracker(tmp_path)
        tracker.start("sft", 2, "step")
        tracker.log("sft", 1, {"loss": 1.5, "tokens": 12})
        assert rows(tmp_path) == [{"step": "sft", "index": 1, "loss": 1.5, "tokens": 12}]
        tracker.log("sft", 2, {"loss": 1.25})
        assert rows(tmp_path)[1:] == [{"step": "sft", "index": 2, "loss": 1.25}]

    def test_what_is_not_finite_becomes_null(self, tmp_path: Path) -> None:
        JsonlTracker(tmp_path).log("sft", 1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0})
        text = (tmp_path / "metrics.jsonl").read_text()
        assert text == '{"step": "sft", "index": 1, "a": null, "b": null, "c": null, "d": 0.0}\n'

    def test_scalars_of_other_libraries_become_numbers(self, tmp_path: Path) -> None:
        numpy = pytest.importorskip("numpy")
        JsonlTracker(tmp_path).log("sft", 1, {"a": numpy.float32(0.5), "b": numpy.float32("nan")})
        assert rows(tmp_path) == [{"step": "sft", "index": 1, "a": 0.5, "b": None}]

    def test_a_step_that_begins_anew_empties_the_file_of_the_try_before(self, tmp_path: Path) -> None:
        first = JsonlTracker(tmp_path)
        for index in range(1, 6):
            first.log("sft", index, {"loss": 9.0})
        first.close()
        again = JsonlTracker(tmp_path)
        again.start("sft", 5, "step")
        again.log("sft", 1, {"loss": 1.0})
        assert rows(tmp_path) == [{"step": "sft", "index": 1, "loss": 1.0}]

    def test_a_step_that_resumes_drops_only_the_rows_it_does_again(self, tmp_path: Path) -> None:
        whole = "".join(json.dumps({"step": "sft", "index": i, "loss": 9.0}) + "\n" for i in range(1, 46))
        (tmp_path / "metrics.jsonl").write_text(whole + '{"step": "sft", "ind')
        tracker = JsonlTracker(tmp_path)
        for index in (41, 42):
            tracker.log("sft", index, {"loss": 1.0})
        found = rows(tmp_path)
        assert [r["index"] for r in found] == list(range(1, 43))
        assert [r["loss"] for r in found] == [9.0] * 40 + [1.0] * 2

    def test_a_checkpoint_gives_back_the_rows_before_it(self, tmp_path: Path) -> None:
        tracker = JsonlTracker(tmp_path)
        tracker.log("sft", 1, {"loss": 1.0})
        state = tracker.state()
        tracker.log("sft", 1, {"heldout_loss": 2.0})
        again = JsonlTracker(tmp_path)
        again.restore(state)
        again.log("sft", 1, {"heldout_loss": 3.0})  # an index that is there already
        assert [r.get("heldout_loss") for r in rows(tmp_path)] == [None, 3.0]

    def test_a_step_that_logged_nothing_has_no_file_after_going_on(self, tmp_path: Path) -> None:
        tracker = JsonlTracker(tmp_path)
        tracker.start("labels", 9, "prompt")
        state = tracker.state()
        (tmp_path / "metrics.jsonl").write_text(
            '{"step": "labels", "index": 1, "a": 1.0}\n'
        )  # of behind the checkpoint
        again = JsonlTracker(tmp_path)
        again.restore(state)
        again.close()
        assert list(tmp_path.iterdir()) == []

    def test_a_line_cut_off_by_a_crash_is_not_continued(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text('{"step": "sft", "index": 1}\n{"step": "sft", "index": 2}')
        JsonlTracker(tmp_path).log("sft", 3, {"loss": 1.0})
        assert [r["index"] for r in rows(tmp_path)] == [1, 3]

    def test_further_pieces_of_work_in_a_step_are_appended(self, tmp_path: Path) -> None:
        tracker = JsonlTracker(tmp_path)
        for unit in ("step", "batch"):
            tracker.start("sft", 1, unit)
            tracker.log("sft", 1, {f"{unit}_loss": 1.0})
        assert len(rows(tmp_path)) == 2

    def test_a_row_without_metrics_is_not_written(self, tmp_path: Path) -> None:
        tracker = JsonlTracker(tmp_path)
        tracker.log("labels", 1, {})
        assert not (tmp_path / "metrics.jsonl").exists()
        tracker.log("labels", 2, {"tasks": 1.0})
        assert [r["index"] for r in rows(tmp_path)] == [2]

    def test_close_may_come_twice_or_without_work(self, tmp_path: Path) -> None:
        tracker = JsonlTracker(tmp_path)
        tracker.close()
        tracker.log("sft", 1, {"loss": 1.0})
        tracker.close()
        tracker.close()
        assert len(rows(tmp_path)) == 1

    @pytest.mark.parametrize("name", ["step", "index", "round"])
    def test_a_metric_cannot_hide_a_column(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UserError, match=f"may not be called '{name}'"):
            JsonlTracker(tmp_path).log("sft", 1, {name: 1.0})

    def test_any_name_gives_a_readable_file(self, tmp_path: Path) -> None:
        JsonlTracker(tmp_path).log("sft", 1, {"a\nb": 1.0, "é": 2.0, "\ud800": 3.0})
        assert list(rows(tmp_path)[0].values()) == ["sft", 1, 1.0, 2.0, 3.0]


class Clock:
    """Time that stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestProgressNumbers:
    def follow(self, indices: list[int], total: int | None = 500, seconds: float = 1.0) -> Progress:
        progress = Progress("sft", total, "step", ("loss", "kl"))
        for i, index in enumerate(indices):
            progress.log(index, {"loss": 1.0}, 50.0 + i * seconds)
        return progress

    def test_speed_and_remaining_time(self) -> None:
        progress = self.follow([10, 20, 30])
        assert progress.count_text == "30/500 steps"
        assert progress.speed == pytest.approx(10.0)
        assert progress.speed_text == "10 step/s"
        assert progress.remaining_text == "0:47 left"

    def test_a_resumed_step_does_not_look_fast(self) -> None:
        progress = self.follow([401, 402, 403])
        assert progress.speed == pytest.approx(1.0)
        assert progress.remaining_text == "1:37 left"

    def test_slow_work_and_hours(self) -> None:
        progress = self.follow([1, 2], total=100, seconds=120.0)
        assert progress.speed_text == "120 s/step"
        assert progress.remaining_text == "3:16:00 left"

    def test_a_row_for_the_beginning_counts_nothing(self) -> None:
        assert self.follow([0], total=3).count_text == "0/3 steps"
        assert self.follow([0, 1, 2, 3], total=3).count_text == "3/3 steps"

    def test_unknown_total_and_no_rows(self) -> None:
        assert self.follow([5, 10], total=None).remaining_text == ""
        assert self.follow([5, 10], total=None).count_text == "10 steps"
        empty = self.follow([])
        assert (empty.count_text, empty.speed_text, empty.remaining_text) == ("0/500 steps", "", "")

    def test_two_rows_with_one_index_are_one_unit_with_both_metrics(self) -> None:
        progress = self.follow([1, 2])
        progress.log(2, {"kl": 0.5}, 52.0)
        assert progress.speed == pytest.approx(1.0)
        assert progress.metrics_text == "loss 1 kl 0.5"

    @pytest.mark.parametrize(
        ("metrics", "expected"),
        [
            ({"kl": 3.14159, "other": 1.0, "loss": 0.000123456}, "loss 0.000123 kl 3.14"),
            ({"z": 1.0, "y": 2.0, "x": 3.0, "w": 4.0}, "z 1 y 2 x 3"),
            ({"loss": math.nan}, "loss nan"),
        ],
    )
    def test_the_telling_metrics(self, metrics: Metrics, expected: str) -> None:
        progress = Progress("sft", 5, "step", ("loss", "kl"))
        progress.log(1, metrics, 0.0)
        assert progress.metrics_text == expected


class TestProgressLines:
    def tracker(self) -> tuple[ProgressTracker, io.StringIO, Clock]:
        out, clock = io.StringIO(), Clock()
        console = Console(file=out, force_terminal=False, width=40)
        return ProgressTracker(ProgressConfig(), console, clock), out, clock

    def test_a_line_at_most_every_ten_seconds_and_a_last_one(self) -> None:
        tracker, out, clock = self.tracker()
        tracker.start("sft", 100, "step")
        for index in range(1, 101):
            clock.now += 0.25
            tracker.log("sft", index, {"loss": 2.0, "lr": 1e-4})
        tracker.close()
        lines = out.getvalue().splitlines()
        assert lines == [
            "sft: 40/100 steps · 4 step/s · 0:15 left · loss 2",
            "sft: 80/100 steps · 4 step/s · 0:05 left · loss 2",
            "sft: 100/100 steps · 4 step/s · loss 2",
        ]

    def test_each_start_ends_the_piece_before_and_close_may_come_twice(self) -> None:
        tracker, out, _ = self.tracker()
        tracker.close()
        tracker.start("sft", 2, "step")
        tracker.log("sft", 2, {"loss": 2.0})
        tracker.start("sft", 7, "batch")
        tracker.log("sft", 3, {})
        tracker.close()
        tracker.close()
        assert out.getvalue().splitlines() == ["sft: 2/2 steps · loss 2", "sft: 3/7 batches"]

    def test_rows_before_the_start_are_not_shown(self) -> None:
        tracker, out, _ = self.tracker()
        tracker.log("aligned", 0, {"eval_reward": 1.0})
        tracker.close()
        assert out.getvalue() == ""

    def test_names_are_no_markup_and_lines_are_not_wrapped(self) -> None:
        tracker, out, _ = self.tracker()
        tracker.start("sft", None, "step")
        tracker.log("sft", 1, {"[red]:smile:" + "x" * 100: 1.0})
        tracker.close()
        assert out.getvalue() == f"sft: 1 steps · [red]:smile:{'x' * 100} 1\n"


class TestProgressBar:
    def tracker(self) -> tuple[ProgressTracker, io.StringIO]:
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=120, color_system=None, legacy_windows=False)
        return ProgressTracker(ProgressConfig(), console), out

    def test_the_bar_shows_everything(self) -> None:
        tracker, out = self.tracker()
        tracker.start("aligned", 40, "iteration")
        for index in range(1, 11):
            tracker.log("aligned", index, {"reward": 1.2345, "kl": 0.5, "[b]": 1.0})
        tracker.close()
        tracker.close()
        last = next(line for line in reversed(out.getvalue().splitlines()) if "aligned" in line)
        for expected in ("━", "10/40 iterations", "iteration/s", " left", "reward 1.23 kl 0.5"):
            assert expected in last

    def test_a_log_handler_made_before_writes_above_the_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = io.StringIO()
        monkeypatch.setattr(sys, "stderr", real)
        monkeypatch.setattr(sys, "__stderr__", real)
        handler = logging.StreamHandler(real)
        logger = logging.getLogger("alignkit")
        monkeypatch.setattr(logger, "handlers", [handler])
        tracker, out = self.tracker()
        tracker.start("sft", 3, "step")
        logger.warning("a message")
        tracker.close()
        logger.warning("another message")
        assert "a message\n" in out.getvalue()
        assert "another" not in out.getvalue()
        assert real.getvalue() == "another message\n"
        assert handler.stream is real


def test_registering_imports_neither_torch_nor_rich() -> None:
    code = """
import sys
import alignkit_plugins.tracker_jsonl.plugin as jsonl, alignkit_plugins.tracker_progress.plugin as progress
components = [c for plugin in (jsonl, progress) for c in plugin.alignkit_trackers()]
print([c.name for c in components], all(c.summary for c in components))
print(sorted({"torch", "rich", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['jsonl', 'progress'] True", "[]"]


def test_the_progress_component_builds_a_tracker() -> None:
    from alignkit_plugins.tracker_progress.plugin import alignkit_trackers

    component = next(iter(alignkit_trackers()))
    built = component.build(component.config(), None)
    assert isinstance(built, ProgressTracker)
