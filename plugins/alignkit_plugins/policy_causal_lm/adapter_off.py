"""The reference of a LoRA policy: the same module, run with its adapter off, so that no second model is in memory."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from alignkit_plugins.policy_causal_lm.lora import lora_layers


class AdapterOff(nn.Module):
    """Stands in for `inner` and runs it without adapters and in evaluation mode, each call for itself.

    It has no parameters, and its own mode (`eval()`, `train()`) says nothing to `inner`, which may be in the middle of
    training with dropout.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._hidden = (inner,)  # in a tuple, so that torch does not take it for a child
        self.base_model = Switched(inner.base_model.forward, self._run_backbone)
        self.eval()

    @property
    def inner(self) -> Any:
        """The module with its adapter."""
        return self._hidden[0]

    @property
    def config(self) -> Any:
        """Of the model."""
        return self.inner.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.inner.device)

    def get_output_embeddings(self) -> Any:
        """The vocabulary projection, which never has an adapter."""
        return self.inner.get_output_embeddings()

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """The model's output, adapter off."""
        with adapter_off(self.inner):
            return self.inner(*arguments, **options)

    def _run_backbone(self, *arguments: Any, **options: Any) -> Any:
        with adapter_off(self.inner):
            return self.inner.base_model(*arguments, **options)

    def __deepcopy__(self, memo: Any) -> "AdapterOff":
        raise TypeError("a view of a module cannot be copied without it")


class Switched:
    """A callable that shows the signature of the `forward` it stands for: callers ask whether it takes positions."""

    def __init__(self, forward: Callable[..., Any], run: Callable[..., Any]) -> None:
        self._run = run
        self.forward = functools.update_wrapper(functools.partial(run), forward)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._run(*arguments, **options)


@contextmanager
def adapter_off(module: nn.Module) -> Iterator[None]:
    """Inside, `module` is its base model, exactly, in evaluation mode; every layer's mode is put back."""
    training = [m for m in module.modules() if m.training]
    layers = [layer for _, layer in lora_layers(module)]
    for m in training:
        m.training = False
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for m in training:
            m.training = True
