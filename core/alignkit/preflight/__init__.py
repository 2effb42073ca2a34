"""Looks at a run before it starts and at each step before it is done. docs/check.md explains every code."""

from alignkit.preflight.finding import CODES, Finding
from alignkit.preflight.looking import each
from alignkit.preflight.moments import before_run, before_step, recipe_findings, say
from alignkit.preflight.options import batch_findings, optimizer_findings
from alignkit.preflight.rows import block_findings, row_findings
from alignkit.preflight.sample import DataView, Sample

__all__ = [
    "CODES",
    "DataView",
    "Finding",
    "Sample",
    "batch_findings",
    "before_run",
    "before_step",
    "block_findings",
    "each",
    "optimizer_findings",
    "recipe_findings",
    "row_findings",
    "say",
]
