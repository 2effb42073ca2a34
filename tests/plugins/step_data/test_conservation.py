"""Rows in = rows used + rows reported, whatever the rows are; and what is said of votes that repeat or contradict."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit import Component, hookimpl
from alignkit.data.rows import BadRow
from alignkit.errors import UserError
from alignkit.manager import PluginManager, PluginStatus
from alignkit.protocols import SourceRow
from alignkit.recipe.model import ComponentSpec
from alignkit.records import LabelledCompletion, PreferencePair, Record, Text
from alignkit.testing.context import make_context
from alignkit_plugins.step_data.repeated import Marks, Seen, only_white_space


class Hides:
    """A format that swallows the reader's complaints."""

    generates = False

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        taken = iter(rows)
        while True:
            try:
                row = next(taken)
            except BadRow:
                continue
            except StopIteration:
                return
            yield "texts", Text(text=str(row.row))


class PassesOver:
    """A format that leaves out rows without a word."""

    generates = False

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        for source in rows:
            if isinstance(source.row, dict) and source.row["n"] % 3:
                yield "texts", Text(text=str(source.row["n"]))


class Strangers:
    @hookimpl
    def alignkit_data_formats(self) -> Iterable[Component]:
        return [Component("hides", lambda c, _: Hides()), Component("passes_over", lambda c, _: PassesOver())]


@cache
def manager() -> PluginManager:
    found = PluginManager()
    found.load()
    found.register(Strangers(), PluginStatus("strangers", "stranger", "0"))
    return found


def run(folder: Path, lines: list[str], **options: Any) -> dict[str, Any]:
    """The summary; results lie in `folder / "out"`."""
    source, out = folder / "x.jsonl", folder / "out"
    source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    out.mkdir()
    context = replace(make_context(manager=manager()), folder=out, step_id="d")
    spec = ComponentSpec(name="data", **{"files": str(source), "on_bad_row": "skip", "max_bad_share": 1.0, **options})
    summary: dict[str, Any] = context.build("step", spec).run(context).summary["data"]["d"]
    return summary


def written(folder: Path) -> dict[str, list[Any]]:
    return {p.stem: [json.loads(line) for line in p.read_text().splitlines()] for p in (folder / "out").iterdir()}


prompts = st.sampled_from(["", "p", "q", "r"])
answers = st.sampled_from(["", "a", "b", "c"])
pairs = st.fixed_dictionaries({"prompt": prompts, "chosen": answers, "rejected": answers})
lines = st.lists(st.one_of(pairs.map(json.dumps), st.sampled_from(["", "{", "[]", '{"promt": "p"}'])), max_size=25)


@given(
    lines=lines,
    limit=st.none() | st.integers(1, 5),
    drop=st.booleans(),
    heldout=st.sampled_from([0.0, 0.5]),
    by=st.sampled_from(["prompt", "text"]),
    also=st.booleans(),
)
def test_every_row_and_record_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    limit: int | None,
    drop: bool,
    heldout: float,
    by: str,
    also: bool,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    form = {"name": "preference", "also_prompts": also, "also_demonstrations": also}
    options = {"format": form, "limit": limit, "drop_duplicates": drop, "heldout": heldout, "heldout_by": by}
    summary, problem = {}, ""
    try:
        summary = run(folder, lines, **options)
    except UserError as error:
        problem = error.what
    if problem:  # too few rows for what was asked
        assert "no record" in problem or "held out" in problem
        assert list((folder / "out").iterdir()) == []
        return
    parts = written(folder)
    told = parts.pop("rejected", [])
    while lines and not lines[-1]:
        lines = lines[:-1]  # blank lines at the end are no rows
    assert summary["rows"] <= len(lines)
    assert summary["rows"] == len(lines) or "over_limit" in summary
    assert summary["rows"] == summary["rows_with_record"] + summary["rejected"]
    assert (
        sum(entry.get("rows", 1) for entry in told)
        == summary["rejected"]
        == sum(summary["rejected_by_reason"].values())
    )
    left_out = ("left_out_by_split", "demonstrations_without_prompt", "duplicates_left_out", "over_limit")
    records = sum(map(len, parts.values()))
    assert summary["records"] == records + sum(summary.get(name, 0) for name in left_out)
    assert sum(summary["parts"].values()) + sum(summary["heldout"].values()) == records
    # against a count that knows nothing of the reader
    usable = [json.loads(line) for line in lines[: summary["rows"]] if line and line[0] == "{" and line[1:]]
    usable = [r for r in usable if r.get("chosen") and r.get("rejected") and r["chosen"] != r["rejected"]]
    if by == "prompt" and heldout:
        usable = [r for r in usable if r["prompt"]]
    assert summary["rows_with_record"] == len(usable)
    seen = Counter(json.dumps(r) for r in usable)
    if not also and not limit:
        assert summary["duplicates"] == len(usable) - len(seen)


