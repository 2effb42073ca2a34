"""Looks at every plugin for what a user or its author should know: `alignkit plugins doctor`."""

from alignkit.doctor.examine import examine
from alignkit.doctor.finding import CODES, Finding

__all__ = ["CODES", "Finding", "examine"]
