"""The judge behind a server: a local stub answers, fails, refuses and counts."""

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest
from openai.resources.chat.completions import AsyncCompletions

from alignkit import Fault, Paused, UserError
from alignkit.records import Pairwise, Rating
from alignkit.servers import pace as pacing
from alignkit_plugins.reward_ai.limits import BudgetUsedUp
from alignkit_plugins.reward_ai.verdicts import read_text
from helpers.judging import StubServer, build_ai, completion, make_task

pytestmark = pytest.mark.concurrent

TASKS = [make_task(f"question {n}", f"good {n}", f"bad {n}") for n in range(6)]
KEY = "sk-secret-93847"


def prefers_good(p: float = 0.8) -> Any:
    """Log-probabilities of a judge that likes what is good, and likes what comes first a little."""

    def reply(prompt: str, number: int) -> dict[str, Any]:
        good_first = prompt.rfind("good") < prompt.rfind("bad")
        a = p + 0.1 if good_first else 1 - p + 0.1
        top = [("A", math.log(0.5 * a)), (" B", math.log(0.5 * (1 - a))), ("The", math.log(0.4)), ("C", math.log(0.1))]
        return completion(top=top)

    return reply


def ask(folder: Path, server: StubServer, **options: Any) -> Any:
    return build_ai(folder, judge="openai", model="m", base_url=server.url, **{"retries": 0, **options})


def after_probe(reply: Any, first: Any = None) -> Any:
    """The probe gets a good answer, everything else `reply`."""
    probe = first or completion(content="[[A]]", top=[("A", -0.1)])
    return lambda prompt, number: probe if prompt.startswith("Reply with ") else reply(prompt, number)


def test_label_probabilities_of_both_orders(tmp_path: Path) -> None:
    with StubServer(prefers_good()) as server:
        source = ask(tmp_path, server)
        found = list(source.annotate(TASKS))
    assert len(server.prompts) == 12
    for judgement in found:
        assert isinstance(judgement.payload, Pairwise)
        assert judgement.payload.p_a == pytest.approx(0.8, abs=1e-9)
        assert judgement.evidence.p_given == pytest.approx(0.9)
        assert judgement.evidence.p_swapped == pytest.approx(0.7)
        assert judgement.evidence.label_mass == pytest.approx(0.5)
    figures = source.annotation_figures()
    assert (figures["judged"], figures["swap_consistency"], figures["requests"]) == (6, 1.0, 13)
    assert figures["first_shown_preferred"] == pytest.approx(0.6)
    assert figures["label_mass"] == pytest.approx(0.5)
    body = server.bodies[-1]
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"], body["temperature"]) == (1, True, 20, 1.0)
    assert "n" not in body
    assert "response_format" not in body


