"""Names of new plugins: what follows from one, and which are refused."""

from pathlib import PurePath

import pytest

from alignkit import Component, UserError, hookimpl
from alignkit.manager import PluginManager, PluginStatus
from alignkit.scaffold import check_name
from alignkit.scaffold.naming import TAKEN_MODULES
from alignkit.scaffold.write import FILES


@pytest.fixture(scope="module")
def manager() -> PluginManager:
    """The installed plugins and a stranger's kernel `theirs`."""

    class Stranger:
        @hookimpl
        def alignkit_kernels(self) -> list[Component]:
            return [Component("theirs", lambda config, context: None)]

    manager = PluginManager()
    manager.load()
    manager.register(Stranger(), PluginStatus("stranger", "their-dist", "2.0"))
    return manager


def test_everything_follows_from_the_distribution(manager: PluginManager) -> None:
    names = check_name("alignkit-word-count", "reward_source", "Reward", manager)
    assert (names.distribution, names.package) == ("alignkit-word-count", "alignkit_word_count")
    assert (names.component, names.class_name) == ("word_count", "WordCountReward")


def test_a_name_without_prefix_and_with_the_kind_at_its_end(manager: PluginManager) -> None:
    names = check_name("slow-sampler", "sampler", "Sampler", manager)
    assert (names.package, names.component, names.class_name) == ("slow_sampler", "slow_sampler", "SlowSampler")


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("Word_Count", "advantage", "write word-count"),
        ("word..count", "advantage", "write word-count"),
        ("word count", "advantage", "letters, digits"),
        ("../up", "advantage", "letters, digits"),
        ("", "advantage", "letters, digits"),
        ("-word", "advantage", "letters, digits"),
        ("wört", "advantage", "letters, digits"),
        ("word\n", "advantage", "letters, digits"),
        ("a" * 31, "advantage", "31 characters"),
        ("3d", "advantage", "no name of a Python module"),
        ("alignkit-3d", "advantage", "no name of a Python module"),
        ("lambda", "advantage", "word of the Python language"),
        ("alignkit-class", "advantage", "word of the Python language"),
        ("alignkit-plugin", "advantage", "has a module 'plugin'"),
        ("alignkit-conformance", "advantage", "has a module 'conformance'"),
        ("local", "advantage", "single files"),
        ("alignkit-null", "advantage", "no text in YAML"),
        ("yes", "advantage", "no text in YAML"),
        ("alignkit", "advantage", "module 'alignkit' is installed"),
        ("torch", "advantage", "module 'torch' is installed"),
        ("json", "advantage", "module 'json' is installed"),
        ("scikit-learn", "advantage", "scikit-learn .* is installed"),
        ("gae", "advantage", "alignkit .* has the advantage 'gae'"),
        ("alignkit-gae", "advantage", "alignkit .* has the advantage 'gae'"),
        ("alignkit-reward-model", "optimizer_stage", "optimizer stage 'reward_model'"),
        ("alignkit-theirs", "kernel", "their-dist 2.0 has the kernel 'theirs'"),
        ("alignkit-eager", "kernel", "meaning of its own"),
        ("alignkit-auto", "kernel", "meaning of its own"),
    ],
)
def test_refused(name: str, kind: str, problem: str, manager: PluginManager) -> None:
    with pytest.raises(UserError, match=problem):
        check_name(name, kind, "Suffix", manager)  # type: ignore[arg-type]


def test_a_name_of_another_kind_is_free(manager: PluginManager) -> None:
    assert check_name("alignkit-gae", "sampler", "Sampler", manager).component == "gae"
    assert check_name("alignkit-eager", "sampler", "Sampler", manager).component == "eager"
    assert check_name("a" * 30, "sampler", "Sampler", manager).component == "a" * 30


def test_every_fixed_module_is_reserved() -> None:
    modules = {PurePath(path).stem.removeprefix("test_") for path in FILES if path.endswith(".py")}
    assert modules - {"__init__", "{component}"} == set(TAKEN_MODULES)


@pytest.mark.parametrize(
    ("name", "config"),
    [("alignkit-gmpo", "GmpoConfig"), ("alignkit-rollout-training", "RolloutTrainingObjectiveConfig")],
)
def test_the_options_have_the_component_s_name(name: str, config: str, manager: PluginManager) -> None:
    # The second would else have the name of the class that it derives from.
    assert check_name(name, "optimizer_stage", "Objective", manager).config_name == config
