"""What a sampler's server answers is a stranger's: it fills no memory, and the key does not come back into records."""

from typing import Any

import pytest

from alignkit import Fault, UserError
from alignkit.loop.rollouts import checked_rollout
from alignkit.manager import PluginManager
from alignkit.records import Sampling
from alignkit.servers import bounded
from alignkit_plugins.sampler_openai.config import OpenAISamplerConfig
from alignkit_plugins.sampler_openai.plugin import check
from helpers.completing import CompletionServer, asked, repeated, server_sampler, wrote

pytestmark = pytest.mark.concurrent

KEY = "vErYsEcReTkEy0123456789"


def draw(sampler: Any, *prompts: str) -> Any:
    """One completion of each."""
    return checked_rollout(sampler, None, repeated(*prompts), Sampling(), 1)


def test_an_answer_without_end_is_no_completion() -> None:
    endless = lambda body, number: wrote(body, "x" * (bounded.MOST_BYTES + 1))  # noqa: E731
    with CompletionServer(endless) as server, pytest.raises(Fault, match=f"longer than {bounded.MOST_BYTES:,} bytes"):
        draw(server_sampler(server), "a")


def test_what_a_server_says_is_kept_short() -> None:
    talks = lambda body, number: (500, {"error": {"message": "x" * 100_000}})  # noqa: E731
    with CompletionServer(talks) as server, pytest.raises(Fault) as caught:
        draw(server_sampler(server), "a")
    assert len(str(caught.value)) < 2000


def test_a_server_that_gives_the_key_back_puts_it_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLER_ACCESS", KEY)
    answers = {
        "text": lambda body: wrote(body, f"it is {KEY}"),
        "error": lambda body: (500, {"error": {"message": KEY}}),
    }
    answers["name"] = lambda body: wrote(body, "x", model=KEY)
    with CompletionServer(lambda body, number: answers[asked(body)](body)) as server:
        sampler = server_sampler(server, api_key_env="SAMPLER_ACCESS")
        assert draw(sampler, "text").texts == ("it is [key]",)
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        for prompt in ("error", "name"):
            with pytest.raises(Fault) as caught:
                draw(sampler, prompt)
            assert KEY not in str(caught.value)
    with CompletionServer(lambda body, number: {}, models=[{"id": "m", "root": KEY}]) as server:
        assert KEY not in server_sampler(server, api_key_env="SAMPLER_ACCESS").drawn_from()


def test_a_key_of_the_environment_goes_to_no_server_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with CompletionServer(lambda body, number: wrote(body, "x")) as server:
        draw(server_sampler(server), "a")
    assert KEY not in repr(server.headers)


def test_the_key_does_not_follow_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLER_ACCESS", KEY)
    with CompletionServer(lambda body, number: wrote(body, "x")) as other:
        elsewhere = {"location": f"{other.url}/completions"}
        with CompletionServer(lambda body, number: (307, {}, elsewhere)) as server:
            draw(server_sampler(server, api_key_env="SAMPLER_ACCESS"), "a")
    assert other.headers, "the client follows"
    assert KEY not in repr(other.headers)


@pytest.mark.parametrize("key", ["a1b2c3d4e5f60718293a4b5c", "sk-proj-0123456789abcdefghij"])
def test_a_key_given_as_the_name_of_its_variable_is_not_shown(key: str) -> None:
    config = OpenAISamplerConfig(base_url="http://localhost/v1", api_key_env=key)
    with pytest.raises(UserError, match="api_key_env is the variable's name") as caught:
        check(config, PluginManager())
    assert key not in str(caught.value)


@pytest.mark.parametrize("address", ["http://me:pw@host/v1", "http://host/v1?key=1", "file:///etc/passwd"])
def test_an_address_is_an_address_alone(address: str) -> None:
    with pytest.raises(ValueError, match="an address"):
        OpenAISamplerConfig(base_url=address)
