"""Every built-in stage that learns from rollouts keeps to the contract of its kind."""

from typing import Any, ClassVar

from alignkit.manager import PluginManager
from alignkit.testing import RolloutStageContract
from alignkit.testing.context import make_context

# Four epochs of four minibatches, as by default, are tried once.
FEW: dict[str, Any] = {"lr": 1e-3, "epochs": 2, "minibatches": 2}


class TestPPO(RolloutStageContract):
    component = "ppo"
    options: ClassVar[dict[str, Any]] = {"lr": 1e-3}
    bad_options = ({"lr": 0}, {"dual_clip": 0.9}, {"loss_aggregation": "fixed_length"}, {"epochs": 0})


class TestPPOInAllItsParts(RolloutStageContract):
    component = "ppo"
    options: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "critic_lr": 2e-3,
        "epochs": 2,
        "minibatches": 3,
        "clip_range_high": 0.3,
        "dual_clip": 3.0,
        "loss_aggregation": "sequence_sum",
        "target_kl": 5.0,
        "schedule": "cosine",
        "warmup": 0.1,
        "value_clip_range": None,
    }


class TestGSPO(RolloutStageContract):
    component = "gspo"
    options: ClassVar[dict[str, Any]] = FEW
    bad_options = ({"clip_range": 0},)


class TestGSPOOfWholeCompletions(RolloutStageContract):
    component = "gspo"
    options: ClassVar[dict[str, Any]] = {
        **FEW,
        "length_normalise": False,
        "loss_aggregation": "sequence_sum",
        "clip_range": 0.2,
        "clip_range_high": None,
    }


class TestCISPO(RolloutStageContract):
    component = "cispo"
    options: ClassVar[dict[str, Any]] = FEW
    bad_options = ({"clip_range": 1.0},)


class TestReinforce(RolloutStageContract):
    component = "reinforce"
    options: ClassVar[dict[str, Any]] = {"lr": 1e-3}
    bad_options = ({"epochs": 2},)


class TestReinforceInMinibatches(RolloutStageContract):
    component = "alignkit:reinforce"
    options: ClassVar[dict[str, Any]] = {"lr": 1e-3, "minibatches": 4, "loss_aggregation": "sequence_mean"}


class TestPPOWithEntropyAndDecay(RolloutStageContract):
    component = "ppo"
    options: ClassVar[dict[str, Any]] = {**FEW, "entropy_coef": 0.01, "weight_decay": 0.1}
    # The bonus and the decay move weights without any advantage.
    test_zero_advantages_leave_the_policy_alone = None


def test_no_built_in_rollout_stage_is_left_out() -> None:
    manager = PluginManager()
    manager.load()
    found = {
        r.component.name
        for r in manager.all("optimizer_stage")
        if r.distribution == "alignkit" and hasattr(r.build(r.component.config(), make_context()), "update")
    }
    tested = {value.component.rpartition(":")[2] for name, value in globals().items() if name.startswith("Test")}
    assert found == tested
