"""`stats`, `compare` and `calibrate`: what they print is what one counts, and nothing of a text becomes markup."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from alignkit.annotation.reading import read_feedback
from alignkit.components import Component, NoConfig
from alignkit.data.store import write_records
from alignkit.errors import UserError
from alignkit.manager import PluginManager, PluginStatus
from alignkit.records import Annotator, Binary, Evidence, Judgement, Pairwise, Rating, Task
from helpers.feedback import make_task, prefers, ranks, said

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(tasks: list[Task], judgements: list[Judgement], name: str = "people") -> Path:
        write_records(tmp_path / name / "tasks.jsonl", tasks)
        write_records(tmp_path / name / "judgements.jsonl", judgements)
        return tmp_path / name

    return write


TASKS = [make_task(f"t{n}", "a longer text", "short") for n in range(4)]


def people() -> list[Judgement]:
    return [prefers(f"t{n}", float(n != 3), who) for n in range(4) for who in ("A", "B")]


class TestStats:
    def test_counts(self, run: Any, save: Save) -> None:
        old = prefers("t0", 0.0, "C")
        shown = {"presented_order": ("t0a", "t0b")}
        judgements = [*people(), old, prefers("t0", 1.0, "C", supersedes=old.id, **shown)]
        judgements += [said("t1", None, "ai", "model", status="refusal"), ranks("t2", "a", "b", who="D")]
        figures = json.loads(run("stats", save(TASKS, judgements), "--json").stdout)
        assert figures["forms"] == {"pairwise": 9, "ranking": 1}
        assert figures["status"] == {"ok": 10, "refusal": 1}
        assert (figures["judgements"], figures["superseded"], figures["annotators"]) == (11, 1, 5)
        assert figures["kinds"] == {"human": 4, "model": 1}
        assert figures["answers_per_task"] == {"2": 2, "3": 2}
        assert figures["agreement"]["preference"]["raw"] == 1.0
        assert figures["length_preference"]["share"] == 0.8
        assert figures["position_preference"]["n"] == 1
        assert figures["gold_accuracy"] == {}

    def test_a_table_that_prints_names_as_they_are(self, run: Any, save: Save) -> None:
        tasks = [make_task("t", "x", "y", gold=Pairwise(a="ta", b="tb", p_a=1.0))]
        result = run("stats", save(tasks, [prefers("t", 1.0, "[red]Eve[/red]")]))
        assert result.exit_code == 0
        assert "[red]Eve[/red]" in result.stdout
        assert "no item has two annotators" in result.stdout


class TestCompare:
    def test_figures_and_disagreements(self, run: Any, save: Save) -> None:
        judge = [prefers(f"t{n}", p, "ai", kind="model") for n, p in enumerate((0.9, 0.8, 0.3, 0.6))]
        judge[0] = judge[0].model_copy(update={"evidence": Evidence(p_given=0.9, p_swapped=0.4)})
        first, second = save(TASKS, people()), save(TASKS, judge, "judge")
        figures = json.loads(run("compare", first, second, "--json").stdout)
        assert (figures["first"], figures["second"], figures["items"]) == ("people", "judge", 4)
        assert figures["accuracy"]["share"] == figures["same"]["share"] == 0.5
        assert figures["longest"]["share"] == 0.75
        assert figures["swap_consistency"]["share"] == 0.0
        assert [d["task_id"] for d in figures["disagreements"]] == ["t2", "t3"]
        table = run("compare", first, second).stdout
        assert "50.0 % (15.0 to 85.0 %, 4 cases)" in table

    def test_ratings_compare_too(self, run: Any, save: Save) -> None:
        values = {"t0": (5, 2), "t1": (3, 3), "t2": (1, 4)}
        judge = [
            said(task, Rating(candidate=f"{task}{letter}", value=value), "ai")
            for task, own in values.items()
            for letter, value in zip("ab", own, strict=True)
        ]
        figures = json.loads(run("compare", save(TASKS, people()), save(TASKS, judge, "judge"), "--json").stdout)
        assert (figures["items"], figures["accuracy"]["n"], figures["ties_second"]) == (3, 2, 1)
        assert figures["accuracy"]["share"] == 0.5

    def test_one_annotator_of_the_second(self, run: Any, save: Save) -> None:
        judge = [prefers(f"t{n}", p, who) for n in range(4) for who, p in (("good", float(n != 3)), ("bad", 0.0))]
        first, second = save(TASKS, people()), save(TASKS, judge, "judge")
        shares = [
            json.loads(run("compare", first, second, "--annotator", who, "--json").stdout)["accuracy"]["share"]
            for who in ("good", "bad")
        ]
        assert shares == [1.0, 0.25]
        with pytest.raises(UserError, match="did you mean 'good'"):
            run("compare", first, second, "--annotator", "goof")

    def test_nobody_is_held_against_himself(self, run: Any, save: Save) -> None:
        # two people who differ throughout, and a judge who says what the one says, in one folder
        both = [prefers(f"t{n}", float(who == "A"), who) for n in range(4) for who in ("A", "B")]
        both += [prefers(f"t{n}", 1.0, "ai", kind="model") for n in range(4)]
        place = save(TASKS, both)
        result = run("compare", place, place, "--annotator", "A", "--json")
        figures = json.loads(result.stdout)
        assert (figures["accuracy"]["share"], figures["left_out_of_first"]) == (0.0, 8)
        assert "left out of" in result.stderr
        result = run("compare", place, place, "--annotator", "ai", "--json")
        figures = json.loads(result.stdout)
        assert (figures["accuracy"], figures["left_out_of_first"]) == (None, 4)  # the people are divided
        with pytest.raises(UserError, match="no judgement to hold"):
            run("compare", place, place)

    def test_one_name_is_two_annotators_if_one_is_a_model(self, run: Any, save: Save) -> None:
        first = save(TASKS, [prefers(f"t{n}", 1.0, "imported") for n in range(4)])
        second = save(TASKS, [prefers(f"t{n}", 1.0, "imported", kind="model") for n in range(4)], "judge")
        assert json.loads(run("compare", first, second, "--json").stdout)["items"] == 4

    def test_a_page_escapes_everything(self, run: Any, save: Save, tmp_path: Path) -> None:
        evil = '<script>alert("x")</script>{{ 7 * 7 }}'
        tasks = [make_task("t", evil, "y", prompt=f"{evil}prompt")]
        first = save(tasks, [prefers("t", 1.0)])
        second = save(tasks, [prefers("t", 0.0, "<b>ai</b>")], "judge")
        page_file = tmp_path / "page.html"
        run("compare", first, second, "--annotator", "<b>ai</b>", "--html", page_file)
        page = page_file.read_text()
        assert "<script" not in page
        assert "<b>ai" not in page
        assert page.count("&lt;script&gt;alert") == 2
        assert "{{ 7 * 7 }}" in page
        assert "http" not in page.replace("http-equiv", "")
        assert "preferred by &lt;b&gt;ai&lt;/b&gt;" in page

    def test_nothing_in_common(self, run: Any, save: Save) -> None:
        first = save(TASKS, people())
        other = save([make_task("u", "x", "y")], [prefers("u", 1.0)], "other")
        with pytest.raises(UserError, match="no task in common"):
            run("compare", first, other)
        changed = save([make_task("t0", "x", "another")], [prefers("t0", 1.0)], "changed")
        with pytest.raises(UserError, match="different candidates"):
            run("compare", first, changed)
        silent = save(TASKS, [said("t0", None, "ai", "model", status="api_error")], "silent")
        with pytest.raises(UserError, match="without an answer: api_error 1"):
            run("compare", first, silent)


class Longest:
    """A judge who likes the longer text and does not understand one task."""

    seen: Sequence[Task] = ()
    folder = Path("unknown")

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        type(self).seen = tasks
        for task in tasks:
            a, b = task.candidates
            who = Annotator(id="longest", kind="model")
            if task.id == "t1":
                yield Judgement(id="x", task_id=task.id, annotator=who, status="parse_error")
                continue
            p = 0.9 if len(a.completion) > len(b.completion) else 0.1
            yield Judgement(id=task.id, task_id=task.id, annotator=who, payload=Pairwise(a=a.id, b=b.id, p_a=p))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward source `longest` of a stranger's plugin."""
    from alignkit import hookimpl

    def build(config: Any, context: Any) -> Longest:
        Longest.folder = context.run.folder
        return Longest()

    class Plugin:
        @hookimpl
        def alignkit_reward_sources(self) -> list[Component]:
            return [Component("longest", build, NoConfig)]

    load = PluginManager.load

    def with_stub(self: PluginManager, *args: Any, **more: Any) -> None:
        load(self, *args, **more)
        self.register(Plugin(), PluginStatus("stub", "stub", "1"))

    monkeypatch.setattr(PluginManager, "load", with_stub)


