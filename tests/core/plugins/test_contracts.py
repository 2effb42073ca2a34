"""What `missing` says about objects that keep to a kind's Protocol, nearly keep to it, or do not."""

from typing import Any, ClassVar

import click
import pytest

from alignkit.components import KINDS
from alignkit.contracts import PROTOCOLS, members, missing
from alignkit.protocols import DataStage, Policy, RolloutStage


class Good:
    """An estimator as it should be."""

    needs = None

    def __call__(self, rewards_BT: Any, values_BT: Any, mask_BT: Any, group_B: Any) -> Any:
        return rewards_BT, rewards_BT


class Source:
    """Gives scores."""

    def score(self, rollout: Any) -> Any:
        return None


class Judge:
    """Gives judgements."""

    def annotate(self, tasks: Any) -> Any:
        return iter(())


def with_methods(**methods: Any) -> Any:
    """An object with these attributes."""
    return type("Made", (), methods)()


def test_every_kind_but_commands_has_a_protocol() -> None:
    assert {*PROTOCOLS, "command"} == set(KINDS)


def test_members_are_attributes_properties_and_methods() -> None:
    assert set(members(RolloutStage)) == {"adds_kl", "start", "update", "state", "restore"}
    assert set(members(DataStage)) == {"reads", "fit"}
    assert {"module", "head", "stop_ids", "encode_prompt", "save"} <= set(members(Policy))
    assert len(members(Policy)) == 15
    # Each Protocol asks for something: a Protocol whose members were overlooked would let everything pass.
    assert all(members(protocol) for protocols in PROTOCOLS.values() for protocol in protocols)


@pytest.mark.parametrize(
    ("kind", "built"),
    [
        ("advantage", Good()),
        ("reward_source", Source()),
        ("reward_source", Judge()),
        ("reward_source", with_methods(score=lambda self, rollout: 0, annotate=lambda self, tasks: ())),
        ("optimizer_stage", with_methods(reads="texts", fit=lambda self, task: {})),
        (
            "optimizer_stage",
            with_methods(
                adds_kl=True,
                start=lambda self, *a: None,
                update=lambda self, x: {},
                state=lambda self: {},
                restore=lambda self, state: None,
            ),
        ),
        # A data stage may have a method of its own that is called as one of a rollout stage.
        ("optimizer_stage", with_methods(reads="texts", fit=lambda self, task: {}, update=lambda self: None)),
        ("sampler", with_methods(rollout=lambda self, policy, prompts, sampling, seed, more=1: None)),
        ("command", click.Command("hello")),
    ],
)
def test_what_keeps_its_word_lacks_nothing(kind: Any, built: Any) -> None:
    assert missing(kind, built) == []


@pytest.mark.parametrize(
    ("kind", "built", "problems"),
    [
        ("advantage", None, ["what it built is None"]),
        ("advantage", object(), ["needs is missing", "__call__(rewards_BT, values_BT, mask_BT, group_B) is missing"]),
        (
            "advantage",
            lambda rewards_BT: 0,
            ["needs is missing", "it does not take (rewards_BT, values_BT, mask_BT, group_B)"],
        ),
        ("reward_source", object(), ["neither score(rollout) (Scores) nor annotate(tasks) (Annotates)"]),
        ("reward_source", with_methods(score=lambda self: 0), ["it does not take (rollout)"]),
        ("reward_source", with_methods(score=3), ["score(rollout): it is no method but of type int"]),
        (
            "reward_source",
            with_methods(score=lambda self, rollout: 0, annotate=lambda self: ()),
            ["annotate(tasks): it does not take (tasks)"],
        ),
        ("optimizer_stage", with_methods(fit=lambda self, task: {}), ["reads is missing"]),
        (
            "optimizer_stage",
            with_methods(update=lambda self, x: {}),
            ["adds_kl is missing", "start(policy, reference, critic", "state() is missing", "restore(state)"],
        ),
        (
            "sampler",
            with_methods(rollout=lambda self, policy: None),
            ["it does not take (policy, prompts, sampling, seed)"],
        ),
        (
            "tracker",
            with_methods(start=lambda self, a, b, c: 0, close=lambda self: 0),
            ["log(step_id, index, metrics) is missing"],
        ),
        ("command", print, ["what it built is no click.Command but of type builtin_function_or_method"]),
    ],
)
def test_what_is_missing_is_named(kind: Any, built: Any, problems: list[str]) -> None:
    found = missing(kind, built)
    assert len(found) == len(problems)
    for text, problem in zip(found, problems, strict=True):
        assert problem in text


def test_optional_arguments_are_given_by_name() -> None:
    class Half(Policy):
        def critic(self, init: Any, keep: bool = False, shared: bool = False) -> Any:
            return None

    lacking = missing("policy", Half())
    text = next(p for p in lacking if p.startswith("critic"))
    assert "(init, keep_head=…, shared=…): got an unexpected keyword argument 'keep_head'" in text
    # Empty bodies that come with a subclassed Protocol are no implementation, attributes without a value are none.
    assert "reference() is missing" in lacking
    assert "module is missing" in lacking


def test_no_property_is_called_and_what_is_forwarded_counts() -> None:
    class Lazy:
        reads: ClassVar[str] = "texts"

        @property
        def fit(self) -> Any:
            return lambda task: {}

    assert missing("optimizer_stage", Lazy()) == []

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            return getattr(Source(), name)

    assert missing("reward_source", Proxy()) == []

    class Costly:
        @property
        def needs(self) -> Any:
            raise RuntimeError("loads a model")

        def __call__(self, rewards_BT: Any, values_BT: Any, mask_BT: Any, group_B: Any) -> Any:
            return None

    assert missing("advantage", Costly()) == []
