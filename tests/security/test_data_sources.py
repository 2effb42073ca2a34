"""The project's own code: nothing in it reads pickles, runs texts as code or unpacks archives."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignkit_plugins.reward_ai.verdicts import read_text
from helpers.pages import ROOT

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "zipfile", "tarfile"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
YAML = {"load", "load_all", "full_load", "unsafe_load", "full_load_all", "unsafe_load_all"}


def faults(tree: ast.AST) -> Iterator[str]:
    """What a file does that no file may."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    options = {k.arg: ast.unparse(k.value) for k in node.keywords}
    if (
        name in BUILTINS
        or (name in {f"yaml.{f}" for f in YAML} and options.get("Loader") not in ("yaml.BaseLoader", "yaml.SafeLoader"))
        or (name.startswith("torch.") and name.endswith(".load"))
    ):
        yield f"{name}(…)"
    elif "allow_pickle" in options and options["allow_pickle"] != "False":
        yield "allow_pickle"
    elif "shell" in options and options["shell"] != "False":
        yield "shell=True"


def sources() -> list[Path]:
    return sorted(p for part in ("core", "plugins", "kernels") for p in (ROOT / part).rglob("*.py"))


def test_no_file_reads_pickles_or_runs_texts() -> None:
    files = sources()
    assert len(files) > 250
    found = [f"{p.relative_to(ROOT)}: {f}" for p in files for f in faults(ast.parse(p.read_text(encoding="utf-8")))]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "import shelve as s", "torch.load(f)",
        "np.load(f, allow_pickle=True)",
        "eval(x)", "exec(x)", "yaml.load(x, Loader=yaml.Loader)", "yaml.unsafe_load(x)", "run(x, shell=True)",
        "import tarfile", "__import__(x)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert list(faults(ast.parse(text)))


def test_recipes_are_read_by_a_loader_that_makes_plain_data() -> None:
    import yaml

    from alignkit.recipe.source import _Loader

    assert issubclass(_Loader, yaml.SafeLoader)


def test_verdicts_are_found_in_time_whatever_a_server_writes() -> None:
    from types import SimpleNamespace

    for text in ("[[" + " " * 300_000, "[[a" * 300_000, "[" * 1_000_000):
        answer = read_text(SimpleNamespace(content=text, refusal=None), "stop", ("A", "B"), True)
        assert answer.status == "parse_error"
    spaced = read_text(SimpleNamespace(content="so [[  A  ]]", refusal=None), "stop", ("A", "B"), True)
    assert spaced.status == "ok"
