"""Model folders, files of records and step contexts to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from alignkit.context import StepContext
from alignkit.data.store import RecordFile, write_records
from alignkit.manager import PluginManager
from alignkit.preflight import DataView, Sample
from alignkit.preflight.folder import ModelFacts, model_facts
from alignkit.preflight.looking import NotYetError
from alignkit.recipe import Recipe
from alignkit.records import Record
from helpers.context import make_context
from helpers.models import make_policy, make_tokenizer
from helpers.preflight import Context, Facts, View


@pytest.fixture(scope="session")
def manager() -> PluginManager:
    """With all built-in plugins."""
    manager = PluginManager()
    manager.load()
    return manager


@pytest.fixture
def model(tmp_path: Path) -> Facts:
    """`model("name", chat=True, …)` saves a tiny Llama of 128 positions and gives the facts of its folder."""

    def save(name: str = "model", stop_ids: Sequence[int] = (), seed: int = 0, **tokenizer: Any) -> ModelFacts:
        folder = tmp_path / name
        made = make_tokenizer(**tokenizer)
        make_policy("llama", made, seed, stop_ids=stop_ids).save(folder)
        facts = model_facts(str(folder))
        assert facts is not None
        return facts

    return save


@pytest.fixture
def view(tmp_path: Path) -> View:
    """`view(model, records)`: what a stage is shown of a file with these records."""

    def show(facts: ModelFacts | None, records: Sequence[Record], heldout: Sequence[Record] = ()) -> DataView:
        found = []
        for name, rows in (("rows", records), ("heldout_rows", heldout)):
            path = tmp_path / f"{name}.jsonl"
            write_records(path, rows)
            found.append(Sample.of(RecordFile(path, type(records[0])), 5000) if rows else None)
        assert found[0] is not None
        return DataView(facts, found[0], found[1])

    return show


@pytest.fixture
def in_recipe(tmp_path: Path, manager: PluginManager) -> Context:
    """`in_recipe(steps, {"@id": path}, policy)`: the context of the last step; other references are not there yet."""

    def build(
        steps: Sequence[Mapping[str, Any]], there: Mapping[str, Path], policy: Mapping[str, Any] | None = None
    ) -> StepContext:
        context = make_context(tmp_path / "run" / "step", manager=manager)
        start = policy or {"name": "causal_lm", "path": "@base"}
        context.recipe = Recipe.model_validate({"name": "test", "policy": start, "steps": list(steps)})
        context.step_id = context.recipe.steps[-1].id

        def resolve(reference: str) -> Path:
            if reference not in there:
                raise NotYetError([reference.partition(".")[0]])
            return there[reference]

        context.resolve_reference = resolve
        return context

    return build
