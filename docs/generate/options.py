"""One page per kind with every option of every built-in component, read from the pydantic models at build time."""

import json
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File

# Kinds whose components get their options from a recipe. A kernel is named there, without options.
KINDS = (
    "policy",
    "reward_source",
    "advantage",
    "optimizer_stage",
    "step",
    "sampler",
    "data_format",
    "kernel",
    "tracker",
)
RECIPE_MARK = "<!-- options of the recipe -->"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from alignkit.manager import PluginManager

    manager = PluginManager()
    manager.load()
    for kind in KINDS:
        files.append(File.generated(config, f"reference/options/{kind}.md", content="\n".join(page(manager, kind))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The recipe's own keys."""
    from alignkit.recipe import Recipe

    return markdown.replace(RECIPE_MARK, "\n".join(table(Recipe))) if RECIPE_MARK in markdown else markdown


def page(manager: Any, kind: str) -> Iterator[str]:
    """Heading, summary and options of every component of a kind."""
    yield from (f"# Options: {kind}", "")
    yield from (f"What the kind is for and how to write one: [{kind}](../../kinds/{kind}.md).", "")
    for registered in manager.all(kind):
        component = registered.component
        yield from (f"## {component.name}", "", f"{component.summary[:1].upper()}{component.summary[1:]}.", "")
        yield from table(component.config) if component.config.model_fields else ("No options.", "")


def table(model: Any) -> Iterator[str]:
    """Options of the model and of the models inside it, under their dotted names."""
    from alignkit.describe import options_of, walk

    yield from ("| option | value | |", "|---|---|---|")
    for name, option in walk(options_of(model)):
        if name.startswith("steps."):
            continue  # of the recipe: what a step has depends on the step
        yield f"| `{name}` | {value(option)} | {description(option)} |"
    yield ""


def value(option: Any) -> str:
    """Type, bounds and default."""
    kind = "mapping" if option.options else option.type
    bounds = f" `{option.range}`" if option.range else ""
    return f"`{kind}`{bounds}<br>{default(option)}"


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
