"""The policy's hidden states and projection give the model's own log-probs, for every way a head can be made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignkit.errors import UserError
from alignkit.modeling.encoding import TextEncoder
from alignkit_plugins.policy_causal_lm.config import CausalLMConfig
from alignkit_plugins.policy_causal_lm.policy import CausalLM, build_policy
from helpers.context import make_context
from helpers.models import batch_of, make_tokenizer, plain_logps, random_rows

COMMON = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
HEADS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 8},
    "phi": {},  # a bias in the projection
    "gpt_neox": {},
}


@pytest.mark.parametrize("kind", sorted(HEADS))
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probs_equal_those_of_the_models_own_logits(kind: str, temperature: float, context: Any) -> None:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **COMMON, **HEADS[kind]))
    policy = CausalLM(module, TextEncoder(make_tokenizer(), frozenset(), kind), "0")
    rows = random_rows(300, [4, 11, 7])
    with torch.no_grad():
        batch = batch_of(policy, rows)
        h_NH, head = policy.hidden(batch)
        logp_N, _ = context.ops.linear_logprob(h_NH, head, batch.targets_N, temperature)
    expected = torch.cat([plain_logps(policy, r.ids, temperature)[1:] for r in rows])
    assert torch.allclose(logp_N.double(), expected, atol=2e-4)


def test_a_head_that_is_not_known_is_refused_when_the_model_is_loaded(llama: Any) -> None:
    class Odd(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config
            self.base_model, self.device = inner.base_model, inner.device

        def get_output_embeddings(self) -> Any:
            return self.inner.get_output_embeddings()

        def forward(self, ids: torch.Tensor) -> Any:
            out = self.inner(ids)
            out.logits = out.logits * 1.5
            return out

    with pytest.raises(UserError, match="computes logits in a way that is not known here"):
        CausalLM(Odd(llama.module), llama.encoder, "0")


def test_saving_and_loading_changes_nothing(policy: Any, tmp_path: Path) -> None:
    policy.save(tmp_path / "m")
    again = build_policy(CausalLMConfig(path=str(tmp_path / "m")), make_context(tmp_path))
    row = random_rows(300, [12])[0]
    assert torch.allclose(plain_logps(again, row.ids), plain_logps(policy, row.ids), atol=1e-6)
    assert (again.stop_ids, again.pad_id, again.tokenizer_id) == (policy.stop_ids, policy.pad_id, policy.tokenizer_id)
    assert {p.name for p in (tmp_path / "m").iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert not list((tmp_path / "m").glob("*.bin"))
    once = build_policy(CausalLMConfig(path=str(tmp_path / "m")), make_context(tmp_path))
    assert once.revision == again.revision
