"""For every check of samplers a mistake that it has to notice."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from alignkit import Component
from alignkit.batches import Rollout
from alignkit.components import NoConfig
from alignkit.records import Prompt, Sampling
from alignkit.testing import SamplerContract
from alignkit.testing.measures import next_token_logits
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.planted import Fault, checks_of, planted, plugin_of


class Sound(HFSampler):
    """The built-in sampler; each fault changes what it is given, or what it gives."""

    def __init__(self) -> None:
        super().__init__(256)

    def given(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, prompts, sampling, seed

    def gives(self, rollout: Rollout) -> Rollout:
        return rollout

    def rollout(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Rollout:
        return self.gives(super().rollout(*self.given(policy, prompts, sampling, seed)))


class SortedByLength(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, sorted(prompts, key=lambda p: len(p.prompt)), sampling, seed


class GroupedByText(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        numbers: dict[Any, int] = {}
        groups = [numbers.setdefault(p.prompt, len(numbers)) for p in rollout.prompts]
        return replace(rollout, group_B=torch.tensor(groups))


class OneStopTokenOnly(Sound):
    """Asks the tokenizer for its end token instead of the policy for its stop ids."""

    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        policy = copy.copy(policy)
        policy.stop_ids = frozenset({policy.encoder.end_id})
        return policy, prompts, sampling, seed


class StopTokenCutOff(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        ids = [
            c[:-1] if f == "stop" and len(c) > 1 else c
            for c, f in zip(rollout.completion_ids, rollout.finish, strict=True)
        ]
        return replace(rollout, completion_ids=tuple(ids))


class FirstFinishIsWrong(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        first = "length" if rollout.finish[0] == "stop" else "stop"
        return replace(rollout, finish=(first, *rollout.finish[1:]))


class StrippedTexts(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        return replace(rollout, texts=tuple(t.strip()[:3] for t in rollout.texts))


class TemperatureForgotten(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        return replace(rollout, temperature=1.0)


class SeedFromTheGlobalState(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, prompts, sampling, seed + int(torch.randint(1000, ()))


class SeedIgnored(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, prompts, sampling, 0


class OneDrawPerPrompt(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        return replace(rollout, completion_ids=rollout.completion_ids[:1] * len(rollout))


class SeedsGlobally(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        torch.manual_seed(seed)
        return policy, prompts, sampling, seed


class NeverQuiteGreedy(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, prompts, sampling.model_copy(update={"temperature": max(sampling.temperature, 0.3)}), seed


class PaddingIsSeen(Sound):
    """Shorter prompts are filled with the pad token, which the model reads as words."""

    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        policy, encode = copy.copy(policy), policy.encode_prompt
        width = max(len(encode(p.prompt)) for p in prompts)
        policy.encode_prompt = lambda prompt: [policy.pad_id] * (width - len(encode(prompt))) + encode(prompt)
        return policy, prompts, sampling, seed


class WordLimitIgnored(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, prompts, sampling.model_copy(update={"max_words": None}), seed


class PromptCutInSilence(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        policy, encode = copy.copy(policy), policy.encode_prompt
        policy.encode_prompt = lambda prompt: encode(prompt)[-(policy.max_positions - sampling.max_length) :]
        return policy, prompts, sampling, seed


class RoomIsNotChecked(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        policy = copy.copy(policy)
        policy.max_positions = None
        return policy, prompts, sampling, seed


class EverythingBecomesTrainable(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        policy.module.requires_grad_(True)
        return policy, prompts, sampling, seed


class TheOtherMode(Sound):
    def rollout(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> Rollout:
        rollout = super().rollout(policy, prompts, sampling, seed)
        policy.module.train(not policy.module.training)
        return rollout


class InTrainingMode(Sound):
    """Reads the policy's log-probs in whatever mode it is in."""

    def rollout(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> Rollout:
        found = super().rollout(policy, prompts, sampling, seed)
        first = [int(next_token_logits(policy, ids).argmax()) for ids in found.prompt_ids]
        ids = tuple((token, *row[1:]) for token, row in zip(first, found.completion_ids, strict=True))
        return replace(found, completion_ids=ids)


class CopyOfTheWeights(Sound):
    own: Any = None

    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        if self.own is None:
            self.own = copy.deepcopy(policy)
        return self.own, prompts, sampling, seed


class Sharpened(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, prompts, sampling.model_copy(update={"temperature": 0.7 * sampling.temperature}), seed


class RestrictionsIgnored(Sound):
    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, prompts, sampling.model_copy(update={"top_k": 0, "top_p": 1.0}), seed


class LogProbsBelongToTheNextToken(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        assert rollout.sampler_logp_BT is not None
        return replace(rollout, sampler_logp_BT=rollout.sampler_logp_BT.roll(1, dims=1) * rollout.mask_BT)


class LogProbsBehindTheEnd(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        assert rollout.sampler_logp_BT is not None
        return replace(rollout, sampler_logp_BT=rollout.sampler_logp_BT - 1.0 * ~rollout.mask_BT)


class KeptIdsLeftOut(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        return replace(rollout, kept_BTK=None)


class OneKeptIdTooFew(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        assert rollout.kept_BTK is not None
        return replace(rollout, kept_BTK=rollout.kept_BTK[..., 1:])


class LogProbsNotRenormalised(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        assert rollout.sampler_logp_BT is not None
        return replace(rollout, sampler_logp_BT=rollout.sampler_logp_BT - 0.1 * rollout.mask_BT)


class WholeVocabularyIsListed(Sound):
    def gives(self, rollout: Rollout) -> Rollout:
        return replace(rollout, kept_BTK=torch.arange(300).expand(*rollout.mask_BT.shape, 300))


class SeededForEveryToken(Sound):
    """The continuation of each completion is drawn token by token, each time with a new generator of one seed."""

    def rollout(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Rollout:
        found = super().rollout(policy, prompts, sampling, seed)
        rows = []
        for start, drawn in zip(found.prompt_ids, found.completion_ids, strict=True):
            ids: list[int] = []
            for _ in drawn:
                generator = torch.Generator().manual_seed(seed + len(rows))
                p_V = next_token_logits(policy, [*start, *ids]).softmax(-1)
                ids.append(int(torch.multinomial(p_V, 1, generator=generator)))
            rows.append(tuple(ids))
        return replace(found, completion_ids=tuple(rows))


class AtMostTwenty(Sound):
    """Never draws another than the 20 most probable ids: a rule of its own, which `kept` has to say."""

    def given(self, policy: Any, prompts: Any, sampling: Sampling, seed: int) -> tuple[Any, ...]:
        return policy, prompts, twenty(sampling), seed


def twenty(sampling: Sampling) -> Sampling:
    return sampling.model_copy(update={"top_k": min(sampling.top_k or 20, 20)}) if sampling.temperature else sampling


PLANTED: list[tuple[str, Callable[[], Any]]] = [
    ("one_completion_per_prompt_in_order", SortedByLength),
    ("equal_prompts_share_a_group", GroupedByText),
    ("completions_end_where_they_must", OneStopTokenOnly),
    ("completions_end_where_they_must", StopTokenCutOff),
    ("completions_end_where_they_must", FirstFinishIsWrong),
    ("text_is_the_decoded_ids", StrippedTexts),
    ("says_what_it_was_drawn_with", TemperatureForgotten),
    ("same_seed_same_completions", SeedFromTheGlobalState),
    ("another_seed_other_completions", SeedIgnored),
    ("completions_of_one_prompt_differ", OneDrawPerPrompt),
    ("leaves_the_global_random_state_alone", SeedsGlobally),
    ("greedy_takes_the_most_probable_token", NeverQuiteGreedy),
    ("neighbours_change_nothing", PaddingIsSeen),
    ("word_limit", WordLimitIgnored),
    ("completion_fits_the_context", PromptCutInSilence),
    ("completion_fits_the_context", RoomIsNotChecked),
    ("leaves_the_policy_as_it_was", EverythingBecomesTrainable),
    ("leaves_the_policy_as_it_was", TheOtherMode),
    ("dropout_is_off", InTrainingMode),
    ("samples_from_the_weights_as_they_are", CopyOfTheWeights),
    ("frequencies_are_the_policys", Sharpened),
    ("each_place_is_a_draw_of_its_own", SeededForEveryToken),
    ("restrictions_hold", RestrictionsIgnored),
    ("log_probs_are_those_it_drew_with", LogProbsBelongToTheNextToken),
    ("log_probs_are_those_it_drew_with", LogProbsBehindTheEnd),
    ("restricted_draws_say_what_was_kept", KeptIdsLeftOut),
    ("restricted_draws_say_what_was_kept", OneKeptIdTooFew),
    ("restricted_draws_say_what_was_kept", LogProbsNotRenormalised),
    ("whole_vocabulary_keeps_nothing_apart", WholeVocabularyIsListed),
    ("frequencies_are_the_policys", AtMostTwenty),
    ("log_probs_are_those_it_drew_with", AtMostTwenty),
]


def component(kind: Callable[[], Any]) -> Component:
    return Component("broken", lambda config, context: kind(), NoConfig, "broken on purpose")


FAULTS = [Fault(f"test_{check}", component(kind), name=str(n)) for n, (check, kind) in enumerate(PLANTED)]
globals().update(planted(SamplerContract, FAULTS))


class TestOneWithARuleOfItsOwn(SamplerContract):
    plugin = plugin_of(SamplerContract, component(AtMostTwenty))
    component = "broken"
    left_out: ClassVar = {"test_registration_imports_nothing_heavy": "its module is made in this test"}

    def kept(self, logits_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        return super().kept(logits_V, twenty(sampling))


def test_every_check_has_a_fault() -> None:
    assert checks_of(SamplerContract) == {fault.check for fault in FAULTS}
