"""The built-in sampler keeps to the contract of samplers, whatever its batches are."""

from typing import ClassVar

from alignkit.manager import PluginManager
from alignkit.testing import SamplerContract


class TestHF(SamplerContract):
    component = "hf"
    bad_options = ({"batch_size": 0}, {"batch_size": "many"})


class TestHFInBatchesOfFour(SamplerContract):
    component = "hf"
    options: ClassVar = {"batch_size": 4}
    draws = 600


class TestHFOneByOne(SamplerContract):
    component = "hf"
    options: ClassVar = {"batch_size": 1}
    draws = 300


def test_no_built_in_sampler_is_left_out() -> None:
    manager = PluginManager()
    manager.load()
    # A server's texts have tests of their own: tests/plugins/sampler_openai.
    texts = {"openai"}
    assert {r.component.name for r in manager.all("sampler") if r.distribution == "alignkit"} - texts == {"hf"}
