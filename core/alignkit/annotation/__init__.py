"""Questions to people and their answers, kept so that no acknowledged answer can be lost."""

from alignkit.annotation.annotators import Annotators, Person
from alignkit.annotation.refusals import StoreFault
from alignkit.annotation.replies import (
    Briefing,
    Form,
    Past,
    Progress,
    Refused,
    Snapshot,
    Standing,
    Workload,
)
from alignkit.annotation.store import AnnotationStore, guidelines_version

__all__ = [
    "AnnotationStore",
    "Annotators",
    "Briefing",
    "Form",
    "Past",
    "Person",
    "Progress",
    "Refused",
    "Snapshot",
    "Standing",
    "StoreFault",
    "Workload",
    "guidelines_version",
]
