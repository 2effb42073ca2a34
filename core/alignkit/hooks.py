"""Calling lifecycle and transform hooks so that one plugin's failure has that plugin's name on it."""

import logging
from typing import TYPE_CHECKING, Any

import pluggy

from alignkit.errors import ENDINGS, AlignkitError, Fault, said_by
from alignkit.manager import PluginManager

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.batches import Rollout
    from alignkit.context import RunInfo

logger = logging.getLogger("alignkit")


def notify(manager: PluginManager, hook: str, **arguments: Any) -> None:
    """Call every listener. One that raises is reported and skipped; an AlignkitError (asking to stop) passes."""
    for implementation in _in_order(manager, hook):
        wanted = {name: arguments[name] for name in implementation.argnames if name in arguments}
        try:
            implementation.function(**wanted)
        except (AlignkitError, *ENDINGS):
            raise
        except BaseException:  # also sys.exit, or what pytest.skip raises
            logger.exception("plugin %s failed in %s; the run goes on", implementation.plugin_name, hook)


def shape_scores(manager: PluginManager, run: "RunInfo", rollout: "Rollout", scores_B: "Tensor") -> "Tensor":
    """Chain the `alignkit_shape_scores` transforms: `tryfirst` ones, the others as registered, `trylast` ones."""
    for implementation in _in_order(manager, "alignkit_shape_scores"):
        arguments: dict[str, Any] = {"run": run, "rollout": rollout, "scores_B": scores_B}
        wanted = {name: arguments[name] for name in implementation.argnames}
        try:
            changed: Any = implementation.function(**wanted)
        except ENDINGS:
            raise
        except BaseException as error:
            raise Fault(
                f"plugin {implementation.plugin_name} failed in alignkit_shape_scores: {said_by(error)}",
                hint="disable it with plugins: {disable: [NAME]} or mend it",
            ) from error
        if changed is None:
            continue
        if changed.shape != scores_B.shape:
            raise Fault(
                f"plugin {implementation.plugin_name} returned scores of shape {tuple(changed.shape)}, "
                f"expected {tuple(scores_B.shape)}"
            )
        scores_B = changed
    return scores_B


def _in_order(manager: PluginManager, hook: str) -> list[pluggy.HookImpl]:
    """pluggy keeps the ones to be called first at the end of its list and calls in reverse; here it is read on."""
    found: list[pluggy.HookImpl] = getattr(manager.hook, hook).get_hookimpls()
    return sorted(found, key=lambda implementation: implementation.trylast - implementation.tryfirst)
