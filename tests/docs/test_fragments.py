"""Components that the pages name inside recipes have the options that they are given there."""

import re

import yaml

from alignkit.manager import PluginManager
from helpers.pages import DOCS

NAMED = re.compile(r"\b(policy|reward_source|advantage|optimizer_stage|sampler): (\{name: [^{}\n]*\})")


def test_options_of_builtin_components_exist() -> None:
    manager = PluginManager()
    manager.load()
    looked_at = 0
    wrong = []
    for page in sorted(DOCS.rglob("*.md")):
        for kind, text in NAMED.findall(page.read_text(encoding="utf-8")):
            given = yaml.safe_load(text)
            if given["name"] not in manager.names(kind):
                continue  # a plugin that the page is about
            fields = manager.get(kind, given.pop("name")).component.config.model_fields
            looked_at += 1
            wrong += [f"{page.relative_to(DOCS)}: {text}: {key}" for key in given if key not in fields]
    assert looked_at >= 10
    assert wrong == []
