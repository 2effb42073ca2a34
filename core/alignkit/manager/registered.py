"""A component with its owner, and what became of a plugin."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from alignkit.components import Component, Kind
from alignkit.errors import ENDINGS, AlignkitError, Fault, out_of_memory, said_by
from alignkit.manager.local import LOCAL_DISTRIBUTION, RELATIVE, imports_itself

if TYPE_CHECKING:
    from alignkit.manager.manager import PluginManager

BUILTIN_DISTRIBUTION = "alignkit"


@dataclass(frozen=True)
class Registered:
    """A component with its owner.

    What a stranger's component does wrong is a `Fault` with the owner's name; the project's own errors pass as they
    are.
    """

    kind: Kind
    component: Component
    plugin: str
    distribution: str
    version: str

    @property
    def reference(self) -> str:
        """The name that is never ambiguous."""
        return f"{self.distribution}:{self.component.name}"

    @property
    def described(self) -> str:
        """`DIST VERSION: KIND 'NAME'`, the head of every error about it."""
        return f"{self.distribution} {self.version}: {self.kind.replace('_', ' ')} {self.component.name!r}"

    def build(self, config: BaseModel, context: Any) -> Any:
        """The component itself. Raises Fault for a build that fails or does not keep to its kind's Protocol."""
        from alignkit.contracts import missing

        with self._named("could not be built"):
            built = self.component.build(config, context)
            problems = missing(self.kind, built)
        if problems:
            raise Fault(
                f"{self.described} does not keep to the Protocol of its kind: {'; '.join(problems)}",
                hint="alignkit.protocols says what is needed; alignkit.testing checks it",
            )
        return built

    def check(self, config: BaseModel, manager: "PluginManager") -> None:
        """The component's own check before a run starts, if it has one. Raises UserError."""
        if self.component.check is not None:
            with self._named("could not be checked"):
                self.component.check(config, manager)

    def code(self, config: BaseModel) -> str | None:
        """Name of the code that it would run with these options."""
        if self.component.code is None:
            return None
        with self._named("could not say what code it runs"):
            return self.component.code(config)

    @contextmanager
    def validating(self) -> Iterator[None]:
        """For the validation of its options: a validator of its config may fail in ways that pydantic lets pass."""
        with self._named("could not validate its options"):
            yield

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except (AlignkitError, *ENDINGS):
            raise
        except BaseException as error:
            raise self.blamed(what, error) from error

    def blamed(self, what: str, error: BaseException) -> BaseException:
        """What to raise for an error of the component: a Fault with its owner's name, or for our own the error."""
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if self.distribution == BUILTIN_DISTRIBUTION or full or out_of_memory(error):
            return error
        hint = f"the plugin {self.plugin} is at fault, or something that it needs is not installed"
        if self.distribution == LOCAL_DISTRIBUTION and imports_itself(error, self.plugin):
            hint = RELATIVE
        return Fault(f"{self.described} {what}: {said_by(error)} ({self._place(error)})", hint=hint)

    def _place(self, error: BaseException) -> str:
        """The last line of the plugin's own code on the way to the error; that of its build, if there is none."""
        package = str(getattr(self.component.build, "__module__", "")).partition(".")[0]
        places = []
        for frame, line in traceback.walk_tb(error.__traceback__):
            module = str(frame.f_globals.get("__name__", ""))
            file = frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
            places.append((module.partition(".")[0] == package, f"{file}:{line}"))
        own = [place for is_own, place in places if is_own]
        code = getattr(self.component.build, "__code__", None)
        if not own and code is not None:  # it was never entered: it does not take the arguments
            return f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        return own[-1] if own else places[-1][1]


@dataclass
class PluginStatus:
    """What became of one plugin.

    `kind` and `source` say where it is from: the value of an entry point, a file, or the hand of a test.
    """

    name: str
    distribution: str
    version: str
    problem: str | None = None
    components: list[Registered] = field(default_factory=list)
    kind: Literal["entry_point", "file", "object"] = "object"
    source: str = ""
    warnings: list[str] = field(default_factory=list)  # deprecated things that it uses
    seconds: float = 0.0  # that its import took
    heavy: tuple[str, ...] = ()  # large packages that its import brought in

    @property
    def status(self) -> str:
        """`ok` or `failed`."""
        return "failed" if self.problem else "ok"

    @property
    def owner(self) -> str:
        """`DIST VERSION (PLUGIN)`."""
        return f"{self.distribution} {self.version} ({self.name})"

    @property
    def key(self) -> str:
        """Name that no other plugin has."""
        return f"{self.distribution}:{self.name}"
