"""A real server: `transformers serve` with a tiny model. Asked for log-probs it answers HTTP 200 and gives none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit import UserError
from alignkit.records import Message
from helpers.judging import build_ai, make_task
from helpers.models import make_policy, make_tokenizer
from helpers.serving import transformers_serve

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]
DULL = ("the quiet film won me over", "this thriller is dull")
TASKS = [make_task("the film", *DULL), make_task("the film", "warm", "cold")]


def question(folder: Path, first: str, second: str) -> str:
    """What the source asks about the first task in words."""
    config = {"judge": "openai", "model": "m", "base_url": "http://localhost/v1", "answer": "text"}
    asker = build_ai(folder, **config).asker
    return str(asker.question("the film", "", a=first, b=second, first="A", second="B").text)


def learn_to_say(policy: Any, prompt: str, words: str) -> None:
    """Overfit: after this prompt the greedy answer is these words."""
    messages = (Message(role="user", content=prompt),)
    start, answer = policy.encode_prompt(messages), policy.encode_completion(messages, words)
    _LESSONS.append((start, answer))
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=3e-3)
    policy.module.train()
    for _ in range(300):
        losses = []
        for ids, target in _LESSONS:
            whole = torch.tensor([[*ids, *target]])
            logits = policy.module(whole).logits[0, len(ids) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target)))
        loss = torch.stack(losses).max()
        if loss.item() < 0.02:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"the judge did not learn its words: {loss.item()}")


_LESSONS: list[tuple[list[int], list[int]]] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(base url, model) of a running server."""
    folder = tmp_path_factory.mktemp("served")
    policy = make_policy("llama", make_tokenizer(chat=True))
    policy.module.config.max_position_embeddings = 4096
    learn_to_say(policy, "Reply with A.", "I am not sure")
    for first, second in (DULL, DULL[::-1]):
        learn_to_say(policy, question(folder, first, second), "[[A]]" if first == DULL[0] else "so [[B]]")
    # The server stops where the turn ends: a text that is cut off has no verdict.
    policy.module.generation_config.eos_token_id = policy.encoder.turn_end_id
    policy.save(folder / "judge")
    with transformers_serve(folder / "judge", folder / "log.txt") as url:
        yield url, str(folder / "judge")


def test_words_of_a_real_server_are_read(server: tuple[str, str], tmp_path: Path) -> None:
    url, model = server
    options = {"model": model, "base_url": url, "answer": "text", "answer_tokens": 12, "max_failures": 1.0}
    source = build_ai(tmp_path, judge="openai", concurrency=2, **options)
    learnt, unknown = source.annotate(TASKS)
    assert learnt.status == "ok"
    assert (learnt.payload.p_a, learnt.evidence.p_given, learnt.evidence.p_swapped) == (1.0, 1.0, 1.0)
    assert learnt.evidence.text.startswith("[[A]]")
    assert "\n---\nso [[B]]" in learnt.evidence.text
    assert unknown.evidence.text
    figures = source.annotation_figures()
    assert figures["requests"] == 5
    assert figures["tokens_in"] > 1000
    assert 0 < figures["tokens_out"] <= 60


def test_a_real_server_that_leaves_logprobs_out_is_refused(server: tuple[str, str], tmp_path: Path) -> None:
    url, model = server
    with pytest.raises(UserError, match="asked for log-probabilities and its answer has none") as caught:
        list(build_ai(tmp_path, judge="openai", model=model, base_url=url).annotate(TASKS))
    assert url in str(caught.value)
    assert "answer: text" in str(caught.value)


def test_an_unknown_model_is_the_servers_refusal(server: tuple[str, str], tmp_path: Path) -> None:
    url, _ = server
    with pytest.raises(UserError, match="HTTP 4"):
        list(build_ai(tmp_path, judge="openai", model="no/such", base_url=url, retries=0).annotate(TASKS))
