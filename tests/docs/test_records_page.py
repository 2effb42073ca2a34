"""docs/records.md names every record with every field, and every format with every option."""

import inspect
import re
from pathlib import Path

from alignkit import records
from alignkit_plugins.command_feedback.exporting.write import EXPORTS
from alignkit_plugins.command_feedback.importing.forms import FORMS

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
CODE = set(re.findall(r"`([^`\n]+)`", PAGE))


def test_every_field_of_every_record() -> None:
    models = [
        model
        for _, model in inspect.getmembers(records, inspect.isclass)
        if issubclass(model, records.Record) and model is not records.Record
    ]
    models = [model for model in models if not model.__name__.startswith("_")]
    assert len(models) == 18
    missing = [f"{m.__name__}.{field}" for m in models for field in m.model_fields if field not in CODE]
    assert missing == []
    unnamed = [
        m.__name__ for m in models if m.__name__ not in ("Message", "Sampling") and f"**{m.__name__}**" not in PAGE
    ]
    assert unnamed == []


def rows(heading: str) -> dict[str, str]:
    """format -> its row in the table below a heading."""
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return {match[1]: match[0] for match in re.finditer(r"^\| `([a-z-]+)` \|.*$", part, flags=re.MULTILINE)}


def test_every_format_with_its_options() -> None:
    found = rows("Import")
    assert list(found) == list(FORMS)
    found["label-studio"] += found["argilla"]
    for name, kind in FORMS.items():
        for option in kind.options.model_fields:
            assert f"`{option}`" in found[name], f"{name}: {option}"
    assert set(rows("Export")) == set(EXPORTS)
