"""Text and conversations become ids whose completion part is what sampling would produce, with its end token."""

from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import UserError
from alignkit.modeling import folders
from alignkit.modeling.encoding import TextEncoder
from alignkit.records import Demonstration, Message
from alignkit_plugins.optim_sft.config import SFTConfig
from alignkit_plugins.optim_sft.stage import encode
from alignkit_plugins.policy_causal_lm.tokenizer import CHATML
from helpers.models import TURN_END, make_policy, make_tokenizer

ASK = (Message(role="user", content="the film"),)
ANSWER = (Message(role="assistant", content="is long"),)
# Says the number of turns first, so that an answer changes what stands before it.
COUNTING = "{{ messages | length }} " + CHATML
ALTERNATING = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML


def encoder(**options: Any) -> TextEncoder:
    return TextEncoder(make_tokenizer(**options), frozenset(), "the model")


class TestText:
    def test_prompt_opens_and_completion_closes_and_neither_does_both(self, llama: Any) -> None:
        encoder = llama.encoder
        assert encoder.prompt("the film")[0] == encoder.tokenizer.bos_token_id
        assert encoder.end_id not in encoder.prompt("the film")
        assert encoder.completion("the film", " is long") == [*encoder.text(" is long"), encoder.end_id]

    def test_an_empty_prompt_is_the_start_token(self, llama: Any) -> None:
        assert llama.encoder.prompt("") == [llama.encoder.tokenizer.bos_token_id]

    def test_spaces_survive_decoding(self, llama: Any) -> None:
        text = "  two  spaces , and a comma .  "
        assert llama.encoder.decode(llama.encoder.completion("", text)) == text

    def test_messages_without_a_template_are_the_users_mistake(self, llama: Any) -> None:
        with pytest.raises(UserError, match="no chat template"):
            llama.encode_prompt(ASK)
        with pytest.raises(UserError, match="no chat template"):
            llama.encode_completion(ASK, ANSWER)

    def test_a_tokenizer_without_an_end_is_refused(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(UserError, match="no end token"):
            TextEncoder(tokenizer, frozenset(), "x")


class TestConversations:
    def test_the_turns_end_is_a_stop_token_beside_eos(self) -> None:
        found = encoder(chat=True)
        turn_end = found.tokenizer.convert_tokens_to_ids(TURN_END)
        assert found.turn_end_id == turn_end
        assert found.stop_ids == {turn_end, found.tokenizer.eos_token_id}
        assert found.closing_id(ASK) == turn_end
        assert found.closing_id("the film") == found.end_id

    def test_it_is_found_even_where_a_word_is_encoded_otherwise_after_a_newline(self) -> None:
        """SentencePiece-like tokenizers put a space before the first word of a text."""
        from tokenizers import pre_tokenizers

        tokenizer = make_tokenizer(chat=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        found = TextEncoder(tokenizer, frozenset(), "x")
        assert found.turn_end_id == tokenizer.convert_tokens_to_ids(TURN_END)

    def test_a_completion_ends_with_the_turns_end_inside_the_loss_mask(self) -> None:
        policy = make_policy("llama", make_tokenizer(chat=True))
        turn_end = policy.encoder.turn_end_id
        completion = policy.encode_completion(ASK, ANSWER)
        assert completion == [*policy.encoder.text("is long"), turn_end]  # and not the newline behind it
        row = encode(policy, [Demonstration(prompt=ASK, completion=ANSWER)], SFTConfig(), "x").rows[0]
        assert row.ids[-1] == turn_end
        assert row.target[-1] is True
        assert sum(row.target) == len(completion)
        assert policy.decode(completion) == "is long"

    def test_prompt_and_completion_are_the_template_of_the_whole(self) -> None:
        found = encoder(chat=True)
        turns = [m.model_dump() for m in (*ASK, *ANSWER)]
        whole = found.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
        ours = found.prompt(ASK) + found.completion(ASK, ANSWER)
        assert ours == whole[: len(ours)]
        assert found.decode(whole[len(ours) :]) == "\n"

    def test_an_answer_as_plain_text_is_the_assistants_turn(self) -> None:
        found = encoder(chat=True)
        assert found.completion(ASK, "is long") == found.completion(ASK, ANSWER)

    def test_a_template_that_changes_earlier_turns_is_refused(self) -> None:
        with pytest.raises(UserError, match="changes earlier turns"):
            encoder(chat=True, template=COUNTING).completion(ASK, ANSWER)

    def test_a_template_that_refuses_the_roles_is_the_users_mistake(self) -> None:
        with pytest.raises(UserError, match=r"refuses a conversation with the roles \['system'\]: user first"):
            encoder(chat=True, template=ALTERNATING).prompt((Message(role="system", content="x"),))

    def test_a_text_prompt_with_messages_as_answer_is_refused(self) -> None:
        with pytest.raises(UserError, match="plain text and its completion a list of messages"):
            encoder(chat=True).completion("the film", ANSWER)


class TestStopIds:
    def test_every_end_token_of_the_configs_counts(self, tokenizer: Any, tmp_path: Path) -> None:
        extra = tokenizer.convert_tokens_to_ids("<stop>")
        policy = make_policy("llama", tokenizer, stop_ids=[extra])
        assert policy.stop_ids == {tokenizer.eos_token_id, extra}
        policy.module.generation_config.eos_token_id = [extra, 42]
        assert folders.stop_ids(policy.module) == {tokenizer.eos_token_id, extra, 42}

    def test_they_survive_saving(self, tokenizer: Any, tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM

        policy = make_policy("llama", tokenizer, stop_ids=[tokenizer.convert_tokens_to_ids("<stop>")])
        policy.save(tmp_path / "m")
        module = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        again = folders.load_encoder(str(tmp_path / "m"), module)
        assert again.stop_ids == policy.stop_ids
        assert again.tokenizer_id == policy.tokenizer_id

    def test_another_vocabulary_or_template_is_another_tokenizer(self, llama: Any) -> None:
        assert encoder(chat=True).tokenizer_id != llama.tokenizer_id
        assert encoder().tokenizer_id == llama.tokenizer_id
