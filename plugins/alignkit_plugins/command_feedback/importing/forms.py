"""The forms of files that `feedback import` reads, by name."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alignkit.components import Config
from alignkit.manager import PluginManager
from alignkit_plugins.command_feedback.importing import argilla, datasets, label_studio, native, paired, votes
from alignkit_plugins.command_feedback.importing.items import Form, Maker


class FormKind(NamedTuple):
    """A form: its options, and what makes its reader. `build` is None for alignkit's own records."""

    options: type[Config]
    build: Callable[[Any, Maker, PluginManager], Form] | None
    summary: str


FORMS: Mapping[str, FormKind] = {
    "trl": FormKind(paired.TRLOptions, paired.PairForm, "chosen and rejected; vote columns; a column with p"),
    "hh": FormKind(paired.HHOptions, paired.PairForm, "transcripts of hh-rlhf"),
    "kto": FormKind(paired.KTOOptions, paired.KTOForm, "prompt, completion and a label true or false"),
    "votes": FormKind(votes.VotesOptions, lambda o, m, _: votes.VotesForm(o, m), "two texts and several votes"),
    "ratings": FormKind(votes.RatingsOptions, lambda o, m, _: votes.RatingsForm(o, m), "a text and several ratings"),
    "summarize": FormKind(
        datasets.SummarizeOptions, lambda o, m, _: datasets.SummarizeForm(o, m), "OpenAI's summary comparisons"
    ),
    "ultrafeedback": FormKind(
        datasets.UltraFeedbackOptions, lambda o, m, _: datasets.UltraFeedbackForm(o, m), "UltraFeedback"
    ),
    "argilla": FormKind(argilla.ArgillaOptions, lambda o, m, _: argilla.ArgillaForm(o, m), "Argilla, exported flat"),
    "label-studio": FormKind(
        label_studio.LabelStudioOptions, lambda o, m, _: label_studio.LabelStudioForm(o, m), "Label Studio's JSON"
    ),
    "jsonl": FormKind(native.NativeOptions, None, "alignkit's own tasks and judgements"),
}
