"""Text and conversations to token ids and back, the same way in every stage.

A completion's ids are always encoded apart from its prompt's, so that training sees exactly the split that sampling
produces; nothing sampled is ever decoded and encoded again.
"""

from collections.abc import Sequence
from typing import Any

from alignkit.errors import UserError
from alignkit.files import digest
from alignkit.records import Content, Message

PROBE = "a"


class TextEncoder:
    """A tokenizer with its stop tokens.

    `stop_ids`: the tokenizer's end token, every end token of the model's configs, and the token that closes an
    assistant turn in the chat template.
    """

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int], name: str) -> None:
        self.tokenizer = tokenizer
        self.name = name
        if tokenizer.eos_token_id is None and not stop_ids:
            raise UserError("the tokenizer has no end token", where=name, hint="set eos_token in its config")
        self.end_id = int(tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(stop_ids))
        self.stop_ids = stop_ids | {self.end_id} | self._turn_end()
        pad = tokenizer.pad_token_id
        # Any id will do: padding is told by masks, never by the id.
        self.pad_id = self.end_id if pad is None else int(pad)
        vocabulary = sorted(tokenizer.get_vocab().items())
        self.tokenizer_id = digest([vocabulary, getattr(tokenizer, "chat_template", None)])[:16]

    def _turn_end(self) -> frozenset[int]:
        if not getattr(self.tokenizer, "chat_template", None):
            return frozenset()
        turn = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
        ids = self._template(turn, generation_prompt=False)
        specials = set(self.tokenizer.all_special_ids)
        content = self.tokenizer(PROBE, add_special_tokens=False).input_ids
        for i in range(len(ids) - 1, -1, -1):
            if ids[i : i + len(content)] == content:
                after = ids[i + len(content) :]
                return frozenset(after[:1]) if after and after[0] in specials else frozenset()
        return frozenset()

    def _template(self, messages: list[dict[str, str]], generation_prompt: bool) -> list[int]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError(
                "the data are conversations and the tokenizer has no chat template",
                where=self.name,
                hint="use an instruct model, or data with plain-text prompts",
            )
        out = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=generation_prompt, tokenize=True, return_dict=True
        )
        return [int(i) for i in out["input_ids"]]

    def prompt(self, content: Content) -> list[int]:
        """Ids of a prompt, at least one: an empty text becomes the start token (or the end token if there is none)."""
        if not isinstance(content, str):
            return self._template([m.model_dump() for m in content], generation_prompt=True)
        ids = [int(i) for i in self.tokenizer(content).input_ids]
        # Some tokenizers close what they encode; a prompt must stay open.
        while ids and ids[-1] == self.end_id and ids[-1] != self.tokenizer.bos_token_id:
            ids.pop()
        if ids:
            return ids
        start = self.tokenizer.bos_token_id
        return [self.end_id if start is None else int(start)]

    def completion(self, prompt: Content, completion: Content) -> list[int]:
        """Ids that follow `prompt`, closed by one stop token."""
        if isinstance(prompt, str) and isinstance(completion, str):
            return [*self.text(completion), self.end_id]
        before = list(prompt) if not isinstance(prompt, str) else [Message(role="user", content=prompt)]
        after = [Message(role="assistant", content=completion)] if isinstance(completion, str) else list(completion)
        whole = self._template([m.model_dump() for m in (*before, *after)], generation_prompt=False)
        prefix = self.prompt(tuple(before))
        if whole[: len(prefix)] != prefix:
            raise UserError(
                "the chat template changes earlier turns when an answer is added, so the answer cannot be told apart",
                where=self.name,
                hint="use a template that is prefix-preserving",
            )
        ids = whole[len(prefix) :]
        last = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] in self.stop_ids), None)
        return [*ids, self.end_id] if last is None else ids[: last + 1]

    def text(self, text: str) -> list[int]:
        """Ids of plain text without special tokens."""
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False).input_ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out, spaces are as they were."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
