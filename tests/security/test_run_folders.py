"""Run folders of strangers: nothing outside of them is written, removed or shown, and what they say is checked."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from alignkit import UserError
from alignkit.cli import main
from alignkit.engine.ledger import Ledger
from alignkit.engine.lock import locked
from alignkit.files import read_json, remove_left_overs, require_plain_files
from alignkit.protocols import StepOutput

MANIFEST: dict[str, Any] = {
    "id": "a", "round": 1, "hash": "h", "identity": {}, "status": "finished", "started": "now", "seconds": 1.0,
    "outputs": {"": "."}, "summary": {},
}  # fmt: skip
RECIPE = """
name: x
output: {output}
policy: {{name: causal_lm, path: owner/name}}
steps:
  - {{id: a, step: data, format: prompts, files: {file}}}
"""


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the user's outside of any run."""
    (tmp_path / "precious" / "01-a").mkdir(parents=True)
    (tmp_path / "precious" / "01-a" / "notes.txt").write_text("mine")
    (tmp_path / "precious" / "notes.txt").write_text("mine")
    return tmp_path / "precious"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one finished step."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "x"}\n')
    (tmp_path / "r.yaml").write_text(RECIPE.format(output=tmp_path / "runs", file=tmp_path / "p.jsonl"))
    main(["run", str(tmp_path / "r.yaml")])
    return tmp_path / "runs" / "x"


def link_a_round(run: Path, precious: Path) -> None:
    (run / "r2").symlink_to(precious)


def link_a_step(run: Path, precious: Path) -> None:
    (run / "r1" / "02-b").symlink_to(precious)


def link_the_step_itself(run: Path, precious: Path) -> None:
    (run / "r1" / "01-a").rename(run.parent / "moved")
    (run / "r1" / "01-a").symlink_to(precious / "01-a")


def link_a_file(run: Path, precious: Path) -> None:
    (run / "r1" / "01-a" / "metrics.jsonl").symlink_to(precious / "notes.txt")


def link_what_is_left_over(run: Path, precious: Path) -> None:
    (run / ".x.tmp").symlink_to(precious)


def link_a_record(run: Path, precious: Path) -> None:
    (run / "summary.json").unlink()
    (run / "summary.json").symlink_to(precious / "notes.txt")


def link_to_nowhere(run: Path, precious: Path) -> None:
    (run / "annotations.sqlite").symlink_to(precious / "made-by-alignkit")


def link_in_a_circle(run: Path, precious: Path) -> None:
    (run / "one").symlink_to(run / "two")
    (run / "two").symlink_to(run / "one")


def link_through_a_link(run: Path, precious: Path) -> None:
    (run / "inner").mkdir()
    (run / "inner" / "up").symlink_to("../..")


def lay_a_pipe(run: Path, precious: Path) -> None:
    (run / "judge_cache.sqlite").unlink(missing_ok=True)
    os.mkfifo(run / "judge_cache.sqlite")


PLANTED: tuple[Callable[[Path, Path], None], ...] = (
    link_a_round, link_a_step, link_the_step_itself, link_a_file, link_what_is_left_over, link_a_record,
    link_to_nowhere,
    link_in_a_circle, link_through_a_link, lay_a_pipe,
)  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


