"""Reward sources that raise, hang, or answer nonsense: named with their input, asked again, left out or fatal."""

import contextvars
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit import processes
from alignkit.batches import Rollout
from alignkit.checkpoints import RowFile
from alignkit.errors import Fault, Paused, UserError
from alignkit.loop.config import AskingConfig, RewardFaultsConfig
from alignkit.loop.guarded import FILE, GuardedSource
from alignkit.loop.left_out import LeftOut, without_failed
from alignkit.loop.time_limit import within
from helpers.context import make_rollout

PROMPTS = ["the film", "the film", "a", "a"]
TEXTS = ["one", "two", "three", "four"]


@pytest.fixture
def rollout(llama: Any) -> Rollout:
    found: Rollout = make_rollout(llama, PROMPTS, [llama.encoder.text(t) for t in TEXTS])
    assert list(found.texts) == TEXTS
    return found


class Source:
    """Scores by length; `act(texts)` may raise or change the scores. Remembers what it was asked."""

    def __init__(self, act: Callable[[list[str], Tensor], Any] = lambda texts, scores: scores) -> None:
        self.act = act
        self.asked: list[list[str]] = []
        self.batch_relative = False

    def score(self, rollout: Rollout) -> Tensor:
        """The number of letters."""
        self.asked.append(list(rollout.texts))
        found: Tensor = self.act(self.asked[-1], torch.tensor([float(len(t)) for t in rollout.texts]))
        return found

    def figures(self) -> dict[str, float]:
        """How large the last batch was."""
        return {"asked": float(len(self.asked[-1]))}


def fails_on(*bad: str, error: Callable[[], BaseException] = lambda: ZeroDivisionError("odd text")) -> Source:
    """A source that raises as soon as one of these texts is among those it is asked about."""

    def act(texts: list[str], scores: Tensor) -> Tensor:
        if set(bad) & set(texts):
            raise error()
        return scores

    return Source(act)


def guarded(source: Any, folder: Path | None = None, **faults: Any) -> GuardedSource:
    """With no waiting."""
    rows = None if folder is None else RowFile(folder / FILE)
    return GuardedSource(source, "dist 1.0: reward source 'x'", RewardFaultsConfig(**{"wait": 0, **faults}), rows)


def saved(folder: Path) -> list[dict[str, Any]]:
    """Rows of reward_faults.jsonl."""
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_source_without_fault_is_asked_once_and_reports(rollout: Rollout, tmp_path: Path) -> None:
    source = Source()
    scored = guarded(source, tmp_path).ask(rollout)
    assert scored.scores_B.tolist() == [3, 3, 5, 4]
    assert (scored.problems, scored.figures, source.asked) == ({}, {"asked": 4.0}, [TEXTS])
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (fails_on("three"), r"ZeroDivisionError: odd text \(test_guarded.py:\d+\)"),
        (fails_on("three", error=lambda: SystemExit(2)), "SystemExit: 2"),
        (fails_on("three", error=lambda: Fault("judge is out", where="http://judge")), "judge is out"),
        (Source(lambda t, s: s[:-1] if "three" in t else s), r"returned scores of shape \(\d,\) for \d completions"),
        (Source(lambda t, s: s.tolist() if "three" in t else s), "returned list, not a tensor"),
        (Source(lambda t, s: torch.where(s == 5, math.nan, s)), "scored it as nan"),
        (Source(lambda t, s: torch.where(s == 5, math.inf, s)), "scored it as inf"),
    ],
)
def test_the_source_the_reason_the_prompt_and_the_completion_are_named(
    source: Source, said: str, rollout: Rollout, tmp_path: Path
) -> None:
    with pytest.raises(Fault, match=said) as caught:
        guarded(source, tmp_path, retries=0).ask(rollout)
    assert caught.value.exit_status == 4
    assert caught.value.what.startswith("dist 1.0: reward source 'x': ")
    assert caught.value.what.endswith("prompt 'a', completion 'three'")
    assert "then: skip" in str(caught.value.hint)
    (row,) = saved(tmp_path)
    assert (row["prompt"], row["completion"]) == ("a", "three")
    assert row["source"] == "dist 1.0: reward source 'x'"


def test_a_fault_of_the_sources_own_keeps_its_place_and_its_advice(rollout: Rollout) -> None:
    source = fails_on("three", error=lambda: Fault("judge is out", where="http://judge", hint="start it"))
    with pytest.raises(Fault) as caught:
        guarded(source, retries=0).ask(rollout)
    assert caught.value.where == "http://judge"
    assert str(caught.value.hint).startswith("start it\n")
    assert isinstance(caught.value.__cause__, Fault)


