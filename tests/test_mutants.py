"""The list of mutants fits the code as it is, and the tool that tries them is not easily satisfied."""

from dataclasses import replace
from pathlib import Path

import pytest

import mutants
from mutants import Mutant

LISTED = mutants.load(Path(__file__).with_name("mutants.toml"))


def test_every_entry_fits_the_code() -> None:
    """After a change of the code: mend the entry that is named here, so that it breaks the same thing again."""
    assert mutants.misfits(LISTED, mutants.ROOT) == []
    assert all(m.point for m in LISTED)
    assert len(LISTED) >= 70


CODE = "def double(x):\n    y = x\n    return 2 * y\n"
TESTS = """
import pytest
from alignkit.small import double

@pytest.fixture
def three():
    assert double(1) == 2
    return 3

class TestDouble:
    @pytest.mark.parametrize("x", [0, 4])
    def test_value(self, x):
        assert double(x) == x + x

def test_zero():
    assert double(0) == 0

def test_with_fixture(three):
    assert double(three) != 1
"""
VALUE = "tests/test_small.py::TestDouble::test_value"


def mutant(name: str, old: str, new: str, test: str = VALUE) -> Mutant:
    return Mutant(name, "core/alignkit/small.py", old, new, test)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one function; its `alignkit` hides the installed one."""
    for name, text in (("core/alignkit/__init__", ""), ("core/alignkit/small", CODE), ("tests/test_small", TESTS)):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["gpu: needs a GPU"]\n')
    return tmp_path


def test_only_a_named_test_that_fails_in_its_own_body_kills(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed = mutant("wrong", "2 * y", "3 * y")
    survivors = [
        mutant("unnoticed", "2 * y", "3 * y", "tests/test_small.py::test_zero"),
        mutant("no import", "def double", "import nowhere\ndef double"),
        mutant("no name", "return 2 * y", "return 2 * z"),
        mutant("in a fixture", "2 * y", "3 * y", "tests/test_small.py::test_with_fixture"),
        mutant("ends python", "return 2 * y", "__import__('os')._exit(1)"),
    ]
    assert mutants.run([killed, *survivors], project, jobs=2) == 1
    shown = capsys.readouterr().out
    assert "1 of 6 mutants killed" in shown
    lines = {m.name: next(x for x in shown.splitlines() if x.startswith(m.name)) for m in [killed, *survivors]}
    assert "killed" in lines["wrong"]
    assert "AssertionError" in lines["wrong"]
    assert "SURVIVED" in lines["unnoticed"]
    assert all("NO VERDICT" in lines[m.name] for m in survivors[1:])
    assert (project / "core/alignkit/small.py").read_text() == CODE
    assert mutants.run([killed], project, jobs=1) == 0


def test_tests_that_fail_anyway_prove_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "tests/test_small.py").write_text(TESTS.replace("x + x", "x + x + 1"))
    assert mutants.run([mutant("wrong", "2 * y", "3 * y")], project, jobs=1) == 1
    assert "do not pass on the code as it is" in capsys.readouterr().out


def test_code_from_elsewhere_is_noticed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a package of its own the copy would test the installed one, and every mutant would survive."""
    (project / "tests/test_small.py").write_text(
        "import alignkit_plugins\n\ndef test_zero():\n    assert alignkit_plugins\n"
    )
    entry = mutant("wrong", "2 * y", "3 * y", "tests/test_small.py::test_zero")
    assert mutants.run([entry], project, jobs=1) == 1
    assert "did not import the copy" in capsys.readouterr().out


def test_entries_that_no_longer_fit_are_named(project: Path) -> None:
    good = mutant("good", "2 * y", "3 * y")
    wrong = [
        replace(good, name="gone", old="4 * y"),
        replace(good, name="twice", old="y"),
        replace(good, name="same", new="2 * y"),
        replace(good, name="no python", new="2 *"),
        replace(good, name="no test", test="tests/test_small.py::test_other"),
        replace(good, name="no method", test="tests/test_small.py::TestDouble"),
        replace(good, name="no file", file="tests/test_small.py"),
        good,
        good,
    ]
    found = mutants.misfits(wrong, project)
    assert mutants.misfits([good], project) == []
    expected = [
        "good: the name is used twice",
        "gone: `old` occurs 0 times in core/alignkit/small.py, not once",
        "twice: `old` occurs 2 times",
        "same: `new` changes nothing",
        "no python: `new` is no Python",
        "no test: there is no test tests/test_small.py::test_other",
        "no method: there is no test",
        "no file: tests/test_small.py is no file below core, plugins, kernels",
    ]
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected
