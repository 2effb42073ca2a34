"""Importance weights between the sampler's probabilities and the trainer's."""

import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.kl import MAX_LOG_RATIO
from alignkit.protocols import Experience
from alignkit.training.rollout_config import ImportanceConfig


def importance_weights(
    experience: Experience, config: ImportanceConfig | None
) -> tuple[Tensor | None, dict[str, float]]:
    """Weights [B, T] that multiply each token's loss, never differentiated, and figures raw and as used.

    w = pi_trainer / pi_sampler of the sampled token, both before the update and at the sampling temperature; for the
    level `sequence` the product over the completion. None without a config. Raises UserError where the sampler gave
    no log-probs.
    """
    if config is None:
        return None, {}
    sampler_BT = experience.rollout.sampler_logp_BT
    if sampler_BT is None:
        raise UserError(
            "the importance correction needs the sampler's log-probs and it gives none",
            where="optimizer_stage.importance",
            hint="leave importance out, or use another sampler",
        )
    mask_BT = experience.mask_BT
    difference_BT = (experience.logp_BT - sampler_BT) * mask_BT
    if config.level == "sequence":
        difference_BT = difference_BT.sum(-1, keepdim=True) * mask_BT
    raw_BT = difference_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * mask_BT
    if config.mode == "truncate":
        used_BT = raw_BT.clamp(max=config.max)
    else:
        used_BT = torch.where((raw_BT >= config.min) & (raw_BT <= config.max), raw_BT, torch.zeros_like(raw_BT))
    figures = {
        "importance_raw": float(raw_BT[mask_BT].mean()),
        "importance_raw_max": float(raw_BT[mask_BT].max()),
        "importance": float(used_BT[mask_BT].mean()),
        "importance_cut": float((used_BT != raw_BT)[mask_BT].float().mean()),
    }
    return used_BT, figures
