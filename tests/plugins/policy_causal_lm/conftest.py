"""Policies with LoRA, made the way a recipe makes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit_plugins.policy_causal_lm.config import CausalLMConfig
from alignkit_plugins.policy_causal_lm.policy import CausalLM, build_policy
from helpers.context import make_context
from helpers.models import batch_of, make_policy, random_rows

BASE = "base"


@pytest.fixture
def build(tmp_path: Path, tokenizer: Any) -> Callable[..., CausalLM]:
    """`build(kind, **options)`: a random model saved in tmp_path/base and loaded with these options."""

    def make(kind: str = "llama", dropout: float = 0.0, **options: Any) -> CausalLM:
        make_policy(kind, tokenizer, dropout=dropout).save(tmp_path / BASE)
        return build_policy(CausalLMConfig(path=str(tmp_path / BASE), **options), make_context(tmp_path))

    return make


@pytest.fixture
def train() -> Callable[[CausalLM], None]:
    """A few steps of maximum likelihood on random rows, with all that has a gradient."""

    def steps(policy: CausalLM, count: int = 3) -> None:
        optimizer = torch.optim.AdamW([p for p in policy.module.parameters() if p.requires_grad], lr=0.05)
        batch = batch_of(policy, random_rows(300, [9, 14], seed=5))
        for _ in range(count):
            h_NH, head = policy.hidden(batch)
            logits_NV = h_NH.float() @ head.weight_VH.float().T
            torch.nn.functional.cross_entropy(logits_NV, batch.targets_N).backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps
