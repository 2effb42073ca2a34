"""A package of every variant, as `alignkit new plugin` writes them."""

from pathlib import Path
from typing import NamedTuple

from alignkit.scaffold import VARIANTS, Names, Variant, write_package


class Package(NamedTuple):
    """A generated package."""

    variant: Variant
    names: Names
    folder: Path

    @property
    def source(self) -> Path:
        """The folder with its modules."""
        return self.folder / "src" / self.names.package


def write_all(pattern: str, parent: Path) -> list[Package]:
    """One package per variant, whose folder stands for {} in `pattern`: `alignkit-x{}`; at most 30 characters."""
    found = []
    for variant in VARIANTS:
        names = Names(pattern.format(variant.folder.replace("_", "-"))[:30], variant.suffix)
        write_package(names, variant, parent)
        found.append(Package(variant, names, parent / names.distribution))
    assert len({package.folder for package in found}) == 9
    return found
