"""The data step: counts, bad rows, splits that do not leak, and the check before anything is written."""

import json
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import alignkit_plugins.data_formats.plugin as formats
import alignkit_plugins.film_world.plugin as film_world
import alignkit_plugins.step_data.plugin as step_data
from alignkit import Component, hookimpl
from alignkit.context import StepContext
from alignkit.data.rows import BadRow
from alignkit.errors import Fault, UserError
from alignkit.manager import PluginManager, PluginStatus
from alignkit.protocols import SourceRow, StepOutput
from alignkit.recipe.check import resolve
from alignkit.recipe.model import ComponentSpec
from alignkit.records import PreferencePair, Prompt, Record, Text
from alignkit_plugins.step_data.config import DataConfig
from alignkit_plugins.step_data.splitting import Splitter

CHAT = [{"role": "user", "content": "Q"}]


class Strange:
    """A third-party format that does what it must not."""

    generates = False

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.seen: list[SourceRow] = []

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        for source in rows:
            self.seen.append(source)
            if self.kind == "crash":
                raise KeyError("no_such_column")
            if self.kind == "bare":
                yield Text(text="x")  # type: ignore[misc]
            elif self.kind == "part":
                yield "preference", Text(text="x")
            elif self.kind == "record":
                yield "preferences", Text(text="x")
            elif self.kind == "invalid":
                yield "texts", Text.model_validate(source.row)
            elif self.kind == "late":
                yield "texts", Text(text=f"text {len(self.seen)}")
        if self.kind == "end":
            raise BadRow("the end is missing")
        if self.kind == "late" and self.seen:
            late = self.seen.pop()
            raise BadRow("it has no parent", where=late.where, row=late.row)


def strange(kind: str, config: Any, context: Any) -> Strange:
    return Strange(kind)


class StrangePlugin:
    @hookimpl
    def alignkit_data_formats(self) -> Iterable[Component]:
        needs_run = Component("needs_run", lambda c, context: Strange(str(context.seed)))
        kinds = ("part", "record", "invalid", "end", "crash", "bare", "late")
        return [needs_run, *(Component(f"strange_{k}", partial(strange, k)) for k in kinds)]


@pytest.fixture(scope="module")
def manager() -> PluginManager:
    found = PluginManager()
    plugins: list[ModuleType | StrangePlugin] = [formats, film_world, step_data, StrangePlugin()]
    for plugin in plugins:
        owner = "stranger" if isinstance(plugin, StrangePlugin) else "alignkit"
        status = PluginStatus(str(plugin), owner, "0")
        found.register(plugin, status)
        assert status.problem is None
    return found


class Context:
    """The part of a StepContext that the step uses."""

    step_id = "corpus"
    seed = 0

    def __init__(self, manager: PluginManager, folder: Path) -> None:
        self.manager = manager
        self.folder = folder
        self.references: dict[str, Path] = {}
        self.recipe = SimpleNamespace(steps=())
        self.logged: list[int] = []

    def build(self, kind: Any, spec: ComponentSpec) -> Any:
        found = resolve(self.manager, kind, spec)
        return found.registered.component.build(found.config, cast("Any", self))

    def resolve(self, reference: str) -> Path:
        if reference not in self.references:
            raise UserError(f"no {reference}")
        return self.references[reference]

    def start_progress(self, total: int | None, unit: str) -> None:
        pass

    def log(self, index: int, metrics: dict[str, float]) -> None:
        self.logged.append(index)


