"""One step is looked at: what it says of itself, as far as its inputs are there."""

from collections.abc import Callable, Iterable, Iterator

from alignkit.context import StepContext
from alignkit.errors import ENDINGS, AlignkitError, UserError, said_by
from alignkit.preflight.finding import Finding
from alignkit.protocols import Examines


class NotYetError(UserError):
    """An input that an earlier step has not made yet."""

    def __init__(self, references: Iterable[str]) -> None:
        self.references = tuple(dict.fromkeys(references))
        super().__init__(f"needs {', '.join(self.references)}", where="recipe")


def each(*looks: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of all, whatever input one of them does not find; which are missing is said at the end."""
    missing: list[str] = []
    for look in looks:
        try:
            yield from look()
        except NotYetError as error:
            missing += error.references
    if missing:
        raise NotYetError(missing)


def look_at(built: object, context: StepContext) -> tuple[list[Finding], tuple[str, ...]]:
    """Findings of a step, and the references that it still needs. What it fails with becomes a finding."""
    found: list[Finding] = []
    if not isinstance(built, Examines):
        return found, ()
    try:
        for finding in built.examine(context):
            found.append(finding)
    except NotYetError as error:
        return found, error.references
    except UserError as error:
        where = "" if error.where == "recipe" else error.where or ""  # which is no option
        found.append(Finding("R002", error.what, where, error.hint or ""))
    except ENDINGS:
        raise
    except AlignkitError as error:
        found.append(Finding.of("R005", error))
    except Exception as error:
        found.append(Finding("R005", f"its examine failed: {said_by(error)}"))
    return found, ()
