"""The two rewards of the learning curves, read off the sampled token ids, so that nothing is tokenised again.

letter    share of the R places of a completion whose token's text holds an `e`; places behind the end token count 0
brevity   1 - (tokens before the end token) / R; 0 for a completion without an end token
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from alignkit import Component, hookimpl
from alignkit.batches import Rollout
from alignkit.components import Config

if TYPE_CHECKING:
    from alignkit.context import BuildContext


class TokenRewardConfig(Config):
    """A reward that counts tokens."""

    kind: Literal["letter", "brevity"] = Field(description="which")
    tokenizer: str = Field(description="folder of the policy's tokenizer")
    length: int = Field(24, ge=1, description="R, the longest completion")


class TokenReward:
    """Satisfies `alignkit.protocols.Scores`."""

    def __init__(self, config: TokenRewardConfig, tokenizer: Any) -> None:
        self.config = config
        special = set(tokenizer.all_special_ids)
        self.holds_e = {i for i in range(len(tokenizer)) if i not in special and "e" in tokenizer.decode([i])}

    def score(self, rollout: Rollout) -> Tensor:
        """One score per completion, [B], between 0 and 1."""
        length = self.config.length
        if self.config.kind == "letter":
            return torch.tensor([sum(i in self.holds_e for i in ids) / length for ids in rollout.completion_ids])
        pairs = zip(rollout.completion_ids, rollout.finish, strict=True)
        return torch.tensor([1 - (len(ids) - 1) / length if finish == "stop" else 0.0 for ids, finish in pairs])


def build(config: TokenRewardConfig, context: "BuildContext") -> TokenReward:
    """Read the tokenizer."""
    from transformers import AutoTokenizer

    return TokenReward(config, AutoTokenizer.from_pretrained(config.tokenizer))


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """Registered by run.py; a package would name this module in its entry points."""
    summary = "counts tokens of the completion (benchmarks/curves)"
    return [Component(name="token_reward", build=build, config=TokenRewardConfig, summary=summary)]
