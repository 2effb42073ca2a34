"""Critics made from a policy: a model of its own that starts from the policy's weights, or a head on its trunk."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignkit.batches import TokenBatch
from alignkit.modeling.encoding import TextEncoder
from alignkit.modeling.scorer import SequenceScorer

if TYPE_CHECKING:
    from alignkit_plugins.policy_causal_lm.policy import CausalLM


def classifier(config: Any, backbone: Mapping[str, Tensor], encoder: TextEncoder, device: torch.device) -> Any:
    """A one-label sequence classifier with a copy of `backbone`'s weights and a zero head, in float32."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(config)  # the policy's own must not turn into a classifier's
    config.num_labels = 1
    # Float32 as a loaded critic is: it trains in full, and bfloat16 weights would swallow small updates.
    module = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    scorer = SequenceScorer(module.to(device), encoder)
    scorer.module.base_model.load_state_dict(backbone)
    # Only for readers of the folder; set earlier, it would keep that token's embedding from learning.
    scorer.module.config.pad_token_id = encoder.pad_id
    scorer.init_head(None)
    return scorer


class SharedCritic:
    """A scalar head on the policy's own hidden states; satisfies `Critic` and `SharesTrunk`.

    The head is float32 and starts at zero. Its gradient goes on into the policy: both losses train the trunk.
    """

    def __init__(self, policy: "CausalLM") -> None:
        self._policy = policy
        width = policy.head.weight_VH.shape[1]
        self.module = nn.Linear(width, 1, bias=False, dtype=torch.float32, device=policy.device)
        nn.init.zeros_(self.module.weight)

    def values_of(self, h_NH: Tensor) -> Tensor:
        """V of each hidden state of the policy, [N], float32; never in lower precision."""
        with torch.autocast(h_NH.device.type, enabled=False):
            values_N: Tensor = self.module(h_NH.float()).squeeze(-1)
        return values_N

    def values(self, batch: TokenBatch) -> Tensor:
        """V of the state before each target token, [N], by a forward pass of its own."""
        h_NH, _ = self._policy.hidden(batch)
        return self.values_of(h_NH)

    def save(self, folder: Path) -> None:
        """Write a one-label sequence classifier with a copy of the trunk as it is now."""
        whole = self._policy.critic(None)
        assert isinstance(whole, SequenceScorer)
        with torch.no_grad():
            whole.module.score.weight.copy_(self.module.weight)
        whole.save(folder)