class Bench:
    """Runs the step in a fresh folder."""

    def __init__(self, manager: PluginManager, folder: Path) -> None:
        self.manager = manager
        self.folder = folder
        self.context = Context(manager, folder / "out")
        self.context.folder.mkdir()

    def write(self, name: str, rows: list[Any]) -> str:
        path = self.folder / name
        path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return str(path)

    def check(self, **options: Any) -> None:
        resolve(self.manager, "step", ComponentSpec(name="data", **options), allowed=frozenset())

    def run(self, **options: Any) -> StepOutput:
        step = self.context.build("step", ComponentSpec(name="data", **options))
        return cast("StepOutput", step.run(cast("StepContext", self.context)))

    def read(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.context.folder / name).read_text().splitlines()]

    def summary(self, **options: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", self.run(**options).summary["data"]["corpus"])


@pytest.fixture
def bench(manager: PluginManager, tmp_path: Path) -> Bench:
    return Bench(manager, tmp_path)


def demos(prompts: Iterable[str]) -> list[Any]:
    return [{"prompt": p, "completion": f"answer {n}"} for n, p in enumerate(prompts)]


def test_parts_outputs_and_summary(bench: Bench) -> None:
    files = (bench.write("a.jsonl", demos("xyx")), bench.write("b.jsonl", demos("z")))
    bench.check(format="prompt_completion", files=files)
    out = bench.run(format={"name": "prompt_completion", "also_prompts": True}, files=files)
    assert out.outputs == {"": ".", "demonstrations": "demonstrations.jsonl", "prompts": "prompts.jsonl"}
    assert bench.read("demonstrations.jsonl")[3] == {"prompt": "z", "completion": "answer 0"}
    assert [r["prompt"] for r in bench.read("prompts.jsonl")] == ["x", "y", "z"]
    assert bench.context.logged == [4]
    assert out.summary["data"]["corpus"] == {
        "rows": 4,
        "rejected": 0,
        "rejected_by_reason": {},
        "rows_with_record": 4,
        "records": 7,
        "duplicates": 0,
        "left_out_by_split": 0,
        "parts": {"demonstrations": 4, "prompts": 3},
        "heldout": {},
    }
    assert sorted(p.name for p in bench.context.folder.iterdir()) == ["demonstrations.jsonl", "prompts.jsonl"]


BAD = [
    {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "{broken\n",
    {"prompt": "Q", "chosen": "A"},
    {"prompt": "Q", "chosen": "", "rejected": "B"},
    {"prompt": "Q", "chosen": "A", "rejected": "A"},
    {"chosen": "x A", "rejected": "x B"},
    "\n",
    {"prompt": "R", "chosen": "A", "rejected": "B"},
]


def test_the_check_names_every_bad_row_and_writes_nothing(bench: Bench) -> None:
    path = bench.write("bad.jsonl", BAD)
    before = sorted(bench.folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        bench.check(format="preference", files=path)
    message = str(caught.value)
    assert message.splitlines() == [
        f"{path}:2: 6 bad rows",
        f"  {path}:2: not valid JSON: Expecting property name enclosed in double quotes at column 2",
        f"  {path}:3: column 'rejected' is missing; the row has 'prompt', 'chosen'",
        f"  {path}:4: 'chosen' is empty",
        f"  {path}:5: 'chosen' and 'rejected' are equal",
        f"  {path}:6: mixed forms: this row has implicit prompt, texts, "
        f"the first row ({path}:1) has explicit prompt, texts",
        "  … and 1 more (all: 1 x bad JSON, 1 x missing column, 1 x empty chosen, 1 x equal pair, 1 x mixed forms, "
        "1 x blank line)",
        "  -> is this the right format for the files, and do its options name their columns? max_bad_share allows more",
    ]
    assert sorted(bench.folder.rglob("*")) == before


@pytest.mark.parametrize("policy", ["strict", "skip"])
def test_rows_of_which_none_fits_ask_for_another_format_or_other_columns(bench: Bench, policy: str) -> None:
    path = bench.write("bad.jsonl", [{"question": "Q", "answer": "A"}] * 9)
    with pytest.raises(UserError) as caught:
        bench.check(format="prompt_completion", files=path, on_bad_row=policy)
    assert "column 'prompt' is missing; the row has 'question', 'answer'" in caught.value.what
    assert caught.value.hint is not None
    assert "is this the right format for the files, and do its options name their columns?" in caught.value.hint


def test_a_bad_row_among_rows_that_a_format_joins_is_to_be_mended(bench: Bench) -> None:
    path = bench.write("bad.jsonl", [{"text": "a", "label": 1}, {"text": "", "label": 0}])
    with pytest.raises(UserError) as caught:
        bench.check(format={"name": "classes", "pairs": 1}, files=path)
    assert caught.value.hint == "mend the row, or set on_bad_row: skip"


def test_a_row_that_cannot_be_split_is_a_bad_row(bench: Bench) -> None:
    rows = [{"prompt": p, "chosen": f"A{p}", "rejected": "B"} for p in ("one", "", "two", "three", "four")]
    path = bench.write("a.jsonl", rows)
    summary = bench.summary(format="preference", files=path, heldout=0.4, on_bad_row="skip")
    assert (summary["rejected_by_reason"], summary["rows"]) == ({"empty prompt": 1}, 5)
    assert [r["where"] for r in bench.read("rejected.jsonl")] == [f"{path}:2"]
    assert bench.summary(format="preference", files=path, heldout=0.4, heldout_by="text")["rejected"] == 0


def test_strict_stops_at_the_first_bad_row_and_leaves_no_part(bench: Bench) -> None:
    path = bench.write("bad.jsonl", BAD)
    with pytest.raises(UserError) as caught:
        bench.run(format="preference", files=path)
    assert caught.value.where == f"{path}:2"
    assert list(bench.context.folder.iterdir()) == []


def test_skip_counts_and_keeps_what_was_rejected(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    path = bench.write("bad.jsonl", BAD)
    bench.check(format="preference", files=path, on_bad_row="skip", max_bad_share=0.75)
    assert f"6 bad rows will be skipped, the first at {path}:2: " in caplog.text
    summary = bench.summary(format="preference", files=path, on_bad_row="skip", max_bad_share=0.75)
    assert (summary["rows"], summary["rejected"], summary["parts"]) == (8, 6, {"preferences": 2})
    assert summary["rejected_by_reason"] == {
        "bad JSON": 1, "missing column": 1, "empty chosen": 1, "equal pair": 1, "mixed forms": 1,
        "blank line": 1,
    }  # fmt: skip
    rejected = bench.read("rejected.jsonl")
    assert [r["where"] for r in rejected] == [f"{path}:{n}" for n in range(2, 8)]
    assert rejected[0]["row"] == "{broken"
    assert rejected[1] == {
        "where": f"{path}:3",
        "reason": "missing column",
        "problem": "column 'rejected' is missing; the row has 'prompt', 'chosen'",
        "row": {"prompt": "Q", "chosen": "A"},
    }
    assert "6 of 8 rows (75 %) skipped as bad" in caplog.text
    assert summary["rejected_share"] == 0.75


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"format": "preference", "files": "missing.jsonl"}, "missing.jsonl: no such file or folder"),
        ({"format": "preference"}, "files is missing"),
        ({"format": "preference", "files": "empty.jsonl"}, "the files hold no row"),
        ({"format": "preference", "files": "ok.jsonl", "split": "train"}, "split is for hub data sets"),
        ({"format": "preference", "files": "ok.jsonl", "heldout": 0.5}, "ok.jsonl:1: the prompt is empty"),
        ({"format": "preference", "files": []}, "give at least one file"),
        ({"format": "preference", "files": ""}, "give at least one file"),
        ({"format": "film_world", "files": "ok.jsonl"}, "makes its own rows"),
        ({"format": "film_world", "limit": 3}, "limit has no meaning"),
        ({"format": "film_world", "heldout": 1.0}, "less than 1"),
        ({"format": "film_world", "parts_from": ["other"]}, "'other' is no reference to a step"),
        ({"format": "preferences", "files": "ok.jsonl"}, "did you mean 'preference'"),
        (
            {"format": {"name": "preference", "prompt_feild": "q"}, "files": "ok.jsonl"},
            "did you mean 'prompt_field'",
        ),
        (
            {"format": "strange_part", "files": "ok.jsonl"},
            "gave the part 'preference' (did you mean 'preferences'?)",
        ),
        ({"format": "strange_record", "files": "ok.jsonl"}, "gave a Text for the part 'preferences'"),
        ({"format": "strange_invalid", "files": "ok.jsonl"}, "ok.jsonl:1: not a Text: text: Field required"),
        ({"format": "strange_end", "files": "ok.jsonl"}, "the end is missing"),
        ({"format": "strange_bare", "files": "ok.jsonl"}, "gave a Text, not a pair (part, record)"),
    ],
)
def test_what_the_check_finds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], problem: str
) -> None:
    bench.write("ok.jsonl", [{"prompt": "", "chosen": "A", "rejected": "B"}])
    bench.write("empty.jsonl", [])
    monkeypatch.chdir(bench.folder)
    with pytest.raises(UserError) as caught:
        bench.check(**options)
    assert problem in str(caught.value)


