"""People on the network who reach the labelling page, and the file behind it."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alignkit import UserError
from alignkit.annotation import AnnotationStore
from alignkit_plugins.command_label.access import Keys
from alignkit_plugins.command_label.app import make_app
from alignkit_plugins.command_label.guard import BODY_BYTES, Names
from alignkit_plugins.command_label.server import Address
from helpers.label_pages import label_task

pytestmark = pytest.mark.concurrent

HOME = "http://127.0.0.1:8765"
PRIVATE = ("/task", "/history", "/guidelines", "/admin")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnnotationStore]:
    before = os.umask(0o022)
    opened = AnnotationStore(tmp_path / "annotations.sqlite")
    os.umask(before)
    opened.publish("c", "pairwise", [label_task("t", ["a", "b"])])
    yield opened
    opened.close()


@pytest.fixture
def client(store: AnnotationStore) -> TestClient:
    return TestClient(make_app(store), base_url=HOME)


def test_nobody_else_reads_what_links_are_signed_with(store: AnnotationStore, tmp_path: Path) -> None:
    secret = store.annotators.secret()
    files = list(tmp_path.iterdir())
    assert {f.name for f in files} >= {"annotations.sqlite", "annotations.sqlite-wal"}
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    assert any(secret.encode() in f.read_bytes() for f in files)


def test_the_mode_that_an_owner_has_set_stays(tmp_path: Path) -> None:
    AnnotationStore(tmp_path / "s.sqlite").close()
    (tmp_path / "s.sqlite").chmod(0o660)
    AnnotationStore(tmp_path / "s.sqlite").close()
    assert stat.S_IMODE((tmp_path / "s.sqlite").stat().st_mode) == 0o660


@pytest.mark.parametrize("path", PRIVATE)
def test_nothing_without_an_invite(path: str, client: TestClient) -> None:
    assert client.get(path).status_code == 403


@pytest.mark.parametrize("token", ["x", "ImEi.x", "..", "%2e%2e", "a" * 5_000, "\u202e", "null"])
def test_made_up_tokens_open_nothing(token: str, client: TestClient, store: AnnotationStore) -> None:
    other = Keys("another secret").admin_token()
    for made_up in (token, other):
        assert client.get(f"/invite/{made_up}").status_code in (403, 404)
        assert client.get(f"/admin/{made_up}").status_code in (403, 404)
    client.cookies.set(Keys(store.annotators.secret())._cookie("admin"), other)
    assert client.get("/admin").status_code == 403


def test_an_annotators_link_opens_no_admin_page_nor_the_reverse(client: TestClient, store: AnnotationStore) -> None:
    keys, person = Keys(store.annotators.secret()), store.annotators.add("anna")
    assert client.get(f"/admin/{keys.invite_token(person.invite)}").status_code == 403
    assert client.get(f"/invite/{keys.admin_token()}").status_code == 403
    client.get(f"/invite/{keys.invite_token(person.invite)}")
    assert client.get("/admin").status_code == 403
    answer = client.post("/admin/annotators", data={"names": "evil", "csrf": keys.csrf(f"annotator {person.id}")})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/",
    ],
)
def test_files_are_served_from_one_folder(path: str, client: TestClient) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("id", ["../t", "t/../t", "'; DROP TABLE tasks; --", "%00", "x" * 10_000, "\u202e"])
def test_ids_are_looked_up_and_nothing_else(id: str, client: TestClient, store: AnnotationStore) -> None:
    keys, person = Keys(store.annotators.secret()), store.annotators.add("anna")
    client.get(f"/invite/{keys.invite_token(person.invite)}")
    assert client.get("/task", params={"id": id}).status_code == 404
    csrf = keys.csrf(f"annotator {person.id}")
    assert client.post("/task", data={"task_id": id, "csrf": csrf}).status_code == 404
    assert store.task("t")


def test_foreign_forms_hosts_and_floods_are_refused(client: TestClient, store: AnnotationStore) -> None:
    keys, person = Keys(store.annotators.secret()), store.annotators.add("anna")
    client.get(f"/invite/{keys.invite_token(person.invite)}")
    assert client.post("/task", data={"task_id": "t"}).status_code == 403
    assert client.post("/task", data={}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get("/task", headers={"host": "evil.example"}).status_code == 421
    assert client.post("/task", content=b"x" * (BODY_BYTES + 1)).status_code == 413


@pytest.mark.parametrize("host", ["0.0.0.0", "::", socket.gethostname(), "192.0.2.1", "evil.example"])
def test_the_network_is_let_in_only_if_asked_for(host: str) -> None:
    with pytest.raises(UserError, match="add --lan"):
        Address.chosen(host, 0, False, ())
    assert Address.chosen(None, 0, False, ()).host == "127.0.0.1"


@pytest.mark.parametrize(
    "header", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "[::1", "127.0.0.1@evil"]
)
def test_other_names_that_lead_here_are_refused(header: str) -> None:
    assert not Names(frozenset({"127.0.0.1", "localhost", "[::1]"}), addresses=False).holds(header)


@pytest.mark.parametrize("name", ["", " ", "a\x1b[31m", "a\u202eb", "x" * 61, "a\0b"])
def test_names_of_annotators_are_printable(name: str, store: AnnotationStore) -> None:
    with pytest.raises(UserError, match="printable"):
        store.annotators.add(name)


def test_a_strangers_store_reaches_nothing_outside(tmp_path: Path) -> None:
    """Its triggers and views may call no function that SQLite does not hold for harmless, and load nothing."""
    from alignkit.annotation.tables import open_engine

    engine = open_engine(tmp_path / "x.sqlite")
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        assert driver.execute("PRAGMA trusted_schema").fetchone() == (0,)
        with pytest.raises(Exception, match=r"not authorized|no such function"):
            driver.execute("SELECT load_extension('evil')")
    engine.dispose()
