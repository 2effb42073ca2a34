"""One page per kind with every option of every built-in component, read from the pydantic models at build time."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mkdocs.structure.files import File

# No recipe names a component of these kinds.
OUTSIDE_RECIPES = ("command",)
# What the recipe does without a key, where the model's empty default stands for something else.
SAID_DEFAULTS = {"trackers": "those meant for every run"}
RECIPE_MARK = "<!-- options of the recipe -->"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from alignkit.components import KINDS
    from alignkit.manager import PluginManager

    manager = PluginManager()
    manager.load()
    for kind in (kind for kind in KINDS if kind not in OUTSIDE_RECIPES):
        files.append(File.generated(config, f"reference/options/{kind}.md", content="\n".join(page(manager, kind))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The recipe's own keys."""
    from alignkit.recipe import Recipe

    if RECIPE_MARK not in markdown:
        return markdown
    return markdown.replace(RECIPE_MARK, "\n".join(table(Recipe, SAID_DEFAULTS)))


def page(manager: Any, kind: str) -> Iterator[str]:
    """Heading, summary and options of every component of a kind."""
    yield from (f"# Options: {kind}", "")
    yield from (f"What the kind is for and how to write one: [{kind}](../../kinds/{kind}.md).", "")
    for registered in manager.all(kind):
        component = registered.component
        yield from (f"## {component.name}", "", f"{component.summary[:1].upper()}{component.summary[1:]}.", "")
        yield from table(component.config) if component.config.model_fields else ("No options.", "")


def table(model: Any, said: Mapping[str, str] | None = None) -> Iterator[str]:
    """Options of the model and of the models inside it, under their dotted names; `said` are defaults in words."""
    from alignkit.describe import options_of, walk

    yield from ("| option | value | |", "|---|---|---|")
    for name, option in walk(options_of(model)):
        if name.startswith("steps."):
            continue  # of the recipe: what a step has depends on the step
        words = (said or {}).get(name)
        yield f"| `{name}` | {value(option, words)} | {description(option)} |"
    yield ""


def value(option: Any, words: str | None = None) -> str:
    """Type, bounds and default, the latter in `words` if there are any."""
    bounds = f" `{option.range}`" if option.range else ""
    return f"`{type_of(option)}`{bounds}<br>{f'default: {words}' if words else default(option)}"


def type_of(option: Any) -> str:
    """A model inside is a mapping."""
    if not option.options:
        return str(option.type)
    return "list of mappings" if option.type.startswith("list of") else "mapping"


def default(option: Any) -> str:
    """What holds when the option is left out."""
    if option.required:
        return "**required**"
    if option.options and option.default is not None:
        return "default: see below"
    shown = option.default if isinstance(option.default, str) else json.dumps(option.default, ensure_ascii=False)
    return f"default: `{shown}`" if shown else "default: empty"


def description(option: Any) -> str:
    """Text that may stand in a table; in code a bar is no separator."""
    text = f"{option.description} (deprecated: {option.deprecated})" if option.deprecated else option.description
    return " ".join(text.split()).replace("|", "\\|")
