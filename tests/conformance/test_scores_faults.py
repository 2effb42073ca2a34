"""For every check of reward sources that score a mistake that it has to notice."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignkit import Component
from alignkit.batches import Rollout
from alignkit.components import NoConfig
from alignkit.testing import ScoresContract
from helpers.planted import Fault, checks_of, planted, plugin_of

Score = Callable[[Any, Rollout], Any]


def value(text: str) -> float:
    """More words and more different letters are better."""
    return len(text.split()) / 10 + len(set(text)) / 100


def values(texts: Sequence[str]) -> Tensor:
    return torch.tensor([value(text) for text in texts])


class Source:
    """Sound, unless `how` scores otherwise; `state` is for those that keep something."""

    def __init__(self, how: Score | None = None) -> None:
        self.how = how
        self.state: dict[str, Any] = {}

    def score(self, rollout: Rollout) -> Any:
        return self.how(self, rollout) if self.how else values(rollout.texts)


class Relative(Source):
    """Says that it compares completions with each other."""

    batch_relative = True


class Reporting(Source):
    """Has figures: what `state` holds."""

    def figures(self) -> Mapping[str, Any]:
        return dict(self.state)


def broken(build: Callable[[], Any]) -> Component:
    return Component("broken", lambda c, _: build(), NoConfig, "broken on purpose")


def fault(check: str, how: Score, name: str = "", source: type[Source] = Source, **attributes: Any) -> Fault:
    return Fault(check, broken(lambda: source(how)), attributes, name)


def mean_over_padding(source: Source, rollout: Rollout) -> Tensor:
    return values(rollout.texts) * rollout.mask_BT.float().mean(-1)


def less_the_batch_mean(source: Source, rollout: Rollout) -> Tensor:
    return values(rollout.texts) - values(rollout.texts).mean()


def whitened(source: Source, rollout: Rollout) -> Tensor:
    apart_B = values(rollout.texts) - values(rollout.texts).mean()
    return apart_B / apart_B.square().mean().sqrt()


def sorted_by_length(source: Source, rollout: Rollout) -> Tensor:
    """Batches of similar length are faster; the order was not restored."""
    return values(sorted(rollout.texts, key=len))


def running_mean(source: Source, rollout: Rollout) -> Tensor:
    scores_B = values(rollout.texts)
    seen = source.state.setdefault("seen", [])
    seen += scores_B.tolist()
    return scores_B - sum(seen) / len(seen)


def cached_by_completion(source: Source, rollout: Rollout) -> Tensor:
    for prompt, text in zip(rollout.prompts, rollout.texts, strict=True):
        source.state.setdefault(text, value(str(prompt.prompt) + text))
    return torch.tensor([source.state[text] for text in rollout.texts])


def one_buffer(source: Source, rollout: Rollout) -> Tensor:
    buffer_B: Tensor = source.state.setdefault("buffer", torch.zeros(len(rollout)))
    return buffer_B.copy_(values(rollout.texts))


def shifts_groups(source: Source, rollout: Rollout) -> Tensor:
    rollout.group_B.add_(1)
    return values(rollout.texts)


def exponentiates(source: Source, rollout: Rollout) -> Tensor:
    assert rollout.sampler_logp_BT is not None
    rollout.sampler_logp_BT.exp_()
    return values(rollout.texts)


def seeds_torch(source: Source, rollout: Rollout) -> Tensor:
    torch.manual_seed(0)
    return values(rollout.texts) + 0.01 * torch.rand(len(rollout))


def breaks_ties_at_random(source: Source, rollout: Rollout) -> Tensor:
    return values(rollout.texts) + 1e-6 * random.random()


def counts_in_a_name(source: Source, rollout: Rollout) -> Tensor:
    source.state = {f"reward/of_{len(rollout)}": 1.0}
    return values(rollout.texts)


def mean_of_nothing(source: Source, rollout: Rollout) -> Tensor:
    source.state = {"reward/long": values([t for t in rollout.texts if len(t) > 1000]).mean().item()}
    return values(rollout.texts)


def keeps_a_file(source: Source, rollout: Rollout) -> Tensor:
    Path("scores.json").write_text("{}")
    return values(rollout.texts)


WEIGHT = torch.ones((), requires_grad=True)
FAULTS = [
    fault("test_one_finite_number_per_completion", lambda s, r: [value(t) for t in r.texts], "list"),
    fault("test_one_finite_number_per_completion", lambda s, r: values(r.texts)[:, None], "column"),
    fault("test_one_finite_number_per_completion", lambda s, r: values(r.texts).mean()[None], "mean"),
    fault("test_one_finite_number_per_completion", lambda s, r: values(r.texts).double(), "double"),
    fault("test_one_finite_number_per_completion", lambda s, r: (values(r.texts) - 9).log(), "log"),
    fault("test_no_gradient", lambda s, r: WEIGHT * values(r.texts)),
    fault("test_one_completion_alone", whitened, source=Relative),
    fault("test_hard_completions", lambda s, r: torch.tensor([len(t) for t in r.texts]) / values(r.texts)),
    fault("test_conversations", lambda s, r: values([p.prompt + t for p, t in zip(r.prompts, r.texts, strict=True)])),
    fault("test_rollout_without_log_probs", lambda s, r: values(r.texts) + r.sampler_logp_BT.mean(-1)),
    fault("test_score_does_not_depend_on_the_batch", mean_over_padding, "padding"),
    fault("test_score_does_not_depend_on_the_batch", less_the_batch_mean, "mean"),
    fault("test_scores_follow_the_order", sorted_by_length),
    fault("test_same_call_same_scores", running_mean),
    fault("test_earlier_prompts_do_not_matter", cached_by_completion),
    fault("test_builds_with_one_seed_agree", lambda s, r: values(r.texts) + torch.rand(len(r)), noisy=True),
    fault("test_scores_are_told_apart", lambda s, r: values([p.prompt for p in r.prompts])),
    fault("test_better_completions_score_higher", lambda s, r: -values(r.texts), better_than=[("a good film", "a")]),
    fault("test_another_tokenizer", lambda s, r: torch.tensor([float(sum(ids)) for ids in r.completion_ids])),
    fault("test_rollout_is_left_as_it_was", shifts_groups, "groups"),
    fault("test_rollout_is_left_as_it_was", exponentiates, "logp"),
    fault("test_earlier_scores_stay", one_buffer),
    fault("test_global_random_state_is_left_alone", seeds_torch, "seeded"),
    fault("test_global_random_state_is_left_alone", breaks_ties_at_random, "drawn"),
    fault("test_figures", counts_in_a_name, "name", Reporting),
    fault("test_figures", mean_of_nothing, "nan", Reporting),
    fault("test_writes_only_into_its_folder", keeps_a_file),
]
globals().update(planted(ScoresContract, FAULTS))


class TestSound(ScoresContract):
    """What the faults change is right without them."""

    component = "broken"
    plugin: ClassVar[ModuleType] = plugin_of(ScoresContract, broken(Source))
    better_than = (("a good film", "a"),)
    test_registration_imports_nothing_heavy = None  # the plugin is made here, in no module of its own


def test_every_check_has_a_fault() -> None:
    assert {fault.check for fault in FAULTS} == checks_of(ScoresContract)
