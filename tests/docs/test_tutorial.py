"""The tutorial from its first line to its last: files are written, commands are run, what they show is compared."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.pages import DOCS, ROOT, blocks

pytestmark = pytest.mark.slow

PAGE = DOCS / "plugins" / "tutorial.md"
STATUS = re.compile(r"\(exit status (\d+)\)\n")
MODULES = {"alignkit": "alignkit.cli", "pip": "pip", "pytest": "pytest"}
LEAST_COMMANDS = 19


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A venv in which alignkit is installed, though its files and those it needs are elsewhere."""
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    (site,) = env.glob("lib/python*/site-packages")
    # Plain path lines: what the .pth files found there say is not followed, so the sources are named too.
    places = [sysconfig.get_path("purelib"), *(str(ROOT / part) for part in ("core", "plugins", "kernels"))]
    (site / "elsewhere.pth").write_text("\n".join(places) + "\n")
    for tool, module in MODULES.items():
        script = env / "bin" / tool
        script.write_text(f'#!/bin/sh\nexec {env / "bin/python"} -m {module} "$@"\n')
        script.chmod(0o755)
    (env / "bin" / "ruff").symlink_to(Path(sys.executable).parent / "ruff")
    path = f"{env / 'bin'}{os.pathsep}{os.environ['PATH']}"
    # Nothing is fetched: what a build needs is here.
    pip = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {**os.environ, **pip, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONSAFEPATH": "1"}


def commands(text: str) -> Iterator[tuple[str, str, int]]:
    """Command, what it shows, and its exit status, for each `$ ` of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        status = STATUS.search(shown)
        yield command, STATUS.sub("", shown), int(status[1]) if status else 0


def shows(shown: str, found: str) -> bool:
    """A line `…` stands for any lines, an `…` inside a line for anything in it."""
    lines, skipping = found.splitlines(), False
    for wanted in shown.splitlines():
        if wanted.strip() == "…":
            skipping = True
            continue
        inside = re.compile(".*".join(re.escape(part) for part in wanted.split("…")) + " *")
        while lines and skipping and not inside.fullmatch(lines[0]):
            lines.pop(0)
        if not lines or not inside.fullmatch(lines.pop(0)):
            return False
        skipping = False
    return skipping or not lines


def run(command: str, folder: Path, environment: dict[str, str]) -> tuple[str, int, Path]:
    """What is shown, exit status, and the folder that the shell is in afterwards."""
    note = environment["HOME_OF_TEST"] + "/where"
    script = f"{command}\nstatus=$?\npwd > {note}\nexit $status"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout, done.returncode, Path(Path(note).read_text().strip())


def test_every_step_does_what_the_page_shows(tmp_path: Path, environment: dict[str, str]) -> None:
    environment["HOME_OF_TEST"] = str(tmp_path)
    folder = tmp_path / "work"
    folder.mkdir()
    done = written = 0
    for block in (b for b in blocks(PAGE) if b.run):
        if block.title:
            assert (folder / block.title).is_file(), f"{block.title} is no file of the package"
            (folder / block.title).write_text(block.text, encoding="utf-8")
            written += 1
        elif block.language == "console":
            for command, shown, status in commands(block.text):
                found, ended, folder = run(command, folder, environment)
                assert ended == status, f"$ {command}\n{found}"
                assert shows(shown, found), f"$ {command}\n{found}\nthe page shows:\n{shown}"
                done += 1
    assert done >= LEAST_COMMANDS
    assert written == 6


def test_only_what_needs_the_web_is_not_run() -> None:
    skipped = [block for block in blocks(PAGE) if not block.run]
    assert len(skipped) == 4
    assert all(re.search(r"pip install \S*alignkit|git push|gh-action-pypi-publish", block.text) for block in skipped)
