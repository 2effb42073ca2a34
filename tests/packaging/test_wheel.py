"""The built wheel, installed into a fresh environment, works from an empty folder."""

import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from helpers.packages import ROOT, call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a fresh environment that has the wheel, and this environment's other packages after it."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python")
    call(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    # The dependencies (torch is a gigabyte) come from here. A plain path line does not run the .pth files found
    # there, so that the editable install of alignkit stays out of reach.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {f"alignkit/_recipes/{p.name}" for p in (ROOT / "recipes").glob("*.yaml")}
    assert "alignkit/_recipes/quickstart.yaml" in shipped
    assert shipped <= set(names)
    assert "alignkit/py.typed" in names
    data = [p for p in (ROOT / "core/alignkit").rglob("*") if p.suffix in (".html", ".css", ".j2", ".jinja")]
    assert len(data) >= 2
    assert {f"alignkit/{p.relative_to(ROOT / 'core/alignkit').as_posix()}" for p in data} <= set(names)
    tops = {name.partition("/")[0] for name in names}
    assert tops - {n for n in tops if n.endswith(".dist-info")} <= {"alignkit", "alignkit_plugins", "alignkit_kernels"}
    assert [n for n in names if Path(n).match("test_*.py") or Path(n).name == "conftest.py"] == []
    assert [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".pickle", ".pkl"))] == []


def test_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = call(installed / "python", "-c", "import alignkit; print(alignkit.__file__)", cwd=tmp_path)
    assert str(installed.parent) in where
    plugins = call(installed / "alignkit", "plugins", cwd=tmp_path)
    assert "\nadvantage\n  gae " in plugins
    assert "failed" not in plugins
    assert "quickstart is fine" in call(installed / "alignkit", "check", "quickstart", cwd=tmp_path)
    assert "did you mean" in call(
        installed / "alignkit", "check", "quickstart", "corpus.heldot=1", cwd=tmp_path, status=2
    )
    assert list(tmp_path.iterdir()) == []
