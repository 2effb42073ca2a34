"""For every check of policies a mistake that it has to notice."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alignkit.batches import Head, TokenBatch
from alignkit.modeling import folders
from alignkit.modeling.backbone import hidden_states
from alignkit.testing import PolicyContract
from alignkit.testing.tiny import TinyPolicy, tiny_policy
from helpers.planted import Fault, checks_of, planted
from helpers.tiny_components import tiny_component


class NoStartToken(TinyPolicy):
    def encode_prompt(self, prompt: Any) -> list[int]:
        return self.encoder.text(prompt)


class ClosedPrompt(TinyPolicy):
    def encode_prompt(self, prompt: Any) -> list[int]:
        return [*super().encode_prompt(prompt), self.encoder.end_id]


class OpenCompletion(TinyPolicy):
    def encode_completion(self, prompt: Any, completion: Any) -> list[int]:
        return super().encode_completion(prompt, completion)[:-1]


class ClosedTwice(TinyPolicy):
    def encode_completion(self, prompt: Any, completion: Any) -> list[int]:
        return [*super().encode_completion(prompt, completion), self.encoder.end_id]


class StartsTwice(TinyPolicy):
    def encode_completion(self, prompt: Any, completion: Any) -> list[int]:
        return [*self.encoder.prompt("")[:1], *super().encode_completion(prompt, completion)]


class StrippedText(TinyPolicy):
    def decode(self, ids: Any) -> str:
        return super().decode(ids).strip()


class SpecialTokensInText(TinyPolicy):
    def decode(self, ids: Any) -> str:
        return str(self.encoder.tokenizer.decode(list(ids)))


class StartTokenOnce(TinyPolicy):
    begun = False

    def encode_prompt(self, prompt: Any) -> list[int]:
        ids = super().encode_prompt(prompt)
        ids, self.begun = (ids[1:] if self.begun else ids), True
        return ids


class TurnLeftOpen(TinyPolicy):
    """A conversation's answer is closed by the end token and not by the turn's end."""

    def encode_completion(self, prompt: Any, completion: Any) -> list[int]:
        if isinstance(completion, str):
            return [*self.encoder.text(completion), self.encoder.end_id]
        return super().encode_completion(prompt, completion)


class StateOfTheToken(TinyPolicy):
    """State t instead of t - 1."""

    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        return hidden_states(self.module, batch)[batch.target_BT], self.head


class LastTargetLeftOut(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        h_NH, head = super().hidden(batch)
        return h_NH[:-1], head


class StatesBeforeTheLastNorm(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        out = self.module.base_model(batch.ids_BT, position_ids=batch.positions_BT, output_hidden_states=True)
        return batch.select(out.hidden_states[-2]), self.head


class MeanOverPadding(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        h_BTH = hidden_states(self.module, batch)
        return batch.select(h_BTH - 0.1 * h_BTH.mean(1, keepdim=True)), self.head


class CentredOverTheBatch(TinyPolicy):
    """A running mean over the batch's tokens, as some normalisation layers have it."""

    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        h_NH, head = super().hidden(batch)
        count_N1 = torch.arange(1, len(h_NH) + 1)[:, None]
        return h_NH - 0.1 * h_NH.cumsum(0) / count_N1, head


