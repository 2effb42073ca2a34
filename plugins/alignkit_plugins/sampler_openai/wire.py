"""What is sent for a prompt, and what may come back: nothing that was asked for is left out silently."""

import re
from typing import Any, NamedTuple

from alignkit.errors import UserError
from alignkit.records import FinishReason, Prompt, Sampling
from alignkit_plugins.sampler_openai.config import OpenAISamplerConfig

# "Keep all", by the documentation of the three servers that take top_k.
EVERY_TOKEN = -1


class BadReplyError(Exception):
    """An answer with HTTP 200 that holds no completion as it was asked for."""


class Drawn(NamedTuple):
    """One completion."""

    text: str
    finish: FinishReason


def is_chat(config: OpenAISamplerConfig, prompt: Prompt) -> bool:
    """Whether the prompt goes to /chat/completions. Raises UserError for a conversation in mode completions."""
    plain = isinstance(prompt.prompt, str)
    if config.mode == "completions" and not plain:
        raise UserError(
            f"prompt {prompt.id} is a conversation, and /completions takes text",
            where="sampler.mode",
            hint="set mode: auto or chat: the server then applies its chat template",
        )
    return config.mode == "chat" or not plain


def asked_for(config: OpenAISamplerConfig, sampling: Sampling, chat: bool) -> dict[str, Any]:
    """The fields that say how to draw. Raises UserError for what this server cannot be asked.

    Written out even where nothing is restricted: servers fill in what is missing from the model's generation config.
    """
    fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    limit = "max_completion_tokens" if chat and "max_completion_tokens" in config.takes else "max_tokens"
    fields[limit] = sampling.max_length
    if "top_k" in config.takes:
        fields["top_k"] = sampling.top_k or EVERY_TOKEN
    elif sampling.top_k:
        raise UserError(
            "OpenAI's protocol has no top_k, and a server that does not know it may leave it out silently",
            where="sampling.top_k",
            hint="if this server takes it (vLLM, SGLang and llama.cpp do, by their documentation), say so: "
            "sampler.takes: [seed, top_k]",
        )
    return fields


def request(
    config: OpenAISamplerConfig, model: str, prompt: Prompt, sampling: Sampling, count: int, seed: int
) -> dict[str, Any]:
    """Arguments of the client's `create`."""
    chat = is_chat(config, prompt)
    fields = asked_for(config, sampling, chat)
    further = {name: fields.pop(name) for name in ("top_k",) if name in fields} | config.request
    if count > 1:
        fields["n"] = count
    if "seed" in config.takes:
        fields["seed"] = seed
    whole = prompt.prompt
    if not chat:
        fields["prompt"] = whole
    elif isinstance(whole, str):
        fields["messages"] = [{"role": "user", "content": whole}]
    else:
        fields["messages"] = [message.model_dump() for message in whole]
    return {"model": model, **fields, "extra_body": further}


def read(reply: Any, chat: bool, count: int, sampling: Sampling) -> list[Drawn]:
    """One to `count` completions. Raises BadReplyError for anything else."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise BadReplyError(f"no completion: {reply!r}")
    if len(choices) > count:
        raise BadReplyError(f"{len(choices)} completions, and {count} were asked for")
    written = getattr(getattr(reply, "usage", None), "completion_tokens", None)
    if isinstance(written, int) and written > len(choices) * sampling.max_length:
        raise BadReplyError(
            f"{written} tokens in {len(choices)} completions, and each may have {sampling.max_length}: "
            "the server does not heed the limit that it was sent"
        )
    return [_drawn(choice, chat, sampling.max_words) for choice in choices]


def _drawn(choice: Any, chat: bool, max_words: int | None) -> Drawn:
    finish = getattr(choice, "finish_reason", None)
    message = getattr(choice, "message", None) if chat else choice
    text = getattr(message, "content" if chat else "text", None)
    refusal = getattr(message, "refusal", None) if chat else None
    if refusal or finish not in ("stop", "length"):
        raise BadReplyError(f"no answer of the model: {refusal or f'finish_reason {finish!r}'}")
    if not isinstance(text, str):
        raise BadReplyError(f"a completion without text: {choice!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        # Not U+FFFD, by which a server shows a character that max_tokens cut in two: that one would come again.
        raise BadReplyError(f"a completion with half of a surrogate pair, which is no text: {text!r}") from None
    cut = text if max_words is None else cut_to_words(text, max_words)
    return Drawn(cut, "length" if cut != text else finish)


def cut_to_words(text: str, max_words: int) -> str:
    """`text` up to the end of its word number `max_words`, if it has more."""
    words = re.finditer(r"\S+", text)
    ends = [word.end() for word, _ in zip(words, range(max_words + 1), strict=False)]
    return text[: ends[max_words - 1]] if len(ends) > max_words else text
