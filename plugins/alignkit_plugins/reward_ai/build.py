"""Makes the source that a config describes, and checks what can be known before a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.context import BuildContext
from alignkit.modeling.folders import check_model_path
from alignkit.servers.access import api_key
from alignkit_plugins.reward_ai.answers import Judge
from alignkit_plugins.reward_ai.asking import Asker
from alignkit_plugins.reward_ai.cache import Cache
from alignkit_plugins.reward_ai.config import AIConfig
from alignkit_plugins.reward_ai.templates import load_constitution, load_template

if TYPE_CHECKING:
    from alignkit_plugins.reward_ai.rating import RatingSource
    from alignkit_plugins.reward_ai.source import PairwiseSource

CACHE = "judge_cache.sqlite"


def build_source(config: AIConfig, context: BuildContext) -> "PairwiseSource | RatingSource":
    """The judge with its template and cache; what it offers depends on the form."""
    from alignkit_plugins.reward_ai.rating import RatingSource
    from alignkit_plugins.reward_ai.source import PairwiseSource

    template, constitution = load_template(config), load_constitution(config.constitution)
    place = context.run.folder / CACHE if config.cache is None else Path(config.cache).expanduser()
    cache = Cache(place)
    asker = Asker(config, context, _judge(config, context, cache), template, constitution, cache)
    return PairwiseSource(asker) if config.form == "pairwise" else RatingSource(asker)


def _judge(config: AIConfig, context: BuildContext, cache: Cache) -> Judge:
    if config.judge == "local":
        from alignkit_plugins.reward_ai.local import LocalJudge

        return LocalJudge.load(config, context)
    from alignkit_plugins.reward_ai.server import ServerJudge, server_name

    return ServerJudge(config, cache.spent(server_name(config)))


def check_config(config: AIConfig) -> None:
    """Raises UserError for a template, constitution, model folder or key that is missing or wrong."""
    load_template(config)
    load_constitution(config.constitution)
    if config.judge == "local":
        check_model_path(config.model)
    else:
        api_key(config.api_key_env)
