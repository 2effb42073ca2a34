"""Decoding over a cache of our own equals plain forward passes, for many models and however rows share batches."""

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM

from alignkit.modeling import folders
from alignkit.modeling.encoding import TextEncoder
from alignkit.records import Prompt, Sampling
from alignkit_plugins.policy_causal_lm.policy import CausalLM
from alignkit_plugins.sampler_hf import decoding, stepping
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.models import make_policy, make_tokenizer, plain_logps

TEXTS = ["the quiet film", "a", "this thriller about two brothers is long", "the quiet film", "I recommend it"]
COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", COMMON),
    "llama eager": ("llama", COMMON | {"attn_implementation": "eager"}),
    "qwen2 window": ("qwen2", COMMON | WINDOW | {"use_sliding_window": True}),
    "qwen3": ("qwen3", COMMON),
    "mistral window": ("mistral", COMMON | {"sliding_window": 8}),
    "gemma2": ("gemma2", COMMON | WINDOW | {"query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", COMMON | WINDOW | {"query_pre_attn_scalar": 8}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("gpt_neox", COMMON),
    "opt": ("opt", COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "lfm2": ("lfm2", COMMON | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
}


def policy_of(name: str) -> CausalLM:
    kind, fields = MODELS[name]
    fields = dict(fields)
    attention = fields.pop("attn_implementation", None)
    tokenizer = make_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = AutoConfig.for_model(
        kind, **fields, **ends, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, initializer_range=0.3
    )
    torch.manual_seed(1)
    module = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return CausalLM(module.eval(), TextEncoder(tokenizer, folders.stop_ids(module), "test"), "test")


def prompts() -> list[Prompt]:
    return [Prompt(prompt=text, id=str(n)) for n, text in enumerate(TEXTS)]


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", MODELS)
class TestModels:
    def test_log_probs_are_those_of_plain_forward_passes(self, name: str, captured: bool) -> None:
        policy = policy_of(name)
        rollout = HFSampler(64, captured=captured).rollout(policy, prompts(), Sampling(max_length=40), seed=1)
        assert len({len(p) for p in rollout.prompt_ids}) > 2  # padding on the left was needed
        assert max(len(c) for c in rollout.completion_ids) > 16
        assert rollout.sampler_logp_BT is not None
        for b, (prompt, completion) in enumerate(zip(rollout.prompt_ids, rollout.completion_ids, strict=True)):
            plain_T = plain_logps(policy, prompt + completion)[len(prompt) - 1 :]
            assert torch.allclose(rollout.sampler_logp_BT[b, : len(completion)].double(), plain_T, atol=1e-4)

    def test_greedy_tokens_are_those_of_generate(self, name: str, captured: bool) -> None:
        policy = policy_of(name)
        sampling = Sampling(temperature=0, max_length=20)
        rollout = HFSampler(64, captured=captured).rollout(policy, prompts(), sampling, seed=0)
        for prompt, completion in zip(rollout.prompt_ids, rollout.completion_ids, strict=True):
            whole = policy.module.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0].tolist()
            assert tuple(whole[len(prompt) :]) == completion


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_log_probs_are_those_of_plain_forward_passes_on_a_cpu(name: str, captured: bool) -> None:
    policy = policy_of(name)
    policy.module.cuda()
    rollout = HFSampler(64, captured=captured).rollout(policy, prompts(), Sampling(max_length=40), seed=1)
    policy.module.cpu()
    assert rollout.sampler_logp_BT is not None
    for b, (prompt, completion) in enumerate(zip(rollout.prompt_ids, rollout.completion_ids, strict=True)):
        plain_T = plain_logps(policy, prompt + completion)[len(prompt) - 1 :]
        found_T = rollout.sampler_logp_BT[b, : len(completion)].double()
        assert torch.allclose(found_T, plain_T, atol=1e-3), (found_T - plain_T).abs().max()


def stopping_policy() -> CausalLM:
    """One token in ten ends a completion, so that rows end at all times."""
    policy = make_policy("llama", spread=0.1)
    policy.stop_ids = frozenset({*policy.stop_ids, *range(50, len(policy.encoder.tokenizer), 10)})
    return policy


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Rows and tokens of each forward pass."""
    found: list[tuple[int, int]] = []
    plain = stepping.run_backbone

    def counting(model: Any, **arguments: Any) -> Any:
        found.append(tuple(arguments["input_ids"].shape))
        return plain(model, **arguments)

    monkeypatch.setattr(stepping, "run_backbone", counting)
    return found


MANY = [Prompt(prompt=text, id=f"{text} {n}") for text in TEXTS for n in range(6)]


class TestBatches:
    """Who shares a batch, and when a row leaves it, changes no completion."""

    @pytest.mark.parametrize("sampling", [Sampling(max_length=24), Sampling(max_length=24, top_k=20, top_p=0.9)])
    def test_completions_do_not_depend_on_them(self, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
        policy = stopping_policy()
        samplers = [HFSampler(64), HFSampler(1), HFSampler(7), HFSampler(64, 200), HFSampler(64, captured=True)]
        rollouts = [sampler.rollout(policy, MANY, sampling, 3) for sampler in samplers]
        monkeypatch.setattr(decoding, "CPU", decoding.Pace(8, 2.0))  # rows never leave, and are looked at now and then
        rollouts.append(HFSampler(64).rollout(policy, MANY, sampling, 3))
        lengths = {len(c) for c in rollouts[0].completion_ids}
        assert len(lengths) > 8
        for other in rollouts[1:]:
            assert other.completion_ids == rollouts[0].completion_ids
            assert torch.allclose(other.sampler_logp_BT, rollouts[0].sampler_logp_BT, atol=1e-5)
            if sampling.top_k:
                assert other.kept_BTK is not None
                # At the border of top-p, rounding may keep one more: what must agree is what was kept of most tokens.
                assert (other.kept_BTK[:, :, 0] == rollouts[0].kept_BTK[:, :, 0]).all()

    def test_rows_that_ended_leave(self, rows_read: list[tuple[int, int]]) -> None:
        rollout = HFSampler(64).rollout(stopping_policy(), MANY, Sampling(max_length=40), 3)
        needed = sum(len(c) - 1 for c in rollout.completion_ids)
        steps = [rows for rows, tokens in rows_read if tokens == 1]
        assert sum(steps) < 1.35 * needed < 0.5 * len(MANY) * (max(len(c) for c in rollout.completion_ids) - 1)
        assert steps == sorted(steps, reverse=True)

    def test_equal_prompts_are_read_once(self, rows_read: list[tuple[int, int]]) -> None:
        policy = stopping_policy()
        HFSampler(64).rollout(policy, MANY, Sampling(max_length=2), 3)
        longest = max(len(policy.encode_prompt(text)) for text in TEXTS)
        assert rows_read[0] == (len(set(TEXTS)), longest)

    def test_batch_tokens_bounds_rows_times_length(self, rows_read: list[tuple[int, int]]) -> None:
        HFSampler(64, 100).rollout(make_policy("llama"), MANY, Sampling(max_length=20), 3)
        batches = [tokens for _, tokens in rows_read if tokens > 1]
        assert len(batches) > 5
        HFSampler(64, 1).rollout(make_policy("llama"), MANY[:2], Sampling(max_length=2), 3)  # rows of their own


def test_sequences_come_as_often_as_their_probabilities_say() -> None:
    """All nine pairs of tokens under top-k 3, by brute force."""
    policy = make_policy("llama")
    sampling = Sampling(max_length=2, top_k=3)
    policy.stop_ids = frozenset({policy.encoder.end_id})
    start = policy.encode_prompt("the quiet film")
    expected: dict[tuple[int, ...], float] = {}
    first = top_three(policy, start)
    for (a, p), n in product(first.items(), range(3)):
        b, q = list(top_three(policy, [*start, a]).items())[n]
        expected[(a, b)] = p * q
    assert policy.encoder.end_id not in first
    draws = 3000
    rollout = HFSampler(500).rollout(policy, [Prompt(prompt="the quiet film")] * draws, sampling, 4)
    counts = Counter(rollout.completion_ids)
    assert set(counts) <= set(expected)
    assert chisquare([counts[k] for k in expected], [p * draws for p in expected.values()]).pvalue > 0.001


def top_three(policy: CausalLM, ids: list[int]) -> dict[int, float]:
    with torch.no_grad():
        logits_V = policy.module(torch.tensor([ids])).logits[0, -1].double()
    values, tokens = logits_V.topk(3)
    return dict(zip(tokens.tolist(), torch.softmax(values, -1).tolist(), strict=True))
