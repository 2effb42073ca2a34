"""Several processes of one run must work with the same plugins."""

import hashlib
import json

from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.processes import gathered

SHOWN = 5


def require_same_plugins(manager: PluginManager) -> None:
    """Raise UserError, on every rank alike, if the ranks have other plugins or versions. Alone it does nothing."""
    own = json.dumps(plugin_set(manager), sort_keys=True).encode()
    if len(set(gathered(hashlib.sha256(own).digest()))) == 1:
        return
    problems = differences([json.loads(text) for text in gathered(own)])
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise UserError(
        f"the processes of this run have different plugins: {'; '.join(problems[:SHOWN])}{more}",
        hint="install the same plugins, and give the same --plugins-dir, on every machine",
    )


def plugin_set(manager: PluginManager) -> dict[str, str]:
    """Plugin -> version, `failed` for one that cannot be used."""
    return {p.key: f"{p.version} (failed)" if p.problem else p.version for p in manager.plugins}


def differences(sets: list[dict[str, str]]) -> list[str]:
    """One text for each plugin that is not the same everywhere: `a:b is 1.0 on rank 0, missing on ranks 1, 2`."""
    found = []
    for plugin in sorted({name for one in sets for name in one}):
        ranks: dict[str, list[int]] = {}
        for rank, one in enumerate(sets):
            ranks.setdefault(one.get(plugin, "missing"), []).append(rank)
        if len(ranks) > 1:
            found.append(f"{plugin} is " + ", ".join(f"{what} on {_ranks(where)}" for what, where in ranks.items()))
    return found


def _ranks(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"
