"""A real server draws: `transformers serve` with a tiny model. It takes no n, no top_k, and lists no folders."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from alignkit import UserError
from alignkit.loop.rollouts import checked_rollout
from alignkit.records import Message, Prompt, Sampling
from alignkit_plugins.sampler_hf.sampler import HFSampler
from helpers.completing import repeated, server_sampler
from helpers.models import make_policy, make_tokenizer
from helpers.serving import transformers_serve

pytestmark = [pytest.mark.slow, pytest.mark.concurrent]
GREEDY = Sampling(temperature=0.0, max_length=8)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """The sampler of a running server, and the policy that it serves."""
    folder = tmp_path_factory.mktemp("served")
    policy = make_policy("llama", make_tokenizer(chat=True))
    # The server samples only if the model's own generation config says so, and takes its top_k from there.
    policy.module.generation_config.update(do_sample=True, top_k=0)
    policy.module.generation_config.eos_token_id = sorted(policy.stop_ids)
    policy.save(folder / "model")
    with transformers_serve(folder / "model", folder / "log.txt") as url:
        yield server_sampler(_At(url), model=str(folder / "model"), concurrency=4), policy


class _At:
    """What `server_sampler` asks of a server."""

    def __init__(self, url: str) -> None:
        self.url = url


def test_greedy_completions_are_those_of_the_model(served: tuple[Any, Any]) -> None:
    sampler, policy = served
    talk = Prompt(prompt=(Message(role="user", content="the film"),))
    prompts = [*repeated("the film", "quiet"), talk]
    rollout = checked_rollout(sampler, None, prompts, GREEDY, 1)
    own = HFSampler(8).rollout(policy, prompts, GREEDY, 1)
    assert rollout.texts == own.texts
    assert rollout.finish == own.finish
    assert sampler.drawn_from().startswith(sampler.config.model)


def test_samples_differ_and_are_asked_for_one_by_one(served: tuple[Any, Any], caplog: pytest.LogCaptureFixture) -> None:
    sampler, _ = served
    with caplog.at_level(logging.INFO, "alignkit"):
        rollout = checked_rollout(sampler, None, repeated("the film", times=6), Sampling(max_length=6), 3)
    assert not sampler.takes_n, "transformers serve leaves n out silently"
    assert len(set(rollout.texts)) > 3
    assert "all completions of a prompt are equal" not in caplog.text


def test_what_it_refuses_is_the_users(served: tuple[Any, Any]) -> None:
    sampler, _ = served
    other = server_sampler(_At(sampler.config.base_url), model="no/such")
    with pytest.raises(UserError, match="HTTP 4"):
        checked_rollout(other, None, repeated("a"), GREEDY, 1)
    taking = server_sampler(_At(sampler.config.base_url), model=sampler.config.model, takes=["top_k"])
    with pytest.raises(UserError, match=r"refuses the request: HTTP 422.*top_k"):
        checked_rollout(taking, None, repeated("a"), Sampling(top_k=3, max_length=4), 1)
