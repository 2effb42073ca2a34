"""What a judge's server answers is a stranger's: it fills no memory, and the key does not come back into records."""

import gzip
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from alignkit import UserError
from alignkit.servers import bounded
from alignkit.servers.access import api_key
from alignkit_plugins.reward_ai.build import check_config
from alignkit_plugins.reward_ai.config import AIConfig
from helpers.judging import StubServer, build_ai, completion, make_task

pytestmark = pytest.mark.concurrent

TASKS = [make_task("question", "good", "bad")]
KEY = "vErYsEcReTkEy0123456789"


def source_at(folder: Path, server: StubServer, **options: Any) -> Any:
    fixed = {"judge": "openai", "model": "m", "base_url": server.url, "answer": "text", "retries": 0}
    return build_ai(folder, **fixed, **options)


def huge_after_probe(answer: Any) -> Any:
    return lambda prompt, number: completion(content="[[A]]") if prompt.startswith("Reply") else answer


def test_an_answer_without_end_is_a_failed_answer(tmp_path: Path) -> None:
    with StubServer(huge_after_probe("x" * (bounded.MOST_BYTES + 1))) as server:
        (judgement,) = source_at(tmp_path, server, max_failures=1.0).annotate(TASKS)
    assert judgement.status == "api_error"
    assert f"longer than {bounded.MOST_BYTES:,} bytes" in judgement.evidence.text


def test_a_packed_answer_counts_by_its_packed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MOST_PACKED_BYTES", 1000)
    bomb = gzip.compress(b"x" * 10_000_000)
    assert len(bomb) < 20_000

    class Packed(StubServer):
        async def _complete(self, request: Any) -> Any:
            from starlette.responses import Response

            answer = await super()._complete(request)
            if b"[[A]]" in bytes(answer.body):
                return answer
            return Response(bomb, headers={"content-encoding": "gzip"})

    with Packed(huge_after_probe("anything")) as server:
        (judgement,) = source_at(tmp_path, server, max_failures=1.0).annotate(TASKS)
    assert judgement.status == "api_error"
    assert "longer than 1,000 bytes" in judgement.evidence.text


def test_a_long_answer_is_read(tmp_path: Path) -> None:
    reply = completion(content="because " * 100_000 + "[[A]]")
    with StubServer(lambda prompt, number: reply) as server:
        (judgement,) = source_at(tmp_path, server).annotate(TASKS)
    assert judgement.status == "ok"


def test_a_server_that_gives_the_key_back_puts_it_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_ACCESS", KEY)
    reply = completion(content=f"The key is {KEY}. [[A]]")
    with StubServer(lambda prompt, number: reply) as server:
        (judgement,) = source_at(tmp_path, server, api_key_env="JUDGE_ACCESS").annotate(TASKS)
        assert server.headers[-1]["authorization"] == f"Bearer {KEY}"
    assert judgement.status == "ok"
    assert KEY not in judgement.model_dump_json()
    with sqlite3.connect(tmp_path / "judge_cache.sqlite") as cache:
        rows = cache.execute("SELECT text FROM answers").fetchall()
    assert rows
    assert KEY not in repr(rows)


def test_the_key_does_not_follow_to_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_ACCESS", KEY)
    good = completion(content="[[A]]")
    with StubServer(lambda prompt, number: good) as other:
        elsewhere = {"location": f"{other.url}/chat/completions"}
        with StubServer(lambda prompt, number: (307, {}, elsewhere)) as server:
            list(source_at(tmp_path, server, api_key_env="JUDGE_ACCESS").annotate(TASKS))
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert other.headers, "the client follows"
    assert all(KEY not in repr(headers) for headers in other.headers)


@pytest.mark.parametrize("key", ["a1b2c3d4e5f60718293a4b5c", "sk-proj-0123456789abcdefghij", "AbCdEf_123"])
def test_a_key_given_as_the_name_of_its_variable_is_not_shown(key: str) -> None:
    config = AIConfig(judge="openai", model="m", base_url="http://localhost/v1", api_key_env=key)
    with pytest.raises(UserError, match="api_key_env is the variable's name") as caught:
        check_config(config)
    assert key not in str(caught.value)


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(UserError, match="variable NO_SUCH_KEY is empty"):
        api_key("NO_SUCH_KEY")


def test_a_recipe_cannot_have_the_cache_made_under_any_name() -> None:
    with pytest.raises(ValueError, match="pattern"):
        AIConfig(judge="local", model="m", cache="~/.bash_aliases")
