"""The findings that there can be. Each has a code, and docs/plugins/doctor.md explains it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]


class Code(NamedTuple):
    """How bad a finding is, its short title, and what to do."""

    severity: Severity
    title: str
    advice: str


CODES: dict[str, Code] = {
    "P001": Code(
        "error",
        "a plugin failed to load",
        "mend it or ask its author; uninstall it, or leave it out: plugins: {disable: [NAME]}",
    ),
    "P002": Code("warning", "several distributions offer one name", "write DISTRIBUTION:NAME in recipes"),
    "P003": Code("note", "a plugin was left out", "change ALIGNKIT_PLUGINS if that is not what you want"),
    "P010": Code("warning", "a large package is imported at the top level", "import it inside build"),
    "P011": Code("note", "the plugin's import is slow", "move imports and work into build"),
    "P020": Code("warning", "an option has no description", 'give it Field(description="…")'),
    "P021": Code(
        "warning", "the config allows unknown keys", 'derive it from alignkit.components.Config (extra="forbid")'
    ),
    "P022": Code("note", "the config can be changed after it was checked", "derive it from alignkit.components.Config"),
    "P023": Code("error", "a default does not satisfy its own option", "change the default or the option's range"),
    "P024": Code("error", "the options have no JSON schema", "use types that pydantic can describe"),
    "P030": Code("warning", "a component has no summary", 'give it Component(summary="…")'),
    "P031": Code("error", "a command cannot be used", "let build(config, context) return a click.Command"),
    "P032": Code("error", "build does not take (config, context)", "let it have these two arguments"),
    "P040": Code(
        "warning", "the distribution does not require alignkit", 'add "alignkit>=VERSION" to its dependencies'
    ),
    "P041": Code(
        "error", "the distribution requires another alignkit", "install a version of it made for this alignkit"
    ),
    "P050": Code("warning", "the plugin uses what is deprecated", "follow the message; ask its author for an update"),
    "P051": Code("note", "a component is deprecated", "use what it names instead"),
}


@dataclass(frozen=True)
class Finding:
    """One thing to know: `plugin` is DIST VERSION (PLUGIN), `what` says what was found there."""

    code: str
    plugin: str
    what: str

    @property
    def severity(self) -> Severity:
        """`error`, `warning` or `note`."""
        return CODES[self.code].severity

    @property
    def advice(self) -> str:
        """What to do."""
        return CODES[self.code].advice
