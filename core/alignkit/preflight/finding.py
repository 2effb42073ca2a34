"""What can be found before a run. Each finding has a code, and docs/check.md explains it."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from alignkit.doctor.finding import Code, Severity
from alignkit.errors import AlignkitError

OPTION = re.compile(r"(\w+(\.\w+)*)?")
PLACED = re.compile(r"(?P<where>\S.*?:\d+|command line): (?P<what>.*)")
ORDER: tuple[Severity, ...] = ("error", "warning", "note")

CODES: dict[str, Code] = {
    "R001": Code("error", "the recipe cannot be used", "change the line it names"),
    "R002": Code("error", "a file, a model or code cannot be used", "mend the file, or name another one"),
    "R003": Code("error", "a component fails when it is checked", "tell the author of the plugin"),
    "R004": Code("note", "not looked at yet", "each is looked at right before it runs"),
    "R005": Code(
        "warning", "a step could not be looked at", "tell the author of the plugin; the step runs all the same"
    ),
    "R006": Code("warning", "bad rows will be skipped", "mend them, or see rejected.jsonl after the step"),
    "R008": Code("warning", "a path that is not there is taken for a data set of the hub", "check the path"),
    "R009": Code("note", "a data set is fetched from the hub", "nothing, if that is meant"),
    "R010": Code(
        "warning",
        "rows lose their end token",
        "raise max_length, or set too_long: drop; else the policy learns that answers need no end",
    ),
    "R011": Code(
        "note", "padding uses the end token", "nothing to do here: masks are explicit; other tools may mask it"
    ),
    "R012": Code(
        "warning",
        "other tools would not stop where answers end",
        "add the token to eos_token_id in the folder's generation_config.json",
    ),
    "R013": Code("warning", "the chat template does not end a turn with a stop token", "mend the template's turn end"),
    "R014": Code("warning", "rows begin with two start tokens", "take the start token out of the texts"),
    "R015": Code("warning", "texts contain special tokens", "give plain texts or messages, not templated ones"),
    "R016": Code(
        "error", "the tokenizer has ids that the model has no row for", "use the tokenizer that the model was made with"
    ),
    "R017": Code("error", "a row cannot be encoded", "mend the row, or use a tokenizer with a template that fits it"),
    "R018": Code("warning", "plain texts for a chat model", "give the rows as messages, or start from a base model"),
    "R019": Code("warning", "the tokenizer is larger than the model", "use the tokenizer that the model was made with"),
    "R020": Code("error", "no row is left", "raise max_length"),
    "R021": Code("warning", "many rows are too long", "raise max_length, or shorten the rows"),
    "R022": Code("note", "a few rows are too long", "raise max_length if they matter"),
    "R023": Code("error", "a row is too long, and that is an error here", "raise max_length, or set too_long: drop"),
    "R024": Code("error", "rows are longer than the model's positions", "lower max_length (or block_length)"),
    "R025": Code("warning", "empty completions", "take them out: the policy learns to say nothing"),
    "R026": Code("warning", "rows are repeated", "set drop_duplicates: true in the data step"),
    "R027": Code("warning", "both sides of a pair are equal", "take these pairs out: they teach nothing"),
    "R028": Code("warning", "held-out prompts are also trained on", "hold out by prompt: heldout in one data step"),
    "R029": Code("warning", "a batch is larger than the data", "lower batch_size, or give more rows"),
    "R030": Code("error", "prompts leave no room for the answer", "lower sampling.max_length or set max_prompt_length"),
    "R031": Code("warning", "prompts are left out", "raise max_prompt_length"),
    "R032": Code("error", "no prompt is left", "raise max_prompt_length"),
    "R033": Code("note", "how often prompts are used", "change iterations or batch_size if that is not meant"),
    "R034": Code("warning", "rows contradict each other", "look at them: they are kept, and count as votes"),
    "R040": Code("warning", "the learning rate is very high", "for fine-tuning 1e-6 to 1e-3 is usual"),
    "R041": Code(
        "note", "tokens are drawn from a part of the distribution", "set top_k: 0 and top_p: 1 to draw from all"
    ),
    "R042": Code("note", "the reward model learned from other samples", "sample alike in both steps if you can"),
    "R043": Code(
        "note", "more completions of a prompt are drawn than the recipe says", "set samples_per_prompt to say how many"
    ),
    "R050": Code("error", "the reference has another tokenizer", "name a reference that was made from the policy"),
    "R051": Code("note", "the reward model has another tokenizer", "it reads decoded text: slower, and right"),
    "R052": Code(
        "error", "the critic has another tokenizer", "leave critic_init out, or name a model of the policy's kin"
    ),
    "R053": Code(
        "warning",
        "completions are longer than what the reward model learned from",
        "raise the reward model's max_length",
    ),
    "R054": Code("error", "completions do not fit the reward model", "lower sampling.max_length or max_prompt_length"),
    "R055": Code(
        "warning", "the reward model orders pairs no better than chance", "look at its accuracy before spending on it"
    ),
    "R056": Code("warning", "the reward model's scores cannot be used", "train it again, and look at its loss"),
    "R060": Code(
        "warning", "memory may not be enough", "lower micro_batch_tokens, or see docs/memory.md: lora, critic: shared"
    ),
    "R061": Code(
        "error", "memory cannot be enough", "take a smaller model, lora or dtype: bfloat16, or a larger machine"
    ),
    "R062": Code("warning", "the disk may not be enough", "free space, set output=FOLDER, or lower checkpoints.keep"),
    "R063": Code("error", "the disk cannot be enough", "free space, or set output=FOLDER"),
    "R064": Code("note", "memory and disk", "estimates: memory within a factor of 1.3 where it was measured"),
    "R070": Code("note", "device and kernels", "device=… and kernels=… choose others"),
    "R071": Code("warning", "a GPU is there and not used", "set device=auto, or leave it out"),
    "R072": Code("warning", "no fast bfloat16 on this processor", "set precision=float32: it is faster here"),
    "R073": Code("warning", "plugins changed since this run was begun", "install the versions of then, or name=NEW"),
    "R074": Code("note", "plugins that failed to load", "see `alignkit plugins doctor`"),
    "R075": Code("error", "the run of this name holds other results", "name=NEW starts another run"),
}


@dataclass(frozen=True)
class Finding:
    """One thing to know: `where` is an option (`optimizer_stage.lr`) or a file (with a slash), `what` says what it is.

    `hint` replaces the code's advice where more is known.
    """

    code: str
    what: str
    where: str = ""
    hint: str = ""

    @classmethod
    def of(cls, code: str, error: AlignkitError) -> Self:
        """What an error says."""
        return cls(code, error.what, error.where or "", error.hint or "")

    @property
    def severity(self) -> Severity:
        """`error`, `warning` or `note`."""
        return CODES[self.code].severity

    @property
    def title(self) -> str:
        """What the code means."""
        return CODES[self.code].title

    @property
    def advice(self) -> str:
        """What to do."""
        return self.hint or CODES[self.code].advice

    @property
    def option(self) -> str | None:
        """`where`, if it is an option; "" is the component as a whole."""
        return self.where if OPTION.fullmatch(self.where) else None

    def each(self) -> "list[Finding]":
        """Apart, what an error says of several places in lines of their own (`  FILE:LINE: problem`)."""
        head, *lines = self.what.split("\n")
        if not lines:
            return [self]
        found = [replace(self, what=head)] if not lines[0].startswith(" ") else []
        for line in lines:
            place = PLACED.fullmatch(line.strip())
            where, what = (place["where"], place["what"]) if place else (self.where, line.strip())
            found.append(replace(self, where=where, what=what))
        return found

    def inside(self, option: str) -> "Finding":
        """The same, seen from the component that holds this one under `option`. A file stays a file."""
        return self if self.option is None else replace(self, where=f"{option}.{self.where}".rstrip("."))

    def data(self) -> dict[str, Any]:
        """For JSON."""
        keys = ("code", "severity", "where", "what", "advice")
        return {key: getattr(self, key) for key in keys}


def place(path: Path) -> str:
    """A path with a slash, so that it is not taken for an option."""
    return str(path) if len(path.parts) > 1 else f"./{path}"


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Errors first; within a severity in the order given."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.severity))
