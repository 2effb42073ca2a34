"""The generated demo data and the true taste as components."""

from collections.abc import Iterator
from typing import Any

import pytest

from alignkit.errors import UserError
from alignkit.records import Demonstration, Prompt, Record, Text
from alignkit_plugins.film_world.plugin import alignkit_data_formats, alignkit_reward_sources
from alignkit_plugins.film_world.taste import true_reward


def parts(**options: Any) -> dict[str, list[Record]]:
    (component,) = alignkit_data_formats()
    built = component.build(component.config.model_validate(options), None)
    assert built.generates
    found: dict[str, list[Record]] = {}
    for part, record in built.records(()):
        found.setdefault(part, []).append(record)
    return found


def test_test_prompts_are_new_to_the_policy() -> None:
    found = parts(rows=500, prompts=200, test_prompts=80)
    assert {part: len(records) for part, records in found.items()} == {
        "texts": 500, "demonstrations": 500, "prompts": 200, "heldout_prompts": 80,
    }  # fmt: skip
    demos = [r for r in found["demonstrations"] if isinstance(r, Demonstration)]
    texts = [r.text for r in found["texts"] if isinstance(r, Text)]
    assert texts == [f"{d.prompt}{d.completion}" for d in demos]
    prompts, test = (
        {str(r.prompt) for r in found[part] if isinstance(r, Prompt)} for part in ("prompts", "heldout_prompts")
    )
    assert len(prompts) == 200
    assert len(test) == 80
    assert not test & (prompts | {str(d.prompt) for d in demos})


def test_the_seed_decides() -> None:
    small = {"rows": 20, "prompts": 5, "test_prompts": 5}
    assert parts(**small, seed=1) == parts(**small, seed=1)
    assert parts(**small, seed=1) != parts(**small, seed=2)


def test_no_prompts_and_too_many_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(parts(rows=3, prompts=0, test_prompts=0)) == {"texts", "demonstrations"}

    def exhausted(rows: int, seed: int) -> Iterator[str]:
        yield "This film"
        raise ValueError(f"cannot find {rows} distinct openings, only 1")

    monkeypatch.setattr("alignkit_plugins.film_world.plugin.openings", exhausted)
    with pytest.raises(UserError, match="cannot find 8 distinct openings"):
        parts(rows=1, prompts=7, test_prompts=0)


def test_the_taste_scores_each_completion() -> None:
    torch = pytest.importorskip("torch")
    from alignkit.batches import Rollout

    texts = (" won me over with honest acting. I recommend it.", " thing thing thing")
    prompts = (
        Prompt(prompt="This quiet film"),
        Prompt.model_validate({"prompt": [{"role": "user", "content": "Hi"}]}),
    )
    rollout = Rollout(
        prompts=prompts, prompt_ids=((1,), (1,)), completion_ids=((2,), (2,)), texts=texts,
        finish=("stop", "stop"),
        group_B=torch.tensor([0, 1]), temperature=1.0, tokenizer_id="t",
    )  # fmt: skip
    (component,) = alignkit_reward_sources()
    scores = component.build(None, None).score(rollout)
    assert scores.dtype == torch.float32
    expected = [true_reward("This quiet film", texts[0]), true_reward("user: Hi", texts[1])]
    assert scores.tolist() == pytest.approx(expected)
