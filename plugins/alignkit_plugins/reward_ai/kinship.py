"""Whether a judge is related to the model it judges: models prefer what they or their kin would have written."""

import logging
import re
from collections.abc import Iterable

from alignkit.context import BuildContext
from alignkit_plugins.reward_ai.answers import Judge

logger = logging.getLogger("alignkit")


def warn_of_kinship(judge: Judge, model: str, policies: Iterable[str], context: BuildContext, who: str) -> None:
    """Warn if judge and policy have the same weights or a name of the same family. `policies`: their revisions."""
    revisions = {revision for revision in policies if revision}
    if judge.revision.partition("@")[0] in revisions:
        logger.warning("%s: the judge has the very weights of the policy that it judges", who)
        return
    names = {revision for revision in revisions if "/" in revision}
    path = context.recipe.policy.options.get("path")
    if isinstance(path, str) and not path.startswith("@"):
        names.add(path)
    own = family(model)
    for name in sorted(names):
        if own and not model.startswith("@") and family(name) == own:
            logger.warning("%s: judge %r and policy %r seem to be of one family (%s)", who, model, name, own)
            return


def family(name: str) -> str:
    """`Qwen/Qwen2.5-7B-Instruct` -> qwen; empty where the name says nothing."""
    last = name.rstrip("/").rpartition("/")[2]
    found = re.match(r"(?:meta-)?([A-Za-z]{3,})", last)
    word = found[1].lower() if found else ""
    return "" if word in ("model", "policy", "final", "judge", "the", "checkpoint") else word
