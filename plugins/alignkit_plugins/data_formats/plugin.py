"""Registers the built-in data formats."""

from collections.abc import Iterable

from alignkit import Component, hookimpl
from alignkit_plugins.data_formats.classes import ClassesConfig, ClassesFormat
from alignkit_plugins.data_formats.demonstrations import (
    MessagesConfig,
    MessagesFormat,
    PromptCompletionConfig,
    PromptCompletionFormat,
)
from alignkit_plugins.data_formats.hh import HHConfig, HHFormat
from alignkit_plugins.data_formats.labelled import LabelledConfig, LabelledFormat
from alignkit_plugins.data_formats.preference import PreferenceConfig, PreferenceFormat
from alignkit_plugins.data_formats.prompts import PromptsConfig, PromptsFormat
from alignkit_plugins.data_formats.text import TextConfig, TextFormat


@hookimpl
def alignkit_data_formats() -> Iterable[Component]:
    """Forms of files that need no code of one's own."""
    return [
        Component("text", lambda c, _: TextFormat(c), TextConfig, "documents: plain text, or one column"),
        Component(
            "prompt_completion",
            lambda c, _: PromptCompletionFormat(c),
            PromptCompletionConfig,
            "demonstrations: a prompt and the completion to imitate",
        ),
        Component(
            "messages",
            lambda c, _: MessagesFormat(c),
            MessagesConfig,
            "demonstrations: a chat whose last turn is the answer to imitate",
        ),
        Component(
            "preference",
            lambda c, _: PreferenceFormat(c),
            PreferenceConfig,
            "preference pairs: chosen and rejected, with or without a prompt column",
        ),
        Component("hh", lambda c, _: HHFormat(c), HHConfig, "preference pairs: hh-rlhf transcripts"),
        Component(
            "labelled",
            lambda c, _: LabelledFormat(c),
            LabelledConfig,
            "completions labelled good or bad, unpaired: prompt, completion, label",
        ),
        Component("prompts", lambda c, _: PromptsFormat(c), PromptsConfig, "prompts alone"),
        Component(
            "classes",
            lambda c, _: ClassesFormat(c),
            ClassesConfig,
            "preference pairs drawn from texts with a numeric label",
        ),
    ]
