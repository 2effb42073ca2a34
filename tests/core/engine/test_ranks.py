"""Two processes of one run work with the same plugins, or both stop and say what differs."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignkit import hookimpl
from alignkit.engine.ranks import differences, plugin_set, require_same_plugins
from alignkit.manager import PluginManager, PluginStatus
from helpers.ranks import group_of

pytestmark = pytest.mark.concurrent

PROCESS = """
import sys
from pathlib import Path
from alignkit import UserError
from alignkit.engine.ranks import require_same_plugins
from alignkit.manager import PluginManager
from alignkit.joining import joined

manager = PluginManager()
manager.load(folders=[Path(sys.argv[1])])
with joined():
    try:
        require_same_plugins(manager)
        print("the same")
    except UserError as error:
        print(error.what)
"""
PLUGIN = """from alignkit import Component, hookimpl
@hookimpl
def alignkit_steps():
    return [Component("made", print)]
"""


def manager_with(**versions: str) -> PluginManager:
    """A manager with empty plugins of these versions."""
    manager = PluginManager()
    for name, version in versions.items():
        plugin = SimpleNamespace(alignkit_run_start=hookimpl(lambda: None))
        manager.register(plugin, PluginStatus(name, f"{name}-dist", version))
    return manager


def test_one_process_has_nothing_to_compare() -> None:
    require_same_plugins(manager_with(a="1"))


def test_differences_name_plugin_version_and_ranks() -> None:
    same = plugin_set(manager_with(a="1", b="2"))
    assert same == {"a-dist:a": "1", "b-dist:b": "2"}
    assert differences([same, dict(same), dict(same)]) == []
    assert differences([same, {"a-dist:a": "1"}, {**same, "a-dist:a": "1.1"}]) == [
        "a-dist:a is 1 on ranks 0, 1, 1.1 on rank 2",
        "b-dist:b is 2 on ranks 0, 2, missing on rank 1",
    ]


def test_a_plugin_that_failed_on_one_rank_is_a_difference() -> None:
    broken = manager_with(a="1")
    broken.plugins[0].problem = "ImportError: /machine/two/site-packages"
    assert differences([plugin_set(manager_with(a="1")), plugin_set(broken)]) == [
        "a-dist:a is 1 on rank 0, 1 (failed) on rank 1"
    ]
    # Why it failed may read differently on each machine.
    other = manager_with(a="1")
    other.plugins[0].problem = "ImportError: /machine/three/site-packages"
    assert plugin_set(broken) == plugin_set(other)


@pytest.mark.slow
@pytest.mark.parametrize("edited", [False, True])
def test_two_real_processes(edited: bool, tmp_path: Path) -> None:
    for rank in range(2):
        folder = tmp_path / f"machine{rank}"
        folder.mkdir()
        (folder / "made.py").write_text(PLUGIN + ("# edited here\n" if edited and rank == 1 else ""))
        if edited and rank == 0:
            (folder / "more.py").write_text(PLUGIN.replace("made", "more"))
    group = group_of(2)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path / f"machine{rank}")],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, environment in enumerate(group)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1]
    if not edited:
        assert said[0] == "the same"
        return
    assert said[0].startswith("the processes of this run have different plugins: local:made is sha256:")
    assert "local:more is sha256:" in said[0]
    assert said[0].endswith("on rank 0, missing on rank 1")
