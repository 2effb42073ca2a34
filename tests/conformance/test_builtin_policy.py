"""The built-in policy, in its settings, and the suites' own tiny policy keep to the contract of policies."""

from pathlib import Path
from typing import Any, ClassVar

from alignkit.data.store import write_records
from alignkit.manager import PluginManager
from alignkit.records import Text
from alignkit.testing import PolicyContract
from alignkit.testing.tiny import CORPUS, tiny_policy
from helpers.models import make_policy, make_tokenizer
from helpers.planted import plugin_of
from helpers.tiny_components import tiny_component


class CausalLMPolicy(PolicyContract):
    component = "causal_lm"
    bad_options = (
        {},
        {"path": "model", "init": {"preset": "nano"}},
        {"init": {"preset": "nano"}},
        {"path": "/no/such/model"},
        {"path": "owner/name", "dtype": "int8"},
        {"path": "owner/name", "lora": {"rank": 0}},
    )
    further: ClassVar[dict[str, Any]] = {}

    def make_options(self, folder: Path) -> dict[str, Any]:
        tiny_policy(dropout=0.2).save(folder / "model")
        return {"path": str(folder / "model"), **self.further}


class TestLlama(CausalLMPolicy):
    pass


class TestLlamaWithACheckpointPerLayer(CausalLMPolicy):
    further: ClassVar[dict[str, Any]] = {"gradient_checkpointing": True}


class TestLlamaWithLoRA(CausalLMPolicy):
    further: ClassVar[dict[str, Any]] = {"lora": {"rank": 4, "dropout": 0.1}}


class TestLlamaInBfloat16(CausalLMPolicy):
    further: ClassVar[dict[str, Any]] = {"dtype": "bfloat16"}
    tolerance = 0.3


class TestLlamaThatChats(CausalLMPolicy):
    def make_options(self, folder: Path) -> dict[str, Any]:
        tiny_policy(chat=True).save(folder / "model")
        return {"path": str(folder / "model")}


class TestGPT2(CausalLMPolicy):
    def make_options(self, folder: Path) -> dict[str, Any]:
        make_policy("gpt2", dropout=0.2).save(folder / "model")
        return {"path": str(folder / "model"), **self.further}


class TestGPT2WithLoRA(TestGPT2):
    further: ClassVar[dict[str, Any]] = {"lora": {"rank": 4}}


class TestPadIsTheEndToken(CausalLMPolicy):
    def make_options(self, folder: Path) -> dict[str, Any]:
        make_policy("llama", make_tokenizer(pad="</s>")).save(folder / "model")
        return {"path": str(folder / "model")}


class TestNewModel(CausalLMPolicy):
    def make_options(self, folder: Path) -> dict[str, Any]:
        write_records(folder / "texts.jsonl", [Text(text=text) for text in CORPUS])
        tokenizer = {"train_on": str(folder / "texts.jsonl"), "vocab_size": 300, "chat": True}
        return {"init": {"preset": "nano"}, "tokenizer": tokenizer}


class TestTinyPolicy(PolicyContract):
    component = "tiny"
    plugin = plugin_of(PolicyContract, tiny_component(dropout=0.2))
    test_registration_imports_nothing_heavy = None  # it is registered by no module of its own


class TestTinyPolicyThatChats(TestTinyPolicy):
    plugin = plugin_of(PolicyContract, tiny_component(chat=True))


def test_no_built_in_policy_is_left_out() -> None:
    manager = PluginManager()
    manager.load()
    assert {r.component.name for r in manager.all("policy") if r.distribution == "alignkit"} == {"causal_lm"}
