"""Completions of a server: what it is asked, what is made of its answers, and what becomes of those that are none."""

import json
import logging
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.responses import Response

from alignkit import Fault, Paused, UserError
from alignkit.loop.rollouts import checked_rollout
from alignkit.protocols import TextOnly
from alignkit.records import Message, Prompt, Sampling
from alignkit_plugins.sampler_openai.config import OpenAISamplerConfig
from alignkit_plugins.sampler_openai.wire import cut_to_words
from helpers.completing import CompletionServer, asked, echo, repeated, server_sampler, wrote

pytestmark = pytest.mark.concurrent

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_length=12)


def draw(sampler: Any, prompts: list[Prompt], sampling: Sampling = SAMPLING, seed: int = 1) -> Any:
    """Through the loop's own check."""
    return checked_rollout(sampler, None, prompts, sampling, seed)


def test_samples_of_a_prompt_are_one_request_and_come_back_in_their_places() -> None:
    with CompletionServer(echo) as server:
        sampler = server_sampler(server)
        assert isinstance(sampler, TextOnly)
        assert not server.lists, "building it asks nobody"
        rollout = draw(sampler, repeated("a", "b", times=3))
    assert rollout.text_only
    assert (set(rollout.prompt_ids), set(rollout.completion_ids), rollout.tokenizer_id) == ({()}, {()}, "")
    assert rollout.group_B.tolist() == [0, 0, 0, 1, 1, 1]
    assert [text[0] + text[-1] for text in rollout.texts] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert set(rollout.finish) == {"stop"}
    body = server.bodies[0]
    seed = body.pop("seed")
    assert isinstance(seed, int)
    assert body.pop("prompt") in ("a", "b")
    # top_p too, although 1 is the protocol's default: servers put the model's own defaults where nothing is said
    assert body == {"model": "m", "n": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 12}
    assert len(server.bodies) == 2


def test_requests_follow_from_the_seed() -> None:
    with CompletionServer(echo) as server:
        texts = [draw(server_sampler(server), repeated("a", "b", times=2), seed=seed).texts for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert not set(texts[0]) & set(texts[2])


@pytest.mark.parametrize("n", [True, False])
def test_a_server_that_does_not_know_n_is_asked_once_for_each(n: bool) -> None:
    def one(body: dict[str, Any], number: int) -> Any:
        return wrote(body, f"{asked(body)} {body['seed']}")

    with CompletionServer(one) as server:
        rollout = draw(server_sampler(server, n=n, concurrency=1), repeated("a", "b", times=4))
    assert [text[0] for text in rollout.texts] == ["a"] * 4 + ["b"] * 4
    assert len(set(rollout.texts)) == 8, "no two requests have one seed"
    assert len(server.bodies) == 8
    assert sum("n" in body for body in server.bodies) == 2 * n


def test_greedy_completions_are_asked_for_without_n() -> None:
    with CompletionServer(echo) as server:
        draw(server_sampler(server), repeated("a", times=2), Sampling(temperature=0.0))
    assert [body.get("n") for body in server.bodies] == [None, None]


def test_conversations_are_messages_and_texts_are_as_they_are() -> None:
    talk = Prompt(prompt=(Message(role="system", content="short"), Message(role="user", content="hi")))
    with CompletionServer(echo) as server:
        rollout = draw(server_sampler(server, concurrency=1), [talk, *repeated("a")])
        draw(server_sampler(server, mode="chat"), repeated("a"))
        with pytest.raises(UserError, match="is a conversation, and /completions takes text"):
            draw(server_sampler(server, mode="completions"), [talk])
    first, second, third = server.bodies
    assert first["messages"] == [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}]
    assert (second["prompt"], "messages" in second) == ("a", False)
    assert third["messages"] == [{"role": "user", "content": "a"}]
    assert rollout.texts[0].startswith("hi / ")


def test_what_a_server_does_not_take_is_refused_and_what_it_takes_is_said() -> None:
    takes = ["top_k", "max_completion_tokens"]
    with CompletionServer(echo) as server:
        with pytest.raises(UserError, match="has no top_k") as caught:
            draw(server_sampler(server), repeated("a"), Sampling(top_k=5))
        assert "takes: [seed, top_k]" in str(caught.value)
        assert not server.bodies
        draw(server_sampler(server, takes=takes, request={"min_p": 0.0}), repeated("a"), Sampling(top_k=5))
        draw(server_sampler(server, takes=takes, mode="chat"), repeated("a"), Sampling())
    text, chat = server.bodies
    assert (text["top_k"], text["min_p"], text["max_tokens"], "seed" in text) == (5, 0.0, 64, False)
    assert (chat["top_k"], chat["max_completion_tokens"], "max_tokens" in chat) == (-1, 64, False)
    with pytest.raises(ValidationError, match="request: temperature cannot be set here"):
        OpenAISamplerConfig(base_url="http://localhost/v1", request={"temperature": 1.0})


