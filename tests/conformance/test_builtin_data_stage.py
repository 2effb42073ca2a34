"""Every built-in stage that learns from records keeps to the contract of its kind."""

from typing import Any, ClassVar

from alignkit.manager import PluginManager
from alignkit.testing import DataStageContract
from alignkit.testing.context import make_context

QUICK: dict[str, Any] = {"lr": 2e-3, "epochs": 3, "batch_size": 8, "log_every": 1, "warmup": 0.0}
SHORT: dict[str, Any] = {**QUICK, "max_length": 64}
WRONG = ({"lr": 0}, {"epochs": 0}, {"batch_size": 0}, {"schedule": "up"})


class TestPretrain(DataStageContract):
    component = "pretrain"
    options: ClassVar[dict[str, Any]] = {**QUICK, "block_length": 16}
    bad_options = (*WRONG, {"block_length": 1})
    too_long = None


class TestSFT(DataStageContract):
    component = "sft"
    options: ClassVar[dict[str, Any]] = SHORT
    bad_options = (*WRONG, {"max_length": 1}, {"too_long": "hide"})


class TestSFTThatCuts(DataStageContract):
    component = "sft"
    options: ClassVar[dict[str, Any]] = {**SHORT, "too_long": "truncate"}


class TestSFTInPackedRows(DataStageContract):
    component = "alignkit:sft"
    options: ClassVar[dict[str, Any]] = {**SHORT, "packing": True, "batch_size": 2}


class TestRewardModel(DataStageContract):
    component = "reward_model"
    options: ClassVar[dict[str, Any]] = {**SHORT, "centering": 0.01}
    bad_options = (*WRONG, {"dropout": 1})


class TestRewardModelWithDropout(DataStageContract):
    component = "reward_model"
    options: ClassVar[dict[str, Any]] = {**SHORT, "dropout": 0.1, "overrides": {"attention_dropout": 0.1}}
    # Micro-batches draw their dropout masks apart.
    test_micro_batches_change_nothing = None


class TestDPO(DataStageContract):
    component = "dpo"
    options: ClassVar[dict[str, Any]] = SHORT
    bad_options = (*WRONG, {"beta": 0}, {"loss": "best"}, {"label_smoothing": 0.6})


class TestIPO(DataStageContract):
    component = "dpo"
    options: ClassVar[dict[str, Any]] = {**SHORT, "loss": "ipo"}


class TestHinge(DataStageContract):
    component = "dpo"
    options: ClassVar[dict[str, Any]] = {**SHORT, "loss": "hinge", "too_long": "error"}


class TestKTO(DataStageContract):
    component = "kto"
    options: ClassVar[dict[str, Any]] = SHORT
    bad_options = (*WRONG, {"reads": "texts"})


class TestKTOFromPairs(DataStageContract):
    component = "kto"
    options: ClassVar[dict[str, Any]] = {**SHORT, "reads": "preferences", "reference_point": "zero"}


class TestORPO(DataStageContract):
    component = "orpo"
    options: ClassVar[dict[str, Any]] = SHORT
    bad_options = (*WRONG, {"odds_coef": -1})


def test_no_built_in_data_stage_is_left_out() -> None:
    manager = PluginManager()
    manager.load()
    found = {
        r.component.name
        for r in manager.all("optimizer_stage")
        if r.distribution == "alignkit" and hasattr(r.build(r.component.config(), make_context()), "fit")
    }
    tested = {value.component.rpartition(":")[2] for name, value in globals().items() if name.startswith("Test")}
    assert found == tested
