"""Questions to people and their answers, kept so that no acknowledged answer can be lost."""

from alignkit.annotation.store import AnnotationStore, Progress, Refused, Snapshot

__all__ = ["AnnotationStore", "Progress", "Refused", "Snapshot"]
