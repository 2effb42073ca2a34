"""A pytest plugin: the tests of a run in the order of a seed. Load it with `-p shuffled --shuffle-seed N`."""

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--shuffle-seed", type=int, default=0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle, after the markers have chosen."""
    random.Random(config.getoption("--shuffle-seed")).shuffle(items)
