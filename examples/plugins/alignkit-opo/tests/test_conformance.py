"""The contract of advantage estimators, checked on `opo`."""

from alignkit.testing import AdvantageContract


class TestOPO(AdvantageContract):
    component = "opo"