def test_hub_names_and_formats_that_need_a_run_are_not_read_by_the_check(bench: Bench) -> None:
    bench.check(format="preference", files="owner/name", split="train")
    bench.check(format="needs_run", files=bench.write("a.jsonl", [{}]))


def test_a_format_that_complains_without_reading_is_asked_once(bench: Bench) -> None:
    path = bench.write("a.jsonl", [{}])
    with pytest.raises(UserError) as caught:
        bench.check(format="strange_end", files=path)
    assert str(caught.value).count("the end is missing") == 1


def test_a_crash_of_a_strangers_format_has_its_name_and_the_row(bench: Bench) -> None:
    path = bench.write("a.jsonl", [{}])
    named = r"stranger 0: data format 'strange_crash' failed at .*a\.jsonl:1: KeyError: 'no_such_column' \(test_data"
    with pytest.raises(Fault, match=named):
        bench.check(format="strange_crash", files=path)
    with pytest.raises(Fault, match=named):
        bench.run(format="strange_crash", files=path)


def test_rows_may_turn_out_bad_when_all_are_read(bench: Bench) -> None:
    path = bench.write("a.jsonl", [{"n": n} for n in range(3)])
    summary = bench.summary(format="strange_late", files=path, on_bad_row="skip", max_bad_share=1.0)
    assert summary["rejected"] == 3
    found = bench.read("rejected.jsonl")
    assert sorted((r["where"].rpartition("/")[2], r["row"]["n"]) for r in found) == [
        ("a.jsonl:1", 0),
        ("a.jsonl:2", 1),
        ("a.jsonl:3", 2),
    ]