def test_contradictions_are_counted_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "b", "rejected": "a"},
        {"prompt": "q", "chosen": "b", "rejected": "a"},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
    ]
    with caplog.at_level(logging.WARNING, "alignkit"):
        summary = run(tmp_path, [json.dumps(row) for row in rows], format="preference")
    assert (summary["contradictions"], summary["duplicates"]) == (2, 1)
    assert summary["parts"] == {"preferences": 4}
    assert "2 records say the opposite of an earlier one" in caplog.text


def pair(chosen: str, rejected: str, p: float = 1.0, prompt: str = "x") -> PreferencePair:
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, p=p)


def label(good: bool, completion: str = "a") -> LabelledCompletion:
    return LabelledCompletion(prompt="x", completion=completion, label=good)


@pytest.mark.parametrize(
    ("first", "second", "opposite"),
    [
        (pair("a", "b"), pair("b", "a"), True),
        (pair("a", "b"), pair("a", "b", p=0.2), True),
        (pair("a", "b", p=0.9), pair("b", "a", p=0.1), False),
        (pair("a", "b"), pair("b", "a", p=0.5), False),
        (pair("a", "b"), pair("b", "a", prompt="y"), False),
        (pair("a b", "c"), pair("c", "a b"), True),
        (pair("a", "b c"), pair("c", "a b"), False),
        (label(True), label(False), True),
        (label(True), label(True), False),
        (label(True), label(False, "b"), False),
        (Text(text="a"), Text(text="a"), False),
    ],
)
def test_what_contradicts_what(first: Record, second: Record, opposite: bool) -> None:
    seen = Seen()
    assert not seen.contradicted(first)
    assert seen.contradicted(second) is opposite
    assert seen.contradicted(first) is opposite


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40), max_size=3000))
def test_marks_are_a_set(numbers: list[int]) -> None:
    marks, truth = Marks(), set[int]()
    # 0 is kept as 1: two of 2**64 marks are one
    for number in (max(1, n) for n in numbers):
        assert (number in marks) == (number in truth)
        assert marks.add(number) == (number in truth)
        truth.add(number)
    assert all(n in marks for n in truth)


def test_marks_take_few_bytes() -> None:
    marks = Marks()
    for n in range(100_000):
        assert not marks.add(n * 0x9E3779B97F4A7C15 % 2**64)
    assert len(marks._places) * marks._places.itemsize <= 24 * 100_000


def test_a_file_that_ends_early_is_said_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = {"prompt": "p", "completion": "a"}
    bad = tmp_path / "cut.json"
    bad.write_text(f"[{json.dumps(good)},\n{{'x': 1}}]")
    with caplog.at_level(logging.WARNING, "alignkit"):
        summary = run(
            tmp_path, [json.dumps(good)], format="prompt_completion", files=[str(tmp_path / "x.jsonl"), str(bad)]
        )
    assert summary["left_out_unread_files"] == [f"{bad}:2"]
    assert (summary["rows"], summary["rejected"]) == (3, 1)
    assert f"the file was not read to its end: from {bad}:2 on its rows are lost" in caplog.text


def test_a_format_that_hides_bad_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="passed over 2 bad rows without a word") as caught:
        run(tmp_path, ['{"n": 1}', "{", "[]", '{"n": 2}'], format="hides")
    assert caught.value.where == "format hides"


def test_rows_that_a_format_passes_over_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "alignkit"):
        summary = run(tmp_path, [json.dumps({"n": n}) for n in range(9)], format="passes_over")
    assert (summary["rows"], summary["rows_with_record"], summary["rows_without_own_record"]) == (9, 6, 3)
    assert f"neither a record nor a complaint for 3 rows, the first at {tmp_path / 'x.jsonl'}:1" in caplog.text


def test_lines_that_a_document_joins_are_no_such_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "y.txt"
    source.write_text("a\nb\n\nc\n")
    with caplog.at_level(logging.WARNING, "alignkit"):
        summary = run(tmp_path, [], format="text", files=str(source))
    assert summary["parts"] == {"texts": 2}
    assert summary["rows"] == summary["rows_with_record"] + summary["rows_without_own_record"] == 4
    assert caplog.text == ""


def test_a_document_that_is_too_long_counts_all_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import alignkit_plugins.data_formats.text as text_format

    monkeypatch.setattr(text_format, "MAX_CHARACTERS", 10)
    source = tmp_path / "y.txt"
    source.write_text("short\n\nfour\nfour\nfour\n\nend\n")
    summary = run(tmp_path, [], format="text", files=str(source))
    assert (summary["rows"], summary["rejected"], summary["parts"]) == (7, 3, {"texts": 2})
    (entry,) = written(tmp_path)["rejected"]
    assert (entry["rows"], entry["where"]) == (3, f"{source}:5")
    assert f"from {source}:3 to here, all left out" in entry["problem"]


