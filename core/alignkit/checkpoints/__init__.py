"""Checkpoints of a step that is not finished: what it needs to go on bit for bit, and nothing pickled."""

from alignkit.checkpoints.checkpoints import CheckpointLoop, Checkpoints
from alignkit.checkpoints.packing import prefixed, under
from alignkit.checkpoints.rows import RowFile
from alignkit.checkpoints.states import module_state, restore_module

__all__ = ["CheckpointLoop", "Checkpoints", "RowFile", "module_state", "prefixed", "restore_module", "under"]