def test_no_record_at_all_is_an_error(bench: Bench) -> None:
    path = bench.write("a.jsonl", [{"x": 1}])
    with pytest.raises(UserError, match="no record: 1 row, 1 of them bad"):
        bench.run(format="preference", files=path, on_bad_row="skip")
    assert list(bench.context.folder.iterdir()) == []


def test_duplicates_are_counted_and_dropped_on_demand(bench: Bench) -> None:
    path = bench.write("a.jsonl", [*demos("x"), *demos("xy"), *demos("x")])
    summary = bench.summary(format="prompt_completion", files=path)
    assert (summary["duplicates"], summary["parts"]) == (2, {"demonstrations": 4})
    summary = bench.summary(format="prompt_completion", files=path, drop_duplicates=True)
    assert (summary["duplicates"], summary["parts"]) == (2, {"demonstrations": 2})


def test_limit_counts_records_and_stops_reading(bench: Bench) -> None:
    path = bench.write("a.jsonl", [*demos("abc"), "{broken\n"])
    bench.check(format="prompt_completion", files=path, limit=2)
    summary = bench.summary(format={"name": "prompt_completion", "also_prompts": True}, files=path, limit=2)
    assert summary["parts"] == {"demonstrations": 2, "prompts": 2}


def test_held_out_prompts_are_never_split(bench: Bench) -> None:
    prompts = [f"prompt {n % 50}" for n in range(400)]
    chats = [{"prompt": [{"role": "user", "content": p}], "completion": "x"} for p in prompts]
    path = bench.write("a.jsonl", demos(prompts))
    summary = bench.summary(format={"name": "prompt_completion", "also_prompts": True}, files=path, heldout=0.2)
    train, held = ({r["prompt"] for r in bench.read(f"{side}demonstrations.jsonl")} for side in ("", "heldout_"))
    assert train | held == set(prompts)
    assert not train & held
    assert 3 <= len(held) <= 20
    assert {r["prompt"] for r in bench.read("heldout_prompts.jsonl")} == held
    assert summary["heldout"]["demonstrations"] + summary["parts"]["demonstrations"] == 400
    other = bench.summary(format="prompt_completion", files=path, heldout=0.2, heldout_seed=1)
    assert {r["prompt"] for r in bench.read("heldout_demonstrations.jsonl")} != held
    assert other["rows"] == len(chats)


