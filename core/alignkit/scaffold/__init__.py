"""Writes the package of a new plugin: a small working component, its tests, its metadata (`alignkit new plugin`)."""

from alignkit.scaffold.naming import Names, check_name
from alignkit.scaffold.variants import VARIANTS, Variant, variant_of
from alignkit.scaffold.write import write_package

__all__ = ["VARIANTS", "Names", "Variant", "check_name", "variant_of", "write_package"]
