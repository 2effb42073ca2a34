"""What the tests of findings share: fixtures' types, and what a list of findings holds."""

from collections.abc import Callable, Iterable

from alignkit.context import StepContext
from alignkit.preflight import DataView, Finding
from alignkit.preflight.folder import ModelFacts

Facts = Callable[..., ModelFacts]
View = Callable[..., DataView]
Context = Callable[..., StepContext]


def codes(findings: Iterable[Finding]) -> list[str]:
    """The codes alone."""
    return [finding.code for finding in findings]


def with_code(findings: Iterable[Finding], code: str) -> Finding:
    """The only finding with this code."""
    (found,) = [finding for finding in findings if finding.code == code]
    return found


def examine(context: StepContext) -> list[Finding]:
    """What the last step of the context's recipe says of itself; it must not lack an input."""
    built = context.build("step", context.recipe.steps[-1].component)
    return list(built.examine(context))
