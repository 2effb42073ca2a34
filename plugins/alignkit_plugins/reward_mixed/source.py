"""Routes tasks: the first source's judgements stay where it is sure, the second is asked about the others."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from alignkit.context import BuildContext
from alignkit.errors import UserError
from alignkit.feedback import superseded_ids
from alignkit.manager import PluginManager
from alignkit.protocols import Annotates, ReportsAnnotation
from alignkit.recipe.check import resolve
from alignkit.records import Evidence, Judgement, Pairwise, Task
from alignkit_plugins.reward_mixed.config import MixedConfig

Route = Literal["sure", "unsure", "orders_disagree", "failed"]


class MixedSource:
    """Satisfies `Annotates` and `ReportsAnnotation`."""

    def __init__(self, first: Annotates, then: Annotates, unsure: float, disagreement: float) -> None:
        self.first = first
        self.then = then
        self.unsure = unsure
        self.disagreement = disagreement
        self._figures: dict[str, Any] = {}

    def annotate(self, tasks: Sequence[Task]) -> Iterator[Judgement]:
        """The first's judgements of the tasks it is sure about, and the second's of all others.

        What the second raises (Paused, while people have not answered) goes on to the caller. The next call asks the
        first again and finds the same tasks unsure, as long as the first says the same again, as a judge with a cache
        or a source with a seed does.
        """
        given: dict[str, list[Judgement]] = defaultdict(list)
        judged = list(self.first.annotate(tasks))
        replaced = superseded_ids(judged)
        for judgement in judged:
            if judgement.id not in replaced:
                given[judgement.task_id].append(judgement)
        routes = {task.id: self._route(task, given[task.id]) for task in tasks}
        asked = [task for task in tasks if routes[task.id] != "sure"]
        found = list(routes.values())
        self._figures = {
            "sure": found.count("sure"),
            "asked_again": {why: found.count(why) for why in ("failed", "unsure", "orders_disagree")},
            "first": _figures_of(self.first),
        }
        again = list(self.then.annotate(asked)) if asked else []
        self._figures["then"] = _figures_of(self.then) if asked else {}
        return iter([*(j for task in tasks if routes[task.id] == "sure" for j in given[task.id]), *again])

    def annotation_figures(self) -> Mapping[str, Any]:
        """How many tasks went where in the last `annotate`, and the figures of both sources."""
        return self._figures

    def _route(self, task: Task, judgements: Sequence[Judgement]) -> Route:
        if not judgements or any(j.status != "ok" for j in judgements):
            return "failed"
        pairs = []
        texts = {candidate.id: candidate.completion for candidate in task.candidates}
        disagreeing = 0
        for judgement in judgements:
            pair = judgement.payload
            if not isinstance(pair, Pairwise):
                raise _no_pairs()
            # Whoever judges, the same text twice is a tie: there is nothing to be sure about.
            if texts.get(pair.a, pair.a) != texts.get(pair.b, pair.b):
                pairs.append(pair)
                disagreeing += _orders_disagree(judgement.evidence)
        if not pairs:
            return "sure"
        if sum(abs(2 * pair.p_a - 1) for pair in pairs) / len(pairs) < self.unsure:
            return "unsure"
        return "orders_disagree" if disagreeing >= self.disagreement * len(pairs) - 1e-9 else "sure"


def _orders_disagree(evidence: Evidence | None) -> bool:
    if evidence is None or evidence.p_given is None or evidence.p_swapped is None:
        return False
    return (evidence.p_given - 0.5) * (evidence.p_swapped - 0.5) < 0


def _figures_of(source: Annotates) -> dict[str, Any]:
    return dict(source.annotation_figures()) if isinstance(source, ReportsAnnotation) else {}


def _no_pairs() -> UserError:
    return UserError(
        "how sure a judge is can be told from pairwise judgements only",
        where="mixed.first",
        hint="use ai with form: pairwise",
    )


def check_first(config: MixedConfig, manager: PluginManager) -> None:
    """Raises UserError if the first source has an option `form` that is not pairwise: all would be asked in vain."""
    first = resolve(manager, "reward_source", config.first).config
    if getattr(first, "form", "pairwise") != "pairwise":
        raise _no_pairs()


def build_mixed(config: MixedConfig, context: BuildContext) -> MixedSource:
    """Build both sources. Raises UserError for one that gives no judgements, and a first that compares no pairs."""
    check_first(config, context.manager)
    built = []
    for name, spec in (("first", config.first), ("then", config.then)):
        source = context.build("reward_source", spec)
        if not hasattr(source, "annotate"):
            raise UserError(
                f"reward source {spec.name!r} gives scores, not judgements",
                where=f"mixed.{name}",
                hint="use human, ai, simulated or another source that judges",
            )
        built.append(cast("Annotates", source))
    return MixedSource(built[0], built[1], config.unsure, config.disagreement)