@pytest.mark.parametrize("plant", PLANTED)
def test_links_out_of_the_folder_are_refused_before_anything_is_touched(
    plant: Callable[[Path, Path], None], run: Path, precious: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(run, precious)
    before = content(precious)
    for command in (
        ["run", str(tmp_path / "r.yaml")],
        ["run", str(tmp_path / "r.yaml"), "--from", "a"],
        ["report", str(run)],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        said = capsys.readouterr().err
        assert stop.value.code == 2, said
        assert "leads out" in said or "neither file nor folder" in said
        assert content(precious) == before
    with pytest.raises(UserError, match=r"leads out|neither file"):
        Ledger.of_existing_run(run)


def test_the_lock_is_no_link(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious / "made")
    with pytest.raises(UserError, match="cannot write there"), locked(tmp_path / "run"):
        pass
    assert not (precious / "made").exists()


def test_the_folder_itself_may_be_a_link_and_links_may_stay_inside(run: Path, tmp_path: Path) -> None:
    run.rename(tmp_path / "disk")
    run.symlink_to(tmp_path / "disk")
    (run / "latest").symlink_to("r1")
    require_plain_files(run)
    main(["run", str(tmp_path / "r.yaml")])
    main(["run", str(tmp_path / "r.yaml"), "--from", "a"])
    assert (tmp_path / "disk" / "r1" / "01-a" / "prompts.jsonl").is_file()


def test_left_overs_are_removed_without_following_links(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "run" / ".old.tmp").mkdir(parents=True)
    (tmp_path / "run" / ".link.tmp").symlink_to(precious)
    (tmp_path / "run" / "inside").symlink_to(precious)
    (precious / ".mine.tmp").write_text("mine")
    remove_left_overs(tmp_path / "run")
    assert not (tmp_path / "run" / ".old.tmp").exists()
    assert (precious / ".mine.tmp").exists()
    assert (precious / "notes.txt").exists()


def test_forgetting_follows_no_link(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "run" / "r1").mkdir(parents=True)
    (tmp_path / "run" / "r1" / "01-a").symlink_to(precious)
    before = content(precious)
    with suppress(UserError, OSError):
        Ledger(tmp_path / "run").forget(1)
    assert content(precious) == before


WRONG: dict[str, Any] = {
    "an output above": {"outputs": {"": "../../../precious"}},
    "an absolute output": {"outputs": {"": "/etc"}},
    "an output inside and out": {"outputs": {"": "x/../../.."}},
    "an output that is no text": {"outputs": {"": 1}},
    "outputs as list": {"outputs": ["x"]},
    "summary as list": {"summary": [1]},
    "seconds as text": {"seconds": "long"},
    "round as text": {"round": "1"},
    "unknown key": {"evil": 1},
    "a NUL": {"outputs": {"": "a\0b"}},
    "a file outside": {"files": {"../../other/secret": {"bytes": 1, "sha256": "0" * 64}}},
    "a file without checksum": {"files": {"model": {"bytes": 1}}},
    "files that are none": {"files": ["model"]},
}


@pytest.mark.parametrize("case", WRONG)
def test_manifests_are_checked(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "r1" / "01-a"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, **WRONG[case]}))
    for read in (lambda: Ledger(tmp_path / "run").read("a", 1, 1), lambda: Ledger.of_existing_run(tmp_path / "run")):
        with pytest.raises(UserError, match="manifest is damaged"):
            read()


BOMBS = {
    "nested lists": "[" * 200_000,
    "nested objects": '{"a":' * 100_000,
    "a long number": '{"seconds": ' + "1" * 100_000 + "}",
    "a number beyond all": json.dumps({**MANIFEST}).replace("1.0", "1e999"),
    "no UTF-8": b"\xff\xfe{}",
    "empty": "",
    "other JSON": "[1]",
}


@pytest.mark.parametrize("case", BOMBS)
def test_json_bombs_do_not_go_off(case: str, run: Path) -> None:
    bomb = BOMBS[case]
    raw = bomb if isinstance(bomb, bytes) else bomb.encode()
    for name in (
        "summary.json",
        "timing.json",
        "plugins.json",
        "r1/01-a/manifest.json",
        "r1/01-a/samples.jsonl",
        "r1/01-a/metrics.jsonl",
    ):
        (run / name).write_bytes(raw)
    main(["report", str(run)])
    if case != "a number beyond all":
        with pytest.raises(UserError):
            Ledger(run).read("a", 1, 1)


def test_reading_json_never_ends_in_a_recursion_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "x.json")


def test_a_sound_manifest_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "r1" / "01-a"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps({**MANIFEST, "outputs": {"": ".", "policy": "model", "x": "a/b..c"}})
    )
    record = Ledger(tmp_path / "run").read("a", 1, 1)
    assert record is not None
    assert record.finish(StepOutput({"": "."}, {}), 1, tmp_path).finished
