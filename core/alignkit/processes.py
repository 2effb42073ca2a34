"""Several processes that work on one run together."""

import torch.distributed as dist

from alignkit.errors import UserError


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def require_one_to_skip(where: str) -> None:
    """Raise UserError if there are others: what one leaves out, they wait for without end, or learn from alone."""
    if several():
        raise UserError(
            "one of several processes cannot leave anything out: the others would wait for it or part from it",
            where=where,
            hint="use stop, or one process",
        )