def test_turns_of_one_dialogue_are_on_one_side() -> None:
    splitter = Splitter(0.5, 0, "prompt")
    for n in range(40):
        first = [{"role": "system", "content": "S"}, {"role": "user", "content": f"Q{n}"}]
        later = [*first, {"role": "assistant", "content": "A"}, {"role": "user", "content": "more"}]
        sides = {splitter.side(Prompt.model_validate({"prompt": p})) for p in (first, later)}
        assert len(sides) == 1


texts = st.sampled_from([f"sentence {n}" for n in range(12)])


@given(pairs=st.lists(st.tuples(texts, texts), max_size=40), seed=st.integers(0, 5), share=st.floats(0.1, 0.9))
def test_no_text_of_a_pair_is_on_both_sides(pairs: list[tuple[str, str]], seed: int, share: float) -> None:
    splitter = Splitter(share, seed, "text")
    sides: dict[str, set[str]] = {"train": set(), "heldout": set(), "dropped": set()}
    for a, b in pairs:
        sides[splitter.side(PreferencePair(prompt="", chosen=a, rejected=b))] |= {a, b}
        # The same sentence as a document follows its pairs.
        if splitter.side(Text(text=a)) == "heldout":
            sides["heldout"].add(a)
    assert not sides["train"] & sides["heldout"]


def test_pairs_over_the_border_are_counted(bench: Bench) -> None:
    rows = [{"prompt": "", "chosen": f"t{n}", "rejected": f"t{m}"} for n in range(12) for m in range(n)]
    path = bench.write("a.jsonl", rows)
    summary = bench.summary(format="preference", files=path, heldout=0.4, heldout_by="text")
    assert summary["left_out_by_split"] > 0
    assert summary["left_out_by_split"] + summary["parts"]["preferences"] + summary["heldout"]["preferences"] == 66


def test_labelled_completions_are_split_by_prompt_or_by_their_text(bench: Bench) -> None:
    rows = [{"prompt": f"q{n % 40}", "completion": f"a{n % 7}", "label": n % 3 == 0} for n in range(200)]
    path = bench.write("a.jsonl", rows)
    for by, field in (("prompt", "prompt"), ("text", "completion")):
        summary = bench.summary(format="labelled", files=path, heldout=0.4, heldout_by=by)
        train, held = ({r[field] for r in bench.read(f"{side}labels.jsonl")} for side in ("", "heldout_"))
        assert train
        assert held
        assert not train & held
        assert summary["parts"]["labels"] + summary["heldout"]["labels"] == 200
    assert {r["label"] for r in bench.read("labels.jsonl")} == {True, False}


def other_step(bench: Bench, **parts: list[Any]) -> None:
    for part, rows in parts.items():
        bench.context.references[f"@other.{part}"] = Path(bench.write(f"other_{part}.jsonl", rows))


def test_parts_of_another_step_are_joined_without_a_leak(bench: Bench) -> None:
    other_step(
        bench,
        demonstrations=[{"prompt": "c", "completion": "of other"}],
        heldout_demonstrations=[{"prompt": "a", "completion": "of other"}],
        prompts=[{"prompt": "p"}],
    )
    path = bench.write("a.jsonl", demos("ab"))
    summary = bench.summary(format="prompt_completion", files=path, parts_from=["@other"])
    assert summary["parts"] == {"demonstrations": 2, "prompts": 1}
    assert [r["prompt"] for r in bench.read("demonstrations.jsonl")] == ["b", "c"]
    # "a" is held out there, so it is held out here.
    assert [r["completion"] for r in bench.read("heldout_demonstrations.jsonl")] == ["answer 0", "of other"]