def test_verdicts_in_words(tmp_path: Path) -> None:
    said = {
        "question 0": "B has a mistake. [[A]]",
        "question 1": "equal [[tie]]",
        "question 2": "I cannot decide between [[A]] and [[B]].",
        "question 3": "The better answer is A.",
        "question 4": "[[D]]",
        "question 5": "So [[ a ]], that is [[A]]",
    }

    def reply(prompt: str, number: int) -> dict[str, Any]:
        return completion(next(text for key, text in said.items() if key in prompt))

    with StubServer(after_probe(reply)) as server:
        source = ask(tmp_path, server, answer="text", max_failures=0.5, temperature=0.7, request={"seed": 3})
        found = list(source.annotate(TASKS))
    status = [j.status for j in found]
    assert status == ["ok", "ok", "parse_error", "parse_error", "parse_error", "ok"]
    assert [j.payload.p_a if j.payload else None for j in found] == [0.5, 0.5, None, None, None, 0.5]
    assert (found[0].evidence.p_given, found[0].evidence.p_swapped) == (1.0, 0.0)  # always A: what stands first
    assert found[0].evidence.label_mass is None
    assert "The better answer is A." in found[3].evidence.text
    assert source.annotation_figures()["failed"] == {"parse_error": 3}
    assert server.bodies[-1]["seed"] == 3
    assert server.bodies[-1]["temperature"] == 0.7
    assert "[[A]]" in server.bodies[-1]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("text", "finish", "labels", "expected"),
    [
        ("Thus **[[B]]**.\n", "stop", "AB", (0.0, 1.0)),
        ("__[[A]]__ `", "stop", "AB", (1.0, 0.0)),
        ("[[A]]", "length", "AB", None),
        ("First I thought [[A]], but the second is better", "stop", "AB", None),
        ("I answer [[A]] or", "stop", "AB", None),
        ("[[C]]", "stop", "AB", (0.5, 0.5)),
        ("[[c]]", "stop", ("b", "a"), (0.5, 0.5)),
        ("[[C]]", "stop", ("first", "second"), None),
        ("[[Tie]]", "stop", ("first", "second"), (0.5, 0.5)),
        ("[[C]]", "stop", "CA", (1.0, 0.0)),
    ],
)
def test_a_verdict_is_the_last_word(
    text: str, finish: str, labels: Sequence[str], expected: tuple[float, float] | None
) -> None:
    answer = read_text(SimpleNamespace(content=text), finish, labels, ties=True)
    assert (answer.status, answer.shares) == (("ok", expected) if expected else ("parse_error", ()))
    assert answer.text == text


def test_failures_are_statuses_and_never_a_preference(tmp_path: Path) -> None:
    answers = {
        "question 0": completion(None, refusal="I will not"),
        "question 1": completion("", finish="content_filter"),
        "question 2": "<html>garbage</html>",
        "question 3": {"error": {"message": "upstream is gone"}},
        "question 4": completion(top=[("The", -0.1), ("Sure", -3.0)]),
        "question 5": (500, {"error": {"message": "boom"}}),
    }

    def reply(prompt: str, number: int) -> Any:
        return next(answer for key, answer in answers.items() if key in prompt)

    with StubServer(after_probe(reply)) as server:
        source = ask(tmp_path, server, max_failures=1.0)
        found = list(source.annotate(TASKS))
        assert [j.status for j in found] == [
            "refusal",
            "refusal",
            "api_error",
            "api_error",
            "parse_error",
            "api_error",
        ]
        assert all(j.payload is None for j in found)
        assert "I will not" in found[0].evidence.text
        assert "boom" in found[5].evidence.text
        assert source.annotation_figures()["failed"] == {"api_error": 3, "parse_error": 1, "refusal": 2}
        before = len(server.prompts)
        again = ask(tmp_path, server, max_failures=1.0)
        list(again.annotate(TASKS))
        assert len(server.prompts) == before + 6  # errors of the server are asked again, answers are not


@pytest.mark.parametrize("failing", ["good", "bad"])
def test_an_order_that_failed_fails_the_pair(tmp_path: Path, failing: str) -> None:
    good = prefers_good()

    def reply(prompt: str, number: int) -> dict[str, Any]:
        last = "good" if prompt.rfind("good") > prompt.rfind("bad") else "bad"
        return completion(None, refusal="no") if last == failing else good(prompt, number)

    with StubServer(after_probe(reply)) as server:
        (judgement,) = ask(tmp_path, server, max_failures=1.0).annotate(TASKS[:1])
    assert (judgement.status, judgement.payload) == ("refusal", None)
    assert judgement.evidence.p_given is None


def test_too_many_failures_stop_the_run(tmp_path: Path) -> None:
    tasks = [make_task(f"question {n}", "good", "bad") for n in range(50)]
    with StubServer(after_probe(lambda prompt, number: completion(top=[("The", -0.1)]))) as server:
        with pytest.raises(Fault, match=r"judge fails too often: 11 of 100 answers \(parse_error 11\)"):
            list(ask(tmp_path, server, max_failures=0.1, concurrency=1).annotate(tasks))
        assert len(server.prompts) == 11  # it does not go on once the rest cannot mend it