def test_it_is_asked_again_with_growing_waits(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    source = Source()
    source.act = lambda t, s: s if len(source.asked) == 4 else 1 / 0
    assert guarded(source, retries=3, wait=0.5).ask(rollout).problems == {}
    assert waits == [0.5, 1.0, 2.0]
    assert len(source.asked) == 4


def test_a_score_that_is_not_finite_is_asked_for_again(rollout: Rollout) -> None:
    source = Source()
    source.act = lambda t, s: s if len(source.asked) == 2 else s * math.nan
    assert guarded(source, retries=1).ask(rollout).scores_B.tolist() == [3, 3, 5, 4]


def test_skip_leaves_out_what_it_fails_on_and_keeps_the_other_scores(rollout: Rollout, tmp_path: Path) -> None:
    source = fails_on("two", "four")
    ask = guarded(source, tmp_path, then="skip", retries=1)
    ask.place = {"iteration": 7}
    scored = ask.ask(rollout)
    assert scored.scores_B.isnan().tolist() == [False, True, False, True]
    assert scored.scores_B[[0, 2]].tolist() == [3, 5]
    assert set(scored.problems) == {1, 3}
    assert scored.figures == {}  # those of one completion are not those of the batch
    assert source.asked == [TEXTS, TEXTS, ["one"], ["two"], ["two"], ["three"], ["four"], ["four"]]
    assert [(r["iteration"], r["completion"]) for r in saved(tmp_path)] == [(7, "two"), (7, "four")]
    with pytest.raises(Fault):
        ask.score(rollout)  # who needs all scores gets all or none


def test_rows_that_are_not_finite_need_not_be_searched_for(rollout: Rollout) -> None:
    source = Source(lambda t, s: torch.where(s == 5, math.nan, s))
    scored = guarded(source, then="skip", retries=0).ask(rollout)
    assert set(scored.problems) == {2}
    assert source.asked == [TEXTS]


def test_a_source_that_compares_is_never_asked_about_one_alone(rollout: Rollout) -> None:
    source = fails_on("two")
    source.batch_relative = True
    scored = guarded(source, then="skip", retries=0).ask(rollout)
    assert set(scored.problems) == {0, 1, 2, 3}
    assert source.asked == [TEXTS]
    with pytest.raises(Fault, match="the first of 4 completions"):
        guarded(source, retries=0).ask(rollout)


@pytest.mark.parametrize("then", ["stop", "skip"])
def test_a_source_that_gives_one_score_whatever_it_is_asked_about_has_scored_none(then: str, rollout: Rollout) -> None:
    source = guarded(Source(lambda texts, scores: scores[:1]), retries=0, then=then)
    said = r"scores of shape \(1,\) for 4 completions"
    if then == "stop":
        with pytest.raises(Fault, match=said):
            source.ask(rollout)
    else:
        scored = source.ask(rollout)
        assert sorted(scored.problems) == [0, 1, 2, 3]
        assert bool(scored.scores_B.isnan().all())


def test_a_source_that_forgets_a_completion_is_named_with_that_one(rollout: Rollout) -> None:
    source = guarded(Source(lambda texts, scores: scores[[t != "three" for t in texts]]), retries=0, then="skip")
    assert sorted(source.ask(rollout).problems) == [2]


def test_scores_of_completions_one_by_one_count_if_only_the_batch_failed(rollout: Rollout) -> None:
    source = Source(lambda t, s: s if len(t) == 1 else 1 / 0)
    assert guarded(source, retries=0).ask(rollout).scores_B.tolist() == [3, 3, 5, 4]


@pytest.mark.parametrize("error", [UserError("no key"), Paused("budget"), KeyboardInterrupt(), MemoryError()])
def test_what_asking_again_cannot_mend_passes_at_once(error: BaseException, rollout: Rollout) -> None:
    source = fails_on("one", error=lambda: error)
    with pytest.raises(type(error)):
        guarded(source, then="skip").ask(rollout)
    assert len(source.asked) == 1


def test_a_full_disk_passes_at_once(rollout: Rollout) -> None:
    source = fails_on("one", error=lambda: OSError(28, "No space left", "cache"))
    with pytest.raises(OSError, match="No space left"):
        guarded(source, then="skip").ask(rollout)
    assert len(source.asked) == 1


@pytest.mark.concurrent
class TestTimeout:
    def test_a_source_that_hangs_is_a_fault_with_its_limit(self, rollout: Rollout) -> None:
        release = threading.Event()
        source = Source(lambda t, s: s if "three" not in t else (release.wait(30), s)[1])
        try:
            with pytest.raises(Fault, match=r"gave no answer within 0.2 s; prompt 'a', completion 'three'"):
                guarded(source, retries=0, timeout=0.2).ask(rollout)
        finally:
            release.set()

    def test_after_three_in_a_row_the_rest_is_not_asked(self, llama: Any) -> None:
        release = threading.Event()
        texts = [f"w{'x' * n}" for n in range(1, 7)]
        rollout = make_rollout(llama, [str(n) for n in range(6)], [llama.encoder.text(t) for t in texts])
        source = Source(lambda t, s: (release.wait(30), s)[1])
        try:
            scored = guarded(source, retries=0, timeout=0.1, then="skip").ask(rollout)
        finally:
            release.set()
        assert set(scored.problems) == set(range(6))
        assert [p.startswith("not asked") for p in scored.problems.values()] == [False] * 3 + [True] * 3

    def test_another_thread_has_the_autocast_gradient_mode_and_context_of_this_one(self) -> None:
        variable = contextvars.ContextVar("variable", default=0)
        variable.set(3)

        def look() -> Tensor:
            found = [torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), variable.get(), threading.main_thread()]
            product = torch.ones(2, 2) @ torch.ones(2, 2)
            seen.append((found[:3], product.dtype, threading.current_thread() is found[3]))
            return product

        seen: list[Any] = []
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            within(10, look)
        within(10, look)
        within(None, look)
        assert seen == [
            ([True, False, 3], torch.bfloat16, False),
            ([False, True, 3], torch.float32, False),
            ([False, True, 3], torch.float32, True),
        ]

    def test_what_is_raised_in_the_thread_is_raised_here(self) -> None:
        def fail() -> Tensor:
            raise LookupError("inside")

        with pytest.raises(LookupError, match="inside"):
            within(10, fail)


