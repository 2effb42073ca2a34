"""Made for an api that this alignkit does not have."""

from collections.abc import Iterable

from alignkit import API_VERSION, Component, hookimpl


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """From the future."""
    return [Component(name="wrong_api", build=lambda config, context: None, api=API_VERSION + 98)]