def test_429_and_500_are_tried_again_and_retry_after_is_respected(tmp_path: Path) -> None:
    good = prefers_good()
    seen: dict[str, int] = {}

    def reply(prompt: str, number: int) -> Any:
        seen[prompt] = seen.get(prompt, 0) + 1
        if seen[prompt] == 1 and "question 0" in prompt:
            return 429, {"error": {"message": "slow down"}}, {"retry-after": "1.5"}
        if seen[prompt] == 1 and "question 1" in prompt:
            return 503, {"error": {"message": "starting"}}, {"retry-after-ms": "10"}
        return good(prompt, number)

    with StubServer(reply) as server:
        source = ask(tmp_path, server, retries=2, concurrency=1)
        found = list(source.annotate(TASKS[:2]))
    assert [j.status for j in found] == ["ok", "ok"]
    prompts = [body["messages"][0]["content"] for body in server.bodies]
    first, second = (i for i, text in enumerate(prompts) if text == prompts[1])
    assert server.times[second] - server.times[first] >= 1.5
    assert source.annotation_figures()["requests"] == len(server.bodies) == 9


def test_other_refusals_stop_at_once_with_the_servers_words(tmp_path: Path) -> None:
    def reply(prompt: str, number: int) -> Any:
        return 400, {"error": {"message": "temperature must be even", "code": "odd"}}

    with StubServer(after_probe(reply)) as server:
        with pytest.raises(UserError, match=r"HTTP 400.*temperature must be even"):
            list(ask(tmp_path, server, retries=5, concurrency=1).annotate(TASKS))
        assert len(server.prompts) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "This model's maximum context length is 10 tokens"}},
        {"error": {"message": "too long", "code": "context_length_exceeded"}},
        {"error": {"code": 400, "message": "request (9 tokens) exceeds", "type": "exceed_context_size_error"}},
        {"error": {"code": 400, "message": "the request exceeds the available context size. try increasing it"}},
        {
            "object": "error",
            "message": "x" * 600 + "The decoder prompt (length 9) is longer than the maximum model length of 8.",
            "type": "BadRequestError",
            "code": 400,
        },
    ],
)
def test_a_question_that_is_too_long_for_the_server_is_skipped(tmp_path: Path, body: dict[str, Any]) -> None:
    good = prefers_good()

    def reply(prompt: str, number: int) -> Any:
        if "question 3" in prompt:
            return 400, body
        return good(prompt, number)

    with StubServer(reply) as server:
        found = list(ask(tmp_path, server).annotate(TASKS))
    assert [j.status for j in found] == ["ok", "ok", "ok", "skipped", "ok", "ok"]


@pytest.mark.parametrize("answer", [completion("A"), completion("A", top=None) | {"choices": []}])
def test_the_probe_refuses_a_server_without_logprobs(tmp_path: Path, answer: dict[str, Any]) -> None:
    with StubServer(lambda prompt, number: answer) as server:
        with pytest.raises(UserError) as caught:
            list(ask(tmp_path, server).annotate(TASKS))
        assert server.url in str(caught.value)
        if answer["choices"]:
            assert "answer: text" in str(caught.value)
            assert "judge: local" in str(caught.value)
        assert len(server.bodies) == 1


def test_wrong_key_name_or_address_is_found_by_the_probe(tmp_path: Path) -> None:
    with (
        StubServer(lambda prompt, number: (401, {"error": {"message": "Incorrect API key"}})) as server,
        pytest.raises(UserError, match="Incorrect API key"),
    ):
        list(ask(tmp_path, server).annotate(TASKS))
    with pytest.raises(UserError, match="cannot reach the judge's server"):
        list(ask(tmp_path, server).annotate(TASKS))


