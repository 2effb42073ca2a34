"""Text and conversations to token ids and back, the same way in every stage.

A completion's ids are always encoded apart from its prompt's, so that training sees exactly the split that sampling
produces; nothing sampled is ever decoded and encoded again.
"""

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from alignkit.errors import UserError
from alignkit.files import digest, fingerprint
from alignkit.records import Content, Message

PROBE = "alignkit"


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
        self.turn_end_id = self._turn_end()
        turn_ends = frozenset[int]() if self.turn_end_id is None else {self.turn_end_id}
        self.stop_ids = stop_ids | {self.end_id} | turn_ends
        pad = tokenizer.pad_token_id
        # Any id will do: padding is told by masks, never by the id.
        self.pad_id = self.end_id if pad is None else int(pad)
        vocabulary = sorted(tokenizer.get_vocab().items())
        self.tokenizer_id = digest([vocabulary, getattr(tokenizer, "chat_template", None)])[:16]

    @cached_property
    def identity(self) -> str | None:
        """A hash of all that the ids of a text depend on: tokenizer, template, stop tokens, and the code that applies
        them. None if some of it cannot be known: a tokenizer that is not wholly transformers' own.

        `tokenizer_id` says less: what the ids mean.
        """
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is None or not type(self.tokenizer).__module__.startswith("transformers."):
            return None
        own = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        code = [version("transformers"), version("tokenizers"), fingerprint(Path(__file__))]
        options = [getattr(self.tokenizer, name, None) for name in ("chat_template", "split_special_tokens")]
        return digest([fast.to_str(), type(self.tokenizer).__name__, own, options, sorted(self.stop_ids), *code])

    def _turn_end(self) -> int | None:
        """The special token that follows an assistant's words in the chat template, if there is one.

        Looked for in text, not in ids: what a word is encoded as depends on what stands before it.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            return None
        turn = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
        after = self._apply_template(turn, tokenize=False).rpartition(PROBE)[2]
        added = self.tokenizer.added_tokens_decoder  # all_special_ids lists the named ones only
        specials = {*self.tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        ids = self.text(after)
        first = next((n for n, i in enumerate(ids) if i in specials), None)
        return ids[first] if first is not None and not self.decode(ids[:first]).strip() else None

    def _template(self, messages: list[dict[str, str]], generation_prompt: bool) -> list[int]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError(
                "the data are conversations and the tokenizer has no chat template",
                where=self.name,
                hint="use an instruct model, or data with plain-text prompts",
            )
        out = self._apply_template(messages, add_generation_prompt=generation_prompt, tokenize=True, return_dict=True)
        return [int(i) for i in out["input_ids"]]

    def _apply_template(self, messages: list[dict[str, str]], **options: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(messages, **options)
        except TemplateError as error:
            raise UserError(
                f"the chat template refuses a conversation with the roles {[m['role'] for m in messages]}: {error}",
                where=self.name,
            ) from None

    def closing_id(self, prompt: Content) -> int:
        """The token that closes an answer to `prompt`: the turn's end in a conversation, else the end token."""
        return self.end_id if isinstance(prompt, str) or self.turn_end_id is None else self.turn_end_id

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
        if isinstance(prompt, str):
            raise UserError(
                "the prompt is plain text and its completion a list of messages",
                where=self.name,
                hint="write both as messages or both as text",
            )
        after = [Message(role="assistant", content=completion)] if isinstance(completion, str) else list(completion)
        whole = self._template([m.model_dump() for m in (*prompt, *after)], generation_prompt=False)
        prefix = self.prompt(prompt)
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
