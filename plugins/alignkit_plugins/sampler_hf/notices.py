"""What makes a model slow to sample from, said once."""

import logging

logger = logging.getLogger("alignkit")
_said: set[str] = set()


def say_once(what: str) -> None:
    """Warn, the first time."""
    if what not in _said:
        _said.add(what)
        logger.warning(what)
