"""The contracts of reward sources, checked on `vader`: it scores and it judges."""

from alignkit.testing import AnnotatesContract, ScoresContract


class TestScores(ScoresContract):
    component = "vader"
    better_than = [("A wonderful film.", "A terrible film."), ("It is good.", "It is not good.")]
    bad_options = ({"target": "neutral"},)


class TestAnnotates(AnnotatesContract):
    component = "vader"
    options = {"target": "negative"}
    better_than = [("A terrible film.", "A wonderful film."), ("It is long.", "It is good.")]