@pytest.mark.parametrize(
    ("text", "cut", "finish"), [("one two  three four", "one two", "length"), (" one\ntwo ", " one\ntwo ", "stop")]
)
def test_words_are_cut_here(text: str, cut: str, finish: str) -> None:
    assert cut_to_words(text, 2) == cut
    with CompletionServer(lambda body, number: wrote(body, text)) as server:
        rollout = draw(server_sampler(server), repeated("a"), Sampling(max_words=2))
    assert (rollout.texts, rollout.finish) == ((cut,), (finish,))


def test_a_character_that_the_limit_cut_is_kept_as_the_server_shows_it() -> None:
    with CompletionServer(lambda body, number: wrote(body, "abc\ufffd", finish="length")) as server:
        rollout = draw(server_sampler(server), repeated("a"))
    assert (rollout.texts, rollout.finish, len(server.bodies)) == (("abc\ufffd",), ("length",), 1)


HALF = b'{"id": "x", "object": "text_completion", "choices": [{"text": "abc'
SURROGATE = json.dumps({"object": "text_completion", "choices": [{"text": "\ud800", "finish_reason": "stop"}]})
FAULTS: dict[str, tuple[Any, str]] = {
    "500": (lambda body: (500, {"error": {"message": "boom"}}), "HTTP 500: .*boom"),
    "429": (lambda body: (429, {"error": {"message": "slow down"}}), "HTTP 429: .*slow down"),
    "filter": (lambda body: (400, {"error": {"message": "no", "code": "content_filter"}}), "HTTP 400"),
    "no JSON": (lambda body: "<html>busy</html>", "no completion: '<html>busy"),
    "cut JSON": (lambda body: Response(HALF, media_type="application/json"), "JSONDecodeError"),
    "no UTF-8": (lambda body: Response(b'{"a": "\xff\xfe"}', media_type="application/json"), "UnicodeDecodeError"),
    "error with 200": (lambda body: {"error": {"message": "gone"}}, "no completion: .*gone"),
    "no choice": (lambda body: wrote(body), "no completion"),
    "too many": (lambda body: wrote(body, "a", "b", "c"), "3 completions, and 2 were asked for"),
    "no text": (lambda body: wrote(body, None, None), "a completion without text"),
    "number": (lambda body: wrote(body, 3, 4), "a completion without text"),
    "half a pair": (lambda body: Response(SURROGATE, media_type="application/json"), "half of a surrogate pair"),
    "tool": (lambda body: wrote(body, "a", "b", finish="tool_calls"), "no answer of the model: .*tool_calls"),
    "unfinished": (lambda body: wrote(body, "a", "b", finish=None), "finish_reason None"),
    "over the limit": (
        lambda body: wrote(body, "a", "b", tokens=13),
        "26 tokens in 2 completions, and each may have 12",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_an_answer_that_is_none_stops_the_run_and_is_no_empty_completion(case: str) -> None:
    answer, said = FAULTS[case]
    bad = lambda body, number: answer(body) if asked(body) == "b" else echo(body, number)  # noqa: E731
    said = f"1 of 2 requests failed, 2 of 4 completions came; .*{said}.*prompt 'b'"
    with CompletionServer(bad) as server, pytest.raises(Fault, match=said) as fault:
        draw(server_sampler(server, concurrency=1), repeated("a", "b", times=2))
    assert fault.value.exit_status == 4
    assert server.url in str(fault.value)
    assert len(server.bodies) == 2


def test_an_answer_without_text_in_a_conversation_is_none() -> None:
    refuses = lambda body, number: wrote(body, "no", refusal="I will not")  # noqa: E731
    with CompletionServer(refuses) as server, pytest.raises(Fault, match="no answer of the model: I will not"):
        draw(server_sampler(server, mode="chat"), repeated("a"))
    nothing = lambda body, number: wrote(body, None)  # noqa: E731
    with CompletionServer(nothing) as server, pytest.raises(Fault, match="a completion without text"):
        draw(server_sampler(server, mode="chat"), repeated("a"))


def test_after_a_failure_nothing_more_is_asked() -> None:
    fails = lambda body, number: (500, {"error": {"message": "boom"}})  # noqa: E731
    with CompletionServer(fails) as server, pytest.raises(Fault, match="1 of 1 requests failed, 0 of 6 completions"):
        draw(server_sampler(server, concurrency=1), repeated(*"abcdef"))
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "first",
    [
        (429, {"error": {"message": "slow down"}}, {"retry-after-ms": "10"}),
        (503, {"error": {"message": "starting"}}, {"retry-after-ms": "10"}),
        "<html>garbage</html>",
    ],
    ids=["429", "503", "garbage"],
)
def test_what_passes_is_asked_again_with_the_same_seed(first: Any) -> None:
    with CompletionServer(lambda body, number: first if number == 1 else echo(body, number)) as server:
        rollout = draw(server_sampler(server, retries=1), repeated("a", times=2))
    assert len(server.bodies) == 2
    assert server.bodies[0] == server.bodies[1]
    assert len(set(rollout.texts)) == 2


def test_a_server_that_is_silent_or_not_there() -> None:
    with CompletionServer(echo, delay=1.0) as server, pytest.raises(Fault, match=r"APITimeoutError.*prompt 'a'"):
        draw(server_sampler(server, timeout=0.2), repeated("a"))
    with pytest.raises(UserError, match="cannot reach the server: APIConnectionError") as caught:
        draw(server_sampler(server), repeated("a"))
    assert "is base_url right?" in str(caught.value)


def test_a_refusal_that_would_come_again_is_the_users() -> None:
    refuses = lambda body, number: (400, {"error": {"message": "temperature must be even"}})  # noqa: E731
    with CompletionServer(refuses) as server:
        with pytest.raises(UserError, match=r"refuses the request: HTTP 400.*temperature must be even"):
            draw(server_sampler(server, retries=5, concurrency=1), repeated(*"abc"))
        assert len(server.bodies) == 1
    unknown = lambda body, number: (422, {"detail": "Unexpected fields: {'top_p'}"})  # noqa: E731
    with CompletionServer(unknown) as server, pytest.raises(UserError, match=r"HTTP 422: .*Unexpected fields"):
        draw(server_sampler(server), repeated("a"))
    nowhere = lambda body, number: (404, {"detail": "Not Found"})  # noqa: E731
    with CompletionServer(nowhere) as server, pytest.raises(UserError, match=r"HTTP 404: .*Not Found") as caught:
        draw(server_sampler(server), repeated("a"))
    assert "is base_url right? At most servers it ends in /v1" in str(caught.value)
    long = Prompt(prompt="long", id="p-7")
    too_long = lambda body, number: (400, {"error": {"message": "This model's maximum context length is 9"}})  # noqa: E731
    with CompletionServer(too_long) as server, pytest.raises(UserError, match="prompt p-7 does not fit the model"):
        draw(server_sampler(server), [long])
    no_money = lambda body, number: (429, {"error": {"message": "pay", "code": "insufficient_quota"}})  # noqa: E731
    with CompletionServer(no_money) as server, pytest.raises(Paused, match="no quota left"):
        draw(server_sampler(server, retries=5), repeated("a"))
    assert len(server.bodies) == 1


class TestModel:
    """What the server says that it serves."""

    def test_the_only_one_and_what_it_stands_for(self) -> None:
        served = [{"id": "policy", "root": "runs/x/model"}]
        with CompletionServer(echo, models=served) as server:
            assert server_sampler(server).drawn_from() == f"policy (runs/x/model) at {server.url}"
            draw(server_sampler(server), repeated("a"))
        assert server.bodies[0]["model"] == "policy"

    def test_the_one_that_is_named(self) -> None:
        with CompletionServer(echo, models=[{"id": "a"}, {"id": "b", "root": "b"}]) as server:
            assert server_sampler(server, model="b").drawn_from() == f"b at {server.url}"
            with pytest.raises(UserError, match=r"which model of the server\? it lists a, b"):
                server_sampler(server).drawn_from()

    @pytest.mark.parametrize("answer", [(404, {"error": {"message": "no"}}), (500, {}), (200, []), (200, {"data": 3})])
    def test_a_server_without_a_list(self, answer: Any) -> None:
        with CompletionServer(echo, models=answer) as server:
            assert server_sampler(server, model="m").drawn_from() == f"m at {server.url}"
            # Exit status 2, with what to do: it would be so each time.
            with pytest.raises(UserError, match=r"lists none|does not list its models: HTTP") as caught:
                server_sampler(server).drawn_from()
            assert "set sampler.model" in str(caught.value)

    def test_a_key_that_is_not_taken(self) -> None:
        refuses = (401, {"error": {"message": "who are you?"}})
        with CompletionServer(echo, models=refuses) as server, pytest.raises(UserError, match=r"HTTP 401: .*who are"):
            server_sampler(server, model="m").drawn_from()

    def test_two_models_do_not_mix(self) -> None:
        changes = lambda body, number: wrote(body, "x", model=f"m-{number}")  # noqa: E731
        with CompletionServer(changes) as server, pytest.raises(Fault, match="answers as m-2, and before as m-1"):
            draw(server_sampler(server, concurrency=1), repeated("a", "b"))


def test_texts_that_are_all_equal_or_empty_are_said(caplog: pytest.LogCaptureFixture) -> None:
    same = lambda body, number: wrote(body, *[asked(body).strip("b")] * body["n"])  # noqa: E731
    with CompletionServer(same) as server, caplog.at_level(logging.WARNING, "alignkit"):
        draw(server_sampler(server), repeated("a", "b", times=3))
    assert "3 of 6 completions are empty texts" in caplog.text
    assert "all completions of a prompt are equal, for each of 2 prompts" in caplog.text


def test_the_concurrency_bound_holds_and_is_used() -> None:
    with CompletionServer(echo, delay=0.02, together=3) as server:
        draw(server_sampler(server, concurrency=3), repeated(*"abcdefgh"))
    assert server.most_at_once == 3
