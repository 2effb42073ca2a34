"""Other libraries' functions behind this benchmark's three signatures. Each is there if its package is installed.

cross_entropy(h_TH, weight_VH, y_T) -> mean negative log-likelihood
logprob_entropy(h_TH, weight_VH, y_T) -> log-prob [T] and entropy [T]
clipped_loss(h_TH, weight_VH, y_T, advantages_T, weights_T, old_logp_T) -> PPO's clipped loss, summed with weights
"""

import importlib.util
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.batches import Head
from alignkit.manager import PluginManager
from alignkit.ops import EAGER, OPS, usable_kernels

Functions = dict[str, Callable[..., Any]]
CLIP = 0.2
PACKAGES = {"liger": "liger-kernel", "cce": "cut-cross-entropy", "quack": "quack-kernels", "verl": "verl"}


def tasks(device: torch.device, length: int) -> tuple[dict[str, Functions], dict[str, str]]:
    """Task -> name -> function; and name -> why it is missing."""
    found: dict[str, Functions] = {"cross_entropy": {}, "logprob_entropy": {}, "clipped_loss": {}}
    missing: dict[str, str] = {}
    for name, ops in _own(device, missing).items():
        found["cross_entropy"][name] = lambda h, w, y, ops=ops: _own_cross_entropy(ops, h, w, y)
        found["logprob_entropy"][name] = lambda h, w, y, ops=ops: ops["linear_logprob"](
            h, Head(w), y, with_entropy=True
        )
        found["clipped_loss"][name] = lambda h, w, y, a, u, old, ops=ops: ops["fused_linear_policy_loss"](
            h, Head(w), y, a, u, old_logp_N=old, clip_low=CLIP, clip_high=CLIP
        )[0]
    found["cross_entropy"][EAGER] = lambda h, w, y: F.cross_entropy(F.linear(h, w).float(), y)
    if hasattr(F, "linear_cross_entropy"):
        found["cross_entropy"]["torch"] = F.linear_cross_entropy
    found["logprob_entropy"]["rows"] = rows_in_a_loop
    for name, add in {"liger": _liger, "cce": _cce, "quack": _quack, "verl": _verl}.items():
        try:
            add(found, length)
        except Exception as error:  # not installed, or not for this device
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found, missing


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _own(device: torch.device, missing: dict[str, str]) -> dict[str, dict[str, Any]]:
    manager = PluginManager()
    manager.load()
    found: dict[str, dict[str, Any]] = {EAGER: dict(OPS)}
    usable, missed = usable_kernels(manager, device)
    found |= {name: {**OPS, **kernel.implementations()} for name, _, kernel in usable}
    missing |= missed
    return found


def _own_cross_entropy(ops: dict[str, Any], h: Tensor, w: Tensor, y: Tensor) -> Tensor:
    ones = torch.ones(len(h), device=h.device)
    return ops["fused_linear_policy_loss"](h, Head(w), y, ones, ones / len(h))[0]


def rows_in_a_loop(h: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of all tokens, log-softmax row by row, entropy in blocks of 128 rows: what trainers do to save memory."""
    logits = F.linear(h, w)
    logp = torch.stack([F.log_softmax(row.float(), -1)[id] for row, id in zip(logits, y, strict=True)])
    entropy = []
    for block in logits.split(128):
        logs = F.log_softmax(block.float(), -1)
        entropy.append(-(logs.exp() * logs).sum(-1))
    return logp, torch.cat(entropy)


def _liger(found: dict[str, Functions], length: int) -> None:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    cross_entropy = LigerFusedLinearCrossEntropyLoss(accum_dtype=torch.float32)
    found["cross_entropy"]["liger"] = lambda h, w, y: cross_entropy(w, h, y)
    grpo = LigerFusedLinearGRPOLoss(
        beta=0.0, use_ref_model=False, epsilon_low=CLIP, epsilon_high=CLIP, loss_type="bnpo"
    )

    def clipped_loss(h: Tensor, w: Tensor, y: Tensor, a: Tensor, u: Tensor, old: Tensor) -> Tensor:
        # completions of `length` tokens, one advantage each; the mean over tokens that are not masked
        rows = len(h) // length
        mask = (u > 0).view(rows, length)
        inputs = h.view(rows, length, -1), w, y.view(rows, length), mask.long(), a.view(rows, length)[:, 0]
        return grpo(*inputs, old_per_token_logps=old.view(rows, length))[0]

    found["clipped_loss"]["liger"] = clipped_loss


def _cce(found: dict[str, Functions], length: int) -> None:
    from cut_cross_entropy import linear_cross_entropy

    found["cross_entropy"]["cce"] = lambda h, w, y: linear_cross_entropy(h, w, y)
    found["cross_entropy"]["cce, exact"] = lambda h, w, y: linear_cross_entropy(h, w, y, filter_eps=None)


def _quack(found: dict[str, Functions], length: int) -> None:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    found["cross_entropy"]["quack"] = chunked_linear_cross_entropy


def _verl(found: dict[str, Functions], length: int) -> None:
    # The one file, which needs torch alone: the package's own import asks for all of its dependencies.
    file = distribution("verl").locate_file("verl/utils/experimental/torch_functional.py")
    spec = importlib.util.spec_from_file_location("verl_torch_functional", str(file))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found["logprob_entropy"]["verl"] = module.FusedLinearForPPOFunction.apply