def test_the_concurrency_bound_holds_and_is_used(tmp_path: Path) -> None:
    with StubServer(prefers_good(), delay=0.05, together=3) as server:
        list(ask(tmp_path, server, concurrency=3).annotate(TASKS))
    assert server.most_at_once == 3


def test_requests_are_spread_over_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, naps = 100.0, []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    monkeypatch.setattr(pacing.time, "monotonic", lambda: now)
    monkeypatch.setattr(pacing.asyncio, "sleep", nap)

    async def some(pace: pacing.Pace) -> None:
        await asyncio.gather(*(pace.wait() for _ in range(4)))

    pace = pacing.Pace(600)
    asyncio.run(some(pace))
    assert naps == pytest.approx([0.1, 0.2, 0.3])
    now += 10.0  # what was not used is not saved up
    asyncio.run(some(pace))
    assert naps[3:] == pytest.approx([0.1, 0.2, 0.3])
    asyncio.run(some(pacing.Pace(None)))
    assert len(naps) == 6


def test_requests_per_minute(tmp_path: Path) -> None:
    with StubServer(prefers_good()) as server:
        start = time.monotonic()
        list(ask(tmp_path, server, requests_per_minute=600).annotate(TASKS[:4]))
    assert len(server.times) == 9
    assert time.monotonic() - start >= 0.75  # 8 gaps of 0.1 s


def test_the_pace_is_kept_from_one_call_to_the_next(tmp_path: Path) -> None:
    with StubServer(prefers_good()) as server:
        source = ask(tmp_path, server, requests_per_minute=200)
        start = time.monotonic()
        for task in TASKS[:3]:
            list(source.annotate([task]))
    assert len(server.times) == 7
    assert time.monotonic() - start >= 1.7  # 6 gaps of 0.3 s


def test_a_timeout_is_an_api_error(tmp_path: Path) -> None:
    with (
        StubServer(prefers_good(), delay=2.0) as server,
        pytest.raises(UserError, match=r"cannot reach|does not answer"),
    ):
        list(ask(tmp_path, server, timeout=0.2).annotate(TASKS))


@pytest.mark.parametrize(
    ("limit", "most"), [({"requests": 8}, 8), ({"tokens": 880}, 8), ({"cost": 0.0009}, 8), ({"cost": 0.00001}, 1)]
)
def test_the_budget_stops_and_the_next_run_pays_for_nothing_twice(
    tmp_path: Path, limit: dict[str, float], most: int
) -> None:
    prices = {"input": 1.0, "output": 1.0}
    with StubServer(prefers_good()) as server:
        options = {"budget": limit, "prices": prices, "concurrency": 4}
        with pytest.raises(Paused, match=f"budget.{next(iter(limit))} of the judge is used up") as caught:
            list(ask(tmp_path, server, **options).annotate(TASKS))
        assert "raise budget." in str(caught.value)
        paid = len(server.bodies)
        assert paid <= most
        assert paid >= most - 1
        with pytest.raises(Paused):  # the same command with the same budget buys nothing more
            list(ask(tmp_path, server, **options).annotate(TASKS))
        assert len(server.bodies) == paid
        source = ask(tmp_path, server, budget={}, prices=prices)
        found = list(source.annotate(TASKS))
        assert [j.status for j in found] == ["ok"] * 6
        assert sorted(server.prompts) == sorted(set(server.prompts))
        assert len(server.prompts) == 12
    figures = source.annotation_figures()
    assert figures["cost"] == pytest.approx(figures["requests"] * 110 / 1e6)


def test_repeated_requests_count_for_the_budget(tmp_path: Path) -> None:
    def reply(prompt: str, number: int) -> Any:
        return 500, {"error": {"message": "boom"}}, {"retry-after-ms": "1"}

    options = {"retries": 50, "budget": {"requests": 9}, "max_failures": 1.0}
    with StubServer(after_probe(reply)) as server:
        with pytest.raises(Paused, match=r"budget\.requests"):
            list(ask(tmp_path, server, **options).annotate(TASKS))
        assert len(server.bodies) == 9


