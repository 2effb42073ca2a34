"""Loads without a fault, but what it builds is no advantage estimator."""

from collections.abc import Iterable

from alignkit import Component, hookimpl


class NoEstimator:
    """Has no `needs` and cannot be called."""


@hookimpl
def alignkit_advantages() -> Iterable[Component]:
    """A run finds out when it builds the component, before anything is sampled."""
    summary = "what it builds is no estimator"
    return [Component(name="breaks_protocol", build=lambda config, context: NoEstimator(), summary=summary)]
