"""Forward passes of one batch over its cache: the prompts at once, then one token of each row."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from alignkit.modeling.backbone import run_backbone
from alignkit.protocols import Policy
from alignkit_plugins.sampler_hf.cache import can_select, make_cache, select
from alignkit_plugins.sampler_hf.fixed_step import FixedStep
from alignkit_plugins.sampler_hf.notices import say_once
from alignkit_plugins.sampler_hf.packing import Product


class Stepper:
    """Logits of the next token of each row.

    Equal prompts are read once. Rows without padding need no attention mask, which leaves the fast attention paths
    open. `captured`: storage, mask and inputs keep their shapes and addresses, and on a GPU one step is captured in a
    CUDA graph; on a CPU the same code runs without the capture.
    """

    def __init__(
        self, policy: Policy, prompt_ids: Sequence[Sequence[int]], max_length: int, logits_of: Product, captured: bool
    ) -> None:
        model: Any = policy.module
        self.model = model
        self.logits_of = logits_of
        self.device = policy.device
        self.width = max(len(p) for p in prompt_ids)
        room = self.width + max_length
        self._takes = inspect.signature(model.base_model.forward).parameters
        fixed = captured and "position_ids" in self._takes  # others read positions out of a mask that grows
        self.cache = self._make_cache(room, fixed)
        self.can_keep = self.cache is not None and can_select(self.cache)
        self.captured = fixed and self.can_keep
        if captured and not self.captured:
            say_once(f"{type(self.model).__name__} has no step of fixed shape: it is decoded as with decode: eager")
        self._fixed: FixedStep | None = None
        rows = [tuple(p) for p in prompt_ids]
        distinct = list(dict.fromkeys(rows)) if self.can_keep else rows
        self._origin = {p: n for n, p in enumerate(distinct)}
        self._rows = rows
        self.ids_BT = torch.full((len(distinct), self.width), policy.pad_id, dtype=torch.long)
        mask_BC = torch.ones((len(distinct), room), dtype=torch.long)
        for b, prompt in enumerate(distinct):
            start = self.width - len(prompt)
            self.ids_BT[b, start:] = torch.as_tensor(prompt)
            mask_BC[b, :start] = 0
        self.positions_BT = (mask_BC[:, : self.width].cumsum(-1) - 1).clamp(min=0).to(self.device)
        self.ids_BT, self.mask_BC = self.ids_BT.to(self.device), mask_BC.to(self.device)
        self.length = self.width
        self.padding = [self.width - len(p) for p in distinct]

    def _make_cache(self, room: int, fixed: bool) -> Cache | None:
        if "past_key_values" in self._takes:
            return make_cache(self.model, self.device, room, fixed)
        say_once(f"{type(self.model).__name__} takes no key-value cache: each token reads the whole row anew (slow)")
        return None

    def prefill(self) -> Tensor:
        """Logits behind the prompts, [B, V]."""
        logits_BV = self._forward(self.ids_BT, self.positions_BT, self._mask())
        self.positions_BT = self.positions_BT[:, -1:] + 1
        if len(self._origin) < len(self._rows) and self.can_keep:
            origin_B = torch.tensor([self._origin[p] for p in self._rows], device=self.device)
            self.keep(origin_B)
            logits_BV = logits_BV[origin_B]
        return logits_BV

    def step(self, token_B: Tensor) -> Tensor:
        """Logits behind one more token of each row, [B, V]."""
        self.length += 1
        if self.captured:
            if self._fixed is None:
                self._fixed = self._fixed_step(token_B)
            return self._fixed(token_B)
        ids_BT, positions_BT = token_B[:, None], self.positions_BT
        if self.cache is None:
            ids_BT = self.ids_BT = torch.cat([self.ids_BT, ids_BT], dim=1)
            positions_BT = (self.mask_BC[:, : self.length].cumsum(-1) - 1).clamp(min=0)
        self.positions_BT = self.positions_BT + 1
        return self._forward(ids_BT, positions_BT, self._mask())

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone; a row may come more than once."""
        assert self.cache is not None
        if self._fixed is not None:  # its shapes no longer fit
            self.positions_BT, self._fixed = self._fixed.positions_B1, None
        select(self.cache, rows)
        self.mask_BC, self.positions_BT = self.mask_BC[rows], self.positions_BT[rows]
        self.padding = [self.padding[b] for b in rows.tolist()]

    def _fixed_step(self, token_B: Tensor) -> FixedStep:
        assert self.cache is not None
        counters: list[Any] = [layer.cumulative_length for layer in self.cache.layers]
        mask_BC = self.mask_BC

        def forward(ids_B1: Tensor, positions_B1: Tensor) -> Tensor:
            return self._forward(ids_B1, positions_B1, mask_BC)

        return FixedStep(forward, token_B[:, None], self.positions_BT, counters)

    def _mask(self) -> Tensor | None:
        if not any(self.padding) and self.can_keep:
            return None
        return self.mask_BC[:, : self.length]

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
        arguments: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if "position_ids" in self._takes:
            arguments["position_ids"] = positions_BT
        if self.cache is not None:
            arguments["past_key_values"] = self.cache
        out = run_backbone(self.model, use_cache=self.cache is not None, **arguments)
        return self.logits_of(out.last_hidden_state[:, -1])
