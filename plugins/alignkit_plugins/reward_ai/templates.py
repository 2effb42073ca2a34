"""Questions to the judge: Jinja templates and the principles of a constitution, built in or read from files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from alignkit.errors import UserError
from alignkit.files import digest
from alignkit.seeds import derived_seed
from alignkit_plugins.reward_ai.config import AIConfig, Form

BUILT_IN = Path(__file__).parent / "templates"
# What a template may name, and what it must.
VARIABLES: dict[Form, set[str]] = {
    "pairwise": {"prompt", "a", "b", "first", "second", "principle", "verdict"},
    "rating": {"prompt", "answer", "low", "high", "principle", "verdict"},
}
NEEDED: dict[Form, set[str]] = {"pairwise": {"a", "b"}, "rating": {"answer"}}

# A template is a text with holes and conditions: what it writes is at most so long as it and the texts together, and so
# is the time. Loops, macros, assignments, arithmetic and calls could make a short file write without end.
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.If, nodes.CondExpr,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.Filter, nodes.Concat,
)  # fmt: skip
_FILTERS = {"trim", "upper", "lower", "capitalize", "length", "default", "d"}

# What a template can do wrong: as Jinja tells it, and as the Python behind its expressions and filters does.
_WRONG = (
    TemplateError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)

# The text is for a model, not for a browser: nothing is escaped.
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.globals.clear()


@dataclass(frozen=True)
class QuestionTemplate:
    """A template with the hash that names it in records and in the cache."""

    where: str
    revision: str
    compiled: Template

    def render(self, **values: Any) -> str:
        """The question. Raises UserError for what the template does wrong."""
        try:
            text = self.compiled.render(**values).strip()
            text.encode()
        except _WRONG as error:
            words = str(error) or type(error).__name__
            raise UserError(f"the template fails: {words}", where=self.where, hint="mend the template") from None
        return text


@dataclass(frozen=True)
class Constitution:
    """Principles, one of which is applied in each judgement."""

    principles: tuple[str, ...]

    @property
    def revision(self) -> str:
        """Hash of the principles."""
        return digest(list(self.principles))[:12]

    def draw(self, *what: str) -> str:
        """The principle for what these ids name, in whichever order they come: the same in every run."""
        return self.principles[derived_seed(0, "principle", *sorted(what)) % len(self.principles)]


def load_template(config: AIConfig) -> QuestionTemplate:
    """The template that the config names. Raises UserError if it is missing, damaged or does not fit the form."""
    with_principle = config.constitution is not None
    default = "constitution" if with_principle and config.form == "pairwise" else config.form
    name = config.template or default
    path = BUILT_IN / f"{name}.jinja"
    built_in = sorted(p.stem for p in BUILT_IN.glob("*.jinja"))
    text = path.read_text(encoding="utf-8") if name in built_in else _read(name, "template", built_in)
    try:
        parsed = _ENVIRONMENT.parse(text)
        _require_plain(parsed, name)
        compiled = _ENVIRONMENT.from_string(text)
    except _WRONG as error:
        line = getattr(error, "lineno", None)
        words = str(error) or type(error).__name__
        raise UserError(f"not a template: {words}", where=f"{name}:{line}" if line else name) from None
    _check_names(meta.find_undeclared_variables(parsed), config.form, with_principle, name)
    template = QuestionTemplate(name, digest(text)[:12], compiled)
    _try(template, config.form, with_principle)
    return template


def _require_plain(parsed: nodes.Template, where: str) -> None:
    """Raise UserError for a part of the template that is not among those that are allowed."""
    for node in (parsed, *parsed.find_all(nodes.Node)):
        what = ""
        if not isinstance(node, _ALLOWED):
            what = type(node).__name__
        elif isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            what = f"the filter {node.name}"
        if what:
            raise UserError(
                f"not a template for questions: {what} is not allowed",
                where=f"{where}:{node.lineno}",
                hint=f"it may have names, texts, conditions and the filters {', '.join(sorted(_FILTERS))}",
            )


def _try(template: QuestionTemplate, form: Form, with_principle: bool) -> None:
    """Render it once, so that what is wrong is found before a run starts."""
    values: dict[str, Any] = dict.fromkeys(VARIABLES[form] - {"principle"}, "x")
    principle = {"principle": "x"} if with_principle else {}
    for verdict in (True, False):
        template.render(**{**values, **principle, "verdict": verdict})


def _check_names(used: set[str], form: Form, with_principle: bool, where: str) -> None:
    known = ", ".join(sorted(VARIABLES[form]))
    for name in sorted(used - VARIABLES[form]):
        raise UserError(f"the template names {name!r}, which form {form} has not", where=where, hint=f"known: {known}")
    for name in sorted(NEEDED[form] - used):
        raise UserError(f"the template never shows {name!r}", where=where, hint=f"known: {known}")
    if with_principle and "principle" not in used:
        raise UserError(
            "the template never shows the principle, so the constitution would do nothing",
            where=where,
            hint="write {{ principle }} into it, or leave constitution out",
        )


def load_constitution(name: str | None) -> Constitution | None:
    """The principles in a file; `default` are the built-in ones."""
    if name is None:
        return None
    text = (BUILT_IN / "constitution.txt").read_text(encoding="utf-8") if name == "default" else _read(name, "file", [])
    lines = [line.strip() for line in text.splitlines()]
    principles = tuple(line for line in lines if line and not line.startswith("#"))
    if not principles:
        raise UserError("the constitution has no principle", where=name, hint="write one per line")
    return Constitution(principles)


def _read(name: str, what: str, built_in: list[str]) -> str:
    path = Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = (
            f"built-in templates: {', '.join(built_in)}" if built_in else "write `default` for the built-in principles"
        )
        raise UserError(f"cannot read the {what}: {error}", where=name, hint=hint) from None
