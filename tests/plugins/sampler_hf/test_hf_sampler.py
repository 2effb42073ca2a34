"""The sampler draws from the distribution it says, stops where it must and keeps the right log-probs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from alignkit.errors import Fault, UserError
from alignkit.loop.logprobs import rollout_logprobs
from alignkit.records import Prompt, Sampling
from alignkit_plugins.sampler_hf.drawing import draw, inverse_cdf, uniforms
from alignkit_plugins.sampler_hf.sampler import HFSampler, cut_to_words
from helpers.models import make_policy, make_tokenizer, plain_logps

PROMPTS = ["the quiet film", "a", "this thriller about two brothers is long and dull", "I recommend it", ""]


def prompts(texts: Sequence[str] = PROMPTS) -> list[Prompt]:
    return [Prompt(prompt=t, id=f"p{n}") for n, t in enumerate(texts)]


def plain_distribution(logits: list[float], sampling: Sampling) -> list[float]:
    """Temperature, then top-k, then the smallest set of at least top_p, written with lists."""
    scaled = [z / sampling.temperature for z in logits]
    top = max(scaled)
    p = [math.exp(z - top) for z in scaled]
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if sampling.top_k:
        order = order[: sampling.top_k]
    total = sum(p[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += p[i] / total
        if mass >= sampling.top_p - 1e-7:
            break
    total = sum(p[i] for i in kept)
    return [p[i] / total if i in kept else 0.0 for i in range(len(p))]


class TestDraw:
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(st.floats(0.3, 2.0), st.integers(0, 12), st.floats(0.05, 1.0), st.integers(0, 1000), st.integers(2, 10))
    def test_log_prob_of_every_drawn_token_is_that_of_the_plain_distribution(
        self, temperature: float, k: int, p: float, seed: int, size: int
    ) -> None:
        sampling = Sampling(temperature=temperature, top_k=k, top_p=p)
        torch.manual_seed(seed)
        logits = torch.randn(size) * 2
        expected = plain_distribution(logits.tolist(), sampling)
        tokens, logps, _ = draw(logits.repeat(200, 1), sampling, some_uniforms(200, seed))
        for token, logp in zip(tokens.tolist(), logps.tolist(), strict=True):
            assert math.exp(logp) == pytest.approx(expected[token], rel=1e-4)

    @pytest.mark.parametrize(
        "sampling",
        [
            Sampling(),
            Sampling(temperature=0.7),
            Sampling(temperature=1.3, top_k=4),
            Sampling(temperature=1.3, top_p=0.8),
        ],
    )
    def test_frequencies_match_the_probabilities(self, sampling: Sampling) -> None:
        logits = torch.tensor([1.0, 0.0, 2.0, -1.0, 1.5, 0.5, -2.0, 0.2])
        expected = np.array(plain_distribution(logits.tolist(), sampling))
        tokens, _, _ = draw(logits.repeat(20_000, 1), sampling, some_uniforms(20_000, 5))
        counts = np.bincount(tokens.numpy(), minlength=8)
        assert not counts[expected == 0].any()
        assert chisquare(counts[expected > 0], expected[expected > 0] * 20_000).pvalue > 0.001

    def test_temperature_zero_takes_the_largest(self) -> None:
        tokens, logps, _ = draw(torch.tensor([[0.0, 3.0, 1.0]]), Sampling(temperature=0), some_uniforms(1, 0))
        assert tokens.tolist() == [1]
        assert logps.tolist() == [0.0]


def some_uniforms(rows: int, seed: int) -> torch.Tensor:
    return torch.rand(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class TestInverseCDF:
    def test_the_index_is_where_the_uniform_number_falls(self) -> None:
        probs = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0]).repeat(4000, 1)
        uniform = some_uniforms(4000, 3)
        expected = [1 if u < 0.5 else 3 if u < 0.75 else 4 for u in uniform.tolist()]
        assert inverse_cdf(probs, uniform).tolist() == expected

    @pytest.mark.parametrize("size", [128, 1000, 1024])
    def test_over_several_blocks_it_is_the_same_index(self, size: int) -> None:
        """Against one cumulative sum in float64; with blocks of probability 0 and a last block that is not full."""
        probs = torch.softmax(5 * torch.randn(500, size, generator=torch.Generator().manual_seed(1)), dim=-1)
        probs[:, 128:384] = 0.0
        uniform = some_uniforms(500, 2)
        cdf = probs.double().cumsum(-1)
        found = inverse_cdf(probs, uniform)
        at = uniform * cdf[:, -1]
        rows = torch.arange(500)
        assert bool((cdf[rows, found] > at - 1e-6).all())
        assert bool((cdf[rows, found] - probs[rows, found] <= at + 1e-6).all())
        assert bool((probs[rows, found] > 0).all())
        assert len(set((found // 128).tolist())) > size // 400

    @pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
    @pytest.mark.parametrize("size", [4, 300])
    def test_entries_of_probability_zero_are_not_drawn_at_the_ends(self, uniform: float, size: int) -> None:
        for total in (0.3, 0.9999999, 1.0, 1.0000001):
            probs = torch.zeros(1, size)
            probs[0, 1], probs[0, size - 2] = 0.4 * total, 0.6 * total
            u = torch.tensor([uniform], dtype=torch.float64)
            assert inverse_cdf(probs, u).tolist() == ([1] if uniform == 0 else [size - 2])


class TestUniforms:
    def test_a_rows_numbers_depend_on_the_seed_and_the_row_alone(self) -> None:
        whole = uniforms(7, range(5), 20)
        assert torch.equal(uniforms(7, [3, 1], 12), whole[[3, 1], :12])
        assert not torch.equal(uniforms(8, [3], 20)[0], whole[3])
        assert len(set(whole.flatten().tolist())) == 100

    def test_they_are_uniform(self) -> None:
        counts = torch.histc(uniforms(1, range(200), 50).float(), bins=20, min=0, max=1)
        assert chisquare(counts.numpy()).pvalue > 0.001


class TestLogProbs:
    @pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
    def test_the_samplers_equal_the_trainers_and_those_of_unpadded_rows(
        self, policy: Any, context: Any, temperature: float
    ) -> None:
        sampling = Sampling(temperature=temperature, max_length=12)
        rollout = HFSampler(3).rollout(policy, prompts(), sampling, seed=1)
        assert len({len(p) for p in rollout.prompt_ids}) > 2  # padding on the left was needed
        trainer_BT = rollout_logprobs(policy, rollout, context.ops, 64)
        assert rollout.sampler_logp_BT is not None
        assert torch.allclose(trainer_BT, rollout.sampler_logp_BT, atol=2e-4)
        for b, (prompt, completion) in enumerate(zip(rollout.prompt_ids, rollout.completion_ids, strict=True)):
            plain_T = plain_logps(policy, prompt + completion, temperature)[len(prompt) - 1 :]
            assert torch.allclose(rollout.sampler_logp_BT[b, : len(completion)].double(), plain_T, atol=2e-4)
            assert not rollout.sampler_logp_BT[b, len(completion) :].any()
            assert not trainer_BT[b, len(completion) :].any()

    def test_with_pad_equal_to_eos_nothing_changes(self, llama: Any) -> None:
        """The model sees masks, never pad ids: the same draws with another pad token."""
        same = make_policy("llama", make_tokenizer(pad="</s>"))
        same.module.load_state_dict(llama.module.state_dict())
        assert same.pad_id in same.stop_ids
        sampling = Sampling(max_length=10)
        a = HFSampler(8).rollout(llama, prompts(), sampling, seed=2)
        b = HFSampler(8).rollout(same, prompts(), sampling, seed=2)
        assert a.completion_ids == b.completion_ids
        assert a.sampler_logp_BT is not None
        assert b.sampler_logp_BT is not None
        assert torch.allclose(a.sampler_logp_BT, b.sampler_logp_BT, atol=1e-5)

    def test_dropout_is_off_while_sampling_and_the_mode_is_restored(self, context: Any) -> None:
        policy = make_policy("gpt2", dropout=0.5)
        policy.module.train()
        a = HFSampler(8).rollout(policy, prompts(), Sampling(max_length=8), seed=3)
        assert policy.module.training
        b = HFSampler(8).rollout(policy, prompts(), Sampling(max_length=8), seed=3)
        assert a.completion_ids == b.completion_ids
        assert torch.allclose(rollout_logprobs(policy, a, context.ops, 512), a.sampler_logp_BT, atol=2e-4)

    def test_logits_that_are_not_finite_stop_the_run(self, llama: Any) -> None:
        policy = make_policy("llama")
        with torch.no_grad():
            policy.module.get_output_embeddings().weight[7] = float("nan")
        with pytest.raises(Fault, match="not finite"):
            HFSampler(4).rollout(policy, prompts(), Sampling(max_length=3), seed=0)


class TestGreedy:
    def test_equals_transformers_generate(self, policy: Any) -> None:
        rollout = HFSampler(2).rollout(policy, prompts(), Sampling(temperature=0, max_length=10), seed=0)
        for prompt, completion in zip(rollout.prompt_ids, rollout.completion_ids, strict=True):
            whole = policy.module.generate(
                torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=sorted(policy.stop_ids)
            )[0].tolist()
            assert tuple(whole[len(prompt) :]) == completion

    def test_does_not_depend_on_the_batch_or_the_seed(self, llama: Any) -> None:
        sampling = Sampling(temperature=0, max_length=10)
        found = {HFSampler(n).rollout(llama, prompts(), sampling, seed=n).completion_ids for n in (1, 2, 64)}
        assert len(found) == 1


class TestStopping:
    """Random weights stop rarely; a raised bias on the stop tokens makes them frequent."""

    def stopping_policy(self, tokenizer: Any) -> Any:
        extra = tokenizer.convert_tokens_to_ids("<stop>")
        policy = make_policy("gpt2", tokenizer, stop_ids=[extra], spread=0.05)
        weight = policy.module.get_output_embeddings().weight
        head = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.zero_()
            head.bias[[tokenizer.eos_token_id, extra]] = 3.5
        policy.module.lm_head = head
        return policy

    def test_completions_end_with_the_first_of_several_stop_tokens_kept_once(self, tokenizer: Any) -> None:
        policy = self.stopping_policy(tokenizer)
        many = [Prompt(prompt="the film", id=str(n)) for n in range(60)]
        rollout = HFSampler(32).rollout(policy, many, Sampling(max_length=12), seed=0)
        assert policy.stop_ids == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<stop>")}
        assert {c[-1] for c in rollout.completion_ids} > policy.stop_ids  # both kinds, and cut ones, did occur
        for completion, finish in zip(rollout.completion_ids, rollout.finish, strict=True):
            assert not any(i in policy.stop_ids for i in completion[:-1])
            assert finish == ("stop" if completion[-1] in policy.stop_ids else "length")
            assert finish == "stop" or len(completion) == 12
        assert rollout.mask_BT.sum(-1).tolist() == [len(c) for c in rollout.completion_ids]

    def test_a_stop_token_at_the_length_limit_is_a_stop(self, tokenizer: Any) -> None:
        policy = self.stopping_policy(tokenizer)
        many = [Prompt(prompt="the film", id=str(n)) for n in range(40)]
        rollout = HFSampler(64).rollout(policy, many, Sampling(max_length=1), seed=0)
        assert set(rollout.finish) == {"stop", "length"}
        assert all(len(c) == 1 for c in rollout.completion_ids)

    def test_text_has_no_special_tokens(self, tokenizer: Any) -> None:
        policy = self.stopping_policy(tokenizer)
        rollout = HFSampler(8).rollout(policy, prompts(), Sampling(max_length=12), seed=0)
        assert not any("</s>" in t or "<stop>" in t or "<s>" in t for t in rollout.texts)

    def test_a_prompt_without_room_is_the_users_mistake(self, llama: Any) -> None:
        with pytest.raises(UserError, match="does not fit the model's 128 positions"):
            HFSampler(8).rollout(llama, prompts(["the film " * 40]), Sampling(max_length=100), seed=0)


class TestMaxWords:
    def test_cuts_before_the_token_that_begins_the_next_word(self, llama: Any) -> None:
        ids = [*llama.encoder.text(" one two three four"), llama.encoder.end_id]
        cut = cut_to_words(llama, ids, 2)
        assert llama.decode(cut).split() == ["one", "two"]
        assert cut == ids[: len(cut)]
        assert len(llama.decode(ids[: len(cut) + 1]).split()) == 3

    def test_keeps_a_completion_that_is_short_enough_with_its_stop_token(self, llama: Any) -> None:
        ids = [*llama.encoder.text(" one two"), llama.encoder.end_id]
        assert cut_to_words(llama, ids, 2) == ids

    def test_rollouts_are_cut_and_finish_by_length(self, llama: Any) -> None:
        # Rows of one long prompt each; the random model writes spaces now and then.
        many = [Prompt(prompt="the film", id=str(n)) for n in range(40)]
        whole = HFSampler(64).rollout(llama, many, Sampling(max_length=40), seed=4)
        cut = HFSampler(64).rollout(llama, many, Sampling(max_length=40, max_words=1), seed=4)
        longer = [b for b in range(40) if len(whole.texts[b].split()) > 1]
        assert longer
        for b in range(40):
            n = len(cut.completion_ids[b])
            assert cut.completion_ids[b] == whole.completion_ids[b][:n]
            assert len(cut.texts[b].split()) <= 1 or n == 1
            if b in longer:
                assert cut.finish[b] == "length"
                assert len(policy_words(llama, whole.completion_ids[b][: n + 1])) == 2
            assert whole.sampler_logp_BT is not None
            assert cut.sampler_logp_BT is not None
            assert torch.equal(cut.sampler_logp_BT[b, :n], whole.sampler_logp_BT[b, :n])
            assert not cut.sampler_logp_BT[b, n:].any()


def policy_words(policy: Any, ids: Sequence[int]) -> list[str]:
    return str(policy.decode(ids)).split()


def test_equal_prompt_ids_share_a_group_and_order_is_kept(llama: Any) -> None:
    some = [Prompt(prompt="b long prompt of words", id="x"), Prompt(prompt="a", id="y")]
    rollout = HFSampler(8).rollout(llama, [some[0], some[1], some[0]], Sampling(max_length=4), seed=0)
    assert rollout.group_B.tolist() == [0, 1, 0]
    assert rollout.prompt_ids[0] == rollout.prompt_ids[2] == tuple(llama.encode_prompt("b long prompt of words"))


def test_the_same_seed_gives_the_same_completions_and_another_seed_others(llama: Any) -> None:
    sampler, sampling = HFSampler(8), Sampling(max_length=8)
    first = sampler.rollout(llama, prompts(), sampling, seed=1).completion_ids
    assert sampler.rollout(llama, prompts(), sampling, seed=1).completion_ids == first
    assert sampler.rollout(llama, prompts(), sampling, seed=2).completion_ids != first


def test_sampled_first_tokens_follow_the_models_own_probabilities(llama: Any) -> None:
    many = [Prompt(prompt="the film", id=str(n)) for n in range(4000)]
    rollout = HFSampler(4000).rollout(llama, many, Sampling(temperature=0.7, max_length=1), seed=9)
    with torch.no_grad():
        logits = llama.module(torch.tensor([llama.encode_prompt("the film")])).logits[0, -1].double() / 0.7
    p = torch.softmax(logits, -1).numpy()
    counts = np.bincount([c[0] for c in rollout.completion_ids], minlength=len(p))
    common = p * 4000 > 5
    observed = [*counts[common], counts[~common].sum()]
    expected = [*(p[common] * 4000), p[~common].sum() * 4000]
    assert chisquare(observed, expected).pvalue > 0.001
