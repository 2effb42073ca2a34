"""What a new plugin is called: its distribution, package, component and class, all from one name."""

import keyword
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

import yaml

from alignkit.components import RECIPE_WORDS, Kind
from alignkit.errors import UserError
from alignkit.manager import PluginManager
from alignkit.manager.local import LOCAL_DISTRIBUTION

PREFIX = "alignkit-"
# With longer names the generated import lines would grow over 120 characters.
MAX_CHARACTERS = 30
# Modules of the package and its tests that are there whatever the component is called.
TAKEN_MODULES = ("plugin", "conformance")
# Classes of alignkit that templates derive their options from.
BASE_CONFIGS = ("RolloutTrainingConfig", "DataTrainingConfig")


@dataclass(frozen=True)
class Names:
    """`alignkit-word-count` has the package `alignkit_word_count` and the component `word_count`."""

    distribution: str
    suffix: str

    @property
    def package(self) -> str:
        """The package that is imported."""
        return self.distribution.replace("-", "_")

    @property
    def component(self) -> str:
        """What recipes say, and the module that has the code."""
        return self.distribution.removeprefix(PREFIX).replace("-", "_")

    @property
    def class_name(self) -> str:
        """The component's class. It ends with its kind, so that it has the name of no class that it works with."""
        return self._camel if self._camel.endswith(self.suffix) else self._camel + self.suffix

    @property
    def config_name(self) -> str:
        """The class of its options."""
        name = f"{self._camel}Config"
        return f"{self.class_name}Config" if name in BASE_CONFIGS else name

    @property
    def _camel(self) -> str:
        return "".join(part.capitalize() for part in self.component.split("_"))


def check_name(name: str, kind: Kind, suffix: str, manager: PluginManager) -> Names:
    """The names that follow from `name`. Raises UserError for one that cannot be used or is taken."""
    _check_form(name)
    names = Names(name, suffix)
    for word in (names.package, names.component):
        if keyword.iskeyword(word):
            raise _unusable(name, f"{word!r} is a word of the Python language")
        if not word.isidentifier():
            raise _unusable(name, f"{word!r} is no name of a Python module")
    if name == LOCAL_DISTRIBUTION:
        raise _unusable(name, "plugins that are single files have it")
    if names.component in TAKEN_MODULES:
        raise _unusable(name, f"the package has a module {names.component!r} for something else")
    if names.component in RECIPE_WORDS.get(kind, ()):
        raise _unusable(name, f"{names.component!r} has a meaning of its own in recipes")
    if not isinstance(yaml.safe_load(names.component), str):
        raise _unusable(name, f"{names.component!r} is no text in YAML, so recipes would have to quote it")
    _check_free(names, kind, manager)
    return names


def _check_form(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise _unusable(name, "it has letters, digits and - only, and begins and ends with a letter or digit")
    normalised = re.sub(r"[-_.]+", "-", name).lower()
    if name != normalised:
        raise UserError(
            f"the name {name!r} is not in the form that package indexes use", where="NAME", hint=f"write {normalised}"
        )
    if len(name) > MAX_CHARACTERS:
        raise _unusable(name, f"it has {len(name)} characters, at most {MAX_CHARACTERS} are handy")


def _check_free(names: Names, kind: Kind, manager: PluginManager) -> None:
    if find_spec(names.package) is not None:
        raise _unusable(names.distribution, f"a module {names.package!r} is installed already")
    try:
        version = distribution(names.distribution).version
    except PackageNotFoundError:
        pass
    else:
        raise _unusable(names.distribution, f"{names.distribution} {version} is installed already")
    owner = next((r for r in manager.all(kind) if r.component.name == names.component), None)
    if owner is not None:
        what = f"{owner.distribution} {owner.version} has the {kind.replace('_', ' ')} {names.component!r} already"
        raise _unusable(names.distribution, what)


def _unusable(name: str, why: str) -> UserError:
    return UserError(f"the name {name!r} cannot be used: {why}", where="NAME", hint="choose another name")
