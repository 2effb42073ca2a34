"""A call with a time limit, in a thread that computes as the caller's does."""

import contextvars
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor


class OverTimeError(TimeoutError):
    """The limit of `within` passed."""


def within(limit: float | None, call: Callable[[], Tensor]) -> Tensor:
    """What `call` returns. Raises TimeoutError after `limit` seconds.

    The call runs in a thread then. Python cannot end a thread: one that hangs stays until the process ends, and may
    still be at work while the source is asked again.
    """
    if limit is None:
        return call()
    found: list[Tensor] = []
    raised: list[BaseException] = []
    settings = _thread_settings()

    def work() -> None:
        try:
            with settings():
                found.append(call())
        except BaseException as error:  # raised again where it was called
            raised.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="reward source", daemon=True)
    thread.start()
    thread.join(limit)
    if thread.is_alive():
        raise OverTimeError(f"gave no answer within {limit:g} s")
    if raised:
        raise raised[0]
    return found[0]


def _thread_settings() -> Callable[[], Any]:
    """torch keeps autocast, gradient mode and the current GPU for each thread: another one takes them over."""
    kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    casts = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]
    gradient = torch.is_grad_enabled()
    begun = "cuda" in kinds and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    device = torch.cuda.current_device() if begun else None

    def apply() -> ExitStack:
        stack = ExitStack()
        if device is not None:
            torch.cuda.set_device(device)
        stack.enter_context(torch.set_grad_enabled(gradient))
        for kind, dtype, enabled in casts:
            stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
        return stack

    return apply
