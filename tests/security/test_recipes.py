"""Recipes of strangers: data that runs nothing, leads nowhere and cannot exhaust whoever only checks them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from alignkit import UserError
from alignkit.cli import main
from alignkit.engine.identity import path_fingerprints
from alignkit.recipe import load_recipe
from alignkit.recipe.source import MAX_BYTES, parse_value

TOP = "name: {name}\npolicy: {{name: causal_lm, path: owner/name}}\n"
STEP = "steps:\n  - {{id: {id}, step: data, format: prompts, files: {file}}}\n"
EVIL = "from pathlib import Path\nPath({!r}).write_text('ran')\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(text: str, *overrides: str) -> UserError:
    """The error that the recipe gets, before anything is on disk."""
    Path("r.yaml").write_text(text, encoding="utf-8")
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(UserError) as caught:
        load_recipe("r.yaml", overrides)
    assert sorted(Path.cwd().rglob("*")) == before
    return caught.value


def recipe(more: str = "", name: str = "x", id: str = "a", file: str = "p.jsonl") -> str:
    return TOP.format(name=name) + STEP.format(id=id, file=file) + more


BOMBS: dict[str, tuple[str, str]] = {
    "aliases": ("vars: {a: &a [1, 1], b: &b [*a, *a], c: [*b, *b]}", "aliases are not allowed"),
    "an alias of itself": ("vars: &v {a: *v}", "aliases are not allowed"),
    "a merge key": ("vars: {<<: {a: 1}}", "not understood"),
    "nesting": (f"vars: {{a: {'[' * 60}{']' * 60}}}", "nested more than 50"),
    "deep nesting": (f"vars: {{a: {'[' * 20_000}{']' * 20_000}}}", "nested"),
    "nested mappings": (f"vars: {'{a: ' * 60}1{'}' * 60}", "nested more than 50"),
    "a huge number": (f"seed: 1{'0' * 5000}", "number this long"),
    "a huge number in base 16": (f"seed: 0x{'f' * 200_000}", "number this long"),
    "a huge number in base 60": (f"seed: 1{':1' * 100_000}", "number this long"),
    "a number beyond all": ("seed: 1e400", "seed"),
    "a number beyond seeds": (f"seed: 1{'0' * 90}", "seed"),
    "not a number": ("seed: .nan", "seed"),
    "an object of Python": ("vars: {a: !!python/object/apply:os.system [touch ran]}", "python/object/apply"),
    "a name of Python": ("vars: {a: !!python/name:os.system }", "python/name"),
    "a set": ("vars: {a: !!set {x}}", "the tag"),
    "bytes": ("vars: {a: !!binary aGVsbG8=}", "the tag"),
    "a time": ("vars: {a: !!timestamp 2026-11-20}", "the tag"),
    "a tag of one's own": ("vars: {a: !evil x}", "the tag"),
    "many documents": ("---\nname: y", "another document"),
    "a long variable many times": (f"vars: {{a: {'x' * 100_000}}}\nkernels: '{'$a' * 1000}'", "larger than"),
    "a long list many times": (f"vars: {{a: [{'1,' * 5000}]}}\ntrackers: [{'$a,' * 1000}]", "larger than"),
    "a long file": ("# " + "x" * MAX_BYTES, "larger than"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_yaml_bombs_do_not_go_off(case: str) -> None:
    text, message = BOMBS[case]
    error = refused(recipe(text))
    assert message in str(error)
    assert not Path("ran").exists()


def test_many_keys_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.jsonl").write_text('{"prompt": "x"}\n')
    Path("r.yaml").write_text(recipe("vars:\n" + "".join(f"  k{i}: 1\n" for i in range(15_000))))
    load_recipe("r.yaml")


@pytest.mark.parametrize(
    "text", ["[&a [1], *a]", "!!python/object/apply:os.system [id]", "[" * 5000, "[" * 60 + "]" * 60]
)
def test_overrides_keep_to_the_same_rules(text: str) -> None:
    assert parse_value(text) == text


NAMES = ("../x", "..", ".", "a/b", "/x", "a\\b", ".hidden", "a b", "é", "x" * 200, "a\n", "~", "con:x", "<b>")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_runs_and_steps_are_no_paths(name: str) -> None:
    assert "name" in str(refused(recipe(name=json.dumps(name))))
    assert "id" in str(refused(recipe(id=json.dumps(name))))
    assert "name" in str(refused(recipe(), f"name={json.dumps(name)}"))


@pytest.mark.parametrize("character", ["\\0", "\\x1b", "\\x07", "\\x7f", "\\x9b", "\\ud800"])
def test_texts_hold_no_control_characters(character: str) -> None:
    assert "may hold" in str(refused(recipe(file=f'"a{character}b"')))
    assert "may hold" in str(refused(recipe(f'vars: {{"k{character}": 1}}')))
    assert "may hold" in str(refused(recipe(), f'a.files="a{character}b"'))


def test_a_home_that_nobody_has() -> None:
    assert "nobody's home" in str(refused(recipe("output: ~nobody-here/runs")))
    assert "nobody's home" in str(refused(recipe(file="~nobody-here/x.jsonl")))


def test_nothing_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/etc")
    assert "$PLACE is not in vars" in str(refused(recipe(file="$PLACE/passwd")))
    assert "no such file" in str(refused_by_check(recipe(file="'%(PLACE)s/passwd'")))
    assert "no such file" in str(refused_by_check(recipe(file="'{os.environ}/passwd'")))


def refused_by_check(text: str) -> UserError:
    from alignkit.recipe.check import check_recipe

    Path("r.yaml").write_text(text)
    try:
        loaded = load_recipe("r.yaml")
        check_recipe(loaded.recipe, loaded.manager, loaded.lines, frozenset())
    except UserError as error:
        return error
    return pytest.fail("nothing was found")


@pytest.mark.parametrize("reference", ["@a.../x", "@../../x", "@b", "@a/../../etc", "@", "@.x", "@latest/../x"])
def test_references_lead_to_steps_only(reference: str) -> None:
    text = recipe() + f"  - {{id: c, step: train, optimizer_stage: sft, policy: '{reference}', data: '@a'}}\n"
    found = refused_by_check(text) if reference.startswith("@a.") else refused(text)
    assert found


CODE = (
    "os:system",
    "evil:run",
    "evil",
    "evil.sub:run",
    "builtins:eval",
    "__main__:x",
    "evil:run.__globals__",
    "evil:run:more",
    "../evil:run",
    "evil;os:system",
)


@pytest.mark.parametrize("path", CODE)
def test_functions_are_imported_only_if_they_are_allowed(path: str, tmp_path: Path) -> None:
    Path("evil.py").write_text(EVIL.format(str(tmp_path / "ran")) + "def run(*a): return [0.0]\n")
    Path("p.jsonl").write_text('{"prompt": "x"}\n')
    source = f"{{name: function, path: {json.dumps(path)}}}"
    step = f"  - {{id: b, step: align, policy: owner/name, prompts: '@a', iterations: 1, reward_source: {source}}}\n"
    assert refused_by_check(recipe() + step)
    assert not (tmp_path / "ran").exists()


def test_allowing_one_function_allows_no_other(tmp_path: Path) -> None:
    from alignkit.code import require_allowed

    for allowed, wanted in [
        ("evil:run", "evil:other"),
        ("evil:run", "evil"),
        ("evil", "evil.sub:run"),
        ("a", "a/model"),
    ]:
        with pytest.raises(UserError, match="not allowed"):
            require_allowed(wanted, frozenset({allowed}))
    require_allowed("evil:run", frozenset({"evil"}))


@pytest.mark.parametrize("name", ["evil.py", "./evil.py", "sub/../evil.py"])
def test_plugin_files_run_only_if_they_are_allowed_by_that_name(name: str, tmp_path: Path) -> None:
    Path("sub").mkdir()
    Path("evil.py").write_text(EVIL.format(str(tmp_path / "ran")))
    Path("r.yaml").write_text(recipe(f"plugins: {{files: [{name}]}}"))
    for allowed in (frozenset[str](), frozenset({"evil"}), frozenset({"other.py"})):
        with pytest.raises(UserError, match="not allowed"):
            load_recipe("r.yaml", allow_code=allowed)
    assert not (tmp_path / "ran").exists()


TEMPLATES = (
    "{{ ''.__class__.__mro__ }}", "{{ a.__init__.__globals__ }}", "{{ [].append(1) }}",
    "{{ self._TemplateReference__context }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}", "{{ 'x' * 10 ** 10 }}", "{{ 'x'.ljust(10 ** 10) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ a | center(1000000000) }}", "{{ a | replace('x', a) }}", "{% set c = a ~ a %}{{ c }}", "{{ lipsum(1000000) }}",
    "{{ cycler }}", "{% include '/etc/passwd' %}", "{% import 'x' as y %}", "{% extends '/etc/passwd' %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ a[0] }}", "{{ 9 ** 9 ** 9 }}", "{{ a | attr('__class__') }}",
    "{% filter upper %}x{% endfilter %}", "{{ namespace() }}", "{{ 1e308 + 1 }}", "{{ a | map('upper') | list }}",
)  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_of_judges_are_texts_with_holes(template: str) -> None:
    from alignkit_plugins.reward_ai.config import AIConfig
    from alignkit_plugins.reward_ai.templates import load_template

    Path("own.jinja").write_text("{{ a }} {{ b }}\n" + template)
    with pytest.raises(UserError, match=r"not allowed|names '"):
        load_template(AIConfig(judge="local", model="m", template="own.jinja"))


def test_guidelines_and_constitutions_are_not_filled_in() -> None:
    from alignkit_plugins.reward_ai.templates import load_constitution

    Path("rules.txt").write_text("Be {{ ''.__class__ }} {0.__class__} %(x)s $HOME\n")
    found = load_constitution("rules.txt")
    assert found is not None
    assert found.principles == ("Be {{ ''.__class__ }} {0.__class__} %(x)s $HOME",)


@pytest.mark.parametrize("text", ["~nobody-here/x", "a" * 5000, "a\nb", "/dev/zero", "/" + "a" * 300])
def test_marks_of_files_are_taken_of_files_only(text: str) -> None:
    if not text.startswith("~"):
        assert path_fingerprints({"x": text}) == {}


def test_a_pipe_is_not_waited_for() -> None:
    os.mkfifo("pipe.jsonl")
    assert path_fingerprints({"x": "pipe.jsonl"}) == {}


def test_checking_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.jsonl").write_text('{"prompt": "x"}\n')
    Path("r.yaml").write_text(recipe("output: elsewhere"))
    before = sorted(Path.cwd().rglob("*"))
    main(["check", "r.yaml"])
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "x;rm", "-x", "x\n", "x" * 300, "a b"])
def test_packages_are_written_only_under_plain_names(name: str) -> None:
    from alignkit.manager import PluginManager
    from alignkit.scaffold import check_name

    manager: Any = PluginManager()
    manager.load()
    with pytest.raises(UserError):
        check_name(name, "advantage", "", manager)
