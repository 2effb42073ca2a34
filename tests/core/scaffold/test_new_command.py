"""`alignkit new plugin` on the command line."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from alignkit.cli import cli
from alignkit.commands.new import KINDS, plugin
from alignkit.errors import UserError
from alignkit.scaffold import VARIANTS
from alignkit.scaffold.variants import VARIANT_KINDS, variant_of


def new(*arguments: str, output: Path) -> Result:
    """The command's result; an error is in `exception`."""
    return CliRunner().invoke(cli, ["new", "plugin", *arguments, "--output", str(output)], standalone_mode=False)


@pytest.mark.parametrize("kind", KINDS)
def test_writes_and_says_what_to_do(kind: str, tmp_path: Path) -> None:
    result = new("alignkit-mine", "--kind", kind, output=tmp_path / "deep/er")
    assert result.exception is None
    folder = tmp_path / "deep/er/alignkit-mine"
    written = {line.removeprefix("wrote ") for line in result.output.splitlines() if line.startswith("wrote ")}
    assert written == {str(p) for p in folder.rglob("*") if p.is_file()}
    assert f"cd {folder}" in result.output
    assert "src/alignkit_mine/mine.py" in result.output


@pytest.mark.parametrize(
    ("options", "suite"),
    [
        (["--kind", "reward_source"], "ScoresContract"),
        (["--kind", "reward_source", "--reward-form", "judgements"], "AnnotatesContract"),
        (["--kind", "optimizer_stage"], "RolloutStageContract"),
        (["--kind", "optimizer_stage", "--learns-from", "records"], "DataStageContract"),
    ],
)
def test_forms(options: list[str], suite: str, tmp_path: Path) -> None:
    assert new("alignkit-mine", *options, output=tmp_path).exception is None
    assert f"({suite}):" in (tmp_path / "alignkit-mine/tests/test_conformance.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["alignkit-mine", "--kind", "advantage", "--reward-form", "scores"], "--reward-form has no meaning"),
        (["alignkit-mine", "--kind", "reward_source", "--learns-from", "records"], "--learns-from has no meaning"),
        (["gae", "--kind", "advantage"], "has the advantage 'gae' already"),
    ],
)
def test_mistakes(arguments: list[str], problem: str, tmp_path: Path) -> None:
    result = new(*arguments, output=tmp_path)
    assert isinstance(result.exception, UserError)
    assert problem in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_kinds_and_forms_are_those_that_have_templates() -> None:
    assert KINDS == VARIANT_KINDS
    offered = {(p.name, c) for p in plugin.params if p.name in ("reward_form", "learns_from") for c in p.type.choices}  # type: ignore[attr-defined]
    assert offered == {option for variant in VARIANTS for option in variant.options}
    assert len(VARIANTS) == 9
    for variant in VARIANTS:
        assert variant_of(variant.kind, **dict(variant.options)) == variant


def test_a_place_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "alignkit-mine").symlink_to("nowhere")
    for output in (tmp_path / "file" / "below", tmp_path):
        result = new("alignkit-mine", "--kind", "advantage", output=output)
        assert isinstance(result.exception, UserError), output
    assert {p.name for p in tmp_path.iterdir()} == {"file", "alignkit-mine"}


def test_a_home_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert new("alignkit-mine", "--kind", "advantage", output=Path("~/deep")).exception is None
    assert (tmp_path / "deep/alignkit-mine/README.md").is_file()
