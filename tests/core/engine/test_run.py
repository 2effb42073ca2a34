"""Finished steps are never repeated; a changed recipe over an old run is refused before anything is touched."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from alignkit import UserError

A, B, C = "id: a, step: write", 'id: b, step: write, source: "@a", text: two', 'id: c, step: write, source: "@b"'


def test_steps_run_once_in_order_and_leave_their_books(bench: Any) -> None:
    bench.recipe(A, B, C)
    summary = bench.run()
    assert bench.runs() == ["a/1", "b/1", "c/1"]
    assert bench.text("r1/03-c") == "hello1>two1>hello1"
    manifest = bench.json("r1/02-b/manifest.json")
    assert manifest["status"] == "finished"
    assert manifest["identity"]["inputs"] == {"@a": bench.json("r1/01-a/manifest.json")["hash"]}
    assert manifest["identity"]["components"]["step:test-dist:write"] == "1.0"
    assert summary == bench.json("summary.json")
    assert (bench.run_folder / "report.html").is_file()
    plugins = bench.json("plugins.json")["plugins"]
    row = next(p for p in plugins if p["name"] == "steps")
    assert (row["distribution"], row["version"], row["status"], row["problem"]) == ("test-dist", "1.0", "ok", None)


def test_a_second_run_repeats_nothing_and_leaves_results_alone(bench: Any) -> None:
    bench.recipe(A, B)
    bench.run()
    bench.runs()
    before = bench.files()
    bench.run()
    assert bench.runs() == []
    after = bench.files()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == set()


CHANGES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "option": (("b.text=three",), "b.text changed from 'two' to 'three'", "command line"),
    "policy": (("policy.size=2",), "policy.size of step 'a' changed from None to 2", "command line"),
    "seed": (("seed=1",), "the seed of the recipe changed", "small.yaml:5"),
    "kernels": (("kernels=eager",), "kernels of step 'a' changed from 'auto' to 'eager'", "small.yaml:5"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changed_option_is_refused_and_nothing_on_disk_changes(case: str, bench: Any) -> None:
    overrides, text, where = CHANGES[case]
    bench.recipe(A, B)
    bench.run()
    before = bench.files()
    with pytest.raises(UserError, match="holds the old result") as caught:
        bench.run(*overrides)
    assert text in caught.value.what
    assert str(caught.value.where).endswith(where)
    assert "name=NEW" in str(caught.value.hint)
    assert bench.files() == before


def test_a_changed_key_in_the_file_is_named_with_its_line(bench: Any) -> None:
    bench.recipe(A, B)
    bench.run()
    path = bench.recipe(A, B.replace("two", "three"))
    with pytest.raises(UserError) as caught:
        bench.run()
    assert caught.value.where == f"{path}:6"
    assert "--from b" in str(caught.value.hint)


def test_a_new_plugin_version_is_a_change(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.recipe(A)
    bench.run()
    old = bench.manager

    def newer() -> Any:
        manager = old()
        entry = manager._components["step", "write"][0]
        manager._components["step", "write"] = [type(entry)(entry.kind, entry.component, "steps", "test-dist", "2.0")]
        return manager

    monkeypatch.setattr(bench, "manager", newer)
    with pytest.raises(UserError, match=r"test-dist:write of step 'a' changed from '1.0' to '2.0'"):
        bench.run()


def test_name_starts_another_run_beside_the_old_one(bench: Any) -> None:
    bench.recipe(A, B)
    bench.run()
    before = bench.text("r1/02-b")
    bench.run("b.text=three", "name=other")
    assert bench.text("r1/02-b") == before
    assert (bench.folder / "runs/other/r1/02-b/text.txt").read_text() == "hello1>three1"


def test_from_does_this_step_and_all_later_ones_again(bench: Any) -> None:
    bench.recipe(A, B, C)
    bench.run()
    bench.runs()
    kept = bench.files()["runs/small/r1/01-a/manifest.json"]
    bench.run("b.text=three", start_from="b")
    assert bench.runs() == ["b/1", "c/1"]
    assert bench.text("r1/03-c") == "hello1>three1>hello1"
    assert bench.files()["runs/small/r1/01-a/manifest.json"] == kept


def test_from_leaves_steps_whose_id_ends_alike(bench: Any) -> None:
    bench.recipe("id: x-b, step: write", "id: b, step: write")
    bench.run()
    bench.runs()
    bench.run(start_from="b")
    assert bench.runs() == ["b/1"]


def test_from_with_a_change_before_it_changes_nothing(bench: Any) -> None:
    bench.recipe(A, B, C)
    bench.run()
    before = bench.files()
    with pytest.raises(UserError, match=r"a\.text changed from"):
        bench.run("a.text=new", start_from="c")
    assert bench.files() == before
    with pytest.raises(UserError, match="no step 'nobody' in the recipe"):
        bench.run(start_from="nobody")
    assert bench.files() == before


def test_from_forgets_later_rounds_and_no_folder_of_the_user(bench: Any) -> None:
    bench.recipe(A + ", each_round: true", B, top="rounds: 2")
    bench.run()
    bench.runs()
    mine = bench.run_folder / "r2d2"
    mine.mkdir()
    (mine / "01-a").mkdir()
    bench.run(start_from="b")
    assert bench.runs() == ["b/1", "a/2"]
    assert (mine / "01-a").is_dir()


def test_from_mends_a_damaged_manifest(bench: Any) -> None:
    bench.recipe(A, B)
    bench.run()
    path = bench.run_folder / "r1/02-b/manifest.json"
    for damage in ("{", "{}", '{"a": 1}', "[]"):
        path.write_text(damage)
        with pytest.raises(UserError, match="the manifest is damaged") as caught:
            bench.run()
        assert "--from b" in str(caught.value.hint)
    bench.runs()
    bench.run(start_from="b")
    assert bench.runs() == ["b/1"]


def test_an_input_file_with_other_content_is_noticed(bench: Any) -> None:
    file = bench.folder / "input.txt"
    file.write_text("one")
    bench.recipe(f"id: a, step: write, file: {file}")
    bench.run()
    os.utime(file, (1, 1))
    bench.run()
    assert bench.runs() == ["a/1"]
    file.write_text("two")
    with pytest.raises(UserError, match=r"input\.txt of step 'a' has another content"):
        bench.run()
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        bench.run()


def test_a_file_that_may_grow_is_no_input(bench: Any) -> None:
    file = bench.folder / "judgements.jsonl"
    file.write_text("one")
    bench.recipe(f"id: a, step: write, growing: {file}")
    bench.run()
    file.write_text("one\ntwo")
    bench.run()
    assert bench.runs() == ["a/1"]
    assert bench.json("r1/01-a/manifest.json")["identity"]["files"] == {}


def test_a_folder_called_like_a_component_is_no_input(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.folder)
    names = ("write", "stub", "gae")
    for name in names:
        (bench.folder / name).mkdir()
    bench.recipe(A + ", inner: gae")
    bench.run()
    for name in names:
        (bench.folder / name / "file.txt").write_text("x")
    bench.run()
    assert bench.runs() == ["a/1"]


def test_an_equal_number_written_otherwise_is_no_change(bench: Any) -> None:
    bench.recipe(A + ", rows: 2")
    bench.run()
    bench.recipe(A + ", rows: 2.0")
    bench.run()
    assert bench.runs() == ["a/1"]


def test_appended_steps_go_on(bench: Any) -> None:
    bench.recipe(A, B)
    bench.run()
    bench.runs()
    bench.recipe(A, B, C)
    bench.run()
    assert bench.runs() == ["c/1"]


@pytest.mark.parametrize("steps", [(A, C.replace("@b", "@a"), B), (B.replace('source: "@a", ', ""), A), (A,)])
def test_inserted_moved_or_removed_steps_are_refused(steps: tuple[str, ...], bench: Any) -> None:
    bench.recipe(A, B)
    bench.run()
    before = bench.files()
    bench.recipe(*steps)
    with pytest.raises(UserError, match="which the recipe does not have") as caught:
        bench.run()
    assert "name=NEW" in str(caught.value.hint)
    after = bench.files()
    assert {k: v for k, v in after.items() if k != "small.yaml"} == {
        k: v for k, v in before.items() if k != "small.yaml"
    }


def test_an_inserted_step_with_from(bench: Any) -> None:
    bench.recipe(A, B)
    bench.run()
    bench.runs()
    bench.recipe(A, C.replace("@b", "@a"), B)
    bench.run(start_from="c")
    assert bench.runs() == ["c/1", "b/1"]
    assert sorted(p.name for p in (bench.run_folder / "r1").iterdir()) == ["01-a", "02-c", "03-b"]


@pytest.mark.concurrent
def test_two_runs_in_one_folder_at_a_time_are_refused(bench: Any) -> None:
    bench.recipe(A)
    bench.run()
    before = bench.files()
    with (bench.run_folder / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another alignkit run works in this folder"):
            bench.run()
        assert bench.files() == before
        bench.run("name=other")
    bench.run()


BAD = {
    "unknown option": ("a.txet=1",),
    "unknown step": ("a.step=nothing",),
    "missing file": ("a.file=/nowhere/x",),
    "device": ("device=warp",),
    "no cuda": ("device=cuda",),
    "kernel": ("kernels=nobody",),
    "bad name": ("name=../x",),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_leaves_no_trace(case: str, bench: Any) -> None:
    import torch

    if case == "no cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    bench.recipe(A)
    with pytest.raises(UserError):
        bench.run(*BAD[case])
    assert sorted(bench.files()) == ["small.yaml"]
    assert bench.runs() == []


def test_output_that_cannot_be_written(bench: Any) -> None:
    bench.recipe(A)
    (bench.folder / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write there"):
        bench.run(f"output={bench.folder / 'file'}")


def test_a_result_that_is_not_there_yet_is_a_users_mistake(bench: Any) -> None:
    bench.recipe(A, 'id: b, step: write, source: "@latest"')
    with pytest.raises(UserError, match="@latest has no result yet"):
        bench.run()
    bench.recipe(A, 'id: b, step: write, source: "@a.nothing"')
    with pytest.raises(UserError, match=r"step 'a' has no part 'nothing'"):
        bench.run("name=parts")


def test_hidden_leftovers_are_not_steps(bench: Any) -> None:
    bench.recipe(A)
    bench.run()
    for name in (".01-a.tmp", "notes"):
        Path(bench.run_folder / "r1" / name).mkdir()
    bench.run()
    assert bench.runs() == ["a/1"]