class TestLeavingOut:
    def test_whole_groups_go_and_the_others_are_numbered_anew(self, rollout: Rollout) -> None:
        scored = guarded(fails_on("two"), then="skip", retries=0).ask(rollout)
        kept = without_failed(rollout, scored)
        assert kept is not None
        part, scores_B = kept
        assert list(part.texts) == ["three", "four"]
        assert scores_B.tolist() == [5, 4]
        assert part.group_B.tolist() == [0, 0]
        assert part.mask_BT.shape == (2, max(len(c) for c in part.completion_ids))

    def test_nothing_is_left_if_every_prompt_is_concerned(self, rollout: Rollout) -> None:
        scored = guarded(fails_on("two", "three"), then="skip", retries=0).ask(rollout)
        assert without_failed(rollout, scored) is None

    def test_ten_batches_in_a_row_stop_and_counts_can_be_taken_up(self) -> None:
        left = LeftOut("the judge")
        for _ in range(9):
            left.count(4, 0)
        left.count(4, 3)
        again = LeftOut("the judge")
        again.restore(left.state())
        assert again == left
        assert (again.completions, again.batches, again.in_a_row) == (37, 9, 0)
        for _ in range(9):
            again.count(4, 0)
        with pytest.raises(Fault, match="the judge could score no prompt of the last 10 batches"):
            again.count(4, 0)


def test_evaluation_has_no_skip() -> None:
    assert "then" not in AskingConfig.model_fields
    assert not GuardedSource(Source(), faults=AskingConfig()).skips


class TestSharedWork:
    """A source whose work several processes do together is asked once: on another one it may have answered."""

    def ask(self, source: Source, rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the first of two processes."""
        asking = guarded(source, retries=2, then="skip")
        asking.shared = True
        monkeypatch.setattr(processes, "_group", processes.Group(None, 0, 2))
        asking.ask(rollout)

    def test_it_is_not_asked_again(self, rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
        source = fails_on("two")
        with pytest.raises(Fault, match=r"dist 1\.0: reward source 'x': ZeroDivisionError: odd text"):
            self.ask(source, rollout, monkeypatch)
        assert source.asked == [TEXTS]

    def test_a_partner_that_is_gone_is_no_fault_of_the_source(
        self, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = RuntimeError("gloo: Connection closed by peer")
        source = fails_on("two", error=lambda: lost)
        with pytest.raises(RuntimeError) as raised:
            self.ask(source, rollout, monkeypatch)
        assert raised.value is lost
        assert source.asked == [TEXTS]
