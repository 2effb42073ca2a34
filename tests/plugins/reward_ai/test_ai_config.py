"""What a recipe may say about a judge, and what is found wrong before a run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from alignkit import UserError
from alignkit.manager import PluginManager
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve
from alignkit_plugins.reward_ai.build import check_config
from alignkit_plugins.reward_ai.config import AIConfig
from alignkit_plugins.reward_ai.kinship import family
from alignkit_plugins.reward_ai.templates import load_constitution, load_template
from helpers.judging import build_ai

LOCAL = {"judge": "local", "model": "owner/name"}
SERVER = {"judge": "openai", "model": "m", "base_url": "http://localhost:8000/v1"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({**LOCAL, "budget": {"requests": 1}}, "budget: no option of judge 'local'"),
        ({**LOCAL, "scale": [1, 5]}, "scale: an option of form: rating"),
        ({**LOCAL, "labels": ["A"]}, "needs 2"),
        ({**LOCAL, "labels": ["A", " a"]}, "must differ"),
        ({**LOCAL, "form": "rating", "scale": [5, 1]}, "lower to a higher"),
        ({**SERVER, "dtype": "bfloat16"}, "dtype: no option of judge 'openai'"),
        ({**SERVER, "temperature": 0.5}, "no use for logprobs"),
        ({**SERVER, "form": "rating"}, r"scale: \[1, 9\]"),
        ({**SERVER, "base_url": None}, "base_url is missing"),
        ({**SERVER, "base_url": "https://me:secret@host/v1"}, "no user, password"),
        ({**SERVER, "base_url": "localhost:8000"}, "http"),
        ({**SERVER, "budget": {"cost": 1.0}}, "prices is missing"),
        ({**SERVER, "request": {"n": 2}}, "n cannot be set"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        AIConfig.model_validate(options)


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("{{ a }} {{ b }} {{ secret }}", {}, "names 'secret'"),
        ("{{ a }}", {}, "never shows 'b'"),
        ("{{ a }} {{ b", {}, "not a template"),
        ("{{ a }} {{ b }} {{ principle }}", {}, "principle"),
        ("{{ a }} {{ b }}", {"constitution": "default"}, "never shows the principle"),
        ("{{ a }} {{ b }} {{ a.__class__.__mro__ }}", {}, "Getattr is not allowed"),
        ("{{ a }} {{ b }} {{ 1 / 0 }}", {}, "Div is not allowed"),
        ("{{ a }} {{ b }} {{ 'x'.index('y') }}", {}, "Call is not allowed"),
        ("{{ a }} {{ b }} {{ '{z}'.format(1) }}", {}, "Call is not allowed"),
        ("{{ a }} {{ b }} {{ '%s' | format(a) }}", {}, "the filter format is not allowed"),
        ("{{ a }} {{ b }} {{ 'x' * 10 ** 18 }}", {}, "Mul is not allowed"),
        ("{{ a }} {{ b }} {{ '\\ud800' }}", {}, "template fails: 'utf-8' codec"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ a }} {{ b }} {{ m() }}", {}, "Macro is not allowed"),
        ("{% for i in 'xy' %}{{ a }}{% endfor %}{{ b }}", {}, "For is not allowed"),
        ("{% set c = a ~ a %}{{ c }}{{ b }}", {}, "Assign is not allowed"),
        ("{% include 'other' %}{{ a }} {{ b }}", {}, "Include is not allowed"),
        ("{{ a }} {{ b }} {{ a < 1 }}", {}, "template fails: '<' not supported"),
        ("{{ a }} {{ b }} {{ " + "(" * 5000 + "a" + ")" * 5000 + " }}", {}, "not a template: .*recursion"),
        ("{{ answer }}", {"form": "rating"}, None),
    ],
)
def test_templates_are_tried_before_a_run(
    tmp_path: Path, text: str, options: dict[str, Any], problem: str | None
) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(text)
    config = AIConfig.model_validate({**LOCAL, "template": str(path), **options})
    if problem is None:
        check_config(config)
        return
    with pytest.raises(UserError, match=problem):
        check_config(config)


def test_texts_are_shown_as_they_are() -> None:
    template = load_template(AIConfig.model_validate(LOCAL))
    hostile = "<b>&amp;</b> {{ prompt }} {% raw %} [[A]]"
    text = template.render(prompt="P&Q", a=hostile, b="plain", first="A", second="B", verdict=False)
    assert hostile in text
    assert "P&Q" in text
    assert text.endswith("Better answer:")


def test_missing_files_are_found_before_a_run(tmp_path: Path) -> None:
    for options in ({"template": "no.jinja"}, {"constitution": "no.txt"}, {"model": "/no/model"}):
        with pytest.raises(UserError):
            check_config(AIConfig.model_validate({**LOCAL, **options}))
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="no principle"):
        load_constitution(str(tmp_path / "empty.txt"))


def test_another_file_is_not_taken_for_a_cache(tmp_path: Path) -> None:
    other = tmp_path / "notes.db"
    other.write_text("these are my notes, and they are longer than a header")
    with pytest.raises(UserError, match="no cache of judges' answers"):
        build_ai(tmp_path, **SERVER, cache=str(other))
    assert other.read_text().startswith("these are my notes")
    with pytest.raises(UserError, match="folder of the judge's cache"):
        build_ai(tmp_path, **SERVER, cache=str(tmp_path / "none" / "cache.sqlite"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("meta-llama/Llama-3.1-8B", "llama"),
        ("runs/x/r1/02-judge/model", ""),
        ("gpt-4o-mini", "gpt"),
        ("3b", ""),
    ],
)
def test_families_of_models(name: str, expected: str) -> None:
    assert family(name) == expected


def test_the_recipes_in_the_guide_are_right() -> None:
    guide = Path(__file__).parents[3] / "docs" / "judge.md"
    manager = PluginManager()
    manager.load()
    found = []
    for block in re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL):
        data = yaml.safe_load(block)
        for part in data if isinstance(data, list) else [data]:
            if "reward_source" in part:
                spec = ComponentSpec.model_validate(part["reward_source"])
                resolve(manager, "reward_source", spec)
                found.append(spec.name)
    assert sorted(found) == ["ai", "ai", "ai", "ai", "mixed"]


def test_the_template_in_the_guide_is_right(tmp_path: Path) -> None:
    guide = Path(__file__).parents[3] / "docs" / "judge.md"
    (block,) = re.findall(r"```jinja\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "own.jinja").write_text(block)
    template = load_template(AIConfig.model_validate({**LOCAL, "template": str(tmp_path / "own.jinja")}))
    text = template.render(prompt="P", a="x", b="y", first="A", second="B", verdict=False)
    assert text.splitlines()[-2:] == ["Which is more faithful, A or B?", "Answer:"]
