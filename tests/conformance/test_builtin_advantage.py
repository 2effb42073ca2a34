"""Every built-in advantage estimator keeps the contract of its kind."""

from alignkit.manager import PluginManager
from alignkit.testing import AdvantageContract


class TestGAE(AdvantageContract):
    component = "gae"
    bad_options = ({"gamma": 0}, {"gamma": 1.1}, {"lam": -0.1}, {"whiten_variance": "any"})


class TestGAEOfOneStep(AdvantageContract):
    component = "gae"
    options = {"gamma": 0.9, "lam": 0.0, "whiten": False}


class TestGRPO(AdvantageContract):
    component = "grpo"
    bad_options = ({"normalise_std": "sometimes"},)


class TestDrGRPO(AdvantageContract):
    component = "grpo"
    options = {"normalise_std": False}


class TestRLOO(AdvantageContract):
    component = "alignkit:rloo"


class TestReMax(AdvantageContract):
    component = "remax"


class TestReinforcePP(AdvantageContract):
    component = "reinforce_pp"
    bad_options = ({"gamma": 2},)


class TestReinforcePPWithBaseline(AdvantageContract):
    component = "reinforce_pp"
    options = {"baseline": True, "gamma": 0.9, "whiten": False}


def test_none_is_left_out() -> None:
    manager = PluginManager()
    manager.load()
    tested = {c.component.rpartition(":")[2] for c in AdvantageContract.__subclasses__() if c.__module__ == __name__}
    builtin = {r.component.name for r in manager.all("advantage") if r.distribution == "alignkit"}
    assert tested == builtin
