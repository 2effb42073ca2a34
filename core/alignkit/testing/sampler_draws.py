"""Checks on what a sampler draws from: frequencies, restrictions, and the log-probs that it reports."""

from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.components import Kind
from alignkit.protocols import Sampler
from alignkit.records import Prompt, Sampling
from alignkit.testing.contract import ComponentContract
from alignkit.testing.measures import next_token_logits
from alignkit.testing.tiny import PROMPTS, TinyPolicy, tiny_policy


def kept_tokens(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Which ids top-k and then top-p leave at this temperature, by their definitions, [V]."""
    p_V = torch.softmax(logits_V / sampling.temperature, dim=-1)
    order = p_V.argsort(descending=True)
    if sampling.top_k:
        order = order[: sampling.top_k]
    share = p_V[order] / p_V[order].sum()
    before = share.cumsum(-1) - share
    kept_V = torch.zeros(p_V.shape, dtype=torch.bool)
    kept_V[order[before < sampling.top_p]] = True
    return kept_V


class DrawChecks(ComponentContract):
    """Distributions and log-probs."""

    kind: ClassVar[Kind] = "sampler"
    max_length: ClassVar[int] = 12
    """Completion tokens in most checks."""
    stop_every: ClassVar[int] = 12
    """One token in so many is a stop token of the policy that is sampled from."""
    draws: ClassVar[int] = 6000
    """First tokens that are counted against the policy's probabilities."""
    tolerance: ClassVar[float] = 1e-3
    """Largest difference of log-probs in nats; another engine than the trainer's may need more."""

    def kept(self, logits_V: Tensor, sampling: Sampling) -> Tensor:
        """Which ids may be drawn where the policy has these logits, [V].

        Override it for a sampler that leaves out more than `sampling` says, min-p for one: what is left of
        `super().kept(…)`. Frequencies, log-probs and kept ids are then those among what it leaves.
        """
        return kept_tokens(logits_V, sampling)

    def policy(self, stop_every: int | None = 0, **options: Any) -> TinyPolicy:
        """A new tiny policy; `stop_every` 0: as the class says, None: its end token only."""
        policy = tiny_policy(**options)
        policy.module.to(self.device)
        if stop_every is not None:
            step = stop_every or self.stop_every
            policy.stop_ids = frozenset({*policy.stop_ids, *range(50, len(policy.encoder.tokenizer), step)})
        return policy

    def prompts(self, times: int = 1) -> list[Prompt]:
        """Prompts of several lengths, each so many times."""
        return [Prompt(prompt=text) for text in PROMPTS for _ in range(times)]

    def sampling(self, **options: Any) -> Sampling:
        """How it is drawn."""
        return Sampling(**{"max_length": self.max_length, **options})

    @pytest.mark.parametrize("temperature", [1.0, 0.5])
    def test_frequencies_are_the_policys(self, built: Sampler, temperature: float) -> None:
        """First tokens come as often as softmax(logits / temperature) among `kept` says: total variation by chance."""
        policy = self.policy()
        prompt = Prompt(prompt="the quiet film")
        sampling = self.sampling(max_length=1, temperature=temperature)
        rollout = built.rollout(policy, [prompt] * self.draws, sampling, 11)
        p_V = self._drawn_from(next_token_logits(policy, policy.encode_prompt(prompt.prompt)), sampling).exp()
        counts_V = torch.bincount(torch.tensor([ids[0] for ids in rollout.completion_ids]), minlength=len(p_V))
        distance = float((counts_V / self.draws - p_V).abs().sum() / 2)
        # E|count / n - p| is at most sqrt(p (1 - p) / n); the sum varies by about 1 / sqrt(n) around its mean.
        bound = float((p_V * (1 - p_V) / self.draws).sqrt().sum() / 2) + 2 / self.draws**0.5
        assert distance < bound, f"total variation {distance:.3f}, at most {bound:.3f} by chance"

    def test_each_place_is_a_draw_of_its_own(self, built: Sampler) -> None:
        """A generator that is seeded for every token, and not once, has the same random numbers at each place.

        Where all tokens are equally probable it draws one of them again and again.
        """
        policy = self.policy(stop_every=None)
        with torch.no_grad():
            policy.head.weight_VH.zero_()
        rollout = built.rollout(policy, self.prompts(2), self.sampling(), 0)
        pairs = [pair for ids in rollout.completion_ids for pair in pairwise(ids)]
        repeated = sum(one == other for one, other in pairs)
        assert repeated <= len(pairs) / 4, f"{repeated} of {len(pairs)} tokens are those before them"

    @pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.8}], ids=str)
    def test_restrictions_hold(self, built: Sampler, options: dict[str, Any]) -> None:
        """No token outside the top k or the smallest set with probability top_p is ever drawn, at any place."""
        policy, sampling = self.policy(), self.sampling(temperature=1.5, **options)
        rollout = built.rollout(policy, self.prompts(4), sampling, 0)
        for logits_V, token in self._steps(policy, rollout):
            assert self.kept(logits_V, sampling)[token], f"token {token} is outside {options}"

    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_log_probs_are_those_it_drew_with(self, built: Sampler, temperature: float) -> None:
        """`sampler_logp_BT` is log softmax(logits / temperature) of each sampled token among `kept`, then zero."""
        policy, sampling = self.policy(), self.sampling(temperature=temperature)
        rollout = built.rollout(policy, self.prompts(), sampling, 0)
        logp_BT = self._reported(rollout)
        own = [float(self._drawn_from(logits_V, sampling)[token]) for logits_V, token in self._steps(policy, rollout)]
        assert not logp_BT[~rollout.mask_BT].any(), "log-probs behind the end are not zero"
        worst = float((logp_BT[rollout.mask_BT].double() - torch.tensor(own, dtype=torch.double)).abs().max())
        assert worst <= self.tolerance, f"log-probs are off by up to {worst:.4f} nats; if it leaves ids out, see `kept`"

    @pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.7}, {}], ids=str)
    def test_restricted_draws_say_what_was_kept(self, built: Sampler, options: dict[str, Any]) -> None:
        """Training has to compare the distributions that were drawn from: ids in `kept_BTK`, log-probs among them."""
        policy, sampling = self.policy(), self.sampling(**options)
        rollout = built.rollout(policy, self.prompts(), sampling, 0)
        kept_BTK = rollout.kept_BTK
        if not options and self._keeps_all(policy, rollout, sampling):
            pytest.skip("without top_k and top_p it leaves nothing out")
        assert kept_BTK is not None, "kept_BTK is None: training would compare with the whole distribution"
        assert kept_BTK.shape[:2] == rollout.mask_BT.shape
        logp_BT = rollout.sampler_logp_BT
        reported = [None] * int(rollout.mask_BT.sum()) if logp_BT is None else logp_BT[rollout.mask_BT].tolist()
        steps = zip(self._steps(policy, rollout), kept_BTK[rollout.mask_BT], reported, strict=True)
        for (logits_V, token), kept_K, logp in steps:
            wanted = self.kept(logits_V, sampling).nonzero().flatten().tolist()
            assert sorted(kept_K[kept_K >= 0].tolist()) == wanted, "other ids were kept; a rule of its own: see `kept`"
            own = self._drawn_from(logits_V, sampling)[token]
            assert logp is None or abs(logp - float(own)) < self.tolerance, "not the log-prob among the kept ids"

    def test_whole_vocabulary_keeps_nothing_apart(self, built: Sampler) -> None:
        """Where nothing is left out `kept_BTK` is None: training would compute over lists of the whole vocabulary."""
        policy, sampling = self.policy(), self.sampling()
        rollout = built.rollout(policy, self.prompts(), sampling, 0)
        if not self._keeps_all(policy, rollout, sampling):
            pytest.skip("it leaves ids out by a rule of its own")
        assert rollout.kept_BTK is None

    def _drawn_from(self, logits_V: Tensor, sampling: Sampling) -> Tensor:
        """Log-probs of the distribution that a token is drawn from, [V]."""
        kept_V = self.kept(logits_V, sampling)
        return torch.log_softmax((logits_V / sampling.temperature).masked_fill(~kept_V, float("-inf")), dim=-1)

    def _keeps_all(self, policy: TinyPolicy, rollout: Rollout, sampling: Sampling) -> bool:
        return all(bool(self.kept(logits_V, sampling).all()) for logits_V, _ in self._steps(policy, rollout))

    def _steps(self, policy: TinyPolicy, rollout: Rollout) -> list[tuple[Tensor, int]]:
        """Logits before each completion token and the token, row-major, by unpadded passes."""
        policy.module.eval()
        return [
            (next_token_logits(policy, [*prompt, *ids[:t]]), token)
            for prompt, ids in zip(rollout.prompt_ids, rollout.completion_ids, strict=True)
            for t, token in enumerate(ids)
        ]

    def _reported(self, rollout: Rollout) -> Tensor:
        if rollout.sampler_logp_BT is None:
            pytest.skip("it reports no log-probs")
        assert rollout.sampler_logp_BT.shape == rollout.mask_BT.shape
        return rollout.sampler_logp_BT
