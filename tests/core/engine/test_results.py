"""What a finished step has left is noticed when it is not what it was."""

from pathlib import Path
from typing import Any

import pytest

from alignkit import Fault, UserError, hookimpl
from alignkit.checkpoints import Checkpoints
from alignkit.engine.results import damage, listed
from alignkit.recipe.model import CheckpointOptions


def change(path: Path) -> None:
    path.write_bytes(bytes(reversed(path.read_bytes())))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.fixture
def result(tmp_path: Path) -> Path:
    (tmp_path / "model" / "adapter").mkdir(parents=True)
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"abc")
    (tmp_path / "model" / "adapter" / "weights.safetensors").write_bytes(b"de")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "findings.json").write_text("{}")
    return tmp_path


def test_files_of_the_parts_and_the_metrics_are_listed_and_no_others(result: Path) -> None:
    files = listed(result, {"": ".", "policy": "model", "model": "model"})
    assert list(files) == ["metrics.jsonl", "model/adapter/weights.safetensors", "model/weights.safetensors"]
    assert files["model/weights.safetensors"] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert damage(result, files) is None


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Path.unlink, "model/weights.safetensors is missing"),
        (lengthen, "model/weights.safetensors has 4 bytes instead of 3"),
        (change, "the content of model/weights.safetensors was changed"),
    ],
)
def test_any_damage_has_the_file_s_name(harm: Any, said: str, result: Path) -> None:
    files = listed(result, {"": "model"})
    harm(result / "model" / "weights.safetensors")
    assert damage(result, files) == said


def test_the_content_of_very_large_files_is_not_read(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = listed(result, {"": "model"})
    monkeypatch.setattr("alignkit.engine.results.HASHED_BYTES", 2)
    change(result / "model" / "weights.safetensors")
    assert damage(result, files) is None


@pytest.mark.parametrize("harm", [Path.unlink, change])
def test_a_result_that_is_not_what_it_was_is_named(harm: Any, bench: Any) -> None:
    bench.recipe("id: a, step: write", "id: b, step: write, source: '@a'")
    bench.run()
    harm(bench.run_folder / "r1" / "01-a" / "text.txt")
    bench.runs()
    with pytest.raises(UserError, match=r"the result of step 'a' of round 1 is not what it was.*text.txt") as caught:
        bench.run()
    assert "--from a does this step" in str(caught.value.hint)
    assert bench.runs() == []
    bench.run(start_from="a")
    assert bench.runs() == ["a/1", "b/1"]
    bench.run()


def test_it_is_not_taken_over(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    bench.recipe("id: a, step: write", "id: b, step: write")
    bench.run()
    other = bench.folder / "other"
    bench.run_folder.rename(other)
    change(other / "r1" / "01-a" / "text.txt")
    bench.runs()
    with caplog.at_level("WARNING", "alignkit"):
        bench.run(reuse=[other])
    assert bench.runs() == ["a/1"]
    assert "01-a is not taken over: the content of text.txt was changed" in caplog.text


def test_a_folder_that_goes_away_ends_the_run(bench: Any) -> None:
    class Mover:
        """Moves the run while its step works."""

        @hookimpl
        def alignkit_step_start(self, step_id: str) -> None:
            if step_id == "b":
                bench.run_folder.rename(bench.folder / "moved")
                bench.run_folder.mkdir()
                (bench.run_folder / "r1" / "02-b").mkdir(parents=True)

    bench.extra["mover"] = Mover()
    bench.recipe("id: a, step: write", "id: b, step: write")
    with pytest.raises(Fault, match="the run's folder is gone"):
        bench.run()
    assert not (bench.run_folder / "r1" / "02-b" / "manifest.json").exists()
    assert not (bench.run_folder / "summary.json").exists()


def test_a_checkpoint_is_not_written_where_the_run_was(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "gone" / "checkpoints", CheckpointOptions(seconds=None, steps=1))
    with pytest.raises(Fault, match="the step's folder is gone"), checkpoints.loop() as loop:
        loop.safe_point(1, lambda: {})
    assert not (tmp_path / "gone").exists()