@pytest.mark.usefixtures("stub")
class TestCalibrate:
    def test_holds_the_judge_against_people(self, run: Any, save: Save, tmp_path: Path) -> None:
        machine = prefers("t0", 0.0, "bot", kind="program")
        tasks = [task.model_copy(update={"overlap": 2}) for task in [*TASKS, make_task("u", "never", "asked")]]
        place = save(tasks, [*people(), machine])
        flags = ("--judge", "name=longest", "--to", tmp_path / "kept", "--html", tmp_path / "page.html", "--json")
        figures = json.loads(run("calibrate", place, *flags).stdout)
        assert [(task.id, task.overlap, task.gold) for task in Longest.seen] == [(f"t{n}", 1, None) for n in range(4)]
        assert figures["judge"] == {"name": "longest"}
        assert (figures["accuracy"]["share"], figures["accuracy"]["n"]) == (pytest.approx(2 / 3), 3)
        assert figures["longest"]["share"] == pytest.approx(2 / 3)
        assert figures["failures"] == {"parse_error": 1}
        # confidence 0.9 three times, right twice
        assert figures["ece"] == pytest.approx(0.9 - 2 / 3)
        assert len(read_feedback(tmp_path / "kept").judgements) == 4
        assert "longest" in (tmp_path / "page.html").read_text()

    def test_limit(self, run: Any, save: Save) -> None:
        figures = json.loads(
            run("calibrate", save(TASKS, people()), "--judge", "name=longest", "--limit", "1", "--json").stdout
        )
        assert figures["items"] == 1

    def test_a_limit_is_a_sample_by_seed(self, run: Any, save: Save) -> None:
        tasks = [make_task(f"t{n}", "a longer text", "short") for n in range(40)]
        place = save(tasks, [prefers(task.id, 1.0) for task in tasks])
        samples = []
        for seed in (0, 0, 1):
            run("calibrate", place, "--judge", "name=longest", "--limit", "10", "--seed", seed)
            samples.append([task.id for task in Longest.seen])
        assert samples[0] == samples[1] != samples[2]
        assert all(len(set(sample)) == 10 and sample != [t.id for t in tasks[:10]] for sample in samples)

    def test_asks_only_what_people_compared_in_the_end(self, run: Any, save: Save) -> None:
        undone = prefers("t0", 1.0, "A")
        judgements = [
            undone, said("t0", None, "A", status="skipped", supersedes=undone.id),
            said("t1", Binary(candidate="t1a", good=True), "A"),
            said("t2", Rating(candidate="t2a", value=3), "A"),
            said("t3", Rating(candidate="t3a", value=3), "A"), said("t3", Rating(candidate="t3b", value=5), "A"),
        ]  # fmt: skip
        run("calibrate", save(TASKS, judgements), "--judge", "name=longest")
        assert [task.id for task in Longest.seen] == ["t3"]

    @pytest.mark.parametrize("to", [(), ("--to", "kept")])
    def test_what_a_judge_keeps_is_in_the_current_folder(
        self, run: Any, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: tuple[str, ...]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run("calibrate", save(TASKS, people()), "--judge", "name=longest", *to)
        assert (Longest.folder / "judge_cache.sqlite").resolve() == tmp_path / "judge_cache.sqlite"

    def test_a_recipes_judge(self, run: Any, save: Save, tmp_path: Path) -> None:
        recipe = tmp_path / "r.yaml"
        recipe.write_text(
            "name: r\nvars: {judge: longest, other: {name: length, coef: 1.0}}\npolicy: {name: causal_lm, path: x}\n"
            "steps:\n  - {id: corpus, step: data, format: prompts, files: x.jsonl}\n"
            "  - {id: labels, step: collect, prompts: '@corpus', reward_source: $judge}\n"
        )
        recipe.with_name("x.jsonl").write_text('{"prompt": "p"}\n')
        place = save(TASKS, people())
        for more in ((), ("--source", "judge")):
            figures = json.loads(run("calibrate", place, "--recipe", recipe, *more, "--json").stdout)
            assert figures["second"] == "longest"
        with pytest.raises(UserError, match="gives scores, not judgements"):
            run("calibrate", place, "--recipe", recipe, "--source", "other")
        with pytest.raises(UserError, match="did you mean 'judge'"):
            run("calibrate", place, "--recipe", recipe, "--source", "juge")

    @pytest.mark.parametrize(
        ("flags", "problem"),
        [
            ((), "give either --judge"),
            (("--judge", "name=human"), "asks people"),
            (("--judge", "longest"), "not KEY=VALUE"),
            (("--judge", "name=nobody"), "no reward source 'nobody'"),
            (("--judge", "name=longest", "--judge", "x=1"), "unknown key"),
        ],
    )
    def test_mistakes(self, run: Any, save: Save, flags: tuple[str, ...], problem: str) -> None:
        with pytest.raises(UserError, match=problem):
            run("calibrate", save(TASKS, people()), *flags)

    def test_without_people(self, run: Any, save: Save) -> None:
        place = save(TASKS, [prefers("t0", 1.0, "bot", kind="program")])
        with pytest.raises(UserError, match="no person compared candidates here; annotators are of the kind program"):
            run("calibrate", place, "--judge", "name=longest")


def test_registering_imports_nothing_heavy() -> None:
    code = (
        "import sys, alignkit_plugins.command_feedback.plugin as p; p.build(None, None);"
        "heavy = {'torch', 'transformers', 'sklearn', 'krippendorff', 'scipy', 'sqlalchemy', 'pyarrow'};"
        "heavy &= set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