@pytest.mark.parametrize(("limit", "price"), [({"tokens": 3000}, 1.0), ({"cost": 0.003}, 1.0), ({"cost": 3.0}, 1000.0)])
def test_answers_under_way_stay_within_the_budget(tmp_path: Path, limit: dict[str, float], price: float) -> None:
    reply = after_probe(lambda prompt, number: completion("[[A]]", usage=(100, 300)), completion(usage=(10, 1)))
    options = {"answer": "text", "answer_tokens": 300, "budget": limit, "prices": {"input": price, "output": price}}
    with StubServer(reply, delay=0.05) as server:
        with pytest.raises(Paused) as caught:
            list(ask(tmp_path, server, concurrency=8, **options).annotate(TASKS))
        paid = 11 + 400 * len(server.prompts)
    # Another question fits beside 2600 tokens and not beside 3000: what is left is used, one after the other.
    assert 2600 < paid <= 3000
    assert f"{len(server.bodies)} requests, {paid} tokens" in str(caught.value)


def test_a_pause_tells_what_was_spent_in_the_end(tmp_path: Path) -> None:
    options = {"budget": {"requests": 5}, "concurrency": 6}
    with StubServer(prefers_good(), delay=0.1) as server, pytest.raises(Paused, match="5 requests, 550 tokens"):
        list(ask(tmp_path, server, **options).annotate(TASKS))


def test_a_client_that_takes_the_budgets_end_for_a_lost_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = AsyncCompletions.create

    async def older(self: Any, **fields: Any) -> Any:
        try:
            return await create(self, **fields)
        except BudgetUsedUp as error:
            raise openai.APIConnectionError(request=cast("Any", None)) from error

    monkeypatch.setattr(AsyncCompletions, "create", older)
    with StubServer(prefers_good()) as server:
        with pytest.raises(Paused, match=r"budget\.requests of the judge is used up: 5 requests, 550 tokens"):
            list(ask(tmp_path, server, budget={"requests": 5}, max_failures=0.0).annotate(TASKS))
        assert len(server.bodies) == 5


def test_an_account_without_money_stops_at_once(tmp_path: Path) -> None:
    def reply(prompt: str, number: int) -> Any:
        if number < 4:
            return prefers_good()(prompt, number)
        kind = "insufficient_quota"
        return 429, {"error": {"message": "You exceeded your current quota", "type": kind, "code": kind}}

    with StubServer(reply) as server:
        with pytest.raises(Paused, match=r"no quota left: HTTP 429.*You exceeded your current quota"):
            list(ask(tmp_path, server, retries=5, concurrency=1).annotate(TASKS))
        assert len(server.bodies) == 4
        prompts = len(server.prompts)
        server.reply = prefers_good()
        list(ask(tmp_path, server).annotate(TASKS))
        assert len(server.prompts) == prompts + 10  # two are in the cache


def test_a_server_that_tells_no_usage_cannot_have_a_token_budget(tmp_path: Path) -> None:
    with StubServer(lambda prompt, number: completion(top=[("A", -0.1)], usage=None)) as server:
        with pytest.raises(UserError, match=r"budget\.requests"):
            list(ask(tmp_path, server, budget={"tokens": 1000}).annotate(TASKS))
        assert len(list(ask(tmp_path, server).annotate(TASKS))) == 6


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    good = prefers_good()

    def dies(prompt: str, number: int) -> Any:
        return good(prompt, number) if number <= 5 else (400, {"error": {"message": "gone"}})

    with StubServer(dies) as server, pytest.raises(UserError, match="gone"):
        list(ask(tmp_path, server, concurrency=1).annotate(TASKS))
    with StubServer(good) as other:
        # Another port is another server, and its answers are its own.
        list(ask(tmp_path, other, concurrency=1).annotate(TASKS))
        assert len(other.prompts) == 12
    with sqlite3.connect(tmp_path / "judge_cache.sqlite") as database:
        counts = dict(database.execute("SELECT judge, count(*) FROM answers GROUP BY judge"))
    assert counts == {f"m at {server.url}": 4, f"m at {other.url}": 12}