def test_one_part_of_another_step(bench: Bench) -> None:
    other_step(bench, demonstrations=[{"prompt": "c", "completion": "x"}], prompts=[{"prompt": "p"}])
    path = bench.write("a.jsonl", demos("ab"))
    summary = bench.summary(format="prompt_completion", files=path, parts_from=["@other.prompts"])
    assert summary["parts"] == {"demonstrations": 2, "prompts": 1}
    with pytest.raises(UserError, match="'tasks' holds no records"):
        bench.run(format="prompt_completion", files=path, parts_from=["@other.tasks"])
    with pytest.raises(UserError, match="@nothing has no records"):
        bench.run(format="prompt_completion", files=path, parts_from=["@nothing"])


def test_generated_parts_go_where_the_format_says(bench: Bench) -> None:
    film = {"name": "film_world", "rows": 30, "prompts": 10, "test_prompts": 4}
    bench.check(format=film)
    out = bench.run(format=film)
    assert out.outputs["heldout_prompts"] == "heldout_prompts.jsonl"
    assert out.summary["data"]["corpus"]["parts"] == {"texts": 30, "demonstrations": 30, "prompts": 10}
    assert out.summary["data"]["corpus"]["heldout"] == {"prompts": 4}


def test_a_share_that_holds_out_nothing_or_everything_is_reported(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    path = bench.write("a.jsonl", demos("a"))
    with caplog.at_level(logging.WARNING):
        bench.run(format="prompt_completion", files=path, heldout=1e-9)
    assert "no demonstrations are held out" in caplog.text
    with pytest.raises(UserError, match="all demonstrations are held out"):
        bench.run(format="prompt_completion", files=path, heldout=0.999999999)


def test_a_held_out_part_that_a_later_step_reads_may_not_be_empty(bench: Bench) -> None:
    bench.context.recipe.steps = (SimpleNamespace(options={"prompts": "@corpus.heldout_demonstrations"}),)
    path = bench.write("a.jsonl", demos("a"))
    with pytest.raises(UserError, match="a later step reads heldout_demonstrations"):
        bench.run(format="prompt_completion", files=path, heldout=1e-9)


def test_config_takes_one_file_or_several() -> None:
    one = DataConfig.model_validate({"format": "text", "files": "a.txt"})
    two = DataConfig.model_validate({"format": "text", "files": ["a.txt", "b.txt"]})
    assert (one.sources, two.sources) == (("a.txt",), ("a.txt", "b.txt"))


def test_skipping_is_no_advice_for_a_file_or_where_most_rows_are_bad(bench: Bench) -> None:
    good, bad = demos("abcd"), [{"prompt": "x"}] * 5
    path = bench.write("a.jsonl", [*good, *bad])
    array = bench.write("b.jsonl", ["[\n", json.dumps(good[0]), "\n]\n"])
    for files, rest in (([path], "is this the right format"), ([array], "rename, convert or mend the file")):
        with pytest.raises(UserError) as caught:
            bench.check(format="prompt_completion", files=files)
        assert str(caught.value.hint).startswith(rest)
    with pytest.raises(UserError) as caught:
        bench.run(format="prompt_completion", files=array)
    assert str(caught.value.hint).startswith("rename, convert or mend the file")
    bench.check(format="prompt_completion", files=[path], on_bad_row="skip", max_bad_share=0.6)
    with pytest.raises(UserError, match="too many bad rows: 5 of 9 rows"):
        bench.check(format="prompt_completion", files=[path], on_bad_row="skip")


def test_the_advice_for_an_empty_prompt_is_one_that_helps(bench: Bench) -> None:
    other_step(bench, prompts=[{"prompt": ""}])
    path = bench.write("a.jsonl", demos("ab"))
    with pytest.raises(UserError, match=r"rows are split by their prompts$") as caught:
        bench.run(format="prompt_completion", files=path, parts_from=["@other"], heldout=0.5)
    assert "heldout_by" not in caught.value.what
