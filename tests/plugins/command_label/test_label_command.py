"""The command: where it listens, what it prints, what it refuses."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from alignkit.annotation import AnnotationStore
from alignkit.errors import UserError
from alignkit_plugins.command_label.command import command
from alignkit_plugins.command_label.server import Address, is_loopback
from helpers.label_pages import Page, label_task

pytestmark = pytest.mark.concurrent


class TestWhereItListens:
    def test_loopback_unless_asked(self) -> None:
        address = Address.chosen(None, 8765, False, ())
        assert (address.host, address.names.addresses) == ("127.0.0.1", False)
        assert address.names.holds("localhost:8765")
        assert not address.names.holds("10.0.0.7:8765")

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "box.local"])
    def test_a_network_needs_the_flag(self, host: str) -> None:
        with pytest.raises(UserError, match="other machines") as raised:
            Address.chosen(host, 8765, False, ())
        assert "--lan" in str(raised.value)
        address = Address.chosen(host, 8765, True, ("label.example",))
        assert address.names.holds("10.0.0.7:8765")
        assert address.names.holds("Label.Example")
        assert not address.names.holds("attacker.example")

    def test_the_flag_alone_means_every_address(self) -> None:
        assert Address.chosen(None, 1, True, ()).host == "0.0.0.0"

    @pytest.mark.parametrize(
        ("host", "loopback"),
        [
            ("127.0.0.1", True),
            ("127.9.9.9", True),
            ("::1", True),
            ("[::1]", True),
            ("localhost", True),
            ("0.0.0.0", False),
        ],
    )
    def test_what_only_this_machine_reaches(self, host: str, loopback: bool) -> None:
        assert is_loopback(host) == loopback


@pytest.mark.parametrize("name", ["run", "none.sqlite"])
def test_without_questions_it_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    result = CliRunner().invoke(command, [str(tmp_path / name)])
    assert isinstance(result.exception, UserError)
    assert "reward_source=human" in str(result.exception)


@contextmanager
def serving(place: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The command in a process of its own, and the links it printed by name."""
    line = [sys.executable, "-u", "-m", "alignkit.cli", "label", str(place), "--port", "0", *options]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    links: dict[str, str] = {}
    try:
        assert process.stdout is not None
        for printed in process.stdout:
            if found := re.match(r"  (\S+) +(http://\S+)", printed):
                links[found[1]] = found[2]
            if "Ctrl+C" in printed:
                break
        yield process, links
    finally:
        process.kill()
        process.wait()


def page_of(link: str, **more: Any) -> tuple[httpx.Client, Page]:
    client = httpx.Client(base_url=link.split("/invite")[0], follow_redirects=True, timeout=300, **more)
    deadline = time.monotonic() + 300
    while True:
        try:
            return client, Page(client.get(link).raise_for_status().text)
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_server_has_what_it_acknowledged_and_the_links_hold(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "annotations.sqlite")
    store.publish("r1-labels", "binary", [label_task(f"t{n}", ["text"]) for n in range(40)])
    store.close()
    acknowledged, links = [], {}
    for restart in range(2):
        with serving(tmp_path, "--annotators", "anna,ben") as (_, printed):
            assert set(printed) == {"admin", "anna", "ben"}
            paths = {name: link.partition("127.0.0.1:")[2].partition("/")[2] for name, link in printed.items()}
            assert restart == 0 or paths == links
            links = paths
            client, page = page_of(printed["anna"])
            for _ in range(10):
                fields = {**page.forms["/task"], "verdict": "good"}
                page = Page(client.post("/task", data=fields).raise_for_status().text)
                acknowledged.append(fields["judgement_id"])
    kept = [judgement.id for judgement in AnnotationStore(tmp_path / "annotations.sqlite").judgements()]
    assert kept == acknowledged
    assert len(kept) == 20


@pytest.mark.slow
def test_without_names_there_is_one_link_and_a_taken_port_is_said(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    store = AnnotationStore(path)
    store.publish("one", "binary", [label_task("t", ["text"])])
    with serving(path) as (process, links):
        assert set(links) == {"admin", "annotator-1"}
        port = links["admin"].split(":")[2].split("/")[0]
        result = CliRunner().invoke(command, [str(path), "--port", port])
        assert isinstance(result.exception, UserError)
        assert f"port {port}" in str(result.exception)
        assert "--port" in str(result.exception)
        page_of(links["annotator-1"])
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 0