def test_what_decides_an_answer_is_in_the_key(tmp_path: Path) -> None:
    with StubServer(lambda prompt, number: completion("[[A]]", top=[("A", -0.1)])) as server:
        base = {"answer": "text", "max_failures": 1.0}
        for changed in (
            {},
            {"temperature": 0.5},
            {"answer_tokens": 9},
            {"request": {"seed": 1}},
            {"labels": ["B", "A"]},
        ):
            before = len(server.prompts)
            list(ask(tmp_path, server, **base, **changed).annotate(TASKS[:1]))
            assert len(server.prompts) == before + 2, changed
        for same in ({"concurrency": 1}, {"timeout": 7.0}, {"retries": 3}, {"annotator": "other"}):
            before = len(server.bodies)
            list(ask(tmp_path, server, **base, **same).annotate(TASKS[:1]))
            assert len(server.bodies) == before, same


def test_the_key_is_sent_and_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    good = prefers_good()

    def reply(prompt: str, number: int) -> Any:
        quoted = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
        return (500, quoted) if "question 0" in prompt else good(prompt, number)

    with caplog.at_level(logging.DEBUG), StubServer(reply) as server:
        source = ask(tmp_path, server, api_key_env="JUDGE_KEY", max_failures=1.0)
        found = list(source.annotate(TASKS))
        assert found[0].status == "api_error"
        assert "[key]" in found[0].evidence.text
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    said = [caplog.text, repr(source.annotation_figures()), *(j.model_dump_json() for j in found)]
    files = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [text for text in (*said, *files) if KEY in text]
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    with StubServer(good) as other:
        list(ask(tmp_path, other).annotate(TASKS))
    assert not any(KEY in header for headers in other.headers for header in headers.values())
    assert not any(name.startswith("openai-") for headers in other.headers for name in headers)
    monkeypatch.setenv("JUDGE_KEY", "")
    with pytest.raises(UserError, match="JUDGE_KEY is empty"):
        ask(tmp_path, other, api_key_env="JUDGE_KEY")


def test_ratings_from_logprobs(tmp_path: Path) -> None:
    top = [("7", math.log(0.5)), ("9", math.log(0.25)), ("x", math.log(0.2))]
    with StubServer(lambda prompt, number: completion(top=top)) as server:
        source = ask(tmp_path, server, form="rating", scale=[1, 9])
        found = list(source.annotate(TASKS[:1]))
    assert [type(j.payload) for j in found] == [Rating, Rating]
    assert found[0].payload.value == pytest.approx((7 * 0.5 + 9 * 0.25) / 0.75)
    assert found[0].evidence.label_mass == pytest.approx(0.75)


def test_strong_position_bias_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = [make_task(f"question {n}", "good", "bad") for n in range(20)]
    with caplog.at_level(logging.WARNING, "alignkit"):
        with StubServer(lambda prompt, number: completion(top=[("A", -0.1), ("B", -3.0)])) as server:
            list(ask(tmp_path, server).annotate(tasks))
        assert "strong position bias" in caplog.text
        assert "same answer in both orders in only 0 %" in caplog.text
        caplog.clear()
        with StubServer(prefers_good()) as server:
            list(ask(tmp_path, server).annotate(tasks))
        assert caplog.text == ""


def test_slow_servers_are_asked_side_by_side(tmp_path: Path) -> None:
    with StubServer(prefers_good(), together=12) as server:
        list(ask(tmp_path, server, concurrency=12, timeout=100.0).annotate(TASKS))
    assert server.most_at_once == 12
