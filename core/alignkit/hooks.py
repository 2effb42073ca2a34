"""Calling lifecycle and transform hooks so that one plugin's failure has that plugin's name on it."""

import logging
from typing import TYPE_CHECKING, Any

import pluggy

from alignkit.errors import ENDINGS, AlignkitError, Fault, said_by
from alignkit.manager import PluginManager
from alignkit.processes import is_first

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.batches import Rollout
    from alignkit.context import RunInfo

logger = logging.getLogger("alignkit")

SHOWN = 200  # characters of a completion in a message


def notify(manager: PluginManager, hook: str, **arguments: Any) -> None:
    """Call every listener, of several processes on the first one.

    One that raises is reported and skipped; an AlignkitError (asking to stop) passes.
    """
    if not is_first():
        return
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
        plugin = f"plugin {implementation.plugin_name}"
        shape = tuple(getattr(changed, "shape", ()))
        if not hasattr(changed, "isfinite") or shape != scores_B.shape:
            shown = f"scores of shape {shape}" if shape else f"a {type(changed).__name__} as scores"
            raise Fault(f"{plugin} returned {shown}, expected {tuple(scores_B.shape)}")
        bad = (~changed.isfinite()).nonzero().flatten().tolist()
        if bad:
            first = f"the first {float(changed[bad[0]])} for {rollout.texts[bad[0]][:SHOWN]!r}"
            raise Fault(f"{plugin} made {len(bad)} of {len(scores_B)} scores not finite, {first}")
        scores_B = changed
    return scores_B


def _in_order(manager: PluginManager, hook: str) -> list[pluggy.HookImpl]:
    """pluggy keeps the ones to be called first at the end of its list and calls in reverse; here it is read on."""
    found: list[pluggy.HookImpl] = getattr(manager.hook, hook).get_hookimpls()
    return sorted(found, key=lambda implementation: implementation.trylast - implementation.tryfirst)