def test_texts_of_no_pair_are_counted(tmp_path: Path) -> None:
    rows = [{"text": f"t{n % 9}", "label": (n % 9) % 2} for n in range(10)]
    summary = run(tmp_path, [json.dumps(r) for r in rows], format={"name": "classes", "pairs": 1})
    assert summary["format"] == {"texts": 9, "texts_repeated": 1, "texts_in_no_pair": 7}
    assert summary["rows"] == summary["rows_without_own_record"] == 10


def test_the_last_pairs_of_a_set_are_found_in_time(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n} for n in range(60)]
    summary = run(tmp_path, [json.dumps(r) for r in rows], format={"name": "classes", "pairs": 60 * 59 // 2})
    assert summary["parts"] == {"preferences": 1770}
    assert summary["duplicates"] == 0


def mixed(good: int, bad: int) -> list[str]:
    return [json.dumps({"prompt": f"p{n}", "completion": "a"}) for n in range(good)] + ['{"prompt": "p"}'] * bad


def test_a_step_of_mostly_bad_rows_stops_unless_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    form = "prompt_completion"
    with pytest.raises(UserError, match=r"5 of 9 rows \(55.6 %\), and max_bad_share is 0.5 \(5 x missing column\)"):
        run(tmp_path, mixed(4, 5), format=form, max_bad_share=0.5)
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "out").rmdir()
    with caplog.at_level(logging.WARNING, "alignkit"):
        summary = run(tmp_path, mixed(4, 4), format=form, max_bad_share=0.5)
    assert "step d: 4 of 8 rows (50 %) skipped as bad (4 x missing column)" in caplog.text
    assert (summary["rejected_share"], summary["parts"]) == (0.5, {"demonstrations": 4})


def test_a_file_of_which_nothing_can_be_read_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other, cut = tmp_path / "other.jsonl", tmp_path / "cut.json"
    other.write_text('{"prompt": "q", "completion": "a"}\n', encoding="utf-16")
    cut.write_text('[{"prompt": "q", "completion": "a"},\n{')
    files = [str(tmp_path / "x.jsonl"), str(other), str(cut)]
    with caplog.at_level(logging.WARNING, "alignkit"):
        summary = run(tmp_path, mixed(3, 0), format="prompt_completion", files=files)
    assert summary["left_out_lost_files"] == [str(other)]
    assert summary["left_out_unread_files"] == [f"{other}:1", f"{cut}:2"]
    assert f"the file {other} is lost: nothing of it could be read" in caplog.text
    assert f"from {cut}:2 on" in caplog.text
    assert f"from {other}:1 on" not in caplog.text


def test_demonstrations_without_a_prompt_are_left_out_of_a_split_by_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": "", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(40)]
    form = {"name": "preference", "also_demonstrations": True, "also_prompts": True}
    with caplog.at_level(logging.WARNING, "alignkit"):
        summary = run(tmp_path, [json.dumps(r) for r in rows], format=form, heldout=0.3, heldout_by="text")
    assert (summary["rejected"], summary["demonstrations_without_prompt"]) == (0, 40)
    held, left_out = summary["heldout"]["preferences"], summary["left_out_by_split"]
    assert held + summary["parts"]["preferences"] + left_out == 40
    assert f"heldout_by: text holds out {held} of 40 pairs ({100 * held / 40:.1f} %) and leaves out {left_out}" in (
        caplog.text
    )
    assert "40 of the part demonstrations have no prompt to split them by: left out" in caplog.text


@pytest.mark.parametrize(
    ("record", "equal"),
    [
        (pair("a", "a \n"), True),
        (pair("a", " a"), False),
        (pair("a", "b"), False),
        (
            PreferencePair(
                prompt="x",
                chosen=({"role": "assistant", "content": "a"},),  # type: ignore[arg-type]
                rejected=({"role": "assistant", "content": "a "},),  # type: ignore[arg-type]
            ),
            True,
        ),
        (Text(text="a "), False),
    ],
)
def test_sides_that_differ_by_white_space_at_the_end(record: Record, equal: bool) -> None:
    assert only_white_space(record) is equal


def test_such_pairs_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.dumps({"prompt": "p", "chosen": "a", "rejected": r}) for r in ("a ", "b")]
    with caplog.at_level(logging.WARNING, "alignkit"):
        summary = run(tmp_path, lines, format="preference")
    assert summary["pairs_that_differ_by_white_space_at_the_end"] == 1
    assert "1 pair with sides that differ by white space at the end only" in caplog.text


def test_a_rejected_row_has_its_reason_and_says_if_it_was_cut(tmp_path: Path) -> None:
    run(tmp_path, [*mixed(1, 0), "{" + "x" * 998 + "…", "{" + "x" * 1000], format="prompt_completion")
    entries = written(tmp_path)["rejected"]
    assert [(e["reason"], e.get("row_cut", False), len(e["row"])) for e in entries] == [
        ("bad JSON", False, 1000),
        ("bad JSON", True, 1001),
    ]
