"""What a sampler owes: completions drawn from the policy's own distribution, ended where they have to, from one seed.

The checks on distributions are in `sampler_draws`.
"""

import pytest
import torch

from alignkit.errors import UserError
from alignkit.protocols import Sampler
from alignkit.records import Prompt
from alignkit.testing.measures import changed_weights, disturb, next_token_logits, untouched_global_rng, weights_of
from alignkit.testing.randomness import global_seed
from alignkit.testing.sampler_draws import DrawChecks
from alignkit.testing.tiny import TinyPolicy


class SamplerContract(DrawChecks):
    """A sampler. It is given a tiny policy in which one token in `stop_every` ends a completion."""

    def greedy(self, policy: TinyPolicy) -> list[list[int]]:
        """Per prompt the most probable token again and again, one unpadded pass each, up to a stop token."""
        found: list[list[int]] = []
        for prompt in self.prompts():
            start, ids = policy.encode_prompt(prompt.prompt), list[int]()
            while len(ids) < self.max_length and not (ids and ids[-1] in policy.stop_ids):
                ids.append(int(next_token_logits(policy, [*start, *ids]).argmax()))
            found.append(ids)
        return found

    def test_one_completion_per_prompt_in_order(self, built: Sampler) -> None:
        """Rewards, groups and records belong to completions by their place."""
        prompts, policy = self.prompts(), self.policy()
        rollout = built.rollout(policy, prompts, self.sampling(), 0)
        assert list(rollout.prompts) == prompts, "other prompts, or in another order"
        assert [list(ids) for ids in rollout.prompt_ids] == [policy.encode_prompt(p.prompt) for p in prompts]
        lengths = {len(rollout.completion_ids), len(rollout.texts), len(rollout.finish), len(rollout.group_B)}
        assert lengths == {len(prompts)}

    def test_equal_prompts_share_a_group(self, built: Sampler) -> None:
        """Estimators compare a completion with the others of its prompt: the group says which those are, by id."""
        one, two = Prompt(prompt="a", id="1"), Prompt(prompt="a", id="2")
        rollout = built.rollout(self.policy(), [one, two, one, one, two], self.sampling(), 0)
        groups = rollout.group_B.tolist()
        assert groups[0] == groups[2] == groups[3]
        assert groups[1] == groups[4] != groups[0], "groups are told apart by the prompts' ids, not their texts"
        assert rollout.group_B.dtype == torch.long

    def test_completions_end_where_they_must(self, built: Sampler) -> None:
        """At the first stop token, which is kept, or at exactly `max_length` tokens; `finish` says which."""
        policy, sampling = self.policy(), self.sampling()
        rollout = built.rollout(policy, self.prompts(8), sampling, 0)
        assert set(rollout.finish) == {"stop", "length"}, "the check needs both: change stop_every"
        for ids, finish in zip(rollout.completion_ids, rollout.finish, strict=True):
            assert not any(i in policy.stop_ids for i in ids[:-1]), "tokens stand behind a stop token"
            assert finish == ("stop" if ids[-1] in policy.stop_ids else "length"), "finish is wrong"
            assert len(ids) <= sampling.max_length
            assert finish == "stop" or len(ids) == sampling.max_length, "it ended too early"

    def test_text_is_the_decoded_ids(self, built: Sampler) -> None:
        """People and other tokenizers' reward models read the text: the policy's own `decode` of the sampled ids."""
        policy = self.policy()
        rollout = built.rollout(policy, self.prompts(), self.sampling(), 0)
        assert list(rollout.texts) == [policy.decode(ids) for ids in rollout.completion_ids]

    def test_says_what_it_was_drawn_with(self, built: Sampler) -> None:
        """Log-probs are taken at the rollout's temperature, and a reward model reads ids only of its own tokenizer."""
        policy = self.policy()
        rollout = built.rollout(policy, self.prompts(), self.sampling(temperature=0.7), 0)
        assert rollout.temperature == 0.7
        assert rollout.tokenizer_id == policy.tokenizer_id

    def test_same_seed_same_completions(self, built: Sampler) -> None:
        """A run can be repeated: the seed alone decides, not the global random state nor earlier calls."""
        found = []
        for other in (1, 2):
            with global_seed(other):
                found.append(built.rollout(self.policy(), self.prompts(), self.sampling(), 7).completion_ids)
        assert found[0] == found[1], "the same seed gave other completions"

    def test_another_seed_other_completions(self, built: Sampler) -> None:
        """Each iteration draws with a seed of its own."""
        one, two = (built.rollout(self.policy(), self.prompts(), self.sampling(), seed) for seed in (1, 2))
        assert one.completion_ids != two.completion_ids, "the seed is ignored"

    def test_completions_of_one_prompt_differ(self, built: Sampler) -> None:
        """Each row is a draw of its own: a group of equal completions teaches nothing."""
        rollout = built.rollout(self.policy(), [Prompt(prompt="the film")] * 8, self.sampling(), 0)
        assert len(set(rollout.completion_ids)) > 4, "rows share their random numbers"

    def test_leaves_the_global_random_state_alone(self, built: Sampler) -> None:
        """Dropout and other plugins draw from it."""
        with untouched_global_rng():
            built.rollout(self.policy(), self.prompts(), self.sampling(), 3)

    def test_greedy_takes_the_most_probable_token(self, built: Sampler) -> None:
        """Temperature 0 is argmax decoding: measurements and ReMax's baseline rely on it."""
        policy = self.policy()
        rollout = built.rollout(policy, self.prompts(), self.sampling(temperature=0.0), 0)
        assert [list(ids) for ids in rollout.completion_ids] == self.greedy(policy), "not the most probable tokens"

    def test_neighbours_change_nothing(self, built: Sampler) -> None:
        """A prompt's greedy completion is the same alone and beside longer and shorter prompts: padding is not seen."""
        policy, prompts, sampling = self.policy(), self.prompts(), self.sampling(temperature=0.0)
        together = built.rollout(policy, prompts, sampling, 0).completion_ids
        alone = [built.rollout(policy, [p], sampling, 0).completion_ids[0] for p in prompts]
        assert list(together) == alone, "a completion depends on the prompts beside it"
        assert list(built.rollout(policy, prompts[::-1], sampling, 0).completion_ids) == alone[::-1]

    def test_word_limit(self, built: Sampler) -> None:
        """With `max_words` a completion ends before the next word begins, and is else the one drawn without."""
        policy = self.policy(stop_every=None)
        # One row a call: the draws of a batch may depend on which of its rows have ended.
        pairs = [(prompt, seed) for prompt in self.prompts() for seed in range(4)]
        try:
            cut = [built.rollout(policy, [prompt], self.sampling(max_words=1), seed) for prompt, seed in pairs]
        except UserError as refused:
            pytest.skip(f"max_words is refused: {refused.what}")
        whole = [built.rollout(policy, [prompt], self.sampling(), seed) for prompt, seed in pairs]
        assert any(len(w.texts[0].split()) > 1 for w in whole), "the check needs longer texts"
        for short, long in zip(cut, whole, strict=True):
            (ids,), (text,) = short.completion_ids, short.texts
            (long_ids,), (long_text,) = long.completion_ids, long.texts
            assert len(text.split()) <= 1 or len(ids) == 1, f"{text!r} has more than 1 word"
            assert ids == long_ids[: len(ids)], "the limit changes what is drawn"
            assert len(long_text.split()) > 1 or ids == long_ids, f"{long_text!r} was cut without need"

    def test_completion_fits_the_context(self, built: Sampler) -> None:
        """A prompt that leaves exactly enough room works; one more token is refused, or what is drawn still fits."""
        policy = self.policy()
        assert policy.max_positions is not None
        words = policy.decode(policy.encoder.text("film " * policy.max_positions)[: policy.max_positions])
        room = policy.max_positions - self.max_length
        fits = next(words[:n] for n in range(len(words), 0, -1) if len(policy.encode_prompt(words[:n])) == room)
        rollout = built.rollout(policy, [Prompt(prompt=fits)], self.sampling(), 0)
        assert len(rollout.completion_ids[0]) >= 1
        try:
            long = built.rollout(policy, [Prompt(prompt=f"film film {fits}")], self.sampling(), 0)
        except UserError:
            return
        assert len(long.prompt_ids[0]) + len(long.completion_ids[0]) <= policy.max_positions
        assert list(long.prompt_ids[0]) == policy.encode_prompt(f"film film {fits}"), "the prompt was cut in silence"

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_leaves_the_policy_as_it_was(self, built: Sampler, training: bool) -> None:
        """Sampling happens between updates: weights, mode, gradients and what is trainable stay."""
        policy = self.policy()
        policy.module.train(training)
        frozen = next(iter(policy.module.parameters())).requires_grad_(False)
        before = weights_of(policy.module)
        built.rollout(policy, self.prompts(), self.sampling(), 0)
        assert policy.module.training == training, "the mode is another one"
        assert changed_weights(before, weights_of(policy.module)) == [], "sampling changed weights"
        assert all(p.grad is None for p in policy.module.parameters())
        assert [p for p in policy.module.parameters() if not p.requires_grad] == [frozen]

    def test_dropout_is_off(self, built: Sampler) -> None:
        """What is sampled while the policy stands in training mode is what the policy says in evaluation mode."""
        policy, sampling = self.policy(dropout=0.5), self.sampling(temperature=0.0)
        policy.module.eval()
        still = built.rollout(policy, self.prompts(), sampling, 0)
        policy.module.train()
        assert built.rollout(policy, self.prompts(), sampling, 0).completion_ids == still.completion_ids, (
            "dropout is on"
        )

    def test_samples_from_the_weights_as_they_are(self, built: Sampler) -> None:
        """The policy changes between two calls: an engine that holds weights of its own has to take them over."""
        policy, sampling = self.policy(), self.sampling(temperature=0.0)
        built.rollout(policy, self.prompts(), sampling, 0)
        disturb(policy.module, size=0.3)
        rollout = built.rollout(policy, self.prompts(), sampling, 0)
        assert [list(ids) for ids in rollout.completion_ids] == self.greedy(policy), "it samples from older weights"
