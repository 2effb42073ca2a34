"""Packed weights and attention over tables give what the plain ones give, and leave nothing behind."""

from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from alignkit.batches import Head
from alignkit.loop.logprobs import rollout_logprobs
from alignkit.ops.linear_logprob import project
from alignkit.records import Prompt, Sampling
from alignkit_plugins.policy_causal_lm import lora
from alignkit_plugins.policy_causal_lm.config import LoRAConfig
from alignkit_plugins.sampler_hf import notices, packing, stepping
from alignkit_plugins.sampler_hf.attention import TableAttention, attention_over_tables, is_table, runs_on
from alignkit_plugins.sampler_hf.cache import GrowingLayer
from alignkit_plugins.sampler_hf.packing import WORTH, head_product, packed
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.models import make_policy

CPU = torch.device("cpu")
PROMPTS = [Prompt(prompt=t, id=t) for t in ("the quiet film", "a", "this thriller about two brothers")]


class TestPacked:
    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    @pytest.mark.parametrize("rows", [1, 5, 64])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_the_model_computes_the_same(self, kind: str, rows: int, autocast: bool) -> None:
        policy = make_policy(kind, spread=0.1)
        ids = torch.randint(5, 200, (rows, 7))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            plain = policy.module.eval().base_model(ids).last_hidden_state
            with packed(policy.module, CPU, WORTH):
                changed = [m for m in policy.module.modules() if "forward" in vars(m)]
                found = policy.module.base_model(ids).last_hidden_state
        assert changed
        assert not [m for m in policy.module.modules() if "forward" in vars(m)]
        assert torch.allclose(found, plain, atol=5e-2 if autocast else 1e-5)
        assert found.dtype == plain.dtype

    @pytest.mark.parametrize("autocast", [False, True])
    def test_siblings_are_multiplied_once(self, autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        policy = make_policy("llama")
        calls: list[Any] = []
        plain = packing._Shared.whole
        monkeypatch.setattr(packing._Shared, "whole", lambda self, x: calls.append(self) or plain(self, x))
        cast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast)
        with torch.inference_mode(), cast, packed(policy.module, CPU, WORTH):
            policy.module.base_model(torch.tensor([[5, 6, 7]]))
        per_layer = 4  # queries with keys and values, their output, the gate with what it gates, its output
        assert len(calls) == per_layer * policy.module.config.num_hidden_layers
        assert not any(shared._parts or shared._input is not None for shared in calls)

    @pytest.mark.parametrize("bias", [False, True])
    def test_siblings_that_read_other_tensors_go_on_by_themselves(
        self, bias: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(notices, "_said", set())
        parent = torch.nn.ModuleDict({n: torch.nn.Linear(16, 8, bias=bias) for n in ("q_proj", "k_proj", "v_proj")})
        x, y = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
        for inputs in ((x, y, y), (x, x, y), (x, y, x)):
            with torch.no_grad():
                expected = [layer(z) for layer, z in zip(parent.values(), inputs, strict=True)]
                with packed(parent, CPU, WORTH):
                    for _ in range(2):
                        found = [layer(z) for layer, z in zip(parent.values(), inputs, strict=True)]
                        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
        assert caplog.text.count("named like siblings") == 1

    @pytest.mark.parametrize("error", [AttributeError("no such operator"), RuntimeError("no such layout"), None])
    def test_without_torchs_operators_products_are_plain_and_it_is_said(
        self, error: Exception | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """None: they are there, and wrong."""
        monkeypatch.setattr(notices, "_said", set())
        if not packing._can_pack(torch.zeros(4, 4)):
            pytest.skip("nothing is packed here")

        def changed(weight: Any, bias: Any, x: torch.Tensor) -> torch.Tensor:
            if error is not None:
                raise error
            return torch.zeros(*x.shape[:-1], weight.shape[0])

        monkeypatch.setattr(packing, "_packed_linear", changed)
        packing._works.cache_clear()
        try:
            policy = make_policy("llama")
            for _ in range(2):
                rollout = HFSampler(8).rollout(policy, PROMPTS, Sampling(temperature=0, max_length=WORTH), 0)
            whole = policy.module.generate(torch.tensor([rollout.prompt_ids[0]]), max_new_tokens=WORTH, do_sample=False)
            assert tuple(whole[0, len(rollout.prompt_ids[0]) :].tolist()) == rollout.completion_ids[0]
            assert caplog.text.count("packed weights") == 1
        finally:
            packing._works.cache_clear()

    def test_weights_are_those_of_now_in_each_rollout(self) -> None:
        policy = make_policy("llama")
        sampling = Sampling(temperature=0, max_length=2 * WORTH)
        HFSampler(8).rollout(policy, PROMPTS, sampling, 0)
        with torch.no_grad():
            for parameter in policy.module.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        rollout = HFSampler(8).rollout(policy, PROMPTS, sampling, 0)
        for prompt, completion in zip(rollout.prompt_ids, rollout.completion_ids, strict=True):
            whole = policy.module.generate(torch.tensor([prompt]), max_new_tokens=2 * WORTH, do_sample=False)[0]
            assert tuple(whole[len(prompt) :].tolist()) == completion

    def test_an_error_inside_leaves_nothing_behind(self) -> None:
        policy = make_policy("llama")
        with pytest.raises(ZeroDivisionError), packed(policy.module, CPU, WORTH), attention_over_tables():
            raise ZeroDivisionError
        assert not [m for m in policy.module.modules() if "forward" in vars(m)]
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward

    @pytest.mark.parametrize("passes", [1, WORTH])
    def test_the_head_is_project(self, passes: int) -> None:
        h = torch.randn(5, 16)
        head = Head(torch.randn(40, 16), torch.randn(40), softcap=3.0, scale=0.5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = head_product(head, passes)(h)
        assert found.dtype == torch.float32
        assert torch.allclose(found, project(h, head), atol=1e-5)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_one_token_attends_as_with_torchs_attention(table: bool, groups: int, mask: str | None) -> None:
    """Over a cache that has grown, with fewer key heads than heads, values of another width, and masked tokens."""
    torch.manual_seed(0)
    B, H, D, D_v, S = 3, 4, 8, 6, 70
    keys, values = torch.randn(B, groups, S, D), torch.randn(B, groups, S, D_v)
    layer = GrowingLayer(table, room=100)
    layer.update(keys[:, :, :20], values[:, :, :20])
    for s in range(20, S):
        k, v = layer.update(keys[:, :, s : s + 1], values[:, :, s : s + 1])
    assert torch.equal(k, keys)
    assert torch.equal(v, values)
    query = torch.randn(B, 1, H, D).transpose(1, 2)
    hidden = torch.zeros(B, 1, 1, S, dtype=torch.bool)
    hidden[0, ..., :11] = True
    given = {None: None, "bool": ~hidden, "float": torch.zeros(hidden.shape).masked_fill(hidden, -1e30)}[mask]
    module = torch.nn.Module()
    module.num_key_value_groups = H // groups  # type: ignore[assignment]
    calls: list[Any] = []

    def other(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return sdpa_attention_forward(*arguments, **options)

    found, _ = TableAttention(other)(module, query, k, v, given, scaling=0.3)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, keys.repeat_interleave(H // groups, 1), values.repeat_interleave(H // groups, 1), given, scale=0.3
    )
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-5)
    assert bool(calls) != table
    assert is_table(k, v) == table
    assert not is_table(k.contiguous(), v)
    doubled, _ = TableAttention(other)(module, query / 2, 2 * k, v, given, scaling=0.3)  # the model has changed them
    assert torch.allclose(doubled, expected.transpose(1, 2), atol=1e-5)


def test_bfloat16_log_probs_stay_near_the_trainers(context: Any) -> None:
    policy = make_policy("llama", spread=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        rollout = HFSampler(8).rollout(policy, PROMPTS * 4, Sampling(max_length=32), 1)
        trainer_BT = rollout_logprobs(policy, rollout, context.ops, 512)
    difference = (trainer_BT - rollout.sampler_logp_BT).abs()
    assert 0 < float(difference.max()) < 0.05


@pytest.mark.parametrize("captured", [False, True])
def test_a_policy_with_an_adapter_and_its_reference(context: Any, captured: bool) -> None:
    policy = make_policy("llama")
    lora.inject(policy.module, LoRAConfig(rank=2), 0, "test")
    reference = policy.reference()
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    found = []
    for model in (policy, reference):
        sampler = HFSampler(8, captured=captured)
        rollout = sampler.rollout(model, PROMPTS, Sampling(max_length=20), 1)
        assert torch.allclose(rollout_logprobs(model, rollout, context.ops, 512), rollout.sampler_logp_BT, atol=2e-4)
        found.append(rollout.completion_ids)
    assert found[0] != found[1]


def test_tables_are_used_on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests above would compare torch's attention with itself."""
    if not runs_on(CPU):
        pytest.skip("not x86")
    calls = []
    plain = TableAttention._weighted

    def counting(self: Any, *arguments: Any) -> Any:
        calls.append(arguments)
        return plain(self, *arguments)

    monkeypatch.setattr(TableAttention, "_weighted", counting)
    HFSampler(8).rollout(make_policy("llama"), PROMPTS, Sampling(temperature=0, max_length=4), 0)
    assert len(calls) == 2 * 3  # layers x steps behind the prompt


def test_nothing_is_recorded_for_gradients_and_the_model_trains_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("llama")
    recorded = []
    plain = stepping.run_backbone

    def watched(model: Any, **arguments: Any) -> Any:
        out = plain(model, **arguments)
        recorded.append(out.last_hidden_state.requires_grad)
        return out

    monkeypatch.setattr(stepping, "run_backbone", watched)
    rollout = HFSampler(8).rollout(policy, PROMPTS, Sampling(max_length=2 * WORTH, top_k=4), 0)
    assert recorded
    assert not any(recorded)
    assert not rollout.sampler_logp_BT.is_inference()
    assert not rollout.kept_BTK.is_inference()
    assert not any(t.is_inference() for t in (*policy.module.buffers(), *policy.module.parameters()))
    policy.module(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert policy.module.get_input_embeddings().weight.grad is not None
