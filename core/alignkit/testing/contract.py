"""What every component owes, whatever its kind: a name, options that explain themselves, a build that keeps to it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ValidationError

from alignkit.components import Kind
from alignkit.context import StepContext
from alignkit.contracts import missing
from alignkit.errors import UserError
from alignkit.manager import PluginManager, Registered
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve
from alignkit.testing.context import make_context
from alignkit.testing.registration import (
    DISTRIBUTION,
    heavy_imports,
    is_installed,
    manager_with,
    module_of,
    registering_module,
)

SUMMARY_CHARACTERS = 160


def undescribed(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Options, of models inside too, that say nothing about themselves."""
    for name, field in config.model_fields.items():
        if not field.description:
            yield prefix + name
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not ComponentSpec:
                yield from undescribed(inner, f"{prefix}{name}.")


def _left_out(reason: str) -> Callable[[Any], None]:
    def check(self: Any) -> None:
        """Left out by the component's author."""
        pytest.skip(f"left out: {reason}")

    return check


class ComponentContract:
    """The checks of all kinds. Name a component in a subclass of one of the kinds' own classes.

    A check that a component breaks for a good reason is left out by name, with the reason: `left_out`.
    """

    kind: ClassVar[Kind]
    component: ClassVar[str]
    """The component's name, or `distribution:name`."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Its options, as a recipe would give them. Those that need files: override `make_options`."""
    bad_options: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Sets of options that must be refused."""
    left_out: ClassVar[Mapping[str, str]] = {}
    """Checks that do not apply -> why not: they are reported as skipped, with the reason."""
    plugin: ClassVar[Any] = None
    """A module (or object) with hooks, for a package that is not installed."""
    device: ClassVar[str] = "cpu"
    """The device that the component is built for."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for name, reason in cls.__dict__.get("left_out", {}).items():
            if not name.startswith("test_") or not callable(getattr(cls, name, None)):
                raise TypeError(f"{cls.__name__}.left_out names {name}, and there is no such check")
            setattr(cls, name, _left_out(reason))

    def make_options(self, folder: Path) -> dict[str, Any]:
        """The options of this component; `folder` is empty and may be filled with what they name."""
        return dict(self.options)

    def allowed(self, options: Mapping[str, Any]) -> frozenset[str]:
        """Code that the options name and that may run (`--allow-code`)."""
        return frozenset()

    def resolved(self, options: Mapping[str, Any]) -> BaseModel:
        """The validated options, with everything that `alignkit check` would look at. Raises UserError."""
        spec = ComponentSpec(name=self._reference(), **options)
        return resolve(manager_with(self.plugin), self.kind, spec, allowed=self.allowed(options)).config

    def _reference(self) -> str:
        """The component's name in a recipe; a module under test stands beside installed plugins of any name."""
        if self.plugin is None or ":" in self.component or is_installed(self.plugin):
            return self.component
        return f"{DISTRIBUTION}:{self.component}"

    @pytest.fixture
    def manager(self) -> PluginManager:
        """Every installed plugin, and `plugin`."""
        return manager_with(self.plugin)

    @pytest.fixture
    def registered(self, manager: PluginManager) -> Registered:
        """The component with its owner."""
        try:
            return manager.get(self.kind, self._reference())
        except UserError as error:
            pytest.fail(str(error), pytrace=False)

    @pytest.fixture
    def options_folder(self, tmp_path: Path) -> Path:
        """The folder that `make_options` gets."""
        folder = tmp_path / "options"
        folder.mkdir()
        return folder

    @pytest.fixture
    def config(self, registered: Registered, options_folder: Path) -> BaseModel:
        """Its validated options."""
        return self.resolved(self.make_options(options_folder))

    @pytest.fixture
    def context(self, tmp_path: Path, manager: PluginManager) -> StepContext:
        """What it is built with: eager ops, seed 0, a folder."""
        folder = tmp_path / "step"
        folder.mkdir()
        return make_context(folder, manager=manager, device=self.device)

    @pytest.fixture
    def built(self, registered: Registered, config: BaseModel, context: StepContext) -> Any:
        """What the component's `build` returns."""
        return registered.build(config, context)

    def test_is_registered_under_its_name(self, registered: Registered) -> None:
        """A recipe finds the component by the name that it was registered with."""
        assert registered.kind == self.kind
        assert registered.component.name == self.component.rpartition(":")[2]

    def test_has_a_one_line_summary(self, registered: Registered) -> None:
        """`alignkit plugins` shows one line about each component."""
        summary = registered.component.summary
        assert summary.strip(), "Component(summary=…) is empty"
        assert "\n" not in summary, "Component(summary=…) is one line"
        assert len(summary) <= SUMMARY_CHARACTERS, f"{len(summary)} characters, at most {SUMMARY_CHARACTERS}"

    def test_every_option_has_a_description(self, registered: Registered) -> None:
        """Descriptions are the documentation of options: `alignkit plugins show`, the schema, the site."""
        silent = list(undescribed(registered.component.config))
        assert silent == [], f"give these options Field(…, description=…): {', '.join(silent)}"

    def test_options_have_a_json_schema(self, registered: Registered) -> None:
        """Editors complete recipes from the schema, so it must be possible to make one."""
        try:
            schema = json.loads(json.dumps(registered.component.config.model_json_schema()))
        except Exception as error:
            pytest.fail(f"{registered.component.config.__name__} has no JSON schema: {error}", pytrace=False)
        assert schema["type"] == "object"

    def test_unknown_option_is_refused(self, registered: Registered, options_folder: Path) -> None:
        """A misspelled option that is silently ignored costs a run: the config forbids unknown keys."""
        options = {**self.make_options(options_folder), "no_such_option": 1}
        with pytest.raises(UserError, match="no_such_option"):
            self.resolved(options)

    def test_bad_options_are_refused(self, registered: Registered) -> None:
        """A value that cannot work is an error before anything runs, not after an hour of training."""
        if not self.bad_options:
            pytest.skip("bad_options is empty")
        for options in self.bad_options:
            with pytest.raises(UserError):
                pytest.fail(f"{options} gave {self.resolved(options)!r}", pytrace=False)

    def test_checking_options_writes_nothing(
        self, registered: Registered, options_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`alignkit check` may be asked at any time and anywhere: `Component.check` looks and leaves no files."""
        options = self.make_options(options_folder)
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.chdir(tmp_path)
        self.resolved(options)
        new = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*")) if path not in before]
        assert new == [], f"checking the options wrote {', '.join(new)}"

    def test_options_are_frozen(self, config: BaseModel) -> None:
        """What a run records is what it used: options cannot change after they were validated."""
        for name in type(config).model_fields:
            with pytest.raises(ValidationError):
                setattr(config, name, getattr(config, name))

    def test_options_survive_json(self, config: BaseModel) -> None:
        """A run's record is JSON: options written and read back are the same options."""
        written = json.loads(json.dumps(config.model_dump(mode="json")))
        try:
            again = type(config).model_validate(written)
        except ValidationError as error:
            pytest.fail(f"{written} is refused: {error}", pytrace=False)
        assert again == config

    def test_registration_imports_nothing_heavy(self, registered: Registered) -> None:
        """Every command of alignkit loads every plugin: torch and its like are imported in `build`, not beside it."""
        module = registering_module(registered) if self.plugin is None else module_of(self.plugin)
        found = heavy_imports(module)
        assert found == [], f"importing {module} loads {', '.join(found)}: move that import into a function"

    def test_build_satisfies_the_protocol(self, registered: Registered, config: Any, context: StepContext) -> None:
        """The engine calls what the kind's Protocol in `alignkit.protocols` names, with those arguments."""
        lacks = missing(self.kind, registered.component.build(config, context))
        assert lacks == [], f"what build returned lacks {'; '.join(lacks)}"

    def test_each_build_is_an_object_of_its_own(self, registered: Registered, config: Any, context: Any) -> None:
        """Two steps may name one component; what one of them does must not reach the other."""
        assert registered.build(config, context) is not registered.build(config, context)
