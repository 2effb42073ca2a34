"""docs/ppo.md names 21 points; every test file and option it names exists."""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alignkit.manager import PluginManager
from alignkit.recipe import Recipe

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)


def options() -> set[str]:
    """Every option of the recipe, the step `align` and the components that can fill its slots."""
    manager = PluginManager()
    manager.load()
    configs: list[type[BaseModel]] = [Recipe, manager.get("step", "align").component.config]
    configs += [manager.get("advantage", "gae").component.config]
    configs += [manager.get("optimizer_stage", name).component.config for name in ("ppo", "reward_model")]
    return {name for config in configs for name in config.model_fields}


def test_every_point_has_a_test_and_its_options_exist() -> None:
    rows: list[tuple[str, Any]] = ROW.findall((ROOT / "docs/ppo.md").read_text())
    assert [int(number) for number, _ in rows] == list(range(1, 22))
    known = options()
    for number, row in rows:
        _, _, option, test, source = (cell.strip() for cell in row.split("|"))
        assert source, number
        path, _, name = test.strip("`").partition("::")
        assert (ROOT / "tests" / path).is_file(), number
        assert not name or f"def {name.split('::')[-1]}" in (ROOT / "tests" / path).read_text()
        for named in re.findall(r"`(\w+)`", option):
            assert named in known, (number, named)