class SeesItsTarget(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        h_NH, head = super().hidden(batch)
        return h_NH + 0.1 * self.module.get_input_embeddings()(batch.targets_N), head


class PositionsRunOn(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        arange_BT = torch.arange(batch.ids_BT.shape[1]).expand_as(batch.ids_BT)
        return super().hidden(TokenBatch(batch.ids_BT, batch.mask_BT, batch.target_BT, arange_BT))


class CutAtTheFirstTarget(TinyPolicy):
    """Saves work by leaving the prompt out."""

    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        ids_BT = torch.where(batch.target_BT, batch.ids_BT, self.pad_id)
        return super().hidden(TokenBatch(ids_BT, batch.mask_BT, batch.target_BT, batch.positions_BT))


class DropoutAlways(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        h_NH, head = super().hidden(batch)
        return F.dropout(h_NH, 0.1, training=True), head


class EvalModeStays(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        self.module.eval()
        return super().hidden(batch)


class SeedsGlobally(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        torch.manual_seed(0)
        return super().hidden(batch)


class DetachedStates(TinyPolicy):
    def hidden(self, batch: TokenBatch) -> tuple[Tensor, Head]:
        h_NH, head = super().hidden(batch)
        return h_NH.detach(), head


class OtherReference(TinyPolicy):
    def reference(self) -> TinyPolicy:
        frozen = super().reference()
        with torch.no_grad():
            for parameter in frozen.module.parameters():
                parameter.mul_(0.9)
        return frozen


class TrainableReference(TinyPolicy):
    def reference(self) -> TinyPolicy:
        view = copy.copy(self)
        view.module = copy.deepcopy(self.module)
        return view


class ReferenceIsThePolicy(TinyPolicy):
    def reference(self) -> TinyPolicy:
        return self


class ReferenceInTrainingMode(TinyPolicy):
    def reference(self) -> TinyPolicy:
        view = super().reference()
        view.module.train()
        return view


class CriticWithARandomHead(TinyPolicy):
    def critic(self, init: Any, keep_head: bool = False, shared: bool = False) -> Any:
        critic = super().critic(init, keep_head, shared)
        critic.init_head(torch.Generator().manual_seed(0))
        return critic


class HalfPrecisionValues(TinyPolicy):
    def critic(self, init: Any, keep_head: bool = False, shared: bool = False) -> Any:
        critic = super().critic(init, keep_head, shared)
        values = critic.values
        critic.values = lambda batch: values(batch).half()
        return critic


class CriticOnThePolicysBackbone(TinyPolicy):
    def critic(self, init: Any, keep_head: bool = False, shared: bool = False) -> Any:
        critic = super().critic(init, keep_head, shared)
        critic.module.model = self.module.model
        return critic


class ValueOfTheTokenItself(TinyPolicy):
    def critic(self, init: Any, keep_head: bool = False, shared: bool = False) -> Any:
        critic = super().critic(init, keep_head, shared)
        critic.values = lambda batch: critic.head(hidden_states(critic.module, batch)[batch.target_BT])
        return critic


class SharedCriticHoldsThePolicy(TinyPolicy):
    """Its module is the policy with a head, so that an optimizer would have the trunk twice."""

    def critic(self, init: Any, keep_head: bool = False, shared: bool = False) -> Any:
        critic = super().critic(init, keep_head, shared)
        if shared:
            critic.module.trunk = self.module
        return critic


class SharedCriticStopsTheGradient(TinyPolicy):
    def critic(self, init: Any, keep_head: bool = False, shared: bool = False) -> Any:
        critic = super().critic(init, keep_head, shared)
        if shared:
            critic.values_of = lambda h_NH: critic.module(h_NH.detach()).squeeze(-1)
        return critic


class CriticSavedWithoutItsHead(TinyPolicy):
    def critic(self, init: Any, keep_head: bool = False, shared: bool = False) -> Any:
        policy = self
        critic = super().critic(init, keep_head, shared)

        def save(folder: Path) -> None:
            whole = TinyPolicy.critic(policy, None)
            folders.save(whole.module, policy.encoder.tokenizer, folder)

        critic.save = save
        return critic


class CriticIgnoresInit(TinyPolicy):
    def critic(self, init: Any, keep_head: bool = False, shared: bool = False) -> Any:
        return super().critic(None, keep_head, shared)


class SavedOnce(TinyPolicy):
    def save(self, folder: Path) -> None:
        if not folder.exists():
            super().save(folder)


class SavedAsItWasMade(TinyPolicy):
    """Saves the weights from before training."""

    def save(self, folder: Path) -> None:
        tiny_policy().save(folder)


class SavedByPickle(TinyPolicy):
    def save(self, folder: Path) -> None:
        super().save(folder)
        torch.save(self.module.state_dict(), folder / "pytorch_model.bin")


class SavedWithoutTokenizer(TinyPolicy):
    def save(self, folder: Path) -> None:
        self.module.save_pretrained(folder)


class RoundedForSaving(TinyPolicy):
    def save(self, folder: Path) -> None:
        self.module.bfloat16().float()
        super().save(folder)


def empty_stops(policy: Any) -> None:
    policy.stop_ids = frozenset()


def same_revision(policy: Any) -> None:
    policy.revision = "tiny"


def no_revision(policy: Any) -> None:
    policy.revision = ""


def freeze_all(policy: Any) -> None:
    policy.module.requires_grad_(False)


def unused_weight(policy: Any) -> None:
    policy.module.register_parameter("unused", torch.nn.Parameter(torch.zeros(2)))


def other_device(policy: Any) -> None:
    policy.module.to("meta")


def random_weights(policy: Any) -> None:
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.add_(torch.randn(parameter.shape))


def more_positions(policy: Any) -> None:
    policy.max_positions = 0


def table_of_positions(policy: Any) -> None:
    """Says 129 positions and has 128."""
    policy.max_positions += 1
    forward = policy.module.base_model.forward

    @functools.wraps(forward)
    def limited(*arguments: Any, **options: Any) -> Any:
        assert int(options["position_ids"].max()) < 128, "no such position"
        return forward(*arguments, **options)

    policy.module.base_model.forward = limited


def of(kind: type[TinyPolicy], **options: Any) -> Callable[[str, str], Fault]:
    return lambda check, name: Fault(f"test_{check}", tiny_component(kind, **options), name=name)


def changed(change: Callable[[Any], None]) -> Callable[[str, str], Fault]:
    return lambda check, name: Fault(f"test_{check}", tiny_component(change=change), name=name)


PLANTED: list[tuple[str, Callable[[str, str], Fault]]] = [
    ("prompt_is_never_empty", of(NoStartToken)),
    ("prompt_stays_open", of(ClosedPrompt)),
    ("completion_ends_with_its_only_stop_token", of(OpenCompletion)),
    ("completion_ends_with_its_only_stop_token", of(ClosedTwice)),
    ("nothing_stands_before_a_completion", of(StartsTwice)),
    ("stop_ids_are_tokens", changed(empty_stops)),
    ("decode_gives_the_text_back", of(StrippedText)),
    ("special_tokens_are_left_out_of_text", of(SpecialTokensInText)),
    ("same_text_gives_the_same_ids", of(StartTokenOnce)),
    ("conversation_is_encoded", of(TurnLeftOpen, chat=True)),
    ("names_itself", changed(no_revision)),
    ("same_seed_gives_the_same_weights", changed(random_weights)),
    ("lives_on_its_device", changed(other_device)),
    ("saved_policy_is_the_same_policy", of(SavedAsItWasMade)),
    ("saved_folder_is_in_standard_form", of(SavedByPickle)),
    ("saved_folder_is_in_standard_form", of(SavedWithoutTokenizer)),
    ("saving_changes_nothing", of(RoundedForSaving)),
    ("saving_again_replaces_the_folder", of(SavedOnce)),
    ("revision_names_the_weights", changed(same_revision)),
    ("longest_row_fits", changed(table_of_positions)),
    ("longest_row_fits", changed(more_positions)),
    ("hidden_has_one_state_per_target", of(LastTargetLeftOut)),
    ("states_give_the_models_own_log_probs", of(StateOfTheToken)),
    ("states_give_the_models_own_log_probs", of(StatesBeforeTheLastNorm)),
    ("padding_changes_nothing", of(MeanOverPadding)),
    ("order_of_rows_changes_nothing", of(CentredOverTheBatch)),
    ("later_tokens_change_nothing", of(SeesItsTarget)),
    ("packed_rows_do_not_see_each_other", of(PositionsRunOn)),
    ("targets_only_select", of(CutAtTheFirstTarget)),
    ("same_batch_gives_the_same_states", of(DropoutAlways)),
    ("hidden_leaves_no_trace", of(EvalModeStays)),
    ("hidden_leaves_no_trace", of(SeedsGlobally)),
    ("every_trainable_weight_gets_a_gradient", of(DetachedStates)),
    ("every_trainable_weight_gets_a_gradient", changed(freeze_all)),
    ("every_trainable_weight_gets_a_gradient", changed(unused_weight)),
    ("reference_is_the_policy_as_it_is", of(OtherReference)),
    ("reference_is_frozen", of(TrainableReference)),
    ("reference_stays_when_the_policy_learns", of(ReferenceIsThePolicy)),
    ("reference_ignores_the_policys_mode", of(ReferenceInTrainingMode, dropout=0.2)),
    ("new_critic_says_zero", of(CriticWithARandomHead)),
    ("new_critic_says_zero", of(HalfPrecisionValues)),
    ("critic_is_a_model_of_its_own", of(CriticOnThePolicysBackbone)),
    ("critic_reads_the_state_before_each_target", of(ValueOfTheTokenItself)),
    ("shared_critic_reads_the_policys_states", of(SharedCriticHoldsThePolicy)),
    ("shared_critic_reads_the_policys_states", of(SharedCriticStopsTheGradient)),
    ("saved_critic_is_a_scorer", of(CriticSavedWithoutItsHead)),
    ("critic_begins_from_a_reward_model", of(CriticIgnoresInit)),
]
FAULTS = [make(check, str(number)) for number, (check, make) in enumerate(PLANTED)]
globals().update(planted(PolicyContract, FAULTS))


def test_every_check_has_a_fault() -> None:
    assert checks_of(PolicyContract) == {fault.check for fault in FAULTS}
