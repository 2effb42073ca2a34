"""What a policy owes: text to ids and back, hidden states that give its own log-probs, a frozen view, a critic, a save.

The checks on hidden states are in `policy_states`, those on the reference and the critic in `policy_views`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.context import StepContext
from alignkit.errors import UserError
from alignkit.manager import Registered
from alignkit.modeling.folders import check_model_path
from alignkit.protocols import Policy
from alignkit.records import Message
from alignkit.testing.measures import changed_weights, disturb, pickles_in, target_logprobs, weights_of
from alignkit.testing.policy_states import StateChecks
from alignkit.testing.policy_views import ViewChecks
from alignkit.testing.randomness import global_seed

CONVERSATION = (Message(role="user", content="Was the film quiet?"),)
ANSWER = "It was, and slow."


class PolicyContract(StateChecks, ViewChecks):
    """A policy: `component` and `options` name one that can be built; `make_options(folder)` may write a model first.

    Override `texts` for a tokenizer that cannot write every text, and `logits` for a module that is called in another
    way than a transformers model.
    """

    def reload_options(self, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that build the policy saved in `folder`; as the engine does it, unless you override this."""
        kept = {name: value for name, value in options.items() if name not in ("init", "tokenizer")}
        return {**kept, "path": str(folder)}

    def reload(self, folder: Path, registered: Registered, context: StepContext) -> Policy:
        """The policy saved in `folder`."""
        given = folder.with_name("given")
        given.mkdir(exist_ok=True)
        config = self.resolved(self.reload_options(folder, self.make_options(given)))
        policy: Policy = registered.build(config, context)
        return policy

    def test_prompt_is_never_empty(self, built: Policy) -> None:
        """The first token of a completion is predicted from the prompt, so even an empty text has to become a token."""
        for text in ("", *self.texts):
            ids = built.encode_prompt(text)
            assert ids, f"encode_prompt({text!r}) is empty: give the start token (or the end token)"
            assert all(isinstance(i, int) and 0 <= i < self.vocabulary(built) for i in ids)

    def test_prompt_stays_open(self, built: Policy) -> None:
        """A prompt closed by a stop token asks the model to begin a new document instead of continuing this one."""
        for text in self.texts:
            assert built.encode_prompt(text)[-1] not in built.stop_ids, f"{text!r} ends with a stop token"

    def test_completion_ends_with_its_only_stop_token(self, built: Policy) -> None:
        """A model learns to end from the stop token; one in the middle would cut the completion when it is sampled."""
        for text in ("", *self.texts):
            ids = built.encode_completion(self.texts[0], text)
            stops = [i in built.stop_ids for i in ids]
            assert any(stops[-1:]), f"encode_completion(…, {text!r}) does not end with one of stop_ids"
            assert sum(stops) == 1, f"encode_completion(…, {text!r}) has {sum(stops)} stop tokens"

    def test_nothing_stands_before_a_completion(self, built: Policy) -> None:
        """An empty completion is its stop token alone: a tokenizer asked twice puts a second start token in between.

        Training would see a token there that is never sampled.
        """
        for text in self.texts:
            ids = built.encode_completion(text, "")
            assert len(ids) == 1, f"encode_completion(…, '') is {ids}: encode it without special tokens"

    def test_stop_ids_are_tokens(self, built: Policy) -> None:
        """Sampling ends a completion at these ids: without one every completion runs to the length limit."""
        assert isinstance(built.stop_ids, frozenset)
        assert built.stop_ids, "stop_ids is empty"
        assert all(0 <= i < self.vocabulary(built) for i in (*built.stop_ids, built.pad_id))

    def test_decode_gives_the_text_back(self, built: Policy) -> None:
        """Reward sources and people read what `decode` gives: spaces, line ends and signs have to be as written."""
        for text in self.texts:
            assert built.decode(built.encode_completion(self.texts[0], text)) == text

    def test_special_tokens_are_left_out_of_text(self, built: Policy) -> None:
        """People and reward sources would judge an end token's name as part of the completion."""
        assert built.decode(sorted(built.stop_ids)) == "", "stop tokens show in the text"
        assert built.decode([built.pad_id]) == "", "padding shows in the text"

    def test_same_text_gives_the_same_ids(self, built: Policy) -> None:
        """Training rows and sampled prompts are encoded apart and have to be the same ids."""
        for text in self.texts:
            assert built.encode_prompt(text) == built.encode_prompt(text)
            assert built.encode_completion(text, text) == built.encode_completion(text, text)

    def test_conversation_is_encoded(self, built: Policy) -> None:
        """With a chat template an answer given as text or as a message is the same ids, closed by a stop token."""
        try:
            prompt = built.encode_prompt(CONVERSATION)
        except UserError as refused:
            pytest.skip(f"it takes no conversations: {refused.what}")
        assert prompt[-1] not in built.stop_ids
        ids = built.encode_completion(CONVERSATION, ANSWER)
        assert ids == built.encode_completion(CONVERSATION, (Message(role="assistant", content=ANSWER),))
        assert ids[-1] in built.stop_ids
        assert built.decode(ids) == ANSWER

    def test_names_itself(self, built: Policy) -> None:
        """`revision` and `tokenizer_id` are written into records: completions are told apart by them."""
        for name in ("revision", "tokenizer_id"):
            value = getattr(built, name)
            assert isinstance(value, str)
            assert value, f"{name} is empty"

    def test_same_seed_gives_the_same_weights(self, registered: Registered, config: Any, context: StepContext) -> None:
        """Random weights (new models, adapters) come from `context.seed`, whatever was drawn before."""
        found = []
        for other in (1, 2):
            with global_seed(other):
                found.append(weights_of(registered.build(config, context).module))
        assert changed_weights(*found) == [], "weights depend on the global random state"

    def test_lives_on_its_device(self, built: Policy, context: StepContext) -> None:
        """Stages put batches on `policy.device`, which has to be the one that the run chose."""
        places = {p.device.type for p in built.module.parameters()}
        assert places == {context.device.type}, f"weights on {places}, the run chose {context.device}"
        assert torch.device(built.device).type == context.device.type, f"device is {built.device}"

    def test_saved_policy_is_the_same_policy(
        self, built: Policy, registered: Registered, context: StepContext, tmp_path: Path
    ) -> None:
        """The next step reads the folder (option `path`): same log-probs, same ids, same stop tokens."""
        disturb(built.module)
        built.save(tmp_path / "saved")
        again = self.reload(tmp_path / "saved", registered, context)
        assert again.tokenizer_id == built.tokenizer_id, "tokenizer_id"
        assert again.stop_ids == built.stop_ids, "stop_ids"
        rows = self.rows(built)
        assert self.rows(again) == rows, "ids"
        for before, after in zip(target_logprobs(built, rows), target_logprobs(again, rows), strict=True):
            self.close(after, before, "the saved policy has other log-probs")

    def test_saved_folder_is_in_standard_form(self, built: Policy, tmp_path: Path) -> None:
        """Weights as safetensors, config and tokenizer: readable by other tools, and no pickle that could run code."""
        built.save(tmp_path / "saved")
        try:
            check_model_path(str(tmp_path / "saved"))
        except UserError as wrong:
            pytest.fail(str(wrong))
        assert pickles_in(tmp_path / "saved") == [], "files that are read by unpickling"

    def test_saving_changes_nothing(self, built: Policy, tmp_path: Path) -> None:
        """Steps save in the middle of training: weights and mode stay bit for bit as they were."""
        disturb(built.module)
        built.module.train()
        before = weights_of(built.module)
        built.save(tmp_path / "saved")
        assert changed_weights(before, weights_of(built.module)) == [], "save() changed the weights"
        assert built.module.training

    def test_saving_again_replaces_the_folder(
        self, built: Policy, registered: Registered, context: StepContext, tmp_path: Path
    ) -> None:
        """A folder left from an earlier try must not be kept, nor mixed with the new one."""
        built.save(tmp_path / "saved")
        disturb(built.module)
        built.save(tmp_path / "saved")
        rows = self.rows(built)
        again = target_logprobs(self.reload(tmp_path / "saved", registered, context), rows)
        for before, after in zip(target_logprobs(built, rows), again, strict=True):
            self.close(after, before, "the saved policy has other log-probs")

    def test_revision_names_the_weights(
        self, built: Policy, registered: Registered, context: StepContext, tmp_path: Path
    ) -> None:
        """Candidates carry the revision: equal for the same saved weights, another one for others."""
        for name in ("saved", "other"):
            built.save(tmp_path / name)
            disturb(built.module)
        revisions = [self.reload(tmp_path / n, registered, context).revision for n in ("saved", "saved", "other")]
        assert revisions[0] == revisions[1], "the same folder was given two revisions"
        assert revisions[0] != revisions[2], "other weights have the same revision: make it from the files"

    def test_longest_row_fits(self, built: Policy) -> None:
        """`max_positions` is what stages and samplers trust when they refuse rows that are too long; None: no limit."""
        if built.max_positions is None:
            return
        assert built.max_positions > 0
        if built.max_positions > self.longest_tried:
            pytest.skip(f"max_positions {built.max_positions} would take long")
        words: Sequence[int] = built.encode_prompt(" ".join(self.texts) * built.max_positions)[: built.max_positions]
        assert len(words) == built.max_positions
        (logp_N,) = target_logprobs(built, [self.row(words, 1)])
        assert torch.isfinite(logp_N).all()
